// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* What can be had, and the names of things. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <daxlease/daxlease.h>

#include "guard.h"
#include "lease.h"
#include "sys.h"
#include "util.h"
#include "verbs.h"

static const char *const kind_names[] = {
	[DAXLEASE_KIND_AUTO] = "auto",	   [DAXLEASE_KIND_NONE] = "none",
	[DAXLEASE_KIND_LAYOUT] = "layout", [DAXLEASE_KIND_LAYOUT_RFC] = "layout-rfc",
	[DAXLEASE_KIND_GUARD] = "guard",   [DAXLEASE_KIND_DELEG] = "deleg",
	[DAXLEASE_KIND_LEASE] = "lease",
};

static const char *const state_names[] = {
	[DAXLEASE_STATE_ACTIVE] = "active",	[DAXLEASE_STATE_UNGUARDED] = "unguarded",
	[DAXLEASE_STATE_DRAINING] = "draining", [DAXLEASE_STATE_DEREGISTERING] = "deregistering",
	[DAXLEASE_STATE_RELEASED] = "released", [DAXLEASE_STATE_REGAINING] = "regaining",
};

static const char *name_of(const char *const *names, size_t count, unsigned int value)
{
	return value < count ? names[value] : "unknown";
}

const char *daxlease_version(void)
{
	return DAXLEASE_VERSION_STRING;
}

const char *daxlease_kind_str(enum daxlease_kind kind)
{
	return name_of(kind_names, ARRAY_SIZE(kind_names), (unsigned int)kind);
}

const char *daxlease_state_str(enum daxlease_state state)
{
	return name_of(state_names, ARRAY_SIZE(state_names), (unsigned int)state);
}

int daxlease_kind_from_str(const char *name, enum daxlease_kind *ret_kind)
{
	for (size_t i = 0; name && ret_kind && i < ARRAY_SIZE(kind_names); i++) {
		if (!strcmp(name, kind_names[i])) {
			*ret_kind = (enum daxlease_kind)i;
			return 0;
		}
	}
	return -EINVAL;
}

static int probe_file(int fd, struct daxlease_caps *caps, struct lease_want *ret_want)
{
	struct sys_file file;
	int mode = sys_access_mode(fd);
	int err = mode < 0 ? mode : sys_file_info(fd, &file);

	if (err)
		return err;
	if (!S_ISREG(file.mode))
		return -EINVAL;
	caps->fs_dax = file.dax;
	ret_want->access_mode = mode;
	ret_want->ino = file.ino;
	return 0;
}

static void probe_settings(struct daxlease_caps *caps)
{
	int fd = sys_open_break_time();

	caps->leases_enabled = sys_leases_enabled() != 0;
	caps->lease_break_time = fd < 0 ? -1 : sys_read_break_time(fd);
	if (caps->lease_break_time < 0)
		caps->lease_break_time = -1;
	if (fd >= 0)
		sys_close(fd);
}

static void probe_kinds(int fd, struct lease_want want, struct daxlease_caps *caps,
			int *ret_refusal)
{
	const struct lease_ops *ops;

	for (unsigned int i = 0; i < ARRAY_SIZE(caps->kinds); i++)
		caps->kinds[i].error = -EOPNOTSUPP;
	caps->best = DAXLEASE_KIND_NONE;
	*ret_refusal = -EOPNOTSUPP;
	for (unsigned int rank = 0; (ops = lease_kind_at(rank)); rank++) {
		struct daxlease_kind_caps *kind = &caps->kinds[ops->kind];

		kind->error = lease_try(ops->kind, fd, want);
		kind->unseen = ops->unseen;
		kind->pins = ops->pins;
		kind->exclusive = ops->exclusive;
		kind->write = ops->by_access_mode && want.access_mode != O_RDONLY;
		/* The first that is there, and how that went: as in lease_take(). */
		if (*ret_refusal != -EOPNOTSUPP)
			continue;
		*ret_refusal = kind->error;
		if (!kind->error)
			caps->best = ops->kind;
	}
}

static void probe_device(struct ibv_context *device, struct daxlease_caps *caps)
{
	struct verbs_odp odp = { 0 };

	caps->odp_error = device ? verbs_query_odp(device, &odp) : -ENODEV;
	if (caps->odp_error)
		return;
	caps->odp_error = odp.supported ? 0 : -EOPNOTSUPP;
	caps->odp_rc_caps = odp.rc_caps;
	caps->odp_prefetch = odp.prefetch;
}

static const char *lease_reason(int refusal)
{
	switch (refusal) {
	case -EAGAIN:
		return "the file is open elsewhere as well, or leased already, or being changed: "
		       "close the other descriptors";
	case -EACCES:
		return "only the owner of the file or CAP_LEASE may lease it";
	default:
		return "this filesystem has no leases";
	}
}

static const char *reason(const struct daxlease_caps *caps, int refusal)
{
	const bool leased = caps->best != DAXLEASE_KIND_NONE;

	if (!caps->fs_dax)
		return "the file is not on FS-DAX, registering it takes no lease: mount ext4 or XFS on "
		       "persistent memory with -o dax";
	if (!caps->leases_enabled && !leased) /* a guard needs none */
		return "leases are switched off: sysctl fs.leases-enable=1";
	if (!leased)
		return lease_reason(refusal);
	if (!caps->kinds[caps->best].pins && caps->odp_error == -EOPNOTSUPP)
		return "no lease kind here allows pinning FS-DAX and the device has no on-demand "
		       "paging: soft-RoCE of Linux >= 6.15 and mlx5 have it";
	return caps->kinds[caps->best].pins ? "pinned, under a layout lease" :
					      "on-demand paging, under a lease";
}

/* The reason, and why there is no guard where that would be better. */
static void set_reason(struct daxlease_caps *caps, int refusal, struct guard *guard)
{
	char no_guard[192] = "";

	if (caps->fs_dax &&
	    (caps->best == DAXLEASE_KIND_DELEG || caps->best == DAXLEASE_KIND_LEASE))
		guard_reason(guard, no_guard, sizeof(no_guard));
	snprintf(caps->reason, sizeof(caps->reason), "%s%s%s", reason(caps, refusal),
		 no_guard[0] ? "; no guard: " : "", no_guard);
}

/* What is broken meanwhile is given back anyway. */
static void ignore_notice(void *arg)
{
	(void)arg;
}

int daxlease_probe(int fd, struct ibv_context *device, struct daxlease_caps *ret_caps)
{
	struct daxlease_caps caps = { 0 };
	struct lease_want want = { 0 };
	int err, refusal;

	if (!ret_caps)
		return -EINVAL;
	err = probe_file(fd, &caps, &want);
	if (err)
		return err;
	want.guard = guard_new(NULL, NULL, ignore_notice, NULL);
	if (!want.guard)
		return -ENOMEM;
	probe_settings(&caps);
	probe_kinds(fd, want, &caps, &refusal);
	probe_device(device, &caps);
	set_reason(&caps, refusal, want.guard);
	guard_free(want.guard);
	return opts_put(ret_caps, &caps, sizeof(caps));
}
