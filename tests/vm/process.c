// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Fork, exec, exit, death and standstill of the holder, and what it does to its own file. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "region.h"

/* The lease works as on the first day. */
static void check_still_answers(struct stage *s)
{
	uint32_t rkey = region_rkey(&s->region);

	region_check_untouched(&s->region);
	stage_access(s, 0, rkey, IBV_WC_SUCCESS);
	CHECK_EQ(other_do(&s->other, OP_TRUNCATE, s->file.path, PAGE, -1), 0);
	region_check_released(&s->region, 0);
	stage_no_access(s, rkey);
}

static pid_t fork_holder(void)
{
	pid_t pid;

	fflush(NULL);
	pid = (pid_t)CALL(fork());
	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

/* ------------------------------------------------------------------------- */
/* Fork */

static void call_all(struct stage *s)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct daxlease_stats stats = { .size = sizeof(stats) };
	struct daxlease_mr *mr = s->region.mr, *none = NULL;
	siginfo_t siginfo = { .si_signo = SIGIO };

	CHECK_EQ(daxlease_ctx_free(s->ctx), -ECHILD);
	CHECK_EQ(daxlease_ctx_get_fd(s->ctx), -ECHILD);
	CHECK_EQ(daxlease_ctx_dispatch(s->ctx), -ECHILD);
	CHECK_EQ(daxlease_ctx_notify(s->ctx, &siginfo), -ECHILD);
	CHECK_EQ(daxlease_ctx_set_log(s->ctx, NULL, DAXLEASE_LOG_ERR, NULL), -ECHILD);
	CHECK_EQ(daxlease_ctx_get_stats(s->ctx, &stats), -ECHILD);
	CHECK_EQ(daxlease_reg_mr(s->ctx, s->dev.pd, s->file.fd, s->file.map, PAGE,
				 IBV_ACCESS_REMOTE_READ, NULL, &none),
		 -ECHILD);
	CHECK(!none);
	CHECK(!daxlease_mr_get_ibv_mr(mr));
	CHECK_EQ(daxlease_mr_get_state(mr), DAXLEASE_STATE_RELEASED);
	CHECK_EQ(daxlease_mr_get_info(mr, &info), -ECHILD);
	CHECK_EQ(daxlease_mr_add_qp(mr, s->link.far), -ECHILD);
	CHECK_EQ(daxlease_mr_remove_qp(mr, s->link.far), -ECHILD);
	CHECK_EQ(daxlease_mr_drained(mr), -ECHILD);
	CHECK_EQ(daxlease_mr_recall(mr), -ECHILD);
	CHECK_EQ(daxlease_mr_regain(mr), -ECHILD);
	CHECK_EQ(daxlease_dereg_mr(mr), -ECHILD);
}

static void child_calls(const struct world *w, const void *arg)
{
	struct stage s;
	pid_t pid;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	pid = fork_holder();
	if (!pid) {
		call_all(&s);
		_exit(EXIT_SUCCESS);
	}
	expect_child_ok(pid, SOON_MS);
	check_still_answers(&s);
	stage_close(&s);
}

static void register_in_child(struct stage *s, enum daxlease_kind kind)
{
	struct world w = *s->w;
	struct region mine;
	struct device dev;
	struct daxlease_ctx *ctx;

	w.kind = kind;
	device_open(&dev, "rxe0");
	ctx = ctx_make(DAXLEASE_MODE_THREAD);
	log_forget();
	CHECK_EQ(region_try(&mine, ctx, dev.pd, &s->file, &w, NULL), -EAGAIN);
	CHECK_EQ(log_errors(), 1);
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
	device_close(&dev);
}

