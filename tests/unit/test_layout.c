// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The kinds layout and layout-rfc, with leases that fake_layout.c makes up. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_layout.h"
#include "fake_verbs.h"
#include "fault.h"
#include "lease.h"
#include "support.h"

/* ------------------------------------------------------------------------- */
/* The stage: a context, and a file that can be leased so */

static int setup_kind(void **state, unsigned int what)
{
	int err = fix_setup(state);
	struct fix *fx = *state;

	if (err)
		return err;
	fake_layout_emulate(what);
	fake_layout_map(&fx->file);
	return 0;
}

static int setup(void **state)
{
	return setup_kind(state, FAKE_SETLAYOUT | FAKE_RFC);
}

static int setup_rfc(void **state)
{
	return setup_kind(state, FAKE_RFC);
}

static const enum daxlease_kind both[] = { DAXLEASE_KIND_LAYOUT, DAXLEASE_KIND_LAYOUT_RFC };

static void open_again(struct file *to, const struct file *f, int flags)
{
	*to = *f;
	to->fd = open(f->path, flags | O_CLOEXEC);
	assert_true(to->fd >= 0);
	to->prot = (flags & O_ACCMODE) == O_RDONLY ? PROT_READ : PROT_READ | PROT_WRITE;
	to->map = mmap(NULL, to->size, to->prot, MAP_SHARED, to->fd, 0);
	assert_ptr_not_equal(to->map, MAP_FAILED);
	fake_layout_map(to);
}

static void close_again(struct file *f)
{
	munmap(f->map, f->size);
	close(f->fd);
}

static struct daxlease_mr_info info_of(const struct user *u)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };

	assert_int_equal(daxlease_mr_get_info(u->mr, &info), 0);
	return info;
}

static int reg(struct fix *fx, struct user *u, struct file *f, unsigned int flags)
{
	struct daxlease_mr_opts opts = user_opts(u, flags, 0);

	return user_try(fx, u, f, 0, f->size / PAGE, &opts);
}

/* That errno, one line with this text, and nothing is left. */
static void refused(struct fix *fx, struct file *f, const struct daxlease_mr_opts *opts, int err,
		    const char *text)
{
	unsigned int leases = fake_layout_leases(NULL), live = fake_live();
	struct user u = { 0 };

	fix_forget_log(fx);
	assert_int_equal(user_try(fx, &u, f, 0, 1, opts), err);
	assert_null(u.mr);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 1);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_WARNING), 0);
	assert_non_null(strstr(fx->lines[0], text));
	assert_int_equal(fake_layout_leases(NULL), leases);
	assert_int_equal(fake_live(), live);
}

static bool has_line(struct fix *fx, enum daxlease_log_level level, const char *text)
{
	unsigned int n = atomic_load(&fx->nlines);

	for (unsigned int i = 0; i < n && i < LOG_LINES; i++) {
		if (fx->levels[i] == level && strstr(fx->lines[i], text))
			return true;
	}
	return false;
}

/* Somebody changes the file: waits, and gets through. */
static void broken(struct fix *fx, const struct file *f)
{
	assert_int_equal(fake_layout_break(f), -EAGAIN);
	EVENTUALLY(fx, !fake_layout_waits(f));
}

/* ------------------------------------------------------------------------- */
/* The kinds by themselves */

static int take(int fd, enum daxlease_kind kind, struct lease_want want,
		const struct lease_ops **ret_ops)
{
	const struct lease_notice notice = { .signo = SIGURG,
					     .owner = { .type = F_OWNER_TID, .id = sys_gettid() } };

	return lease_take(kind, fd, want, &notice, ret_ops);
}

static void kind__take_query_give_back(void **state)
{
	struct fix *fx = *state;
	const struct lease_ops *ops = NULL;
	struct f_owner_ex owner;

	for (unsigned int i = 0; i < 4; i++) {
		const struct lease_want want = { .access_mode = O_RDWR, .exclusive = i & 1 };
		int fd = fx->file.fd;

		assert_int_equal(take(fd, both[i / 2], want, &ops), 0);
		assert_int_equal(ops->kind, both[i / 2]);
		assert_true(ops->pins && ops->exclusive);
		assert_int_equal(fake_layout_is_exclusive(&fx->file), want.exclusive);
		assert_int_equal(fcntl(fd, F_GETSIG), SIGURG);
		assert_int_equal(fcntl(fd, F_GETOWN_EX, &owner), 0);
		assert_int_equal(owner.pid, sys_gettid());
		assert_int_equal(ops->query(fd, want), LEASE_HELD);
		assert_int_equal(take(fd, both[0], want, &ops), -EAGAIN);
		assert_int_equal(take(fd, DAXLEASE_KIND_LEASE, want, &ops),
				 want.exclusive ? -EAGAIN : -EAGAIN);
		if (!want.exclusive) {
			assert_int_equal(fake_layout_break(&fx->file), -EAGAIN);
			assert_int_equal(ops->query(fd, want), LEASE_BREAKING);
			assert_int_equal(take(fd, DAXLEASE_KIND_LEASE, want, &ops), -EAGAIN);
		}
		assert_int_equal(fake_layout_pin(fx->file.map), want.exclusive ? 0 : -EOPNOTSUPP);
		if (want.exclusive) {
			assert_int_equal(ops->give_back(fd, (struct lease_want){ 0 }, false),
					 -EBUSY);
			fake_layout_unpin(fx->file.map);
		}
		assert_int_equal(ops->give_back(fd, (struct lease_want){ 0 }, false), 0);
		assert_int_equal(ops->give_back(fd, (struct lease_want){ 0 }, false), -ESTALE);
		assert_int_equal(ops->query(fd, want), LEASE_BREAKING);
	}
}

