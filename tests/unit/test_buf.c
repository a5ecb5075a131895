// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Rings and their buffers, with rings that fake_uring.c makes up. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <daxlease/uring.h>

#include "fake_layout.h"
#include "fake_uring.h"
#include "fake_verbs.h"
#include "fault.h"
#include "support.h"
#include "sys.h"

#define SLOTS 4u
#define SLOT 2u
#define BUDGET_MS 200u
#define LONG_MS 5000u

/* ------------------------------------------------------------------------- */
/* The stage: a context, a file under layout leases, a ring, a buffer and its user */

struct holder {
	struct daxlease_buf *buf;
	atomic_int drain_answer;
	atomic_uint drains, releases, regains, regain_errors;
	atomic_int result, cause;
	struct daxlease_buf_regain regain;
};

static struct {
	struct fix *fx;
	int fd;
	struct daxlease_ring *ring;
	struct holder a, b;
	unsigned int reaped;
} st;

static int on_drain(struct daxlease_buf *buf, const struct daxlease_break *brk, void *userdata)
{
	struct holder *h = userdata;

	assert_int_equal(daxlease_buf_get_state(buf), DAXLEASE_STATE_DRAINING);
	assert_int_equal(daxlease_dereg_buf(buf), -EDEADLK);
	assert_int_equal(daxlease_ring_free(st.ring), -EDEADLK);
	atomic_store(&h->cause, (int)brk->cause);
	atomic_fetch_add(&h->drains, 1);
	return atomic_load(&h->drain_answer);
}

static void on_release(struct daxlease_buf *buf, int result, void *userdata)
{
	struct holder *h = userdata;

	assert_int_equal(daxlease_buf_get_state(buf), DAXLEASE_STATE_RELEASED);
	atomic_store(&h->result, result);
	atomic_fetch_add(&h->releases, 1);
}

static void on_regain(struct daxlease_buf *buf, const struct daxlease_buf_regain *regain,
		      void *userdata)
{
	struct holder *h = userdata;

	(void)buf;
	h->regain = *regain;
	atomic_fetch_add(regain->error ? &h->regain_errors : &h->regains, 1);
}

static struct daxlease_buf_opts opts_of(struct holder *h, unsigned int flags, uint32_t budget_ms)
{
	return (struct daxlease_buf_opts){
		.size = sizeof(struct daxlease_buf_opts),
		.flags = flags,
		.drain_budget_ms = budget_ms,
		.drain = on_drain,
		.release = on_release,
		.regain = on_regain,
		.userdata = h,
	};
}

static int setup_ring(void **state, bool single)
{
	int err = fix_setup(state);

	if (err)
		return err;
	memset(&st, 0, sizeof(st));
	st.fx = *state;
	fake_layout_emulate(FAKE_SETLAYOUT | FAKE_RFC);
	fake_layout_map(&st.fx->file);
	st.fd = fake_ring_make(SLOTS, single);
	return 0;
}

static int setup(void **state)
{
	int err = setup_ring(state, false);

	return err ? err : daxlease_ring_new(st.fx->ctx, st.fd, &st.ring);
}

static int setup_single(void **state)
{
	int err = setup_ring(state, true);

	return err ? err : daxlease_ring_new(st.fx->ctx, st.fd, &st.ring);
}

static int setup_bare(void **state)
{
	return setup_ring(state, false);
}

static int teardown(void **state)
{
	uint64_t tag;

	if (daxlease_ring_free(st.ring))
		return -1;
	for (unsigned int i = 0; i < SLOTS; i++) {
		if (fake_ring_slot(st.fd, i))
			return -1;
	}
	while (fake_ring_cqe(st.fd, &tag))
		;
	fake_ring_close(st.fd);
	if (fake_layout_leases(NULL))
		return -1;
	return fix_teardown(state);
}

static int reg_at(struct holder *h, unsigned int slot, const struct file *f, size_t pages,
		  const struct daxlease_buf_opts *opts)
{
	return daxlease_reg_buf(st.ring, slot, f->fd, f->map, pages * PAGE, opts, &h->buf);
}

static void reg(struct holder *h, unsigned int slot, unsigned int flags, uint32_t budget_ms)
{
	struct daxlease_buf_opts opts = opts_of(h, flags, budget_ms);

	assert_int_equal(reg_at(h, slot, &st.fx->file, 2, &opts), 0);
	assert_ptr_equal(fake_ring_slot(st.fd, slot), st.fx->file.map);
}

static void dereg(struct holder *h)
{
	assert_int_equal(daxlease_dereg_buf(h->buf), 0);
	h->buf = NULL;
}

static enum daxlease_state state_of(const struct holder *h)
{
	return daxlease_buf_get_state(h->buf);
}

static struct daxlease_buf_info info_of(const struct holder *h)
{
	struct daxlease_buf_info info = { .size = sizeof(info) };

	assert_int_equal(daxlease_buf_get_info(h->buf, &info), 0);
	return info;
}

static struct daxlease_stats stats_of(void)
{
	struct daxlease_stats stats;

	fix_stats(st.fx, &stats);
	return stats;
}

/* What a program does: enters the kernel, and reaps. How many there were so far. */
static unsigned int reap(void)
{
	uint64_t tag;

	sys_uring_flush(st.fd);
	while (fake_ring_cqe(st.fd, &tag)) {
		assert_true(daxlease_is_cqe(tag));
		assert_int_equal(daxlease_ring_cqe(st.ring, tag), 1);
		st.reaped++;
	}
	return st.reaped;
}

static void refused(const struct file *f, unsigned int slot, size_t pages,
		    const struct daxlease_buf_opts *opts, int err, const char *text)
{
	struct holder h = { 0 };

	fix_forget_log(st.fx);
	assert_int_equal(reg_at(&h, slot, f, pages, opts), err);
	assert_null(h.buf);
	assert_int_equal(fix_lines(st.fx, DAXLEASE_LOG_ERR), 1);
	assert_non_null(strstr(st.fx->lines[0], text));
	assert_null(slot < SLOTS ? fake_ring_slot(st.fd, slot) : NULL);
}

