// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * A client that says anything. The input is a list of packets: one byte says what goes
 * along, one how long it is, then come its bytes. Whatever that is, the guard lets the
 * client go in the end, nothing is held any more, and no descriptor is left.
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake_fan.h"
#include "server.h"

#define PATH "/tmp/fuzz-server-file"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TASKS 1 /* whose descriptor the listener keeps */

static struct guard_server *server;
static int file = -1;

#define require(what)                                                                      \
	do {                                                                               \
		if (!(what)) {                                                             \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                           \
		}                                                                          \
	} while (0)

static unsigned int count_open(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* An event's descriptor is closed a moment after it is answered. */
static bool closes_to(unsigned int fds)
{
	for (unsigned int i = 0; count_open() > fds && i < 10000; i++)
		usleep(100);
	return count_open() <= fds;
}

static void start(void)
{
	const struct guard_opts opts = { .listeners = 1, .max_holds = 100 };

	file = open(PATH, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	require(file >= 0);
	fake_fan_on();
	fake_fan_task(1, "76 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc00000000 0x7f00\n");
	require(!guard_server_new(&opts, &server));
}

static void *serve(void *arg)
{
	const struct guard_peer peer = { .pid = 1, .uid = getuid(), .pidfd = -1 };

	guard_server_serve(server, *(int *)arg, &peer);
	return NULL;
}

static void send_packet(int sock, const void *data, size_t size, unsigned int nfds)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(3 * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)data, .iov_len = size };
	struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };
	const int fds[3] = { file, file, file };

	if (nfds) {
		hdr.msg_control = control.room;
		hdr.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(&control.align), fds, nfds * sizeof(int));
	}
	sendmsg(sock, &hdr, MSG_NOSIGNAL);
}

/* Bits 0 and 1: descriptors; 2: it begins as it should; 3: somebody wants the file then. */
static void send_one(int sock, unsigned int how, const uint8_t *data, size_t n)
{
	static const uint16_t types[] = { GUARD_TAKE, GUARD_GIVE_BACK, GUARD_STATUS, GUARD_TAKE };
	struct guard_msg msg = { 0 };

	memcpy(&msg, data, n < sizeof(msg) ? n : sizeof(msg));
	if (how & 4) {
		msg.version = GUARD_VERSION;
		msg.type = types[msg.type % 4];
		msg.id %= 8;
		n = sizeof(msg);
	}
	send_packet(sock, &msg, n < sizeof(msg) ? n : sizeof(msg), how & 3);
	if (how & 8)
		fake_fan_event(PATH, false, 1);
}

static void play(int sock, const uint8_t *data, size_t size)
{
	while (size >= 2) {
		size_t n = data[1] < size - 2 ? data[1] : size - 2;

		send_one(sock, data[0], data + 2, n);
		data += 2 + n;
		size -= 2 + n;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct guard_counters counters;
	pthread_t thread;
	unsigned int fds;
	int socks[2];

	if (!server)
		start();
	/* Each time anew: libFuzzer opens some for itself. */
	fds = count_open() + TASKS;
	require(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks));
	require(!pthread_create(&thread, NULL, serve, &socks[1]));
	play(socks[0], data, size);
	shutdown(socks[0], SHUT_WR);
	pthread_join(thread, NULL);
	close(socks[0]);
	guard_server_count(server, &counters);
	require(!counters.holds && !counters.clients);
	require(!fake_fan_marks(file).marked);
	while (fake_fan_waiting()) /* read, but not yet looked at */
		usleep(100);
	require(closes_to(fds));
	return 0;
}
