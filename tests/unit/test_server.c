// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The guard, from both sides: those who want a file, and clients, good ones and others. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_fan.h"
#include "server.h"
#include "sock.h"
#include "support.h"

#define MAX_CLIENTS 4
#define LINES 16

static const char truncates[] = "76 0x7f00 0x1000 0x0 0x0 0x0 0x0 0x7ffc12345678 0x7f0012345678\n";
static const char reads[] = "0 0x3 0x7f00 0x1000 0x0 0x0 0x0 0x7ffc12345678 0x7f0012345678\n";
static const char sleeps[] = "35 0x3 0x7f00 0x0 0x0 0x0 0x0 0x7ffc12345678 0x7f0012345678\n";

/* One that the guard talks with, and the thread in which it does. */
struct client {
	struct stage *stage;
	struct guard_peer peer;
	int ours, theirs;
	pthread_t thread;
	bool runs;
	atomic_bool ended;
	int ret;
};

struct stage {
	struct guard_server *server;
	struct file file;
	struct client clients[MAX_CLIENTS];
	unsigned int fds, threads;
	pthread_mutex_t lock; /* lines */
	char lines[LINES][256];
	unsigned int nlines;
};

static atomic_uint fail_calloc; /* the nth from now on */

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);

void *__wrap_calloc(size_t n, size_t size)
{
	if (atomic_load(&fail_calloc) && atomic_fetch_sub(&fail_calloc, 1) == 1)
		return NULL;
	return __real_calloc(n, size);
}

static bool wait_until(bool (*cond)(void *arg), void *arg, unsigned int ms)
{
	uint64_t until = now_ms() + ms;

	while (!cond(arg) && now_ms() < until)
		usleep(500);
	return cond(arg);
}

static void on_log(void *arg, enum guard_log level, const char *line)
{
	struct stage *s = arg;

	(void)level;
	assert_null(strchr(line, '\n'));
	pthread_mutex_lock(&s->lock);
	snprintf(s->lines[s->nlines++ % LINES], sizeof(s->lines[0]), "%s", line);
	pthread_mutex_unlock(&s->lock);
}

static unsigned int said(struct stage *s, const char *text)
{
	unsigned int n = 0;

	pthread_mutex_lock(&s->lock);
	for (unsigned int i = 0; i < LINES; i++)
		n += strstr(s->lines[i], text) != NULL;
	pthread_mutex_unlock(&s->lock);
	return n;
}

static void start(struct stage *s, struct guard_opts opts)
{
	opts.listeners = 2;
	opts.log = on_log;
	opts.arg = s;
	assert_int_equal(guard_server_new(&opts, &s->server), 0);
	assert_int_equal(fake_fan_groups(), 1);
}

/* Without a server. */
static int setup_bare(void **state)
{
	struct stage *s = __real_calloc(1, sizeof(*s));

	assert_non_null(s);
	s->fds = count_fds();
	s->threads = count_threads();
	pthread_mutex_init(&s->lock, NULL);
	fake_fan_on();
	file_make(&s->file, 2, false);
	*state = s;
	return 0;
}

static int setup(void **state)
{
	setup_bare(state);
	start(*state, (struct guard_opts){ 0 });
	return 0;
}

static void *serve(void *arg)
{
	struct client *c = arg;

	c->ret = guard_server_serve(c->stage->server, c->theirs, &c->peer);
	atomic_store(&c->ended, true);
	return NULL;
}

static struct client *enter_as(struct stage *s, unsigned int i, struct guard_peer peer)
{
	struct client *c = &s->clients[i];
	int socks[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks), 0);
	*c = (struct client){
		.stage = s, .peer = peer, .ours = socks[0], .theirs = socks[1], .runs = true
	};
	assert_int_equal(pthread_create(&c->thread, NULL, serve, c), 0);
	return c;
}

static struct client *enter(struct stage *s, unsigned int i)
{
	return enter_as(s, i, (struct guard_peer){ .pid = getpid(), .uid = getuid(), .pidfd = -1 });
}

static bool has_ended(void *arg)
{
	return atomic_load(&((struct client *)arg)->ended);
}

/* The guard has let it go by itself. */
static int ended(struct client *c)
{
	assert_true(wait_until(has_ended, c, 5000));
	pthread_join(c->thread, NULL);
	c->runs = false;
	close(c->ours);
	return c->ret;
}

static void go(struct client *c)
{
	if (!c->runs)
		return;
	close(c->ours);
	pthread_join(c->thread, NULL);
	c->runs = false;
}

static bool threads_gone(void *arg)
{
	return count_threads() == ((struct stage *)arg)->threads;
}

static int teardown(void **state)
{
	struct stage *s = *state;

	fake_fan_shut(false);
	fake_fan_task_hangs(51, false);
	for (unsigned int i = 0; i < MAX_CLIENTS; i++)
		go(&s->clients[i]);
	assert_int_equal(fake_fan_marks(s->file.fd).marked, 0);
	assert_int_equal(fake_fan_strays(), 0);
	if (s->server) {
		guard_server_stop(s->server);
		guard_server_free(s->server);
	}
	file_end(&s->file);
	fake_fan_off();
	assert_int_equal(count_fds(), s->fds);
	assert_true(wait_until(threads_gone, s, 1000));
	free(s);
	return 0;
}

