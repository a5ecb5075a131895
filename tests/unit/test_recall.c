// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Recalling, and coming back: after a recall, and after breaks. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_verbs.h"
#include "fault.h"
#include "support.h"

static void recall__and_regain(void **state)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct daxlease_stats stats;
	struct fix *fx = *state;
	struct user u = { 0 };

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	for (unsigned int i = 1; i <= 3; i++) {
		assert_int_equal(daxlease_mr_recall(u.mr), 0);
		assert_int_equal(atomic_load(&u.drains), i);
		assert_int_equal(atomic_load(&u.releases), i);
		assert_int_equal(atomic_load(&u.result), 0);
		assert_int_equal(atomic_load(&u.cause), DAXLEASE_CAUSE_RECALL);
		assert_int_equal(u.brk.kernel_deadline_ns, 0);
		assert_int_equal(fake_live(), 0);
		assert_int_equal(file_lease(&fx->file), F_UNLCK);
		assert_int_equal(daxlease_mr_recall(u.mr), -EALREADY);
		NOT_FOR_MS(fx, 20, atomic_load(&u.regains) == i);
		assert_int_equal(daxlease_mr_regain(u.mr), 0);
		assert_int_equal(atomic_load(&u.regains), i);
		assert_int_equal(daxlease_mr_regain(u.mr), -EALREADY);
		assert_int_equal(file_lease(&fx->file), F_WRLCK);
	}
	assert_int_equal(daxlease_mr_get_info(u.mr, &info), 0);
	assert_int_equal(info.generation, 4);
	assert_int_equal(u.regain.size, sizeof(u.regain));
	assert_int_equal(u.regain.rkey, info.rkey);
	assert_int_equal(u.regain.lkey, info.lkey);
	assert_int_equal(u.regain.length, fx->file.size);
	assert_ptr_equal(u.regain.ibv_mr, daxlease_mr_get_ibv_mr(u.mr));
	fix_stats(fx, &stats);
	assert_int_equal(stats.recalls, 3);
	assert_int_equal(stats.breaks, 0);
	assert_int_equal(stats.released, 3);
	assert_int_equal(stats.regained, 3);
	/* Our own wake-ups are no overflows. */
	assert_int_equal(stats.signal_overflows, 0);
	user_dereg(&u);
}

/* Begun in one thread that also answers, as an event loop does. */
static void recall__start_does_not_wait(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	struct daxlease_stats stats;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	assert_int_equal(daxlease_mr_recall_start(u.mr), 0);
	assert_int_equal(daxlease_mr_recall_start(u.mr), -EALREADY);
	EVENTUALLY(fx, atomic_load(&u.drains) == 1);
	assert_int_equal(atomic_load(&u.cause), DAXLEASE_CAUSE_RECALL);
	NOT_FOR_MS(fx, 20, atomic_load(&u.releases) != 0);
	assert_int_equal(fake_live(), 1);
	assert_int_equal(daxlease_mr_drained(u.mr), 0);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_int_equal(atomic_load(&u.result), 0);
	assert_int_equal(fake_live(), 0);
	assert_int_equal(file_lease(&fx->file), F_UNLCK);
	assert_int_equal(daxlease_mr_recall_start(u.mr), -EALREADY);
	NOT_FOR_MS(fx, 20, atomic_load(&u.regains) != 0);
	assert_int_equal(daxlease_mr_regain(u.mr), 0);
	assert_int_equal(file_lease(&fx->file), F_WRLCK);
	fix_stats(fx, &stats);
	assert_int_equal(stats.recalls, 1);
	user_dereg(&u);
}

static void on_release_recall(struct user *u)
{
	atomic_store(&u->seen, daxlease_mr_recall_start(u->mr));
}

