/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * In place of guard/fan.c: a machine without fanotify, unless a test switches it on. Then
 * tests make the events, say what the callers' /proc/TID/syscall has, and see the answers.
 * Groups may be in another table of descriptors than the test, as the guard's own is.
 */
#ifndef TEST_FAKE_FAN_H
#define TEST_FAKE_FAN_H

#include "fan.h"

/* fan_init() works from now on, and nothing is known of any task. */
void fake_fan_on(void);
/* -EPERM again. Groups have to be closed. */
void fake_fan_off(void);
/* What fan_init() returns while it is off, instead of -EPERM. */
void fake_fan_fail_init(int err);
/* In a child: a thread of the parent may have been in here. */
void fake_fan_after_fork(void);

/* Groups that are open, whoever has them. */
unsigned int fake_fan_groups(void);
/* They look at none of what is waiting, nor at what comes. */
void fake_fan_freeze(bool yes);

/* ------------------------------------------------------------------------- */
/* Files */

struct fake_marks {
	unsigned int marked; /* groups that watch it now */
	unsigned int watches, unwatches;
};

struct fake_marks fake_fan_marks(int fd);
/* The next n calls of fan_watch() fail so. */
void fake_fan_fail_watch(unsigned int n, int err);
/* All files belong to that user; -1: to whom they do. */
void fake_fan_owner(uid_t uid);
void fake_fan_moves(enum fan_moves moves);
void fake_fan_remote(bool remote);
void fake_fan_set_openers(unsigned int n, pid_t pid);
unsigned int fake_fan_scans(void);
void fake_fan_slow_scan(unsigned int ms);
/* fan_openers() and fan_writes_move() do not return while it is shut. */
void fake_fan_shut(bool shut);
unsigned int fake_fan_shut_out(void); /* calls that wait for that, or for a task that hangs */
void fake_fan_break_time(int seconds);

/* ------------------------------------------------------------------------- */
/* Others */

/* What /proc/TID/syscall has; NULL: there is no such task; err: it cannot be read. */
void fake_fan_task(pid_t tid, const char *text);
void fake_fan_task_error(pid_t tid, int err);
/* The next n looks find it running. */
void fake_fan_task_runs(pid_t tid, unsigned int n);
/* Looking at it does not return as long as it hangs. */
void fake_fan_task_hangs(pid_t tid, bool hangs);
void fake_fan_task_threads(pid_t tid, int n);
/* Its descriptor leads to that file. */
void fake_fan_task_fd(pid_t tid, int fd, const struct fan_file *file);

#define FAKE_WAITS 1 /* not answered yet */

/*
 * The task opens or accesses the file at path. Groups that watch it (if any_mark, all) get
 * the event. Returns its number, for fake_fan_answer(): FAKE_WAITS, 0, or the -errno that
 * one of the groups said. Whoever waits for a group that is closed goes on.
 */
int fake_fan_event(const char *path, bool open, pid_t tid);
int fake_fan_event_anyway(const char *path, bool open, pid_t tid);
/* One with an error in place of the descriptor. */
void fake_fan_event_without_fd(pid_t tid, int err);
int fake_fan_answer(int event);
uint64_t fake_fan_answered_ns(int event); /* when the last group did */
/* Whether somebody waits; if not, all events so far are forgotten. */
bool fake_fan_waiting(void);
/* Answers given to what nobody asked, or asked once. */
unsigned int fake_fan_strays(void);

/* No group is open, now or in a moment. */
void fake_fan_gone(void);
/* Is this descriptor, of the thread's table, one of a group? */
bool fake_fan_is_group(int fd);

#endif
