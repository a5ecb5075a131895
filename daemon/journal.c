// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fan.h"
#include "journal.h"

#define LINE 320
#define BURST 20
#define EACH_NS 500000000ull /* one more */

/* Tokens, as the time since when they have been collected. */
struct bucket {
	uint64_t since_ns;
};

static enum guard_log least = GUARD_LOG_INFO; /* constant from here */
static bool is_journal;			      /* to here */

/* A leaf: taken under the guard's lock, and nothing is taken under it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* all below */
static struct bucket buckets[GUARD_LOG_DEBUG + 1];
static unsigned long left_out;

/* $JOURNAL_STREAM says which device and inode, for standard error may be another since. */
static bool stderr_is_journal(void)
{
	const char *text = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	return text && sscanf(text, "%llu:%llu", &dev, &ino) == 2 && !fstat(STDERR_FILENO, &st) &&
	       st.st_dev == dev && st.st_ino == ino;
}

void journal_open(enum guard_log level)
{
	least = level;
	is_journal = stderr_is_journal();
}

/* There is room for a line in a pipe or socket then, as nobody else in here writes. */
static bool has_room(void)
{
	struct pollfd pfd = { .fd = STDERR_FILENO, .events = POLLOUT };

	return poll(&pfd, 1, 0) == 1 && pfd.revents & POLLOUT;
}

static bool put(enum guard_log level, const char *line)
{
	/* As sd-daemon(3) has them. */
	static const char *const prefixes[] = {
		[GUARD_LOG_ERR] = "<3>",
		[GUARD_LOG_WARNING] = "<4>",
		[GUARD_LOG_INFO] = "<6>",
		[GUARD_LOG_DEBUG] = "<7>",
	};
	char text[LINE + 16];
	int n = snprintf(text, sizeof(text), "%s%s\n",
			 is_journal ? prefixes[level] : "daxleased: ", line);

	return has_room() && write(STDERR_FILENO, text, (size_t)n) == n;
}

static void put_counting(enum guard_log level, const char *line)
{
	char text[64];

	if (left_out) {
		snprintf(text, sizeof(text), "lines left out: %lu", left_out);
		if (put(GUARD_LOG_WARNING, text))
			left_out = 0;
	}
	left_out += !put(level, line);
}

static void format(enum guard_log level, const char *fmt, va_list args)
{
	char line[LINE];

	vsnprintf(line, sizeof(line), fmt, args);
	pthread_mutex_lock(&lock);
	put_counting(level, line);
	pthread_mutex_unlock(&lock);
}

void journal_say(enum guard_log level, const char *fmt, ...)
{
	va_list args;

	if (level > least)
		return;
	va_start(args, fmt);
	format(level, fmt, args);
	va_end(args);
}

void journal_answer(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	format(GUARD_LOG_INFO, fmt, args);
	va_end(args);
}

static bool take_token(struct bucket *b)
{
	const uint64_t now = fan_now_ns(), full = BURST * EACH_NS;

	if (now > full && b->since_ns < now - full)
		b->since_ns = now - full;
	if (b->since_ns + EACH_NS > now)
		return false;
	b->since_ns += EACH_NS;
	return true;
}

void journal_limited(enum guard_log level, const char *line)
{
	if (level > least)
		return;
	pthread_mutex_lock(&lock);
	if (take_token(&buckets[level]))
		put_counting(level, line);
	else
		left_out++;
	pthread_mutex_unlock(&lock);
}