/* From a callback; and the other call waits for the rest. */
static void recall__started_from_a_callback(void **state)
{
	struct fix *fx = *state;
	struct user u = { .on_release = on_release_recall, .seen = 1 };
	struct breaker b;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	breaker_truncate(&b, &fx->file, fx->file.size);
	EVENTUALLY(fx, breaker_done(&b));
	EVENTUALLY(fx, atomic_load(&u.seen) == 0);
	NOT_FOR_MS(fx, 50, atomic_load(&u.regains) != 0);
	breaker_end(&b);
	user_dereg(&u);
}

static void recall__start_without_a_lease(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct file plain;

	file_make(&plain, 4, false);
	assert_int_equal(user_try(fx, &u, &plain, 0, 4, NULL), 0);
	assert_int_equal(daxlease_mr_recall_start(u.mr), -EOPNOTSUPP);
	assert_int_equal(daxlease_mr_recall_start(NULL), -EINVAL);
	user_dereg(&u);
	file_end(&plain);
}

static void recall__all_regions_of_the_file(void **state)
{
	struct fix *fx = *state;
	struct user u[2] = { 0 };
	struct daxlease_mr_opts opts;

	for (unsigned int i = 0; i < 2; i++) {
		opts = user_opts(&u[i], 0, 0);
		assert_int_equal(user_try(fx, &u[i], &fx->file, 2 * i, 2, &opts), 0);
	}
	assert_int_equal(daxlease_mr_recall(u[0].mr), 0);
	assert_int_equal(atomic_load(&u[0].releases) + atomic_load(&u[1].releases), 2);
	assert_int_equal(daxlease_mr_recall(u[1].mr), -EALREADY);
	assert_int_equal(daxlease_mr_regain(u[1].mr), 0);
	EVENTUALLY(fx, atomic_load(&u[0].regains) == 1 && atomic_load(&u[1].regains) == 1);
	assert_int_equal(fake_live(), 2);
	user_dereg(&u[0]);
	assert_int_equal(daxlease_mr_recall(u[1].mr), 0);
	user_dereg(&u[1]);
}

static void recall__fenced(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };

	user_reg(fx, &u, 0, 100);
	assert_int_equal(daxlease_mr_recall(u.mr), -ETIMEDOUT);
	assert_int_equal(atomic_load(&u.result), -ETIMEDOUT);
	assert_int_equal(atomic_load(&u.releases), 1);
	user_dereg(&u);
}

static void recall__dereg_fails(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	user_reg(fx, &u, 0, 0);
	fake_fail_dereg(UINT_MAX, EBUSY);
	assert_int_equal(daxlease_mr_recall(u.mr), -EBUSY);
	assert_int_equal(file_lease(&fx->file), F_WRLCK);
	assert_int_equal(daxlease_mr_regain(u.mr), -EAGAIN);
	fake_fail_dereg(0, 0);
	assert_int_equal(daxlease_mr_recall(u.mr), 0);
	assert_int_equal(atomic_load(&u.releases), 1);
	assert_int_equal(fake_live(), 0);
	user_dereg(&u);
}

static void recall__lost_meanwhile(void **state)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct fix *fx = *state;
	struct user u = { 0 };

	user_reg(fx, &u, 0, 0);
	assert_int_equal(daxlease_mr_get_info(u.mr, &info), 0);
	assert_int_equal(fcntl(info.lease_fd, F_SETLEASE, F_UNLCK), 0);
	assert_int_equal(daxlease_mr_recall(u.mr), -ESTALE);
	assert_int_equal(atomic_load(&u.result), -ESTALE);
	user_dereg(&u);
}

static void *recall(void *arg)
{
	struct user *u = arg;

	atomic_store(&u->seen, daxlease_mr_recall(u->mr));
	return NULL;
}

