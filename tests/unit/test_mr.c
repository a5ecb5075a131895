// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Registering: what is accepted, what is refused and how; accessors; queue pairs. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_verbs.h"
#include "fault.h"
#include "support.h"

struct attempt {
	struct ibv_pd *pd;
	int fd;
	void *addr;
	size_t length;
	int access;
	struct daxlease_mr_opts opts;
};

static struct attempt good(struct fix *fx)
{
	return (struct attempt){ .pd = &fake_pd,
				 .fd = fx->file.fd,
				 .addr = fx->file.map,
				 .length = fx->file.size,
				 .access = ACCESS,
				 .opts = { .size = sizeof(struct daxlease_mr_opts) } };
}

static int attempt(struct fix *fx, const struct attempt *a, struct daxlease_mr **ret_mr)
{
	return daxlease_reg_mr(fx->ctx, a->pd, a->fd, a->addr, a->length, a->access, &a->opts,
			       ret_mr);
}

static void assert_nothing_held(struct fix *fx)
{
	struct daxlease_stats stats;

	fix_stats(fx, &stats);
	assert_int_equal(stats.regions, 0);
	assert_int_equal(stats.leases, 0);
	assert_int_equal(fake_live(), 0);
	assert_int_equal(file_lease(&fx->file), F_UNLCK);
}

/* That errno, one line that says why, and nothing else has changed. */
static void refused(struct fix *fx, const struct attempt *a, int err)
{
	struct daxlease_mr *const untouched = (void *)0x10;
	struct daxlease_mr *mr = untouched;
	unsigned int fds = count_fds();

	fix_forget_log(fx);
	assert_int_equal(attempt(fx, a, &mr), err);
	assert_ptr_equal(mr, untouched);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 1);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_WARNING), 0);
	assert_int_equal(count_fds(), fds);
	assert_nothing_held(fx);
}

static struct daxlease_mr *accepted(struct fix *fx, const struct attempt *a)
{
	struct daxlease_mr *mr = NULL;

	fix_forget_log(fx);
	assert_int_equal(attempt(fx, a, &mr), 0);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 0);
	assert_non_null(mr);
	return mr;
}

static struct daxlease_mr_info info_of(const struct daxlease_mr *mr)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };

	assert_int_equal(daxlease_mr_get_info(mr, &info), 0);
	return info;
}

/* ------------------------------------------------------------------------- */
/* Refused */

static void reg__arguments(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);

	a.length = 0;
	refused(fx, &a, -EINVAL);
	a.length = SIZE_MAX;
	refused(fx, &a, -EINVAL);
	a = good(fx);
	a.pd = NULL;
	refused(fx, &a, -EINVAL);
	a = good(fx);
	fix_forget_log(fx);
	assert_int_equal(attempt(fx, &a, NULL), -EINVAL);
	assert_int_equal(atomic_load(&fx->nlines), 1);
	assert_int_equal(daxlease_reg_mr(NULL, a.pd, a.fd, a.addr, a.length, 0, NULL, NULL),
			 -EINVAL);
}

static void reg__options(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);

	a.opts.flags = 1u << 3;
	refused(fx, &a, -EINVAL);
	a = good(fx);
	a.opts.flags = DAXLEASE_MR_EXCLUSIVE;
	refused(fx, &a, -EOPNOTSUPP);
	a = good(fx);
	a.opts.size = 4;
	refused(fx, &a, -EINVAL);
}

static void reg__options_newer_than_the_library(void **state)
{
	struct newer {
		struct daxlease_mr_opts opts;
		unsigned long more;
	} newer = { .opts.size = sizeof(newer) };
	struct fix *fx = *state;
	struct daxlease_mr *mr = NULL;

	assert_int_equal(daxlease_reg_mr(fx->ctx, &fake_pd, fx->file.fd, fx->file.map, PAGE, 0,
					 &newer.opts, &mr),
			 0);
	assert_int_equal(daxlease_dereg_mr(mr), 0);
	newer.more = 1;
	fix_forget_log(fx);
	assert_int_equal(daxlease_reg_mr(fx->ctx, &fake_pd, fx->file.fd, fx->file.map, PAGE, 0,
					 &newer.opts, &mr),
			 -E2BIG);
	assert_int_equal(atomic_load(&fx->nlines), 1);
	assert_nothing_held(fx);
}

