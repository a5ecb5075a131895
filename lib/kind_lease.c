// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* F_SETLEASE: every kernel; sees opens and truncate(2). See fcntl(2). */
#include <errno.h>
#include <fcntl.h>

#include "lease.h"

static int set(int fd, int type)
{
	int err = sys_set_lease(fd, type);

	/* No leases on this filesystem, or fs.leases-enable is 0. */
	return err == -EINVAL ? -EOPNOTSUPP : err;
}

static int take(int fd, struct lease_want want, const struct lease_notice *notice)
{
	return lease_take_with_signal(fd, lease_type_for(want.access_mode), notice, set);
}

static int query(int fd, struct lease_want want)
{
	return lease_query_of(lease_type_for(want.access_mode), sys_get_lease(fd));
}

static int give_back(int fd, struct lease_want want, bool again)
{
	int err = sys_set_lease(fd, F_UNLCK);

	(void)want;
	(void)again;
	return err == -EAGAIN ? -ESTALE : err;
}

const struct lease_ops kind_lease_ops = {
	.kind = DAXLEASE_KIND_LEASE,
	.by_access_mode = true,
	.unseen = DAXLEASE_UNSEEN_FTRUNCATE | DAXLEASE_UNSEEN_FALLOCATE | DAXLEASE_UNSEEN_WRITE |
		  DAXLEASE_UNSEEN_NAMESPACE | DAXLEASE_UNSEEN_PREALLOCATE,
	.take = take,
	.query = query,
	.give_back = give_back,
};
