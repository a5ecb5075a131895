// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "journal.h"
#include "listen.h"
#include "sock.h"

#define FIRST_PASSED 3 /* SD_LISTEN_FDS_START */

static int complain(int err, const char *path, const char *cure)
{
	journal_say(GUARD_LOG_ERR, "%s: %s%s%s", path, strerror(-err), cure ? ": " : "",
		    cure ? cure : "");
	return err;
}

/* ------------------------------------------------------------------------- */
/* From systemd: sd_listen_fds(3), sd_notify(3) */

static bool is_our_pid(const char *text)
{
	return text && atol(text) == getpid();
}

static int number_passed(void)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	int n = is_our_pid(pid) && fds ? atoi(fds) : 0;

	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return n;
}

static int socket_option(int fd, int option)
{
	socklen_t size = sizeof(int);
	int value;

	return getsockopt(fd, SOL_SOCKET, option, &value, &size) < 0 ? -1 : value;
}

static int check_passed(int n)
{
	const int fd = FIRST_PASSED;

	if (n > 1) {
		journal_say(GUARD_LOG_ERR,
			    "%d sockets were passed: have one ListenSequentialPacket=", n);
		return -EINVAL;
	}
	if (socket_option(fd, SO_DOMAIN) != AF_UNIX ||
	    socket_option(fd, SO_TYPE) != SOCK_SEQPACKET || socket_option(fd, SO_ACCEPTCONN) != 1) {
		journal_say(GUARD_LOG_ERR,
			    "the socket that was passed is no listening Unix socket for sequential "
			    "packets: have ListenSequentialPacket=/PATH and Accept=no");
		return -EPROTOTYPE;
	}
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return complain(-errno, "the socket that was passed", NULL);
	return 0;
}

void listen_notify(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	static const char text[] = "READY=1";
	size_t length = path ? strlen(path) : 0;
	int sock;

	if (!length || length >= sizeof(addr.sun_path))
		return;
	memcpy(addr.sun_path, path, length);
	if (path[0] == '@')
		addr.sun_path[0] = '\0';
	sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return;
	if (sendto(sock, text, sizeof(text) - 1, MSG_NOSIGNAL, (struct sockaddr *)&addr,
		   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)) < 0)
		journal_say(GUARD_LOG_WARNING, "systemd cannot be told that we are ready: %s",
			    strerror(errno));
	close(sock);
}

/* ------------------------------------------------------------------------- */
/* Its own */

static int make_dir(const char *path, bool *ret_made)
{
	const char *end = strrchr(path, '/');
	char dir[sizeof(((struct sockaddr_un *)0)->sun_path)];

	*ret_made = false;
	if (end == path)
		return 0;
	snprintf(dir, sizeof(dir), "%.*s", (int)(end - path), path);
	umask(0);
	if (!mkdir(dir, 0755)) {
		*ret_made = true;
		return 0;
	}
	return errno == EEXIST ? 0 : complain(-errno, dir, "the socket's folder cannot be made");
}

static void remove_dir(const char *path)
{
	char dir[sizeof(((struct sockaddr_un *)0)->sun_path)];

	snprintf(dir, sizeof(dir), "%.*s", (int)(strrchr(path, '/') - path), path);
	rmdir(dir); /* somebody else may have put something there */
}

/* What a daemon left behind that was killed goes; one that lives stays. */
static int make_room(const char *path)
{
	struct stat st;
	int sock;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : complain(-errno, path, NULL);
	if (!S_ISSOCK(st.st_mode))
		return complain(-EEXIST, path, "it is no socket: give another --socket");
	sock = sock_connect(path);
	if (sock >= 0)
		close(sock);
	if (sock != -ECONNREFUSED)
		return complain(-EADDRINUSE, path,
				"somebody listens there: see daxleased --status, end that one, or "
				"give another --socket");
	return unlink(path) < 0 ? complain(-errno, path, "the stale socket cannot be removed") : 0;
}

static int bind_and_listen(struct listener *l)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct stat st;

	strcpy(addr.sun_path, l->path);
	umask(0111); /* anybody may connect: what he may guard depends on the file */
	if (bind(l->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return complain(-errno, l->path, "cannot listen there");
	if (lstat(l->path, &st) < 0 || listen(l->fd, SOMAXCONN) < 0) {
		int err = -errno;

		unlink(l->path);
		return complain(err, l->path, "cannot listen there");
	}
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	return 0;
}

static int make_socket(struct listener *l)
{
	int err = make_dir(l->path, &l->made_dir);

	if (!err)
		err = make_room(l->path);
	if (err)
		return err;
	l->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0)
		return complain(-errno, l->path, NULL);
	err = bind_and_listen(l);
	if (err)
		close(l->fd);
	return err;
}

int listen_open(const char *path, struct listener *ret_listener)
{
	struct listener l = { .fd = FIRST_PASSED };
	int n = number_passed(), err;

	if (n > 0) {
		err = check_passed(n);
	} else if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
		err = complain(-ENAMETOOLONG, path, "give a shorter --socket");
	} else {
		const mode_t mask = umask(0);

		l.path = path;
		err = make_socket(&l);
		umask(mask);
		if (err && l.made_dir)
			remove_dir(path);
	}
	if (!err)
		*ret_listener = l;
	return err;
}

void listen_close(struct listener *l)
{
	struct stat st;

	close(l->fd);
	if (!l->path || lstat(l->path, &st) < 0 || st.st_dev != l->dev || st.st_ino != l->ino)
		return;
	unlink(l->path);
	if (l->made_dir)
		remove_dir(l->path);
}
