/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Log lines, to stderr or a file; never to stdout. */
#ifndef PRELOAD_SAY_H
#define PRELOAD_SAY_H

#include <daxlease/daxlease.h>

/* Before this, lines of level error go to stderr. path NULL: stderr. -errno of opening it. */
int say_open(const char *path, enum daxlease_log_level level);
int say_wants(enum daxlease_log_level level);
void say(enum daxlease_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* For a context of the library. */
void say_line(enum daxlease_log_level level, const char *line, void *userdata);

#endif
