/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The counters, for people. */
#ifndef DAXLEASED_STATUS_H
#define DAXLEASED_STATUS_H

#include "proto.h"

/* --status: asks the daemon at this path, and prints. -errno: it was said why. */
int status_ask(const char *path);

/* To the log. */
void status_log(const struct guard_counters *counters);

#endif
