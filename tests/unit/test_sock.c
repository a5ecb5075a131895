// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Messages of the guard over a socket, from others who do not keep to the rules. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "sock.h"
#include "support.h"

struct pair {
	int ours, theirs;
	unsigned int fds;
};

static int setup(void **state)
{
	struct pair *p = calloc(1, sizeof(*p));
	int socks[2];

	assert_non_null(p);
	p->fds = count_fds();
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks), 0);
	p->ours = socks[0];
	p->theirs = socks[1];
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct pair *p = *state;

	close(p->ours);
	if (p->theirs >= 0)
		close(p->theirs);
	assert_int_equal(count_fds(), p->fds);
	free(p);
	return 0;
}

/* size bytes, with nfds descriptors of standard error along. */
static void send_raw(int sock, const void *data, size_t size, unsigned int nfds)
{
	char room[CMSG_SPACE(8 * sizeof(int))] = { 0 };
	struct iovec iov = { .iov_base = (void *)data, .iov_len = size };
	struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nfds) {
		struct cmsghdr *c;

		hdr.msg_control = room;
		hdr.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&hdr);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		for (unsigned int i = 0; i < nfds; i++)
			memcpy(CMSG_DATA(c) + i * sizeof(int), &(int){ STDERR_FILENO },
			       sizeof(int));
	}
	assert_int_equal(sendmsg(sock, &hdr, MSG_NOSIGNAL), (ssize_t)size);
}

static const struct guard_msg valid = { .version = GUARD_VERSION, .type = GUARD_TAKE, .id = 7 };

static int receive(struct pair *p)
{
	struct guard_msg msg;
	int fd = -2, err = sock_receive(p->ours, false, &msg, &fd);

	if (!err && fd >= 0)
		close(fd);
	return err;
}

static void send__there_and_back(void **state)
{
	struct pair *p = *state;
	struct guard_msg msg = { .type = GUARD_TAKE, .id = 9, .flags = GUARD_EXCLUSIVE }, got;
	int fd;

	memset(msg.text, 'x', sizeof(msg.text));
	assert_int_equal(sock_send(p->theirs, &msg, STDERR_FILENO), 0);
	assert_int_equal(sock_receive(p->ours, true, &got, &fd), 0);
	assert_int_equal(got.version, GUARD_VERSION);
	assert_int_equal(got.id, 9);
	assert_int_equal(got.flags, GUARD_EXCLUSIVE);
	assert_int_equal(strlen(got.text), sizeof(got.text) - 1); /* terminated */
	assert_true(fd > STDERR_FILENO);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(fd);
	assert_int_equal(sock_send(p->theirs, &msg, -1), 0);
	assert_int_equal(sock_receive(p->ours, false, &got, &fd), 0);
	assert_int_equal(fd, -1);
	assert_int_equal(receive(p), -EAGAIN);
}

static void receive__other_sizes(void **state)
{
	char room[2 * sizeof(valid)] = { 0 };
	struct pair *p = *state;

	memcpy(room, &valid, sizeof(valid));
	for (size_t size = 1; size < sizeof(room); size++) {
		send_raw(p->theirs, room, size, size % 3);
		assert_int_equal(receive(p), size == sizeof(valid) && size % 3 < 2 ? 0 : -EPROTO);
		assert_int_equal(count_fds(), p->fds + 2);
	}
}

static void receive__other_versions(void **state)
{
	struct pair *p = *state;
	struct guard_msg msg = valid;

	msg.version++;
	/* Whatever its size: that may be what is new. */
	for (size_t size = 4; size <= sizeof(msg); size++) {
		send_raw(p->theirs, &msg, size, 1);
		assert_int_equal(receive(p), -EPROTONOSUPPORT);
	}
	send_raw(p->theirs, &msg, 3, 0);
	assert_int_equal(receive(p), -EPROTO);
}

/* More descriptors than one, and than there is room for. */
static void receive__several_descriptors(void **state)
{
	struct pair *p = *state;

	for (unsigned int n = 0; n <= 8; n++) {
		send_raw(p->theirs, &valid, sizeof(valid), n);
		assert_int_equal(receive(p), n > 1 ? -EPROTO : 0);
		assert_int_equal(count_fds(), p->fds + 2);
	}
}

/* An empty packet looks like the end. What comes along with it has to go, too. */
static void receive__empty_with_descriptors(void **state)
{
	struct pair *p = *state;

	for (unsigned int n = 0; n <= 5; n++) {
		send_raw(p->theirs, "", 0, n);
		assert_true(receive(p) < 0);
		assert_int_equal(count_fds(), p->fds + 2);
	}
}

static void receive__no_room_for_the_descriptor(void **state)
{
	struct pair *p = *state;
	struct guard_msg msg;
	struct rlimit old, none;
	int fd;

	send_raw(p->theirs, &valid, sizeof(valid), 1);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = old;
	none.rlim_cur = 0;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(sock_receive(p->ours, false, &msg, &fd), -EPROTO);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(fd, -1);
}

static void send_numbered(struct pair *p, uint32_t id)
{
	struct guard_msg msg = valid;

	msg.id = id;
	send_raw(p->theirs, &msg, sizeof(msg), 0);
}

