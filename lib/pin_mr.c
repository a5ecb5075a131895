// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "objects.h"
#include "verbs.h"

#define WRITES (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)

static int refuse(struct daxlease_mr *mr, int err, const char *why)
{
	log_add(&mr->region.ctx->log, DAXLEASE_LOG_ERR, "ibv_reg_mr %p+%zu on %s: %s: %s",
		mr->region.addr, mr->region.length, verbs_device_name(mr->pd->context),
		strerror(-err), why);
	return err;
}

/* How to have it pinned, after that was refused with err; NULL: it is not known. */
static const char *pin_cure(const struct daxlease_mr *mr, int err)
{
	/* The kernel pins FS-DAX as for writing, whatever access is asked for. */
	if (err == -EFAULT && !mr->region.range.writable)
		return "map it PROT_WRITE, from a descriptor opened O_RDWR";
	if (err == -EOPNOTSUPP)
		return "register a mapping of this very descriptor, not of another open(2) of the "
		       "file";
	return NULL;
}

/* pin_err: what pinning was refused with before, or 0. */
static int explain_on_demand(struct daxlease_mr *mr, int pin_err, int err)
{
	struct verbs_odp odp = { 0 };
	const char *cure = pin_cure(mr, pin_err);
	char why[192];

	if (verbs_query_odp(mr->pd->context, &odp) || odp.supported)
		return refuse(mr, err, "on-demand paging of FS-DAX was refused");
	if (pin_err) {
		snprintf(why, sizeof(why), "not pinned, and the device has no on-demand paging%s%s",
			 cure ? ": " : "", cure ? cure : "");
		return refuse(mr, pin_err, why);
	}
	return refuse(mr, -EOPNOTSUPP,
		      "this lease does not allow pinning FS-DAX and the device has no on-demand "
		      "paging: use a device that has (soft-RoCE of Linux >= 6.15, mlx5), or a "
		      "kernel with layout leases");
}

static int explain_plain(struct daxlease_mr *mr, int err)
{
	if (err == -ENOMEM && sys_memlock_limit() < mr->region.length)
		return refuse(mr, err, "more than RLIMIT_MEMLOCK: raise it (ulimit -l)");
	if (mr->region.range.page_cache && (err == -EFAULT || err == -EOPNOTSUPP))
		return refuse(
			mr, -EOPNOTSUPP,
			"a file mapping in the page cache, which Linux >= 6.5 does not pin: put "
			"the file on FS-DAX (mount -o dax), tmpfs or hugetlbfs");
	return refuse(mr, err, "plain memory, passed on as it is");
}

static int attach_on_demand(struct daxlease_mr *mr, size_t length, int pin_err, bool *ret_on_demand)
{
	int err = verbs_reg_mr(mr->pd, mr->region.addr, length, mr->access | IBV_ACCESS_ON_DEMAND,
			       &mr->ibv_mr);

	if (err)
		return explain_on_demand(mr, pin_err, err);
	*ret_on_demand = true;
	/* A courtesy: without it each first access of a page faults. */
	verbs_prefetch(mr->ibv_mr, mr->access & WRITES);
	return 0;
}

/*
 * Pinning was refused: because of a break under way, which ends all this; because of the
 * limit for locked memory, which on-demand paging would only hide; or, 0, for a reason
 * for which that is the next best.
 */
static int check_not_pinned(struct daxlease_mr *mr, int err)
{
	const struct lease *l = mr->region.lease; /* held as long as it is in_pin */
	uint64_t limit = sys_memlock_limit();

	if (l->ops->query(l->fd, l->want) != LEASE_HELD)
		return refuse(mr, -EAGAIN, "somebody is about to change the file: try again");
	if (err != -ENOMEM || limit == UINT64_MAX)
		return 0;
	return refuse(mr, err,
		      limit < mr->region.length ?
			      "more than RLIMIT_MEMLOCK: raise it (ulimit -l), or ask for "
			      "IBV_ACCESS_ON_DEMAND" :
			      "out of memory, or over RLIMIT_MEMLOCK with what is pinned already: "
			      "raise it (ulimit -l), or ask for IBV_ACCESS_ON_DEMAND");
}

static int attach_pinned(struct daxlease_mr *mr, size_t length, bool *ret_on_demand)
{
	int pin_err = verbs_reg_mr(mr->pd, mr->region.addr, length, mr->access, &mr->ibv_mr);
	const char *cure = pin_cure(mr, pin_err);
	int err;

	if (!pin_err)
		return 0;
	err = check_not_pinned(mr, pin_err);
	if (err)
		return err;
	/*
	 * Which errno stands for "not pinned" depends on the driver: soft-RoCE says
	 * EINVAL or ENOMEM. Trying costs nothing and explains itself if it fails.
	 */
	err = attach_on_demand(mr, length, pin_err, ret_on_demand);
	if (!err)
		log_add(&mr->region.ctx->log, DAXLEASE_LOG_WARNING,
			"%p+%zu on %s: not pinned (%s), registered with on-demand paging "
			"instead%s%s",
			mr->region.addr, length, verbs_device_name(mr->pd->context),
			strerror(-pin_err), cure ? ": to have it pinned, " : "", cure ? cure : "");
	return err;
}

int pin_mr_attach(struct region *r, size_t length, bool *ret_on_demand)
{
	struct daxlease_mr *mr = mr_of(r);
	bool on_demand = mr->access & IBV_ACCESS_ON_DEMAND;
	int err;

	if (r->lease && (mr->access & WRITES) && !r->range.writable)
		return refuse(mr, -EOPNOTSUPP,
			      "write access to a read-only mapping: map it PROT_WRITE from a "
			      "descriptor opened O_RDWR");
	if (!r->lease) {
		err = verbs_reg_mr(mr->pd, r->addr, length, mr->access, &mr->ibv_mr);
		err = err ? explain_plain(mr, err) : 0;
	} else if (r->lease->ops->pins && !on_demand) {
		err = attach_pinned(mr, length, &on_demand);
	} else {
		err = attach_on_demand(mr, length, 0, &on_demand);
	}
	if (!err)
		*ret_on_demand = on_demand;
	return err;
}

int pin_mr_detach(struct region *r)
{
	return verbs_dereg_mr(mr_of(r)->ibv_mr);
}

void pin_mr_fence(struct region *r)
{
	struct daxlease_mr *mr = mr_of(r);

	for (size_t i = 0; i < mr->nqps; i++) {
		int err = verbs_fence_qp(mr->qps[i]);

		if (err)
			log_add(&r->ctx->log, DAXLEASE_LOG_ERR,
				"queue pair %u could not be moved to the error state: %s",
				mr->qps[i]->qp_num, strerror(-err));
	}
}