/* Another thread recalls; a break by a process comes before it is done. */
static void recall__break_tightens_the_deadline(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING, .seen = 1 };
	struct breaker b;
	pthread_t thread;
	uint64_t start;

	fault_break_time(1);
	user_reg(fx, &u, 0, 60000);
	fix_serve(fx);
	assert_int_equal(pthread_create(&thread, NULL, recall, &u), 0);
	EVENTUALLY(fx, atomic_load(&u.drains) == 1);
	assert_true(u.brk.deadline_ns > now_ns() + 50000000000u);
	start = now_ns();
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, breaker_done(&b));
	assert_true(b.done_ns - start < 2000000000u);
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&u.seen), -ETIMEDOUT);
	assert_int_equal(atomic_load(&u.releases), 1);
	breaker_end(&b);
	fix_serve_stop(fx);
	user_dereg(&u);
}

static void recall__during_a_break(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING, .seen = 1 };
	struct breaker b;
	pthread_t thread;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	fix_serve(fx);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, atomic_load(&u.drains) == 1);
	assert_int_equal(pthread_create(&thread, NULL, recall, &u), 0);
	NOT_FOR_MS(fx, 20, atomic_load(&u.seen) != 1);
	assert_int_equal(daxlease_mr_drained(u.mr), 0);
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&u.seen), 0);
	EVENTUALLY(fx, breaker_done(&b));
	breaker_end(&b);
	/* Recalled is recalled, whoever was first. */
	NOT_FOR_MS(fx, 30, atomic_load(&u.regains));
	assert_int_equal(daxlease_mr_regain(u.mr), 0);
	fix_serve_stop(fx);
	user_dereg(&u);
}

static void recall__give_back_refused(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	int err;

	user_reg(fx, &u, 0, 0);
	not_the_owner(true);
	assert_int_equal(daxlease_mr_recall(u.mr), -EACCES);
	assert_int_equal(daxlease_mr_recall(u.mr), -EACCES);
	assert_int_equal(fake_live(), 0);
	assert_int_equal(file_lease(&fx->file), F_WRLCK);
	assert_int_equal(atomic_load(&u.releases), 0);
	not_the_owner(false);
	/* The library may have been faster. */
	err = daxlease_mr_recall(u.mr);
	assert_true(err == 0 || err == -EALREADY);
	assert_int_equal(file_lease(&fx->file), F_UNLCK);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_int_equal(atomic_load(&u.result), 0);
	user_dereg(&u);
}

/* Nobody but the thread that recalls looks after the context. */
static void recall__waiting_serves_other_files(void **state)
{
	struct user u = { .drain_answer = DAXLEASE_PENDING, .seen = 1 }, other = { 0 };
	struct daxlease_mr_opts opts = user_opts(&other, 0, 1000);
	struct fix *fx = *state;
	struct breaker b;
	pthread_t thread;
	struct file f;
	uint64_t start;

	file_make(&f, 1, true);
	user_reg(fx, &u, 0, 30000);
	assert_int_equal(user_try(fx, &other, &f, 0, 1, &opts), 0);
	fx->idle = true;
	assert_int_equal(pthread_create(&thread, NULL, recall, &u), 0);
	EVENTUALLY(fx, atomic_load(&u.drains) == 1);
	start = now_ms();
	breaker_open(&b, &f, O_WRONLY);
	EVENTUALLY(fx, breaker_done(&b));
	EVENTUALLY(fx, atomic_load(&other.releases) == 1);
	assert_true(now_ms() - start < 1000);
	assert_int_equal(atomic_load(&other.drains), 1);
	assert_int_equal(atomic_load(&other.result), 0);
	assert_int_equal(atomic_load(&u.seen), 1);
	assert_int_equal(daxlease_mr_drained(u.mr), 0);
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&u.seen), 0);
	fx->idle = false;
	breaker_end(&b);
	user_dereg(&u);
	user_dereg(&other);
	file_end(&f);
}

static void recall__while_unguarded(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	breaker_open(&b, &fx->file, O_RDONLY);
	EVENTUALLY(fx, atomic_load(&u.guards) == 1);
	assert_int_equal(daxlease_mr_recall(u.mr), 0);
	assert_int_equal(fake_live(), 0);
	assert_int_equal(daxlease_mr_regain(u.mr), -EAGAIN);
	breaker_end(&b);
	assert_int_equal(daxlease_mr_regain(u.mr), 0);
	assert_int_equal(user_state(&u), DAXLEASE_STATE_ACTIVE);
	user_dereg(&u);
}

