// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Programs that drain late or never, and the deadlines that they are held to. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>

#include "region.h"

#define BUDGET_MS 500
#define PAUSE_MS 20

static int pending(struct region *r)
{
	(void)r;
	return DAXLEASE_PENDING;
}

static int cannot(struct region *r)
{
	(void)r;
	return -EIO;
}

/* Until the case is over. */
static int stuck(struct region *r)
{
	atomic_bool *go_on = r->arg;

	while (!atomic_load(go_on))
		sleep_ms(PAUSE_MS);
	return 0;
}

/* A receive of the told queue pair comes back in error, and its peer gets no further. */
static void check_fenced(struct stage *s, uint32_t rkey)
{
	struct ibv_wc wc;

	CHECK_EQ(link_far_state(&s->link), IBV_QPS_ERR);
	for (unsigned int i = 0; !ibv_poll_cq(s->link.far_cq, 1, &wc); i++) {
		CHECK(i < SOON_MS / PAUSE_MS);
		sleep_ms(PAUSE_MS);
	}
	CHECK_EQ(wc.status, IBV_WC_WR_FLUSH_ERR);
	CHECK(link_write(&s->link, s->region.addr, rkey, 64, 1) != IBV_WC_SUCCESS);
}

static void post_receive(struct stage *s)
{
	struct ibv_recv_wr wr = { .wr_id = 1 }, *bad;

	CHECK_EQ(ibv_post_recv(s->link.far, &wr, &bad), 0);
}

struct deadline {
	int break_time;		/* at registration */
	int break_time_later;	/* at the break; -1: the same */
	uint32_t budget_ms;	/* asked for */
	unsigned int wanted_ms; /* and had */
};

static const struct deadline deadlines[] = {
	{ 45, -1, BUDGET_MS, BUDGET_MS },	 { 1, -1, 0, 750 },
	{ 0, -1, BUDGET_MS, BUDGET_MS },	 { 45, 1, 0, 750 },
	{ 1, 45, BUDGET_MS * 2, BUDGET_MS * 2 },
};

/* The guard tells its deadline, which began when it had the event: a little before the notice. */
static void check_kernel_deadline(const struct world *w, uint64_t kernel, uint64_t wanted)
{
	if (w->kind != DAXLEASE_KIND_GUARD || !wanted)
		CHECK_EQ(kernel, wanted);
	else
		CHECK_BETWEEN((int64_t)(wanted - kernel) / (int64_t)MSEC, 0, 200);
	CHECK(kernel <= wanted);
}

static void check_deadlines(const struct world *w, const struct region *r, int break_time,
			    unsigned int budget_ms)
{
	uint64_t kernel = r->brk.kernel_deadline_ns, ours = r->brk.deadline_ns;
	uint64_t notice = ours - budget_ms * MSEC;

	check_kernel_deadline(w, kernel, break_time ? notice + (uint64_t)break_time * SEC : 0);
	/* The callback came right after the notice. */
	CHECK_BETWEEN((int64_t)(r->drain_ns - notice) / (int64_t)MSEC, 0, budget_ms);
}

static void check_overrun(struct stage *s, unsigned int released)
{
	struct daxlease_stats stats = ctx_stats(s->ctx);

	region_check_released(&s->region, -ETIMEDOUT);
	CHECK_EQ(stats.overruns, 1);
	CHECK_EQ(stats.released, released); /* others */
	CHECK_EQ(stats.lost + stats.dereg_failures, 0);
	CHECK_EQ(daxlease_mr_drained(s->region.mr), -ETIMEDOUT);
}

