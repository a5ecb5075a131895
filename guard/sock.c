// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "sock.h"

#define FDS 4 /* more than anybody sends; what is over that the kernel closes */

int sock_connect(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int sock, err;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (sock < 0)
		return -errno;
	if (!connect(sock, (struct sockaddr *)&addr, sizeof(addr)))
		return sock;
	err = -errno;
	close(sock);
	return err;
}

int sock_send(int sock, struct guard_msg *msg, int fd)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = msg, .iov_len = sizeof(*msg) };
	struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };

	msg->version = GUARD_VERSION;
	if (fd >= 0) {
		struct cmsghdr *c;

		hdr.msg_control = control.room;
		hdr.msg_controllen = sizeof(control.room);
		c = CMSG_FIRSTHDR(&hdr);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	if (sendmsg(sock, &hdr, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return 0;
	return errno == EPIPE ? -ECONNRESET : -errno;
}

/* The descriptors that came along; all but the first are closed. */
static unsigned int take_fds(struct msghdr *hdr, int *ret_fd)
{
	unsigned int n = 0;

	*ret_fd = -1;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(hdr); c; c = CMSG_NXTHDR(hdr, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (n++ == 0)
				*ret_fd = fd;
			else
				close(fd);
		}
	}
	return n;
}

static int check(const struct guard_msg *msg, ssize_t n, const struct msghdr *hdr, unsigned int fds)
{
	if ((size_t)n < offsetof(struct guard_msg, id))
		return -EPROTO;
	if (msg->version != GUARD_VERSION)
		return -EPROTONOSUPPORT;
	if ((size_t)n != sizeof(*msg) || hdr->msg_flags & (MSG_TRUNC | MSG_CTRUNC) || fds > 1)
		return -EPROTO;
	return 0;
}

int sock_receive(int sock, bool wait, struct guard_msg *ret_msg, int *ret_fd)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(FDS * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = ret_msg, .iov_len = sizeof(*ret_msg) };
	struct msghdr hdr = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = sizeof(control.room),
	};
	unsigned int fds;
	ssize_t n;
	int err;

	n = recvmsg(sock, &hdr, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
	if (n < 0)
		return -errno;
	fds = take_fds(&hdr, ret_fd); /* an empty packet may have some as well */
	err = n ? check(ret_msg, n, &hdr, fds) : -ECONNRESET;
	if (err) {
		if (*ret_fd >= 0)
			close(*ret_fd);
		*ret_fd = -1;
		return err;
	}
	ret_msg->text[sizeof(ret_msg->text) - 1] = '\0';
	return 0;
}
