/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Those who guard files: in their own process, or, as a user without privileges, by a daemon. */
#ifndef VM_GUARD_HOLDER_H
#define VM_GUARD_HOLDER_H

#include "../layout/layout.h"
#include "../region.h"
#include "proto.h"

#define USER 1000    /* without privileges */
#define QUIET_MS 100 /* long enough for a callback that should not come */

/* Told on the command line: the program, and how many files are broken at once. */
extern const char *daemon_program;
extern unsigned int storm_files;

struct daemon {
	pid_t pid;
	char socket[64];
};

/* Ready to serve when it returns; after daemon_kill() in the same place again. */
void daemon_start(struct daemon *d);
void daemon_kill(struct daemon *d);
/* By SIGTERM, and it has to end well. */
void daemon_stop(struct daemon *d);
struct guard_counters daemon_count(const struct daemon *d);

/* A connection to it, without the library. */
int daemon_connect(const struct daemon *d);
/* Waits for the next message; false: it hung up. */
bool daemon_hear(int sock, struct guard_msg *ret_msg);
/* Asks it to guard fd; the error of its answer. */
int daemon_take(int sock, uint32_t id, int fd, unsigned int flags);

/* For good; descriptors stay. The process's own /proc stays its own. */
void become_user(void);

/* A context whose guard is there; NULL: in the process. */
struct daxlease_ctx *ctx_make_at(const struct daemon *d);

/* ------------------------------------------------------------------------- */
/* A holder in a process of its own: a user if its guard is in a daemon, else root */

struct holder {
	pid_t pid;
	struct file file; /* as the case sees it: not open */
	int told, order;  /* pipes */
};

struct holder_how {
	const struct daemon *daemon; /* NULL: in its process */
	unsigned int flags;	     /* DAXLEASE_MR_* */
	bool forks;		     /* a child lives on that knows nothing */
	bool closes_others;	     /* all descriptors that it did not open itself */
};

/* What it tells, in the order in which it comes. */
enum news {
	NEWS_READY,    /* value: 1 if others may have had the file open before */
	NEWS_DRAIN,    /* asked to drain, and waits for ORDER_ANSWER */
	NEWS_RELEASED, /* value: the result */
	NEWS_REGAINED, /* value: the length, or -errno */
	NEWS_WARNINGS, /* value: log lines of that level so far */
	NEWS_ENDED,
};

enum order {
	ORDER_ANSWER,
	ORDER_REGAIN,
	ORDER_TELL_WARNINGS,
	ORDER_END, /* all in good order */
};

/* Makes the file, and guards it. */
void holder_start(struct holder *h, const struct world *w, const char *name,
		  const struct holder_how *how);
void holder_order(const struct holder *h, enum order order);
/* The next that it tells has to be this; its value. */
int holder_expect(const struct holder *h, enum news news);
bool holder_is_quiet(const struct holder *h);
void holder_end(struct holder *h);
void holder_kill(struct holder *h);

/* ------------------------------------------------------------------------- */

/* Waits for it with patience, up to SOON_MS. */
#define EVENTUALLY(cond)                                                    \
	do {                                                                \
		for (uint64_t end_ = now_ns() + SOON_MS * MSEC; !(cond);) { \
			CHECK(now_ns() < end_ && #cond);                    \
			sleep_ms(5);                                        \
		}                                                           \
	} while (0)

/* The answer of a drain callback that is given by daxlease_mr_drained(). */
int answer_later(struct region *r);

void add_op_cases(void);
void add_bystander_cases(void);
void add_load_cases(void);
void add_daemon_cases(void);
void add_attack_cases(void);
void add_inside_cases(void);
void add_missing_cases(void);
void add_without_cases(void);

#endif
