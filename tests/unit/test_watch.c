// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The kernel's signals, lost or found, and the threads that wait for them. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_verbs.h"
#include "fault.h"
#include "objects.h"
#include "support.h"

/* ------------------------------------------------------------------------- */
/* Many files at once */

enum {
	STORM = 200
};

struct storm {
	struct file files[STORM];
	struct user users[STORM];
	struct breaker b;
};

static struct storm storm;

static void storm_begin(struct fix *fx)
{
	struct daxlease_mr_opts opts;

	memset(&storm, 0, sizeof(storm));
	for (unsigned int i = 0; i < STORM; i++) {
		file_make(&storm.files[i], 1, true);
		opts = user_opts(&storm.users[i], 0, 0);
		assert_int_equal(user_try(fx, &storm.users[i], &storm.files[i], 0, 1, &opts), 0);
	}
}

static unsigned int storm_released(void)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < STORM; i++)
		n += atomic_load(&storm.users[i].releases);
	return n;
}

static void storm_end(struct fix *fx)
{
	struct daxlease_stats stats;

	EVENTUALLY(fx, breaker_done(&storm.b));
	NOT_FOR_MS(fx, 20, storm_released() != STORM);
	fix_stats(fx, &stats);
	assert_int_equal(stats.breaks, STORM);
	assert_int_equal(stats.released, STORM);
	assert_int_equal(stats.lost + stats.overruns, 0);
	breaker_end(&storm.b);
	for (unsigned int i = 0; i < STORM; i++) {
		assert_int_equal(atomic_load(&storm.users[i].drains), 1);
		user_dereg(&storm.users[i]);
		file_end(&storm.files[i]);
	}
}

/* Signals queued for this user, in whatever process. */
static unsigned int queued_signals(void)
{
	unsigned int n = 0;
	char line[128];
	FILE *f = fopen("/proc/self/status", "re");

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "SigQ: %u/", &n) == 1)
			break;
	}
	fclose(f);
	return n;
}

static void limit_signals(struct rlimit *old, rlim_t n)
{
	struct rlimit few;

	assert_int_equal(getrlimit(RLIMIT_SIGPENDING, old), 0);
	few = *old;
	few.rlim_cur = n;
	assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &few), 0);
}

static void storm__every_signal_is_queued(void **state)
{
	struct fix *fx = *state;

	storm_begin(fx);
	breaker_open_all(&storm.b, storm.files, STORM, O_WRONLY | O_NONBLOCK);
	EVENTUALLY(fx, storm_released() == STORM);
	storm_end(fx);
}

/* Not one signal can be queued: all that comes is bare SIGIOs. */
static void storm__no_signal_is_queued(void **state)
{
	struct daxlease_stats stats;
	struct fix *fx = *state;
	struct rlimit old;

	storm_begin(fx);
	limit_signals(&old, 0);
	breaker_open_all(&storm.b, storm.files, STORM, O_WRONLY | O_NONBLOCK);
	EVENTUALLY(fx, storm_released() == STORM);
	assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &old), 0);
	fix_stats(fx, &stats);
	if (fx->mode->mode != DAXLEASE_MODE_SIGNAL)
		assert_true(stats.signal_overflows > 0);
	storm_end(fx);
}

/* The queue fills up while nobody takes from it. */
static void storm__queue_full_in_the_middle(void **state)
{
	struct daxlease_stats stats;
	struct fix *fx = *state;
	struct user first = { 0 };
	struct daxlease_mr_opts opts = { .size = sizeof(opts) };
	struct rlimit old;
	struct breaker b;

	/* A region without callbacks: the watch thread itself waits at the gate. */
	assert_int_equal(user_try(fx, &first, &fx->file, 0, 4, &opts), 0);
	storm_begin(fx);
	limit_signals(&old, queued_signals() + 40);
	fake_shut_dereg();
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, fake_waiting() == 1);
	breaker_open_all(&storm.b, storm.files, STORM, O_WRONLY | O_NONBLOCK);
	EVENTUALLY(fx, breaker_done(&storm.b));
	fake_open_dereg();
	EVENTUALLY(fx, storm_released() == STORM);
	EVENTUALLY(fx, breaker_done(&b));
	assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &old), 0);
	fix_stats(fx, &stats);
	assert_true(stats.signal_overflows > 0);
	breaker_end(&b);
	user_dereg(&first);
	fix_stats(fx, &stats);
	assert_int_equal(stats.breaks, STORM + 1);
	assert_int_equal(stats.released, STORM + 1);
	breaker_end(&storm.b);
	for (unsigned int i = 0; i < STORM; i++) {
		user_dereg(&storm.users[i]);
		file_end(&storm.files[i]);
	}
}

