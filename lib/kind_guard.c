// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * fanotify pre-content events, Linux >= 6.14: whoever is about to change which blocks the
 * file has waits until we answer, or is refused. See guard.h.
 */
#include <errno.h>

#include "guard.h"

static int take(int fd, struct lease_want want, const struct lease_notice *notice)
{
	return want.guard ? guard_take(want.guard, fd, want.exclusive, want.patient, notice) :
			    -EOPNOTSUPP;
}

static int query(int fd, struct lease_want want)
{
	return guard_query(want.guard, fd);
}

static uint64_t deadline(int fd, struct lease_want want)
{
	return guard_deadline(want.guard, fd);
}

static int give_back(int fd, struct lease_want want, bool again)
{
	return guard_give_back(want.guard, fd, again);
}

static void forget(int fd, struct lease_want want)
{
	guard_forget(want.guard, fd);
}

const struct lease_ops kind_guard_ops = {
	.kind = DAXLEASE_KIND_GUARD,
	.exclusive = true,
	.take_waits = true,
	.unseen = DAXLEASE_UNSEEN_FALLOCATE | LEASE_UNSEEN_LAYOUT,
	.take = take,
	.query = query,
	.deadline = deadline,
	.give_back = give_back,
	.forget = forget,
};
