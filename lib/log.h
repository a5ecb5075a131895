/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Log lines are formatted where something is known, usually under a lock, and
 * handed to the user's function later, by log_flush(), without one.
 */
#ifndef DAXLEASE_LOG_H
#define DAXLEASE_LOG_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include <daxlease/daxlease.h>

#include "util.h"

struct log_line {
	STAILQ_ENTRY(log_line) link;
	enum daxlease_log_level level;
	char text[];
};

struct log {
	pthread_mutex_t lock; /* the members below; innermost of all locks */
	daxlease_log_fn fn;
	atomic_int level; /* -1: no function; read without the lock, written with it */
	void *userdata;
	STAILQ_HEAD(, log_line) lines;
	bool flushing;	     /* some thread is in log_flush(): one at a time, in order */
	atomic_bool pending; /* there are lines, nobody flushes; read without the lock */
};

void log_init(struct log *log);
void log_end(struct log *log);
void log_set(struct log *log, daxlease_log_fn fn, enum daxlease_log_level level, void *userdata);

/* Any thread, any lock held. A line that there is no memory for is dropped. */
void log_add(struct log *log, enum daxlease_log_level level, const char *fmt, ...)
	PRINTF_LIKE(3, 4);
void log_vadd(struct log *log, enum daxlease_log_level level, const char *fmt, va_list ap)
	PRINTF_LIKE(3, 0);

/* There may be lines for log_flush(). */
static inline bool log_pending(const struct log *log)
{
	return atomic_load_explicit(&log->pending, memory_order_relaxed);
}

/*
 * For who calls in here with a lock of his own: until it is released, log_flush() does
 * nothing in this thread. It nests.
 */
void log_hold(void);
void log_release(void);

/* No lock held. If another thread is at it, that one hands these out as well. */
void log_flush(struct log *log);

#endif
