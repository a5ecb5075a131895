// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Breaks by other processes, in each mode: what the holder sees and what they see. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fake_verbs.h"
#include "fault.h"
#include "support.h"

#define SHORT_MS 150 /* a budget that tests can wait for */

/* The region is gone, its final event was told once, and the file is free. */
static void assert_final(struct fix *fx, struct user *u, int result)
{
	EVENTUALLY(fx, atomic_load(&u->releases) == 1);
	assert_int_equal(atomic_load(&u->result), result);
	assert_int_equal(fake_live(), 0);
	NOT_FOR_MS(fx, 20, atomic_load(&u->releases) != 1);
}

/* A real kernel deadline is 45 s away; nobody may be let go by it. */
static void assert_prompt(const struct breaker *b, uint64_t start_ns, unsigned int ms)
{
	assert_int_equal(b->err, 0);
	assert_true(b->done_ns >= fake_last_dereg_ns());
	assert_true(b->done_ns - start_ns < (uint64_t)ms * 1000000);
}

static void break__writer_waits_for_dereg(void **state)
{
	struct fix *fx = *state;
	struct daxlease_stats stats;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	fix_serve(fx);
	fake_shut_dereg();
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, fake_waiting() == 1);
	NOT_FOR_MS(fx, 60, breaker_done(&b));
	fake_open_dereg();
	EVENTUALLY(fx, breaker_done(&b));
	assert_final(fx, &u, 0);
	assert_true(b.done_ns >= fake_last_dereg_ns());
	assert_int_equal(atomic_load(&u.drains), 1);
	assert_int_equal(atomic_load(&u.cause), DAXLEASE_CAUSE_BREAK);
	assert_int_equal(user_state(&u), DAXLEASE_STATE_RELEASED);
	fix_stats(fx, &stats);
	assert_int_equal(stats.breaks, 1);
	assert_int_equal(stats.released, 1);
	assert_int_equal(stats.leases, 0);
	assert_int_equal(stats.lost + stats.overruns, 0);
	assert_true(stats.drain_max_ns > 0);
	breaker_end(&b);
	user_dereg(&u);
}

static void break__truncate(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	breaker_truncate(&b, &fx->file, PAGE);
	EVENTUALLY(fx, breaker_done(&b));
	assert_int_equal(b.err, 0);
	assert_final(fx, &u, 0);
	assert_true(b.done_ns >= fake_last_dereg_ns());
	breaker_end(&b);
	user_dereg(&u);
}

static void break__nonblocking_writer(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	breaker_open(&b, &fx->file, O_WRONLY | O_NONBLOCK);
	assert_final(fx, &u, 0);
	EVENTUALLY(fx, breaker_done(&b));
	assert_int_equal(b.err, EWOULDBLOCK);
	breaker_end(&b);
	user_dereg(&u);
}

static void break__what_the_callback_is_told(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;
	uint64_t start = now_ns();

	fault_break_time(45);
	user_reg(fx, &u, 0, 1000);
	break_and_release(fx, &u, &b);
	assert_int_equal(u.brk.size, sizeof(u.brk));
	assert_true(u.brk.deadline_ns >= start + 1000000000u);
	assert_true(u.brk.deadline_ns <= now_ns() + 1000000000u);
	assert_int_equal(u.brk.kernel_deadline_ns - u.brk.deadline_ns, 44000000000u);
	breaker_end(&b);
	user_dereg(&u);
}

static void break__without_callbacks(void **state)
{
	const struct daxlease_mr_opts none = { .size = sizeof(none) };
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	assert_int_equal(user_try(fx, &u, &fx->file, 0, 4, &none), 0);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, breaker_done(&b));
	EVENTUALLY(fx, user_state(&u) == DAXLEASE_STATE_RELEASED);
	assert_int_equal(fake_live(), 0);
	breaker_end(&b);
	user_dereg(&u);
}

/* ------------------------------------------------------------------------- */
/* Answers of the drain callback */

static void drain__pending_then_drained(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	assert_int_equal(daxlease_mr_drained(u.mr), -EINVAL);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, atomic_load(&u.drains) == 1);
	NOT_FOR_MS(fx, 30, breaker_done(&b));
	assert_int_equal(user_state(&u), DAXLEASE_STATE_DRAINING);
	assert_non_null(daxlease_mr_get_ibv_mr(u.mr));
	assert_int_equal(daxlease_mr_drained(u.mr), 0);
	assert_null(daxlease_mr_get_ibv_mr(u.mr));
	assert_int_equal(daxlease_mr_get_info(u.mr, &info), 0);
	assert_int_equal(info.rkey + info.lkey + info.registered, 0);
	EVENTUALLY(fx, breaker_done(&b));
	assert_final(fx, &u, 0);
	assert_int_equal(daxlease_mr_drained(u.mr), -EINVAL);
	breaker_end(&b);
	user_dereg(&u);
}

static void answer_at_once(struct user *u)
{
	atomic_store(&u->seen, daxlease_mr_drained(u->mr));
}

static void drain__answered_before_it_returned(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING, .on_drain = answer_at_once };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	break_and_release(fx, &u, &b);
	assert_int_equal(atomic_load(&u.seen), 0);
	assert_final(fx, &u, 0);
	breaker_end(&b);
	user_dereg(&u);
}

static void drain__answered_and_then_failed(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = -EIO, .on_drain = answer_at_once };
	struct breaker b;

	/* The first answer counts. */
	user_reg(fx, &u, 0, 0);
	break_and_release(fx, &u, &b);
	assert_final(fx, &u, 0);
	breaker_end(&b);
	user_dereg(&u);
}