/* Two holders race for one description: the kernel tells the later one. */
static void kind__taken_a_moment_ago(void **state)
{
	const struct lease_want want = { .access_mode = O_RDWR };
	struct fix *fx = *state;
	const struct lease_ops *ops = NULL;
	int fd = fx->file.fd;

	assert_int_equal(fake_layout_set(fd, F_RDLCK, 1), 0);
	fault_arm_name("sys_get_layout", 1, 1);
	fault_arm_name("sys_get_lease", 1, 1);
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(take(fd, both[i], want, &ops), -EAGAIN);
	assert_int_equal(lease_layout_error(-EBUSY), -EAGAIN);
	assert_int_equal(lease_layout_error(-EACCES), -EACCES);
	assert_int_equal(fake_layout_set(fd, F_UNLCK, 0), 0);
}

static void kind__not_there(void **state)
{
	struct fix *fx = *state;
	struct f_owner_ex owner = { .type = F_OWNER_PID, .pid = getpid() };
	const struct lease_want want = { .access_mode = O_RDWR },
				exclusive = { .access_mode = O_RDWR, .exclusive = true };
	const struct lease_ops *ops = NULL;
	int fd = fx->file.fd;

	for (unsigned int what = 0; what < 2; what++) {
		fake_layout_emulate(what ? FAKE_SETLAYOUT | FAKE_RFC | FAKE_NOT_CAPABLE : 0);
		assert_int_equal(fcntl(fd, F_SETOWN_EX, &owner), 0);
		for (unsigned int i = 0; i < 2; i++)
			assert_int_equal(take(fd, both[i], want, &ops), -EOPNOTSUPP);
		assert_int_equal(take(fd, DAXLEASE_KIND_AUTO, exclusive, &ops), -EOPNOTSUPP);
		assert_null(ops);
		assert_int_equal(take(fd, DAXLEASE_KIND_AUTO, want, &ops), 0);
		assert_true(ops == &kind_deleg_ops || ops == &kind_lease_ops);
		assert_int_equal(ops->give_back(fd, (struct lease_want){ 0 }, false), 0);
		ops = NULL;
	}
}

/* ------------------------------------------------------------------------- */
/* Registering */

static void reg__pinned(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct daxlease_mr_info info;

	assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
	info = info_of(&u);
	assert_int_equal(info.kind, fake_layout_emulates(FAKE_SETLAYOUT) ?
					    DAXLEASE_KIND_LAYOUT :
					    DAXLEASE_KIND_LAYOUT_RFC);
	assert_false(info.on_demand);
	assert_int_equal(info.unseen, LEASE_UNSEEN_LAYOUT);
	assert_int_equal(fake_last_access(), ACCESS);
	assert_int_equal(fake_prefetches(), 0);
	assert_int_equal(fake_layout_leases(&fx->file), 1);
	assert_false(fake_layout_is_exclusive(&fx->file));
	user_dereg(&u);
	assert_int_equal(fake_layout_leases(NULL), 0);
}

static void reg__on_demand_if_asked(void **state)
{
	struct fix *fx = *state;
	struct daxlease_mr *mr = NULL;
	struct daxlease_mr_info info = { .size = sizeof(info) };

	assert_int_equal(daxlease_reg_mr(fx->ctx, &fake_pd, fx->file.fd, fx->file.map, PAGE,
					 ACCESS | IBV_ACCESS_ON_DEMAND, NULL, &mr),
			 0);
	assert_int_equal(daxlease_mr_get_info(mr, &info), 0);
	assert_true(info.on_demand);
	assert_int_equal(fake_regs(), 1);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_WARNING), 0);
	assert_int_equal(daxlease_dereg_mr(mr), 0);
}

