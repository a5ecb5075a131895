// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * F_SETLEASE with F_LAYOUT: the same lease in the spelling that was proposed in 2019.
 * See kind_layout.c.
 */
#include <errno.h>
#include <fcntl.h>

#include "lease.h"

static int type_of(struct lease_want want)
{
	return want.exclusive ? SYS_LEASE_LAYOUT | SYS_LEASE_EXCLUSIVE : SYS_LEASE_LAYOUT;
}

static int set(int fd, int type)
{
	return lease_layout_error(sys_set_lease(fd, type));
}

static int take(int fd, struct lease_want want, const struct lease_notice *notice)
{
	return lease_take_with_signal(fd, type_of(want), notice, set);
}

static int query(int fd, struct lease_want want)
{
	return lease_query_of(type_of(want), sys_get_lease(fd)) == LEASE_HELD ? LEASE_HELD :
										LEASE_BREAKING;
}

static int give_back(int fd, struct lease_want want, bool again)
{
	int err = sys_set_lease(fd, F_UNLCK);

	(void)want;
	(void)again;
	return err == -EAGAIN ? -ESTALE : err;
}

const struct lease_ops kind_layout_rfc_ops = {
	.kind = DAXLEASE_KIND_LAYOUT_RFC,
	.pins = true,
	.exclusive = true,
	.take_waits = true,
	.unseen = LEASE_UNSEEN_LAYOUT,
	.take = take,
	.query = query,
	.give_back = give_back,
};