static void *answer_later(void *arg)
{
	struct user *u = arg;

	while (!atomic_load(&u->in_drain))
		usleep(200);
	atomic_store(&u->seen, daxlease_mr_drained(u->mr));
	atomic_store(&u->block_drain, false);
	return NULL;
}

static void drain__answered_by_another_thread(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING, .block_drain = true, .seen = 1 };
	struct breaker b;
	pthread_t thread;

	user_reg(fx, &u, 0, 0);
	assert_int_equal(pthread_create(&thread, NULL, answer_later, &u), 0);
	break_and_release(fx, &u, &b);
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&u.seen), 0);
	assert_final(fx, &u, 0);
	breaker_end(&b);
	user_dereg(&u);
}

/* Two queue pairs that have to be in the error state before the MR is gone. */
static void with_qps(struct user *u, struct ibv_qp *qps)
{
	assert_int_equal(daxlease_mr_add_qp(u->mr, &qps[0]), 0);
	assert_int_equal(daxlease_mr_add_qp(u->mr, &qps[1]), 0);
}

static void assert_fenced(struct fix *fx, const struct ibv_qp *qps)
{
	struct daxlease_stats stats;

	assert_int_equal(fake_fences(), 2);
	assert_int_equal(qps[0].state, IBV_QPS_ERR);
	assert_int_equal(qps[1].state, IBV_QPS_ERR);
	fix_stats(fx, &stats);
	assert_int_equal(stats.overruns, 1);
	assert_int_equal(stats.released, 0);
	assert_int_equal(stats.lost, 0);
	assert_true(fix_lines(fx, DAXLEASE_LOG_WARNING) >= 1);
}

static void drain__cannot(void **state)
{
	struct ibv_qp qps[2] = { 0 };
	struct fix *fx = *state;
	struct user u = { .drain_answer = -EIO };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	with_qps(&u, qps);
	break_and_release(fx, &u, &b);
	assert_final(fx, &u, -ETIMEDOUT);
	assert_fenced(fx, qps);
	breaker_end(&b);
	user_dereg(&u);
}

static void drain__never_answered(void **state)
{
	struct ibv_qp qps[2] = { 0 };
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	struct breaker b;
	uint64_t start = now_ns();

	user_reg(fx, &u, 0, SHORT_MS);
	with_qps(&u, qps);
	break_and_release(fx, &u, &b);
	assert_final(fx, &u, -ETIMEDOUT);
	assert_true(b.done_ns - start >= SHORT_MS * 1000000ull);
	assert_prompt(&b, start, 2000);
	assert_fenced(fx, qps);
	assert_int_equal(daxlease_mr_drained(u.mr), -ETIMEDOUT);
	breaker_end(&b);
	user_dereg(&u);
}

static void drain__fence_fails(void **state)
{
	struct ibv_qp qps[2] = { 0 };
	struct fix *fx = *state;
	struct user u = { .drain_answer = -EIO };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	with_qps(&u, qps);
	fake_fail_fence(1, EINVAL);
	break_and_release(fx, &u, &b);
	assert_final(fx, &u, -ETIMEDOUT);
	assert_int_equal(fake_fences(), 2);
	assert_int_equal(qps[1].state, IBV_QPS_ERR);
	assert_true(fix_lines(fx, DAXLEASE_LOG_ERR) >= 1);
	breaker_end(&b);
	user_dereg(&u);
}

/* What its fence callback saw. */
static atomic_uint fence_calls;

static void on_fence(struct daxlease_mr *mr, void *userdata)
{
	struct user *u = userdata;
	struct ibv_qp qp = { 0 };

	assert_ptr_equal(mr, u->mr);
	/* Before everything else that a fence does, and nothing in it can wait for itself. */
	assert_int_equal(fake_fences(), 0);
	assert_int_equal(fake_deregs(), 0);
	assert_null(daxlease_mr_get_ibv_mr(mr));
	assert_int_equal(daxlease_mr_get_state(mr), DAXLEASE_STATE_DEREGISTERING);
	assert_int_equal(daxlease_mr_add_qp(mr, &qp), -EDEADLK);
	assert_int_equal(daxlease_mr_remove_qp(mr, &qp), -EDEADLK);
	assert_int_equal(daxlease_dereg_mr(mr), -EDEADLK);
	assert_int_equal(daxlease_mr_drained(mr), -ETIMEDOUT);
	atomic_fetch_add(&fence_calls, 1);
}

static void reg_with_fence(struct fix *fx, struct user *u)
{
	struct daxlease_mr_opts opts = user_opts(u, 0, SHORT_MS);

	opts.fence = on_fence;
	atomic_store(&fence_calls, 0);
	assert_int_equal(user_try(fx, u, &fx->file, 0, 4, &opts), 0);
}

static void fence__is_called_first(void **state)
{
	struct ibv_qp qps[2] = { 0 };
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	struct breaker b;

	reg_with_fence(fx, &u);
	with_qps(&u, qps);
	break_and_release(fx, &u, &b);
	assert_final(fx, &u, -ETIMEDOUT);
	assert_fenced(fx, qps);
	assert_int_equal(atomic_load(&fence_calls), 1);
	breaker_end(&b);
	user_dereg(&u);
}

static void fence__not_for_who_drains(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	reg_with_fence(fx, &u);
	break_and_release(fx, &u, &b);
	assert_final(fx, &u, 0);
	assert_int_equal(atomic_load(&fence_calls), 0);
	breaker_end(&b);
	user_dereg(&u);
}

/* Beside a drain callback that does not return, where there is a thread for it. */
static void fence__beside_a_stuck_drain(void **state)
{
	struct fix *fx = *state;
	struct user u = { .block_drain = true };
	struct breaker b;

	reg_with_fence(fx, &u);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, breaker_done(&b));
	assert_true(atomic_load(&u.in_drain));
	assert_int_equal(atomic_load(&fence_calls), 1);
	atomic_store(&u.block_drain, false);
	assert_final(fx, &u, -ETIMEDOUT);
	breaker_end(&b);
	user_dereg(&u);
}

