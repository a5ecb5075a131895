// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "holder.h"
#include "sock.h"

#define GIVE_UP_MS 20000

static _Noreturn void run_daemon(const struct daemon *d)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execl(daemon_program, daemon_program, "--socket", d->socket, (char *)NULL);
	fprintf(stderr, "%s: %s\n", daemon_program, strerror(errno));
	_exit(127);
}

void daemon_start(struct daemon *d)
{
	uint64_t end = now_ns() + GIVE_UP_MS * MSEC;
	int sock;

	if (!d->socket[0]) {
		char dir[] = "/tmp/guard-XXXXXX";

		CHECK(mkdtemp(dir));
		CALL(chmod(dir, 0755));
		snprintf(d->socket, sizeof(d->socket), "%s/socket", dir);
	}
	fflush(NULL);
	d->pid = (pid_t)CALL(fork());
	if (!d->pid)
		run_daemon(d);
	while ((sock = sock_connect(d->socket)) < 0) {
		CHECK_EQ(wait_child(d->pid, 0), -1);
		CHECK(now_ns() < end);
		sleep_ms(5);
	}
	CALL(close(sock));
}

void daemon_kill(struct daemon *d)
{
	CALL(kill(d->pid, SIGKILL));
	CHECK_EQ(wait_child(d->pid, SOON_MS), SIGKILL);
}

void daemon_stop(struct daemon *d)
{
	CALL(kill(d->pid, SIGTERM));
	CHECK_EQ(wait_child(d->pid, SOON_MS), 0);
}

int daemon_connect(const struct daemon *d)
{
	int sock = sock_connect(d->socket);

	CHECK(sock >= 0);
	return sock;
}

bool daemon_hear(int sock, struct guard_msg *ret_msg)
{
	struct pollfd pfd = { .fd = sock, .events = POLLIN };
	int fd, err;

	CHECK_EQ(poll(&pfd, 1, SOON_MS), 1);
	err = sock_receive(sock, false, ret_msg, &fd);
	CHECK(!err || err == -ECONNRESET);
	return !err;
}

int daemon_take(int sock, uint32_t id, int fd, unsigned int flags)
{
	struct guard_msg msg = { .type = GUARD_TAKE, .id = id, .flags = flags };

	CHECK_EQ(sock_send(sock, &msg, fd), 0);
	CHECK(daemon_hear(sock, &msg));
	CHECK_EQ(msg.type, GUARD_TAKEN);
	CHECK_EQ(msg.id, id);
	CHECK_EQ(!msg.error, !msg.text[0]);
	return msg.error;
}

struct guard_counters daemon_count(const struct daemon *d)
{
	struct guard_msg msg = { .type = GUARD_STATUS };
	struct guard_counters counters;
	int sock = daemon_connect(d);

	CHECK_EQ(sock_send(sock, &msg, -1), 0);
	CHECK(daemon_hear(sock, &msg));
	CHECK_EQ(msg.type, GUARD_STATUS);
	memcpy(&counters, msg.text, sizeof(counters));
	CALL(close(sock));
	return counters;
}

void become_user(void)
{
	CALL(setgroups(0, NULL));
	CALL(setresgid(USER, USER, USER));
	CALL(setresuid(USER, USER, USER));
	CALL(prctl(PR_SET_DUMPABLE, 1));
}

static atomic_uint warnings;

static void count_and_log(enum daxlease_log_level level, const char *line, void *userdata)
{
	if (level == DAXLEASE_LOG_WARNING)
		atomic_fetch_add(&warnings, 1);
	log_line(level, line, userdata);
}

struct daxlease_ctx *ctx_make_at(const struct daemon *d)
{
	const struct daxlease_ctx_opts opts = {
		.size = sizeof(opts),
		.log_fn = count_and_log,
		.log_level = DAXLEASE_LOG_INFO,
		.guard_socket = d ? d->socket : "",
	};
	struct daxlease_ctx *ctx;

	CHECK_EQ(daxlease_ctx_new(&opts, &ctx), 0);
	return ctx;
}

int answer_later(struct region *r)
{
	(void)r;
	return DAXLEASE_PENDING;
}

/* ------------------------------------------------------------------------- */
/* The process of a holder */

struct report {
	enum news news;
	int value;
};

struct hold {
	struct device dev;
	struct daxlease_ctx *ctx;
	struct file file;
	struct region region;
	unsigned int releases, regains; /* reported */
	int told, order;
};

static void report(const struct hold *h, enum news news, int value)
{
	const struct report report = { .news = news, .value = value };

	CHECK_EQ(write(h->told, &report, sizeof(report)), sizeof(report));
}

static int report_drain(struct region *r)
{
	report(r->arg, NEWS_DRAIN, 0);
	return DAXLEASE_PENDING;
}

static void report_rest(struct hold *h)
{
	struct region *r = &h->region;

	pthread_mutex_lock(&r->lock);
	for (; h->releases < r->releases; h->releases++)
		report(h, NEWS_RELEASED, r->release_result);
	for (; h->regains < r->regains; h->regains++)
		report(h, NEWS_REGAINED, r->regain.error ? r->regain.error : (int)r->regain.length);
	pthread_mutex_unlock(&r->lock);
}