static void recall__own_change_of_the_file(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	user_reg(fx, &u, 0, 0);
	assert_int_equal(daxlease_mr_recall(u.mr), 0);
	assert_int_equal(truncate(fx->file.path, PAGE), 0);
	assert_int_equal(daxlease_mr_regain(u.mr), 0);
	assert_int_equal(u.regain.length, PAGE);
	user_dereg(&u);
}

/* ------------------------------------------------------------------------- */
/* Regaining */

static void regain__by_itself_once_the_writer_is_gone(void **state)
{
	struct daxlease_stats stats;
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	for (unsigned int i = 1; i <= 3; i++) {
		break_and_release(fx, &u, &b);
		NOT_FOR_MS(fx, 30, atomic_load(&u.regains) == i);
		breaker_end(&b);
		EVENTUALLY(fx, atomic_load(&u.regains) == i);
		assert_int_equal(user_state(&u), DAXLEASE_STATE_ACTIVE);
	}
	fix_stats(fx, &stats);
	assert_int_equal(stats.breaks, 3);
	assert_int_equal(stats.regained, 3);
	assert_true(stats.lease_retries > 0);
	assert_int_equal(stats.lost, 0);
	user_dereg(&u);
}

static void regain__not_wanted(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	assert_int_equal(daxlease_mr_regain(u.mr), -EALREADY);
	break_and_release(fx, &u, &b);
	assert_int_equal(daxlease_mr_regain(u.mr), -EAGAIN);
	breaker_end(&b);
	NOT_FOR_MS(fx, 50, user_state(&u) != DAXLEASE_STATE_RELEASED);
	assert_int_equal(file_lease(&fx->file), F_UNLCK);
	assert_int_equal(daxlease_mr_regain(u.mr), 0);
	assert_int_equal(atomic_load(&u.regains), 1);
	user_dereg(&u);
}

static void regain__hurried(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;
	int err;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	break_and_release(fx, &u, &b);
	/* Let it get into the long pauses. */
	NOT_FOR_MS(fx, 150, atomic_load(&u.regains));
	breaker_end(&b);
	err = daxlease_mr_regain(u.mr);
	assert_true(err == 0 || err == -EALREADY);
	/* If the library was quicker, the callback waits to be dispatched. */
	EVENTUALLY(fx, atomic_load(&u.regains) == 1);
	user_dereg(&u);
}

static void regain__shorter_file(void **state)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	breaker_truncate(&b, &fx->file, PAGE + 1);
	EVENTUALLY(fx, breaker_done(&b));
	breaker_end(&b);
	EVENTUALLY(fx, atomic_load(&u.regains) == 1);
	assert_int_equal(u.regain.length, 2 * PAGE);
	assert_int_equal(daxlease_mr_get_info(u.mr, &info), 0);
	assert_int_equal(info.registered, 2 * PAGE);
	assert_int_equal(info.length, 4 * PAGE);
	/* Longer again: with the next break. */
	breaker_truncate(&b, &fx->file, 100 * PAGE);
	EVENTUALLY(fx, breaker_done(&b));
	breaker_end(&b);
	EVENTUALLY(fx, atomic_load(&u.regains) == 2);
	assert_int_equal(u.regain.length, 4 * PAGE);
	user_dereg(&u);
}

/* Nothing is left to register; the file is leased all the same. */
static void cut_off(struct fix *fx, struct user *u)
{
	struct breaker b;

	breaker_truncate(&b, &fx->file, 0);
	EVENTUALLY(fx, breaker_done(&b));
	breaker_end(&b);
	EVENTUALLY(fx, atomic_load(&u->releases) == 1 && file_lease(&fx->file) == F_WRLCK);
	NOT_FOR_MS(fx, 30, atomic_load(&u->regains));
}

