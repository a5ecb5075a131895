// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake_verbs.h"
#include "fault.h"
#include "support.h"
#include "sys.h"

static int setup(void **state)
{
	static struct file file;

	fault_reset();
	fake_reset();
	file_make(&file, 1, true);
	*state = &file;
	return 0;
}

static int teardown(void **state)
{
	struct file *f = *state;

	assert_int_equal(file_lease(f), F_UNLCK);
	file_end(f);
	fault_reset();
	return 0;
}

static struct daxlease_caps probe(const struct file *f, struct ibv_context *device)
{
	struct daxlease_caps caps = { .size = sizeof(caps) };
	unsigned int fds = count_fds();

	assert_int_equal(daxlease_probe(f->fd, device, &caps), 0);
	assert_int_equal(count_fds(), fds);
	assert_true(strlen(caps.reason) > 0);
	return caps;
}

static void strings__names(void **state)
{
	enum daxlease_kind kind = DAXLEASE_KIND_NONE;

	(void)state;
	assert_string_equal(daxlease_version(), DAXLEASE_VERSION_STRING);
	assert_string_equal(daxlease_kind_str(DAXLEASE_KIND_LAYOUT_RFC), "layout-rfc");
	assert_string_equal(daxlease_kind_str(DAXLEASE_KIND_LEASE + 1), "unknown");
	assert_string_equal(daxlease_kind_str(-1), "unknown");
	assert_string_equal(daxlease_state_str(DAXLEASE_STATE_REGAINING), "regaining");
	assert_string_equal(daxlease_state_str(DAXLEASE_STATE_REGAINING + 1), "unknown");
	for (int i = 0; i <= DAXLEASE_KIND_LEASE; i++) {
		assert_int_equal(daxlease_kind_from_str(daxlease_kind_str(i), &kind), 0);
		assert_int_equal(kind, i);
	}
	assert_int_equal(daxlease_kind_from_str("Lease", &kind), -EINVAL);
	assert_int_equal(daxlease_kind_from_str(NULL, &kind), -EINVAL);
	assert_int_equal(daxlease_kind_from_str("lease", NULL), -EINVAL);
	assert_int_equal(kind, DAXLEASE_KIND_LEASE);
}

static void probe__all_there(void **state)
{
	struct daxlease_caps caps = probe(*state, fake_pd.context);

	assert_true(caps.fs_dax && caps.leases_enabled);
	assert_true(caps.best == DAXLEASE_KIND_LEASE || caps.best == DAXLEASE_KIND_DELEG);
	assert_int_equal(caps.kinds[DAXLEASE_KIND_LEASE].error, 0);
	assert_true(caps.kinds[DAXLEASE_KIND_LEASE].write);
	assert_false(caps.kinds[DAXLEASE_KIND_LEASE].pins);
	assert_true(caps.kinds[DAXLEASE_KIND_LEASE].unseen & DAXLEASE_UNSEEN_NAMESPACE);
	assert_int_equal(caps.kinds[DAXLEASE_KIND_LAYOUT].error, -EOPNOTSUPP);
	assert_int_equal(caps.kinds[DAXLEASE_KIND_MAX - 1].error, -EOPNOTSUPP);
	assert_int_equal(caps.odp_error, 0);
	assert_true(caps.odp_prefetch);
	assert_int_equal(caps.odp_rc_caps, IBV_ODP_SUPPORT_WRITE);
}

static void probe__delegations(void **state)
{
	struct daxlease_caps caps;

	fault_deleg(true);
	caps = probe(*state, NULL);
	assert_int_equal(caps.best, DAXLEASE_KIND_DELEG);
	assert_int_equal(caps.kinds[DAXLEASE_KIND_DELEG].error, 0);
	assert_int_equal(caps.odp_error, -ENODEV);
}

/* Without them, as on this machine or pretended, it is not the best. */
static void probe__no_delegations(void **state)
{
	struct daxlease_caps caps;

	fault_arm_name("sys_set_deleg", 1, 1);
	caps = probe(*state, NULL);
	assert_int_equal(caps.best, DAXLEASE_KIND_LEASE);
	assert_int_equal(caps.kinds[DAXLEASE_KIND_DELEG].error, -EOPNOTSUPP);
}

static void probe__no_on_demand_paging(void **state)
{
	struct daxlease_caps caps;

	fake_odp(false);
	caps = probe(*state, fake_pd.context);
	assert_int_equal(caps.odp_error, -EOPNOTSUPP);
	assert_non_null(strstr(caps.reason, "on-demand"));
	fault_arm_name("verbs_query_odp", 1, 1);
	assert_int_equal(probe(*state, fake_pd.context).odp_error, -EIO);
}