/* ------------------------------------------------------------------------- */
/* Rings */

static void ring__errors_by_name(void **state)
{
	struct fix *fx = *state;
	struct daxlease_ring *ring = (void *)0x10;
	int fd = fake_ring_make(SLOTS, false);

	assert_int_equal(daxlease_ring_new(NULL, fd, &ring), -EINVAL);
	assert_int_equal(daxlease_ring_new(fx->ctx, fd, NULL), -EINVAL);
	assert_true(daxlease_ring_new(fx->ctx, -1, &ring) < 0); /* -EBADF, if it is not forbidden */
	fake_rings_forbid(-EPERM);
	assert_int_equal(daxlease_ring_new(fx->ctx, fd, &ring), -EPERM);
	fake_rings_forbid(-EACCES);
	assert_int_equal(daxlease_ring_new(fx->ctx, fd, &ring), -EPERM);
	fake_rings_forbid(-ENOSYS);
	assert_int_equal(daxlease_ring_new(fx->ctx, fd, &ring), -ENOSYS);
	fake_rings_forbid(-EOPNOTSUPP); /* so the kernel says of other files */
	assert_int_equal(daxlease_ring_new(fx->ctx, fd, &ring), -EINVAL);
	assert_true(fix_said(fx, "no io_uring"));
	fake_rings_forbid(0);
	fake_ring_disable(fd);
	assert_int_equal(daxlease_ring_new(fx->ctx, fd, &ring), -EINVAL);
	assert_true(fix_said(fx, "io_uring_enable_rings"));
	assert_ptr_equal(ring, (void *)0x10);
	assert_int_equal(daxlease_ring_free(NULL), 0);
	assert_int_equal(daxlease_ring_cqe(NULL, DAXLEASE_CQE_TAG), -EINVAL);
	fake_ring_close(fd);
}

static void ring__each_call_may_fail(void **state)
{
	static const char *const calls[] = { "sys_uring_probe", "sys_uring_flush",
					     "sys_thread_create", "sys_calloc", "sys_dup" };
	struct fix *fx = *state;
	struct daxlease_ring *ring = NULL;
	int fd = fake_ring_make(SLOTS, false);

	for (unsigned int i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		fix_forget_log(fx);
		fault_arm_name(calls[i], 1, 1);
		assert_true(daxlease_ring_new(fx->ctx, fd, &ring) < 0);
		assert_null(ring);
		assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 1);
	}
	fault_arm_name("sys_uring_probe", 2, 1); /* in the thread that is sent */
	assert_true(daxlease_ring_new(fx->ctx, fd, &ring) < 0);
	fault_arm_name(NULL, 0, 0);
	assert_int_equal(daxlease_ring_new(fx->ctx, fd, &ring), 0);
	assert_int_equal(daxlease_ring_free(ring), 0);
	fake_ring_close(fd);
}

static void ring__keeps_the_context(void **state)
{
	struct fix *fx = *state;

	assert_int_equal(daxlease_ctx_free(fx->ctx), -EBUSY);
	assert_true(fix_said(fx, "1 rings exist"));
	reg(&st.a, SLOT, 0, 0);
	assert_int_equal(daxlease_ring_free(st.ring), -EBUSY);
	dereg(&st.a);
}

static void ring__others_completions_are_not_taken(void **state)
{
	(void)state;
	assert_int_equal(daxlease_ring_cqe(st.ring, 0), 0);
	assert_int_equal(daxlease_ring_cqe(st.ring, (uintptr_t)&st), 0);
	assert_int_equal(daxlease_ring_cqe(st.ring, UINT64_MAX), 0);
	assert_false(daxlease_is_cqe(0x7fffffffffff));
	/* Left over, of a buffer that is no more. */
	assert_int_equal(daxlease_ring_cqe(st.ring, DAXLEASE_CQE_TAG | 0xffffffff), 1);
}

