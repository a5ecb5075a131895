// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* What a break waits for, and what it does not: requests under way. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../region.h"
#include "ring.h"

#define HALF (FILE_SIZE / 2)
#define BUDGET_MS 1000u

enum source {
	FROM_PIPE,
	FROM_SOCKET
};

/* What is different from case to case. */
struct manner {
	const char *name;
	enum daxlease_mode mode;
	unsigned int flags; /* of the ring */
	enum source source;
	enum daxlease_cancel cancel;
	bool async; /* in one of the kernel's worker threads */
};

#define SINGLE IORING_SETUP_SINGLE_ISSUER
#define DEFER (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)

static const struct manner manners[] = {
	{ "thread", DAXLEASE_MODE_THREAD, 0, FROM_PIPE, DAXLEASE_CANCEL_FIXED, false },
	{ "coop", DAXLEASE_MODE_THREAD, IORING_SETUP_COOP_TASKRUN, FROM_SOCKET, DAXLEASE_CANCEL_FD,
	  false },
	{ "sqpoll", DAXLEASE_MODE_THREAD, IORING_SETUP_SQPOLL, FROM_PIPE, DAXLEASE_CANCEL_FIXED,
	  false },
	{ "worker", DAXLEASE_MODE_THREAD, 0, FROM_PIPE, DAXLEASE_CANCEL_USER_DATA, true },
	{ "loop", DAXLEASE_MODE_LOOP, 0, FROM_SOCKET, DAXLEASE_CANCEL_ANY, false },
	{ "single", DAXLEASE_MODE_LOOP, SINGLE, FROM_PIPE, DAXLEASE_CANCEL_FIXED, false },
	{ "defer", DAXLEASE_MODE_LOOP, DEFER, FROM_PIPE, DAXLEASE_CANCEL_USER_DATA, false },
	{ "defer-poll", DAXLEASE_MODE_LOOP, SINGLE | IORING_SETUP_SQPOLL, FROM_SOCKET,
	  DAXLEASE_CANCEL_FIXED, false },
};

/* ------------------------------------------------------------------------- */

#define READ_DATA 7u
#define POLL_DATA 8u

/* A buffer with a request that waits for something to read, and one that uses no buffer. */
struct scene {
	const struct manner *m;
	struct other other;
	struct daxlease_ctx *ctx;
	struct ring ring;
	struct file file;
	struct buffer buffer;
	int ends[2], idle[2];
};

static void scene_begin(struct scene *s, const struct world *w, const struct manner *m)
{
	struct daxlease_buf_opts opts = { .drain_budget_ms = BUDGET_MS, .cancel = m->cancel };
	struct io_uring_sqe *sqe;

	memset(s, 0, sizeof(*s));
	s->m = m;
	other_start(&s->other);
	s->ctx = ctx_make(m->mode);
	ring_open(&s->ring, s->ctx, m->flags);
	file_make(&s->file, w, "file", FILE_SIZE, O_RDWR);
	CALL(m->source == FROM_PIPE ? pipe(s->ends) : socketpair(AF_UNIX, SOCK_STREAM, 0, s->ends));
	CALL(pipe(s->idle));
	opts.cancel_fd = s->ends[0];
	opts.cancel_user_data = READ_DATA;
	buffer_make(&s->buffer, &s->ring, 3, &s->file, 0, FILE_SIZE, w, &opts);
	sqe = io_uring_get_sqe(&s->ring.uring);
	io_uring_prep_read_fixed(sqe, s->ends[0], s->file.map + HALF, PAGE, 0, 3);
	io_uring_sqe_set_data64(sqe, READ_DATA);
	if (m->async)
		io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	sqe = io_uring_get_sqe(&s->ring.uring);
	io_uring_prep_poll_add(sqe, s->idle[0], POLLIN);
	io_uring_sqe_set_data64(sqe, POLL_DATA);
	CHECK(io_uring_submit(&s->ring.uring) >= 0);
	sleep_ms(100); /* until the kernel's threads are at it, if it is theirs */
	CHECK_EQ(leases_in_kernel(s->file.ino), 1);
}

static void scene_end(struct scene *s)
{
	other_stop(&s->other);
	buffer_end(&s->buffer);
	ring_close(&s->ring);
	CHECK_EQ(daxlease_ctx_free(s->ctx), 0);
	file_close(&s->file);
	CHECK_EQ(leases_in_kernel(s->file.ino), 0);
	CHECK_EQ(pinned_kib(), 0);
	for (int i = 0; i < 2; i++) {
		CALL(close(s->ends[i]));
		CALL(close(s->idle[i]));
	}
}