static void receive_all__in_order(void **state)
{
	struct pair *p = *state;
	struct guard_msg msgs[SOCK_AT_ONCE];
	uint32_t id = 0;
	int err;

	assert_int_equal(sock_receive_all(p->ours, msgs, &err), 0);
	assert_int_equal(err, -EAGAIN);
	for (uint32_t i = 0; i < 2 * SOCK_AT_ONCE + 1; i++)
		send_numbered(p, i);
	for (unsigned int calls = 0; calls < 3; calls++) {
		unsigned int n = sock_receive_all(p->ours, msgs, &err);

		assert_int_equal(n, calls < 2 ? SOCK_AT_ONCE : 1);
		assert_int_equal(err, calls < 2 ? 0 : -EAGAIN);
		for (unsigned int i = 0; i < n; i++)
			assert_int_equal(msgs[i].id, id++);
	}
}

/* What came before the garbage counts, what comes after it does not. */
static void receive_all__garbage(void **state)
{
	struct pair *p = *state;
	struct guard_msg msgs[SOCK_AT_ONCE];
	int err;

	send_numbered(p, 1);
	send_raw(p->theirs, "x", 1, 1);
	send_numbered(p, 2);
	assert_int_equal(sock_receive_all(p->ours, msgs, &err), 1);
	assert_int_equal(err, -EPROTO);
	assert_int_equal(msgs[0].id, 1);
}

static void receive_all__descriptors_and_the_end(void **state)
{
	struct pair *p = *state;
	struct guard_msg msgs[SOCK_AT_ONCE];
	int err;

	send_raw(p->theirs, &valid, sizeof(valid), 1);
	send_raw(p->theirs, &valid, sizeof(valid), 8);
	assert_int_equal(sock_receive_all(p->ours, msgs, &err), 1);
	assert_int_equal(err, -EPROTO);
	assert_int_equal(count_fds(), p->fds + 2);
	send_numbered(p, 1);
	close(p->theirs);
	p->theirs = -1;
	assert_int_equal(sock_receive_all(p->ours, msgs, &err), 1);
	assert_int_equal(err, -ECONNRESET);
	assert_int_equal(sock_receive_all(p->ours, msgs, &err), 0);
	assert_int_equal(err, -ECONNRESET);
}

static void peer__gone(void **state)
{
	struct pair *p = *state;
	struct guard_msg msg = valid;
	int fd;

	assert_int_equal(sock_send(p->theirs, &msg, -1), 0);
	close(p->theirs);
	p->theirs = -1;
	assert_int_equal(receive(p), 0); /* what was said before */
	assert_int_equal(receive(p), -ECONNRESET);
	assert_int_equal(sock_receive(p->ours, true, &msg, &fd), -ECONNRESET);
	assert_int_equal(sock_send(p->ours, &msg, -1), -ECONNRESET); /* and no SIGPIPE */
	assert_int_equal(sock_send(p->ours, &msg, STDERR_FILENO), -ECONNRESET);
	assert_true(sock_receive(-1, false, &msg, &fd) == -EBADF);
}

/* Left unread when it closed: that is an error on our side, and the end as well. */
static void peer__gone_without_reading(void **state)
{
	struct pair *p = *state;
	struct guard_msg msg = valid;

	assert_int_equal(sock_send(p->ours, &msg, STDERR_FILENO), 0);
	close(p->theirs);
	p->theirs = -1;
	assert_int_equal(receive(p), -ECONNRESET);
}

static void peer__does_not_read(void **state)
{
	struct pair *p = *state;
	struct guard_msg msg = valid;
	unsigned int n = 0;
	int err;

	while (!(err = sock_send(p->ours, &msg, -1)))
		n++;
	assert_int_equal(err, -EAGAIN);
	assert_true(n >= 4);
	assert_int_equal(sock_send(p->ours, &msg, STDERR_FILENO), -EAGAIN);
}

static int listen_at(const char *path, int backlog)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, path);
	assert_int_equal(bind(sock, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(sock, backlog), 0);
	return sock;
}

static void connect__there_or_not(void **state)
{
	struct pair *p = *state;
	int listener, sock, socks[8], n = 0;
	char too_long[200];

	memset(too_long, 'x', sizeof(too_long));
	too_long[sizeof(too_long) - 1] = '\0';
	assert_int_equal(sock_connect(too_long), -ENAMETOOLONG);
	too_long[sizeof(((struct sockaddr_un *)0)->sun_path)] = '\0';
	assert_int_equal(sock_connect(too_long), -ENAMETOOLONG);
	assert_int_equal(sock_connect("/nonexistent/socket"), -ENOENT);
	unlink("test-sock");
	listener = listen_at("test-sock", 1);
	sock = sock_connect("test-sock");
	assert_true(sock >= 0);
	assert_int_equal(fcntl(sock, F_GETFD), FD_CLOEXEC);
	close(sock);
	/* Nobody is waited for. */
	while (n < 8 && (socks[n] = sock_connect("test-sock")) >= 0)
		n++;
	assert_true(n < 8);
	assert_int_equal(socks[n], -EAGAIN);
	while (n-- > 0)
		close(socks[n]);
	close(listener);
	assert_int_equal(sock_connect("test-sock"), -ECONNREFUSED);
	unlink("test-sock");
	assert_int_equal(count_fds(), p->fds + 2);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(send__there_and_back),
		CASE(receive__other_sizes),
		CASE(receive__other_versions),
		CASE(receive__several_descriptors),
		CASE(receive__empty_with_descriptors),
		CASE(receive__no_room_for_the_descriptor),
		CASE(receive_all__in_order),
		CASE(receive_all__garbage),
		CASE(receive_all__descriptors_and_the_end),
		CASE(peer__gone),
		CASE(peer__gone_without_reading),
		CASE(peer__does_not_read),
		CASE(connect__there_or_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