/* It does not return: fenced under it, in the modes that have a thread. */
static void drain__never_returns(void **state)
{
	struct ibv_qp qps[2] = { 0 };
	struct fix *fx = *state;
	struct user u = { .block_drain = true };
	struct breaker b;
	uint64_t start = now_ns();

	user_reg(fx, &u, 0, SHORT_MS);
	with_qps(&u, qps);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, breaker_done(&b));
	assert_prompt(&b, start, 2000);
	assert_true(atomic_load(&u.in_drain));
	assert_int_equal(user_state(&u), DAXLEASE_STATE_RELEASED);
	assert_int_equal(atomic_load(&u.releases), 0);
	atomic_store(&u.block_drain, false);
	assert_final(fx, &u, -ETIMEDOUT);
	assert_fenced(fx, qps);
	breaker_end(&b);
	user_dereg(&u);
}

static void *dispatch_once(void *arg)
{
	daxlease_ctx_dispatch(arg);
	return NULL;
}

static void drain__never_returns_in_dispatch(void **state)
{
	struct fix *fx = *state;
	struct user u = { .block_drain = true };
	struct breaker b;
	pthread_t thread;
	uint64_t start = now_ns();

	user_reg(fx, &u, 0, SHORT_MS);
	breaker_open(&b, &fx->file, O_WRONLY);
	fx->idle = true;
	while (!atomic_load(&u.in_drain)) {
		assert_int_equal(pthread_create(&thread, NULL, dispatch_once, fx->ctx), 0);
		if (WAIT_MS(fx, 50, atomic_load(&u.in_drain)))
			break;
		pthread_join(thread, NULL);
	}
	EVENTUALLY(fx, breaker_done(&b));
	assert_prompt(&b, start, 3000);
	atomic_store(&u.block_drain, false);
	pthread_join(thread, NULL);
	fx->idle = false;
	assert_final(fx, &u, -ETIMEDOUT);
	breaker_end(&b);
	user_dereg(&u);
}

static void drain__nobody_dispatches(void **state)
{
	struct ibv_qp qps[2] = { 0 };
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;
	uint64_t start = now_ns();

	user_reg(fx, &u, 0, SHORT_MS);
	with_qps(&u, qps);
	fx->idle = true;
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, breaker_done(&b));
	assert_prompt(&b, start, 2000);
	assert_int_equal(atomic_load(&u.drains) + atomic_load(&u.releases), 0);
	fx->idle = false;
	assert_final(fx, &u, -ETIMEDOUT);
	assert_int_equal(atomic_load(&u.drains), 0);
	assert_fenced(fx, qps);
	breaker_end(&b);
	user_dereg(&u);
}

/* ------------------------------------------------------------------------- */
/* Budgets and the kernel's deadline */

static void budget__cut_to_the_kernels(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	struct breaker b;

	fault_break_time(1);
	user_reg(fx, &u, 0, 60000);
	break_and_release(fx, &u, &b);
	assert_int_equal(u.brk.kernel_deadline_ns - u.brk.deadline_ns, 250000000u);
	assert_final(fx, &u, -ETIMEDOUT);
	breaker_end(&b);
	user_dereg(&u);
}

static void budget__no_deadline_at_all(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;
	uint64_t start = now_ns();

	fault_break_time(0);
	user_reg(fx, &u, 0, 100000);
	break_and_release(fx, &u, &b);
	assert_int_equal(u.brk.kernel_deadline_ns, 0);
	assert_true(u.brk.deadline_ns >= start + 100000000000u);
	breaker_end(&b);
	user_dereg(&u);
}

static void budget__default_is_ten_seconds(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	fault_break_time(45);
	user_reg(fx, &u, 0, 0);
	break_and_release(fx, &u, &b);
	assert_int_equal(u.brk.kernel_deadline_ns - u.brk.deadline_ns, 35000000000u);
	breaker_end(&b);
	user_dereg(&u);
}

static void budget__break_time_cannot_be_read(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	fault_arm_name("sys_read_break_time", 1, 1000);
	user_reg(fx, &u, 0, 60000);
	break_and_release(fx, &u, &b);
	/* As if it were the default of 45 s, of which 3/4. */
	assert_int_equal(u.brk.kernel_deadline_ns - u.brk.deadline_ns, 11250000000u);
	breaker_end(&b);
	user_dereg(&u);
}

static void lease__lost_to_the_kernel(void **state)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct daxlease_stats stats;
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	assert_int_equal(daxlease_mr_get_info(u.mr, &info), 0);
	fix_serve(fx);
	fake_shut_dereg();
	breaker_open(&b, &fx->file, O_WRONLY | O_NONBLOCK);
	EVENTUALLY(fx, fake_waiting() == 1);
	/* As the kernel does at its deadline. */
	assert_int_equal(fcntl(info.lease_fd, F_SETLEASE, F_UNLCK), 0);
	fake_open_dereg();
	assert_final(fx, &u, -ESTALE);
	fix_stats(fx, &stats);
	assert_int_equal(stats.lost, 1);
	assert_int_equal(stats.released, 0);
	breaker_end(&b);
	user_dereg(&u);
}

/* ------------------------------------------------------------------------- */
/* Readers */