static void regain__region_past_the_end(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	cut_off(fx, &u);
	assert_int_equal(daxlease_mr_regain(u.mr), -ENODATA);
	assert_int_equal(user_state(&u), DAXLEASE_STATE_RELEASED);
	/* Leased all the same: whoever makes it longer breaks that lease. */
	EVENTUALLY(fx, file_lease(&fx->file) == F_WRLCK);
	breaker_truncate(&b, &fx->file, 3 * PAGE);
	EVENTUALLY(fx, breaker_done(&b));
	breaker_end(&b);
	EVENTUALLY(fx, atomic_load(&u.regains) == 1);
	assert_int_equal(u.regain.length, 3 * PAGE);
	assert_int_equal(atomic_load(&u.releases), 1);
	user_dereg(&u);
}

/* A plain lease does not tell. */
static void regain__extended_by_the_holder(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct daxlease_mr_opts opts = user_opts(&u, DAXLEASE_MR_REGAIN, 0);
	struct daxlease_stats stats;

	opts.kind = DAXLEASE_KIND_LEASE;
	assert_int_equal(user_try(fx, &u, &fx->file, 0, 4, &opts), 0);
	cut_off(fx, &u);
	NOT_FOR_MS(fx, 150, atomic_load(&u.regains));
	assert_int_equal(ftruncate(fx->file.fd, 3 * PAGE), 0);
	assert_true(WAIT_MS(fx, 2500, atomic_load(&u.regains) == 1));
	assert_int_equal(u.regain.length, 3 * PAGE);
	assert_int_equal(user_state(&u), DAXLEASE_STATE_ACTIVE);
	fix_stats(fx, &stats);
	assert_int_equal(stats.breaks, 1);
	user_dereg(&u);
}

static void regain__unmapped_meanwhile(void **state)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	break_and_release(fx, &u, &b);
	munmap(fx->file.map, fx->file.size);
	breaker_end(&b);
	EVENTUALLY(fx, atomic_load(&u.regain_errors) == 1);
	assert_int_equal(atomic_load(&u.regain_error), -EFAULT);
	assert_null(u.regain.ibv_mr);
	assert_int_equal(u.regain.lkey + u.regain.rkey + u.regain.length, 0);
	assert_int_equal(daxlease_mr_get_info(u.mr, &info), 0);
	assert_int_equal(info.last_error, -EFAULT);
	/* Given up: nobody needs the lease. */
	EVENTUALLY(fx, file_lease(&fx->file) == F_UNLCK);
	assert_int_equal(daxlease_mr_regain(u.mr), -EFAULT);
	/* Mapped again at the same place it can be brought back. */
	assert_ptr_equal(mmap(fx->file.map, fx->file.size, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_FIXED, fx->file.fd, 0),
			 fx->file.map);
	assert_int_equal(daxlease_mr_regain(u.mr), 0);
	EVENTUALLY(fx, atomic_load(&u.regains) == 1);
	user_dereg(&u);
}

static void regain__device_out_of_memory_for_a_while(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	break_and_release(fx, &u, &b);
	fake_fail_reg(4, ENOMEM);
	breaker_end(&b);
	EVENTUALLY(fx, atomic_load(&u.regains) == 1);
	assert_int_equal(fake_regs(), 6);
	assert_int_equal(atomic_load(&u.regain_errors), 0);
	user_dereg(&u);
}

static void regain__call_tells_the_devices_error(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	user_reg(fx, &u, 0, 0);
	assert_int_equal(daxlease_mr_recall(u.mr), 0);
	fake_fail_reg(1, ENOMEM);
	assert_int_equal(daxlease_mr_regain(u.mr), -ENOMEM);
	EVENTUALLY(fx, file_lease(&fx->file) == F_UNLCK);
	fake_fail_reg(1, EINVAL);
	assert_int_equal(daxlease_mr_regain(u.mr), -EINVAL);
	EVENTUALLY(fx, atomic_load(&u.regain_errors) == 1);
	assert_int_equal(daxlease_mr_regain(u.mr), 0);
	user_dereg(&u);
}

