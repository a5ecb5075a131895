/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Runs cases, one after the other, each in a process of its own. */
#ifndef VM_RUNNER_H
#define VM_RUNNER_H

#include "support.h"

/* fs: the only filesystem that it is for, or NULL. 0 seconds: the default. */
void runner_add(const char *fs, const char *name, case_fn fn, const void *arg,
		enum daxlease_kind kind, unsigned int seconds);

/*
 * On each of the filesystems (up to NULL), the cases whose FS/NAME has a match for re.
 * Returns the exit status, or -EINVAL for an re that is none.
 */
int runner_run(const char *re, char **filesystems);

/* What a case printed is shown if it fails; true: always. */
extern bool runner_shows_all;

#endif