static void reader__is_let_in_and_the_mr_stays(void **state)
{
	struct daxlease_stats stats;
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;
	struct ibv_mr *ibv_mr;
	uint64_t start = now_ns();

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	ibv_mr = daxlease_mr_get_ibv_mr(u.mr);
	breaker_open(&b, &fx->file, O_RDONLY);
	EVENTUALLY(fx, breaker_done(&b));
	assert_int_equal(b.err, 0);
	assert_true(b.done_ns - start < 1000000000u);
	EVENTUALLY(fx, atomic_load(&u.guards) == 1);
	assert_false(atomic_load(&u.guarded));
	assert_int_equal(user_state(&u), DAXLEASE_STATE_UNGUARDED);
	assert_ptr_equal(daxlease_mr_get_ibv_mr(u.mr), ibv_mr);
	NOT_FOR_MS(fx, 30, atomic_load(&u.guards) != 1);
	breaker_end(&b);
	EVENTUALLY(fx, atomic_load(&u.guards) == 2);
	assert_true(atomic_load(&u.guarded));
	assert_int_equal(user_state(&u), DAXLEASE_STATE_ACTIVE);
	assert_int_equal(file_lease(&fx->file), F_WRLCK);
	assert_int_equal(atomic_load(&u.drains) + atomic_load(&u.releases), 0);
	fix_stats(fx, &stats);
	assert_int_equal(stats.breaks, 1);
	assert_int_equal(stats.reader_breaks, 1);
	assert_int_equal(fake_deregs(), 0);
	user_dereg(&u);
}

static void reader__without_guard_callback(void **state)
{
	const struct daxlease_mr_opts none = { .size = sizeof(none) };
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	assert_int_equal(user_try(fx, &u, &fx->file, 0, 4, &none), 0);
	breaker_open(&b, &fx->file, O_RDONLY);
	EVENTUALLY(fx, breaker_done(&b));
	EVENTUALLY(fx, user_state(&u) == DAXLEASE_STATE_UNGUARDED);
	breaker_end(&b);
	EVENTUALLY(fx, user_state(&u) == DAXLEASE_STATE_ACTIVE);
	user_dereg(&u);
}

static void reader__drain_for_readers(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, DAXLEASE_MR_DRAIN_FOR_READERS, 0);
	breaker_open(&b, &fx->file, O_RDONLY);
	EVENTUALLY(fx, breaker_done(&b));
	assert_final(fx, &u, 0);
	assert_int_equal(atomic_load(&u.cause), DAXLEASE_CAUSE_READER);
	assert_int_equal(atomic_load(&u.guards), 0);
	breaker_end(&b);
	user_dereg(&u);
}

static void reader__dereg_while_unguarded(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	breaker_open(&b, &fx->file, O_RDONLY);
	EVENTUALLY(fx, atomic_load(&u.guards) == 1);
	user_dereg(&u);
	assert_int_equal(fake_live(), 0);
	EVENTUALLY(fx, breaker_done(&b));
	breaker_end(&b);
}

static void reader__file_shrank_meanwhile(void **state)
{
	struct daxlease_stats stats;
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	breaker_open(&b, &fx->file, O_RDONLY);
	EVENTUALLY(fx, atomic_load(&u.guards) == 1);
	assert_int_equal(ftruncate(fx->file.fd, PAGE), 0);
	breaker_end(&b);
	assert_final(fx, &u, 0);
	assert_int_equal(atomic_load(&u.cause), DAXLEASE_CAUSE_SHRUNK);
	assert_int_equal(u.brk.kernel_deadline_ns, 0);
	fix_stats(fx, &stats);
	assert_int_equal(stats.breaks, 1);
	user_dereg(&u);
}

/* What could not be told in time is told in pairs, or not at all. */
static void reader__told_late(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	fx->idle = true;
	for (int i = 0; i < 2; i++) {
		breaker_open(&b, &fx->file, O_RDONLY);
		EVENTUALLY(fx, breaker_done(&b));
		EVENTUALLY(fx, user_state(&u) == DAXLEASE_STATE_UNGUARDED);
		breaker_end(&b);
		EVENTUALLY(fx, user_state(&u) == DAXLEASE_STATE_ACTIVE);
	}
	fx->idle = false;
	EVENTUALLY(fx, atomic_load(&u.guards) == 2);
	assert_true(atomic_load(&u.guarded));
	user_dereg(&u);
}

static void reader__of_a_read_lease(void **state)
{
	const struct daxlease_mr_opts none = { .size = sizeof(none) };
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;
	struct file f;

	file_make_readonly(&f, 2);
	assert_int_equal(user_try(fx, &u, &f, 0, 2, &none), 0);
	assert_int_equal(daxlease_mr_get_info(u.mr, &info), 0);
	assert_int_equal(file_lease(&f), F_RDLCK);
	breaker_open(&b, &f, O_RDONLY);
	EVENTUALLY(fx, breaker_done(&b));
	breaker_end(&b);
	NOT_FOR_MS(fx, 20, user_state(&u) != DAXLEASE_STATE_ACTIVE);
	breaker_truncate(&b, &f, 0);
	EVENTUALLY(fx, breaker_done(&b));
	assert_int_equal(b.err, 0);
	EVENTUALLY(fx, user_state(&u) == DAXLEASE_STATE_RELEASED);
	breaker_end(&b);
	user_dereg(&u);
	file_end(&f);
}

/* ------------------------------------------------------------------------- */
/* ibv_dereg_mr() that fails */