static void probe__no_dax(void **state)
{
	struct file *f = *state;
	struct daxlease_caps caps;

	assert_int_equal(fchmod(f->fd, 0600), 0);
	caps = probe(f, NULL);
	assert_false(caps.fs_dax);
	assert_non_null(strstr(caps.reason, "FS-DAX"));
}

static void probe__file_open_elsewhere(void **state)
{
	struct file *f = *state;
	int other = open(f->path, O_RDONLY);
	struct daxlease_caps caps = probe(f, NULL);

	assert_int_equal(caps.best, DAXLEASE_KIND_NONE);
	assert_int_equal(caps.kinds[DAXLEASE_KIND_LEASE].error, -EAGAIN);
	assert_non_null(strstr(caps.reason, "open elsewhere"));
	close(other);
}

static void probe__lease_of_this_description_stays(void **state)
{
	struct file *f = *state;

	assert_int_equal(fcntl(f->fd, F_SETLEASE, F_WRLCK), 0);
	assert_int_equal(probe(f, NULL).kinds[DAXLEASE_KIND_LEASE].error, -EAGAIN);
	assert_int_equal(file_lease(f), F_WRLCK);
	assert_int_equal(fcntl(f->fd, F_SETLEASE, F_UNLCK), 0);
}

static void probe__not_the_owner(void **state)
{
	struct file *f = *state;
	struct daxlease_caps caps;

	not_the_owner(true);
	caps = probe(f, NULL);
	not_the_owner(false);
	assert_int_equal(caps.kinds[DAXLEASE_KIND_LEASE].error, -EACCES);
	assert_non_null(strstr(caps.reason, "owner"));
}

static void probe__no_leases(void **state)
{
	struct daxlease_caps caps;

	fault_refuse_leases(-EINVAL);
	caps = probe(*state, NULL);
	assert_int_equal(caps.best, DAXLEASE_KIND_NONE);
	assert_non_null(strstr(caps.reason, "no leases"));
	fault_leases_enabled(0);
	caps = probe(*state, NULL);
	assert_false(caps.leases_enabled);
	assert_non_null(strstr(caps.reason, "leases-enable"));
}

static void probe__break_time(void **state)
{
	fault_break_time(7);
	assert_int_equal(probe(*state, NULL).lease_break_time, 7);
	fault_break_time(INT_MIN);
	fault_arm_name("sys_read_break_time", 1, 1);
	assert_int_equal(probe(*state, NULL).lease_break_time, -1);
	fault_arm_name("sys_open_break_time", 1, 1);
	assert_int_equal(probe(*state, NULL).lease_break_time, -1);
}

static void probe__read_only(void **state)
{
	struct daxlease_caps caps;
	struct file f;

	(void)state;
	file_make_readonly(&f, 1);
	caps = probe(&f, NULL);
	assert_int_equal(caps.kinds[DAXLEASE_KIND_LEASE].error, 0);
	assert_false(caps.kinds[DAXLEASE_KIND_LEASE].write);
	file_end(&f);
}

static void probe__bad_arguments(void **state)
{
	struct file *f = *state;
	struct daxlease_caps caps = { .size = sizeof(caps), .lease_break_time = 4711 };
	int dir = open(".", O_RDONLY | O_DIRECTORY), path = open(f->path, O_PATH);

	assert_int_equal(daxlease_probe(f->fd, NULL, NULL), -EINVAL);
	assert_int_equal(daxlease_probe(-1, NULL, &caps), -EBADF);
	assert_int_equal(daxlease_probe(path, NULL, &caps), -EBADF);
	assert_int_equal(daxlease_probe(dir, NULL, &caps), -EINVAL);
	caps.size = 2;
	assert_int_equal(daxlease_probe(f->fd, NULL, &caps), -EINVAL);
	assert_int_equal(caps.lease_break_time, 4711);
	close(dir);
	close(path);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(strings__names),
		CASE(probe__all_there),
		CASE(probe__delegations),
		CASE(probe__no_delegations),
		CASE(probe__no_on_demand_paging),
		CASE(probe__no_dax),
		CASE(probe__file_open_elsewhere),
		CASE(probe__lease_of_this_description_stays),
		CASE(probe__not_the_owner),
		CASE(probe__no_leases),
		CASE(probe__break_time),
		CASE(probe__read_only),
		CASE(probe__bad_arguments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