/* Opens, for reading and for writing, are nobody's business, before and after. */
static void reg__others_have_it_open(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b[2];

	breaker_open(&b[0], &fx->file, O_RDWR);
	EVENTUALLY(fx, breaker_done(&b[0]));
	assert_int_equal(reg(fx, &u, &fx->file, DAXLEASE_MR_DRAIN_FOR_READERS), 0);
	breaker_open(&b[1], &fx->file, O_WRONLY);
	EVENTUALLY(fx, breaker_done(&b[1]));
	assert_int_equal(b[0].err + b[1].err, 0);
	NOT_FOR_MS(fx, 20, atomic_load(&u.drains) || atomic_load(&u.guards));
	broken(fx, &fx->file);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_int_equal(daxlease_mr_regain(u.mr), 0); /* they have it open still */
	breaker_end(&b[0]);
	breaker_end(&b[1]);
	user_dereg(&u);
}

static void reg__read_only(void **state)
{
	const struct daxlease_mr_opts exclusive = { .size = sizeof(exclusive),
						    .flags = DAXLEASE_MR_EXCLUSIVE };
	const struct daxlease_mr_opts none = { .size = sizeof(none) };
	struct fix *fx = *state;
	struct user u = { 0 }, writes = { 0 };
	struct file ro;

	open_again(&ro, &fx->file, O_RDONLY);
	/* Pinned as for writing, it is refused. */
	fake_fail_pinned(EFAULT);
	fake_odp(false);
	refused(fx, &ro, &none, -EFAULT, "map it PROT_WRITE");
	fake_odp(true);
	assert_int_equal(user_try(fx, &u, &ro, 0, 1, &none), 0);
	assert_true(info_of(&u).on_demand);
	assert_true(has_line(fx, DAXLEASE_LOG_WARNING, "map it PROT_WRITE"));
	fake_fail_pinned(0);
	assert_int_equal(fake_layout_leases(&fx->file), 1);
	/* One that writes, through another description, has a lease of its own. */
	assert_int_equal(reg(fx, &writes, &fx->file, 0), 0);
	assert_int_equal(fake_layout_leases(&fx->file), 2);
	user_dereg(&u);
	user_dereg(&writes);
	refused(fx, &ro, &exclusive, -EBADF, "O_RDWR");
	close_again(&ro);
}

/* The kernel wants the lease of the very description that the range was mapped from. */
static void reg__mapped_from_another_description(void **state)
{
	const struct daxlease_mr_opts none = { .size = sizeof(none) };
	struct fix *fx = *state;
	struct user u = { 0 };
	struct file other, mixed;

	open_again(&other, &fx->file, O_RDWR);
	mixed = fx->file;
	mixed.fd = other.fd;
	fake_odp(false);
	refused(fx, &mixed, &none, -EOPNOTSUPP, "very descriptor");
	fake_fail_pinned(EINVAL);
	refused(fx, &mixed, &none, -EINVAL, "no on-demand paging");
	fake_fail_pinned(0);
	fake_odp(true);
	fix_forget_log(fx);
	assert_int_equal(user_try(fx, &u, &mixed, 0, 1, &none), 0);
	assert_true(info_of(&u).on_demand);
	assert_true(has_line(fx, DAXLEASE_LOG_WARNING, "very descriptor"));
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 0);
	user_dereg(&u);
	fake_fail_pinned(EINVAL);
	assert_int_equal(user_try(fx, &u, &other, 0, 1, &none), 0);
	assert_true(info_of(&u).on_demand);
	user_dereg(&u);
	close_again(&other);
}

static void reg__locked_memory(void **state)
{
	const struct daxlease_mr_opts none = { .size = sizeof(none) };
	struct fix *fx = *state;
	struct user u = { 0 };

	fake_fail_pinned(ENOMEM);
	fault_memlock(PAGE / 2);
	refused(fx, &fx->file, &none, -ENOMEM, "more than RLIMIT_MEMLOCK");
	fault_memlock(1024 * PAGE);
	refused(fx, &fx->file, &none, -ENOMEM, "already");
	/* Without a limit it must be the driver's way to say that it does not pin. */
	fault_memlock(UINT64_MAX);
	assert_int_equal(user_try(fx, &u, &fx->file, 0, 1, &none), 0);
	assert_true(info_of(&u).on_demand);
	user_dereg(&u);
}

static void reg__several_descriptions(void **state)
{
	struct fix *fx = *state;
	struct user u[4] = { 0 };
	struct file other, same = fx->file;

	open_again(&other, &fx->file, O_RDWR);
	assert_int_equal(reg(fx, &u[0], &fx->file, 0), 0);
	assert_int_equal(reg(fx, &u[1], &other, 0), 0);
	assert_int_equal(fake_layout_leases(&fx->file), 2);
	same.fd = dup(fx->file.fd);
	assert_int_equal(reg(fx, &u[2], &same, 0), 0);
	assert_int_equal(reg(fx, &u[3], &other, 0), 0);
	assert_int_equal(fake_layout_leases(&fx->file), 2);
	for (unsigned int i = 0; i < 4; i++)
		assert_false(info_of(&u[i]).on_demand);
	broken(fx, &fx->file);
	for (unsigned int i = 0; i < 4; i++) {
		EVENTUALLY(fx, atomic_load(&u[i].releases) == 1);
		assert_int_equal(atomic_load(&u[i].result), 0);
		user_dereg(&u[i]);
	}
	close(same.fd);
	close_again(&other);
}