static void dereg_fails__lease_is_kept(void **state)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct daxlease_stats stats;
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	fake_fail_dereg(UINT_MAX, EBUSY);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, fake_deregs() >= 5);
	assert_false(breaker_done(&b));
	assert_int_equal(fake_live(), 1);
	assert_int_equal(user_state(&u), DAXLEASE_STATE_DEREGISTERING);
	assert_int_equal(daxlease_mr_get_info(u.mr, &info), 0);
	assert_int_equal(info.last_error, -EBUSY);
	assert_null(daxlease_mr_get_ibv_mr(u.mr));
	/* The caller may try as well, with the same result. */
	assert_int_equal(daxlease_dereg_mr(u.mr), -EBUSY);
	assert_false(breaker_done(&b));
	fake_fail_dereg(0, 0);
	EVENTUALLY(fx, breaker_done(&b));
	assert_final(fx, &u, 0);
	assert_true(b.done_ns >= fake_last_dereg_ns());
	fix_stats(fx, &stats);
	assert_true(stats.dereg_failures >= 5);
	breaker_end(&b);
	user_dereg(&u);
}

static void dereg_fails__caller_retries(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	fake_fail_dereg(UINT_MAX, EBUSY);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, fake_deregs() >= 2);
	assert_int_equal(daxlease_dereg_mr(u.mr), -EBUSY);
	fake_fail_dereg(0, 0);
	user_dereg(&u);
	assert_int_equal(fake_live(), 0);
	EVENTUALLY(fx, breaker_done(&b));
	assert_true(b.done_ns >= fake_last_dereg_ns());
	breaker_end(&b);
}

static void dereg_fails__outside_of_a_break(void **state)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	fix_forget_log(fx);
	fake_fail_dereg(1, EIO);
	assert_int_equal(daxlease_dereg_mr(u.mr), -EIO);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 1);
	assert_int_equal(fake_live(), 1);
	assert_int_equal(file_lease(&fx->file), F_WRLCK);
	assert_int_equal(daxlease_mr_get_info(u.mr, &info), 0);
	assert_int_equal(info.last_error, -EIO);
	/* All works as before. */
	break_and_release(fx, &u, &b);
	assert_final(fx, &u, 0);
	breaker_end(&b);
	user_dereg(&u);
}

static void give_back__refused_for_a_while(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	fault_arm_name("sys_set_lease(F_UNLCK)", 1, 5);
	break_and_release(fx, &u, &b);
	assert_final(fx, &u, 0);
	breaker_end(&b);
	user_dereg(&u);
}

static void give_back__refused_for_a_reader(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	/* It cannot be lent; the region is drained instead. */
	user_reg(fx, &u, 0, 0);
	fault_arm_name("sys_set_lease(F_UNLCK)", 1, 3);
	breaker_open(&b, &fx->file, O_RDONLY);
	EVENTUALLY(fx, breaker_done(&b));
	assert_final(fx, &u, 0);
	assert_int_equal(atomic_load(&u.cause), DAXLEASE_CAUSE_READER);
	breaker_end(&b);
	user_dereg(&u);
}

/* The right is lost for longer than the kernel waits. */
static void give_back__refused_until_the_kernels_deadline(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	struct daxlease_stats stats;
	struct breaker b;

	fault_break_time(1);
	user_reg(fx, &u, 0, 0);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, atomic_load(&u.drains) == 1);
	not_the_owner(true);
	assert_int_equal(daxlease_mr_drained(u.mr), 0);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	not_the_owner(false);
	assert_true(now_ns() >= u.brk.kernel_deadline_ns);
	assert_int_equal(fcntl(fx->file.fd, F_SETLEASE, F_UNLCK), 0); /* the real one's part */
	EVENTUALLY(fx, breaker_done(&b));
	assert_final(fx, &u, -ESTALE);
	fix_stats(fx, &stats);
	assert_int_equal(stats.lost, 1);
	assert_int_equal(stats.released + stats.leases, 0);
	breaker_end(&b);
	user_dereg(&u);
}

static void give_back__refused_to_the_last_region(void **state)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct fix *fx = *state;
	struct user u = { 0 };

	user_reg(fx, &u, 0, 0);
	not_the_owner(true);
	assert_int_equal(daxlease_dereg_mr(u.mr), -EACCES);
	assert_int_equal(daxlease_dereg_mr(u.mr), -EACCES);
	assert_int_equal(file_lease(&fx->file), F_WRLCK);
	not_the_owner(false);
	assert_int_equal(daxlease_mr_get_info(u.mr, &info), 0);
	assert_int_equal(info.last_error, -EACCES);
	assert_int_equal(fake_live(), 0);
	user_dereg(&u);
	assert_int_equal(file_lease(&fx->file), F_UNLCK);
}

/* ------------------------------------------------------------------------- */
/* Several regions and files */

static void regions__lease_stays_until_the_last(void **state)
{
	struct daxlease_mr_opts opts;
	struct user u[3] = { 0 };
	struct fix *fx = *state;
	struct breaker b;

	for (unsigned int i = 0; i < 3; i++) {
		u[i].drain_answer = DAXLEASE_PENDING;
		opts = user_opts(&u[i], 0, 0);
		assert_int_equal(user_try(fx, &u[i], &fx->file, i, 1, &opts), 0);
	}
	breaker_open(&b, &fx->file, O_WRONLY);
	for (unsigned int i = 0; i < 3; i++)
		EVENTUALLY(fx, atomic_load(&u[i].drains) == 1);
	assert_int_equal(daxlease_mr_drained(u[1].mr), 0);
	EVENTUALLY(fx, fake_live() == 2);
	assert_int_equal(daxlease_mr_drained(u[0].mr), 0);
	EVENTUALLY(fx, fake_live() == 1);
	NOT_FOR_MS(fx, 30, breaker_done(&b));
	assert_int_equal(atomic_load(&u[0].releases) + atomic_load(&u[1].releases), 0);
	/* The last one is deregistered by its user. */
	user_dereg(&u[2]);
	EVENTUALLY(fx, breaker_done(&b));
	assert_true(b.done_ns >= fake_last_dereg_ns());
	EVENTUALLY(fx, atomic_load(&u[0].releases) == 1 && atomic_load(&u[1].releases) == 1);
	assert_int_equal(atomic_load(&u[2].releases), 0);
	breaker_end(&b);
	user_dereg(&u[0]);
	user_dereg(&u[1]);
}

