/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The other side: a process that has nothing in common with the holder (it is forked
 * before the holder opens anything), and does one thing with a file when told to.
 */
#ifndef VM_OTHER_H
#define VM_OTHER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum op {
	OP_OPEN_READ, /* and closes it after `amount` milliseconds */
	OP_OPEN_WRITE,
	OP_OPEN_WRITE_NONBLOCK,
	OP_TRUNCATE,  /* to `amount` bytes, by path */
	OP_FTRUNCATE, /* and the next two: through a descriptor of the holder */
	OP_PUNCH,
	OP_PWRITE,
	OP_UNLINK,
	OP_RENAME, /* and the next: to PATH.new */
	OP_LINK,
	OP_CHMOD,
	OP_SHELL,	    /* `path` is a command; its result is the exit status */
	OP_STORM_OPENS,	    /* PATH0 ... up to `amount`, each opened for writing, O_NONBLOCK */
	OP_STORM_TRUNCATES, /* the same, truncated to 0 */
	OP_STOP_AND_STORM,  /* the holder stands still meanwhile (SIGSTOP): all at one moment */
	OP_FUNCTION,	    /* see other_begin_fn() */
};

struct other {
	pid_t pid;
	int sock;
	bool busy;
	/* Of what was done last: */
	uint64_t begin_ns, got_ns, end_ns; /* got: open is successful, or the same as end */
};

void other_start(struct other *o);
void other_stop(struct other *o);

/* fd: the holder's descriptor, shared with the other side, or -1. */
void other_begin(struct other *o, enum op op, const char *path, long amount, int fd);
/*
 * Lets it call a function: the process is a copy of this one, so that has the same address
 * there. fn returns -1 and errno as system calls do; got_ns is not set.
 */
typedef int (*other_fn)(const char *path, long amount, int fd);
void other_begin_fn(struct other *o, other_fn fn, const char *path, long amount, int fd);
/* Whether it is still at it. */
bool other_waits(const struct other *o);
/* 0, -errno, or what the op says. Fails if it takes longer than ms milliseconds. */
int other_end(struct other *o, unsigned int ms);
/* Both, and it has to be done soon. */
int other_do(struct other *o, enum op op, const char *path, long amount, int fd);
unsigned int other_took_ms(const struct other *o);

#endif
