// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Every operation against every kind of holder. Each has a file of its own, and all of them
 * are under way at the same time: a case takes as long as the slowest.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "holder.h"
#include "ops.h"

#define MAX_SUBJECTS 48
#define WAIT_MS 150 /* how long they are seen to wait */
#define DEREG_MS 10

enum who {
	ANSWERS,
	SILENT, /* never answers */
	LATE,	/* its device takes longer than all deadlines */
	EXCLUSIVE,
	TWO, /* in two processes */
};

enum through {
	LATER,	   /* a path, or a descriptor opened after the file was guarded */
	EARLIER,   /* one that was opened before */
	INHERITED, /* the holder's */
};

struct setting {
	const char *name;
	enum who who;
	enum through through;
	bool daemon;
};

/* An operation, who does it, and to what. */
struct subject {
	const struct guard_op *op;
	enum outcome outcome;
	struct other other;
	struct file file;
	struct region region;
	int earlier;
	struct snapshot before;
};

struct scene {
	const struct world *w;
	const struct setting *set;
	struct daemon daemon;
	struct device dev;
	struct daxlease_ctx *ctx;
	unsigned int count;
	struct subject subjects[MAX_SUBJECTS];
	pid_t second;
	int told, order; /* pipes */
};

#define FOR_EACH(s, sub) for ((sub) = (s)->subjects; (sub) < (s)->subjects + (s)->count; (sub)++)

/* ------------------------------------------------------------------------- */
/* Files and operations */

static enum outcome outcome_of(const struct guard_op *op, enum through through)
{
	return through == LATER ? op->later : op->earlier;
}

/* Each takes a thread of the library for so long. */
static bool is_for_late(const struct guard_op *op)
{
	return !strcmp(op->name, "truncate") || !strcmp(op->name, "punch") ||
	       !strcmp(op->name, "ring-ftruncate") || !strcmp(op->name, "o-trunc");
}

static void choose_ops(struct scene *s)
{
	for (const struct guard_op *op = guard_ops; op->name; op++) {
		struct subject *sub = &s->subjects[s->count];
		enum outcome outcome = outcome_of(op, s->set->through);

		if (outcome == NOT_SO || (op->fs && strcmp(op->fs, s->w->fs) != 0))
			continue;
		if (s->set->who == LATE && !is_for_late(op))
			continue;
		CHECK(s->count++ < MAX_SUBJECTS);
		sub->op = op;
		sub->outcome = outcome;
	}
}

static void make_file(struct scene *s, struct subject *sub)
{
	char name[48];

	snprintf(name, sizeof(name), "%s", sub->op->name);
	world_path(s->w, name, sub->file.path, sizeof(sub->file.path));
	pattern_write(sub->file.path, FILE_SIZE, 1);
	if (sub->op->prepare)
		sub->op->prepare(sub->file.path);
	CALL(chown(sub->file.path, USER, USER));
	sub->earlier = (int)CALL(open(sub->file.path, O_RDWR | O_CLOEXEC));
	file_open(&sub->file, FILE_SIZE, O_RDWR);
	snapshot_layout(&sub->before, sub->file.fd);
}

static void make_subjects(struct scene *s)
{
	struct subject *sub;

	choose_ops(s);
	FOR_EACH(s, sub)
	other_start(&sub->other);
	FOR_EACH(s, sub)
	make_file(s, sub);
}

static int fd_for(const struct scene *s, const struct subject *sub)
{
	switch (s->set->through) {
	case EARLIER:
		return sub->earlier;
	case INHERITED:
		return sub->file.fd;
	default:
		return -1;
	}
}

static void begin(const struct scene *s, struct subject *sub)
{
	other_begin_fn(&sub->other, sub->op->run, sub->file.path, 0, fd_for(s, sub));
}

static int end(struct subject *sub)
{
	return other_end(&sub->other, SOON_MS);
}

