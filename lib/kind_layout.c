// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * F_SETLAYOUT: whoever changes which blocks a file has waits for its holders, or is
 * refused if the lease is unbreakable. Opening it is nobody's business. FS-DAX can be
 * pinned through mappings of the description that holds it.
 */
#include <errno.h>
#include <fcntl.h>

#include "lease.h"

static int set(int fd, int flags)
{
	return lease_layout_error(sys_set_layout(fd, F_RDLCK, (unsigned int)flags));
}

static int take(int fd, struct lease_want want, const struct lease_notice *notice)
{
	unsigned int flags;
	int err = sys_get_layout(fd, &flags);

	if (err == -EINVAL) /* no such command: leave owner and signal as they are */
		return -EOPNOTSUPP;
	return lease_take_with_signal(fd, want.exclusive ? SYS_LAYOUT_UNBREAKABLE : 0, notice, set);
}

static int query(int fd, struct lease_want want)
{
	unsigned int flags;

	(void)want;
	/* It stays while something is pinned, even past the deadline, and is breaking. */
	if (sys_get_layout(fd, &flags) != F_RDLCK || flags & SYS_LAYOUT_BREAKING)
		return LEASE_BREAKING;
	return LEASE_HELD;
}

static int give_back(int fd, struct lease_want want, bool again)
{
	int err = sys_set_layout(fd, F_UNLCK, 0);

	(void)want;
	(void)again;
	return err == -EAGAIN ? -ESTALE : err;
}

const struct lease_ops kind_layout_ops = {
	.kind = DAXLEASE_KIND_LAYOUT,
	.pins = true,
	.exclusive = true,
	.take_waits = true,
	.unseen = LEASE_UNSEEN_LAYOUT,
	.take = take,
	.query = query,
	.give_back = give_back,
};