static void regions__one_drained_one_fenced(void **state)
{
	struct user good = { 0 }, bad = { .drain_answer = DAXLEASE_PENDING };
	struct daxlease_mr_opts opts = user_opts(&good, 0, 0);
	struct fix *fx = *state;
	struct breaker b;

	assert_int_equal(user_try(fx, &good, &fx->file, 0, 2, &opts), 0);
	opts = user_opts(&bad, 0, SHORT_MS);
	assert_int_equal(user_try(fx, &bad, &fx->file, 1, 3, &opts), 0);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, breaker_done(&b));
	assert_final(fx, &good, 0);
	assert_final(fx, &bad, -ETIMEDOUT);
	breaker_end(&b);
	user_dereg(&good);
	user_dereg(&bad);
}

static void files__a_blocked_callback_holds_up_no_other(void **state)
{
	struct user blocked = { .block_drain = true }, other = { 0 };
	struct fix *fx = *state;
	struct daxlease_mr_opts opts;
	struct breaker b1, b2;
	struct file f;

	file_make(&f, 1, true);
	user_reg(fx, &blocked, 0, 30000);
	opts = user_opts(&other, 0, 0);
	assert_int_equal(user_try(fx, &other, &f, 0, 1, &opts), 0);
	breaker_open(&b1, &fx->file, O_WRONLY);
	EVENTUALLY(fx, atomic_load(&blocked.in_drain));
	breaker_open(&b2, &f, O_WRONLY);
	EVENTUALLY(fx, breaker_done(&b2));
	EVENTUALLY(fx, atomic_load(&other.releases) == 1);
	assert_int_equal(atomic_load(&other.drains), 1);
	assert_int_equal(atomic_load(&other.result), 0);
	assert_false(breaker_done(&b1));
	atomic_store(&blocked.block_drain, false);
	EVENTUALLY(fx, breaker_done(&b1));
	EVENTUALLY(fx, atomic_load(&blocked.releases) == 1);
	assert_int_equal(atomic_load(&blocked.result), 0);
	breaker_end(&b1);
	breaker_end(&b2);
	user_dereg(&blocked);
	user_dereg(&other);
	file_end(&f);
}

static void regions__a_blocked_callback_holds_up_no_other(void **state)
{
	struct user blocked = { .block_drain = true }, other = { 0 };
	struct daxlease_mr_opts opts = user_opts(&blocked, 0, 0);
	struct fix *fx = *state;
	struct breaker b;

	assert_int_equal(user_try(fx, &blocked, &fx->file, 0, 2, &opts), 0);
	opts = user_opts(&other, 0, 0);
	assert_int_equal(user_try(fx, &other, &fx->file, 2, 2, &opts), 0);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, atomic_load(&blocked.in_drain));
	assert_true(WAIT_MS(fx, 200, atomic_load(&other.drains) == 1));
	EVENTUALLY(fx, fake_live() == 1);
	assert_false(breaker_done(&b));
	atomic_store(&blocked.block_drain, false);
	EVENTUALLY(fx, breaker_done(&b));
	assert_final(fx, &blocked, 0);
	assert_final(fx, &other, 0);
	breaker_end(&b);
	user_dereg(&blocked);
	user_dereg(&other);
}

/* With a verbs call of another file under way: one more file, with a break of its own. */
static void assert_others_go_on(struct fix *fx)
{
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	struct daxlease_mr_opts opts = user_opts(&u, 0, SHORT_MS);
	unsigned int live = fake_live();
	struct breaker b;
	struct file f;
	uint64_t start;

	file_make(&f, 1, true);
	assert_int_equal(user_try(fx, &u, &f, 0, 1, &opts), 0);
	start = now_ns();
	breaker_open(&b, &f, O_WRONLY);
	EVENTUALLY(fx, breaker_done(&b));
	assert_prompt(&b, start, 2000);
	assert_int_equal(fake_live(), live);
	assert_int_equal(fake_waiting(), 1);
	breaker_end(&b);
	user_dereg(&u);
	file_end(&f);
}

static void blocked_dereg(struct fix *fx, struct user *u, const struct daxlease_mr_opts *opts)
{
	struct breaker b;

	assert_int_equal(user_try(fx, u, &fx->file, 0, 4, opts), 0);
	fix_serve(fx);
	fake_shut_dereg_once();
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, fake_waiting() == 1);
	assert_others_go_on(fx);
	assert_false(breaker_done(&b));
	fake_open_dereg();
	EVENTUALLY(fx, breaker_done(&b));
	EVENTUALLY(fx, user_state(u) == DAXLEASE_STATE_RELEASED);
	breaker_end(&b);
	user_dereg(u);
}

static void files__a_blocked_dereg_holds_up_no_other(void **state)
{
	struct user u = { 0 };
	struct daxlease_mr_opts opts = user_opts(&u, 0, 0);

	blocked_dereg(*state, &u, &opts);
}

/* In the thread that listens, for there is nobody to be asked. */
static void files__a_blocked_dereg_without_callbacks(void **state)
{
	const struct daxlease_mr_opts none = { .size = sizeof(none) };
	struct user u = { 0 };

	blocked_dereg(*state, &u, &none);
}

