// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "fake_verbs.h"
#include "fault.h"
#include "support.h"

struct lines {
	atomic_uint n;
	enum daxlease_log_level level;
};

static void count_line(enum daxlease_log_level level, const char *line, void *userdata)
{
	struct lines *lines = userdata;

	(void)line;
	lines->level = level;
	atomic_fetch_add(&lines->n, 1);
}

static int setup(void **state)
{
	static struct lines lines;

	(void)state;
	lines = (struct lines){ 0 };
	fault_reset();
	fake_reset();
	*state = &lines;
	return 0;
}

static struct daxlease_ctx_opts options(struct lines *lines, enum daxlease_mode mode)
{
	return (struct daxlease_ctx_opts){ .size = sizeof(struct daxlease_ctx_opts),
					   .mode = mode,
					   .log_fn = count_line,
					   .log_level = DAXLEASE_LOG_DEBUG,
					   .log_userdata = lines };
}

static void refused(const struct daxlease_ctx_opts *opts, int err)
{
	struct daxlease_ctx *const untouched = (void *)0x10;
	struct daxlease_ctx *ctx = untouched;
	unsigned int fds = count_fds(), threads = count_threads();

	assert_int_equal(daxlease_ctx_new(opts, &ctx), err);
	assert_ptr_equal(ctx, untouched);
	assert_int_equal(count_fds(), fds);
	assert_int_equal(count_threads(), threads);
}

static void ctx_new__defaults(void **state)
{
	unsigned int fds = count_fds(), threads = count_threads();
	struct daxlease_ctx *ctx = NULL;

	(void)state;
	assert_int_equal(daxlease_ctx_new(NULL, &ctx), 0);
	assert_int_equal(count_threads(), threads + 1);
	assert_int_equal(daxlease_ctx_get_fd(ctx), -EINVAL);
	assert_int_equal(daxlease_ctx_dispatch(ctx), -EINVAL);
	assert_int_equal(daxlease_ctx_notify(ctx, &(siginfo_t){ 0 }), -EINVAL);
	assert_int_equal(daxlease_ctx_free(ctx), 0);
	assert_int_equal(count_fds(), fds);
	assert_int_equal(daxlease_ctx_free(NULL), 0);
	assert_int_equal(daxlease_ctx_new(NULL, NULL), -EINVAL);
}

static void ctx_new__bad_options(void **state)
{
	struct lines *lines = *state;
	struct daxlease_ctx_opts opts = options(lines, DAXLEASE_MODE_THREAD);

	opts.mode = DAXLEASE_MODE_SIGNAL + 1;
	refused(&opts, -EINVAL);
	assert_int_equal(lines->n, 1);
	assert_int_equal(lines->level, DAXLEASE_LOG_ERR);
	opts = options(lines, DAXLEASE_MODE_THREAD);
	opts.kind = DAXLEASE_KIND_LEASE + 1;
	refused(&opts, -EINVAL);
	opts.kind = DAXLEASE_KIND_NONE;
	refused(&opts, -EINVAL);
	opts = options(lines, DAXLEASE_MODE_THREAD);
	opts.signo = -1;
	refused(&opts, -EINVAL);
	opts.signo = SIGRTMAX + 1;
	refused(&opts, -EINVAL);
	opts.signo = SIGUSR1;
	refused(&opts, -EINVAL);
	opts.mode = DAXLEASE_MODE_LOOP;
	refused(&opts, -EINVAL);
	opts.size = 3;
	refused(&opts, -EINVAL);
}

static void ctx_new__options_newer_than_the_library(void **state)
{
	struct newer {
		struct daxlease_ctx_opts opts;
		unsigned long more;
	} newer = { .opts = options(*state, DAXLEASE_MODE_LOOP), .more = 1 };
	struct daxlease_ctx *ctx;

	newer.opts.size = sizeof(newer);
	refused(&newer.opts, -E2BIG);
	newer.more = 0;
	assert_int_equal(daxlease_ctx_new(&newer.opts, &ctx), 0);
	assert_int_equal(daxlease_ctx_free(ctx), 0);
}