/* The poll goes on, unless all were cancelled. */
static void check_idle(struct scene *s)
{
	const bool cancelled = s->m->cancel == DAXLEASE_CANCEL_ANY && ctx_stats(s->ctx).overruns;
	struct io_uring_cqe cqe;

	if (!cancelled) {
		CHECK_EQ(ring_wait(&s->ring, 20, true, &cqe), -ETIME);
		CALL(write(s->idle[1], "x", 1));
	}
	CHECK_EQ(ring_wait(&s->ring, SOON_MS, true, &cqe), 0);
	CHECK_EQ(cqe.user_data, POLL_DATA);
	CHECK_EQ(cqe.res, cancelled ? -ECANCELED : POLLIN);
}

/* ------------------------------------------------------------------------- */
/* It cannot finish: cancelled when the budget is over */

static void stuck(const struct world *w, const void *arg)
{
	struct daxlease_stats stats;
	struct io_uring_cqe cqe;
	struct scene s;

	scene_begin(&s, w, arg);
	other_begin(&s.other, OP_TRUNCATE, s.file.path, HALF, -1);
	UNTIL(s.ctx, &s.ring, atomic_load(&s.buffer.drains));
	UNTIL(s.ctx, &s.ring, !ring_slot(&s.ring, 3));
	CHECK(other_waits(&s.other));
	CHECK_EQ(daxlease_buf_get_state(s.buffer.buf), DAXLEASE_STATE_DEREGISTERING);
	/* What comes now finds no buffer. */
	ring_read(&s.ring, 3, s.ends[0], s.file.map, PAGE, 1);
	CHECK_EQ(ring_wait(&s.ring, SOON_MS, true, &cqe), 0);
	CHECK_EQ(cqe.user_data, 1);
	CHECK_EQ(cqe.res, -EFAULT);

	UNTIL(s.ctx, NULL, atomic_load(&s.buffer.releases));
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	CHECK_BETWEEN(other_took_ms(&s.other), BUDGET_MS - 10, BUDGET_MS + SOON_MS / 2);
	CHECK_EQ(atomic_load(&s.buffer.result), -ETIMEDOUT);
	CHECK_EQ(ring_wait(&s.ring, SOON_MS, true, &cqe), 0);
	if (cqe.user_data == POLL_DATA) { /* DAXLEASE_CANCEL_ANY, in whatever order */
		CHECK_EQ(cqe.res, -ECANCELED);
		CHECK_EQ(ring_wait(&s.ring, SOON_MS, true, &cqe), 0);
		CHECK_EQ(cqe.user_data, READ_DATA);
	} else {
		CHECK_EQ(cqe.user_data, READ_DATA);
		check_idle(&s);
	}
	CHECK(cqe.res == -ECANCELED || cqe.res == -EINTR || cqe.user_data == POLL_DATA);
	stats = ctx_stats(s.ctx);
	CHECK_EQ(stats.breaks, 1);
	CHECK_EQ(stats.overruns, 1);
	CHECK_EQ(stats.released, 0);
	CHECK_EQ(stats.lost, 0);
	CHECK_EQ(stats.dereg_failures, 0);
	CHECK_EQ(file_size_now(&s.file), HALF);
	CHECK_EQ(log_errors(), 0);
	scene_end(&s);
}

/* ------------------------------------------------------------------------- */
/* It finishes within the budget: waited for, and not cancelled */

static void finishes(struct scene *s, bool hand_on)
{
	struct daxlease_stats stats;
	struct io_uring_cqe cqe;
	uint64_t end;

	other_begin(&s->other, OP_TRUNCATE, s->file.path, HALF, -1);
	UNTIL(s->ctx, NULL, atomic_load(&s->buffer.drains));
	for (end = now_ns() + 200 * MSEC; now_ns() < end;)
		turn(s->ctx, NULL);
	CHECK(other_waits(&s->other));
	CHECK_EQ(atomic_load(&s->buffer.releases), 0);
	CALL(write(s->ends[1], "abc", 3));
	CHECK_EQ(ring_wait(&s->ring, SOON_MS, hand_on, &cqe), 0);
	CHECK_EQ(cqe.user_data, READ_DATA);
	CHECK_EQ(cqe.res, 3);
	CHECK_EQ(ring_wait(&s->ring, 1, hand_on, &cqe), -ETIME);
	UNTIL(s->ctx, hand_on ? &s->ring : NULL, atomic_load(&s->buffer.releases));
	CHECK_EQ(other_end(&s->other, SOON_MS), 0);
	CHECK_EQ(atomic_load(&s->buffer.result), 0);
	stats = ctx_stats(s->ctx);
	CHECK_EQ(stats.breaks, 1);
	CHECK_EQ(stats.overruns, 0);
	CHECK_EQ(stats.released, 1);
	CHECK_EQ(log_errors(), 0);
}

