/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What somebody who waits for our answer is about to do to a file. */
#ifndef GUARD_CALL_H
#define GUARD_CALL_H

#include "fan.h"

enum call_kind {
	CALL_READ,	/* it leaves the blocks as they are */
	CALL_WRITE,	/* it writes, which moves blocks that other files have as well */
	CALL_SHARE,	/* it may give this file's blocks to another one as well */
	CALL_REMAP,	/* it may give this file blocks of another one, or itself */
	CALL_CHANGE,	/* it may free or move blocks; or it cannot be told */
	CALL_UNDECIDED, /* it cannot be told yet, for the caller is not asleep yet */
};

/* A waiting call, and what is needed to find out later whether it still runs. */
struct call {
	int fd; /* of its event */
	pid_t tid;
	char text[160];	 /* /proc/TID/syscall, empty if it could not be read */
	int err;	 /* why not */
	uint64_t serial; /* the book's: a task may do the same again */
};

/*
 * Descriptors of tasks that were looked at, for who calls once mostly calls again, and
 * opening them is half of the work. One for each thread that looks.
 */
struct call_files {
	struct {
		pid_t tid; /* 0: unused */
		int fd;
	} entry[4];
	unsigned int next;	   /* to be reused */
	_Atomic uint64_t since_ns; /* since when its thread looks at one, 0: it does not */
};

void call_files_close(struct call_files *files);

/* Reads *call's text, and tells by it. */
enum call_kind call_look(struct call_files *files, struct call *call, bool opens);

/*
 * Of a call that is CALL_REMAP: CALL_SHARE if another file than this one, which is guarded,
 * is the target.
 */
enum call_kind call_direction(const struct call *call, const struct fan_file *file);

enum call_state {
	CALL_RUNS,
	CALL_ENDED,
	CALL_UNKNOWN, /* it runs something */
};

/* After it was let through. */
enum call_state call_state(const struct call *call);

/* The pure part of call_look(), for texts as /proc/TID/syscall has them. */
struct call_facts {
	enum call_kind kind;
	int target_fd; /* of CALL_REMAP: whose blocks are replaced; else -1 */
};

struct call_facts call_parse(const char *text, bool opens);

#endif