/* If nobody can say whether it is the same description, the kernel does. */
static void reg__descriptions_cannot_be_compared(void **state)
{
	const struct daxlease_mr_opts none = { .size = sizeof(none) };
	struct fix *fx = *state;
	struct user u[2] = { 0 };
	struct file other;

	open_again(&other, &fx->file, O_RDWR);
	fault_arm_name("sys_same_description", 1, UINT_MAX);
	assert_int_equal(reg(fx, &u[0], &fx->file, 0), 0);
	assert_int_equal(reg(fx, &u[1], &other, 0), 0);
	refused(fx, &fx->file, &none, -EAGAIN, "leased already");
	user_dereg(&u[0]);
	user_dereg(&u[1]);
	close_again(&other);
}

static void reg__break_meanwhile(void **state)
{
	const struct daxlease_mr_opts none = { .size = sizeof(none) };
	struct fix *fx = *state;
	struct user u = { 0 };
	int waits = -EAGAIN;

	/* It is in progress already when the lease is asked for. */
	assert_int_equal(fake_layout_set(fx->file.fd, F_RDLCK, 0), 0);
	assert_int_equal(fake_layout_break(&fx->file), waits);
	refused(fx, &fx->file, &none, -EAGAIN, "is being changed");
	assert_int_equal(fake_layout_set(fx->file.fd, F_UNLCK, 0), 0);
	assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
	user_dereg(&u);
}

static void begin_break(void *arg)
{
	assert_int_equal(fake_layout_break(arg), -EAGAIN);
}

/* Between taking the lease and pinning: the kernel does not pin any more. */
static void reg__break_before_it_is_pinned(void **state)
{
	const struct daxlease_mr_opts none = { .size = sizeof(none) };
	struct fix *fx = *state;
	struct user u = { 0 };

	fault_before("sys_file_size", begin_break, &fx->file);
	refused(fx, &fx->file, &none, -EAGAIN, "about to change");
	assert_false(fake_layout_waits(&fx->file));
	assert_int_equal(fake_regs(), 1); /* not on demand either */
	assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
	user_dereg(&u);
}

/* ------------------------------------------------------------------------- */
/* Breaks */

static void break__drained(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	struct daxlease_stats stats;

	assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
	assert_int_equal(fake_layout_break(&fx->file), -EAGAIN);
	EVENTUALLY(fx, atomic_load(&u.drains) == 1);
	assert_int_equal(atomic_load(&u.cause), DAXLEASE_CAUSE_BREAK);
	assert_true(u.brk.kernel_deadline_ns > u.brk.deadline_ns);
	assert_int_equal(fake_layout_break(&fx->file), -EAGAIN); /* another one */
	NOT_FOR_MS(fx, 20, !fake_layout_waits(&fx->file));
	assert_int_equal(daxlease_mr_drained(u.mr), 0);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_false(fake_layout_waits(&fx->file));
	assert_int_equal(atomic_load(&u.result), 0);
	assert_int_equal(fake_live(), 0);
	fix_stats(fx, &stats);
	assert_int_equal(stats.breaks, 1);
	assert_int_equal(stats.leases, 0);
	assert_int_equal(stats.lost + stats.overruns, 0);
	user_dereg(&u);
}

static void break__regained_pinned(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	enum daxlease_kind kind;

	assert_int_equal(reg(fx, &u, &fx->file, DAXLEASE_MR_REGAIN), 0);
	kind = info_of(&u).kind;
	for (unsigned int i = 1; i <= 3; i++) {
		broken(fx, &fx->file);
		EVENTUALLY(fx, atomic_load(&u.regains) == i);
		assert_int_equal(atomic_load(&u.releases), i);
		assert_int_equal(info_of(&u).kind, kind);
		assert_false(info_of(&u).on_demand);
		assert_int_equal(fake_layout_leases(&fx->file), 1);
	}
	user_dereg(&u);
}

/* The next one comes before it is pinned again: that is no reason to give up. */
static void break__again_while_regaining(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	fake_odp(false);
	assert_int_equal(reg(fx, &u, &fx->file, DAXLEASE_MR_REGAIN), 0);
	fault_before("sys_file_size", begin_break, &fx->file);
	broken(fx, &fx->file);
	EVENTUALLY(fx, atomic_load(&u.regains) == 1);
	EVENTUALLY(fx, !fake_layout_waits(&fx->file));
	assert_int_equal(atomic_load(&u.regain_errors), 0);
	EVENTUALLY(fx, user_state(&u) == DAXLEASE_STATE_ACTIVE);
	user_dereg(&u);
}

