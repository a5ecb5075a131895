// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * What an unprivileged user can do to the daemon: nothing that keeps it from serving
 * others, and nothing about files of others.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "holder.h"
#include "sock.h"

#define MANY 1000u
#define KEPT_FDS 8 /* its listeners keep some of those in /proc that they looked at */

struct attack {
	const char *name;
	/* As USER, in a process of its own; victim: a file that is guarded for root. */
	void (*run)(const struct daemon *d, const struct world *w, const char *victim);
};

static bool hangs_up(int sock)
{
	struct guard_msg msg;

	return !daemon_hear(sock, &msg);
}

/* Any bytes as one packet, with any number of descriptors. */
static ssize_t send_raw(int sock, const void *data, size_t size, const int *fds, unsigned int count)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(16 * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = size };
	struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (count) {
		hdr.msg_control = control.room;
		hdr.msg_controllen = CMSG_SPACE(count * sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(&control.align), fds, count * sizeof(int));
	}
	return sendmsg(sock, &hdr, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int own_file(const struct world *w, const char *name, int flags)
{
	char path[256];

	world_path(w, name, path, sizeof(path));
	return (int)CALL(open(path, flags | O_CLOEXEC));
}

/* ------------------------------------------------------------------------- */
/* Messages that are none */

static void garbage(const struct daemon *d, const struct world *w, const char *victim)
{
	static const size_t sizes[] = { 1, 2, 3, 4, 7, 8, 64, 199, 200, 201, 4096, 60000 };
	static uint8_t bytes[60000];
	unsigned int seed = 1;

	(void)w;
	(void)victim;
	for (unsigned int i = 0; i < 4 * ARRAY_SIZE(sizes); i++) {
		int sock = daemon_connect(d);

		for (size_t b = 0; b < sizeof(bytes); b++)
			bytes[b] = (uint8_t)(i % 4 == 3 ? 0 : rand_r(&seed) >> 8);
		CHECK(send_raw(sock, bytes, sizes[i / 4], NULL, 0) > 0);
		while (!hangs_up(sock))
			; /* it may say which version it speaks */
		CALL(close(sock));
	}
}

static void half_messages(const struct daemon *d, const struct world *w, const char *victim)
{
	struct guard_msg msg = { .version = GUARD_VERSION, .type = GUARD_STATUS };
	struct guard_msg two[2];

	(void)w;
	(void)victim;
	for (size_t size = 1; size < sizeof(msg); size += 7) {
		int sock = daemon_connect(d);

		CHECK(send_raw(sock, &msg, size, NULL, 0) > 0);
		CHECK(hangs_up(sock));
		CALL(close(sock));
	}
	two[0] = two[1] = msg;
	for (int sock = daemon_connect(d); sock >= 0; sock = -1) {
		CHECK(send_raw(sock, two, sizeof(two), NULL, 0) > 0);
		CHECK(hangs_up(sock));
		CALL(close(sock));
	}
}

static void wrong_messages(const struct daemon *d, const struct world *w, const char *victim)
{
	static const uint16_t types[] = { 0,	       4,	   15, GUARD_TAKEN,
					  GUARD_BREAK, GUARD_LOST, 99, UINT16_MAX };
	struct guard_msg msg;
	int sock;

	(void)w;
	(void)victim;
	for (unsigned int i = 0; i < ARRAY_SIZE(types); i++) {
		memset(&msg, 0, sizeof(msg));
		msg.version = GUARD_VERSION;
		msg.type = types[i];
		sock = daemon_connect(d);
		CHECK(send_raw(sock, &msg, sizeof(msg), NULL, 0) > 0);
		CHECK(hangs_up(sock));
		CALL(close(sock));
	}
	/* Of another version: it is told so. */
	msg.version = GUARD_VERSION + 1;
	sock = daemon_connect(d);
	CHECK(send_raw(sock, &msg, sizeof(msg), NULL, 0) > 0);
	CHECK(daemon_hear(sock, &msg));
	CHECK_EQ(msg.error, -EPROTONOSUPPORT);
	CHECK(hangs_up(sock));
	CALL(close(sock));
	/* Unknown names are no reason to hang up. */
	memset(&msg, 0, sizeof(msg));
	msg.type = GUARD_GIVE_BACK;
	msg.id = 4711;
	sock = daemon_connect(d);
	CHECK_EQ(sock_send(sock, &msg, -1), 0);
	msg.type = GUARD_STATUS;
	CHECK_EQ(sock_send(sock, &msg, -1), 0);
	CHECK(daemon_hear(sock, &msg));
	CHECK_EQ(msg.type, GUARD_STATUS);
	CALL(close(sock));
}

/* ------------------------------------------------------------------------- */
/* Descriptors */

static void wrong_descriptors(const struct daemon *d, const struct world *w, const char *victim)
{
	struct {
		const char *what;
		int fd, err;
		unsigned int flags;
	} tries[] = {
		{ "a file of root", open(victim, O_RDONLY | O_CLOEXEC), -EACCES, 0 },
		{ "the same, exclusively", open(victim, O_RDONLY | O_CLOEXEC), -EACCES,
		  GUARD_EXCLUSIVE },
		{ "a device", open("/dev/null", O_RDWR | O_CLOEXEC), -EINVAL, 0 },
		{ "a directory", open(w->dir, O_RDONLY | O_CLOEXEC), -EINVAL, 0 },
		{ "O_PATH", own_file(w, "own", O_PATH), -EINVAL, 0 },
		{ "O_PATH of root", open(victim, O_PATH | O_CLOEXEC), -EINVAL, 0 },
		{ "a socket", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), -EINVAL, 0 },
		{ "an epoll", epoll_create1(EPOLL_CLOEXEC), -EINVAL, 0 },
		{ "the daemon's socket", daemon_connect(d), -EINVAL, 0 },
		{ "exclusive, read-only", own_file(w, "own", O_RDONLY), -EBADF, GUARD_EXCLUSIVE },
		{ "a file of proc", open("/proc/self/status", O_RDONLY | O_CLOEXEC), -EOPNOTSUPP,
		  0 },
	};
	int sock = daemon_connect(d), fd = own_file(w, "own", O_RDWR), pipes[2];

	for (unsigned int i = 0; i < ARRAY_SIZE(tries); i++) {
		int err;

		fprintf(stderr, "%s\n", tries[i].what);
		CHECK(tries[i].fd >= 0);
		err = daemon_take(sock, i, tries[i].fd, tries[i].flags);
		CHECK_EQ(err, tries[i].err);
		CALL(close(tries[i].fd));
	}
	CALL(pipe(pipes));
	CHECK_EQ(daemon_take(sock, 100, pipes[0], 0), -EINVAL);
	CHECK_EQ(daemon_take(sock, 100, pipes[1], 0), -EINVAL);
	CHECK_EQ(daemon_take(sock, 100, -1, 0), -EPROTO);
	/* After all this it does what is right. */
	CHECK_EQ(daemon_take(sock, 100, fd, GUARD_EXCLUSIVE), 0);
	CHECK_EQ(daemon_take(sock, 100, fd, GUARD_EXCLUSIVE), -EEXIST);
	CALL(close(sock));
	CALL(close(pipes[0]));
	CALL(close(pipes[1]));
	CALL(close(fd));
}

