// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <string.h>

#include "pin.h"
#include "verbs.h"

#define WRITES (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)

static int refuse(struct daxlease_mr *mr, int err, const char *why)
{
	log_add(&mr->ctx->log, DAXLEASE_LOG_ERR, "ibv_reg_mr %p+%zu on %s: %s: %s", mr->addr,
		mr->length, verbs_device_name(mr->pd->context), strerror(-err), why);
	return err;
}

static int explain_on_demand(struct daxlease_mr *mr, int err)
{
	struct verbs_odp odp = { 0 };

	if (!verbs_query_odp(mr->pd->context, &odp) && !odp.supported)
		return refuse(
			mr, -EOPNOTSUPP,
			"this lease does not allow pinning FS-DAX and the device has no "
			"on-demand paging: use a device that has (soft-RoCE of Linux >= 6.15, "
			"mlx5), or a kernel with layout leases");
	return refuse(mr, err, "on-demand paging of FS-DAX was refused");
}

static int explain_plain(struct daxlease_mr *mr, int err)
{
	if (err == -ENOMEM && sys_memlock_limit() < mr->length)
		return refuse(mr, err, "more than RLIMIT_MEMLOCK: raise it (ulimit -l)");
	if (mr->range.page_cache && (err == -EFAULT || err == -EOPNOTSUPP))
		return refuse(
			mr, -EOPNOTSUPP,
			"a file mapping in the page cache, which Linux >= 6.5 does not pin: put "
			"the file on FS-DAX (mount -o dax), tmpfs or hugetlbfs");
	return refuse(mr, err, "plain memory, passed on as it is");
}

static int attach_on_demand(struct daxlease_mr *mr, size_t length, struct pin *pin)
{
	int err = verbs_reg_mr(mr->pd, mr->addr, length, mr->access | IBV_ACCESS_ON_DEMAND,
			       &pin->ibv_mr);

	if (err)
		return explain_on_demand(mr, err);
	pin->on_demand = true;
	/* A courtesy: without it each first access of a page faults. */
	verbs_prefetch(pin->ibv_mr, mr->access & WRITES);
	return 0;
}

int pin_attach(struct daxlease_mr *mr, size_t length, struct pin *ret_pin)
{
	struct pin pin = { .on_demand = mr->access & IBV_ACCESS_ON_DEMAND };
	bool may_pin = !mr->lease || (mr->lease->ops->pins && !pin.on_demand);
	int err = -EOPNOTSUPP;

	if (mr->lease && (mr->access & WRITES) && !mr->range.writable)
		return refuse(mr, -EOPNOTSUPP,
			      "write access to a read-only mapping: map it PROT_WRITE from a "
			      "descriptor opened O_RDWR");
	if (may_pin)
		err = verbs_reg_mr(mr->pd, mr->addr, length, mr->access, &pin.ibv_mr);
	if (err && !mr->lease)
		return explain_plain(mr, err);
	/*
	 * Which errno stands for "not pinned" depends on the driver: soft-RoCE says
	 * EINVAL or ENOMEM. Trying costs nothing and explains itself if it fails.
	 */
	if (err)
		err = attach_on_demand(mr, length, &pin);
	if (!err)
		*ret_pin = pin;
	return err;
}

int pin_detach(struct daxlease_mr *mr)
{
	return verbs_dereg_mr(mr->ibv_mr);
}

void pin_fence(struct daxlease_mr *mr)
{
	for (size_t i = 0; i < mr->nqps; i++) {
		int err = verbs_fence_qp(mr->qps[i]);

		if (err)
			log_add(&mr->ctx->log, DAXLEASE_LOG_ERR,
				"queue pair %u could not be moved to the error state: %s",
				mr->qps[i]->qp_num, strerror(-err));
	}
}
