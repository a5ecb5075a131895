// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Every operation against every kind of holder. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../runner.h"
#include "holder.h"
#include "ops.h"

#define MAX_HOLDERS 2
#define ANSWER_MS 200u

/* What the operation gets to hear. */
enum outcome {
	SUCCESS_AT_ONCE,
	SUCCESS_AFTER_ANSWER,
	SUCCESS_AT_DEADLINE,
	REFUSED_AT_DEADLINE,
	REFUSED_AT_ONCE,
};

struct holders {
	const char *name;
	unsigned int count;
	struct holder_how how;
	bool self; /* the caller's own process holds the lease */
	enum outcome outcome;
	int err;
};

static const struct holders all_holders[] = {
	{ "nobody", 0, { 0 }, false, SUCCESS_AT_ONCE, 0 },
	{ "answers",
	  1,
	  { .pins = PIN_MR, .answer_ms = ANSWER_MS },
	  false,
	  SUCCESS_AFTER_ANSWER,
	  0 },
	{ "two", 2, { .pins = PIN_MR, .answer_ms = ANSWER_MS }, false, SUCCESS_AFTER_ANSWER, 0 },
	{ "silent", 1, { .pins = PIN_MR }, false, REFUSED_AT_DEADLINE, -ETXTBSY },
	{ "silent-unpinned", 1, { 0 }, false, SUCCESS_AT_DEADLINE, 0 },
	{ "unbreakable",
	  1,
	  { .flags = LAYOUT_UNBREAKABLE, .pins = PIN_MR },
	  false,
	  REFUSED_AT_ONCE,
	  -ETXTBSY },
	{ "unbreakable-unpinned",
	  1,
	  { .flags = LAYOUT_UNBREAKABLE },
	  false,
	  REFUSED_AT_ONCE,
	  -ETXTBSY },
	{ "self", 1, { .pins = PIN_MR, .answer_ms = ANSWER_MS }, true, SUCCESS_AFTER_ANSWER, 0 },
	{ "self-unbreakable",
	  1,
	  { .flags = LAYOUT_UNBREAKABLE, .pins = PIN_MR },
	  true,
	  REFUSED_AT_ONCE,
	  -EDEADLK },
};

/* These differ from the above only in who pins; not for every operation. */
static const struct holders ring_holders[] = {
	{ "ring-answers",
	  1,
	  { .pins = PIN_RING, .answer_ms = ANSWER_MS },
	  false,
	  SUCCESS_AFTER_ANSWER,
	  0 },
	{ "ring-silent", 1, { .pins = PIN_RING }, false, REFUSED_AT_DEADLINE, -ETXTBSY },
	{ "old-spelling",
	  1,
	  { .pins = PIN_MR, .answer_ms = ANSWER_MS, .old_spelling = true },
	  false,
	  SUCCESS_AFTER_ANSWER,
	  0 },
	{ "old-unbreakable",
	  1,
	  { .flags = LAYOUT_UNBREAKABLE, .pins = PIN_MR, .old_spelling = true },
	  false,
	  REFUSED_AT_ONCE,
	  -ETXTBSY },
};

struct cell {
	const struct op_info *op;
	const struct holders *who;
};

struct scene {
	const struct cell *cell;
	struct other other;
	char path[256];
	int fd; /* to look at the file */
	struct holder *holders[MAX_HOLDERS];
	struct snapshot before;
	uint64_t begin_ns, end_ns; /* of the last attempt */
};

/* ------------------------------------------------------------------------- */

static void scene_begin(struct scene *s, const struct world *w, const struct cell *cell)
{
	memset(s, 0, sizeof(*s));
	s->cell = cell;
	other_start(&s->other);
	sysctl_set("lease-break-time", BREAK_S);
	world_path(w, "file", s->path, sizeof(s->path));
	pattern_write(s->path, FILE_SIZE, 1);
	if (cell->op->prepare)
		cell->op->prepare(s->path);
	for (unsigned int i = 0; i < cell->who->count; i++) {
		struct holder_how how = cell->who->how;

		how.pinned = cell->op->pinned;
		how.answer_ms *= i + 1; /* not both at the same moment */
		s->holders[i] = holder_new(s->path, &how);
		if (cell->who->self)
			holder_start_thread(s->holders[i]);
		else
			holder_start_process(s->holders[i]);
	}
	s->fd = (int)CALL(open(s->path, O_RDONLY | O_CLOEXEC));
	snapshot_take(&s->before, s->fd);
}

