/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* A guard inside the process, with one client, for those that may have one. */
#ifndef GUARD_INPROC_H
#define GUARD_INPROC_H

#include "server.h"

/* At least two: one that a notice keeps away, and one that answers meanwhile. */
#define GUARD_INPROC_MIN_LISTENERS 2

/*
 * log as in struct guard_opts, notify as of guard_client_new(). *ret_listeners: how many
 * threads answer, with all signals blocked. The errors of guard_server_new().
 */
int guard_inproc_start(void (*log)(void *arg, enum guard_log level, const char *line),
		       void *log_arg, void (*notify)(void *arg), void *notify_arg,
		       struct guard_server **ret_server, struct guard_client **ret_client,
		       unsigned int *ret_listeners);

/* Ends the threads; not from notify. */
void guard_inproc_stop(struct guard_server *server, struct guard_client *client);

#endif
