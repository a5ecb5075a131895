// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>

#include "lease.h"
#include "util.h"

static const struct lease_ops *const kinds[] = {
	&kind_deleg_ops,
	&kind_lease_ops,
};

const struct lease_ops *lease_kind_at(unsigned int rank)
{
	return rank < ARRAY_SIZE(kinds) ? kinds[rank] : NULL;
}

const struct lease_ops *lease_kind_find(enum daxlease_kind kind)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (kinds[i]->kind == kind)
			return kinds[i];
	}
	return NULL;
}

/*
 * A description has one lease at a time, of either flavour: taking it twice would
 * succeed, and move the first holder's signal to the second without a word.
 */
static bool is_leased(int type)
{
	return type >= 0 && type != F_UNLCK;
}

int lease_take(enum daxlease_kind kind, int fd, int type, const struct lease_notice *notice,
	       const struct lease_ops **ret_ops)
{
	int ret = -EOPNOTSUPP;

	if (is_leased(sys_get_lease(fd)) || is_leased(sys_get_deleg(fd)))
		return -EAGAIN;
	for (unsigned int i = 0; i < ARRAY_SIZE(kinds) && ret == -EOPNOTSUPP; i++) {
		if (kind != DAXLEASE_KIND_AUTO && kind != kinds[i]->kind)
			continue;
		ret = kinds[i]->take(fd, type, notice);
		if (!ret)
			*ret_ops = kinds[i];
	}
	return ret;
}

int lease_type_for(int access_mode)
{
	return access_mode == O_RDONLY ? F_RDLCK : F_WRLCK;
}

int lease_take_with_signal(int fd, int type, const struct lease_notice *notice,
			   int (*set)(int fd, int type))
{
	int err;

	err = sys_set_owner(fd, notice->owner);
	if (!err)
		err = sys_set_signal(fd, notice->signo);
	if (!err)
		err = set(fd, type);
	if (err < 0) {
		sys_set_signal(fd, 0);
		sys_set_owner(fd, (struct sys_owner){ .type = F_OWNER_PID, .id = 0 });
	}
	return err;
}

int lease_query_of(int type_held, int type_now)
{
	if (type_now < 0 || type_now == F_UNLCK)
		return LEASE_BREAKING;
	/* While breaking, the kernel names the type it waits for. */
	return type_now == type_held ? LEASE_HELD : LEASE_BREAKING_READER;
}