static void obey(struct hold *h, enum order order)
{
	switch (order) {
	case ORDER_ANSWER:
		CHECK_EQ(daxlease_mr_drained(h->region.mr), 0);
		break;
	case ORDER_REGAIN:
		CHECK_EQ(daxlease_mr_regain(h->region.mr), 0);
		break;
	case ORDER_TELL_WARNINGS:
		report(h, NEWS_WARNINGS, (int)atomic_load(&warnings));
		break;
	case ORDER_END:
		region_end(&h->region);
		CHECK_EQ(daxlease_ctx_free(h->ctx), 0);
		report(h, NEWS_ENDED, 0);
		_exit(EXIT_SUCCESS);
	}
}

static void live_on_in_child(void)
{
	pid_t pid = (pid_t)CALL(fork());

	if (pid)
		return;
	pause();
	_exit(EXIT_SUCCESS);
}

static bool is_own(const struct hold *h, int fd)
{
	return fd == h->told || fd == h->order || fd == h->file.fd || fd == h->dev.ctx->cmd_fd ||
	       fd == h->dev.ctx->async_fd;
}

static void close_others(const struct hold *h)
{
	for (int fd = 3; fd < 1024; fd++) {
		if (!is_own(h, fd))
			close(fd);
	}
}

static _Noreturn void hold(struct hold *h, const struct world *w, const struct holder_how *opts)
{
	const struct how how = { .flags = opts->flags, .on_drain = report_drain, .arg = h };
	struct pollfd pfd = { .fd = h->order, .events = POLLIN };
	enum order order;

	device_open(&h->dev, "rxe0");
	if (opts->daemon)
		become_user();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	h->ctx = ctx_make_at(opts->daemon);
	file_open(&h->file, FILE_SIZE, O_RDWR);
	CHECK_EQ(region_try(&h->region, h->ctx, h->dev.pd, &h->file, w, &how), 0);
	CHECK_EQ(region_info(&h->region).kind, DAXLEASE_KIND_GUARD);
	if (opts->forks)
		live_on_in_child();
	if (opts->closes_others)
		close_others(h);
	report(h, NEWS_READY, !!(region_info(&h->region).unseen & DAXLEASE_UNSEEN_EARLIER));
	for (;;) {
		if (poll(&pfd, 1, 5) > 0) {
			CHECK_EQ(read(h->order, &order, sizeof(order)), sizeof(order));
			obey(h, order);
		}
		report_rest(h);
	}
}

void holder_start(struct holder *h, const struct world *w, const char *name,
		  const struct holder_how *how)
{
	int told[2], order[2];
	struct stat st;

	memset(h, 0, sizeof(*h));
	h->file.fd = -1;
	world_path(w, name, h->file.path, sizeof(h->file.path));
	pattern_write(h->file.path, FILE_SIZE, 1);
	CALL(chown(h->file.path, USER, USER));
	CALL(stat(h->file.path, &st));
	h->file.ino = st.st_ino;
	CALL(pipe2(told, O_CLOEXEC));
	CALL(pipe2(order, O_CLOEXEC));
	fflush(NULL);
	h->pid = (pid_t)CALL(fork());
	if (!h->pid) {
		static struct hold mine;

		mine.told = told[1];
		mine.order = order[0];
		mine.file = h->file;
		close(told[0]);
		close(order[1]);
		hold(&mine, w, how);
	}
	CALL(close(told[1]));
	CALL(close(order[0]));
	h->told = told[0];
	h->order = order[1];
}

void holder_order(const struct holder *h, enum order order)
{
	CHECK_EQ(write(h->order, &order, sizeof(order)), sizeof(order));
}

static bool has_news(const struct holder *h, int ms)
{
	struct pollfd pfd = { .fd = h->told, .events = POLLIN };

	return poll(&pfd, 1, ms) > 0;
}

int holder_expect(const struct holder *h, enum news news)
{
	struct report report;

	if (!has_news(h, SOON_MS))
		fail_at(__FILE__, __LINE__, "the holder tells nothing, wanted %d", (int)news);
	CHECK_EQ(read(h->told, &report, sizeof(report)), sizeof(report));
	if (report.news != news)
		fail_at(__FILE__, __LINE__, "the holder tells %d (%d), wanted %d", (int)report.news,
			report.value, (int)news);
	return report.value;
}

bool holder_is_quiet(const struct holder *h)
{
	return !has_news(h, QUIET_MS);
}

static void forget(struct holder *h)
{
	CALL(close(h->told));
	CALL(close(h->order));
}

void holder_end(struct holder *h)
{
	holder_order(h, ORDER_END);
	holder_expect(h, NEWS_ENDED);
	expect_child_ok(h->pid, SOON_MS);
	forget(h);
}

void holder_kill(struct holder *h)
{
	CALL(kill(h->pid, SIGKILL));
	CHECK_EQ(wait_child(h->pid, SOON_MS), SIGKILL);
	forget(h);
}