static void reg__kinds_that_are_not_there(void **state)
{
	static const int kinds[] = { DAXLEASE_KIND_NONE, DAXLEASE_KIND_LAYOUT, DAXLEASE_KIND_GUARD,
				     DAXLEASE_KIND_LAYOUT_RFC, 99 };
	struct fix *fx = *state;
	struct attempt a = good(fx);

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		a.opts.kind = (enum daxlease_kind)kinds[i];
		refused(fx, &a, -EOPNOTSUPP);
	}
}

static void reg__ranges(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);
	struct file other;

	file_make(&other, 1, true);
	a.fd = other.fd;
	refused(fx, &a, -EINVAL);
	file_end(&other);
	a = good(fx);
	assert_int_equal(ftruncate(fx->file.fd, 2 * PAGE - 10), 0);
	refused(fx, &a, -EINVAL);
	a.length = 2 * PAGE + 1;
	refused(fx, &a, -EINVAL);
	a.length = 2 * PAGE; /* the last page is there, if only in part */
	daxlease_dereg_mr(accepted(fx, &a));
	munmap(fx->file.map + PAGE, PAGE);
	refused(fx, &a, -EFAULT);
	a.addr = fx->file.map + PAGE;
	a.length = PAGE;
	refused(fx, &a, -EFAULT);
}

static void reg__descriptors(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);
	int path_fd = open(fx->file.path, O_PATH);
	int dir_fd = open(".", O_RDONLY | O_DIRECTORY);

	a.fd = -1;
	refused(fx, &a, -EBADF);
	a.fd = 12345;
	refused(fx, &a, -EBADF);
	a.fd = path_fd;
	refused(fx, &a, -EBADF);
	a.fd = dir_fd;
	refused(fx, &a, -EINVAL);
	close(path_fd);
	close(dir_fd);
}

static void reg__mappings(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);

	a.addr = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fx->file.fd, 0);
	a.length = PAGE;
	refused(fx, &a, -EOPNOTSUPP);
	munmap(a.addr, PAGE);
	a.addr = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fx->file.fd, 0);
	refused(fx, &a, -EOPNOTSUPP);
	a.access = IBV_ACCESS_REMOTE_READ;
	daxlease_dereg_mr(accepted(fx, &a));
	munmap(a.addr, PAGE);
}

static void reg__file_open_elsewhere(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);
	int other = open(fx->file.path, O_RDONLY);

	refused(fx, &a, -EAGAIN);
	close(other);
	daxlease_dereg_mr(accepted(fx, &a));
}

static void reg__description_leased_already(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);
	struct daxlease_mr *mr = NULL;

	assert_int_equal(fcntl(fx->file.fd, F_SETLEASE, F_WRLCK), 0);
	fix_forget_log(fx);
	assert_int_equal(attempt(fx, &a, &mr), -EAGAIN);
	assert_int_equal(atomic_load(&fx->nlines), 1);
	assert_int_equal(file_lease(&fx->file), F_WRLCK);
	assert_int_equal(fcntl(fx->file.fd, F_SETLEASE, F_UNLCK), 0);
}

static void reg__not_the_owner(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);

	fault_arm_name("sys_set_signal", 1, 1);
	refused(fx, &a, -EINVAL); /* an errno nobody expects is passed on and said */
	not_the_owner(true);
	refused(fx, &a, -EACCES);
	not_the_owner(false);
}

static void reg__filesystem_without_leases(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);

	fault_refuse_leases(-EINVAL);
	refused(fx, &a, -EOPNOTSUPP);
	fault_refuse_leases(0);
}

static void reg__the_device(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);

	fake_odp(false);
	refused(fx, &a, -EOPNOTSUPP);
	assert_true(fix_said(fx, "on-demand paging"));
	fake_odp(true);
	fake_fail_reg(1, EINVAL);
	refused(fx, &a, -EINVAL);
	fake_fail_reg(1, ENOMEM);
	refused(fx, &a, -ENOMEM);
}

static void reg__out_of_memory_and_descriptors(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);

	fault_arm_name("sys_realloc", 1, 1);
	refused(fx, &a, -ENOMEM);
	fault_arm_name("sys_dup", 1, 1);
	refused(fx, &a, -EMFILE);
	fault_arm_name("sys_access_mode", 1, 1);
	refused(fx, &a, -EBADF);
	fault_arm_name("sys_file_info", 1, 1);
	refused(fx, &a, -ENOMEM);
	fault_arm_name("sys_file_size", 1, 1);
	refused(fx, &a, -EIO);
}