/* ------------------------------------------------------------------------- */
/* Talking */

static void say(struct client *c, enum guard_type type, uint32_t id, uint32_t flags, int fd)
{
	struct guard_msg msg = { .type = (uint16_t)type, .id = id, .flags = flags };

	assert_int_equal(sock_send(c->ours, &msg, fd), 0);
}

static struct guard_msg hear_any(struct client *c)
{
	struct pollfd pfd = { .fd = c->ours, .events = POLLIN };
	struct guard_msg msg;
	int fd;

	assert_int_equal(poll(&pfd, 1, 5000), 1);
	assert_int_equal(sock_receive(c->ours, false, &msg, &fd), 0);
	assert_int_equal(fd, -1);
	return msg;
}

static struct guard_msg hear(struct client *c, enum guard_type type)
{
	struct guard_msg msg = hear_any(c);

	assert_int_equal(msg.type, type);
	return msg;
}

static bool hears_nothing(struct client *c)
{
	struct pollfd pfd = { .fd = c->ours, .events = POLLIN };

	return poll(&pfd, 1, 20) == 0;
}

static int take_fd(struct client *c, uint32_t id, uint32_t flags, int fd)
{
	struct guard_msg msg;

	say(c, GUARD_TAKE, id, flags, fd);
	msg = hear(c, GUARD_TAKEN);
	assert_int_equal(msg.id, id);
	assert_int_equal(!!msg.text[0], !!msg.error);
	return msg.error;
}

static int take(struct client *c, uint32_t id)
{
	return take_fd(c, id, 0, c->stage->file.fd);
}

static void give_back(struct client *c, uint32_t id, uint32_t flags)
{
	say(c, GUARD_GIVE_BACK, id, flags, -1);
}

static struct guard_counters counters(struct stage *s)
{
	struct guard_counters ret;

	guard_server_count(s->server, &ret);
	return ret;
}

/* What it said before has been done. */
static struct guard_counters sync_with(struct client *c)
{
	struct guard_counters ret;
	struct guard_msg msg;

	say(c, GUARD_STATUS, 0, 0, -1);
	msg = hear(c, GUARD_STATUS);
	memcpy(&ret, msg.text, sizeof(ret));
	return ret;
}

static int access_as(struct stage *s, pid_t tid, const char *text)
{
	fake_fan_task(tid, text);
	return fake_fan_event(s->file.path, false, tid);
}

static int answer_in(int event, unsigned int ms)
{
	uint64_t until = now_ms() + ms;

	while (fake_fan_answer(event) == FAKE_WAITS && now_ms() < until)
		usleep(200);
	return fake_fan_answer(event);
}

static int answer(int event)
{
	return answer_in(event, 5000);
}

/* As long as that could be seen. */
static void waits(int event)
{
	assert_int_equal(answer_in(event, 30), FAKE_WAITS);
}

/* ------------------------------------------------------------------------- */
/* What it is for */

static void server__break(void **state)
{
	struct stage *s = *state;
	struct client *c = enter(s, 0);
	struct guard_msg msg;
	uint64_t now;
	int event;

	assert_int_equal(take(c, 1), 0);
	assert_int_equal(fake_fan_marks(s->file.fd).marked, 1);
	assert_int_equal(answer(access_as(s, 50, reads)), 0);
	now = now_ns();
	event = access_as(s, 51, truncates);
	msg = hear(c, GUARD_BREAK);
	assert_int_equal(msg.id, 1);
	assert_in_range(msg.time_ns, now + 45000000000u, now_ns() + 45000000000u);
	waits(event);
	/* Others who only read do not. */
	assert_int_equal(answer(access_as(s, 50, reads)), 0);
	fake_fan_task(52, "257 0x3 0x7f00 0x2 0x0 0x0 0x0 0x7ffc12345678 0x7f0012345678\n");
	assert_int_equal(answer(fake_fan_event(s->file.path, true, 52)), 0);
	waits(event);
	assert_int_equal(take_fd(c, 2, 0, s->file.fd), -EAGAIN);
	give_back(c, 1, GUARD_KEEP);
	assert_int_equal(answer(event), 0);
	/* It runs now: nobody has the file before it has ended. */
	assert_int_equal(take(c, 1), -EINPROGRESS);
	sleep_ms(300);
	assert_int_equal(take(c, 1), -EINPROGRESS);
	fake_fan_task(51, sleeps);
	assert_int_equal(take(c, 1), 0);
	assert_int_equal(fake_fan_marks(s->file.fd).watches, 1);
	give_back(c, 1, 0);
	sync_with(c);
	assert_int_equal(fake_fan_marks(s->file.fd).marked, 0);
	assert_int_equal(fake_fan_marks(s->file.fd).unwatches, 1);
}

