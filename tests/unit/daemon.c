// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon.h"
#include "support.h"

#define MAX_SERVED 64

struct served {
	struct daemon *daemon;
	int sock;
	pthread_t thread;
};

struct daemon {
	char path[64];
	bool foreign;
	int listener;
	struct guard_server *server;
	pthread_t thread;
	struct served served[MAX_SERVED];
	unsigned int nserved;
};

int daemon_listen(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, path);
	unlink(path);
	assert_int_equal(bind(sock, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(sock, 8), 0);
	return sock;
}

static void *serve(void *arg)
{
	struct served *sv = arg;
	const struct guard_peer peer = { .pid = getpid(),
					 .uid = getuid() + sv->daemon->foreign,
					 .pidfd = -1 };

	guard_server_serve(sv->daemon->server, sv->sock, &peer);
	return NULL;
}

static void *accept_all(void *arg)
{
	struct daemon *d = arg;

	for (;;) {
		struct served *sv = &d->served[d->nserved];
		int sock = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC);

		if (sock < 0)
			return NULL;
		assert_true(d->nserved < MAX_SERVED);
		*sv = (struct served){ .daemon = d, .sock = sock };
		assert_int_equal(pthread_create(&sv->thread, NULL, serve, sv), 0);
		d->nserved++;
	}
}

struct daemon *daemon_start(const char *path, const struct guard_opts *opts, bool foreign)
{
	struct daemon *d = calloc(1, sizeof(*d));

	assert_non_null(d);
	strcpy(d->path, path);
	d->foreign = foreign;
	assert_int_equal(guard_server_new(opts, &d->server), 0);
	d->listener = daemon_listen(path);
	assert_int_equal(pthread_create(&d->thread, NULL, accept_all, d), 0);
	return d;
}

void daemon_stop(struct daemon *d)
{
	if (!d)
		return;
	shutdown(d->listener, SHUT_RDWR);
	pthread_join(d->thread, NULL);
	close(d->listener);
	unlink(d->path);
	guard_server_stop(d->server);
	for (unsigned int i = 0; i < d->nserved; i++)
		pthread_join(d->served[i].thread, NULL);
	guard_server_free(d->server);
	free(d);
}

struct guard_counters daemon_count(struct daemon *d)
{
	struct guard_counters counters;

	guard_server_count(d->server, &counters);
	return counters;
}