static void ring__a_child_has_none(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	reg(&st.a, SLOT, 0, 0);
	pid = fork();
	if (!pid) {
		struct daxlease_buf *buf;
		struct daxlease_ring *ring;
		struct daxlease_buf_info info = { .size = sizeof(info) };
		bool ok;

		fault_after_fork();
		ok = daxlease_ring_new(st.fx->ctx, st.fd, &ring) == -ECHILD &&
		     daxlease_ring_cqe(st.ring, DAXLEASE_CQE_TAG) == -ECHILD &&
		     daxlease_ring_free(st.ring) == -ECHILD &&
		     daxlease_reg_buf(st.ring, 0, -1, &st, 1, NULL, &buf) == -ECHILD &&
		     daxlease_dereg_buf(st.a.buf) == -ECHILD &&
		     daxlease_buf_drained(st.a.buf) == -ECHILD &&
		     daxlease_buf_recall(st.a.buf) == -ECHILD &&
		     daxlease_buf_regain(st.a.buf) == -ECHILD &&
		     daxlease_buf_get_info(st.a.buf, &info) == -ECHILD &&
		     daxlease_buf_get_state(st.a.buf) == DAXLEASE_STATE_RELEASED;
		_exit(ok ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	dereg(&st.a);
}

/* ------------------------------------------------------------------------- */
/* Registering */

static void reg__whole_life(void **state)
{
	struct daxlease_buf_info info;

	(void)state;
	reg(&st.a, SLOT, 0, 0);
	info = info_of(&st.a);
	assert_int_equal(info.state, DAXLEASE_STATE_ACTIVE);
	assert_int_equal(info.kind, DAXLEASE_KIND_LAYOUT);
	assert_int_equal(info.slot, SLOT);
	assert_int_equal(info.registered, 2 * PAGE);
	assert_int_equal(info.length, 2 * PAGE);
	assert_ptr_equal(info.addr, st.fx->file.map);
	assert_int_equal(info.generation, 1);
	assert_true(info.lease_fd >= 0);
	assert_ptr_equal(daxlease_buf_get_userdata(st.a.buf), &st.a);
	assert_int_equal(fake_layout_leases(&st.fx->file), 1);
	assert_int_equal(stats_of().regions, 1);
	dereg(&st.a);
	assert_null(fake_ring_slot(st.fd, SLOT));
	assert_int_equal(fake_layout_leases(&st.fx->file), 0);
	assert_int_equal(stats_of().regions, 0);
	assert_int_equal(atomic_load(&st.a.releases), 0);
	assert_int_equal(reap(), 1);
}

static void reg__plain_memory_passes(void **state)
{
	static char memory[2 * PAGE] __attribute__((aligned(PAGE)));
	const struct file plain = { .fd = -1, .map = memory, .size = sizeof(memory) };
	struct daxlease_buf_opts opts = opts_of(&st.a, 0, 0);

	(void)state;
	assert_int_equal(reg_at(&st.a, SLOT, &plain, 2, &opts), 0);
	assert_int_equal(info_of(&st.a).kind, DAXLEASE_KIND_NONE);
	assert_int_equal(info_of(&st.a).lease_fd, -1);
	assert_int_equal(daxlease_buf_recall(st.a.buf), -EOPNOTSUPP);
	/* Nobody is told of its end, nor waits for it. */
	assert_true(fake_ring_use(st.fd, SLOT));
	dereg(&st.a);
	fake_ring_end(st.fd);
	assert_int_equal(reap(), 0);
	opts.flags = DAXLEASE_MR_EXCLUSIVE;
	refused(&plain, SLOT, 2, &opts, -EOPNOTSUPP, "exclusive");
	fault_arm_name("sys_uring_set_slot", 1, 1);
	refused(&plain, SLOT, 2, NULL, -EIO, "plain memory");
}

static void reg__errors_by_name(void **state)
{
	struct fix *fx = *state;
	struct daxlease_buf_opts opts = opts_of(&st.b, 0, 0);
	struct daxlease_buf *buf = NULL;
	struct {
		struct daxlease_buf_opts opts;
		int newer;
	} more = { .newer = 1 };
	struct file readonly;
	int fd;

	assert_int_equal(daxlease_reg_buf(NULL, 0, 0, &opts, 1, NULL, &buf), -EINVAL);
	assert_int_equal(daxlease_reg_buf(st.ring, 0, 0, &opts, 1, NULL, NULL), -EINVAL);
	assert_int_equal(daxlease_reg_buf(st.ring, 0, 0, &opts, 0, NULL, &buf), -EINVAL);
	assert_int_equal(daxlease_dereg_buf(NULL), 0);
	assert_null(daxlease_buf_get_userdata(NULL));
	assert_int_equal(daxlease_buf_drained(NULL), -EINVAL);
	refused(&fx->file, SLOTS, 1, NULL, -EINVAL, "beyond the ring's buffer table");
	opts.cancel = 99;
	refused(&fx->file, SLOT, 1, &opts, -EINVAL, "unknown cancel");
	opts.cancel = 0;
	opts.flags = 1u << 31;
	refused(&fx->file, SLOT, 1, &opts, -EINVAL, "unknown flags");
	opts.flags = 0;
	opts.kind = DAXLEASE_KIND_LEASE;
	refused(&fx->file, SLOT, 1, &opts, -EOPNOTSUPP, "does not pin");
	opts.size = 1;
	refused(&fx->file, SLOT, 1, &opts, -EINVAL, "size");
	more.opts.size = sizeof(more);
	refused(&fx->file, SLOT, 1, &more.opts, -E2BIG, "newer");
	fault_arm_name("sys_calloc", 1, 1);
	refused(&fx->file, SLOT, 1, NULL, -ENOMEM, "out of memory");
	fake_rings_forbid(-EPERM);
	refused(&fx->file, SLOT, 1, NULL, -EPERM, "forbidden");
	fake_rings_forbid(-ENOMEM);
	fault_memlock(1);
	refused(&fx->file, SLOT, 1, NULL, -ENOMEM, "RLIMIT_MEMLOCK");
	fault_memlock(UINT64_MAX);
	refused(&fx->file, SLOT, 1, NULL, -ENOMEM, "out of memory");
	fake_rings_forbid(-EOPNOTSUPP);
	refused(&fx->file, SLOT, 1, NULL, -EOPNOTSUPP, "this very descriptor");
	fake_rings_forbid(0);
	fault_arm_name("sys_uring_set_slot", 1, 1);
	refused(&fx->file, SLOT, 1, NULL, -EIO, "FS-DAX");

	reg(&st.a, SLOT, 0, 0);
	fix_forget_log(fx);
	assert_int_equal(reg_at(&st.b, SLOT, &fx->file, 1, NULL), -EBUSY);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 1);
	dereg(&st.a);
	reap();

	readonly = fx->file;
	readonly.fd = fd = open(fx->file.path, O_RDONLY | O_CLOEXEC);
	file_make_readonly(&readonly, 2);
	fake_layout_map(&readonly);
	refused(&readonly, SLOT, 1, NULL, -EOPNOTSUPP, "read-only mapping");
	file_end(&readonly);
	close(fd);
}

static void reg__no_table(void **state)
{
	struct daxlease_ring *first = st.ring;
	int fd = fake_ring_make(0, false);

	(void)state;
	assert_int_equal(daxlease_ring_new(st.fx->ctx, fd, &st.ring), 0);
	fix_forget_log(st.fx);
	assert_int_equal(reg_at(&st.a, SLOT, &st.fx->file, 1, NULL), -ENXIO);
	assert_true(fix_said(st.fx, "io_uring_register_buffers_sparse"));
	assert_int_equal(daxlease_ring_free(st.ring), 0);
	st.ring = first;
	fake_ring_close(fd);
}

static void reg__without_layout_leases(void **state)
{
	struct fix *fx = *state;

	fake_layout_emulate(0);
	refused(&fx->file, SLOT, 1, NULL, -EOPNOTSUPP, "only under a layout lease");
	assert_int_equal(file_lease(&fx->file), F_UNLCK);
	fake_layout_emulate(FAKE_SETLAYOUT);
}

static void reg__beside_a_kind_that_does_not_pin(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct daxlease_mr_opts opts = user_opts(&u, 0, 0);

	opts.kind = DAXLEASE_KIND_LEASE;
	assert_int_equal(user_try(fx, &u, &fx->file, 0, 1, &opts), 0);
	refused(&fx->file, SLOT, 1, NULL, -EOPNOTSUPP, "does not pin");
	user_dereg(&u);
}

static void break_before_it_is_pinned(void *arg)
{
	assert_int_equal(fake_layout_break(arg), -EAGAIN);
}

static void reg__a_break_comes_first(void **state)
{
	struct fix *fx = *state;

	fault_before("sys_uring_set_slot", break_before_it_is_pinned, &fx->file);
	assert_int_equal(reg_at(&st.a, SLOT, &fx->file, 1, NULL), -EAGAIN);
	assert_false(fake_layout_waits(&fx->file));
}

/* ------------------------------------------------------------------------- */
/* Breaks */

static void broken(void)
{
	assert_int_equal(fake_layout_break(&st.fx->file), -EAGAIN);
}

#define WAITS() fake_layout_waits(&st.fx->file)
#define RELEASED(h) atomic_load(&(h)->releases)

/* Nothing is under way, and the program hands nothing on. */
static void break__of_an_idle_buffer(void **state)
{
	struct fix *fx = *state;
	struct daxlease_stats stats;

	reg(&st.a, SLOT, 0, LONG_MS);
	broken();
	EVENTUALLY(fx, RELEASED(&st.a) == 1);
	assert_false(WAITS());
	assert_int_equal(atomic_load(&st.a.drains), 1);
	assert_int_equal(atomic_load(&st.a.cause), DAXLEASE_CAUSE_BREAK);
	assert_int_equal(atomic_load(&st.a.result), 0);
	assert_null(fake_ring_slot(st.fd, SLOT));
	stats = stats_of();
	assert_int_equal(stats.released, 1);
	assert_int_equal(stats.overruns, 0);
	assert_true(stats.drain_max_ns < LONG_MS * 1000000ull / 2);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 0);
	dereg(&st.a);
}

