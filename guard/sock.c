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

union control {
	struct cmsghdr align;
	char room[CMSG_SPACE(FDS * sizeof(int))];
};

static void make_room(struct guard_msg *msg, struct iovec *iov, union control *control,
		      struct msghdr *ret_hdr)
{
	*iov = (struct iovec){ .iov_base = msg, .iov_len = sizeof(*msg) };
	*ret_hdr = (struct msghdr){
		.msg_iov = iov,
		.msg_iovlen = 1,
		.msg_control = control->room,
		.msg_controllen = sizeof(control->room),
	};
}

static int finish(struct guard_msg *msg, ssize_t n, struct msghdr *hdr, int *ret_fd)
{
	unsigned int fds = take_fds(hdr, ret_fd); /* an empty packet may have some as well */
	int err = n ? check(msg, n, hdr, fds) : -ECONNRESET;

	if (err) {
		if (*ret_fd >= 0)
			close(*ret_fd);
		*ret_fd = -1;
		return err;
	}
	msg->text[sizeof(msg->text) - 1] = '\0';
	return 0;
}

int sock_receive(int sock, bool wait, struct guard_msg *ret_msg, int *ret_fd)
{
	union control control;
	struct iovec iov;
	struct msghdr hdr;
	ssize_t n;

	make_room(ret_msg, &iov, &control, &hdr);
	n = recvmsg(sock, &hdr, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
	return n < 0 ? -errno : finish(ret_msg, n, &hdr, ret_fd);
}

unsigned int sock_receive_all(int sock, struct guard_msg ret_msgs[SOCK_AT_ONCE], int *ret_err)
{
	union control control[SOCK_AT_ONCE];
	struct mmsghdr hdrs[SOCK_AT_ONCE];
	struct iovec iov[SOCK_AT_ONCE];
	unsigned int good = 0;
	int n;

	for (unsigned int i = 0; i < SOCK_AT_ONCE; i++)
		make_room(&ret_msgs[i], &iov[i], &control[i], &hdrs[i].msg_hdr);
	n = recvmmsg(sock, hdrs, SOCK_AT_ONCE, MSG_CMSG_CLOEXEC | MSG_DONTWAIT, NULL);
	*ret_err = n < 0 ? -errno : n < SOCK_AT_ONCE ? -EAGAIN : 0;
	for (int i = 0; i < n; i++) {
		int fd, err = finish(&ret_msgs[i], hdrs[i].msg_len, &hdrs[i].msg_hdr, &fd);

		if (fd >= 0)
			close(fd);
		if (!err && good == (unsigned int)i)
			good++;
		else if (err && good == (unsigned int)i)
			*ret_err = err;
	}
	return good;
}