static void child_registers(const struct world *w, const void *arg)
{
	const enum daxlease_kind kinds[] = { DAXLEASE_KIND_LEASE, DAXLEASE_KIND_DELEG,
					     DAXLEASE_KIND_AUTO, w->kind };
	const int *flags = arg;
	struct stage s;
	pid_t pid;

	stage_open(&s, w, *flags, NULL);
	for (unsigned int i = 0; i < ARRAY_SIZE(kinds); i++) {
		pid = fork_holder();
		if (!pid) {
			register_in_child(&s, kinds[i]);
			_exit(EXIT_SUCCESS);
		}
		expect_child_ok(pid, SOON_MS);
	}
	check_still_answers(&s);
	stage_close(&s);
}

static int child_pending(struct region *r)
{
	const int *told = r->arg;

	CHECK_EQ(write(*told, "d", 1), 1);
	return DAXLEASE_PENDING;
}

/* Until it is told to answer. */
static _Noreturn void guard_in_child(struct stage *s, int told, int go_on)
{
	const struct how how = { .on_drain = child_pending, .arg = &told };
	struct daxlease_ctx *ctx;
	struct region mine;
	struct device dev;
	char c;

	device_open(&dev, "rxe0");
	ctx = ctx_make(DAXLEASE_MODE_THREAD);
	CHECK_EQ(region_try(&mine, ctx, dev.pd, &s->file, s->w, &how), 0);
	CHECK_EQ(write(told, "r", 1), 1);
	CHECK_EQ(read(go_on, &c, 1), 1);
	CHECK_EQ(daxlease_mr_drained(mine.mr), 0);
	WAIT_FOR(&mine, releases, 1);
	CHECK_EQ(mine.release_result, 0);
	region_end(&mine);
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
	_exit(EXIT_SUCCESS);
}

static void expect_byte(int fd, char wanted)
{
	char c;

	CHECK_EQ(read(fd, &c, 1), 1);
	CHECK_EQ(c, wanted);
}

/* Guards do not mind each other: the other side waits for both. */
static void child_guards_too(const struct world *w, const void *arg)
{
	int told[2], go_on[2];
	struct stage s;
	pid_t pid;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	CALL(pipe2(told, O_CLOEXEC));
	CALL(pipe2(go_on, O_CLOEXEC));
	pid = fork_holder();
	if (!pid)
		guard_in_child(&s, told[1], go_on[0]);
	expect_byte(told[0], 'r');
	other_begin(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1);
	expect_byte(told[0], 'd');
	sleep_ms(300);
	CHECK(other_waits(&s.other));
	CHECK_EQ(file_size_now(&s.file), FILE_SIZE);
	CHECK_EQ(write(go_on[1], "", 1), 1);
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	expect_child_ok(pid, SOON_MS);
	region_check_released(&s.region, 0);
	stage_close(&s);
}

/* A child that has the description, and does nothing with it. */
static void child_exits(const struct world *w, const void *arg)
{
	struct stage s;
	pid_t pid;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	pid = fork_holder();
	if (!pid)
		exit(EXIT_SUCCESS); /* with all destructors and atexit handlers */
	expect_child_ok(pid, SOON_MS);
	check_still_answers(&s);
	stage_close(&s);
}

static void child_execs(const struct world *w, const void *arg)
{
	struct stage s;
	pid_t pid;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	pid = fork_holder();
	if (!pid) {
		execl("/bin/sh", "sh", "-c",
		      "ls -l /proc/self/fd >&2; ! ls -l /proc/self/fd | grep -q /dax/", NULL);
		_exit(127);
	}
	expect_child_ok(pid, SOON_MS);
	check_still_answers(&s);
	stage_close(&s);
}

/* It may be answered while such a child lives. */
static void child_lives(const struct world *w, const void *arg)
{
	struct stage s;
	pid_t pid;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	pid = fork_holder();
	if (!pid) {
		pause();
		_exit(EXIT_FAILURE);
	}
	check_still_answers(&s);
	CALL(kill(pid, SIGKILL));
	CHECK_EQ(wait_child(pid, SOON_MS), SIGKILL);
	stage_close(&s);
}

/* ------------------------------------------------------------------------- */
/* Its own descriptor and mapping */

