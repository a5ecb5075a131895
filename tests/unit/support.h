/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What all unit tests need: files, other processes, waiting, a context with users. */
#ifndef TEST_SUPPORT_H
#define TEST_SUPPORT_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>

#include <daxlease/daxlease.h>

#define PAGE 4096ul

/* ------------------------------------------------------------------------- */
/* Time and the process itself */

uint64_t now_ns(void);
uint64_t now_ms(void);
void sleep_ms(unsigned int ms);
unsigned int count_fds(void);
unsigned int count_threads(void);

/* ------------------------------------------------------------------------- */
/* Files */

struct file {
	char path[32];
	int fd;
	int prot;
	char *map; /* shared */
	size_t size;
};

/* A new file in the current directory, mapped; dax: it passes for FS-DAX. */
void file_make(struct file *f, size_t pages, bool dax);
/* The same file, read-only from here. */
void file_make_readonly(struct file *f, size_t pages);
void file_end(struct file *f);
/* F_RDLCK, F_WRLCK, F_UNLCK: what F_GETLEASE says. */
int file_lease(const struct file *f);
/* From here on as somebody who does not own the files; pretended unless we are root. */
void not_the_owner(bool yes);

/* ------------------------------------------------------------------------- */
/* Another process that wants the file */

struct breaker {
	pid_t pid;
	int ctl;
	bool answered;
	int err;	  /* of its call: 0 or errno */
	uint64_t done_ns; /* when the call returned */
};

/* open(2) with these flags; it keeps the file open until breaker_end(). */
void breaker_open(struct breaker *b, const struct file *f, int flags);
/* The same for n files one after the other, each kept open. */
void breaker_open_all(struct breaker *b, const struct file *files, unsigned int n, int flags);
void breaker_truncate(struct breaker *b, const struct file *f, size_t size);
/* Has its call returned? */
bool breaker_done(struct breaker *b);
/* Closes its file and ends it; kills it if it hangs. */
void breaker_end(struct breaker *b);

/* ------------------------------------------------------------------------- */
/* A context, the log it writes, and how its events are served */

struct mode {
	enum daxlease_mode mode;
	int signo;
};

extern const struct mode mode_thread, mode_loop, mode_signal, mode_signal_rt;

#define LOG_LINES 64

struct fix {
	struct daxlease_ctx *ctx;
	const struct mode *mode;
	enum daxlease_kind kind;  /* for fix_open() */
	const char *guard_socket; /* likewise */
	unsigned int flags;	  /* likewise */
	bool idle;		  /* the caller does not dispatch */
	atomic_bool served;	  /* another thread does */
	pthread_t server;
	struct file file;
	unsigned int fds, threads;
	atomic_uint nlines;
	char lines[LOG_LINES][256];
	enum daxlease_log_level levels[LOG_LINES];
};

/* For tests that look at each step themselves: all but the context; the context. */
void fix_begin(struct fix *fx, const struct mode *mode);
int fix_open(struct fix *fx);
/* Threads that were joined may be seen for a moment longer. */
bool fix_threads_gone(const struct fix *fx);

/* CMocka's setup and teardown; the prestate is a struct mode (NULL: THREAD). */
int fix_setup(void **state);
int fix_teardown(void **state);

/* A little time passes, in which due events are dispatched. */
void fix_turn(struct fix *fx);
/* From now on another thread does that, until it is stopped; for calls that block. */
void fix_serve(struct fix *fx);
void fix_serve_stop(struct fix *fx);
void fix_stats(struct fix *fx, struct daxlease_stats *stats);
void fix_forget_log(struct fix *fx);
/* Whether a line so far has this in it. */
bool fix_said(struct fix *fx, const char *text);
/* Lines of this level so far. */
unsigned int fix_lines(struct fix *fx, enum daxlease_log_level level);

#define WAIT_MS(fx, ms, cond)                        \
	({                                           \
		uint64_t until_ = now_ms() + (ms);   \
                                                     \
		while (!(cond) && now_ms() < until_) \
			fix_turn(fx);                \
		(cond);                              \
	})

#define EVENTUALLY(fx, cond) assert_true(WAIT_MS(fx, 5000, cond))
/* Stays false for so long. */
#define NOT_FOR_MS(fx, ms, cond) assert_false(WAIT_MS(fx, ms, cond))

/* A test case in one mode, in all of them. */
#define IN_MODE(fn, m)                                                          \
	{                                                                       \
#fn " [" #m "]", fn, fix_setup, fix_teardown, (void *)&mode_##m \
	}
#define IN_THREAD(fn) IN_MODE(fn, thread)
#define IN_ALL_MODES(fn) \
	IN_MODE(fn, thread), IN_MODE(fn, loop), IN_MODE(fn, signal), IN_MODE(fn, signal_rt)

/* ------------------------------------------------------------------------- */
/* The user of a region: its callbacks, and what they saw */

struct user {
	struct daxlease_mr *mr;
	/* What to do; PENDING: answer later. */
	atomic_int drain_answer;
	atomic_bool block_drain; /* the drain callback does not return while set */
	void (*on_drain)(struct user *u);
	void (*on_release)(struct user *u);
	/* What happened */
	atomic_uint drains, releases, regains, regain_errors, guards;
	atomic_bool guarded;
	atomic_bool in_drain;
	atomic_int cause, result, regain_error;
	atomic_uint overlaps; /* callbacks that ran two at once */
	atomic_int running;
	struct daxlease_break brk;
	struct daxlease_regain regain;
	atomic_int seen; /* for on_* */
};

#define ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)

/* Options with all callbacks of u. */
struct daxlease_mr_opts user_opts(struct user *u, unsigned int flags, uint32_t budget_ms);
/* Registers pages [from, from + n) of f for u; 0 or what daxlease_reg_mr() said. */
int user_try(struct fix *fx, struct user *u, struct file *f, size_t from, size_t n,
	     const struct daxlease_mr_opts *opts);
/* The same of the whole fx->file, which has to work. */
void user_reg(struct fix *fx, struct user *u, unsigned int flags, uint32_t budget_ms);
/* Has to work as well. */
void user_dereg(struct user *u);
enum daxlease_state user_state(const struct user *u);

/* The usual pair: a writer comes, the region is drained, the writer gets through. */
void break_and_release(struct fix *fx, struct user *u, struct breaker *b);

#endif