static void waits_for_requests(struct fix *fx, bool hand_on)
{
	reg(&st.a, SLOT, 0, LONG_MS);
	assert_true(fake_ring_use(st.fd, SLOT));
	broken();
	EVENTUALLY(fx, state_of(&st.a) == DAXLEASE_STATE_DEREGISTERING);
	EVENTUALLY(fx, !fake_ring_slot(st.fd, SLOT));
	NOT_FOR_MS(fx, 50, !WAITS());
	assert_int_equal(info_of(&st.a).registered, 0);
	fake_ring_end(st.fd);
	if (hand_on)
		EVENTUALLY(fx, reap() == 1);
	else
		sys_uring_flush(st.fd);
	EVENTUALLY(fx, RELEASED(&st.a) == 1);
	assert_false(WAITS());
	assert_int_equal(atomic_load(&st.a.result), 0);
	assert_int_equal(fake_ring_cancels(st.fd), 0);
	assert_int_equal(stats_of().overruns, 0);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 0);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_WARNING), 0);
	dereg(&st.a);
}

static void break__waits_for_requests(void **state)
{
	waits_for_requests(*state, true);
}

static void break__asks_the_kernel_if_it_is_not_told(void **state)
{
	waits_for_requests(*state, false);
}

static void break__pending(void **state)
{
	struct fix *fx = *state;

	atomic_store(&st.a.drain_answer, DAXLEASE_PENDING);
	reg(&st.a, SLOT, 0, LONG_MS);
	assert_int_equal(daxlease_buf_drained(st.a.buf), -EINVAL);
	broken();
	EVENTUALLY(fx, atomic_load(&st.a.drains) == 1);
	NOT_FOR_MS(fx, 30, !fake_ring_slot(st.fd, SLOT));
	assert_int_equal(info_of(&st.a).registered, 2 * PAGE);
	assert_int_equal(daxlease_buf_drained(st.a.buf), 0);
	EVENTUALLY(fx, RELEASED(&st.a) == 1);
	assert_int_equal(atomic_load(&st.a.result), 0);
	dereg(&st.a);
}

/* It does not stop, or requests do not end: past the budget they are cancelled. */
static void overrun(struct fix *fx, unsigned int resist, struct daxlease_buf_opts opts)
{
	uint64_t user_data;
	int fd;

	assert_int_equal(reg_at(&st.a, SLOT, &fx->file, 2, &opts), 0);
	assert_true(fake_ring_use(st.fd, SLOT));
	fake_ring_resist(st.fd, resist);
	broken();
	EVENTUALLY(fx, RELEASED(&st.a) == 1);
	assert_false(WAITS());
	assert_int_equal(atomic_load(&st.a.result), -ETIMEDOUT);
	assert_int_equal(stats_of().overruns, 1);
	assert_int_equal(stats_of().released, 0);
	assert_int_equal(fake_ring_cancels(st.fd), resist + 1);
	assert_int_equal(fake_ring_cancelled(&fd, &user_data), opts.cancel);
	assert_int_equal(fd, opts.cancel_fd);
	assert_int_equal(user_data, opts.cancel_user_data);
	EVENTUALLY(fx, fix_lines(fx, DAXLEASE_LOG_WARNING) >= 1);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_WARNING), 1);
	dereg(&st.a);
}

