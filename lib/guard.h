/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A context's way to a guard, which answers those who are about to change its files: in
 * threads of this process, if it may, else in daxleased(8). Either way they talk over a
 * socket, which is made when the first file is taken. Its lock is inside ctx->lock.
 */
#ifndef DAXLEASE_GUARD_H
#define DAXLEASE_GUARD_H

#include "lease.h"
#include "log.h"

struct guard;

/*
 * socket_path: where the daemon listens, and then there is no guard in the process; NULL:
 * that, or the daemon in its usual place; "": no daemon. log may be NULL. notify is called
 * by one of the guard's threads in the process when there is something for
 * guard_broken(), without a lock; the daemon's news come as a signal. NULL: no memory.
 */
struct guard *guard_new(const char *socket_path, struct log *log, void (*notify)(void *arg),
			void *arg);
void guard_free(struct guard *guard); /* not from notify */

/* Threads that may be in notify; when all of them are, nobody else is answered. */
unsigned int guard_listeners(struct guard *guard);

/*
 * Takes fd's file. Waits for the guard, at most 10 s, and for others that take one, and, if
 * patient, up to 0.3 s for a change that is under way. notice
 * is for all files of a daemon. -EOPNOTSUPP: no guard for this file; guard_reason().
 * -EAGAIN: somebody is changing the file.
 */
int guard_take(struct guard *guard, int fd, bool exclusive, bool patient,
	       const struct lease_notice *notice);

/* The rest does not wait. */
enum lease_query guard_query(struct guard *guard, int fd);

/*
 * When those who wait for a file that is being broken go on, as lease_ops.deadline().
 * Not known of a daemon with another clock (time_namespaces(7)).
 */
uint64_t guard_deadline(struct guard *guard, int fd);

/*
 * again: it will be taken again, and descriptors opened until then shall be seen then.
 * -ESTALE: the guard had let the others go on. -EAGAIN: the guard does not read.
 */
int guard_give_back(struct guard *guard, int fd, bool again);

/* It will not be taken again after all. */
void guard_forget(struct guard *guard, int fd);

/*
 * Its files that were broken or lost, each once, max at most; returns how many. all: receives
 * what it has said before; the other calls do as well, if need be.
 */
unsigned int guard_broken(struct guard *guard, bool all, int *ret_fds, unsigned int max);

/*
 * How many processes had fd's file open for writing before it was taken, and one of them;
 * -1: nobody knows.
 */
int guard_openers(struct guard *guard, int fd, pid_t *ret_pid);

/* Why the last guard_take() failed, one line. */
void guard_reason(struct guard *guard, char *ret_text, size_t size);

#endif
