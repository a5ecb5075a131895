// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <linux/capability.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "peer.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* <asm-generic/socket.h> of Linux 6.5 */
#endif

struct caps {
	unsigned long long effective, ambient;
};

static bool read_caps(pid_t pid, struct caps *ret_caps)
{
	char path[32], *line = NULL;
	struct caps caps = { 0 };
	size_t size = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "re");
	if (!file)
		return false;
	/* A newline in the program's name is escaped there. */
	while (getline(&line, &size, file) > 0) {
		sscanf(line, "CapEff: %llx", &caps.effective);
		sscanf(line, "CapAmb: %llx", &caps.ambient);
	}
	free(line);
	fclose(file);
	*ret_caps = caps;
	return true;
}

/* Everybody has all capabilities in a user namespace that he made. */
static bool is_in_our_namespace(pid_t pid)
{
	struct stat ours, theirs;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
	return !stat("/proc/self/ns/user", &ours) && !stat(path, &theirs) &&
	       ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

static bool is_alive(int pidfd)
{
	struct pollfd pfd = { .fd = pidfd, .events = POLLIN };

	return !poll(&pfd, 1, 0);
}

/*
 * This is what he has now, not what he had when he connected. Since then he may have
 * executed a program with file capabilities, and left the socket to a child. That takes
 * ambient capabilities away and never gives any, so these are asked for. The namespace
 * is looked at after them: nobody comes back to ours. At the end the process has to be
 * the same one: its number may have gone to another.
 */
static bool may_lease(const struct guard_peer *peer)
{
	const unsigned long long lease = 1ull << CAP_LEASE;
	struct caps caps;

	return peer->pid > 0 && read_caps(peer->pid, &caps) &&
	       (caps.effective & caps.ambient & lease) && is_in_our_namespace(peer->pid) &&
	       is_alive(peer->pidfd);
}

int peer_of(int sock, struct guard_peer *ret_peer)
{
	struct guard_peer peer = { .pidfd = -1 };
	struct ucred cred;
	socklen_t size = sizeof(cred);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
		return -errno;
	size = sizeof(peer.pidfd);
	if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &peer.pidfd, &size) < 0)
		return -errno;
	peer.pid = cred.pid;
	peer.uid = cred.uid;
	peer.privileged = peer.uid == 0 || may_lease(&peer);
	*ret_peer = peer;
	return 0;
}