static void server__exclusive(void **state)
{
	struct stage *s = *state;
	struct client *c = enter(s, 0);
	int event;

	assert_int_equal(take_fd(c, 1, GUARD_EXCLUSIVE, s->file.fd), 0);
	assert_int_equal(answer(access_as(s, 51, truncates)), -ETXTBSY);
	assert_int_equal(answer(access_as(s, 52, reads)), 0);
	assert_true(hears_nothing(c));
	fake_fan_owner(getuid() + 1); /* given away since */
	event = access_as(s, 51, truncates);
	hear(c, GUARD_BREAK);
	waits(event);
	give_back(c, 1, 0);
	assert_int_equal(answer(event), 0);
}

static void server__too_late(void **state)
{
	struct stage *s = *state;
	struct client *c = enter(s, 0);
	uint64_t begin;
	int event;

	fake_fan_break_time(1);
	assert_int_equal(take(c, 1), 0);
	begin = now_ns();
	event = access_as(s, 51, truncates);
	hear(c, GUARD_BREAK);
	assert_int_equal(hear(c, GUARD_LOST).id, 1);
	assert_true(now_ns() - begin >= 1000000000u);
	assert_int_equal(answer(event), 0);
	assert_int_equal(said(s, "did not give a file back in time"), 1);
	assert_int_equal(counters(s).lost, 1);
	give_back(c, 1, GUARD_KEEP);
	fake_fan_task(51, NULL); /* it has gone */
	fake_fan_break_time(-1); /* no deadline is no deadline */
	assert_int_equal(take(c, 1), 0);
	event = access_as(s, 52, truncates);
	assert_true(hear(c, GUARD_BREAK).time_ns == 0);
	waits(event);
}

static void server__two_clients(void **state)
{
	struct stage *s = *state;
	struct client *a = enter(s, 0), *b = enter(s, 1);
	int event;

	assert_int_equal(take(a, 1), 0);
	assert_int_equal(take(b, 1), 0);
	assert_int_equal(sync_with(a).clients, 2);
	event = access_as(s, 51, truncates);
	hear(a, GUARD_BREAK);
	hear(b, GUARD_BREAK);
	give_back(a, 1, GUARD_KEEP);
	sync_with(a);
	waits(event);
	go(b); /* in the middle */
	assert_int_equal(answer(event), 0);
	assert_int_equal(fake_fan_marks(s->file.fd).marked, 1);
	go(a);
	assert_int_equal(fake_fan_marks(s->file.fd).marked, 0);
}

/* Writes are let through where they move nothing, and that is found out after taking. */
static void server__writes(void **state)
{
	static const char writes[] =
		"1 0x3 0x7f00 0x1000 0x0 0x0 0x0 0x7ffc12345678 0x7f0012345678\n";
	struct stage *s = *state;
	struct client *c = enter(s, 0);
	int event;

	fake_fan_moves(FAN_MOVES_NEVER);
	assert_int_equal(take(c, 1), 0);
	assert_int_equal(answer(access_as(s, 51, writes)), 0);
	give_back(c, 1, 0);
	fake_fan_moves(FAN_MOVES);
	assert_int_equal(take(c, 1), 0);
	event = access_as(s, 51, writes);
	hear(c, GUARD_BREAK);
	waits(event);
	give_back(c, 1, 0);
	assert_int_equal(answer(event), 0);
}

/* Who cannot be looked at is waited for; that is said once. */
static void server__blind(void **state)
{
	struct stage *s = *state;
	struct client *c = enter(s, 0);

	assert_int_equal(take(c, 1), 0);
	fake_fan_task(51, reads);
	fake_fan_task_error(51, -EACCES);
	for (int i = 0; i < 3; i++) {
		int event = fake_fan_event(s->file.path, false, 51);

		hear(c, GUARD_BREAK);
		waits(event);
		give_back(c, 1, GUARD_KEEP);
		assert_int_equal(answer(event), 0);
		sleep_ms(260);
		assert_int_equal(take(c, 1), 0);
	}
	assert_int_equal(said(s, "CAP_SYS_PTRACE"), 1);
	/* Neither can those of another PID namespace. */
	waits(fake_fan_event(s->file.path, true, 0));
	assert_int_equal(said(s, "CAP_SYS_PTRACE"), 1);
}

/* What is missing is named, and a caller that has gone says nothing about us. */
static void server__blind_by_limits(void **state)
{
	static const struct {
		int err;
		const char *cure;
	} rows[] = {
		{ -ESRCH, NULL },
		{ -EMFILE, "this access counts as a change: Too many open files: raise "
			   "RLIMIT_NOFILE" },
		{ -ENOENT, "every access counts as a change: No such file or directory: have "
			   "CAP_SYS_PTRACE" },
	};
	struct stage *s = *state;
	struct client *c = enter(s, 0);
	unsigned int lines = 0;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int event;

		fake_fan_task(51, sleeps); /* who was let through before */
		assert_int_equal(take(c, 1), 0);
		fake_fan_task(52, reads);
		fake_fan_task_error(52, rows[i].err);
		event = fake_fan_event(s->file.path, false, 52);
		hear(c, GUARD_BREAK);
		lines += rows[i].cure != NULL;
		assert_int_equal(said(s, "cannot be read"), lines);
		if (rows[i].cure)
			assert_int_equal(said(s, rows[i].cure), 1);
		give_back(c, 1, 0);
		assert_int_equal(answer(event), 0);
		fake_fan_task(52, NULL);
	}
}