static void shorten(void *arg)
{
	assert_int_equal(truncate(arg, PAGE), 0);
}

/* What was true when the range was looked at need not be once there is a lease. */
static void reg__file_shrinks_before_it_is_leased(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);

	fault_before("sys_dup", shorten, fx->file.path);
	refused(fx, &a, -EINVAL);
	a.length = PAGE;
	daxlease_dereg_mr(accepted(fx, &a));
}

static void reg__no_memory_for_the_objects(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);

	daxlease_ctx_set_log(fx->ctx, NULL, DAXLEASE_LOG_ERR, NULL);
	for (unsigned int nth = 1; nth <= 2; nth++) {
		struct daxlease_mr *mr = NULL;

		fault_arm_name("sys_calloc", nth, 1);
		assert_int_equal(attempt(fx, &a, &mr), -ENOMEM);
		assert_null(mr);
		assert_nothing_held(fx);
	}
}

static void reg__page_cache_file(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);

	assert_int_equal(fchmod(fx->file.fd, 0600), 0);
	fake_fail_pinned(EFAULT);
	refused(fx, &a, -EOPNOTSUPP);
	assert_non_null(strstr(fx->lines[0], "page cache"));
}

static void reg__plain_memory_refused(void **state)
{
	static char memory[2 * PAGE];
	struct fix *fx = *state;
	struct attempt a = good(fx);

	a.fd = -1;
	a.addr = memory;
	a.length = sizeof(memory);
	fake_fail_pinned(EFAULT);
	refused(fx, &a, -EFAULT);
	fake_fail_pinned(ENOMEM);
	fault_memlock(PAGE);
	refused(fx, &a, -ENOMEM);
	assert_non_null(strstr(fx->lines[0], "RLIMIT_MEMLOCK"));
	fault_memlock(UINT64_MAX);
	refused(fx, &a, -ENOMEM);
	assert_null(strstr(fx->lines[0], "RLIMIT_MEMLOCK"));
}

/* ------------------------------------------------------------------------- */
/* Accepted */

static void reg__fs_dax(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);
	struct daxlease_mr *mr = accepted(fx, &a);
	struct daxlease_mr_info info = info_of(mr);
	struct ibv_mr *ibv_mr = daxlease_mr_get_ibv_mr(mr);

	assert_int_equal(file_lease(&fx->file), F_WRLCK);
	assert_int_equal(fake_last_access(), ACCESS | IBV_ACCESS_ON_DEMAND);
	assert_int_equal(fake_last_length(), fx->file.size);
	assert_int_equal(fake_prefetches(), 1);
	assert_int_equal(info.state, DAXLEASE_STATE_ACTIVE);
	assert_true(info.kind == DAXLEASE_KIND_LEASE || info.kind == DAXLEASE_KIND_DELEG);
	assert_true(info.on_demand);
	assert_true(info.unseen & DAXLEASE_UNSEEN_WRITE);
	assert_true(info.lease_fd >= 0 && info.lease_fd != fx->file.fd);
	assert_int_equal(info.last_error, 0);
	assert_ptr_equal(info.addr, a.addr);
	assert_int_equal(info.length, a.length);
	assert_int_equal(info.generation, 1);
	assert_int_equal(info.registered, a.length);
	assert_int_equal(info.lkey, ibv_mr->lkey);
	assert_int_equal(info.rkey, ibv_mr->rkey);
	assert_int_equal(daxlease_dereg_mr(mr), 0);
	assert_nothing_held(fx);
}

static void reg__delegation_preferred(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);
	struct daxlease_mr *mr;

	fault_deleg(true);
	mr = accepted(fx, &a);
	assert_int_equal(info_of(mr).kind, DAXLEASE_KIND_DELEG);
	assert_int_equal(daxlease_dereg_mr(mr), 0);
	a.opts.kind = DAXLEASE_KIND_LEASE;
	mr = accepted(fx, &a);
	assert_int_equal(info_of(mr).kind, DAXLEASE_KIND_LEASE);
	assert_true(info_of(mr).unseen & DAXLEASE_UNSEEN_NAMESPACE);
	assert_int_equal(daxlease_dereg_mr(mr), 0);
}