static int attempt(struct scene *s)
{
	other_fn run = s->cell->op->run;
	int ret;

	if (!s->cell->who->self) {
		other_begin_fn(&s->other, run, s->path, 0, -1);
		ret = other_end(&s->other, DEADLINE_MAX_MS);
		s->begin_ns = s->other.begin_ns;
		s->end_ns = s->other.end_ns;
		return ret;
	}
	s->begin_ns = now_ns();
	ret = run(s->path, 0, -1);
	if (ret < 0)
		ret = -errno;
	s->end_ns = now_ns();
	return ret;
}

static unsigned int took_ms(const struct scene *s)
{
	return (unsigned int)((s->end_ns - s->begin_ns) / MSEC);
}

static void check_unchanged(const struct scene *s)
{
	struct snapshot now;
	const char *differs;

	snapshot_take(&now, s->fd);
	differs = snapshot_differs(&s->before, &now);
	if (differs)
		fail_at(__FILE__, __LINE__, "%s changed although the call was refused", differs);
}

static void check_effect(const struct scene *s)
{
	const struct op_info *op = s->cell->op;
	struct snapshot now;

	snapshot_take(&now, s->fd);
	CHECK_EQ(now.size, op->size_after);
	if (op->effect == EFFECT_MOVED)
		CHECK(snapshot_differs(&s->before, &now));
}

/* ------------------------------------------------------------------------- */

/* Each was told once, had its pins until it answered, and only then it went on. */
static void check_answered(const struct scene *s)
{
	for (unsigned int i = 0; i < s->cell->who->count; i++) {
		const struct holder *h = s->holders[i];

		CHECK_EQ(atomic_load(&h->signals), 1);
		CHECK_EQ(atomic_load(&h->give_result), 0);
		CHECK(s->end_ns >= atomic_load(&h->unpin_ns));
		CHECK_BETWEEN((atomic_load(&h->signal_ns) - s->begin_ns) / MSEC, 0, AT_ONCE_MS);
	}
}

/* The answer takes part of the time that is allowed, so it cannot be the deadline. */
static void expect_after_answer(struct scene *s)
{
	CHECK_EQ(attempt(s), 0);
	CHECK_BETWEEN(took_ms(s), ANSWER_MS, DEADLINE_MIN_MS);
	/* What the last one notes of giving back may come a little later. */
	sleep_ms(50);
	check_answered(s);
	check_effect(s);
}

static void expect_at_deadline(struct scene *s)
{
	struct holder *h = s->holders[0];

	CHECK_EQ(attempt(s), 0);
	CHECK_BETWEEN(took_ms(s), DEADLINE_MIN_MS, DEADLINE_MAX_MS);
	check_effect(s);
	/* The lease was taken away. */
	holder_order(h, ORDER_GIVE);
	CHECK_EQ(atomic_load(&h->give_result), -EAGAIN);
}

static void expect_refused_at_deadline(struct scene *s)
{
	struct holder *h = s->holders[0];

	CHECK_EQ(attempt(s), s->cell->who->err);
	CHECK_BETWEEN(took_ms(s), DEADLINE_MIN_MS, DEADLINE_MAX_MS);
	check_unchanged(s);
	for (unsigned int i = 0; i < 3; i++) {
		CHECK_EQ(attempt(s), s->cell->who->err);
		CHECK_BETWEEN(took_ms(s), 0, AT_ONCE_MS);
	}
	check_unchanged(s);
	/* The pins are enough: whoever forgets the lease is in nobody's way for ever. */
	holder_order(h, ORDER_DROP);
	CHECK_EQ(attempt(s), 0);
	CHECK_BETWEEN(took_ms(s), 0, AT_ONCE_MS);
	check_effect(s);
	holder_order(h, ORDER_GIVE);
	CHECK_EQ(atomic_load(&h->give_result), -EAGAIN);
}

static void expect_refused(struct scene *s)
{
	struct holder *h = s->holders[0];

	for (unsigned int i = 0; i < 2; i++) {
		CHECK_EQ(attempt(s), s->cell->who->err);
		CHECK_BETWEEN(took_ms(s), 0, AT_ONCE_MS);
		check_unchanged(s);
	}
	CHECK_EQ(lease_is_breaking(h->file.ino), false);
	holder_order(h, ORDER_GIVE);
	CHECK_EQ(atomic_load(&h->give_result), 0);
	CHECK_EQ(attempt(s), 0);
	check_effect(s);
}