/*
 * While somebody's task cannot be looked at, one thread is away and that can be seen from
 * outside; others answer.
 */
static void server__stuck(void **state)
{
	const uint64_t some = 50 * 1000000u;
	struct stage *s = *state;
	struct client *c = enter(s, 0);
	int event;

	assert_int_equal(take(c, 1), 0);
	assert_true(guard_server_stuck(s->server) == 0);
	fake_fan_task(51, truncates);
	fake_fan_task_hangs(51, true);
	event = fake_fan_event(s->file.path, false, 51);
	while (!guard_server_stuck(s->server)) /* what it has read with that one waits as well */
		usleep(200);
	while (guard_server_stuck(s->server) < some) {
		assert_int_equal(answer(access_as(s, 52, reads)), 0);
		assert_true(guard_server_stuck(s->server) < 10 * UINT64_C(1000000000));
	}
	assert_true(hears_nothing(c));
	waits(event);
	fake_fan_task_hangs(51, false);
	hear(c, GUARD_BREAK);
	give_back(c, 1, 0);
	assert_int_equal(answer(event), 0);
	assert_true(guard_server_stuck(s->server) < some);
}

/* While it is looked whether what was let through has ended, one of these comes again. */
static void server__the_same_again(void **state)
{
	struct stage *s = *state;
	struct client *c = enter(s, 0);
	int first, second;

	assert_int_equal(take(c, 1), 0);
	first = access_as(s, 50, truncates);
	second = access_as(s, 51, truncates);
	hear(c, GUARD_BREAK);
	waits(first);
	waits(second);
	give_back(c, 1, GUARD_KEEP);
	assert_int_equal(answer(first), 0);
	assert_int_equal(answer(second), 0);
	fake_fan_task(50, sleeps);
	fake_fan_task(51, sleeps);
	fake_fan_task_hangs(51, true);
	say(c, GUARD_TAKE, 1, 0, s->file.fd);
	while (!fake_fan_shut_out()) /* the other one has been looked at */
		usleep(200);
	assert_int_equal(answer(access_as(s, 50, truncates)), 0);
	fake_fan_task_hangs(51, false);
	assert_int_equal(hear(c, GUARD_TAKEN).error, -EINPROGRESS);
	fake_fan_task(50, sleeps);
	assert_int_equal(take(c, 1), 0);
}

/*
 * An exclusive holder has given the file back, but its thread here is busy with what it
 * asked before: nobody is refused because of that, they wait until it was heard. Others
 * who hold something are not concerned.
 */
static void server__not_heard_yet(void **state)
{
	struct stage *s = *state;
	struct client *c = enter(s, 0), *other = enter(s, 1);
	int event, refused, i;
	struct file second;

	file_make(&second, 1, false);
	assert_int_equal(take_fd(c, 1, GUARD_EXCLUSIVE, s->file.fd), 0);
	assert_int_equal(take_fd(other, 1, GUARD_EXCLUSIVE, second.fd), 0);
	/* So much that it is heard in many turns. */
	fake_fan_moves(FAN_MOVES); /* is asked for at each take then */
	fake_fan_shut(true);
	say(c, GUARD_TAKE, 2, 0, second.fd);
	while (!fake_fan_shut_out())
		usleep(200);
	for (i = 0; i < 50; i++)
		say(c, GUARD_GIVE_BACK, 1000, 0, -1);
	say(c, GUARD_GIVE_BACK, 1, 0, -1);
	event = access_as(s, 51, truncates);
	waits(event);
	/* Nobody else waits for it. */
	fake_fan_task(52, truncates);
	refused = fake_fan_event(second.path, false, 52);
	assert_int_equal(answer(refused), -ETXTBSY);
	assert_int_equal(answer(access_as(s, 53, reads)), 0);
	sync_with(other);
	waits(event);
	fake_fan_shut(false);
	assert_int_equal(answer(event), 0);
	assert_int_equal(hear(c, GUARD_TAKEN).id, 2);
	assert_int_equal(counters(s).refused, 1);
	go(c);
	go(other);
	file_end(&second);
}

static void server__event_without_descriptor(void **state)
{
	struct stage *s = *state;
	struct client *c = enter(s, 0);

	assert_int_equal(take(c, 1), 0);
	fake_fan_event_without_fd(51, -EMFILE);
	fake_fan_event_without_fd(52, -ESTALE);
	assert_int_equal(answer(access_as(s, 53, reads)), 0);
	while (!said(s, "tid 52 was refused"))
		sleep_ms(1);
	assert_int_equal(said(s, "RLIMIT_NOFILE"), 1);
}

/* Of files that were let go since, or never taken. */
static void server__event_for_nobody(void **state)
{
	struct stage *s = *state;

	enter(s, 0);
	fake_fan_task(51, truncates);
	assert_int_equal(answer(fake_fan_event_anyway(s->file.path, false, 51)), 0);
	assert_int_equal(counters(s).harmless, 1);
	assert_int_equal(counters(s).events, 1);
}