static void reg__descriptor_closed_afterwards(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);
	struct daxlease_mr *mr;
	struct breaker b;

	mr = accepted(fx, &a);
	close(fx->file.fd);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, breaker_done(&b));
	assert_int_equal(b.err, 0);
	breaker_end(&b);
	assert_int_equal(daxlease_dereg_mr(mr), 0);
	fx->file.fd = open(fx->file.path, O_RDWR | O_CLOEXEC);
}

static void reg__prefetch_refused(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);

	fault_arm_name("verbs_prefetch", 1, 1);
	assert_int_equal(daxlease_dereg_mr(accepted(fx, &a)), 0);
}

static void reg__read_only(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);
	struct daxlease_mr *mr;
	struct file f;

	file_make_readonly(&f, 2);
	a.fd = f.fd;
	a.addr = f.map;
	a.length = f.size;
	refused(fx, &a, -EOPNOTSUPP);
	a.access = IBV_ACCESS_REMOTE_READ;
	mr = accepted(fx, &a);
	assert_int_equal(file_lease(&f), F_RDLCK);
	assert_int_equal(daxlease_dereg_mr(mr), 0);
	assert_int_equal(file_lease(&f), F_UNLCK);
	file_end(&f);
}

static void reg__plain_memory(void **state)
{
	static char memory[3 * PAGE];
	struct fix *fx = *state;
	struct attempt a = good(fx);
	struct daxlease_mr *mr;
	struct daxlease_mr_info info;

	a.fd = -1;
	a.addr = memory;
	a.length = sizeof(memory);
	mr = accepted(fx, &a);
	info = info_of(mr);
	assert_int_equal(fake_last_access(), ACCESS);
	assert_int_equal(info.kind, DAXLEASE_KIND_NONE);
	assert_int_equal(info.lease_fd, -1);
	assert_int_equal(info.state, DAXLEASE_STATE_ACTIVE);
	assert_false(info.on_demand);
	assert_int_equal(daxlease_mr_recall(mr), -EOPNOTSUPP);
	assert_int_equal(daxlease_mr_regain(mr), -EOPNOTSUPP);
	assert_int_equal(daxlease_mr_drained(mr), -EINVAL);
	fake_fail_dereg(1, EBUSY);
	assert_int_equal(daxlease_dereg_mr(mr), -EBUSY);
	assert_int_equal(daxlease_dereg_mr(mr), 0);
	assert_nothing_held(fx);
}

static void reg__regions_of_a_file_share_its_lease(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);
	struct daxlease_stats stats;
	struct daxlease_mr *mr[2];

	a.length = PAGE;
	mr[0] = accepted(fx, &a);
	a.addr = fx->file.map + PAGE + 100;
	a.length = 200;
	mr[1] = accepted(fx, &a);
	assert_int_equal(info_of(mr[0]).lease_fd, info_of(mr[1]).lease_fd);
	fix_stats(fx, &stats);
	assert_int_equal(stats.regions, 2);
	assert_int_equal(stats.leases, 1);
	assert_int_equal(daxlease_dereg_mr(mr[0]), 0);
	assert_int_equal(file_lease(&fx->file), F_WRLCK);
	assert_int_equal(daxlease_dereg_mr(mr[1]), 0);
	assert_nothing_held(fx);
}

static void reg__second_region_of_another_kind(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);
	struct daxlease_mr *first, *mr = NULL;

	a.opts.kind = DAXLEASE_KIND_LEASE;
	first = accepted(fx, &a);
	a.opts.kind = DAXLEASE_KIND_DELEG;
	assert_int_equal(attempt(fx, &a, &mr), -EINVAL);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 1);
	assert_null(mr);
	assert_int_equal(daxlease_dereg_mr(first), 0);
}

/* The lease of the first is for reading: what the second needs is another. */
static void reg__second_region_writes(void **state)
{
	const struct daxlease_mr_opts none = { .size = sizeof(none) };
	struct fix *fx = *state;
	struct user first = { 0 }, second = { 0 };
	struct breaker b;
	struct file f, rw;

	file_make_readonly(&f, 2);
	assert_int_equal(user_try(fx, &first, &f, 0, 2, &none), 0);
	breaker_open(&b, &f, O_WRONLY);
	EVENTUALLY(fx, breaker_done(&b));
	breaker_end(&b);
	EVENTUALLY(fx, user_state(&first) == DAXLEASE_STATE_RELEASED);
	rw = f;
	rw.fd = open(f.path, O_RDWR | O_CLOEXEC);
	rw.prot = PROT_READ | PROT_WRITE;
	rw.map = mmap(NULL, rw.size, rw.prot, MAP_SHARED, rw.fd, 0);
	fix_forget_log(fx);
	assert_int_equal(user_try(fx, &second, &rw, 0, 2, &none), -EAGAIN);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 1);
	user_dereg(&first);
	munmap(rw.map, rw.size);
	close(rw.fd);
	file_end(&f);
}

