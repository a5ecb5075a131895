/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The command line of daxleased(8). */
#ifndef DAXLEASED_OPTIONS_H
#define DAXLEASED_OPTIONS_H

#include <stdbool.h>

#include "server.h"

enum action {
	ACTION_RUN,
	ACTION_STATUS,
	ACTION_DONE /* --help, --version: said already */
};

struct options {
	enum action action;
	const char *socket; /* GUARD_SOCKET, or an absolute path */
	enum guard_log level;
	struct guard_opts guard; /* listeners and limits; the rest is the caller's */
};

/* -EINVAL: it was said what is wrong. */
int options_parse(int argc, char **argv, struct options *ret_options);

#endif
