/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The socket that the daemon listens on: systemd's, or its own. */
#ifndef DAXLEASED_LISTEN_H
#define DAXLEASED_LISTEN_H

#include <stdbool.h>
#include <sys/types.h>

struct listener {
	int fd;
	const char *path; /* NULL: systemd's, which is left as it is */
	bool made_dir;
	dev_t dev;
	ino_t ino;
};

/*
 * Does not block, and is listened on. Without one from systemd makes one at path, which
 * has to live as long as the listener, and its folder. -errno: it was said why.
 */
int listen_open(const char *path, struct listener *ret_listener);

/* Closes it, and removes what listen_open() made. */
void listen_close(struct listener *listener);

/* systemd, if it waits for that, is told that we are ready. */
void listen_notify(void);

#endif