static void reg__while_recalled(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);
	struct daxlease_mr *first = accepted(fx, &a), *mr = NULL;

	assert_int_equal(daxlease_mr_recall(first), 0);
	fix_forget_log(fx);
	assert_int_equal(attempt(fx, &a, &mr), -EAGAIN);
	EVENTUALLY(fx, fix_lines(fx, DAXLEASE_LOG_ERR) == 1); /* another thread may be at it */
	assert_null(mr);
	assert_int_equal(daxlease_dereg_mr(first), 0);
}

static void reg__while_breaking(void **state)
{
	struct fix *fx = *state;
	struct attempt a = good(fx);
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	struct daxlease_mr *mr = NULL;
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, atomic_load(&u.drains) == 1);
	assert_int_equal(attempt(fx, &a, &mr), -EAGAIN);
	assert_int_equal(daxlease_mr_drained(u.mr), 0);
	EVENTUALLY(fx, breaker_done(&b));
	/* It has the file open now. */
	EVENTUALLY(fx, user_state(&u) == DAXLEASE_STATE_RELEASED);
	assert_int_equal(attempt(fx, &a, &mr), -EAGAIN);
	assert_null(mr);
	breaker_end(&b);
	assert_int_equal(attempt(fx, &a, &mr), 0);
	assert_int_equal(file_lease(&fx->file), F_WRLCK);
	assert_int_equal(user_state(&u), DAXLEASE_STATE_RELEASED);
	/* Only the released region is left: the file is free again. */
	assert_int_equal(daxlease_dereg_mr(mr), 0);
	EVENTUALLY(fx, file_lease(&fx->file) == F_UNLCK);
	user_dereg(&u);
}

/* A probe, in the midst of taking the lease for a moment. */
struct probing {
	int fd;
	atomic_bool midst;
	int err;
};

static void linger(void *arg)
{
	struct probing *probing = arg;

	atomic_store(&probing->midst, true);
	usleep(1000);
}

static void *probe(void *arg)
{
	struct daxlease_caps caps = { .size = sizeof(caps) };
	struct probing *probing = arg;

	probing->err = daxlease_probe(probing->fd, NULL, &caps);
	return NULL;
}

static void reg__while_probed(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	pthread_t thread;

	for (int i = 0; i < 200; i++) {
		struct probing probing = { .fd = fx->file.fd };

		fault_before("sys_set_lease", linger, &probing);
		assert_int_equal(pthread_create(&thread, NULL, probe, &probing), 0);
		EVENTUALLY(fx, atomic_load(&probing.midst));
		user_reg(fx, &u, 0, 0);
		pthread_join(thread, NULL);
		assert_int_equal(probing.err, 0);
		assert_int_equal(user_state(&u), DAXLEASE_STATE_ACTIVE);
		assert_int_equal(file_lease(&fx->file), F_WRLCK);
		user_dereg(&u);
	}
}

static void reg__many_files(void **state)
{
	enum {
		FILES = 70
	};
	static struct file files[FILES];
	struct daxlease_mr *mr[FILES];
	struct fix *fx = *state;
	struct attempt a = good(fx);
	struct daxlease_stats stats;

	for (unsigned int i = 0; i < FILES; i++) {
		file_make(&files[i], 1, true);
		a.fd = files[i].fd;
		a.addr = files[i].map;
		a.length = PAGE;
		mr[i] = accepted(fx, &a);
	}
	fix_stats(fx, &stats);
	assert_int_equal(stats.leases, FILES);
	for (unsigned int i = 0; i < FILES; i++) {
		assert_int_equal(daxlease_dereg_mr(mr[i]), 0);
		assert_int_equal(file_lease(&files[i]), F_UNLCK);
		file_end(&files[i]);
	}
	assert_nothing_held(fx);
}

/* ------------------------------------------------------------------------- */
/* Accessors, queue pairs, fork */