static void break__cancels_past_the_budget(void **state)
{
	struct daxlease_buf_opts opts = opts_of(&st.a, 0, BUDGET_MS);
	uint64_t start = now_ms();

	overrun(*state, 0, opts);
	assert_true(now_ms() - start >= BUDGET_MS - 1);
}

static void break__cancels_until_it_helps(void **state)
{
	struct daxlease_buf_opts opts = opts_of(&st.a, 0, BUDGET_MS);

	opts.cancel = DAXLEASE_CANCEL_FD;
	opts.cancel_fd = 17;
	overrun(*state, 3, opts);
}

static void break__cancels_what_does_not_stop(void **state)
{
	struct daxlease_buf_opts opts = opts_of(&st.a, 0, BUDGET_MS);

	opts.cancel = DAXLEASE_CANCEL_USER_DATA;
	opts.cancel_user_data = 0x1234;
	atomic_store(&st.a.drain_answer, DAXLEASE_PENDING);
	overrun(*state, 0, opts);
	assert_int_equal(atomic_load(&st.a.drains), 1);
}

static void break__cancels_at_once_if_it_cannot_stop(void **state)
{
	struct daxlease_buf_opts opts = opts_of(&st.a, 0, LONG_MS);
	uint64_t start = now_ms();

	opts.cancel = DAXLEASE_CANCEL_ANY;
	atomic_store(&st.a.drain_answer, -EIO);
	overrun(*state, 0, opts);
	assert_true(now_ms() - start < LONG_MS / 2);
}

static void break__cancelling_fails(void **state)
{
	struct fix *fx = *state;

	fault_arm_name("sys_uring_cancel", 1, 2);
	reg(&st.a, SLOT, 0, BUDGET_MS);
	assert_true(fake_ring_use(st.fd, SLOT));
	broken();
	EVENTUALLY(fx, RELEASED(&st.a) == 1);
	assert_true(fix_said(fx, "could not be cancelled"));
	assert_int_equal(stats_of().overruns, 1);
	dereg(&st.a);
}

static void break__emptying_fails(void **state)
{
	struct fix *fx = *state;

	fault_arm_name("sys_uring_set_slot(NULL)", 1, 3);
	reg(&st.a, SLOT, 0, LONG_MS);
	broken();
	EVENTUALLY(fx, RELEASED(&st.a) == 1);
	assert_int_equal(stats_of().dereg_failures, 3);
	assert_int_equal(atomic_load(&st.a.result), 0);
	assert_true(fix_said(fx, "emptying the slot"));
	dereg(&st.a);
}

static void break__with_an_mr(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	atomic_store(&u.drain_answer, DAXLEASE_PENDING);
	reg(&st.a, SLOT, 0, LONG_MS);
	user_reg(fx, &u, 0, LONG_MS);
	assert_true(fake_ring_use(st.fd, SLOT));
	assert_int_equal(fake_layout_leases(&fx->file), 1);
	broken();
	EVENTUALLY(fx, atomic_load(&u.drains) && !fake_ring_slot(st.fd, SLOT));
	fake_ring_end(st.fd);
	EVENTUALLY(fx, reap());
	NOT_FOR_MS(fx, 30, !WAITS());
	assert_int_equal(daxlease_mr_drained(u.mr), 0);
	EVENTUALLY(fx, RELEASED(&st.a) && atomic_load(&u.releases));
	assert_int_equal(stats_of().breaks, 1);
	assert_int_equal(stats_of().released, 2);
	user_dereg(&u);
	dereg(&st.a);
}

static void break__regained(void **state)
{
	struct fix *fx = *state;
	uint64_t old;

	reg(&st.a, SLOT, DAXLEASE_MR_REGAIN, LONG_MS);
	broken();
	EVENTUALLY(fx, atomic_load(&st.a.regains) == 1);
	assert_int_equal(st.a.regain.length, 2 * PAGE);
	assert_ptr_equal(fake_ring_slot(st.fd, SLOT), fx->file.map);
	assert_int_equal(info_of(&st.a).generation, 2);
	/* What is said of the first one late is not taken for the second. */
	assert_true(fake_ring_cqe(st.fd, &old));
	assert_true(fake_ring_use(st.fd, SLOT));
	assert_int_equal(fake_layout_break(&fx->file), -EAGAIN);
	EVENTUALLY(fx, !fake_ring_slot(st.fd, SLOT));
	assert_int_equal(daxlease_ring_cqe(st.ring, old), 1);
	NOT_FOR_MS(fx, 30, !WAITS());
	fake_ring_end(st.fd);
	EVENTUALLY(fx, reap() == 1);
	EVENTUALLY(fx, atomic_load(&st.a.regains) == 2);
	dereg(&st.a);
}

static void break__regaining_is_given_up(void **state)
{
	struct fix *fx = *state;

	reg(&st.a, SLOT, DAXLEASE_MR_REGAIN, LONG_MS);
	fault_arm_name("sys_uring_set_slot", 1, 1);
	broken();
	EVENTUALLY(fx, atomic_load(&st.a.regain_errors) == 1);
	assert_int_equal(st.a.regain.error, -EIO);
	assert_int_equal(st.a.regain.length, 0);
	dereg(&st.a);
}

static void break__the_program_has_changed_the_slot(void **state)
{
	static char own[PAGE];
	struct fix *fx = *state;

	reg(&st.a, SLOT, 0, LONG_MS);
	fake_ring_replace(st.fd, SLOT, own);
	assert_int_equal(reap(), 1);
	assert_true(fix_said(fx, "changed by the program"));
	broken();
	EVENTUALLY(fx, RELEASED(&st.a) == 1);
	/* It is not ours to empty. */
	assert_ptr_equal(fake_ring_slot(st.fd, SLOT), own);
	dereg(&st.a);
	fake_ring_replace(st.fd, SLOT, NULL);
}