static void regain__one_of_two_regions_wants_it(void **state)
{
	struct fix *fx = *state;
	struct user yes = { 0 }, no = { 0 };
	struct daxlease_mr_opts opts = user_opts(&yes, DAXLEASE_MR_REGAIN, 0);
	struct breaker b;

	assert_int_equal(user_try(fx, &yes, &fx->file, 0, 2, &opts), 0);
	opts = user_opts(&no, 0, 0);
	assert_int_equal(user_try(fx, &no, &fx->file, 2, 2, &opts), 0);
	break_and_release(fx, &yes, &b);
	breaker_end(&b);
	EVENTUALLY(fx, atomic_load(&yes.regains) == 1);
	assert_int_equal(user_state(&no), DAXLEASE_STATE_RELEASED);
	assert_int_equal(daxlease_mr_regain(no.mr), 0);
	assert_int_equal(atomic_load(&no.regains), 1);
	assert_int_equal(atomic_load(&yes.regains), 1);
	user_dereg(&yes);
	user_dereg(&no);
}

static void regain__dereg_while_waiting_for_it(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	break_and_release(fx, &u, &b);
	user_dereg(&u);
	breaker_end(&b);
	NOT_FOR_MS(fx, 20, atomic_load(&u.regains));
	assert_int_equal(fake_live(), 0);
}

/* Broken again before anybody was told that it had been regained. */
static void regain__told_too_late(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 50);
	break_and_release(fx, &u, &b);
	fx->idle = true;
	breaker_end(&b);
	EVENTUALLY(fx, user_state(&u) == DAXLEASE_STATE_ACTIVE);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, breaker_done(&b));
	fx->idle = false;
	EVENTUALLY(fx, atomic_load(&u.releases) == 2);
	assert_int_equal(atomic_load(&u.result), -ETIMEDOUT);
	assert_int_equal(atomic_load(&u.regains), 1);
	assert_null(u.regain.ibv_mr);
	breaker_end(&b);
	user_dereg(&u);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_ALL_MODES(recall__and_regain),
		IN_ALL_MODES(recall__start_does_not_wait),
		IN_ALL_MODES(recall__started_from_a_callback),
		IN_THREAD(recall__start_without_a_lease),
		IN_ALL_MODES(recall__all_regions_of_the_file),
		IN_ALL_MODES(recall__fenced),
		IN_ALL_MODES(recall__dereg_fails),
		IN_ALL_MODES(recall__lost_meanwhile),
		IN_ALL_MODES(recall__break_tightens_the_deadline),
		IN_ALL_MODES(recall__during_a_break),
		IN_ALL_MODES(recall__give_back_refused),
		IN_ALL_MODES(recall__waiting_serves_other_files),
		IN_ALL_MODES(recall__while_unguarded),
		IN_ALL_MODES(recall__own_change_of_the_file),
		IN_ALL_MODES(regain__by_itself_once_the_writer_is_gone),
		IN_ALL_MODES(regain__not_wanted),
		IN_ALL_MODES(regain__hurried),
		IN_ALL_MODES(regain__shorter_file),
		IN_ALL_MODES(regain__region_past_the_end),
		IN_ALL_MODES(regain__extended_by_the_holder),
		IN_ALL_MODES(regain__unmapped_meanwhile),
		IN_ALL_MODES(regain__device_out_of_memory_for_a_while),
		IN_ALL_MODES(regain__call_tells_the_devices_error),
		IN_ALL_MODES(regain__one_of_two_regions_wants_it),
		IN_ALL_MODES(regain__dereg_while_waiting_for_it),
		IN_MODE(regain__told_too_late, loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