static void dereg__null(void **state)
{
	(void)state;
	assert_int_equal(daxlease_dereg_mr(NULL), 0);
}

static void calls__null_region(void **state)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct ibv_qp qp = { 0 };

	(void)state;
	assert_int_equal(daxlease_mr_get_info(NULL, &info), -EINVAL);
	assert_int_equal(daxlease_mr_add_qp(NULL, &qp), -EINVAL);
	assert_int_equal(daxlease_mr_remove_qp(NULL, &qp), -EINVAL);
	assert_int_equal(daxlease_mr_drained(NULL), -EINVAL);
	assert_int_equal(daxlease_mr_recall(NULL), -EINVAL);
	assert_int_equal(daxlease_mr_regain(NULL), -EINVAL);
	assert_null(daxlease_mr_get_ibv_mr(NULL));
	assert_null(daxlease_mr_get_userdata(NULL));
	assert_int_equal(daxlease_mr_get_state(NULL), DAXLEASE_STATE_RELEASED);
}

static void info__sizes(void **state)
{
	struct fix *fx = *state;
	struct daxlease_mr_info info = { .size = 4 };
	struct user u = { 0 };

	user_reg(fx, &u, 0, 0);
	assert_ptr_equal(daxlease_mr_get_userdata(u.mr), &u);
	assert_int_equal(daxlease_mr_get_info(u.mr, NULL), -EINVAL);
	assert_int_equal(daxlease_mr_get_info(u.mr, &info), -EINVAL);
	info = (struct daxlease_mr_info){ .size = offsetof(struct daxlease_mr_info, rkey),
					  .rkey = 77 };
	assert_int_equal(daxlease_mr_get_info(u.mr, &info), 0);
	assert_true(info.lkey != 0);
	assert_int_equal(info.rkey, 77);
	user_dereg(&u);
}

static void qp__add_and_remove(void **state)
{
	struct ibv_qp qps[9] = { 0 };
	struct fix *fx = *state;
	struct user u = { 0 };

	user_reg(fx, &u, 0, 0);
	assert_int_equal(daxlease_mr_add_qp(u.mr, NULL), -EINVAL);
	assert_int_equal(daxlease_mr_remove_qp(u.mr, NULL), -EINVAL);
	assert_int_equal(daxlease_mr_remove_qp(u.mr, &qps[0]), -ENOENT);
	fault_arm_name("sys_realloc", 1, 1);
	assert_int_equal(daxlease_mr_add_qp(u.mr, &qps[0]), -ENOMEM);
	for (int i = 0; i < 9; i++)
		assert_int_equal(daxlease_mr_add_qp(u.mr, &qps[i]), 0);
	assert_int_equal(daxlease_mr_add_qp(u.mr, &qps[3]), -EEXIST);
	assert_int_equal(daxlease_mr_remove_qp(u.mr, &qps[3]), 0);
	assert_int_equal(daxlease_mr_remove_qp(u.mr, &qps[3]), -ENOENT);
	assert_int_equal(daxlease_mr_remove_qp(u.mr, &qps[8]), 0);
	user_dereg(&u);
	assert_int_equal(fake_fences(), 0);
}

static void *remove_qp(void *arg)
{
	void **args = arg;
	struct user *u = args[0];

	atomic_store(&u->seen, daxlease_mr_remove_qp(u->mr, args[1]));
	return NULL;
}

/* Taking a queue pair off waits for the fence that may be at it. */
static void qp__removed_during_the_fence(void **state)
{
	struct ibv_qp qp = { 0 };
	struct fix *fx = *state;
	struct user u = { .drain_answer = -EIO, .seen = 1 };
	void *args[2] = { &u, &qp };
	struct breaker b;
	pthread_t thread;

	user_reg(fx, &u, 0, 0);
	assert_int_equal(daxlease_mr_add_qp(u.mr, &qp), 0);
	fix_serve(fx);
	fake_shut_dereg();
	breaker_open(&b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, fake_waiting() == 1);
	assert_int_equal(pthread_create(&thread, NULL, remove_qp, args), 0);
	NOT_FOR_MS(fx, 30, atomic_load(&u.seen) != 1);
	fake_open_dereg();
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&u.seen), 0);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	breaker_end(&b);
	user_dereg(&u);
}

