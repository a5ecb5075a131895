// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "lease.h"
#include "util.h"

static const struct lease_ops *const kinds[] = {
	&kind_layout_ops, &kind_layout_rfc_ops, &kind_guard_ops, &kind_deleg_ops, &kind_lease_ops,
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

static bool is_leased(int type)
{
	return type >= 0 && type != F_UNLCK;
}

/*
 * A description has one lease at a time, of whatever kind: taking it twice would
 * succeed, and move the first holder's signal to the second without a word. The owner
 * (F_GETOWN_EX) would tell in one call, but reads as none from other PID namespaces.
 */
static int check_free(int fd)
{
	static atomic_bool no_delegs; /* the kernel does not learn it while we run */
	unsigned int flags;
	int deleg = F_UNLCK;

	if (is_leased(sys_get_lease(fd)) || is_leased(sys_get_layout(fd, &flags)))
		return -EAGAIN;
	if (!atomic_load_explicit(&no_delegs, memory_order_relaxed))
		deleg = sys_get_deleg(fd);
	if (deleg == -EINVAL)
		atomic_store_explicit(&no_delegs, true, memory_order_relaxed);
	return is_leased(deleg) ? -EAGAIN : 0;
}

/*
 * Asking and taking are one step for whoever has this file in here. It guards against other
 * threads of this process, which alone share the description by design. Files do not wait
 * for each other, as taking a lease may.
 */
struct turn {
	LIST_ENTRY(turn) link;
	ino_t ino;
};

/* Protects the list, which is of turns under way. Nothing is done inside it. */
static pthread_mutex_t turns_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turns_changed = PTHREAD_COND_INITIALIZER;
static LIST_HEAD(, turn) turns = LIST_HEAD_INITIALIZER(turns);

/* Other threads may have been here when the child was made, and they are not in it. */
static void forget_turns_in_child(void)
{
	pthread_mutex_init(&turns_lock, NULL);
	pthread_cond_init(&turns_changed, NULL);
	LIST_INIT(&turns);
}

static void prepare_fork(void)
{
	pthread_atfork(NULL, NULL, forget_turns_in_child);
}

static bool is_taken(ino_t ino)
{
	const struct turn *t;

	LIST_FOREACH(t, &turns, link) {
		if (t->ino == ino)
			return true;
	}
	return false;
}

static void begin_turn(struct turn *t, ino_t ino)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, prepare_fork);
	t->ino = ino;
	pthread_mutex_lock(&turns_lock);
	while (is_taken(ino))
		pthread_cond_wait(&turns_changed, &turns_lock);
	LIST_INSERT_HEAD(&turns, t, link);
	pthread_mutex_unlock(&turns_lock);
}

static void end_turn(struct turn *t)
{
	pthread_mutex_lock(&turns_lock);
	LIST_REMOVE(t, link);
	pthread_cond_broadcast(&turns_changed);
	pthread_mutex_unlock(&turns_lock);
}

static int take_in_turn(enum daxlease_kind kind, int fd, struct lease_want want,
			const struct lease_notice *notice, const struct lease_ops **ret_ops)
{
	/* A guard is no lease of the description. */
	int ret = kind == DAXLEASE_KIND_GUARD ? 0 : check_free(fd);

	if (ret)
		return ret;
	ret = -EOPNOTSUPP;
	for (unsigned int i = 0; i < ARRAY_SIZE(kinds) && ret == -EOPNOTSUPP; i++) {
		if (kind != DAXLEASE_KIND_AUTO && kind != kinds[i]->kind)
			continue;
		if ((want.exclusive && !kinds[i]->exclusive) || (want.pinned && !kinds[i]->pins))
			continue;
		ret = kinds[i]->take(fd, want, notice);
		if (!ret)
			*ret_ops = kinds[i];
	}
	return ret;
}

int lease_take(enum daxlease_kind kind, int fd, struct lease_want want,
	       const struct lease_notice *notice, const struct lease_ops **ret_ops)
{
	struct turn turn;
	int ret;

	begin_turn(&turn, want.ino);
	ret = take_in_turn(kind, fd, want, notice, ret_ops);
	end_turn(&turn);
	return ret;
}

int lease_try(enum daxlease_kind kind, int fd, struct lease_want want)
{
	/* By default this signal is ignored; the lease is given back anyway. */
	const struct lease_notice notice = {
		.signo = SIGURG,
		.owner = { .type = F_OWNER_TID, .id = sys_gettid() },
	};
	const struct lease_ops *ops;
	struct turn turn;
	int ret;

	begin_turn(&turn, want.ino);
	ret = take_in_turn(kind, fd, want, &notice, &ops);
	if (!ret)
		ops->give_back(fd, want, false);
	end_turn(&turn);
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

int lease_layout_error(int err)
{
	switch (err) {
	case -EINVAL: /* no such lease, or fs.leases-enable is 0 */
		return -EOPNOTSUPP;
	case -EBUSY: /* the description holds another one, taken a moment ago */
		return -EAGAIN;
	default:
		return err;
	}
}