/* One description drains still: the other one's lease is not to be had meanwhile. */
static void break__regain_waits_for_the_slower(void **state)
{
	struct fix *fx = *state;
	struct user quick = { 0 }, slow = { .drain_answer = DAXLEASE_PENDING };
	struct daxlease_stats stats;
	struct file other;

	open_again(&other, &fx->file, O_RDWR);
	assert_int_equal(reg(fx, &quick, &fx->file, DAXLEASE_MR_REGAIN), 0);
	assert_int_equal(reg(fx, &slow, &other, DAXLEASE_MR_REGAIN), 0);
	assert_int_equal(fake_layout_break(&fx->file), -EAGAIN);
	EVENTUALLY(fx, atomic_load(&quick.releases) == 1 && atomic_load(&slow.drains) == 1);
	NOT_FOR_MS(fx, 20, atomic_load(&quick.regains));
	assert_true(fake_layout_waits(&fx->file));
	assert_int_equal(daxlease_mr_drained(slow.mr), 0);
	EVENTUALLY(fx, atomic_load(&quick.regains) == 1 && atomic_load(&slow.regains) == 1);
	fix_stats(fx, &stats);
	assert_true(stats.lease_retries > 0);
	user_dereg(&quick);
	user_dereg(&slow);
	close_again(&other);
}

/* Something that the library knows nothing of is pinned as well. */
static void break__others_have_pins(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
	assert_int_equal(fake_layout_pin(fx->file.map), 0);
	fix_forget_log(fx);
	assert_int_equal(fake_layout_break(&fx->file), -EAGAIN);
	EVENTUALLY(fx, fake_live() == 0);
	NOT_FOR_MS(fx, 50, !fake_layout_waits(&fx->file));
	assert_int_equal(atomic_load(&u.releases), 0);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 1);
	assert_true(has_line(fx, DAXLEASE_LOG_ERR, "something else is pinned"));
	fake_layout_unpin(fx->file.map);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_int_equal(atomic_load(&u.result), 0);
	assert_false(fake_layout_waits(&fx->file));
	user_dereg(&u);
}

/* Without a break: the caller is told, and it is given back when that is gone. */
static void dereg__others_have_pins(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	for (unsigned int again = 0; again < 2; again++) {
		assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
		assert_int_equal(fake_layout_pin(fx->file.map), 0);
		fix_forget_log(fx);
		assert_int_equal(daxlease_dereg_mr(u.mr), -EBUSY);
		assert_int_equal(fake_live(), 0);
		assert_int_equal(user_state(&u), DAXLEASE_STATE_RELEASED);
		NOT_FOR_MS(fx, 20, !fake_layout_leases(&fx->file));
		assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 1);
		fake_layout_unpin(fx->file.map);
		if (again)
			EVENTUALLY(fx, !fake_layout_leases(&fx->file));
		user_dereg(&u);
		assert_int_equal(fake_layout_leases(&fx->file), 0);
		assert_int_equal(atomic_load(&u.releases), 0);
	}
}

/* With pins the lease outlives the kernel's deadline: whoever waits is refused. */
static void deadline__pinned(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct daxlease_stats stats;

	fault_break_time(1);
	fake_shut_dereg();
	fix_serve(fx);
	assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
	assert_int_equal(fake_layout_break(&fx->file), -EAGAIN);
	EVENTUALLY(fx, fake_waiting() == 1);
	sleep_ms(1050);
	assert_int_equal(fake_layout_deadline(&fx->file), -ETXTBSY);
	assert_int_equal(fake_layout_break(&fx->file), -ETXTBSY);
	fake_open_dereg();
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_int_equal(atomic_load(&u.result), 0);
	assert_true(has_line(fx, DAXLEASE_LOG_WARNING, "ETXTBSY"));
	assert_int_equal(fake_layout_break(&fx->file), 0);
	fix_stats(fx, &stats);
	assert_int_equal(stats.lost, 0);
	assert_int_equal(stats.leases, 0);
	user_dereg(&u);
}

/* So does one with pins that are not ours; it is not taken for lost. */
static void deadline__others_have_pins(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	fault_break_time(1);
	assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
	assert_int_equal(fake_layout_pin(fx->file.map), 0);
	assert_int_equal(fake_layout_break(&fx->file), -EAGAIN);
	NOT_FOR_MS(fx, 1100, atomic_load(&u.releases));
	assert_int_equal(fake_layout_deadline(&fx->file), -ETXTBSY);
	NOT_FOR_MS(fx, 300, atomic_load(&u.releases));
	fake_layout_unpin(fx->file.map);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_int_equal(atomic_load(&u.result), 0);
	assert_int_equal(fake_layout_leases(&fx->file), 0);
	user_dereg(&u);
}