static void call_all(struct user *u)
{
	struct daxlease_mr *mr = u->mr, *other = NULL;
	struct ibv_qp qp = { 0 };
	struct daxlease_mr_info info = { .size = sizeof(info) };

	u->seen = daxlease_dereg_mr(mr) == -EDEADLK && daxlease_mr_recall(mr) == -EDEADLK &&
		  daxlease_mr_regain(mr) == -EDEADLK && daxlease_mr_add_qp(mr, &qp) == 0 &&
		  daxlease_mr_remove_qp(mr, &qp) == 0 && daxlease_mr_get_info(mr, &info) == 0 &&
		  daxlease_mr_get_userdata(mr) == u && !other;
}

static void callback__calls_that_would_wait(void **state)
{
	struct fix *fx = *state;
	struct user u = { .on_drain = call_all };
	struct breaker b;

	user_reg(fx, &u, 0, 0);
	break_and_release(fx, &u, &b);
	assert_int_equal(atomic_load(&u.seen), 1);
	breaker_end(&b);
	u.on_release = call_all;
	u.on_drain = NULL;
	atomic_store(&u.seen, 0);
	assert_int_equal(daxlease_mr_regain(u.mr), 0);
	break_and_release(fx, &u, &b);
	assert_int_equal(atomic_load(&u.seen), 1);
	breaker_end(&b);
	user_dereg(&u);
}

/* What a child sees; each wrong answer sets a bit. */
static int child_calls(struct fix *fx, struct user *u)
{
	const siginfo_t si = { 0 };
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct daxlease_stats stats = { .size = sizeof(stats) };
	struct daxlease_mr *mr = NULL;
	struct ibv_qp qp = { 0 };
	const bool ok[] = {
		daxlease_reg_mr(fx->ctx, &fake_pd, fx->file.fd, fx->file.map, PAGE, 0, NULL, &mr) ==
			-ECHILD,
		daxlease_dereg_mr(u->mr) == -ECHILD,
		daxlease_mr_recall(u->mr) == -ECHILD,
		daxlease_mr_regain(u->mr) == -ECHILD,
		daxlease_mr_drained(u->mr) == -ECHILD,
		daxlease_mr_add_qp(u->mr, &qp) == -ECHILD,
		daxlease_mr_remove_qp(u->mr, &qp) == -ECHILD,
		daxlease_mr_get_info(u->mr, &info) == -ECHILD,
		daxlease_mr_get_ibv_mr(u->mr) == NULL,
		daxlease_mr_get_state(u->mr) == DAXLEASE_STATE_RELEASED,
		daxlease_mr_get_userdata(u->mr) == u,
		daxlease_ctx_get_stats(fx->ctx, &stats) == -ECHILD,
		daxlease_ctx_get_fd(fx->ctx) == -ECHILD,
		daxlease_ctx_dispatch(fx->ctx) == -ECHILD,
		daxlease_ctx_notify(fx->ctx, &si) == -ECHILD,
		daxlease_ctx_set_log(fx->ctx, NULL, 0, NULL) == -ECHILD,
		daxlease_ctx_free(fx->ctx) == -ECHILD,
		fake_live() == 1,
	};
	int wrong = 0;

	for (size_t i = 0; i < sizeof(ok) / sizeof(ok[0]); i++) {
		if (!ok[i]) {
			fprintf(stderr, "child: call %zu\n", i);
			wrong = 1;
		}
	}
	return wrong;
}

static void fork__child_owns_nothing(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct breaker b;
	int status;
	pid_t pid;

	user_reg(fx, &u, 0, 0);
	pid = fork();
	if (!pid)
		_exit(child_calls(fx, &u));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	/* The parent has lost nothing. */
	assert_int_equal(file_lease(&fx->file), F_WRLCK);
	break_and_release(fx, &u, &b);
	breaker_end(&b);
	user_dereg(&u);
}

/* ------------------------------------------------------------------------- */
/* A program with handlers of its own forks while leases are being taken */

static struct daxlease_mr *_Atomic forking_mr;

/* Was there before the library's, if it has any, so that it comes after them. */
static void prepare_with_calls(void)
{
	struct daxlease_mr *mr = atomic_load(&forking_mr);

	for (int i = 0; mr && i < 20; i++) {
		daxlease_mr_get_state(mr);
		usleep(100);
	}
}

static void *retake(void *arg)
{
	struct daxlease_mr *mr = arg;

	while (atomic_load(&forking_mr)) {
		if (daxlease_mr_regain(mr) != -EAGAIN)
			return mr;
	}
	return NULL;
}