static void files__a_blocked_regain_holds_up_no_other(void **state)
{
	struct user u = { 0 }, early = { .drain_answer = DAXLEASE_PENDING };
	struct daxlease_mr_opts opts = user_opts(&early, 0, SHORT_MS);
	struct fix *fx = *state;
	struct breaker b1, b2;
	unsigned int threads;
	struct file f;
	uint64_t start;

	file_make(&f, 1, true);
	assert_int_equal(user_try(fx, &early, &f, 0, 1, &opts), 0);
	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	fix_serve(fx);
	threads = count_threads();
	break_and_release(fx, &u, &b1);
	/* The thread that helped with this break would do for the next one, too. */
	EVENTUALLY(fx, count_threads() == threads);
	fake_shut_reg();
	breaker_end(&b1);
	EVENTUALLY(fx, fake_waiting() == 1);
	start = now_ns();
	breaker_open(&b2, &f, O_WRONLY);
	EVENTUALLY(fx, breaker_done(&b2));
	assert_prompt(&b2, start, 2000);
	assert_int_equal(fake_waiting(), 1);
	fake_open_reg();
	EVENTUALLY(fx, atomic_load(&u.regains) == 1);
	breaker_end(&b2);
	user_dereg(&early);
	user_dereg(&u);
	file_end(&f);
}

/* ------------------------------------------------------------------------- */
/* A log function that does not return */

struct slow_log {
	atomic_bool block;
	atomic_int inside;
	atomic_uint overlaps, n;
	char lines[32][160];
};

static void write_slowly(enum daxlease_log_level level, const char *line, void *userdata)
{
	struct slow_log *log = userdata;
	unsigned int i = atomic_fetch_add(&log->n, 1);

	(void)level;
	if (atomic_fetch_add(&log->inside, 1))
		atomic_fetch_add(&log->overlaps, 1);
	if (i < 32)
		snprintf(log->lines[i], sizeof(log->lines[i]), "%s", line);
	while (atomic_load(&log->block))
		usleep(500);
	atomic_fetch_sub(&log->inside, 1);
}

/* The line about this file with this text. */
static unsigned int find_line(const struct slow_log *log, const char *file, const char *text)
{
	unsigned int i = 0, n = atomic_load(&log->n);

	while (i < n && !(strstr(log->lines[i], file) && strstr(log->lines[i], text)))
		i++;
	assert_true(i < n);
	return i;
}

static void assert_in_order(const struct slow_log *log, int lease_fd, enum daxlease_log_level level)
{
	unsigned int fenced;
	char file[24];

	snprintf(file, sizeof(file), "fd %d (", lease_fd);
	fenced = find_line(log, file, "fenced");
	if (level < DAXLEASE_LOG_INFO)
		return;
	assert_true(find_line(log, file, "lease broken") < fenced);
	assert_true(fenced < find_line(log, file, "deregistered"));
	assert_true(find_line(log, file, "deregistered") < find_line(log, file, "given back"));
}

static void log_blocks(struct fix *fx, enum daxlease_log_level level)
{
	struct daxlease_mr_info info[2] = { { .size = sizeof(info[0]) },
					    { .size = sizeof(info[1]) } };
	struct user u[2] = { { .drain_answer = DAXLEASE_PENDING },
			     { .drain_answer = DAXLEASE_PENDING } };
	struct ibv_qp qps[2][2] = { 0 };
	struct slow_log log = { 0 };
	struct file files[2];
	struct breaker b[2];
	uint64_t start;

	for (unsigned int i = 0; i < 2; i++) {
		struct daxlease_mr_opts opts = user_opts(&u[i], 0, SHORT_MS);

		file_make(&files[i], 1, true);
		assert_int_equal(user_try(fx, &u[i], &files[i], 0, 1, &opts), 0);
		with_qps(&u[i], qps[i]);
		assert_int_equal(daxlease_mr_get_info(u[i].mr, &info[i]), 0);
	}
	assert_int_equal(daxlease_ctx_set_log(fx->ctx, write_slowly, level, &log), 0);
	atomic_store(&log.block, true);
	/* No calls from here on, which could be the ones to hand out a line. */
	for (unsigned int i = 0; i < 2; i++) {
		start = now_ns();
		breaker_open(&b[i], &files[i], O_WRONLY);
		EVENTUALLY(fx, breaker_done(&b[i]));
		assert_prompt(&b[i], start, 2000);
		assert_true(b[i].done_ns - start >= SHORT_MS * 1000000ull);
		assert_int_equal(fake_live(), 1 - i);
		assert_int_equal(fake_fences(), 2 * (i + 1));
	}
	EVENTUALLY(fx, atomic_load(&log.inside) == 1);
	assert_int_equal(atomic_load(&log.n), 1);
	atomic_store(&log.block, false);
	for (unsigned int i = 0; i < 2; i++)
		assert_final(fx, &u[i], -ETIMEDOUT);
	EVENTUALLY(fx, !atomic_load(&log.inside));
	assert_int_equal(daxlease_ctx_set_log(fx->ctx, NULL, DAXLEASE_LOG_ERR, NULL), 0);
	assert_int_equal(atomic_load(&log.overlaps), 0);
	for (unsigned int i = 0; i < 2; i++) {
		assert_in_order(&log, info[i].lease_fd, level);
		breaker_end(&b[i]);
		user_dereg(&u[i]);
		file_end(&files[i]);
	}
}

static void log__blocks_with_the_news_of_a_break(void **state)
{
	log_blocks(*state, DAXLEASE_LOG_INFO);
}

static void log__blocks_with_the_news_of_a_fence(void **state)
{
	log_blocks(*state, DAXLEASE_LOG_WARNING);
}

static void break__ends_with_dereg(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, atomic_load(&u.drains) == 1);
	user_dereg(&u);
	assert_int_equal(file_lease(&fx->file), F_UNLCK);
	EVENTUALLY(fx, breaker_done(&b));
	NOT_FOR_MS(fx, 20, atomic_load(&u.releases));
	breaker_end(&b);
}

