/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What the environment asks for: see daxlease-preload(7). */
#ifndef PRELOAD_SETTINGS_H
#define PRELOAD_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include <daxlease/daxlease.h>

#define BUDGET_MAX_MS 86400000ul /* a day */

enum policy {
	POLICY_FENCE,
	POLICY_EXCLUSIVE,
	POLICY_ABORT,
};

struct settings {
	enum policy policy;
	enum daxlease_kind kind;
	uint32_t budget_ms; /* 0: the library's */
	const char *guard_socket;
	bool off; /* nothing is to be done in this process */
};

/* Reads it, opens the log, and says what is wrong. */
void settings_read(struct settings *ret_settings);
const char *settings_policy_str(enum policy policy);

#endif