static void expect(struct scene *s)
{
	switch (s->cell->who->outcome) {
	case SUCCESS_AT_ONCE:
		CHECK_EQ(attempt(s), 0);
		CHECK_BETWEEN(took_ms(s), 0, AT_ONCE_MS);
		check_effect(s);
		break;
	case SUCCESS_AFTER_ANSWER:
		expect_after_answer(s);
		break;
	case SUCCESS_AT_DEADLINE:
		expect_at_deadline(s);
		break;
	case REFUSED_AT_DEADLINE:
		expect_refused_at_deadline(s);
		break;
	case REFUSED_AT_ONCE:
		expect_refused(s);
		break;
	}
}

/* What such an operation says of a file that nobody has to do with. */
static int try_optional(const struct world *w, const struct op_info *op)
{
	char path[256];

	world_path(w, "trial", path, sizeof(path));
	pattern_write(path, FILE_SIZE, 1);
	op->prepare(path);
	return op->run(path, 0, -1) ? -errno : 0;
}

/* It is as good as no such operation, if it leaves the file alone. */
static void expect_unsupported(struct scene *s, int err)
{
	CHECK(err == -EOPNOTSUPP || err == -EINVAL);
	CHECK_EQ(attempt(s), err);
	check_unchanged(s);
	for (unsigned int i = 0; i < s->cell->who->count; i++)
		holder_end(s->holders[i], 0);
	other_stop(&s->other);
}

static void matrix(const struct world *w, const void *arg)
{
	const struct cell *cell = arg;
	bool told = cell->who->outcome != REFUSED_AT_ONCE;
	int err = cell->op->optional ? try_optional(w, cell->op) : 0;
	struct scene s;

	scene_begin(&s, w, cell);
	if (err) {
		expect_unsupported(&s, err);
		return;
	}
	expect(&s);
	/* Now that nobody has a lease, it is as if there never was one. */
	CHECK_EQ(attempt(&s), 0);
	CHECK_BETWEEN(took_ms(&s), 0, AT_ONCE_MS);
	for (unsigned int i = 0; i < cell->who->count; i++)
		holder_end(s.holders[i], told ? 1 : 0);
	CHECK_EQ(leases_in_kernel(0), 0);
	other_stop(&s.other);
}

static void add_cell(const struct op_info *op, const struct holders *who)
{
	static struct cell cells[512];
	static unsigned int count;
	char name[64];

	CHECK(count < ARRAY_SIZE(cells));
	cells[count] = (struct cell){ .op = op, .who = who };
	snprintf(name, sizeof(name), "%s/%s", op->name, who->name);
	runner_add(op->fs, name, matrix, &cells[count++], 0, 0);
}

void add_matrix_cases(void)
{
	for (const struct op_info *op = breaking_ops; op->name; op++) {
		for (unsigned int i = 0; i < ARRAY_SIZE(all_holders); i++)
			add_cell(op, &all_holders[i]);
		if (strcmp(op->name, "shrink") != 0 && strcmp(op->name, "punch") != 0)
			continue;
		for (unsigned int i = 0; i < ARRAY_SIZE(ring_holders); i++)
			add_cell(op, &ring_holders[i]);
	}
}

/* ------------------------------------------------------------------------- */
/* What must not break */

/* With a deadline far away: were there a break, the call would still be waiting. */
static void quiet(const struct world *w, const void *arg)
{
	const struct cell cell = { .op = arg, .who = &all_holders[3] };
	struct holder *h;
	struct scene s;

	scene_begin(&s, w, &cell);
	sysctl_set("lease-break-time", 45);
	h = s.holders[0];
	CHECK_EQ(attempt(&s), 0);
	CHECK_BETWEEN(took_ms(&s), 0, AT_ONCE_MS);
	CHECK_EQ(lease_is_breaking(h->file.ino), false);
	CHECK_EQ(leases_in_kernel(h->file.ino), 1);
	holder_order(h, ORDER_GIVE);
	CHECK_EQ(atomic_load(&h->give_result), 0);
	holder_end(h, 0);
	other_stop(&s.other);
}

void add_quiet_cases(void)
{
	char name[64];

	for (const struct op_info *op = quiet_ops; op->name; op++) {
		snprintf(name, sizeof(name), "quiet/%s", op->name);
		runner_add(op->fs, name, quiet, op, 0, 0);
	}
}