static void check_unchanged(struct subject *sub)
{
	struct snapshot now;
	const char *differs;

	snapshot_layout(&now, sub->file.fd);
	differs = snapshot_differs(&sub->before, &now);
	if (differs)
		fail_at(__FILE__, __LINE__, "%s: %s changed before it may", sub->op->name, differs);
}

static void check_size(struct subject *sub)
{
	struct snapshot now;

	snapshot_layout(&now, sub->file.fd);
	if (now.size != sub->op->size_after)
		fail_at(__FILE__, __LINE__, "%s: the size is %jd, wanted %jd", sub->op->name,
			(intmax_t)now.size, (intmax_t)sub->op->size_after);
}

/* ------------------------------------------------------------------------- */
/* Holders */

static void guard(struct scene *s, struct subject *sub)
{
	const struct how how = {
		.flags = s->set->who == EXCLUSIVE ? DAXLEASE_MR_EXCLUSIVE : 0,
		.on_drain = s->set->who == LATE || s->set->who == EXCLUSIVE ? NULL : answer_later,
	};

	CHECK_EQ(region_try(&sub->region, s->ctx, s->dev.pd, &sub->file, s->w, &how), 0);
	CHECK_EQ(region_info(&sub->region).kind, DAXLEASE_KIND_GUARD);
	CHECK(region_info(&sub->region).on_demand);
}

static void guard_all(struct scene *s)
{
	struct subject *sub;

	device_open(&s->dev, "rxe0");
	s->ctx = ctx_make_at(s->set->daemon ? &s->daemon : NULL);
	daxlease_ctx_set_log(s->ctx, log_line, DAXLEASE_LOG_WARNING, NULL);
	if (s->set->daemon)
		become_user();
	FOR_EACH(s, sub)
	guard(s, sub);
}

static void let_go_all(struct scene *s)
{
	struct subject *sub;

	FOR_EACH(s, sub)
	region_end(&sub->region);
	CHECK_EQ(daxlease_ctx_free(s->ctx), 0);
	device_close(&s->dev);
}

static void answer(struct subject *sub)
{
	CHECK_EQ(daxlease_mr_drained(sub->region.mr), 0);
	WAIT_FOR(&sub->region, releases, 1);
	CHECK_EQ(sub->region.release_result, 0);
}

static void await_drains(struct scene *s)
{
	struct subject *sub;

	FOR_EACH(s, sub)
	{
		if (sub->outcome == WAITS)
			WAIT_FOR(&sub->region, drains, 1);
	}
}

static void answer_as_they_come(struct scene *s, uint64_t *ret_ns)
{
	struct subject *sub;
	bool more = true;

	for (uint64_t limit = now_ns() + SOON_MS * MSEC; more; sleep_ms(2)) {
		more = false;
		CHECK(now_ns() < limit);
		FOR_EACH(s, sub)
		{
			uint64_t *ns = &ret_ns[sub - s->subjects];

			if (sub->outcome != WAITS || *ns)
				continue;
			more = true;
			if (!sub->region.drains)
				continue;
			*ns = now_ns();
			answer(sub);
		}
	}
}

/*
 * The other holder of the same files. Guards in two processes are asked one after the other,
 * as the kernel has it; one daemon asks both at once.
 */
static _Noreturn void hold_second(struct scene *s, int told, int order)
{
	uint64_t ns[MAX_SUBJECTS] = { 0 };
	struct subject *sub;
	char c;

	guard_all(s);
	CHECK_EQ(write(told, "r", 1), 1);
	CHECK_EQ(read(order, &c, 1), 1);
	answer_as_they_come(s, ns);
	FOR_EACH(s, sub)
	{
		if (sub->outcome == PASSES)
			CHECK_EQ(sub->region.drains, 0);
	}
	CHECK_EQ(write(told, ns, sizeof(ns)), sizeof(ns));
	let_go_all(s);
	_exit(EXIT_SUCCESS);
}