static void ctx_new__signals_of_each_mode(void **state)
{
	struct daxlease_ctx_opts opts = options(*state, DAXLEASE_MODE_SIGNAL);
	struct daxlease_ctx *ctx;

	opts.signo = SIGUSR1;
	assert_int_equal(daxlease_ctx_new(&opts, &ctx), 0);
	assert_int_equal(daxlease_ctx_free(ctx), 0);
	opts.mode = DAXLEASE_MODE_THREAD;
	opts.signo = SIGRTMIN + 3;
	assert_int_equal(daxlease_ctx_new(&opts, &ctx), 0);
	assert_int_equal(daxlease_ctx_free(ctx), 0);
}

/* What ctx_new() cannot do without, mode by mode. */
static void ctx_new__each_call_fails(void **state)
{
	static const struct {
		const char *call;
		enum daxlease_mode mode;
		int err;
	} cases[] = {
		{ "sys_calloc", DAXLEASE_MODE_THREAD, -ENOMEM },
		{ "sys_open_maps", DAXLEASE_MODE_THREAD, -ENOENT },
		{ "sys_thread_create", DAXLEASE_MODE_THREAD, -EAGAIN },
		{ "sys_eventfd", DAXLEASE_MODE_LOOP, -EMFILE },
		{ "sys_thread_create", DAXLEASE_MODE_LOOP, -EAGAIN },
		{ "sys_eventfd", DAXLEASE_MODE_SIGNAL, -EMFILE },
		{ "sys_timerfd", DAXLEASE_MODE_SIGNAL, -ENFILE },
		{ "sys_epoll", DAXLEASE_MODE_SIGNAL, -EMFILE },
	};
	struct lines *lines = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct daxlease_ctx_opts opts = options(lines, cases[i].mode);

		fault_arm_name(cases[i].call, 1, 1);
		refused(&opts, cases[i].err);
	}
}

static void ctx_new__without_break_time(void **state)
{
	struct lines *lines = *state;
	struct daxlease_ctx_opts opts = options(lines, DAXLEASE_MODE_LOOP);
	struct daxlease_ctx *ctx;

	fault_arm_name("sys_open_break_time", 1, 1);
	assert_int_equal(daxlease_ctx_new(&opts, &ctx), 0);
	assert_int_equal(lines->n, 1);
	assert_int_equal(lines->level, DAXLEASE_LOG_WARNING);
	assert_int_equal(daxlease_ctx_free(ctx), 0);
}

static void ctx_free__regions_exist(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	user_reg(fx, &u, 0, 0);
	fix_forget_log(fx);
	assert_int_equal(daxlease_ctx_free(fx->ctx), -EBUSY);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 1);
	assert_int_equal(user_state(&u), DAXLEASE_STATE_ACTIVE);
	user_dereg(&u);
}

static struct daxlease_ctx *callback_ctx;

static void call_ctx(struct user *u)
{
	struct daxlease_stats stats = { .size = sizeof(stats) };
	int err = daxlease_ctx_dispatch(callback_ctx);

	u->seen = daxlease_ctx_free(callback_ctx) == -EDEADLK &&
		  (err == -EDEADLK || err == -EINVAL) &&
		  daxlease_ctx_get_stats(callback_ctx, &stats) == 0;
}

static void ctx__calls_from_a_callback(void **state)
{
	struct fix *fx = *state;
	struct user u = { .on_drain = call_ctx };
	struct breaker b;

	callback_ctx = fx->ctx;
	user_reg(fx, &u, 0, 0);
	break_and_release(fx, &u, &b);
	assert_int_equal(atomic_load(&u.seen), 1);
	breaker_end(&b);
	user_dereg(&u);
}

static void ctx__null(void **state)
{
	struct daxlease_stats stats = { .size = sizeof(stats) };

	(void)state;
	assert_int_equal(daxlease_ctx_get_fd(NULL), -EINVAL);
	assert_int_equal(daxlease_ctx_dispatch(NULL), -EINVAL);
	assert_int_equal(daxlease_ctx_notify(NULL, NULL), -EINVAL);
	assert_int_equal(daxlease_ctx_set_log(NULL, NULL, 0, NULL), -EINVAL);
	assert_int_equal(daxlease_ctx_get_stats(NULL, &stats), -EINVAL);
}