/* It comes while ibv_reg_mr() is still at work. */
struct registration {
	struct fix *fx;
	struct user *u;
	int err;
};

static void *register_slowly(void *arg)
{
	struct registration *r = arg;
	struct daxlease_mr_opts opts = user_opts(r->u, 0, 0);

	r->err = user_try(r->fx, r->u, &r->fx->file, 0, 4, &opts);
	return NULL;
}

static void break__while_registering(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct registration r = { fx, &u, 1 };
	struct breaker b;
	pthread_t thread;

	fake_shut_reg();
	assert_int_equal(pthread_create(&thread, NULL, register_slowly, &r), 0);
	EVENTUALLY(fx, fake_waiting() == 1);
	breaker_open(&b, &fx->file, O_WRONLY);
	NOT_FOR_MS(fx, 40, breaker_done(&b));
	fake_open_reg();
	pthread_join(thread, NULL);
	assert_int_equal(r.err, 0);
	EVENTUALLY(fx, breaker_done(&b));
	assert_final(fx, &u, 0);
	assert_int_equal(atomic_load(&u.drains), 1);
	assert_true(b.done_ns >= fake_last_dereg_ns());
	breaker_end(&b);
	user_dereg(&u);
}

static void reader__while_registering(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct registration r = { fx, &u, 1 };
	struct breaker b;
	pthread_t thread;

	fake_shut_reg();
	assert_int_equal(pthread_create(&thread, NULL, register_slowly, &r), 0);
	EVENTUALLY(fx, fake_waiting() == 1);
	breaker_open(&b, &fx->file, O_RDONLY);
	EVENTUALLY(fx, breaker_done(&b));
	fake_open_reg();
	pthread_join(thread, NULL);
	assert_int_equal(r.err, 0);
	EVENTUALLY(fx, atomic_load(&u.guards) == 1);
	breaker_end(&b);
	EVENTUALLY(fx, atomic_load(&u.guards) == 2);
	assert_int_equal(user_state(&u), DAXLEASE_STATE_ACTIVE);
	user_dereg(&u);
}

#define IN_LOOP(fn) IN_MODE(fn, loop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_ALL_MODES(break__writer_waits_for_dereg),
		IN_ALL_MODES(break__truncate),
		IN_ALL_MODES(break__nonblocking_writer),
		IN_ALL_MODES(break__what_the_callback_is_told),
		IN_ALL_MODES(break__without_callbacks),
		IN_ALL_MODES(break__ends_with_dereg),
		IN_THREAD(break__while_registering),
		IN_LOOP(break__while_registering),
		IN_MODE(break__while_registering, signal),
		IN_ALL_MODES(drain__pending_then_drained),
		IN_ALL_MODES(drain__answered_before_it_returned),
		IN_ALL_MODES(drain__answered_and_then_failed),
		IN_ALL_MODES(drain__answered_by_another_thread),
		IN_ALL_MODES(drain__cannot),
		IN_ALL_MODES(drain__never_answered),
		IN_ALL_MODES(drain__fence_fails),
		IN_ALL_MODES(fence__is_called_first),
		IN_ALL_MODES(fence__not_for_who_drains),
		IN_THREAD(fence__beside_a_stuck_drain),
		IN_THREAD(drain__never_returns),
		IN_LOOP(drain__never_returns_in_dispatch),
		IN_LOOP(drain__nobody_dispatches),
		IN_ALL_MODES(budget__cut_to_the_kernels),
		IN_ALL_MODES(budget__no_deadline_at_all),
		IN_THREAD(budget__default_is_ten_seconds),
		IN_THREAD(budget__break_time_cannot_be_read),
		IN_ALL_MODES(lease__lost_to_the_kernel),
		IN_ALL_MODES(reader__is_let_in_and_the_mr_stays),
		IN_ALL_MODES(reader__without_guard_callback),
		IN_ALL_MODES(reader__drain_for_readers),
		IN_ALL_MODES(reader__dereg_while_unguarded),
		IN_ALL_MODES(reader__file_shrank_meanwhile),
		IN_LOOP(reader__told_late),
		IN_ALL_MODES(reader__of_a_read_lease),
		IN_THREAD(reader__while_registering),
		IN_LOOP(reader__while_registering),
		IN_ALL_MODES(dereg_fails__lease_is_kept),
		IN_ALL_MODES(dereg_fails__caller_retries),
		IN_ALL_MODES(dereg_fails__outside_of_a_break),
		IN_ALL_MODES(give_back__refused_for_a_while),
		IN_ALL_MODES(give_back__refused_for_a_reader),
		IN_ALL_MODES(give_back__refused_until_the_kernels_deadline),
		IN_ALL_MODES(give_back__refused_to_the_last_region),
		IN_ALL_MODES(regions__lease_stays_until_the_last),
		IN_ALL_MODES(regions__one_drained_one_fenced),
		IN_THREAD(files__a_blocked_callback_holds_up_no_other),
		IN_THREAD(regions__a_blocked_callback_holds_up_no_other),
		IN_THREAD(files__a_blocked_dereg_holds_up_no_other),
		IN_LOOP(files__a_blocked_dereg_holds_up_no_other),
		IN_THREAD(files__a_blocked_dereg_without_callbacks),
		IN_LOOP(files__a_blocked_dereg_without_callbacks),
		IN_THREAD(files__a_blocked_regain_holds_up_no_other),
		IN_LOOP(files__a_blocked_regain_holds_up_no_other),
		IN_THREAD(log__blocks_with_the_news_of_a_break),
		IN_THREAD(log__blocks_with_the_news_of_a_fence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
