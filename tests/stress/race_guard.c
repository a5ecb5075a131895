// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * race_guard [SECONDS] [daemon|library]: a guard, several clients that take files, give
 * them back, or hang up in the middle, and several callers who read and change them, while
 * the process forks. Who changes a file is let through only when nobody holds it, nobody
 * waits for ever, and nothing is left.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_fan.h"
#include "server.h"
#include "sock.h"
#include "support.h"

#define FILES 3
#define CLIENTS 5
#define CALLERS 4
#define CALLS 150 /* of each in a round: the fake remembers some thousands */
#define STUCK_MS 20000

#define REQUIRE(cond) require(cond, #cond, __LINE__)

static const char *const texts[] = {
	"76 0x7f00 0x1000 0x0 0x0 0x0 0x0 0x7ffc12345678 0x7f0012345678\n", /* truncate */
	"0 0x3 0x7f00 0x1000 0x0 0x0 0x0 0x7ffc12345678 0x7f0012345678\n",  /* read */
	"1 0x3 0x7f00 0x1000 0x0 0x0 0x0 0x7ffc12345678 0x7f0012345678\n",  /* write */
	"running\n",							    /* cannot be told */
};
static const char sleeps[] = "35 0x3 0x7f00 0x0 0x0 0x0 0x0 0x7ffc12345678 0x7f0012345678\n";

static struct guard_server *server;
static struct file files[FILES];
static atomic_int holding[FILES]; /* clients that have it, and have not begun to give it back */
static atomic_bool stop;
static atomic_uint takes, refused, passed, hangups, forks;

static void require(bool ok, const char *what, int line)
{
	if (ok)
		return;
	fprintf(stderr, "race_guard.c:%d: not so: %s\n", line, what);
	abort();
}

static unsigned int below(unsigned int *seed, unsigned int n)
{
	return (unsigned int)rand_r(seed) % n;
}

/* ------------------------------------------------------------------------- */
/* Clients */

static void *serve(void *arg)
{
	const struct guard_peer peer = { .pid = getpid(), .uid = getuid(), .pidfd = -1 };

	REQUIRE(!guard_server_serve(server, (int)(intptr_t)arg, &peer));
	return NULL;
}

static void say(int sock, enum guard_type type, uint32_t id, uint32_t flags, int fd)
{
	struct guard_msg msg = { .type = (uint16_t)type, .id = id, .flags = flags };

	REQUIRE(!sock_send(sock, &msg, fd));
}

/* False: nothing in that time. */
static bool hear(int sock, int ms, struct guard_msg *ret_msg)
{
	struct pollfd pfd = { .fd = sock, .events = POLLIN };
	int fd;

	if (poll(&pfd, 1, ms) < 1)
		return false;
	REQUIRE(!sock_receive(sock, false, ret_msg, &fd));
	REQUIRE(fd < 0);
	return true;
}

/* Its answer; a break may come before it. */
static int taken(int sock)
{
	struct guard_msg msg;

	do
		REQUIRE(hear(sock, STUCK_MS, &msg));
	while (msg.type != GUARD_TAKEN);
	return msg.error;
}

/* From taking a file to giving it back, or hanging up; true: it hangs up. */
static bool hold_once(int sock, unsigned int *seed)
{
	const unsigned int which = below(seed, FILES);
	const bool hang_up = !below(seed, 8);
	struct guard_msg msg;
	int err;

	say(sock, GUARD_TAKE, which, below(seed, 2) ? GUARD_EXCLUSIVE : 0, files[which].fd);
	if (!below(seed, 30))
		return true; /* before it is answered */
	err = taken(sock);
	REQUIRE(!err || err == -EAGAIN || err == -EINPROGRESS);
	if (err) {
		usleep(below(seed, 300));
		return hang_up;
	}
	atomic_fetch_add(&takes, 1);
	atomic_fetch_add(&holding[which], 1);
	if (!below(seed, 5))
		say(sock, GUARD_STATUS, 0, 0, -1);
	while (hear(sock, (int)below(seed, 4), &msg))
		REQUIRE(msg.type == GUARD_BREAK || msg.type == GUARD_STATUS);
	usleep(below(seed, 500));
	atomic_fetch_sub(&holding[which], 1);
	if (!hang_up)
		say(sock, GUARD_GIVE_BACK, which, below(seed, 2) ? GUARD_KEEP : 0, -1);
	return hang_up;
}

/*
 * All but the first are watched from begin to end: it holds them, and gives them back for
 * the time being. Calls on the first may come while nobody watches, and are not known of.
 */
static int watch_all(pthread_t *ret_thread)
{
	int socks[2];

	REQUIRE(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks));
	REQUIRE(!pthread_create(ret_thread, NULL, serve, (void *)(intptr_t)socks[1]));
	for (uint32_t i = 1; i < FILES; i++) {
		say(socks[0], GUARD_TAKE, i, 0, files[i].fd);
		REQUIRE(!taken(socks[0]));
		say(socks[0], GUARD_GIVE_BACK, i, GUARD_KEEP, -1);
	}
	return socks[0];
}