static void server__many_events(void **state)
{
	struct stage *s = *state;
	struct client *c = enter(s, 0);
	int changes[20], events[1000];

	assert_int_equal(take(c, 1), 0);
	fake_fan_task(51, reads);
	fake_fan_task(52, truncates);
	fake_fan_freeze(true);
	for (int i = 0; i < 1000; i++) {
		events[i] = fake_fan_event(s->file.path, false, 51);
		if (i % 50 == 0)
			changes[i / 50] = fake_fan_event(s->file.path, false, 52);
	}
	fake_fan_freeze(false);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(answer(events[i]), 0);
	hear(c, GUARD_BREAK);
	assert_true(hears_nothing(c)); /* one for all */
	for (int i = 0; i < 20; i++)
		assert_int_equal(fake_fan_answer(changes[i]), FAKE_WAITS);
	give_back(c, 1, 0);
	for (int i = 0; i < 20; i++)
		assert_int_equal(answer(changes[i]), 0);
	assert_int_equal(counters(s).events, 1020);
	assert_int_equal(counters(s).harmless, 1000);
	assert_int_equal(counters(s).waited, 20);
	assert_int_equal(counters(s).breaks, 1);
}

/* A filesystem that does not answer holds up the one client, and nobody else. */
static void server__slow_filesystem(void **state)
{
	struct stage *s = *state;
	struct client *a = enter(s, 0), *b = enter(s, 1);
	int event;

	fake_fan_shut(true);
	say(a, GUARD_TAKE, 1, 0, s->file.fd);
	while (!fake_fan_shut_out())
		sleep_ms(1);
	assert_int_equal(sync_with(b).holds, 1);
	assert_int_equal(answer(access_as(s, 51, reads)), 0);
	/* It is held already: the break comes before the answer. */
	event = access_as(s, 52, truncates);
	hear(a, GUARD_BREAK);
	waits(event);
	fake_fan_shut(false);
	assert_int_equal(hear(a, GUARD_TAKEN).error, 0);
	give_back(a, 1, 0);
	assert_int_equal(answer(event), 0);
}

static void server__openers(void **state)
{
	struct stage *s = *state;
	struct client *c = enter(s, 0);
	struct guard_msg msg;

	fake_fan_set_openers(3, 4711);
	fake_fan_slow_scan(50);
	say(c, GUARD_TAKE, 1, 0, s->file.fd);
	msg = hear(c, GUARD_TAKEN);
	assert_int_equal(msg.openers, 3);
	assert_int_equal(msg.opener, 4711);
	assert_int_equal(fake_fan_scans(), 1);
	give_back(c, 1, GUARD_KEEP);
	say(c, GUARD_TAKE, 1, 0, s->file.fd); /* watched meanwhile */
	msg = hear(c, GUARD_TAKEN);
	assert_int_equal(msg.openers, 0);
	give_back(c, 1, 0);
	say(c, GUARD_TAKE, 1, 0, s->file.fd); /* no time for another look */
	assert_int_equal(hear(c, GUARD_TAKEN).openers, GUARD_UNKNOWN);
	fake_fan_set_openers(0, 0);
	do {
		give_back(c, 1, 0);
		say(c, GUARD_TAKE, 1, 0, s->file.fd);
		msg = hear(c, GUARD_TAKEN);
		assert_int_equal(msg.error, 0);
	} while (msg.openers == GUARD_UNKNOWN);
	assert_int_equal(msg.openers, 0);
}

/* ------------------------------------------------------------------------- */
/* Refused, and over limits */

static void take__refused(void **state)
{
	struct stage *s = *state;
	struct client *c = enter(s, 0), *foreign;
	int dir = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), pipes[2];
	int path = open(s->file.path, O_PATH | O_CLOEXEC);
	int ro = open(s->file.path, O_RDONLY | O_CLOEXEC);
	unsigned int fds;

	foreign = enter_as(
		s, 1, (struct guard_peer){ .pid = getpid(), .uid = getuid() + 1, .pidfd = -1 });
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	sync_with(c);
	fds = count_fds();
	assert_int_equal(take_fd(c, 1, 0, -1), -EPROTO);
	assert_int_equal(take_fd(c, 1, 0, dir), -EINVAL);
	assert_int_equal(take_fd(c, 1, 0, path), -EINVAL);
	assert_int_equal(take_fd(c, 1, 0, pipes[0]), -EINVAL);
	assert_int_equal(take_fd(c, 1, 0, c->ours), -EINVAL);
	assert_int_equal(take_fd(c, 1, GUARD_EXCLUSIVE, ro), -EBADF);
	assert_int_equal(take_fd(foreign, 1, 0, s->file.fd), -EACCES);
	fake_fan_fail_watch(2, -EOPNOTSUPP);
	assert_int_equal(take(c, 1), -EOPNOTSUPP);
	fake_fan_fail_watch(1, -ENOSPC);
	assert_int_equal(take(c, 1), -ENOSPC);
	fake_fan_remote(true);
	assert_int_equal(take(c, 1), -EOPNOTSUPP);
	fake_fan_remote(false);
	assert_int_equal(count_fds(), fds);
	assert_int_equal(counters(s).files, 0);
	assert_int_equal(counters(s).turned_away, 10);
	assert_int_equal(take_fd(c, 1, 0, ro), 0);
	assert_int_equal(take(c, 1), -EEXIST);
	assert_int_equal(count_fds(), fds + 1);
	assert_int_equal(said(s, "no regular file"), 4);
	close(dir);
	close(path);
	close(ro);
	close(pipes[0]);
	close(pipes[1]);
}

