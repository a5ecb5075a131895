// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "fault.h"
#include "lease.h"
#include "support.h"

static struct lease_notice notice(void)
{
	return (struct lease_notice){ .signo = SIGURG,
				      .owner = { .type = F_OWNER_TID, .id = sys_gettid() } };
}

static int setup(void **state)
{
	static struct file file;

	fault_reset();
	file_make(&file, 1, true);
	*state = &file;
	return 0;
}

static int teardown(void **state)
{
	assert_int_equal(file_lease(*state), F_UNLCK);
	file_end(*state);
	fault_reset();
	return 0;
}

/* Asks the machine: is F_SETDELEG there, for this file? */
static bool have_deleg(const struct file *f)
{
	if (sys_set_deleg(f->fd, F_WRLCK))
		return false;
	assert_int_equal(sys_set_deleg(f->fd, F_UNLCK), 0);
	return true;
}

static const struct lease_want rd = { .access_mode = O_RDONLY };
static const struct lease_want wr = { .access_mode = O_RDWR };

static int take(const struct file *f, enum daxlease_kind kind, struct lease_want want,
		const struct lease_ops **ret_ops)
{
	struct lease_notice n = notice();

	return lease_take(kind, f->fd, want, &n, ret_ops);
}

static void lease_kind__table(void **state)
{
	(void)state;
	assert_ptr_equal(lease_kind_at(0), &kind_layout_ops);
	assert_ptr_equal(lease_kind_at(1), &kind_layout_rfc_ops);
	assert_ptr_equal(lease_kind_at(2), &kind_guard_ops);
	assert_ptr_equal(lease_kind_at(3), &kind_deleg_ops);
	assert_ptr_equal(lease_kind_at(4), &kind_lease_ops);
	assert_null(lease_kind_at(5));
	assert_ptr_equal(lease_kind_find(DAXLEASE_KIND_LEASE), &kind_lease_ops);
	assert_ptr_equal(lease_kind_find(DAXLEASE_KIND_DELEG), &kind_deleg_ops);
	assert_ptr_equal(lease_kind_find(DAXLEASE_KIND_LAYOUT), &kind_layout_ops);
	assert_ptr_equal(lease_kind_find(DAXLEASE_KIND_GUARD), &kind_guard_ops);
	assert_null(lease_kind_find(DAXLEASE_KIND_AUTO));
}

static void lease_type_for__access_modes(void **state)
{
	(void)state;
	assert_int_equal(lease_type_for(O_RDONLY), F_RDLCK);
	assert_int_equal(lease_type_for(O_WRONLY), F_WRLCK);
	assert_int_equal(lease_type_for(O_RDWR), F_WRLCK);
}

static void lease_query_of__all_pairs(void **state)
{
	(void)state;
	assert_int_equal(lease_query_of(F_WRLCK, F_WRLCK), LEASE_HELD);
	assert_int_equal(lease_query_of(F_RDLCK, F_RDLCK), LEASE_HELD);
	assert_int_equal(lease_query_of(F_WRLCK, F_RDLCK), LEASE_BREAKING_READER);
	assert_int_equal(lease_query_of(F_WRLCK, F_UNLCK), LEASE_BREAKING);
	assert_int_equal(lease_query_of(F_RDLCK, F_UNLCK), LEASE_BREAKING);
	assert_int_equal(lease_query_of(F_WRLCK, -EBADF), LEASE_BREAKING);
}

static void kind_lease__take_query_give_back(void **state)
{
	const struct file *f = *state;
	const struct lease_ops *ops = NULL;
	struct f_owner_ex owner;

	assert_int_equal(take(f, DAXLEASE_KIND_LEASE, wr, &ops), 0);
	assert_ptr_equal(ops, &kind_lease_ops);
	assert_int_equal(file_lease(f), F_WRLCK);
	assert_int_equal(fcntl(f->fd, F_GETSIG), SIGURG);
	assert_int_equal(fcntl(f->fd, F_GETOWN_EX, &owner), 0);
	assert_int_equal(owner.pid, sys_gettid());
	assert_int_equal(ops->query(f->fd, wr), LEASE_HELD);
	assert_int_equal(ops->give_back(f->fd, (struct lease_want){ 0 }, false), 0);
	assert_int_equal(ops->give_back(f->fd, (struct lease_want){ 0 }, false), -ESTALE);
}

static void kind_lease__breaking(void **state)
{
	const struct file *f = *state;
	const struct lease_ops *ops = &kind_lease_ops;
	struct breaker b;

	assert_int_equal(take(f, DAXLEASE_KIND_LEASE, wr, &ops), 0);
	breaker_open(&b, f, O_RDONLY | O_NONBLOCK);
	while (!breaker_done(&b))
		sleep_ms(1);
	assert_int_equal(b.err, EWOULDBLOCK);
	assert_int_equal(ops->query(f->fd, wr), LEASE_BREAKING_READER);
	breaker_end(&b);
	breaker_open(&b, f, O_WRONLY | O_NONBLOCK);
	while (!breaker_done(&b))
		sleep_ms(1);
	assert_int_equal(ops->query(f->fd, wr), LEASE_BREAKING);
	breaker_end(&b);
	assert_int_equal(ops->give_back(f->fd, (struct lease_want){ 0 }, false), 0);
}