static void start_second(struct scene *s)
{
	int told[2], order[2];
	char c;

	CALL(pipe2(told, O_CLOEXEC));
	CALL(pipe2(order, O_CLOEXEC));
	s->told = told[0];
	s->order = order[1];
	fflush(NULL);
	s->second = (pid_t)CALL(fork());
	if (!s->second)
		hold_second(s, told[1], order[0]);
	CALL(close(told[1]));
	CALL(close(order[0]));
	CHECK_EQ(read(s->told, &c, 1), 1);
}

/* ------------------------------------------------------------------------- */
/* What comes of it */

static void do_what_passes(struct scene *s)
{
	struct subject *sub;

	FOR_EACH(s, sub)
	{
		if (sub->outcome != PASSES)
			continue;
		fprintf(stderr, "%s\n", sub->op->name);
		begin(s, sub);
		CHECK_EQ(end(sub), 0);
		check_size(sub);
	}
	sleep_ms(QUIET_MS);
	FOR_EACH(s, sub)
	{
		if (sub->outcome == PASSES && sub->region.drains)
			fail_at(__FILE__, __LINE__, "%s: was told", sub->op->name);
	}
}

static void begin_what_waits(struct scene *s)
{
	struct subject *sub;

	FOR_EACH(s, sub)
	{
		if (sub->outcome == WAITS)
			begin(s, sub);
	}
}

static void check_waiting(struct scene *s)
{
	struct subject *sub;

	FOR_EACH(s, sub)
	{
		if (sub->outcome != WAITS)
			continue;
		if (!other_waits(&sub->other))
			fail_at(__FILE__, __LINE__, "%s: does not wait", sub->op->name);
		check_unchanged(sub);
	}
}

/* Not before what happened at that time. */
static void check_went_on_after(const struct subject *sub, uint64_t ns)
{
	if (sub->other.end_ns < ns)
		fail_at(__FILE__, __LINE__, "%s: went on too early", sub->op->name);
}

/* And then it did its work. */
static void check_went_on(struct subject *sub, uint64_t after_ns)
{
	CHECK_EQ(end(sub), 0);
	check_went_on_after(sub, after_ns);
	check_size(sub);
}

static void expect_answered(struct scene *s)
{
	struct subject *sub;
	uint64_t ns;

	begin_what_waits(s);
	await_drains(s);
	sleep_ms(WAIT_MS);
	check_waiting(s);
	dereg_delay_ms = DEREG_MS;
	FOR_EACH(s, sub)
	{
		if (sub->outcome != WAITS)
			continue;
		fprintf(stderr, "%s\n", sub->op->name);
		CHECK(other_waits(&sub->other));
		ns = now_ns();
		answer(sub);
		check_went_on(sub, ns + DEREG_MS * MSEC);
	}
	dereg_delay_ms = 0;
	CHECK_EQ(ctx_stats(s->ctx).lost + ctx_stats(s->ctx).overruns, 0);
}

/* Whoever answers first, they wait for the other one as well. */
static void expect_both_answered(struct scene *s)
{
	uint64_t own[MAX_SUBJECTS] = { 0 }, second[MAX_SUBJECTS];
	struct subject *sub;

	begin_what_waits(s);
	if (s->set->daemon) {
		await_drains(s);
		answer_as_they_come(s, own);
	}
	sleep_ms(WAIT_MS);
	check_waiting(s);
	CHECK_EQ(write(s->order, "", 1), 1);
	if (!s->set->daemon) {
		sleep_ms(WAIT_MS);
		check_waiting(s);
		answer_as_they_come(s, own);
	}
	CHECK_EQ(read(s->told, second, sizeof(second)), sizeof(second));
	expect_child_ok(s->second, SOON_MS);
	FOR_EACH(s, sub)
	{
		if (sub->outcome != WAITS)
			continue;
		check_went_on(sub, own[sub - s->subjects]);
		check_went_on_after(sub, second[sub - s->subjects]);
	}
}