static void take__privileged(void **state)
{
	struct stage *s = *state;
	struct client *c;

	c = enter_as(s, 0,
		     (struct guard_peer){
			     .pid = getpid(), .uid = 12345, .privileged = true, .pidfd = -1 });
	assert_int_equal(take_fd(c, 1, GUARD_EXCLUSIVE, s->file.fd), 0);
}

static void limits__clients(void **state)
{
	struct guard_peer root = { .pid = 1, .uid = 0, .privileged = true, .pidfd = -1 };
	struct guard_peer other = { .pid = 1, .uid = 77, .pidfd = -1 };
	struct stage *s = *state;
	struct client *c;

	start(s, (struct guard_opts){ .max_clients = 3, .max_clients_of_user = 1 });
	c = enter_as(s, 0, other);
	sync_with(c);
	c = enter_as(s, 1, other);
	assert_int_equal(ended(c), -EUSERS);
	assert_int_equal(said(s, "too many clients of this user"), 1);
	root.uid = other.uid; /* limits for users are not theirs */
	sync_with(enter_as(s, 1, root));
	other.uid++;
	sync_with(enter_as(s, 2, other));
	c = enter_as(s, 3, root);
	assert_int_equal(ended(c), -ENFILE);
	assert_int_equal(counters(s).turned_away, 2);
	assert_int_equal(counters(s).clients, 3);
	go(&s->clients[0]);
	sync_with(enter_as(s, 3, root));
}

static void limits__holds(void **state)
{
	struct guard_peer root = { .pid = 1, .uid = getuid(), .privileged = true, .pidfd = -1 };
	struct stage *s = *state;
	struct client *a, *b;

	start(s, (struct guard_opts){ .max_holds = 4, .max_holds_of_user = 2 });
	a = enter(s, 0);
	b = enter(s, 1);
	assert_int_equal(take(a, 1), 0);
	assert_int_equal(take(b, 1), 0);
	assert_int_equal(take(b, 2), -EUSERS);
	give_back(b, 1, GUARD_KEEP); /* that counts as well */
	assert_int_equal(take(b, 2), -EUSERS);
	give_back(b, 1, 0);
	assert_int_equal(take(b, 2), 0);
	b = enter_as(s, 2, root);
	assert_int_equal(take(b, 1), 0);
	assert_int_equal(take(b, 2), 0);
	assert_int_equal(take(b, 3), -ENFILE);
}

/* One that is kept can be had again at the limit. */
static void limits__take_again(void **state)
{
	struct stage *s = *state;
	struct client *c;

	start(s, (struct guard_opts){ .max_holds = 1, .max_holds_of_user = 1 });
	c = enter(s, 0);
	assert_int_equal(take(c, 1), 0);
	give_back(c, 1, GUARD_KEEP);
	assert_int_equal(take(c, 1), 0);
}

/* ------------------------------------------------------------------------- */
/* Clients that do not keep to the rules */

static void send_bytes(struct client *c, const void *data, size_t size)
{
	assert_int_equal(send(c->ours, data, size, MSG_NOSIGNAL), (ssize_t)size);
}

static void abuse__let_go(void **state)
{
	struct stage *s = *state;
	struct client *good = enter(s, 1), *c;
	struct guard_msg msg = { .version = GUARD_VERSION, .type = GUARD_STATUS };
	char big[2 * sizeof(msg)] = { 1, 0, 1 };

	assert_int_equal(take(good, 1), 0);
	for (int i = 0; i < 6; i++) {
		c = enter(s, 0);
		assert_int_equal(take(c, 7), 0);
		switch (i) {
		case 0:
			send_bytes(c, "x", 1);
			break;
		case 1:
			send_bytes(c, &msg, sizeof(msg) / 2);
			break;
		case 2:
			send_bytes(c, big, sizeof(big));
			break;
		case 3:
			say(c, GUARD_TAKEN, 1, 0, -1);
			break;
		case 4:
			say(c, 4711, 1, ~0u, -1);
			break;
		case 5:
			say(c, GUARD_GIVE_BACK, 7, 0, STDERR_FILENO);
			break;
		}
		assert_int_equal(ended(c), 0);
		assert_int_equal(sync_with(good).holds, 1);
	}
	assert_int_equal(said(s, "let go"), 6);
	assert_int_equal(take(enter(s, 0), 1), 0);
}

static void abuse__another_version(void **state)
{
	struct stage *s = *state;
	struct client *c = enter(s, 0);
	struct guard_msg msg = { .version = GUARD_VERSION + 1, .type = GUARD_TAKE };

	send_bytes(c, &msg, sizeof(msg));
	msg = hear(c, GUARD_TAKEN);
	assert_int_equal(msg.error, -EPROTONOSUPPORT);
	assert_non_null(strstr(msg.text, "version 1"));
	ended(c);
}