static void closes_fd(const struct world *w, const void *arg)
{
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	CALL(close(s.file.fd));
	s.file.fd = (int)CALL(open("/dev/null", O_RDWR | O_CLOEXEC)); /* the number is reused */
	check_still_answers(&s);
	stage_close(&s);
}

static void unmaps(const struct world *w, const void *arg)
{
	struct stage s;
	uint32_t rkey;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	rkey = region_rkey(&s.region);
	stage_access(&s, 0, rkey, IBV_WC_SUCCESS);
	CALL(munmap(s.file.map, s.file.size));
	s.file.map = NULL;
	stage_no_access(&s, rkey);
	CHECK_EQ(s.region.drains + s.region.releases, 0);
	CHECK_EQ(daxlease_mr_recall(s.region.mr), 0);
	CHECK_EQ(daxlease_mr_regain(s.region.mr), -EFAULT);
	WAIT_FOR(&s.region, regains, 1);
	CHECK_EQ(s.region.regain.error, -EFAULT);
	CHECK(!s.region.regain.ibv_mr);
	CHECK_EQ(daxlease_mr_get_state(s.region.mr), DAXLEASE_STATE_RELEASED);
	CHECK_EQ(leases_in_kernel(s.file.ino), 0);
	stage_close(&s);
}

/* What is pinned stays where it is, and is guarded, without the mapping. */
static void unmaps_pinned(const struct world *w, const void *arg)
{
	struct stage s;
	uint32_t rkey;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	rkey = region_rkey(&s.region);
	CALL(munmap(s.file.map, s.file.size));
	s.file.map = NULL;
	CHECK_EQ(link_write(&s.link, s.region.addr, rkey, PAGE, 0x33), IBV_WC_SUCCESS);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), 0);
	region_check_released(&s.region, 0);
	CHECK(link_write(&s.link, s.region.addr, rkey, PAGE, 0x34) != IBV_WC_SUCCESS);
	CHECK_EQ(daxlease_mr_regain(s.region.mr), -EFAULT);
	CHECK_EQ(leases_in_kernel(s.file.ino), 0);
	stage_close(&s);
}

/* Another mapping at the same place is not registered by mistake. */
static void maps_something_else(const struct world *w, const void *arg)
{
	const struct how how = { .flags = DAXLEASE_MR_REGAIN };
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, &how);
	CHECK(mmap(s.file.map, s.file.size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == s.file.map);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), 0);
	WAIT_FOR(&s.region, regains, 1);
	CHECK_EQ(s.region.regain.error, -EFAULT);
	CHECK_EQ(s.region.release_result, 0);
	stage_close(&s);
}

/* ------------------------------------------------------------------------- */
/* The end of the holder, which is a process of its own here */

struct holder {
	pid_t pid;
	struct other other;
	struct file file;
	int ready, verdict; /* pipes */
};

enum life {
	LIFE_EXITS,
	LIFE_DRAINS_FOREVER,
	LIFE_FORKS,
	LIFE_STANDS_STILL
};

static int pending(struct region *r)
{
	const int *ready = r->arg;

	CHECK_EQ(write(*ready, "d", 1), 1);
	return DAXLEASE_PENDING;
}

static void live_on_in_child(void)
{
	pid_t pid = (pid_t)CALL(fork());

	if (pid)
		return;
	pause();
	_exit(EXIT_SUCCESS);
}

/* After SIGCONT: what the library made of it. A lease with pins was not taken. */
static void check_lost(struct stage *s)
{
	const bool pinned = is_layout(s->w->kind);

	WAIT_FOR(&s->region, releases, 1);
	CHECK_EQ(s->region.release_result, pinned ? 0 : -ESTALE);
	CHECK(!daxlease_mr_get_ibv_mr(s->region.mr));
	CHECK_EQ(ctx_stats(s->ctx).lost, !pinned);
	CHECK_EQ(ctx_stats(s->ctx).released, pinned);
}

