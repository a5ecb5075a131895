/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Who guards which file, and who waits for them: the rules of the guard. No threads, no
 * system calls, no clock; the server has a lock around all of it.
 *
 *     IDLE --- take ---> HELD --- a call that changes ---> BREAKING
 *      ^                  |                                   |
 *      +--- give back ----+------- give back, or too late ----+
 *
 * A call waits as long as a hold on its file is BREAKING.
 */
#ifndef GUARD_BOOK_H
#define GUARD_BOOK_H

#include <sys/queue.h>

#include "call.h"
#include "proto.h"

#define BOOK_NEVER UINT64_MAX

/* What the book wants done; called in the middle of its own work. */
struct book_ops {
	/* Let the call of this event go on (0), or fail; then the event's fd is done with. */
	void (*answer)(void *arg, int event_fd, int err);
	/* BREAK (with a deadline, 0 = none) or LOST. */
	void (*tell)(void *arg, void *client, enum guard_type type, uint32_t id,
		     uint64_t deadline_ns);
	/* Calls on the file of fd are to be told to book_call(), or not any more; 0 or -errno. */
	int (*watch)(void *arg, int fd, bool watch);
	/* The descriptor of a hold is not needed any more. */
	void (*close)(void *arg, int fd);
	/* Nanoseconds, 0 = no deadline; asked at each break. */
	uint64_t (*break_time)(void *arg);
	/*
	 * Whether a client may have said something that the book was not told yet; NULL: never.
	 * What it gave back a moment ago must not refuse its own next call.
	 */
	bool (*has_more)(void *arg, void *client);
	/* Whether a call that was let through has returned. */
	enum call_state (*call_state)(void *arg, const struct call *call);
	void *arg;
};

/* A client, as the book sees it; the server makes and frees it. */
struct book_client {
	void *arg; /* of tell() */
	uid_t uid;
	bool privileged; /* may guard what others own */
	unsigned int holds;
	LIST_HEAD(, book_hold) list;
};

/* What is asked for by a TAKE. */
struct book_want {
	uint32_t id;
	bool exclusive;
	bool writable; /* the descriptor is */
	int fd;	       /* the book's, if it takes it */
	struct fan_file file;
};

struct book;

struct book *book_new(const struct book_ops *ops);
void book_free(struct book *book); /* answers and closes what is left */

/*
 * Takes a hold, a new one (*ret_new) or one that was given back and kept. On failure fd
 * stays the caller's.
 * -EBADF: exclusive, and not open for writing. -EACCES: not the owner. -EINVAL: no
 * regular file. -EEXIST: this id is held. -EAGAIN: somebody waits to change the file.
 * -EINPROGRESS: somebody does, or may still. Errors of watch(). -ENOMEM.
 */
int book_take(struct book *book, struct book_client *client, const struct book_want *want,
	      uint64_t now_ns, bool *ret_new);

/* It holds it, or gave it back and kept it. */
bool book_knows(const struct book_client *client, uint32_t id);

/*
 * What was found out about its blocks since it was taken. Until then, and if another file
 * may share them since, writes are taken to move them.
 */
void book_set_moves(struct book *book, const struct fan_file *file, enum fan_moves moves);

/* False: writes count as moving them until book_set_moves(). */
bool book_knows_moves(struct book *book, const struct fan_file *file);

/* Calls on the file that were let through and may still run, as book_take() asks about. */
#define BOOK_THROUGH 32 /* more are not remembered */
unsigned int book_through(struct book *book, const struct fan_file *file, struct call *ret_calls);

/* The other holders, and what waits for them, are not concerned. Unknown ids are ignored. */
void book_give_back(struct book *book, struct book_client *client, uint32_t id, bool keep,
		    uint64_t now_ns);
void book_client_gone(struct book *book, struct book_client *client, uint64_t now_ns);

/*
 * Somebody wants to do this to that file: answers it, now or later. False, unless last: not
 * yet, for it would be refused, and somebody who is the reason for that has_more() to say;
 * to be called again a little later.
 */
bool book_call(struct book *book, const struct fan_file *file, enum call_kind kind,
	       const struct call *call, uint64_t now_ns, bool last);

/* Lets those go on who waited long enough. */
void book_expire(struct book *book, uint64_t now_ns);

/* When to call that next. */
uint64_t book_next(const struct book *book);

/* Files, holds and what became of calls; clients and turned_away are the server's. */
void book_count(const struct book *book, struct guard_counters *counters);

#endif