static void abuse__unknown_ids(void **state)
{
	struct stage *s = *state;
	struct client *c = enter(s, 0);

	give_back(c, 0, 0);
	give_back(c, UINT32_MAX, ~0u);
	assert_int_equal(take_fd(c, UINT32_MAX, 0, s->file.fd), 0);
	give_back(c, UINT32_MAX, GUARD_KEEP);
	give_back(c, UINT32_MAX, GUARD_KEEP);
	assert_int_equal(sync_with(c).holds, 0);
	assert_int_equal(fake_fan_marks(s->file.fd).marked, 1);
}

static void ask_status_until_full(struct client *c)
{
	struct guard_msg msg = { .type = GUARD_STATUS };
	unsigned int full = 0;

	while (full < 50) {
		int err = sock_send(c->ours, &msg, -1);

		assert_true(!err || err == -EAGAIN);
		full = err ? full + 1 : 0;
		if (err)
			usleep(1000); /* the guard may read on */
	}
}

/* Others wait for it no longer than for anybody who does not answer; then it may go on. */
static void abuse__never_reads(void **state)
{
	struct stage *s = *state;
	struct client *c = enter(s, 0), *other = enter(s, 1);
	int event;

	fake_fan_break_time(1);
	assert_int_equal(take(c, 1), 0);
	event = access_as(s, 51, truncates);
	hear(c, GUARD_BREAK);
	ask_status_until_full(c);
	waits(event);
	assert_int_equal(sync_with(other).clients, 2);
	assert_int_equal(answer(event), 0);
	assert_int_equal(said(s, "does not read"), 1);
	while (hear_any(c).type != GUARD_LOST)
		;
	while (!hears_nothing(c))
		hear(c, GUARD_STATUS);
	fake_fan_task(51, NULL);
	assert_int_equal(take(c, 1), 0);
	assert_int_equal(sync_with(c).lost, 1);
}

/* More news at once than the socket has room for. */
static void abuse__reads_late(void **state)
{
	struct guard_msg msg = { .type = GUARD_GIVE_BACK };
	const uint32_t n = 1000;
	struct stage *s = *state;
	struct client *c = enter(s, 0);
	int event;

	for (uint32_t id = 0; id < n; id++)
		assert_int_equal(take(c, id), 0);
	event = access_as(s, 51, truncates);
	while (!said(s, "does not read"))
		usleep(1000);
	for (uint32_t i = 0; i < n; i++) {
		msg.id = hear(c, GUARD_BREAK).id;
		while (sock_send(c->ours, &msg, -1) == -EAGAIN)
			usleep(100);
	}
	assert_int_equal(answer(event), 0);
	assert_int_equal(sync_with(c).lost, 0);
}

/* The process is gone, a child that knows nothing of it has the socket. */
static void abuse__peer_died(void **state)
{
	struct guard_peer peer = { .uid = getuid() };
	struct stage *s = *state;
	struct client *c;
	int event;

	peer.pid = fork();
	if (!peer.pid) {
		pause();
		_exit(0);
	}
	peer.pidfd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
	assert_true(peer.pidfd >= 0);
	c = enter_as(s, 0, peer);
	assert_int_equal(take(c, 1), 0);
	event = access_as(s, 51, truncates);
	hear(c, GUARD_BREAK);
	waits(event);
	kill(peer.pid, SIGKILL);
	assert_int_equal(answer(event), 0);
	ended(c);
	waitpid(peer.pid, NULL, 0);
}

/* ------------------------------------------------------------------------- */
/* Start and end */

static void stop__lets_all_go(void **state)
{
	struct stage *s = *state;
	struct client *a = enter(s, 0), *b = enter(s, 1);
	int event;

	assert_int_equal(take(a, 1), 0);
	assert_int_equal(take(b, 1), 0);
	event = access_as(s, 51, truncates);
	hear(a, GUARD_BREAK);
	waits(event);
	guard_server_stop(s->server);
	assert_int_equal(answer(event), 0);
	ended(a);
	ended(b);
	assert_int_equal(ended(enter(s, 2)), -ESHUTDOWN);
	assert_int_equal(said(s, "turned away: the guard is ending"), 1);
	assert_int_equal(said(s, "too many"), 0);
}

/* Nobody waits for a guard that is not there any more. */
static void free__with_events_unread(void **state)
{
	struct stage *s = *state;
	int event;

	fake_fan_freeze(true);
	fake_fan_task(51, truncates);
	event = fake_fan_event_anyway(s->file.path, false, 51);
	waits(event);
	guard_server_stop(s->server);
	guard_server_free(s->server);
	s->server = NULL;
	fake_fan_gone();
	assert_int_equal(fake_fan_answer(event), 0);
}

#define FEW_FDS 400

/* So many can be opened, and one for the group; UINT_MAX: as before. */
static void leave_descriptors(unsigned int n)
{
	static struct rlimit old;
	static int fds[FEW_FDS];
	static unsigned int nfds;
	struct rlimit few;

	if (n == UINT_MAX) {
		while (nfds)
			close(fds[--nfds]);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
		return;
	}
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	few = old;
	few.rlim_cur = FEW_FDS;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	while ((fds[nfds] = dup(STDERR_FILENO)) >= 0)
		nfds++;
	while (n--)
		close(fds[--nfds]);
	few.rlim_cur++;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
}