static void *be_client(void *arg)
{
	unsigned int seed = (unsigned int)(uintptr_t)arg;

	while (!atomic_load(&stop)) {
		pthread_t thread;
		int socks[2];

		REQUIRE(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks));
		REQUIRE(!pthread_create(&thread, NULL, serve, (void *)(intptr_t)socks[1]));
		while (!atomic_load(&stop) && !hold_once(socks[0], &seed))
			;
		/* A child that was forked just now may have it as well. */
		shutdown(socks[0], SHUT_RDWR);
		close(socks[0]);
		pthread_join(thread, NULL);
		atomic_fetch_add(&hangups, 1);
	}
	return NULL;
}

/* ------------------------------------------------------------------------- */
/* Callers */

static void call_once(pid_t tid, unsigned int *seed)
{
	const unsigned int which = below(seed, FILES), what = below(seed, 4);
	const uint64_t until = now_ms() + STUCK_MS;
	int event, ret;

	fake_fan_task(tid, texts[what == 3 ? 0 : what]);
	if (what == 3)
		fake_fan_task_runs(tid, below(seed, 2000));
	event = fake_fan_event(files[which].path, false, tid);
	while ((ret = fake_fan_answer(event)) == FAKE_WAITS) {
		REQUIRE(now_ms() < until);
		usleep(50);
	}
	REQUIRE(!ret || ret == -ETXTBSY);
	/* It is at it, and has not returned: nobody can have taken the file since. */
	if (!ret && (what == 0 || what == 3) && which > 0)
		REQUIRE(atomic_load(&holding[which]) == 0);
	REQUIRE(!ret || what == 0 || what == 3);
	atomic_fetch_add(ret ? &refused : &passed, 1);
	fake_fan_task(tid, sleeps);
}

static void *be_caller(void *arg)
{
	static atomic_uint seeds = 4711;
	unsigned int seed = atomic_fetch_add(&seeds, 1);

	for (int i = 0; i < CALLS; i++) {
		call_once((pid_t)(intptr_t)arg, &seed);
		usleep(below(&seed, 400));
	}
	return NULL;
}

static void *fork_often(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop)) {
		pid_t pid = fork();
		int status;

		if (!pid)
			_exit(0);
		REQUIRE(pid > 0);
		REQUIRE(waitpid(pid, &status, 0) == pid && !status);
		atomic_fetch_add(&forks, 1);
		usleep(5000);
	}
	return NULL;
}

static void one_round(void)
{
	pthread_t callers[CALLERS];

	for (intptr_t i = 0; i < CALLERS; i++)
		REQUIRE(!pthread_create(&callers[i], NULL, be_caller, (void *)(1000 + i)));
	for (int i = 0; i < CALLERS; i++)
		pthread_join(callers[i], NULL);
	REQUIRE(!fake_fan_waiting()); /* which lets it forget them */
}

/* ------------------------------------------------------------------------- */

static void end(void)
{
	struct guard_counters c;

	guard_server_count(server, &c);
	printf("takes %u, let through %u, refused %u, breaks %ju, hang-ups %u, forks %u\n",
	       atomic_load(&takes), atomic_load(&passed), atomic_load(&refused),
	       (uintmax_t)c.breaks, atomic_load(&hangups), atomic_load(&forks));
	REQUIRE(c.clients == 0 && c.holds == 0 && c.lost == 0);
	REQUIRE(c.breaks > 0 && c.refused > 0 && atomic_load(&takes) > 0);
	for (int i = 0; i < FILES; i++) {
		REQUIRE(atomic_load(&holding[i]) == 0);
		REQUIRE(fake_fan_marks(files[i].fd).marked == 0);
	}
	REQUIRE(fake_fan_strays() == 0);
	guard_server_stop(server);
	guard_server_free(server);
	for (int i = 0; i < FILES; i++)
		file_end(&files[i]);
	fake_fan_off(); /* fails if the group is open still */
}

int main(int argc, char **argv)
{
	const unsigned int seconds = argc > 1 ? (unsigned int)atoi(argv[1]) : 5;
	const struct guard_opts opts = {
		.listeners = 4,
		.in_library = argc > 2 && !strcmp(argv[2], "library"),
	};
	const uint64_t until = now_ms() + seconds * 1000;
	pthread_t clients[CLIENTS], forker, watcher;
	int watching;

	fake_fan_on();
	for (int i = 0; i < FILES; i++)
		file_make(&files[i], 1, false);
	REQUIRE(!guard_server_new(&opts, &server));
	watching = watch_all(&watcher);
	for (uintptr_t i = 0; i < CLIENTS; i++)
		REQUIRE(!pthread_create(&clients[i], NULL, be_client, (void *)(i + 1)));
	REQUIRE(!pthread_create(&forker, NULL, fork_often, NULL));
	do
		one_round();
	while (now_ms() < until);
	atomic_store(&stop, true);
	for (int i = 0; i < CLIENTS; i++)
		pthread_join(clients[i], NULL);
	pthread_join(forker, NULL);
	close(watching);
	pthread_join(watcher, NULL);
	end();
	return 0;
}
