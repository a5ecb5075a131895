// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Programs that drive the library from a loop of their own. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "region.h"

static void open_in_mode(struct stage *s, const struct world *w, enum daxlease_mode mode,
			 const struct how *how)
{
	stage_begin(s, w, mode);
	link_open(&s->link, &s->dev, s->dev.pd);
	file_make(&s->file, w, "file", FILE_SIZE, O_RDWR);
	region_make(&s->region, s->ctx, s->dev.pd, &s->file, w, how);
}

/* Dispatches until *count has come to n. */
static void loop_until(struct stage *s, const unsigned int *count, unsigned int n)
{
	uint64_t end = now_ns() + SOON_MS * MSEC;
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = (int)CALL(epoll_create1(EPOLL_CLOEXEC));

	CALL(epoll_ctl(epoll, EPOLL_CTL_ADD, daxlease_ctx_get_fd(s->ctx), &event));
	while (*count < n) {
		int ready = epoll_wait(epoll, &event, 1, 500);

		CHECK(ready >= 0 || errno == EINTR);
		CHECK(now_ns() < end);
		if (ready > 0)
			CHECK(daxlease_ctx_dispatch(s->ctx) >= 0);
	}
	CALL(close(epoll));
}

static void truncate_and_regain(struct stage *s)
{
	struct region *r = &s->region;
	uint32_t old = region_rkey(r);

	stage_access(s, 0, old, IBV_WC_SUCCESS);
	dereg_delay_ms = 100;
	other_begin(&s->other, OP_TRUNCATE, s->file.path, 2 * PAGE, -1);
	loop_until(s, &r->releases, 1);
	dereg_delay_ms = 0;
	CHECK_EQ(other_end(&s->other, SOON_MS), 0);
	CHECK(s->other.end_ns >= r->drained_ns);
	CHECK(s->other.end_ns >= dereg_end_ns());
	CHECK_EQ(r->release_result, 0);
	loop_until(s, &r->regains, 1);
	CHECK_EQ(r->regain.length, 2 * PAGE);
	stage_no_access(s, old);
	stage_access(s, 1, region_rkey(r), IBV_WC_SUCCESS);
}

static void reader(struct stage *s)
{
	uint32_t rkey = region_rkey(&s->region);

	if (is_quiet(s->w->kind)) { /* it is nobody's business */
		CHECK_EQ(other_do(&s->other, OP_OPEN_READ, s->file.path, 0, -1), 0);
		CHECK_EQ(s->region.lends + s->region.drains, 0);
		return;
	}
	other_begin(&s->other, OP_OPEN_READ, s->file.path, 0, -1);
	loop_until(s, &s->region.guards, 1);
	CHECK_EQ(other_end(&s->other, SOON_MS), 0);
	CHECK_EQ(s->region.lends, 1);
	CHECK_EQ(region_rkey(&s->region), rkey);
}

static const struct how usual = { .flags = DAXLEASE_MR_REGAIN, .drain_ms = 50 };

static void loop(const struct world *w, const void *arg)
{
	struct stage s;

	(void)arg;
	open_in_mode(&s, w, DAXLEASE_MODE_LOOP, &usual);
	reader(&s);
	truncate_and_regain(&s);
	CHECK_EQ(daxlease_mr_recall(s.region.mr), 0);
	CHECK_EQ(s.region.releases, 2);
	stage_close(&s);
}

/* Nobody dispatches: the library's thread keeps the deadline all the same. */
static void loop_asleep(const struct world *w, const void *arg)
{
	const struct how how = { .budget_ms = 500 };
	struct stage s;

	(void)arg;
	open_in_mode(&s, w, DAXLEASE_MODE_LOOP, &how);
	CHECK_EQ(daxlease_mr_add_qp(s.region.mr, s.link.far), 0);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), 0);
	CHECK(other_took_ms(&s.other) >= 500);
	CHECK_EQ(link_far_state(&s.link), IBV_QPS_ERR);
	CHECK_EQ(s.region.drains + s.region.releases, 0);
	loop_until(&s, &s.region.releases, 1);
	CHECK_EQ(s.region.release_result, -ETIMEDOUT);
	CHECK_EQ(s.region.drains, 0); /* too late to ask */
	CHECK_EQ(ctx_stats(s.ctx).overruns, 1);
	CHECK_EQ(daxlease_mr_remove_qp(s.region.mr, s.link.far), 0);
	stage_close(&s);
}

static struct daxlease_ctx *handled;

static void handler(int signo, siginfo_t *info, void *ucontext)
{
	(void)signo;
	(void)ucontext;
	if (handled)
		daxlease_ctx_notify(handled, info);
}

static void signal_driven(const struct world *w, const void *arg)
{
	const struct sigaction action = { .sa_sigaction = handler,
					  .sa_flags = SA_SIGINFO | SA_RESTART };
	struct stage s;

	(void)arg;
	CALL(sigaction(SIGIO, &action, NULL));
	stage_begin(&s, w, DAXLEASE_MODE_SIGNAL);
	handled = s.ctx;
	link_open(&s.link, &s.dev, s.dev.pd);
	file_make(&s.file, w, "file", FILE_SIZE, O_RDWR);
	region_make(&s.region, s.ctx, s.dev.pd, &s.file, w, &usual);
	reader(&s);
	truncate_and_regain(&s);
	CHECK_EQ(daxlease_mr_recall(s.region.mr), 0);
	CHECK_EQ(s.region.releases, 2);
	handled = NULL;
	stage_close(&s);
}

void add_mode_cases(void)
{
	add_case(loop, NULL, KIND_ALL, 0, "mode/loop");
	add_case(loop_asleep, NULL, KIND_ALL, 0, "mode/loop-asleep");
	add_case(signal_driven, NULL, KIND_ALL, 0, "mode/signal");
}