/* Registered on demand nothing is pinned: the kernel takes it, as any lease. */
static void deadline__on_demand(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct daxlease_stats stats;

	fake_fail_pinned(EOPNOTSUPP);
	fake_shut_dereg();
	fix_serve(fx);
	assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
	assert_int_equal(fake_layout_break(&fx->file), -EAGAIN);
	EVENTUALLY(fx, fake_waiting() == 1);
	assert_int_equal(fake_layout_deadline(&fx->file), 0);
	fake_open_dereg();
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_int_equal(atomic_load(&u.result), -ESTALE);
	fix_stats(fx, &stats);
	assert_int_equal(stats.lost, 1);
	user_dereg(&u);
}

static void overrun__fenced(void **state)
{
	struct ibv_qp qp = { 0 };
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	struct daxlease_mr_opts opts = user_opts(&u, 0, 30);

	assert_int_equal(user_try(fx, &u, &fx->file, 0, 1, &opts), 0);
	assert_int_equal(daxlease_mr_add_qp(u.mr, &qp), 0);
	broken(fx, &fx->file);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_int_equal(atomic_load(&u.result), -ETIMEDOUT);
	assert_int_equal(fake_fences(), 1);
	user_dereg(&u);
}

/* ------------------------------------------------------------------------- */
/* Recalling */

static void recall__and_regain(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	enum daxlease_kind kind;

	assert_int_equal(reg(fx, &u, &fx->file, DAXLEASE_MR_REGAIN), 0);
	kind = info_of(&u).kind;
	assert_int_equal(daxlease_mr_recall(u.mr), 0);
	assert_int_equal(atomic_load(&u.cause), DAXLEASE_CAUSE_RECALL);
	assert_int_equal(fake_layout_break(&fx->file), 0); /* it does not wait for itself */
	NOT_FOR_MS(fx, 20, fake_layout_leases(&fx->file));
	assert_int_equal(daxlease_mr_regain(u.mr), 0);
	assert_int_equal(info_of(&u).kind, kind);
	assert_false(info_of(&u).on_demand);
	user_dereg(&u);
}

static void recall__others_have_pins(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
	assert_int_equal(fake_layout_pin(fx->file.map), 0);
	assert_int_equal(daxlease_mr_recall(u.mr), -EBUSY);
	assert_int_equal(fake_layout_leases(&fx->file), 1);
	fake_layout_unpin(fx->file.map);
	EVENTUALLY(fx, !fake_layout_leases(&fx->file));
	assert_int_equal(daxlease_mr_regain(u.mr), 0);
	user_dereg(&u);
}

static void *serve_second(void *arg)
{
	struct user *u = arg;

	atomic_store(&u->seen, daxlease_mr_regain(u->mr));
	return NULL;
}

/*
 * A change of one file goes on while its lease is taken again, which waits for that.
 * Breaks of the others are answered meanwhile, and one of its own is not lost.
 */
static void regain__waits_for_a_change(void **state)
{
	struct fix *fx = *state;
	struct user u = { .seen = 1 }, other = { 0 }, third = { 0 };
	struct file f;
	pthread_t thread;

	file_make(&f, 2, true);
	fake_layout_map(&f);
	assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
	assert_int_equal(reg(fx, &other, &f, DAXLEASE_MR_REGAIN), 0);
	broken(fx, &fx->file);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	fake_layout_change(&fx->file, true);
	fix_serve(fx);
	assert_int_equal(pthread_create(&thread, NULL, serve_second, &u), 0);
	EVENTUALLY(fx, fake_layout_takers() == 1);
	broken(fx, &f);
	EVENTUALLY(fx, atomic_load(&other.regains) == 1);
	assert_int_equal(atomic_load(&u.seen), 1);
	fake_layout_change(&fx->file, false);
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&u.seen), 0);
	/* The same at the first registration of a file. */
	assert_int_equal(reg(fx, &third, &fx->file, 0), 0);
	broken(fx, &fx->file);
	EVENTUALLY(fx, atomic_load(&u.releases) == 2 && atomic_load(&third.releases) == 1);
	user_dereg(&u);
	user_dereg(&other);
	user_dereg(&third);
	file_end(&f);
}

/* The library's own thread waits for it, with another one in its place. */
static void regain__own_thread_waits(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 }, other = { 0 };
	struct file f;

	file_make(&f, 2, true);
	fake_layout_map(&f);
	assert_int_equal(reg(fx, &u, &fx->file, DAXLEASE_MR_REGAIN), 0);
	assert_int_equal(reg(fx, &other, &f, 0), 0);
	fix_serve(fx);
	fake_layout_change(&fx->file, true);
	broken(fx, &fx->file);
	EVENTUALLY(fx, fake_layout_takers() == 1);
	assert_int_equal(atomic_load(&u.releases), 1);
	if (fx->mode->mode != DAXLEASE_MODE_SIGNAL) {
		broken(fx, &f);
		EVENTUALLY(fx, atomic_load(&other.releases) == 1);
	}
	fake_layout_change(&fx->file, false);
	EVENTUALLY(fx, atomic_load(&u.regains) == 1);
	user_dereg(&u);
	user_dereg(&other);
	file_end(&f);
}

