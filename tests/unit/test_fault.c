// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * The whole life of two regions, again and again: the first time the first call to
 * the kernel or the device fails, then the second, until there is none left to fail.
 * Whatever it is, nobody waits longer than the drain budget allows, each registration
 * has one final event, and nothing is left in the end.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fake_layout.h"
#include "fake_verbs.h"
#include "fault.h"
#include "support.h"

#define BUDGET_MS 300
#define PATIENCE_MS 1500 /* of those who want the file */
#define NTH_MAX 600
#define REGIONS 2

/* Under layout leases, which fake_layout.c makes up. */
static bool with_layouts;

struct life {
	struct fix fx;
	struct user users[REGIONS];
	unsigned int nth;
	unsigned int failures;
};

static void check(struct life *life, bool ok, const char *what)
{
	const char *hit = fault_hit();

	if (ok)
		return;
	life->failures++;
	fprintf(stderr, "call %u (%s) failed: not so: %s\n", life->nth, hit ? hit : "none yet",
		what);
}

#define CHECK(life, cond) check(life, cond, #cond)

/* Calls whose failure must not be seen from outside at all. */
static bool must_be_survived(void)
{
	static const char *const calls[] = {
		"sys_close",	   "sys_event_clear",	      "sys_tgkill",
		"sys_wait_signal", "sys_read_break_time",     "sys_open_break_time",
		"verbs_prefetch",  "sys_set_lease(F_UNLCK)",  "sys_set_deleg",
		"sys_get_layout",  "sys_set_layout(F_UNLCK)",
	};
	const char *hit = fault_hit();

	for (size_t i = 0; hit && i < sizeof(calls) / sizeof(calls[0]); i++) {
		if (!strcmp(hit, calls[i]))
			return true;
	}
	return false;
}

static bool all_out(struct life *life)
{
	for (unsigned int i = 0; i < REGIONS; i++) {
		if (life->users[i].mr && atomic_load(&life->users[i].releases) == 0)
			return false;
	}
	return true;
}

/* Registered again, or the user knows that it will not be. */
static bool settled(const struct user *u)
{
	if (!u->mr || atomic_load(&u->regain_errors))
		return true;
	return user_state(u) == DAXLEASE_STATE_ACTIVE &&
	       atomic_load(&u->regains) == atomic_load(&u->releases);
}

static bool all_settled(struct life *life)
{
	return settled(&life->users[0]) && settled(&life->users[1]);
}

static void begin(struct life *life)
{
	for (unsigned int i = 0; i < REGIONS; i++) {
		struct user *u = &life->users[i];
		struct daxlease_mr_opts opts = user_opts(u, DAXLEASE_MR_REGAIN, BUDGET_MS);
		int err = user_try(&life->fx, u, &life->fx.file, 2 * i, 2, &opts);

		CHECK(life, !err || fault_hit());
		CHECK(life, !err || !must_be_survived());
		CHECK(life, !err == !!u->mr);
	}
}

/* The other process has to get through, well before the kernel would help it. */
static void let_in(struct life *life, struct breaker *b)
{
	CHECK(life, WAIT_MS(&life->fx, PATIENCE_MS, breaker_done(b)));
	CHECK(life, b->err == 0);
}

/* Another process truncates it. Who is told of nothing has nothing to give back. */
static void changer(struct life *life)
{
	const struct file *f = &life->fx.file;
	int err = fake_layout_break(f);

	CHECK(life, err == 0 || err == -EAGAIN);
	CHECK(life, WAIT_MS(&life->fx, PATIENCE_MS, !fake_layout_waits(f)));
	CHECK(life, WAIT_MS(&life->fx, PATIENCE_MS, all_out(life)));
	CHECK(life, WAIT_MS(&life->fx, 3000, all_settled(life)));
}

static void writer(struct life *life)
{
	struct breaker b;

	breaker_open(&b, &life->fx.file, O_WRONLY);
	let_in(life, &b);
	CHECK(life, WAIT_MS(&life->fx, PATIENCE_MS, all_out(life)));
	CHECK(life, b.done_ns >= fake_last_dereg_ns());
	breaker_end(&b);
	CHECK(life, WAIT_MS(&life->fx, 3000, all_settled(life)));
}

static void reader(struct life *life)
{
	struct breaker b;

	breaker_open(&b, &life->fx.file, O_RDONLY);
	let_in(life, &b);
	breaker_end(&b);
	CHECK(life, WAIT_MS(&life->fx, 3000, all_settled(life)));
}

