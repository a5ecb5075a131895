/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A descriptor that is not in the process's table, but in that of a thread that does
 * nothing but keep it.
 *
 * It is for a fanotify group. If a child inherited it, and the parent died, nobody would
 * answer those who wait, and they would hang as long as the child lives. If the program
 * closed it, as programs do that close what they do not know, the guard would end unseen.
 */
#ifndef GUARD_KEEPER_H
#define GUARD_KEEPER_H

struct keeper;

/*
 * Makes it, and moves it there. Signals are blocked in the thread. The errors of make();
 * -EAGAIN: no thread. -ENOSYS: Linux < 6.9. -ENOMEM, -EMFILE.
 */
int keeper_new(int (*make)(void), struct keeper **ret_keeper);
/* The descriptor is closed, and cannot be borrowed any more. */
void keeper_end(struct keeper *keeper);
void keeper_free(struct keeper *keeper);

/* Calls fn with the descriptor in that thread, and its table; needs no other descriptor. */
int keeper_call(struct keeper *keeper, int (*fn)(int fd, void *arg), void *arg);

/*
 * The descriptor, here, until it is returned; or -errno. fork(2) waits meanwhile, so that
 * no child has it: only for as long as a few system calls take. Not nested.
 */
int keeper_borrow(struct keeper *keeper);
void keeper_return(struct keeper *keeper, int fd);

#endif
