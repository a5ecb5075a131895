// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* A guard in the process that it guards for: whatever becomes of that, others go on. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "holder.h"

struct inside {
	struct other other;
	struct holder holder;
};

static void inside_begin(struct inside *s, const struct world *w, const struct holder_how *how)
{
	other_start(&s->other);
	holder_start(&s->holder, w, "file", how);
	holder_expect(&s->holder, NEWS_READY);
	CHECK(is_guarded_by(s->holder.pid, s->holder.file.ino));
}

static void begin_break(struct inside *s)
{
	other_begin(&s->other, OP_TRUNCATE, s->holder.file.path, PAGE, -1);
	holder_expect(&s->holder, NEWS_DRAIN);
	sleep_ms(QUIET_MS);
	CHECK(other_waits(&s->other));
	CHECK_EQ(file_size_now(&s->holder.file), FILE_SIZE);
}

static void expect_goes_on(struct inside *s, uint64_t since_ns)
{
	CHECK_EQ(other_end(&s->other, SOON_MS), 0);
	CHECK((int64_t)(s->other.end_ns - since_ns) < (int64_t)(2 * SEC));
	CHECK_EQ(file_size_now(&s->holder.file), PAGE);
	other_stop(&s->other);
}

static void killed(const struct world *w, const void *arg)
{
	struct inside s;
	uint64_t ns;

	inside_begin(&s, w, arg);
	begin_break(&s);
	ns = now_ns();
	holder_kill(&s.holder);
	expect_goes_on(&s, ns);
}

static void killed_exclusive(const struct world *w, const void *arg)
{
	struct inside s;

	inside_begin(&s, w, arg);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.holder.file.path, PAGE, -1), -ETXTBSY);
	CHECK_EQ(file_size_now(&s.holder.file), FILE_SIZE);
	CHECK(holder_is_quiet(&s.holder));
	holder_kill(&s.holder);
	other_begin(&s.other, OP_TRUNCATE, s.holder.file.path, PAGE, -1);
	expect_goes_on(&s, now_ns());
}

/* Nobody is left to answer, so others wait; it is no deadlock, for they can be ended. */
static void stands_still(const struct world *w, const void *arg)
{
	struct other second;
	struct inside s;
	int status;

	sysctl_set("lease-break-time", 1);
	other_start(&second);
	inside_begin(&s, w, arg);
	CALL(kill(s.holder.pid, SIGSTOP));
	CALL(waitpid(s.holder.pid, &status, WUNTRACED)); /* all of its threads */
	other_begin(&s.other, OP_TRUNCATE, s.holder.file.path, PAGE, -1);
	other_begin(&second, OP_TRUNCATE, s.holder.file.path, PAGE, -1);
	sleep_ms(1500);
	CHECK(other_waits(&s.other));
	CHECK(other_waits(&second));
	CALL(kill(second.pid, SIGTERM));
	CHECK_EQ(wait_child(second.pid, SOON_MS), SIGTERM);
	CHECK_EQ(file_size_now(&s.holder.file), FILE_SIZE);
	sysctl_set("lease-break-time", 45);
	CALL(kill(s.holder.pid, SIGCONT));
	holder_expect(&s.holder, NEWS_DRAIN);
	holder_order(&s.holder, ORDER_ANSWER);
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	CHECK_EQ(holder_expect(&s.holder, NEWS_RELEASED), 0);
	holder_end(&s.holder);
	other_stop(&s.other);
}

/* All that it did not open itself, the library's among them: it guards all the same. */
static void closes_others(const struct world *w, const void *arg)
{
	struct inside s;

	inside_begin(&s, w, arg);
	begin_break(&s);
	holder_order(&s.holder, ORDER_ANSWER);
	CHECK_EQ(holder_expect(&s.holder, NEWS_RELEASED), 0);
	expect_goes_on(&s, now_ns());
	holder_kill(&s.holder);
}

/* The holder changes its own file, and waits for itself: the library's thread answers. */
static int own_truncate(struct region *r)
{
	sleep_ms(r->drain_ms);
	return 0;
}

static void own_change(const struct world *w, const void *arg)
{
	const struct how how = { .on_drain = own_truncate, .drain_ms = QUIET_MS };
	struct daxlease_ctx *ctx = ctx_make_at(NULL);
	struct device dev;
	struct region r;
	struct file f;

	(void)arg;
	device_open(&dev, "rxe0");
	file_make(&f, w, "file", FILE_SIZE, O_RDWR);
	CHECK_EQ(region_try(&r, ctx, dev.pd, &f, w, &how), 0);
	CALL(ftruncate(f.fd, PAGE));
	WAIT_FOR(&r, releases, 1);
	CHECK_EQ(r.drains, 1);
	CHECK_EQ(r.release_result, 0);
	region_end(&r);
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
}

/* Its own process is refused as well, and knows it by another errno than with a layout. */
static void own_change_exclusive(const struct world *w, const void *arg)
{
	const struct how how = { .flags = DAXLEASE_MR_EXCLUSIVE };
	struct daxlease_ctx *ctx = ctx_make_at(NULL);
	struct device dev;
	struct region r;
	struct file f;

	(void)arg;
	device_open(&dev, "rxe0");
	file_make(&f, w, "file", FILE_SIZE, O_RDWR);
	CHECK_EQ(region_try(&r, ctx, dev.pd, &f, w, &how), 0);
	CHECK(ftruncate(f.fd, PAGE) == -1 && errno == ETXTBSY);
	CHECK(truncate(f.path, PAGE) == -1 && errno == ETXTBSY);
	CHECK_EQ(file_size_now(&f), FILE_SIZE);
	CHECK_EQ(r.drains, 0);
	CHECK_EQ(daxlease_mr_recall(r.mr), 0);
	CALL(ftruncate(f.fd, 4 * PAGE));
	CHECK_EQ(daxlease_mr_regain(r.mr), 0);
	CHECK(ftruncate(f.fd, PAGE) == -1 && errno == ETXTBSY);
	CHECK_EQ(file_size_now(&f), 4 * PAGE);
	region_end(&r);
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
}

void add_inside_cases(void)
{
	static const struct holder_how breakable, exclusive = { .flags = DAXLEASE_MR_EXCLUSIVE },
						  forks = { .forks = true },
						  closes = { .closes_others = true };

	add_case(killed, &breakable, KIND_GUARD, 0, "inside/killed");
	add_case(killed, &forks, KIND_GUARD, 0, "inside/killed-child-lives");
	add_case(killed_exclusive, &exclusive, KIND_GUARD, 0, "inside/killed-exclusive");
	add_case(stands_still, &breakable, KIND_GUARD, 0, "inside/stands-still");
	add_case(closes_others, &closes, KIND_GUARD, 0, "inside/closes-others");
	add_case(own_change, NULL, KIND_GUARD, 0, "inside/own-change");
	add_case(own_change_exclusive, NULL, KIND_GUARD, 0, "inside/own-change-exclusive");
}