static void check_deadline(struct scene *s, unsigned int low_ms, int result)
{
	struct subject *sub;

	FOR_EACH(s, sub)
	{
		if (sub->outcome != WAITS)
			continue;
		fprintf(stderr, "%s\n", sub->op->name);
		CHECK_EQ(end(sub), 0);
		CHECK_BETWEEN(other_took_ms(&sub->other), low_ms, BREAK_S * 1000 + 2000);
		check_size(sub);
		WAIT_FOR(&sub->region, releases, 1);
		CHECK_EQ(sub->region.drains, 1);
		CHECK_EQ(sub->region.release_result, result);
		/* Whoever has lost it learns of that when others have long gone on. */
		if (result == -ESTALE)
			CHECK(sub->other.end_ns + MSEC * 500 < sub->region.release_ns);
	}
}

/* The library gives back at the end of its budget, before the deadline of the guard. */
static void expect_fenced(struct scene *s)
{
	begin_what_waits(s);
	await_drains(s);
	sleep_ms(WAIT_MS);
	check_waiting(s);
	check_deadline(s, BREAK_S * 750 - 100, -ETIMEDOUT);
	CHECK_EQ(ctx_stats(s->ctx).lost, 0);
}

/* That is not enough: the guard lets them go on. */
static void expect_lost(struct scene *s)
{
	dereg_delay_ms = BREAK_S * 1000 + 1000;
	begin_what_waits(s);
	await_drains(s);
	sleep_ms(WAIT_MS);
	check_waiting(s);
	check_deadline(s, BREAK_S * 1000 - 100, -ESTALE);
	dereg_delay_ms = 0;
}

static void expect_refused(struct scene *s)
{
	struct subject *sub;

	FOR_EACH(s, sub)
	{
		if (sub->outcome != WAITS)
			continue;
		fprintf(stderr, "%s\n", sub->op->name);
		begin(s, sub);
		CHECK_EQ(end(sub), -ETXTBSY);
		CHECK_BETWEEN(other_took_ms(&sub->other), 0, AT_ONCE_MS);
		check_unchanged(sub);
		CHECK_EQ(sub->region.drains, 0);
		CHECK_EQ(daxlease_mr_recall(sub->region.mr), 0);
		begin(s, sub);
		CHECK_EQ(end(sub), 0);
		check_size(sub);
	}
}

static void table(const struct world *w, const void *arg)
{
	static struct scene s;
	struct subject *sub;

	s.w = w;
	s.set = arg;
	if (s.set->who == SILENT || s.set->who == LATE)
		sysctl_set("lease-break-time", BREAK_S);
	if (s.set->daemon)
		daemon_start(&s.daemon);
	make_subjects(&s);
	if (s.set->who == TWO)
		start_second(&s);
	guard_all(&s);
	do_what_passes(&s);
	switch (s.set->who) {
	case ANSWERS:
		expect_answered(&s);
		break;
	case SILENT:
		expect_fenced(&s);
		break;
	case LATE:
		expect_lost(&s);
		break;
	case EXCLUSIVE:
		expect_refused(&s);
		break;
	case TWO:
		expect_both_answered(&s);
		break;
	}
	let_go_all(&s);
	FOR_EACH(&s, sub)
	other_stop(&sub->other);
}

void add_op_cases(void)
{
	static const struct setting settings[] = {
		{ "answers", ANSWERS, LATER, false },
		{ "answers-daemon", ANSWERS, LATER, true },
		{ "silent", SILENT, LATER, false },
		{ "silent-daemon", SILENT, LATER, true },
		{ "exclusive", EXCLUSIVE, LATER, false },
		{ "exclusive-daemon", EXCLUSIVE, LATER, true },
		{ "two", TWO, LATER, false },
		{ "two-daemon", TWO, LATER, true },
		{ "earlier", ANSWERS, EARLIER, false },
		{ "earlier-daemon", ANSWERS, EARLIER, true },
		{ "earlier-exclusive", EXCLUSIVE, EARLIER, false },
		{ "inherited", ANSWERS, INHERITED, false },
		{ "inherited-daemon", ANSWERS, INHERITED, true },
		{ "late", LATE, LATER, false },
		{ "late-daemon", LATE, LATER, true },
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(settings); i++)
		add_case(table, &settings[i], KIND_GUARD, 60, "ops/%s", settings[i].name);
}
