/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What the daemon needs, and how it gets rid of everything else. */
#ifndef DAXLEASED_HARDEN_H
#define DAXLEASED_HARDEN_H

#include <stdbool.h>

/* -EPERM: a capability is missing, and it was said which. */
int harden_check(void);

/*
 * With the fanotify group open, and no thread but the caller's: from here on there are
 * two capabilities, no new privileges, and the system calls that the work needs.
 * unlinks: it made its socket, and removes it at the end. -errno: it was said why.
 */
int harden(bool unlinks);

#endif