static _Noreturn void hold(const struct holder *h, const struct world *w, enum life life, int ready,
			   int verdict)
{
	const struct how how = { .on_drain = life == LIFE_STANDS_STILL ? NULL : pending,
				 .arg = &ready };
	struct stage s;
	char c;

	memset(&s, 0, sizeof(s));
	s.w = w;
	s.file = h->file;
	device_open(&s.dev, "rxe0");
	s.ctx = ctx_make(DAXLEASE_MODE_THREAD);
	file_open(&s.file, FILE_SIZE, O_RDWR);
	region_make(&s.region, s.ctx, s.dev.pd, &s.file, w, &how);
	if (life == LIFE_FORKS)
		live_on_in_child();
	CHECK_EQ(write(ready, "r", 1), 1);
	CHECK_EQ(read(verdict, &c, 1), 1);
	if (life == LIFE_STANDS_STILL)
		check_lost(&s);
	exit(EXIT_SUCCESS); /* nothing is cleaned up */
}

static void holder_start(struct holder *h, const struct world *w, enum life life)
{
	int ready[2], verdict[2];
	char c;

	other_start(&h->other);
	file_make(&h->file, w, "file", FILE_SIZE, O_RDWR);
	file_close(&h->file);
	CALL(pipe2(ready, O_CLOEXEC));
	CALL(pipe2(verdict, O_CLOEXEC));
	h->pid = fork_holder();
	if (!h->pid)
		hold(h, w, life, ready[1], verdict[0]);
	close(ready[1]);
	close(verdict[0]);
	h->ready = ready[0];
	h->verdict = verdict[1];
	CHECK_EQ(read(h->ready, &c, 1), 1);
	CHECK_EQ(c, 'r');
	if (w->kind == DAXLEASE_KIND_GUARD)
		CHECK(is_guarded_by(h->pid, h->file.ino));
	else
		CHECK_EQ(leases_in_kernel(h->file.ino), 1);
}

static void holder_let_go(const struct holder *h)
{
	CHECK_EQ(write(h->verdict, "", 1), 1);
}

static void holder_await_drain(const struct holder *h)
{
	char c;

	CHECK_EQ(read(h->ready, &c, 1), 1);
	CHECK_EQ(c, 'd');
}

static void check_prompt_end(struct holder *h)
{
	uint64_t gone = now_ns();

	CHECK_EQ(other_end(&h->other, SOON_MS), 0);
	CHECK((int64_t)(h->other.end_ns - gone) < (int64_t)(3 * SEC));
	CHECK_EQ(leases_in_kernel(h->file.ino), 0);
	CHECK_EQ(file_size_now(&h->file), PAGE);
	other_stop(&h->other);
}

static void exits(const struct world *w, const void *arg)
{
	struct holder h;

	(void)arg;
	holder_start(&h, w, LIFE_EXITS);
	holder_let_go(&h);
	expect_child_ok(h.pid, SOON_MS);
	CHECK_EQ(leases_in_kernel(h.file.ino), 0);
	other_begin(&h.other, OP_TRUNCATE, h.file.path, PAGE, -1);
	check_prompt_end(&h);
}

static void exits_draining(const struct world *w, const void *arg)
{
	struct holder h;

	(void)arg;
	holder_start(&h, w, LIFE_DRAINS_FOREVER);
	other_begin(&h.other, OP_TRUNCATE, h.file.path, PAGE, -1);
	holder_await_drain(&h);
	CHECK(other_waits(&h.other));
	holder_let_go(&h);
	expect_child_ok(h.pid, SOON_MS);
	check_prompt_end(&h);
}

static void killed_draining(const struct world *w, const void *arg)
{
	struct holder h;

	(void)arg;
	holder_start(&h, w, LIFE_DRAINS_FOREVER);
	other_begin(&h.other, OP_TRUNCATE, h.file.path, PAGE, -1);
	holder_await_drain(&h);
	CHECK(other_waits(&h.other));
	CALL(kill(h.pid, SIGKILL));
	CHECK_EQ(wait_child(h.pid, SOON_MS), SIGKILL);
	check_prompt_end(&h);
}

