/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Lease kinds behind one interface. A kind is one file (kind_*.c) and one line in
 * the table in lease.c.
 */
#ifndef DAXLEASE_LEASE_H
#define DAXLEASE_LEASE_H

#include <stdbool.h>

#include <daxlease/daxlease.h>

#include "sys.h"

struct guard;

/* What the kernel is to do when it breaks a lease. */
struct lease_notice {
	int signo;
	struct sys_owner owner;
};

/* What a lease has to be good for; which type that takes is the kind's business. */
struct lease_want {
	int access_mode;     /* of the description: O_RDONLY, O_RDWR */
	ino_t ino;	     /* of the file */
	bool exclusive;	     /* nobody else may change the file */
	bool pinned;	     /* memory that cannot be but pinned */
	bool patient;	     /* taking it may wait a little for a change that is under way */
	struct guard *guard; /* the context's; NULL: none for this one */
};

#define LEASE_NO_DEADLINE UINT64_MAX /* not known */

enum lease_query {
	LEASE_HELD,
	LEASE_BREAKING_READER, /* somebody wants to read; lending it would do */
	LEASE_BREAKING,	       /* somebody wants to change it, or it is gone */
};

/*
 * The calls on a descriptor return 0 (query: enum lease_query) or -errno; none of
 * them opens anything, and none but take() waits. The descriptor is the library's own
 * duplicate.
 */
struct lease_ops {
	enum daxlease_kind kind;
	/*
	 * FS-DAX can be registered pinned, through mappings of the very description that
	 * holds it. While something is, it is never taken away, and cannot be given back.
	 */
	bool pins;
	bool exclusive;	     /* it can be such that others are refused */
	bool by_access_mode; /* a write lease for a descriptor open for writing, else a read one */
	bool take_waits;     /* for a change of the file that is under way */
	unsigned int unseen; /* DAXLEASE_UNSEEN_* */
	/* -EOPNOTSUPP: kernel or filesystem has no such leases. */
	int (*take)(int fd, struct lease_want want, const struct lease_notice *notice);
	int (*query)(int fd, struct lease_want want);
	/*
	 * While it is being broken: when those who wait go on, CLOCK_MONOTONIC, 0: never. NULL,
	 * and LEASE_NO_DEADLINE: by fs.lease-break-time from the notice on.
	 */
	uint64_t (*deadline)(int fd, struct lease_want want);
	/*
	 * -ESTALE: the kernel had taken it back already. -EBUSY: something is pinned. again: it
	 * will be taken again.
	 */
	int (*give_back)(int fd, struct lease_want want, bool again);
	/* The descriptor will be closed; NULL: that is all there is to it. */
	void (*forget)(int fd, struct lease_want want);
};

extern const struct lease_ops kind_layout_ops;
extern const struct lease_ops kind_layout_rfc_ops;
extern const struct lease_ops kind_guard_ops;
extern const struct lease_ops kind_deleg_ops;
extern const struct lease_ops kind_lease_ops;

/* Kinds from the strongest to the weakest; NULL past the end. */
const struct lease_ops *lease_kind_at(unsigned int rank);

/* NULL: this version does not have it. */
const struct lease_ops *lease_kind_find(enum daxlease_kind kind);

/*
 * Takes a lease of this kind, or for AUTO the strongest one that there is, and
 * says which in *ret_ops. May wait: see take_waits; and for others that take one of the
 * same file.
 */
int lease_take(enum daxlease_kind kind, int fd, struct lease_want want,
	       const struct lease_notice *notice, const struct lease_ops **ret_ops);

/* Whether it could be taken: takes it and gives it back. */
int lease_try(enum daxlease_kind kind, int fd, struct lease_want want);

/*
 * F_RDLCK or F_WRLCK: all that F_SETLEASE and its kin let a descriptor of this access
 * mode hold.
 */
int lease_type_for(int access_mode);

/*
 * For kinds that the kernel announces with a signal to the file's owner. Asks for
 * the signal (F_UNLCK and forced removal reset it, so before every acquire), takes
 * the lease through set(), which gets type, and leaves nothing behind if that fails.
 */
int lease_take_with_signal(int fd, int type, const struct lease_notice *notice,
			   int (*set)(int fd, int type));

/* What no layout lease notices: the file keeps the blocks that it has. */
#define LEASE_UNSEEN_LAYOUT                                                           \
	(DAXLEASE_UNSEEN_OPEN | DAXLEASE_UNSEEN_WRITE | DAXLEASE_UNSEEN_PREALLOCATE | \
	 DAXLEASE_UNSEEN_NAMESPACE)

/* What the kernel says on taking a layout lease, in our words. */
int lease_layout_error(int err);

/* What F_GETLEASE and its kin say, in our words. */
int lease_query_of(int type_held, int type_now);

#endif
