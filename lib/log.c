// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <stdio.h>
#include <stdlib.h>

#include "log.h"
#include "sys.h"

static __thread unsigned int held;

void log_init(struct log *log)
{
	pthread_mutex_init(&log->lock, NULL);
	log->fn = NULL;
	atomic_init(&log->level, -1);
	log->userdata = NULL;
	STAILQ_INIT(&log->lines);
	log->flushing = false;
	atomic_init(&log->pending, false);
}

void log_end(struct log *log)
{
	log_flush(log);
	pthread_mutex_destroy(&log->lock);
}

void log_set(struct log *log, daxlease_log_fn fn, enum daxlease_log_level level, void *userdata)
{
	if (level > DAXLEASE_LOG_DEBUG)
		level = DAXLEASE_LOG_DEBUG;
	pthread_mutex_lock(&log->lock);
	log->fn = fn;
	atomic_store_explicit(&log->level, fn ? (int)level : -1, memory_order_relaxed);
	log->userdata = userdata;
	pthread_mutex_unlock(&log->lock);
}

/* Mostly not, and then it costs no more than this. */
static bool is_wanted(const struct log *log, enum daxlease_log_level level)
{
	return (int)level <= atomic_load_explicit(&log->level, memory_order_relaxed);
}

static struct log_line *format_line(enum daxlease_log_level level, const char *fmt, va_list ap)
{
	struct log_line *line;
	va_list again;
	int len;

	va_copy(again, ap);
	len = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	if (len < 0)
		return NULL;
	line = sys_calloc(1, sizeof(*line) + (size_t)len + 1);
	if (!line)
		return NULL;
	line->level = level;
	vsnprintf(line->text, (size_t)len + 1, fmt, ap);
	return line;
}

void log_vadd(struct log *log, enum daxlease_log_level level, const char *fmt, va_list ap)
{
	struct log_line *line;

	if (!is_wanted(log, level))
		return;
	pthread_mutex_lock(&log->lock);
	if (is_wanted(log, level)) {
		line = format_line(level, fmt, ap);
		if (line) {
			STAILQ_INSERT_TAIL(&log->lines, line, link);
			atomic_store_explicit(&log->pending, !log->flushing, memory_order_relaxed);
		}
	}
	pthread_mutex_unlock(&log->lock);
}

void log_add(struct log *log, enum daxlease_log_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_vadd(log, level, fmt, ap);
	va_end(ap);
}

void log_hold(void)
{
	held++;
}

void log_release(void)
{
	held--;
}

void log_flush(struct log *log)
{
	struct log_line *line;

	if (held || !log_pending(log))
		return;
	pthread_mutex_lock(&log->lock);
	if (log->flushing)
		goto out;
	log->flushing = true;
	atomic_store_explicit(&log->pending, false, memory_order_relaxed);
	while ((line = STAILQ_FIRST(&log->lines))) {
		daxlease_log_fn fn = log->fn;
		void *userdata = log->userdata;

		STAILQ_REMOVE_HEAD(&log->lines, link);
		pthread_mutex_unlock(&log->lock);
		if (fn)
			fn(line->level, line->text, userdata);
		free(line);
		pthread_mutex_lock(&log->lock);
	}
	log->flushing = false;
out:
	pthread_mutex_unlock(&log->lock);
}