/* With a lease of its own, of another file. */
static int use_in_child(int fd)
{
	struct daxlease_caps caps = { .size = sizeof(caps) };
	struct daxlease_ctx *ctx;
	bool ok;

	alarm(10);
	fault_after_fork();
	ok = daxlease_ctx_new(NULL, &ctx) == 0;
	ok = ok && daxlease_probe(fd, NULL, &caps) == 0;
	ok = ok && caps.kinds[DAXLEASE_KIND_LEASE].error == 0;
	return ok && daxlease_ctx_free(ctx) == 0 ? 0 : 1;
}

static int exit_of(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

static int fork_again_and_again(void)
{
	static struct fix fx;
	struct user u = { 0 };
	struct breaker b;
	struct file f;
	pthread_t thread;
	void *wrong;
	int failed = 0;

	alarm(40);
	fix_begin(&fx, &mode_thread);
	assert_int_equal(fix_open(&fx), 0);
	assert_int_equal(daxlease_ctx_set_log(fx.ctx, NULL, DAXLEASE_LOG_ERR, NULL), 0);
	user_reg(&fx, &u, DAXLEASE_MR_REGAIN, 0);
	break_and_release(&fx, &u, &b); /* and stays */
	atomic_store(&forking_mr, u.mr);
	assert_int_equal(pthread_create(&thread, NULL, retake, u.mr), 0);
	for (int i = 0; i < 100 && !failed; i++) {
		pid_t pid;

		file_make(&f, 1, true);
		pid = fork();
		if (!pid)
			_exit(use_in_child(f.fd));
		failed = exit_of(pid);
		file_end(&f);
	}
	atomic_store(&forking_mr, NULL);
	pthread_join(thread, &wrong);
	breaker_end(&b);
	user_dereg(&u);
	assert_int_equal(daxlease_ctx_free(fx.ctx), 0);
	file_end(&fx.file);
	return failed || wrong;
}

static void fork__handlers_may_call_the_library(void **state)
{
	pid_t pid;

	(void)state;
	pid = fork();
	if (!pid)
		_exit(fork_again_and_again());
	assert_int_equal(exit_of(pid), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_THREAD(reg__arguments),
		IN_THREAD(reg__options),
		IN_THREAD(reg__options_newer_than_the_library),
		IN_THREAD(reg__kinds_that_are_not_there),
		IN_THREAD(reg__ranges),
		IN_THREAD(reg__descriptors),
		IN_THREAD(reg__mappings),
		IN_THREAD(reg__file_open_elsewhere),
		IN_THREAD(reg__description_leased_already),
		IN_THREAD(reg__not_the_owner),
		IN_THREAD(reg__filesystem_without_leases),
		IN_THREAD(reg__the_device),
		IN_THREAD(reg__out_of_memory_and_descriptors),
		IN_THREAD(reg__file_shrinks_before_it_is_leased),
		IN_THREAD(reg__no_memory_for_the_objects),
		IN_THREAD(reg__page_cache_file),
		IN_THREAD(reg__plain_memory_refused),
		IN_ALL_MODES(reg__fs_dax),
		IN_THREAD(reg__delegation_preferred),
		IN_THREAD(reg__descriptor_closed_afterwards),
		IN_THREAD(reg__prefetch_refused),
		IN_THREAD(reg__read_only),
		IN_ALL_MODES(reg__plain_memory),
		IN_ALL_MODES(reg__regions_of_a_file_share_its_lease),
		IN_THREAD(reg__second_region_of_another_kind),
		IN_THREAD(reg__second_region_writes),
		IN_ALL_MODES(reg__while_recalled),
		IN_ALL_MODES(reg__while_breaking),
		IN_THREAD(reg__while_probed),
		IN_THREAD(reg__many_files),
		IN_THREAD(dereg__null),
		IN_THREAD(calls__null_region),
		IN_THREAD(info__sizes),
		IN_THREAD(qp__add_and_remove),
		IN_ALL_MODES(qp__removed_during_the_fence),
		IN_ALL_MODES(callback__calls_that_would_wait),
		IN_ALL_MODES(fork__child_owns_nothing),
		cmocka_unit_test(fork__handlers_may_call_the_library),
	};

	pthread_atfork(prepare_with_calls, NULL, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