static void let_go_on(void *arg)
{
	struct fix *fx = arg;

	fake_layout_change(&fx->file, false);
}

static void *recall_now(void *arg)
{
	struct user *u = arg;

	atomic_store(&u->seen, daxlease_mr_recall(u->mr));
	return NULL;
}

/* Recalled while it is taken again: it is given back as soon as it is there. */
static void recall__while_taken_again(void **state)
{
	struct fix *fx = *state;
	struct user u = { .seen = 1 };
	pthread_t thread;

	assert_int_equal(reg(fx, &u, &fx->file, DAXLEASE_MR_REGAIN), 0);
	fix_serve(fx);
	fake_layout_change(&fx->file, true);
	broken(fx, &fx->file);
	EVENTUALLY(fx, fake_layout_takers() == 1);
	assert_int_equal(pthread_create(&thread, NULL, recall_now, &u), 0);
	NOT_FOR_MS(fx, 20, atomic_load(&u.seen) != 1);
	let_go_on(fx);
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&u.seen), 0);
	assert_int_equal(fake_layout_leases(&fx->file), 0);
	NOT_FOR_MS(fx, 20, fake_layout_leases(&fx->file));
	user_dereg(&u);
}

static void *end_now(void *arg)
{
	struct user *u = arg;

	atomic_store(&u->seen, daxlease_dereg_mr(u->mr));
	return NULL;
}

/* Its last region is deregistered meanwhile: that waits, and leaves nothing. */
static void dereg__while_taken_again(void **state)
{
	struct fix *fx = *state;
	struct user u = { .seen = 1 };
	pthread_t thread;

	assert_int_equal(reg(fx, &u, &fx->file, DAXLEASE_MR_REGAIN), 0);
	fix_serve(fx);
	fake_layout_change(&fx->file, true);
	broken(fx, &fx->file);
	EVENTUALLY(fx, fake_layout_takers() == 1);
	assert_int_equal(pthread_create(&thread, NULL, end_now, &u), 0);
	NOT_FOR_MS(fx, 20, atomic_load(&u.seen) != 1);
	let_go_on(fx);
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&u.seen), 0);
	assert_int_equal(fake_layout_leases(&fx->file), 0);
}

/* ------------------------------------------------------------------------- */
/* Exclusive */

static void exclusive__others_are_refused(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	assert_int_equal(reg(fx, &u, &fx->file, DAXLEASE_MR_EXCLUSIVE), 0);
	assert_true(fake_layout_is_exclusive(&fx->file));
	assert_false(info_of(&u).on_demand);
	assert_int_equal(fake_layout_break(&fx->file), -ETXTBSY);
	NOT_FOR_MS(fx, 20, atomic_load(&u.drains));
	assert_int_equal(user_state(&u), DAXLEASE_STATE_ACTIVE);
	assert_int_equal(daxlease_mr_recall(u.mr), 0);
	assert_int_equal(atomic_load(&u.drains), 1);
	assert_int_equal(fake_layout_break(&fx->file), 0);
	assert_int_equal(daxlease_mr_regain(u.mr), 0);
	assert_true(fake_layout_is_exclusive(&fx->file));
	user_dereg(&u);
	assert_int_equal(fake_layout_break(&fx->file), 0);
}

static void exclusive__all_regions_or_none(void **state)
{
	struct daxlease_mr_opts none = { .size = sizeof(none) }, exclusive = none;
	struct fix *fx = *state;
	struct user u = { 0 }, second = { 0 };
	struct file other;

	exclusive.flags = DAXLEASE_MR_EXCLUSIVE;
	assert_int_equal(reg(fx, &u, &fx->file, DAXLEASE_MR_EXCLUSIVE), 0);
	refused(fx, &fx->file, &none, -EINVAL, "leased already, exclusively");
	assert_int_equal(reg(fx, &second, &fx->file, DAXLEASE_MR_EXCLUSIVE), 0);
	user_dereg(&second);
	/* A lease of its own can be another. */
	open_again(&other, &fx->file, O_RDWR);
	assert_int_equal(reg(fx, &second, &other, 0), 0);
	assert_int_equal(fake_layout_break(&fx->file), -ETXTBSY);
	user_dereg(&second);
	close_again(&other);
	user_dereg(&u);
	assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
	refused(fx, &fx->file, &exclusive, -EINVAL, "leased already, breakable");
	user_dereg(&u);
}