static void recall__and_regain(void **state)
{
	struct fix *fx = *state;

	fix_serve(fx);
	reg(&st.a, SLOT, 0, LONG_MS);
	assert_int_equal(daxlease_buf_recall(st.a.buf), 0);
	assert_int_equal(atomic_load(&st.a.cause), DAXLEASE_CAUSE_RECALL);
	assert_int_equal(fake_layout_leases(NULL), 0);
	assert_null(fake_ring_slot(st.fd, SLOT));
	assert_int_equal(daxlease_buf_regain(st.a.buf), 0);
	assert_int_equal(atomic_load(&st.a.regains), 1);
	assert_int_equal(daxlease_buf_regain(st.a.buf), -EALREADY);
	fix_serve_stop(fx);
	dereg(&st.a);
}

/* ------------------------------------------------------------------------- */
/* Deregistering */

static void dereg__in_use(void **state)
{
	struct fix *fx = *state;

	reg(&st.a, SLOT, 0, LONG_MS);
	assert_true(fake_ring_use(st.fd, SLOT));
	assert_int_equal(daxlease_dereg_buf(st.a.buf), -EBUSY);
	assert_int_equal(state_of(&st.a), DAXLEASE_STATE_DEREGISTERING);
	assert_null(fake_ring_slot(st.fd, SLOT));
	assert_int_equal(daxlease_dereg_buf(st.a.buf), -EBUSY);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 0);
	fake_ring_end(st.fd);
	sys_uring_flush(st.fd);
	dereg(&st.a); /* it is the last one: the kernel is asked */
	assert_int_equal(reap(), 1);
}

static void dereg__in_use_with_others(void **state)
{
	struct fix *fx = *state;

	reg(&st.a, SLOT, 0, LONG_MS);
	reg(&st.b, SLOT + 1, 0, LONG_MS);
	assert_int_equal(daxlease_dereg_buf(st.a.buf), -EBUSY);
	assert_int_equal(daxlease_dereg_buf(st.a.buf), -EBUSY);
	assert_int_equal(reap(), 1);
	dereg(&st.a);
	assert_int_equal(state_of(&st.b), DAXLEASE_STATE_ACTIVE);
	assert_true(fake_ring_use(st.fd, SLOT + 1));
	assert_int_equal(daxlease_dereg_buf(st.b.buf), -EBUSY);
	fake_ring_end(st.fd);
	assert_int_equal(reap(), 2);
	EVENTUALLY(fx, state_of(&st.b) == DAXLEASE_STATE_RELEASED);
	EVENTUALLY(fx, !fake_layout_leases(NULL));
	dereg(&st.b);
}

static void dereg__in_use_at_a_break(void **state)
{
	struct fix *fx = *state;

	reg(&st.a, SLOT, DAXLEASE_MR_REGAIN, BUDGET_MS);
	assert_true(fake_ring_use(st.fd, SLOT));
	assert_int_equal(daxlease_dereg_buf(st.a.buf), -EBUSY);
	broken();
	EVENTUALLY(fx, RELEASED(&st.a) == 1);
	assert_int_equal(atomic_load(&st.a.drains), 0);
	assert_int_equal(atomic_load(&st.a.result), -ETIMEDOUT);
	assert_int_equal(fake_ring_cancels(st.fd), 1);
	NOT_FOR_MS(fx, 30, atomic_load(&st.a.regains));
	dereg(&st.a);
}

static void dereg__fails(void **state)
{
	(void)state;
	reg(&st.a, SLOT, 0, 0);
	fault_arm_name("sys_uring_set_slot(NULL)", 1, 1);
	assert_int_equal(daxlease_dereg_buf(st.a.buf), -EINTR);
	assert_int_equal(state_of(&st.a), DAXLEASE_STATE_ACTIVE);
	assert_int_equal(fake_layout_leases(NULL), 1);
	dereg(&st.a);
}

/* ------------------------------------------------------------------------- */
/* Rings of one thread */

static void *in_another_thread(void *arg)
{
	struct daxlease_ring *ring;
	struct daxlease_buf *buf;

	(void)arg;
	assert_int_equal(daxlease_ring_new(st.fx->ctx, st.fd, &ring), -EPERM);
	assert_int_equal(daxlease_reg_buf(st.ring, 0, -1, st.fx->file.map, PAGE, NULL, &buf),
			 -EPERM);
	assert_int_equal(daxlease_dereg_buf(st.a.buf), -EPERM);
	return NULL;
}