/* Some of its errors say "call again"; a program would. */
static void recall_and_regain(struct life *life, struct user *u)
{
	int err = -EAGAIN;

	if (!u->mr)
		return;
	for (int i = 0; i < 10 && err != 0 && err != -EALREADY && err != -ETIMEDOUT; i++)
		err = daxlease_mr_recall(u->mr);
	CHECK(life, err == 0 || err == -EALREADY || err == -ETIMEDOUT);
	CHECK(life, fake_live() == 0);
	CHECK(life, file_lease(&life->fx.file) == F_UNLCK);
	CHECK(life, fake_layout_leases(NULL) == 0);
	err = -EAGAIN;
	for (int i = 0; i < 10 && err != 0 && err != -EALREADY; i++) {
		err = daxlease_mr_regain(u->mr);
		sleep_ms(1);
	}
	CHECK(life, err == 0 || err == -EALREADY);
}

/* Each registration but the present one has had its event. */
static void check_events(struct life *life, struct user *u)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };
	bool active;

	if (!u->mr)
		return;
	active = WAIT_MS(&life->fx, atomic_load(&u->regain_errors) ? 100 : 3000,
			 user_state(u) == DAXLEASE_STATE_ACTIVE);
	CHECK(life, active || atomic_load(&u->regain_errors));
	CHECK(life, daxlease_mr_get_info(u->mr, &info) == 0);
	CHECK(life, atomic_load(&u->releases) == info.generation - active);
	CHECK(life, atomic_load(&u->overlaps) == 0);
	CHECK(life, !must_be_survived() || atomic_load(&u->result) == 0);
	CHECK(life, !must_be_survived() || atomic_load(&u->regain_errors) == 0);
}

static void dereg(struct life *life, struct user *u)
{
	int err = daxlease_dereg_mr(u->mr);

	if (err)
		err = daxlease_dereg_mr(u->mr);
	CHECK(life, err == 0);
	u->mr = NULL;
}

static void live(struct life *life)
{
	struct daxlease_stats stats;

	begin(life);
	if (with_layouts)
		changer(life);
	else
		writer(life);
	reader(life);
	recall_and_regain(life, &life->users[0]);
	for (unsigned int i = 0; i < REGIONS; i++)
		check_events(life, &life->users[i]);
	for (unsigned int i = 0; i < REGIONS; i++)
		dereg(life, &life->users[i]);
	fix_stats(&life->fx, &stats);
	CHECK(life, stats.regions == 0);
	CHECK(life, stats.leases == 0);
	CHECK(life, stats.lost == 0);
	CHECK(life, daxlease_ctx_free(life->fx.ctx) == 0);
}

static void check_nothing_left(struct life *life)
{
	struct fix *fx = &life->fx;
	int fd = open(fx->file.path, O_RDWR | O_NONBLOCK | O_CLOEXEC);

	CHECK(life, fd >= 0);
	close(fd);
	CHECK(life, file_lease(&fx->file) == F_UNLCK);
	CHECK(life, fake_layout_leases(NULL) == 0);
	file_end(&fx->file);
	CHECK(life, fake_live() == 0);
	CHECK(life, count_fds() == fx->fds);
	CHECK(life, fix_threads_gone(fx));
}

/* Returns whether there was an nth call. */
static bool one_life(const struct mode *mode, unsigned int nth, unsigned int *failures)
{
	static struct life life;
	bool hit;
	int err;

	memset(&life, 0, sizeof(life));
	life.nth = nth;
	fix_begin(&life.fx, mode);
	if (with_layouts) {
		fake_layout_emulate(FAKE_SETLAYOUT);
		fake_layout_map(&life.fx.file);
	}
	fault_arm(nth);
	err = fix_open(&life.fx);
	check(&life, !err || (fault_hit() && !must_be_survived()), "context");
	if (!err)
		live(&life);
	hit = fault_hit();
	check_nothing_left(&life);
	*failures += life.failures;
	return hit;
}

static void fault__each_call_fails_once(void **state)
{
	unsigned int failures = 0, nth = 1;

	while (nth <= NTH_MAX && one_life(*state, nth, &failures) && failures < 50)
		nth++;
	print_message("%u calls failed, one after the other\n", nth - 1);
	assert_int_equal(failures, 0);
	assert_true(nth > 50);
}

int main(int argc, char **argv)
{
	const struct mode *mode = &mode_thread;

	if (argc > 1 && !strcmp(argv[1], "loop"))
		mode = &mode_loop;
	if (argc > 1 && !strcmp(argv[1], "signal"))
		mode = &mode_signal;
	with_layouts = argc > 2 && !strcmp(argv[2], "layout");

	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(fault__each_call_fails_once, (void *)mode),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
