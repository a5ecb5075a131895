/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Lines to standard error, from any thread. They never wait: who reads them may be one
 * that waits for us. A line for which there is no room is left out, and counted.
 */
#ifndef DAXLEASED_JOURNAL_H
#define DAXLEASED_JOURNAL_H

#include "server.h"

/* Lines of a lower level are left out. Looks whether it is the journal that reads. */
void journal_open(enum guard_log level);

/* Of the daemon itself. */
void journal_say(enum guard_log level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Whatever the level is: somebody asked for it. */
void journal_answer(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * Of what clients do, who must not be able to fill the log: 20 lines of each level at
 * once, then 2 in a second. How many were left out is said with the next one.
 */
void journal_limited(enum guard_log level, const char *line);

#endif