static void new__fails(void **state)
{
	const struct guard_opts opts = { .listeners = 1 };
	struct guard_server *server = NULL;
	struct stage *s = *state;
	unsigned int fds = count_fds();

	for (unsigned int nth = 1; nth <= 2; nth++) {
		atomic_store(&fail_calloc, nth);
		assert_int_equal(guard_server_new(&opts, &server), -ENOMEM);
	}
	atomic_store(&fail_calloc, 0);
	for (unsigned int left = 0; left < 4; left++) {
		leave_descriptors(left);
		assert_int_equal(guard_server_new(&opts, &server), -EMFILE);
		leave_descriptors(UINT_MAX);
		assert_int_equal(count_fds(), fds);
	}
	assert_null(server);
	fake_fan_off();
	assert_int_equal(guard_server_new(&opts, &server), -EPERM);
	fake_fan_on();
	assert_null(s->server);
}

/* ------------------------------------------------------------------------- */
/* Descriptors that the program has closed, in the library */

/* What is open of these; with close_them, as a program does that knows nothing of them. */
static unsigned int of_listeners(bool close_them)
{
	unsigned int n = 0;

	for (int fd = 3; fd < FEW_FDS; fd++) {
		char path[32], text[64] = "";

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		if (readlink(path, text, sizeof(text) - 1) < 0 ||
		    (!strstr(text, "eventpoll") && !strstr(text, "timerfd") &&
		     !strstr(text, "eventfd")))
			continue;
		n++;
		if (close_them)
			close(fd);
	}
	return n;
}

static bool are_back(void *arg)
{
	return of_listeners(false) == *(unsigned int *)arg;
}

/* Each listener has to notice, which it does when it is woken. */
static void heal__goes_on(void **state)
{
	unsigned int before;
	struct stage *s = *state;
	struct client *c;
	int event;

	start(s, (struct guard_opts){ .in_library = true });
	c = enter(s, 0);
	assert_int_equal(take(c, 1), 0);
	before = of_listeners(true);
	assert_true(before >= 3);
	for (int i = 0; i < 20; i++)
		assert_int_equal(answer(access_as(s, 51, reads)), 0);
	assert_true(wait_until(are_back, &before, 1000));
	fake_fan_break_time(1);
	event = access_as(s, 51, truncates);
	hear(c, GUARD_BREAK);
	waits(event);
	hear(c, GUARD_LOST); /* the timer is there again as well */
	assert_int_equal(answer(event), 0);
}

static bool group_is_gone(void *arg)
{
	(void)arg;
	return fake_fan_groups() == 0;
}

#define OR_EXIT(cond)                    \
	do {                             \
		if (!(cond))             \
			_exit(__LINE__); \
	} while (0)

static _Noreturn void give_up_in_child(struct stage *s)
{
	struct client *c;
	int event;

	start(s, (struct guard_opts){ .in_library = true });
	c = enter(s, 0);
	OR_EXIT(take(c, 1) == 0);
	event = access_as(s, 51, truncates);
	hear(c, GUARD_BREAK);
	OR_EXIT(answer_in(event, 30) == FAKE_WAITS);
	of_listeners(true);
	/* For the next event and, while that is read, the group. It waits, and keeps its one. */
	leave_descriptors(1);
	fake_fan_event(s->file.path, false, 52);
	OR_EXIT(answer(event) == 0);
	leave_descriptors(UINT_MAX);
	OR_EXIT(said(s, "files are not guarded any more") == 1);
	OR_EXIT(wait_until(group_is_gone, NULL, 1000));
	_exit(0);
}

/*
 * Nothing can be opened to wait anew: who waits goes on, and it is said. Threads and what
 * they use are left behind, so that is for a child.
 */
static void heal__gives_up(void **state)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (!pid) {
		alarm(30);
		give_up_in_child(*state);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
#define BARE(fn) cmocka_unit_test_setup_teardown(fn, setup_bare, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(server__break),
		CASE(server__exclusive),
		CASE(server__too_late),
		CASE(server__two_clients),
		CASE(server__writes),
		CASE(server__blind),
		CASE(server__blind_by_limits),
		CASE(server__stuck),
		CASE(server__the_same_again),
		CASE(server__not_heard_yet),
		CASE(server__event_without_descriptor),
		CASE(server__event_for_nobody),
		CASE(server__many_events),
		CASE(server__slow_filesystem),
		CASE(server__openers),
		CASE(take__refused),
		CASE(take__privileged),
		BARE(limits__clients),
		BARE(limits__holds),
		BARE(limits__take_again),
		CASE(abuse__let_go),
		CASE(abuse__another_version),
		CASE(abuse__unknown_ids),
		CASE(abuse__never_reads),
		CASE(abuse__reads_late),
		CASE(abuse__peer_died),
		CASE(stop__lets_all_go),
		CASE(free__with_events_unread),
		BARE(new__fails),
		BARE(heal__goes_on),
		BARE(heal__gives_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