/* Breaks that come while the watch thread is in a callback that blocks. */
static void storm__while_a_callback_blocks(void **state)
{
	struct fix *fx = *state;
	struct user blocked = { .block_drain = true };
	struct breaker b;

	user_reg(fx, &blocked, 0, 0);
	storm_begin(fx);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, atomic_load(&blocked.in_drain));
	breaker_open_all(&storm.b, storm.files, STORM, O_WRONLY | O_NONBLOCK);
	EVENTUALLY(fx, storm_released() == STORM);
	assert_false(breaker_done(&b));
	atomic_store(&blocked.block_drain, false);
	EVENTUALLY(fx, breaker_done(&b));
	EVENTUALLY(fx, atomic_load(&blocked.releases) == 1);
	breaker_end(&b);
	user_dereg(&blocked);
	for (unsigned int i = 0; i < STORM; i++) {
		user_dereg(&storm.users[i]);
		file_end(&storm.files[i]);
	}
	breaker_end(&storm.b);
}

/* ------------------------------------------------------------------------- */
/* Helpers */

enum {
	BLOCKERS = 12
};

static void wait_in_log(enum daxlease_log_level level, const char *line, void *userdata)
{
	const atomic_bool *block = userdata;

	(void)level;
	(void)line;
	while (atomic_load(block))
		usleep(500);
}

static unsigned int in_drain(struct user *users)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < BLOCKERS; i++)
		n += atomic_load(&users[i].in_drain);
	return n;
}

/* More callbacks block than there can be threads: all are fenced in time. */
static void block_all(struct fix *fx, atomic_bool *block_log)
{
	static struct file files[BLOCKERS];
	struct user users[BLOCKERS] = { 0 };
	struct breaker b[BLOCKERS];
	uint64_t start;

	for (unsigned int i = 0; i < BLOCKERS; i++) {
		struct daxlease_mr_opts opts = user_opts(&users[i], 0, 200 + 20 * i);

		users[i].block_drain = true;
		file_make(&files[i], 1, true);
		assert_int_equal(user_try(fx, &users[i], &files[i], 0, 1, &opts), 0);
	}
	start = now_ms();
	for (unsigned int i = 0; i < BLOCKERS; i++)
		breaker_open(&b[i], &files[i], O_WRONLY);
	EVENTUALLY(fx, in_drain(users) == MAX_HELPERS);
	atomic_store(block_log, true);
	for (unsigned int i = 0; i < BLOCKERS; i++)
		EVENTUALLY(fx, breaker_done(&b[i]));
	assert_true(now_ms() - start < 3000);
	atomic_store(block_log, false);
	for (unsigned int i = 0; i < BLOCKERS; i++)
		atomic_store(&users[i].block_drain, false);
	for (unsigned int i = 0; i < BLOCKERS; i++) {
		EVENTUALLY(fx, atomic_load(&users[i].releases) == 1);
		assert_int_equal(atomic_load(&users[i].result), -ETIMEDOUT);
		assert_true(atomic_load(&users[i].drains) <= 1);
		breaker_end(&b[i]);
		user_dereg(&users[i]);
		file_end(&files[i]);
	}
}

static void helpers__more_blocked_than_threads(void **state)
{
	atomic_bool unused;

	block_all(*state, &unused);
}

/* The one thread that is left does not go into the log function. */
static void helpers__and_the_log_blocks_too(void **state)
{
	static atomic_bool block;
	struct fix *fx = *state;

	assert_int_equal(daxlease_ctx_set_log(fx->ctx, wait_in_log, DAXLEASE_LOG_INFO, &block), 0);
	block_all(fx, &block);
}

static void helpers__gone_soon_after(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;
	unsigned int threads = count_threads();

	user_reg(fx, &u, 0, 0);
	break_and_release(fx, &u, &b);
	assert_true(count_threads() > threads); /* more if one writes log lines meanwhile */
	EVENTUALLY(fx, count_threads() == threads);
	breaker_end(&b);
	assert_int_equal(daxlease_mr_regain(u.mr), 0);
	/* And made again. */
	break_and_release(fx, &u, &b);
	breaker_end(&b);
	user_dereg(&u);
}

