/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Time, numbers, messages for the user, and the line that shows progress. */
#ifndef DAX_LOG_UTIL_H
#define DAX_LOG_UTIL_H

#include <stdbool.h>
#include <stdint.h>

#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull

/* Exit statuses other than 0 and EXIT_FAILURE. */
enum {
	EXIT_USAGE = 2,
};

/* CLOCK_MONOTONIC */
uint64_t now_ns(void);

/* Milliseconds for poll(2) from now until then, rounded up; 0 if that is past. */
int ms_until(uint64_t then_ns);

/* "dax-log: MESSAGE" on stderr, below the progress line if there is one. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The same with ": STRERROR(-err)"; returns err. */
int fail(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A decimal option value within [min, max]; exits with EXIT_USAGE otherwise. */
uint64_t parse_number(const char *option, const char *text, uint64_t min, uint64_t max);

/* The same, in bytes: K, M and G may follow. */
uint64_t parse_size(const char *option, const char *text, uint64_t min, uint64_t max);

/*
 * Whether the next progress line is due: four times a second on a terminal, where it
 * replaces the one before; once a second elsewhere.
 */
bool progress_due(void);
void progress(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Leaves the last line where it is. */
void progress_end(void);

/* A descriptor that reads SIGINT, SIGTERM and SIGUSR1, which are blocked. Or -errno. */
int signals_open(void);
/* The signal that is pending, 0 if none. */
int signals_next(int fd);

#endif
