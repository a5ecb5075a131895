// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "util.h"

static bool line_open; /* a progress line without its newline */
static uint64_t next_progress_ns;

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

int ms_until(uint64_t then_ns)
{
	uint64_t now = now_ns();

	return then_ns <= now ? 0 : (int)((then_ns - now + NS_PER_MS - 1) / NS_PER_MS);
}

static void vsay(const char *tail, const char *fmt, va_list args)
{
	char line[1024];

	vsnprintf(line, sizeof(line), fmt, args);
	progress_end();
	/* One write, for others may share the file. */
	fprintf(stderr, "dax-log: %s%s%s\n", line, tail ? ": " : "", tail ? tail : "");
}

void say(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsay(NULL, fmt, args);
	va_end(args);
}

int fail(int err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsay(strerror(-err), fmt, args);
	va_end(args);
	return err;
}

/* ------------------------------------------------------------------------- */
/* Numbers */

static uint64_t unit(const char **end)
{
	switch (**end) {
	case 'K':
		(*end)++;
		return 1ull << 10;
	case 'M':
		(*end)++;
		return 1ull << 20;
	case 'G':
		(*end)++;
		return 1ull << 30;
	default:
		return 1;
	}
}

static uint64_t parse(const char *option, const char *text, uint64_t min, uint64_t max, bool units)
{
	uint64_t value, factor;
	const char *rest;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	rest = end;
	factor = units ? unit(&rest) : 1;
	if (errno || end == text || *rest || *text == '-' || value > max / factor ||
	    value * factor < min) {
		say("--%s takes a number from %llu to %llu%s, not '%s'", option,
		    (unsigned long long)min, (unsigned long long)max,
		    units ? ", also with K, M or G" : "", text);
		exit(EXIT_USAGE);
	}
	return value * factor;
}

uint64_t parse_number(const char *option, const char *text, uint64_t min, uint64_t max)
{
	return parse(option, text, min, max, false);
}

uint64_t parse_size(const char *option, const char *text, uint64_t min, uint64_t max)
{
	return parse(option, text, min, max, true);
}

/* ------------------------------------------------------------------------- */
/* Progress */

static bool on_terminal(void)
{
	static int answer = -1;

	if (answer < 0)
		answer = isatty(STDERR_FILENO);
	return answer;
}

bool progress_due(void)
{
	uint64_t now = now_ns();

	if (now < next_progress_ns)
		return false;
	next_progress_ns = now + (on_terminal() ? NS_PER_S / 4 : NS_PER_S);
	return true;
}

void progress(const char *fmt, ...)
{
	char line[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	if (on_terminal())
		fprintf(stderr, "\r\033[K%s", line);
	else
		fprintf(stderr, "%s\n", line);
	line_open = on_terminal();
}

void progress_end(void)
{
	if (line_open)
		fputc('\n', stderr);
	line_open = false;
}

/* ------------------------------------------------------------------------- */
/* Signals */

int signals_open(void)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	return fd < 0 ? fail(-errno, "signalfd") : fd;
}

int signals_next(int fd)
{
	struct signalfd_siginfo info;

	return read(fd, &info, sizeof(info)) == sizeof(info) ? (int)info.ssi_signo : 0;
}
