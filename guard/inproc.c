// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "inproc.h"
#include "mask.h"

#define MAX_LISTENERS 4

static unsigned int count_listeners(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	return cpus > MAX_LISTENERS		 ? MAX_LISTENERS :
	       cpus < GUARD_INPROC_MIN_LISTENERS ? GUARD_INPROC_MIN_LISTENERS :
						   (unsigned int)cpus;
}

/* The threads inherit the mask: the program's handlers never run there. */
static int start_masked(const struct guard_opts *opts, struct guard_server **ret_server)
{
	sigset_t old;
	int err;

	mask_signals(&old);
	err = guard_server_new(opts, ret_server);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

int guard_inproc_start(void (*log)(void *arg, enum guard_log level, const char *line),
		       void *log_arg, void (*notify)(void *arg), void *notify_arg,
		       struct guard_server **ret_server, struct guard_client **ret_client,
		       unsigned int *ret_listeners)
{
	const struct guard_opts opts = {
		.listeners = count_listeners(),
		.in_library = true,
		.log = log,
		.arg = log_arg,
	};
	struct guard_server *server;
	struct guard_client *client;
	int err = start_masked(&opts, &server);

	if (err)
		return err;
	err = guard_server_listeners(server) < GUARD_INPROC_MIN_LISTENERS ? -EAGAIN : 0;
	client = err ? NULL : guard_client_new(server, notify, notify_arg);
	if (!client) {
		guard_server_free(server);
		return err ? err : -ENOMEM;
	}
	*ret_server = server;
	*ret_client = client;
	*ret_listeners = guard_server_listeners(server);
	return 0;
}

void guard_inproc_stop(struct guard_server *server, struct guard_client *client)
{
	guard_client_free(client);
	guard_server_free(server);
}