static void exclusive__not_to_be_had(void **state)
{
	static const enum daxlease_kind others[] = { DAXLEASE_KIND_DELEG, DAXLEASE_KIND_LEASE };
	struct daxlease_mr_opts opts = { .size = sizeof(opts), .flags = DAXLEASE_MR_EXCLUSIVE };
	static char memory[PAGE];
	struct fix *fx = *state;
	struct daxlease_mr *mr = NULL;

	for (unsigned int i = 0; i < 2; i++) {
		opts.kind = others[i];
		refused(fx, &fx->file, &opts, -EOPNOTSUPP, "does not refuse others");
	}
	opts.kind = DAXLEASE_KIND_AUTO;
	fix_forget_log(fx);
	assert_int_equal(daxlease_reg_mr(fx->ctx, &fake_pd, -1, memory, PAGE, 0, &opts, &mr),
			 -EOPNOTSUPP);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 1);
	fake_layout_emulate(0);
	refused(fx, &fx->file, &opts, -EOPNOTSUPP, "layout leases");
	assert_int_equal(file_lease(&fx->file), F_UNLCK);
}

/* ------------------------------------------------------------------------- */
/* Probing */

static void probe__layout(void **state)
{
	struct daxlease_caps caps = { .size = sizeof(caps) };
	struct fix *fx = *state;
	int other = open(fx->file.path, O_RDWR);

	fake_odp(false);
	assert_int_equal(daxlease_probe(fx->file.fd, fake_pd.context, &caps), 0);
	assert_int_equal(caps.best, DAXLEASE_KIND_LAYOUT);
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(caps.kinds[both[i]].error, 0);
		assert_true(caps.kinds[both[i]].pins && caps.kinds[both[i]].exclusive);
		assert_false(caps.kinds[both[i]].write);
		assert_int_equal(caps.kinds[both[i]].unseen, LEASE_UNSEEN_LAYOUT);
	}
	assert_int_equal(caps.kinds[DAXLEASE_KIND_LEASE].error, -EAGAIN);
	assert_false(caps.kinds[DAXLEASE_KIND_LEASE].exclusive);
	assert_non_null(strstr(caps.reason, "pinned"));
	assert_int_equal(fake_layout_leases(NULL), 0);
	close(other);
}

/* What AUTO would be refused is not the weaker kind that could be had. */
static void probe__being_changed(void **state)
{
	struct daxlease_caps caps = { .size = sizeof(caps) };
	struct fix *fx = *state;
	int other = open(fx->file.path, O_RDWR | O_CLOEXEC);

	assert_int_equal(fake_layout_set(other, F_RDLCK, 0), 0);
	assert_int_equal(fake_layout_break(&fx->file), -EAGAIN);
	assert_int_equal(daxlease_probe(fx->file.fd, NULL, &caps), 0);
	assert_int_equal(caps.best, DAXLEASE_KIND_NONE);
	assert_int_equal(caps.kinds[DAXLEASE_KIND_LAYOUT].error, -EAGAIN);
	assert_non_null(strstr(caps.reason, "being changed"));
	assert_int_equal(fake_layout_set(other, F_UNLCK, 0), 0);
	close(other);
}

#define WITH(setup_, fn, m)                                                               \
	{                                                                                 \
#fn " [" #setup_ ", " #m "]", fn, setup_, fix_teardown, (void *)&mode_##m \
	}
#define IN_ONE(fn) WITH(setup, fn, thread)
#define IN_EACH(fn)                                                              \
	WITH(setup, fn, thread), WITH(setup, fn, loop), WITH(setup, fn, signal), \
		WITH(setup, fn, signal_rt), WITH(setup_rfc, fn, thread)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_ONE(kind__take_query_give_back),
		IN_ONE(kind__taken_a_moment_ago),
		IN_ONE(kind__not_there),
		IN_EACH(reg__pinned),
		IN_ONE(reg__on_demand_if_asked),
		IN_EACH(reg__others_have_it_open),
		IN_ONE(reg__read_only),
		IN_EACH(reg__mapped_from_another_description),
		IN_ONE(reg__locked_memory),
		IN_EACH(reg__several_descriptions),
		IN_EACH(reg__descriptions_cannot_be_compared),
		IN_ONE(reg__break_meanwhile),
		IN_EACH(reg__break_before_it_is_pinned),
		IN_EACH(break__drained),
		IN_EACH(break__regained_pinned),
		IN_EACH(break__again_while_regaining),
		IN_EACH(break__regain_waits_for_the_slower),
		IN_EACH(break__others_have_pins),
		IN_EACH(dereg__others_have_pins),
		IN_EACH(deadline__pinned),
		IN_EACH(deadline__others_have_pins),
		IN_EACH(deadline__on_demand),
		IN_EACH(overrun__fenced),
		IN_EACH(recall__and_regain),
		IN_EACH(recall__others_have_pins),
		IN_EACH(regain__waits_for_a_change),
		IN_EACH(regain__own_thread_waits),
		IN_EACH(recall__while_taken_again),
		IN_EACH(dereg__while_taken_again),
		IN_EACH(exclusive__others_are_refused),
		IN_EACH(exclusive__all_regions_or_none),
		IN_ONE(exclusive__not_to_be_had),
		IN_ONE(probe__layout),
		IN_ONE(probe__being_changed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
