/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The guard's edge: the only module in here that calls the kernel about other people's
 * files and tasks. -errno on failure, and no state, so that tests can put their own in
 * its place.
 */
#ifndef GUARD_FAN_H
#define GUARD_FAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A file, and who owns it. */
struct fan_file {
	dev_t dev;
	ino_t ino;
	mode_t mode;
	uid_t uid;
};

/* Somebody waits in the kernel until fan_answer() is called with fd. */
struct fan_event {
	int fd;	   /* the file; the receiver closes it. -errno: refused by the kernel already */
	pid_t tid; /* the thread; 0: not in our PID namespace */
	bool open; /* it opens the file; else it accesses it */
};

/*
 * A fanotify group for pre-content events. -EPERM: no CAP_SYS_ADMIN. -EINVAL, -ENOSYS:
 * the kernel has none (Linux < 6.14, no CONFIG_FANOTIFY_ACCESS_PERMISSIONS).
 */
int fan_init(void);

/*
 * Whether somebody outside the kernel answers for fd's filesystem (FUSE, a network): even
 * fan_watch() may wait for them then, to be told that it cannot. May wait for them itself.
 */
bool fan_is_remote(int fd);

/* Begins and ends watching fd's file. -EOPNOTSUPP: not on this filesystem. */
int fan_watch(int fan, int fd);
int fan_unwatch(int fan, int fd);

/*
 * The next events, at most FAN_EVENTS; so few that threads that read at once share the
 * work. *ret_more: there may be others already, to be read at once. -EAGAIN: nobody waits.
 */
#define FAN_EVENTS 4
int fan_read(int fan, struct fan_event *ret_events, bool *ret_more);

/* Lets it go on (err = 0) or fail (-ETXTBSY). -ENOENT: it did not wait any more. */
int fan_answer(int fan, int fd, int err);

/* Never waits for a filesystem: what it does not know at once is left as it was. */
int fan_file_info(int fd, struct fan_file *ret_file);
/* The same, but of an event only: no filesystem that may have to be waited for has these. */
int fan_event_file(int fd, struct fan_file *ret_file);
int fan_access_mode(int fd); /* O_RDONLY ..., -EBADF for O_PATH */

/*
 * Whether writes move blocks that are there: where other files have the same ones. May
 * wait for the filesystem.
 */
enum fan_moves {
	FAN_MOVES_NEVER, /* files do not share blocks here */
	FAN_MOVES_NOT,	 /* this one does not, now */
	FAN_MOVES,
};

enum fan_moves fan_writes_move(int fd);

/*
 * Processes other than except, and this one, that have the file open for writing, as far as
 * /proc shows; *ret_pid is one of them. May take long.
 */
unsigned int fan_openers(const struct fan_file *file, pid_t except, pid_t *ret_pid);

/*
 * /proc/TID/syscall, as text: see proc_pid_syscall(5). It may be read from the descriptor
 * as often as one likes; -ESRCH: the task is gone, whoever has its number now.
 */
int fan_open_call(pid_t tid);
int fan_read_call(int fd, char *ret_text, size_t size);
/* Threads of its process. */
int fan_task_threads(pid_t tid);
/* The file behind its descriptor. */
int fan_task_fd(pid_t tid, int fd, struct fan_file *ret_file);

/* /proc/sys/fs/lease-break-time; the descriptor is opened once. */
int fan_open_break_time(void);
int fan_break_time(int fd); /* seconds, 0 = no deadline; the kernel's default if unknown */

uint64_t fan_now_ns(void); /* CLOCK_MONOTONIC */

#endif