/* PENDING, and nothing follows. */
static void never_answers(const struct world *w, const void *arg)
{
	const struct deadline *d = arg;
	const struct how how = { .on_drain = pending, .budget_ms = d->budget_ms };
	int break_time = d->break_time_later < 0 ? d->break_time : d->break_time_later;
	struct stage s;
	uint32_t rkey;

	sysctl_set("lease-break-time", d->break_time);
	stage_open(&s, w, O_RDWR, &how);
	rkey = region_rkey(&s.region);
	CHECK_EQ(daxlease_mr_add_qp(s.region.mr, s.link.far), 0);
	post_receive(&s);
	stage_access(&s, 0, rkey, IBV_WC_SUCCESS);
	sysctl_set("lease-break-time", break_time);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), 0);
	CHECK(s.other.end_ns >= dereg_end_ns());
	WAIT_FOR(&s.region, releases, 1);
	CHECK_EQ(s.region.drains, 1);
	check_deadlines(w, &s.region, break_time, d->wanted_ms);
	CHECK(dereg_end_ns() >= s.region.brk.deadline_ns);
	if (break_time)
		CHECK(s.other.end_ns < s.region.brk.kernel_deadline_ns + 100 * MSEC);
	check_overrun(&s, 0);
	check_fenced(&s, rkey);
	CHECK_EQ(daxlease_mr_remove_qp(s.region.mr, s.link.far), 0);
	stage_close(&s);
}

static void never_returns(const struct world *w, const void *arg)
{
	atomic_bool go_on = false;
	const struct how how = { .on_drain = stuck, .budget_ms = BUDGET_MS, .arg = &go_on };
	struct region second;
	struct file file2;
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, &how);
	CHECK_EQ(daxlease_mr_add_qp(s.region.mr, s.link.far), 0);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), 0);
	CHECK(other_took_ms(&s.other) >= BUDGET_MS);
	CHECK_EQ(link_far_state(&s.link), IBV_QPS_ERR);
	CHECK_EQ(daxlease_mr_get_state(s.region.mr), DAXLEASE_STATE_RELEASED);
	CHECK_EQ(s.region.releases, 0); /* never two callbacks of a region at once */
	/* Other files are served meanwhile. */
	file_make(&file2, w, "second", FILE_SIZE, O_RDWR);
	region_make(&second, s.ctx, s.dev.pd, &file2, w, NULL);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, file2.path, 0, -1), 0);
	region_check_released(&second, 0);
	region_end(&second);
	file_close(&file2);
	atomic_store(&go_on, true);
	check_overrun(&s, 1);
	CHECK_EQ(daxlease_mr_remove_qp(s.region.mr, s.link.far), 0);
	stage_close(&s);
}

static void gives_up(const struct world *w, const void *arg)
{
	const struct how how = { .on_drain = cannot };
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, &how);
	CHECK_EQ(daxlease_mr_add_qp(s.region.mr, s.link.far), 0);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), 0);
	CHECK_EQ(link_far_state(&s.link), IBV_QPS_ERR);
	check_overrun(&s, 0);
	CHECK_EQ(daxlease_mr_remove_qp(s.region.mr, s.link.far), 0);
	stage_close(&s);
}

/* PENDING, and the answer follows from another thread. */
static void answers_later(const struct world *w, const void *arg)
{
	const struct how how = { .on_drain = pending };
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, &how);
	other_begin(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1);
	WAIT_FOR(&s.region, drains, 1);
	sleep_ms(BUDGET_MS);
	CHECK(other_waits(&s.other));
	stage_access(&s, 0, region_info(&s.region).rkey, IBV_WC_SUCCESS);
	CHECK_EQ(daxlease_mr_drained(s.region.mr), 0);
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	region_check_released(&s.region, 0);
	CHECK_EQ(ctx_stats(s.ctx).overruns, 0);
	stage_close(&s);
}

void add_drain_cases(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(deadlines); i++) {
		const struct deadline *d = &deadlines[i];

		if (d->break_time_later < 0)
			add_case(never_answers, d, KIND_ALL, 0, "drain/never-answers-%d",
				 d->break_time);
		else
			add_case(never_answers, d, KIND_ALL, 0, "drain/never-answers-%d-then-%d",
				 d->break_time, d->break_time_later);
	}
	add_case(never_returns, NULL, KIND_ALL, 0, "drain/never-returns");
	add_case(gives_up, NULL, KIND_ALL, 0, "drain/gives-up");
	add_case(answers_later, NULL, KIND_ALL, 0, "drain/answers-later");
}