static void many_descriptors(const struct daemon *d, const struct world *w, const char *victim)
{
	int fd = own_file(w, "own", O_RDWR), fds[16];
	struct guard_msg msg = { .version = GUARD_VERSION, .type = GUARD_TAKE };

	(void)victim;
	for (unsigned int i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = fd;
	for (unsigned int n = 2; n <= ARRAY_SIZE(fds); n++) {
		int sock = daemon_connect(d);

		CHECK(send_raw(sock, &msg, sizeof(msg), fds, n) > 0);
		CHECK(hangs_up(sock));
		CALL(close(sock));
	}
	msg.type = GUARD_STATUS;
	for (unsigned int n = 1; n <= ARRAY_SIZE(fds); n += 5) {
		int sock = daemon_connect(d);

		CHECK(send_raw(sock, &msg, sizeof(msg), fds, n) > 0);
		CHECK(hangs_up(sock));
		CALL(close(sock));
	}
	CALL(close(fd));
}

/* ------------------------------------------------------------------------- */
/* Too much of everything */

static void connections(const struct daemon *d, const struct world *w, const char *victim)
{
	static int socks[MANY];
	unsigned int served = 0, connected = 0;

	(void)w;
	(void)victim;
	for (unsigned int i = 0; i < MANY; i++) {
		socks[i] = sock_connect(d->socket);
		connected += socks[i] >= 0;
	}
	for (unsigned int i = 0; i < MANY; i++) {
		struct guard_msg msg = { .type = GUARD_STATUS };

		if (socks[i] < 0 || sock_send(socks[i], &msg, -1))
			continue;
		served += daemon_hear(socks[i], &msg);
	}
	fprintf(stderr, "%u connected, %u served\n", connected, served);
	CHECK_BETWEEN(served, 1, MANY - 1);
	for (unsigned int i = 0; i < MANY; i++) {
		if (socks[i] >= 0)
			CALL(close(socks[i]));
	}
}

static void holds(const struct daemon *d, const struct world *w, const char *victim)
{
	int sock = daemon_connect(d), fd = own_file(w, "own", O_RDWR), err = 0;
	unsigned int count = 0;

	(void)victim;
	for (; !err && count < 10 * MANY; count++)
		err = daemon_take(sock, count, fd, 0);
	fprintf(stderr, "%u holds\n", count);
	CHECK_EQ(err, -EUSERS);
	CALL(close(sock));
	CALL(close(fd));
}

/* Asks without end, and does not listen. */
static void never_reads(const struct daemon *d, const struct world *w, const char *victim)
{
	struct guard_msg msg = { .type = GUARD_STATUS };
	uint64_t end = now_ns() + SOON_MS * MSEC;
	int sock = daemon_connect(d);
	unsigned int full = 0;

	(void)w;
	(void)victim;
	while (full < 50) { /* it reads no more of them */
		int err = sock_send(sock, &msg, -1);

		CHECK(!err || err == -EAGAIN);
		full = err ? full + 1 : 0;
		if (err)
			sleep_ms(2);
		CHECK(now_ns() < end);
	}
	CALL(close(sock));
}

/* The same, when it is to be told that others want a file that it holds. */
static void never_reads_breaks(const struct daemon *d, const struct world *w, const char *victim)
{
	int sock = daemon_connect(d), fd = own_file(w, "own", O_RDWR);
	struct guard_msg msg = { .type = GUARD_STATUS };
	char path[256];
	uint64_t begin;
	pid_t pid;

	(void)victim;
	world_path(w, "own", path, sizeof(path));
	for (uint32_t id = 0; id < 300; id++) {
		if (daemon_take(sock, id, fd, 0))
			break;
	}
	while (!sock_send(sock, &msg, -1))
		;
	begin = now_ns();
	pid = (pid_t)CALL(fork());
	if (!pid)
		_exit(truncate(path, PAGE) ? EXIT_FAILURE : EXIT_SUCCESS);
	expect_child_ok(pid, SOON_MS);
	/* As for everybody who does not answer. */
	CHECK_BETWEEN((now_ns() - begin) / MSEC, 900, 4000);
	CALL(close(sock));
	CALL(close(fd));
}

/* It cannot even be connected to by a path that is too long, or a stream. */
static void wrong_sockets(const struct daemon *d, const struct world *w, const char *victim)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int sock;

	(void)w;
	(void)victim;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", d->socket);
	sock = (int)CALL(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	CHECK(connect(sock, (struct sockaddr *)&addr, sizeof(addr)) == -1);
	CALL(close(sock));
	sock = daemon_connect(d);
	CALL(shutdown(sock, SHUT_RD));
	CALL(close(sock));
	sock = daemon_connect(d);
	CALL(shutdown(sock, SHUT_WR));
	CHECK(hangs_up(sock));
	CALL(close(sock));
}

/* ------------------------------------------------------------------------- */

static unsigned int fds_of(pid_t pid)
{
	unsigned int n = 0;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	CHECK(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void run_as_user(const struct attack *a, const struct daemon *d, const struct world *w,
			const char *victim)
{
	const struct rlimit limit = { .rlim_cur = 4 * MANY, .rlim_max = 4 * MANY };
	pid_t pid;

	CALL(setrlimit(RLIMIT_NOFILE, &limit));
	fflush(NULL);
	pid = (pid_t)CALL(fork());
	if (!pid) {
		become_user();
		a->run(d, w, victim);
		_exit(EXIT_SUCCESS);
	}
	expect_child_ok(pid, 4 * SOON_MS);
}

/* Before, meanwhile and afterwards somebody else's file is guarded. */
static void attack(const struct world *w, const void *arg)
{
	struct daemon d = { 0 };
	const struct holder_how how = { .daemon = &d };
	unsigned int fds, before;
	struct holder victim;
	struct other other;
	char path[256];

	other_start(&other);
	daemon_start(&d);
	holder_start(&victim, w, "victim", &how);
	holder_expect(&victim, NEWS_READY);
	CALL(chown(victim.file.path, 0, 0)); /* it is breakable, so that changes nothing */
	world_path(w, "own", path, sizeof(path));
	pattern_write(path, FILE_SIZE, 1);
	CALL(chown(path, USER, USER));
	before = (unsigned int)daemon_count(&d).files;
	sysctl_set("lease-break-time", 1);
	EVENTUALLY(daemon_count(&d).clients == 2);
	fds = fds_of(d.pid);
	run_as_user(arg, &d, w, victim.file.path);
	EVENTUALLY(daemon_count(&d).clients == 2); /* the holder, and who asks */
	EVENTUALLY(daemon_count(&d).files == before);
	EVENTUALLY(fds_of(d.pid) <= fds + KEPT_FDS);
	CHECK(holder_is_quiet(&victim));
	sysctl_set("lease-break-time", 45);
	other_begin(&other, OP_TRUNCATE, victim.file.path, PAGE, -1);
	holder_expect(&victim, NEWS_DRAIN);
	CHECK(other_waits(&other));
	holder_order(&victim, ORDER_ANSWER);
	CHECK_EQ(other_end(&other, SOON_MS), 0);
	CHECK_EQ(holder_expect(&victim, NEWS_RELEASED), 0);
	holder_end(&victim);
	daemon_stop(&d);
	other_stop(&other);
}

void add_attack_cases(void)
{
	static const struct attack attacks[] = {
		{ "garbage", garbage },
		{ "half-messages", half_messages },
		{ "wrong-messages", wrong_messages },
		{ "wrong-descriptors", wrong_descriptors },
		{ "many-descriptors", many_descriptors },
		{ "connections", connections },
		{ "holds", holds },
		{ "never-reads", never_reads },
		{ "never-reads-breaks", never_reads_breaks },
		{ "wrong-sockets", wrong_sockets },
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(attacks); i++)
		add_case(attack, &attacks[i], KIND_GUARD, 60, "attack/%s", attacks[i].name);
}