static void lease_take__held_already(void **state)
{
	struct file *f = *state;
	const struct lease_ops *ops = NULL;

	assert_int_equal(take(f, DAXLEASE_KIND_AUTO, wr, &ops), 0);
	assert_int_equal(take(f, DAXLEASE_KIND_AUTO, wr, &ops), -EAGAIN);
	assert_int_equal(ops->give_back(f->fd, (struct lease_want){ 0 }, false), 0);
}

static void lease_take__read_lease_held_already(void **state)
{
	const struct lease_ops *ops = NULL;
	struct file f;

	(void)state;
	file_make_readonly(&f, 1);
	assert_int_equal(take(&f, DAXLEASE_KIND_LEASE, rd, &ops), 0);
	assert_int_equal(take(&f, DAXLEASE_KIND_LEASE, rd, &ops), -EAGAIN);
	assert_int_equal(ops->give_back(f.fd, (struct lease_want){ 0 }, false), 0);
	file_end(&f);
}

static void lease_take__failure_leaves_nothing(void **state)
{
	const struct file *f = *state;
	const struct lease_ops *ops = &kind_deleg_ops;
	struct f_owner_ex owner;
	int other = open(f->path, O_RDONLY);

	assert_int_equal(take(f, DAXLEASE_KIND_LEASE, wr, &ops), -EAGAIN);
	assert_ptr_equal(ops, &kind_deleg_ops);
	assert_int_equal(file_lease(f), F_UNLCK);
	assert_int_equal(fcntl(f->fd, F_GETSIG), 0);
	assert_int_equal(fcntl(f->fd, F_GETOWN_EX, &owner), 0);
	assert_int_equal(owner.pid, 0);
	close(other);
}

static void lease_take__each_step_fails(void **state)
{
	static const char *const steps[] = { "sys_set_owner", "sys_set_signal", "sys_set_lease" };
	const struct file *f = *state;
	const struct lease_ops *ops;

	for (size_t i = 0; i < 3; i++) {
		fault_arm_name(steps[i], 1, 1);
		assert_true(take(f, DAXLEASE_KIND_LEASE, wr, &ops) < 0);
		assert_int_equal(file_lease(f), F_UNLCK);
		assert_int_equal(fcntl(f->fd, F_GETSIG), 0);
	}
}

static void lease_take__auto_takes_the_strongest(void **state)
{
	const struct file *f = *state;
	const struct lease_ops *ops = NULL;

	assert_int_equal(take(f, DAXLEASE_KIND_AUTO, wr, &ops), 0);
	assert_ptr_equal(ops, have_deleg(f) ? &kind_deleg_ops : &kind_lease_ops);
	assert_int_equal(ops->give_back(f->fd, (struct lease_want){ 0 }, false), 0);
}

static void lease_take__deleg_where_it_is_and_where_not(void **state)
{
	const struct file *f = *state;
	const struct lease_ops *ops = NULL;
	int err = take(f, DAXLEASE_KIND_DELEG, wr, &ops);

	assert_int_equal(err, have_deleg(f) ? 0 : -EOPNOTSUPP);
	if (!err)
		assert_int_equal(ops->give_back(f->fd, (struct lease_want){ 0 }, false), 0);
}

static void kind_deleg__take_query_give_back(void **state)
{
	const struct file *f = *state;
	const struct lease_ops *ops = NULL;

	fault_deleg(true);
	assert_int_equal(take(f, DAXLEASE_KIND_AUTO, wr, &ops), 0);
	assert_ptr_equal(ops, &kind_deleg_ops);
	assert_int_equal(ops->query(f->fd, wr), LEASE_HELD);
	fault_arm_name("sys_get_deleg", 1, 1);
	assert_int_equal(ops->query(f->fd, wr), LEASE_BREAKING);
	assert_int_equal(ops->give_back(f->fd, (struct lease_want){ 0 }, false), 0);
	assert_int_equal(ops->give_back(f->fd, (struct lease_want){ 0 }, false), -ESTALE);
}

static void lease_take__filesystem_without_leases(void **state)
{
	const struct lease_ops *ops = NULL;
	struct lease_notice n = notice();
	int fd = open("/proc/self/status", O_RDONLY);

	(void)state;
	/* Whatever it says, it is said, and not by the errno of something else. */
	assert_true(fd >= 0);
	assert_int_equal(lease_take(DAXLEASE_KIND_DELEG, 9999, rd, &n, &ops), -EBADF);
	close(fd);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(lease_kind__table),
		CASE(lease_type_for__access_modes),
		CASE(lease_query_of__all_pairs),
		CASE(kind_lease__take_query_give_back),
		CASE(kind_lease__breaking),
		CASE(lease_take__held_already),
		CASE(lease_take__read_lease_held_already),
		CASE(lease_take__failure_leaves_nothing),
		CASE(lease_take__each_step_fails),
		CASE(lease_take__auto_takes_the_strongest),
		CASE(lease_take__deleg_where_it_is_and_where_not),
		CASE(kind_deleg__take_query_give_back),
		CASE(lease_take__filesystem_without_leases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