static void single__another_thread_is_refused(void **state)
{
	pthread_t thread;

	(void)state;
	reg(&st.a, SLOT, 0, 0);
	assert_int_equal(pthread_create(&thread, NULL, in_another_thread, NULL), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	dereg(&st.a);
}

static void single__not_with_a_thread_of_the_library(void **state)
{
	struct daxlease_ring *ring = NULL;
	int fd = fake_ring_make(SLOTS, true);

	(void)state;
	assert_int_equal(daxlease_ring_new(st.fx->ctx, fd, &ring), -EINVAL);
	assert_true(fix_said(st.fx, "DAXLEASE_MODE_LOOP"));
	fake_ring_close(fd);
}

/* It does not dispatch for long. Its deadline is kept by counting it, and no more. */
static void single__does_not_dispatch(void **state)
{
	struct fix *fx = *state;

	reg(&st.a, SLOT, 0, BUDGET_MS);
	broken();
	sleep_ms(2 * BUDGET_MS);
	assert_int_equal(atomic_load(&st.a.drains), 0);
	assert_ptr_equal(fake_ring_slot(st.fd, SLOT), fx->file.map);
	assert_true(WAITS());
	EVENTUALLY(fx, RELEASED(&st.a) == 1);
	assert_false(WAITS());
	assert_int_equal(atomic_load(&st.a.result), -ETIMEDOUT);
	assert_int_equal(stats_of().overruns, 1);
	dereg(&st.a);
}

/* Without a drain callback it is the library that is due, and cannot. */
static void single__nothing_to_ask(void **state)
{
	struct fix *fx = *state;
	struct daxlease_buf_opts opts = opts_of(&st.a, DAXLEASE_MR_REGAIN, BUDGET_MS);

	opts.drain = NULL;
	assert_int_equal(reg_at(&st.a, SLOT, &fx->file, 1, &opts), 0);
	broken();
	sleep_ms(20);
	assert_ptr_equal(fake_ring_slot(st.fd, SLOT), fx->file.map);
	EVENTUALLY(fx, RELEASED(&st.a) == 1);
	assert_int_equal(atomic_load(&st.a.result), 0);
	EVENTUALLY(fx, atomic_load(&st.a.regains) == 1);
	fix_forget_log(fx);
	broken();
	sleep_ms(2 * BUDGET_MS);
	EVENTUALLY(fx, RELEASED(&st.a) == 2);
	assert_int_equal(atomic_load(&st.a.result), -ETIMEDOUT);
	EVENTUALLY(fx, atomic_load(&st.a.regains) == 2);
	dereg(&st.a);
}

/* ------------------------------------------------------------------------- */
/* Each single call fails once */

static void one_life(struct fix *fx)
{
	struct daxlease_buf_opts opts = opts_of(&st.a, DAXLEASE_MR_REGAIN, BUDGET_MS);
	int err;

	memset(&st.a, 0, sizeof(st.a));
	st.reaped = 0;
	if (reg_at(&st.a, SLOT, &fx->file, 2, &opts)) {
		assert_non_null(fault_hit());
		return;
	}
	assert_true(fake_ring_use(st.fd, SLOT));
	fake_layout_break(&fx->file);
	EVENTUALLY(fx, !fake_ring_slot(st.fd, SLOT) || atomic_load(&st.a.regains));
	fake_ring_end(st.fd);
	EVENTUALLY(fx, reap() && RELEASED(&st.a) == 1);
	EVENTUALLY(fx, atomic_load(&st.a.regains) || atomic_load(&st.a.regain_errors));
	for (int i = 0; (err = daxlease_dereg_buf(st.a.buf)) && i < 10; i++)
		reap();
	assert_int_equal(err, 0);
}

static void fault__each_call_fails_once(void **state)
{
	struct fix *fx = *state;
	unsigned int nth = 0;
	bool hit = true;

	while (hit && nth < 300) {
		fix_forget_log(fx);
		fault_arm(++nth);
		one_life(fx);
		hit = fault_hit();
		fault_arm(0);
		reap();
		assert_null(fake_ring_slot(st.fd, SLOT));
		EVENTUALLY(fx, !fake_layout_leases(NULL));
		assert_int_equal(stats_of().regions, 0);
	}
	print_message("%u calls failed, one after the other\n", nth - 1);
	assert_true(nth > 10 && nth < 300);
}

/* ------------------------------------------------------------------------- */

/* ------------------------------------------------------------------------- */
/* Calls that need the ring's thread, made in another one */

static struct call {
	int (*fn)(struct daxlease_buf *buf);
	atomic_int ret;
	atomic_bool done;
} call;

static void *make_call(void *arg)
{
	(void)arg;
	atomic_store(&call.ret, call.fn(st.a.buf));
	atomic_store(&call.done, true);
	return NULL;
}

/* Meanwhile the ring's thread does what a program does: it sleeps until there is something. */
static void call_elsewhere(int (*fn)(struct daxlease_buf *buf))
{
	struct pollfd pfd = { .fd = daxlease_ctx_get_fd(st.fx->ctx), .events = POLLIN };
	pthread_t thread;

	call.fn = fn;
	atomic_store(&call.done, false);
	assert_int_equal(pthread_create(&thread, NULL, make_call, NULL), 0);
	for (int i = 0; i < 200 && !atomic_load(&call.done); i++) {
		if (poll(&pfd, 1, 20) == 1)
			daxlease_ctx_dispatch(st.fx->ctx);
	}
	assert_true(atomic_load(&call.done));
	pthread_join(thread, NULL);
}

static void single__recalled_and_regained_elsewhere(void **state)
{
	struct daxlease_buf_opts opts = opts_of(&st.a, 0, 0);

	(void)state;
	opts.drain = NULL;
	assert_int_equal(reg_at(&st.a, SLOT, &st.fx->file, 2, &opts), 0);
	call_elsewhere(daxlease_buf_recall);
	assert_int_equal(atomic_load(&call.ret), 0);
	assert_null(fake_ring_slot(st.fd, SLOT));
	call_elsewhere(daxlease_buf_regain);
	assert_int_equal(atomic_load(&call.ret), 0);
	assert_non_null(fake_ring_slot(st.fd, SLOT));
	assert_int_equal(stats_of().overruns, 0);
	dereg(&st.a);
}

static void *end_later(void *arg)
{
	(void)arg;
	sleep_ms(30);
	fake_ring_end(st.fd);
	return NULL;
}

/* The request ends, and only the thread that waits can find out. */
static void single__recalled_in_its_own_thread(void **state)
{
	pthread_t thread;

	(void)state;
	reg(&st.a, SLOT, 0, 5000);
	assert_true(fake_ring_use(st.fd, SLOT));
	assert_int_equal(pthread_create(&thread, NULL, end_later, NULL), 0);
	assert_int_equal(daxlease_buf_recall(st.a.buf), 0);
	assert_int_equal(stats_of().overruns, 0);
	assert_int_equal(fake_ring_cancels(st.fd), 0);
	pthread_join(thread, NULL);
	dereg(&st.a);
}

/* ------------------------------------------------------------------------- */
/* What is not to be cancelled, what is not to come back */

static void cancel__not_for_an_idle_buffer(void **state)
{
	struct fix *fx = *state;

	atomic_store(&st.a.drain_answer, DAXLEASE_PENDING);
	reg(&st.a, SLOT, 0, 150);
	broken();
	EVENTUALLY(fx, RELEASED(&st.a) == 1);
	assert_int_equal(atomic_load(&st.a.result), -ETIMEDOUT);
	assert_int_equal(fake_ring_cancels(st.fd), 0);
	dereg(&st.a);
}

/* Nobody says that it ended, and the kernel is asked at intervals only. */
static void cancel__not_if_it_has_just_ended(void **state)
{
	struct fix *fx = *state;

	reg(&st.a, SLOT, 0, 400);
	assert_true(fake_ring_use(st.fd, SLOT));
	broken();
	EVENTUALLY(fx, !fake_ring_slot(st.fd, SLOT));
	WAIT_MS(fx, 280, false);
	fake_ring_end(st.fd);
	EVENTUALLY(fx, RELEASED(&st.a) == 1);
	assert_int_equal(atomic_load(&st.a.result), 0);
	assert_int_equal(stats_of().overruns, 0);
	dereg(&st.a);
}

static void dereg__two_whose_tags_are_lost(void **state)
{
	uint64_t tag;

	(void)state;
	reg(&st.a, SLOT, 0, 0);
	reg(&st.b, SLOT + 1, 0, 0);
	assert_int_equal(daxlease_dereg_buf(st.a.buf), -EBUSY);
	assert_int_equal(daxlease_dereg_buf(st.b.buf), 0);
	assert_int_equal(daxlease_dereg_buf(st.a.buf), 0);
	assert_true(fake_ring_cqe(st.fd, &tag) && fake_ring_cqe(st.fd, &tag));
}

static void dereg__does_not_come_back(void **state)
{
	struct fix *fx = *state;

	reg(&st.a, SLOT, 0, 0);
	reg(&st.b, SLOT + 1, 0, 0);
	assert_int_equal(daxlease_dereg_buf(st.a.buf), -EBUSY);
	reap();
	EVENTUALLY(fx, state_of(&st.a) == DAXLEASE_STATE_RELEASED);
	assert_int_equal(daxlease_buf_recall(st.b.buf), 0);
	assert_int_equal(daxlease_buf_regain(st.b.buf), 0);
	NOT_FOR_MS(fx, 30, fake_ring_slot(st.fd, SLOT) != NULL);
	assert_int_equal(state_of(&st.a), DAXLEASE_STATE_RELEASED);
	assert_int_equal(daxlease_dereg_buf(st.a.buf), 0);
	dereg(&st.b);
}

#define WITH(fn, set, m)                                                        \
	{                                                                       \
#fn " [" #set ", " #m "]", fn, set, teardown, (void *)&mode_##m \
	}
#define ANY_MODE(fn)                                                                \
	WITH(fn, setup, thread), WITH(fn, setup, loop), WITH(fn, setup, signal_rt), \
		WITH(fn, setup_single, loop), WITH(fn, setup_single, signal_rt)
/* With what serves the context in another thread. */
#define SHARED_MODE(fn) WITH(fn, setup, thread), WITH(fn, setup, loop), WITH(fn, setup, signal_rt)
#define ONCE(fn) WITH(fn, setup, thread)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(ring__errors_by_name, setup_bare, thread),
		WITH(ring__each_call_may_fail, setup_bare, thread),
		ONCE(ring__keeps_the_context),
		ONCE(ring__others_completions_are_not_taken),
		ONCE(ring__a_child_has_none),
		ANY_MODE(reg__whole_life),
		ANY_MODE(reg__plain_memory_passes),
		ONCE(reg__errors_by_name),
		ONCE(reg__no_table),
		ONCE(reg__without_layout_leases),
		ONCE(reg__beside_a_kind_that_does_not_pin),
		ANY_MODE(reg__a_break_comes_first),
		ANY_MODE(break__of_an_idle_buffer),
		ANY_MODE(break__waits_for_requests),
		ANY_MODE(break__asks_the_kernel_if_it_is_not_told),
		ANY_MODE(break__pending),
		ANY_MODE(break__cancels_past_the_budget),
		ANY_MODE(break__cancels_until_it_helps),
		ANY_MODE(break__cancels_what_does_not_stop),
		ANY_MODE(break__cancels_at_once_if_it_cannot_stop),
		ANY_MODE(break__cancelling_fails),
		ANY_MODE(break__emptying_fails),
		ANY_MODE(break__with_an_mr),
		ANY_MODE(break__regained),
		ANY_MODE(break__regaining_is_given_up),
		ANY_MODE(break__the_program_has_changed_the_slot),
		SHARED_MODE(recall__and_regain),
		ANY_MODE(dereg__in_use),
		ANY_MODE(dereg__in_use_with_others),
		ANY_MODE(dereg__in_use_at_a_break),
		ANY_MODE(dereg__fails),
		WITH(single__another_thread_is_refused, setup_single, loop),
		ONCE(single__not_with_a_thread_of_the_library),
		WITH(single__does_not_dispatch, setup_single, loop),
		WITH(single__nothing_to_ask, setup_single, loop),
		WITH(single__recalled_and_regained_elsewhere, setup_single, loop),
		WITH(single__recalled_and_regained_elsewhere, setup_single, signal_rt),
		WITH(single__recalled_in_its_own_thread, setup_single, loop),
		SHARED_MODE(cancel__not_for_an_idle_buffer),
		SHARED_MODE(cancel__not_if_it_has_just_ended),
		ONCE(dereg__two_whose_tags_are_lost),
		ONCE(dereg__does_not_come_back),
		ANY_MODE(fault__each_call_fails_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