static void stands_still(const struct world *w, const void *arg)
{
	struct holder h;

	(void)arg;
	sysctl_set("lease-break-time", 1);
	holder_start(&h, w, LIFE_STANDS_STILL);
	CALL(kill(h.pid, SIGSTOP));
	CHECK_EQ(other_do(&h.other, OP_TRUNCATE, h.file.path, PAGE, -1),
		 is_layout(w->kind) ? -ETXTBSY : 0);
	CHECK_BETWEEN(other_took_ms(&h.other), 900, 4000);
	CHECK_EQ(file_size_now(&h.file), is_layout(w->kind) ? FILE_SIZE : PAGE);
	CALL(kill(h.pid, SIGCONT));
	holder_let_go(&h);
	expect_child_ok(h.pid, SOON_MS);
	CHECK_EQ(leases_in_kernel(h.file.ino), 0);
	other_stop(&h.other);
}

/*
 * The lease outlives the parent in the child, with nobody to answer. So does what is
 * pinned, for the child has the device's descriptor as well. A guard does not.
 */
static void dies_before_child(const struct world *w, const void *arg)
{
	struct holder h;

	(void)arg;
	sysctl_set("lease-break-time", 2);
	holder_start(&h, w, LIFE_FORKS);
	CALL(kill(h.pid, SIGKILL));
	CHECK_EQ(wait_child(h.pid, SOON_MS), SIGKILL);
	CHECK_EQ(leases_in_kernel(h.file.ino), w->kind != DAXLEASE_KIND_GUARD);
	CHECK_EQ(other_do(&h.other, OP_TRUNCATE, h.file.path, PAGE, -1),
		 is_layout(w->kind) ? -ETXTBSY : 0);
	if (w->kind == DAXLEASE_KIND_GUARD) /* no child has it */
		CHECK_BETWEEN(other_took_ms(&h.other), 0, 1500);
	else
		CHECK_BETWEEN(other_took_ms(&h.other), 1800, 5000);
	CHECK_EQ(leases_in_kernel(h.file.ino), is_layout(w->kind));
	other_stop(&h.other);
}

void add_process_cases(void)
{
	static const int read_only = O_RDONLY, read_write = O_RDWR;

	add_case(child_calls, NULL, KIND_ALL, 0, "fork/child-calls");
	add_case(child_registers, &read_write, KIND_BOTH | KIND_LAYOUTS, 0,
		 "fork/child-registers/wr");
	add_case(child_registers, &read_only, KIND_BOTH | KIND_LAYOUTS, 0,
		 "fork/child-registers/rd");
	add_case(child_guards_too, NULL, KIND_GUARD, 0, "fork/child-guards-too");
	add_case(child_exits, NULL, KIND_ALL, 0, "fork/child-exits");
	add_case(child_execs, NULL, KIND_ALL, 0, "fork/child-execs");
	add_case(child_lives, NULL, KIND_ALL, 0, "fork/child-lives");
	add_case(closes_fd, NULL, KIND_ALL, 0, "own/closes-fd");
	add_case(unmaps, NULL, KIND_BOTH | KIND_GUARD, 0, "own/unmaps");
	add_case(unmaps_pinned, NULL, KIND_LAYOUTS, 0, "own/unmaps");
	add_case(maps_something_else, NULL, KIND_ALL, 0, "own/maps-something-else");
	add_case(exits, NULL, KIND_ALL, 0, "death/exits");
	add_case(exits_draining, NULL, KIND_ALL, 0, "death/exits-draining");
	add_case(killed_draining, NULL, KIND_ALL, 0, "death/killed-draining");
	/* With a guard in the process: see the suite of guards. */
	add_case(stands_still, NULL, KIND_BOTH | KIND_LAYOUTS, 0, "death/stands-still");
	add_case(dies_before_child, NULL, KIND_ALL, 0, "death/dies-before-child");
}