static void waited_for(const struct world *w, const void *arg)
{
	struct scene s;

	scene_begin(&s, w, arg);
	finishes(&s, true);
	check_idle(&s);
	scene_end(&s);
}

/* The program keeps the library's completions to itself: then the kernel is asked. */
static void not_handed_on(const struct world *w, const void *arg)
{
	struct scene s;

	scene_begin(&s, w, arg);
	finishes(&s, false);
	check_idle(&s);
	scene_end(&s);
}

/* ------------------------------------------------------------------------- */
/* Beside an MR of the same file */

static int pending(struct region *r)
{
	(void)r;
	return DAXLEASE_PENDING;
}

static void beside_mr(const struct world *w, const void *arg)
{
	const struct how how = { .on_drain = pending };
	struct region region;
	struct device dev;
	struct scene s;

	scene_begin(&s, w, arg);
	device_open(&dev, "rxe0");
	region_make(&region, s.ctx, dev.pd, &s.file, w, &how);
	CHECK_EQ(leases_in_kernel(s.file.ino), 1);
	CHECK_EQ(ctx_stats(s.ctx).leases, 1);
	CALL(write(s.ends[1], "abc", 3));
	other_begin(&s.other, OP_TRUNCATE, s.file.path, HALF, -1);
	/* Both at once. */
	UNTIL(s.ctx, &s.ring, atomic_load(&s.buffer.drains) && region.drains);
	UNTIL(s.ctx, &s.ring, !ring_slot(&s.ring, 3));
	CHECK(other_waits(&s.other));
	CHECK_EQ(leases_in_kernel(s.file.ino), 1);
	CHECK_EQ(atomic_load(&s.buffer.releases) + region.releases, 0);
	CHECK_EQ(daxlease_mr_drained(region.mr), 0);
	UNTIL(s.ctx, &s.ring, atomic_load(&s.buffer.releases) && region.releases);
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	CHECK_EQ(atomic_load(&s.buffer.result) | region.release_result, 0);
	CHECK_EQ(ctx_stats(s.ctx).breaks, 1);
	CHECK_EQ(ctx_stats(s.ctx).released, 2);
	CHECK_EQ(ctx_stats(s.ctx).leases, 0);
	CHECK_EQ(ctx_stats(s.ctx).overruns, 0);
	region_end(&region);
	device_close(&dev);
	scene_end(&s);
}

/* ------------------------------------------------------------------------- */
/* Deregistering what requests still use */

static void dereg_in_use(const struct world *w, const void *arg)
{
	struct buffer second;
	struct io_uring_cqe cqe;
	struct scene s;

	scene_begin(&s, w, arg);
	buffer_make(&second, &s.ring, 4, &s.file, 0, PAGE, w, NULL);
	CHECK_EQ(daxlease_dereg_buf(s.buffer.buf), -EBUSY);
	CHECK(!ring_slot(&s.ring, 3));
	CHECK_EQ(daxlease_buf_get_state(s.buffer.buf), DAXLEASE_STATE_DEREGISTERING);
	CHECK_EQ(buffer_info(&s.buffer).registered, 0);
	/* Nobody else's business is touched, and a break waits for it as for others. */
	CHECK_EQ(daxlease_buf_get_state(second.buf), DAXLEASE_STATE_ACTIVE);
	other_begin(&s.other, OP_TRUNCATE, s.file.path, HALF, -1);
	UNTIL(s.ctx, &s.ring, atomic_load(&second.drains));
	CHECK(other_waits(&s.other));
	CALL(write(s.ends[1], "abc", 3));
	CHECK_EQ(ring_wait(&s.ring, SOON_MS, true, &cqe), 0);
	CHECK_EQ(cqe.res, 3);
	UNTIL(s.ctx, &s.ring, atomic_load(&second.releases));
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	buffer_end(&second);
	check_idle(&s);
	scene_end(&s);
}

void add_wait_cases(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(manners); i++) {
		const struct manner *m = &manners[i];

		add_case(stuck, m, KIND_LAYOUTS, 0, "stuck/%s", m->name);
		add_case(waited_for, m, KIND_LAYOUTS, 0, "waited/%s", m->name);
		add_case(not_handed_on, m, KIND_LAYOUTS, 0, "unheard/%s", m->name);
		add_case(beside_mr, m, KIND_LAYOUTS, 0, "beside-mr/%s", m->name);
		add_case(dereg_in_use, m, KIND_LAYOUTS, 0, "dereg/%s", m->name);
	}
}