static void stats__sizes(void **state)
{
	struct fix *fx = *state;
	struct daxlease_stats stats = { .size = 4, .regions = 77 };

	assert_int_equal(daxlease_ctx_get_stats(fx->ctx, NULL), -EINVAL);
	assert_int_equal(daxlease_ctx_get_stats(fx->ctx, &stats), -EINVAL);
	assert_int_equal(stats.regions, 77);
	stats = (struct daxlease_stats){ .size = offsetof(struct daxlease_stats, leases),
					 .regions = 77,
					 .leases = 88 };
	assert_int_equal(daxlease_ctx_get_stats(fx->ctx, &stats), 0);
	assert_int_equal(stats.regions, 0);
	assert_int_equal(stats.leases, 88);
}

static void set_log__replaces_and_silences(void **state)
{
	struct fix *fx = *state;
	struct lines lines = { 0 };
	struct daxlease_mr *mr = NULL;

	assert_int_equal(daxlease_ctx_set_log(fx->ctx, count_line, DAXLEASE_LOG_ERR, &lines), 0);
	fix_forget_log(fx);
	assert_int_equal(daxlease_reg_mr(fx->ctx, &fake_pd, -1, NULL, 0, 0, NULL, &mr), -EINVAL);
	assert_int_equal(atomic_load(&lines.n), 1);
	assert_int_equal(atomic_load(&fx->nlines), 0);
	assert_int_equal(daxlease_ctx_set_log(fx->ctx, NULL, DAXLEASE_LOG_DEBUG, NULL), 0);
	assert_int_equal(daxlease_reg_mr(fx->ctx, &fake_pd, -1, NULL, 0, 0, NULL, &mr), -EINVAL);
	assert_int_equal(atomic_load(&lines.n), 1);
}

static bool readable(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, 0) == 1;
}

static void dispatch__descriptor_is_readable_when_due(void **state)
{
	struct fix *fx = *state;
	int fd = daxlease_ctx_get_fd(fx->ctx);
	struct user u = { 0 };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	while (readable(fd))
		assert_true(daxlease_ctx_dispatch(fx->ctx) == 0);
	breaker_open(&b, &fx->file, O_WRONLY);
	fx->idle = true;
	EVENTUALLY(fx, readable(fd));
	assert_int_equal(atomic_load(&u.drains), 0);
	assert_true(daxlease_ctx_dispatch(fx->ctx) >= 1);
	assert_int_equal(atomic_load(&u.drains), 1);
	fx->idle = false;
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	EVENTUALLY(fx, breaker_done(&b));
	breaker_end(&b);
	user_dereg(&u);
}

static void notify__bad_arguments(void **state)
{
	struct fix *fx = *state;
	siginfo_t si = { 0 };

	assert_int_equal(daxlease_ctx_notify(fx->ctx, NULL), -EINVAL);
	errno = 4711;
	assert_int_equal(daxlease_ctx_notify(fx->ctx, &si), 0);
	assert_int_equal(errno, 4711);
	assert_true(readable(daxlease_ctx_get_fd(fx->ctx)));
	/* Somebody else's signal does no harm. */
	assert_int_equal(daxlease_ctx_dispatch(fx->ctx), 0);
	assert_false(readable(daxlease_ctx_get_fd(fx->ctx)));
}

#define CASE(fn) cmocka_unit_test_setup(fn, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(ctx_new__defaults),
		CASE(ctx_new__bad_options),
		CASE(ctx_new__options_newer_than_the_library),
		CASE(ctx_new__signals_of_each_mode),
		CASE(ctx_new__each_call_fails),
		CASE(ctx_new__without_break_time),
		CASE(ctx__null),
		IN_ALL_MODES(ctx_free__regions_exist),
		IN_ALL_MODES(ctx__calls_from_a_callback),
		IN_THREAD(stats__sizes),
		IN_ALL_MODES(set_log__replaces_and_silences),
		IN_MODE(dispatch__descriptor_is_readable_when_due, loop),
		IN_MODE(dispatch__descriptor_is_readable_when_due, signal),
		IN_MODE(notify__bad_arguments, signal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