static void helpers__none_to_be_had(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	fault_arm_name("sys_thread_create", 1, 1000);
	break_and_release(fx, &u, &b);
	assert_true(fix_lines(fx, DAXLEASE_LOG_WARNING) >= 1);
	breaker_end(&b);
	EVENTUALLY(fx, atomic_load(&u.regains) == 1);
	user_dereg(&u);
}

static void *drained(void *arg)
{
	struct user *u = arg;

	atomic_store(&u->seen, daxlease_mr_drained(u->mr));
	return NULL;
}

/*
 * A helper does the release and the first attempts to have the lease again, while
 * the watch thread sleeps on until the end of the drain budget; when the helper goes,
 * the attempts go on.
 */
static void helpers__retries_go_on_without_them(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	struct breaker b;
	pthread_t thread;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 30000);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, atomic_load(&u.drains) == 1);
	sleep_ms(20);
	fault_slow_watch(50);
	fake_shut_dereg();
	assert_int_equal(pthread_create(&thread, NULL, drained, &u), 0);
	EVENTUALLY(fx, fake_waiting() == 1);
	sleep_ms(80);
	fault_slow_watch(0);
	fake_open_dereg();
	pthread_join(thread, NULL);
	EVENTUALLY(fx, breaker_done(&b));
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	sleep_ms(900);
	breaker_end(&b);
	assert_true(WAIT_MS(fx, 2500, atomic_load(&u.regains) == 1));
	user_dereg(&u);
}

/* ------------------------------------------------------------------------- */
/* Signals of others */

static void signals__of_others_do_no_harm(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;
	union sigval value = { .sival_int = 7 };
	sigset_t set, old;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMAX - 2);
	sigaddset(&set, SIGIO);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	user_reg(fx, &u, 0, 0);
	assert_int_equal(sigqueue(getpid(), SIGRTMAX - 2, value), 0);
	assert_int_equal(kill(getpid(), SIGIO), 0);
	NOT_FOR_MS(fx, 20, user_state(&u) != DAXLEASE_STATE_ACTIVE);
	break_and_release(fx, &u, &b);
	breaker_end(&b);
	user_dereg(&u);
	while (sigtimedwait(&set, NULL, &(struct timespec){ 0 }) > 0)
		;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void signals__wake_up_when_the_queue_is_full(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct rlimit old;

	user_reg(fx, &u, 0, 0);
	limit_signals(&old, 0);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(daxlease_mr_recall(u.mr), 0);
		assert_int_equal(daxlease_mr_regain(u.mr), 0);
	}
	assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &old), 0);
	user_dereg(&u);
}

static void signals__our_own_are_not_counted(void **state)
{
	struct daxlease_stats stats;
	struct fix *fx = *state;
	struct user u = { 0 };

	user_reg(fx, &u, 0, 0);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(daxlease_mr_recall(u.mr), 0);
		assert_int_equal(daxlease_mr_regain(u.mr), 0);
	}
	fix_stats(fx, &stats);
	assert_int_equal(stats.signals + stats.signal_overflows, 0);
	user_dereg(&u);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_ALL_MODES(storm__every_signal_is_queued),
		IN_ALL_MODES(storm__no_signal_is_queued),
		IN_THREAD(storm__queue_full_in_the_middle),
		IN_THREAD(storm__while_a_callback_blocks),
		IN_THREAD(helpers__more_blocked_than_threads),
		IN_THREAD(helpers__and_the_log_blocks_too),
		IN_THREAD(helpers__gone_soon_after),
		IN_THREAD(helpers__none_to_be_had),
		IN_THREAD(helpers__retries_go_on_without_them),
		IN_THREAD(signals__of_others_do_no_harm),
		IN_MODE(signals__of_others_do_no_harm, loop),
		IN_THREAD(signals__wake_up_when_the_queue_is_full),
		IN_MODE(signals__wake_up_when_the_queue_is_full, loop),
		IN_THREAD(signals__our_own_are_not_counted),
		IN_MODE(signals__our_own_are_not_counted, loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
