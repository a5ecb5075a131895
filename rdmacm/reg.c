// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* rdma_reg_msgs() and its kin, plus a lease. */
#include <errno.h>

#include <daxlease/rdmacm.h>

#include "private.h"

static int reg(struct daxlease_ctx *ctx, struct rdma_cm_id *id, int fd, void *addr, size_t length,
	       int access, const struct daxlease_mr_opts *opts, struct daxlease_mr **ret_mr)
{
	if (!id || !id->qp) {
		daxlease_private_log(
			ctx, DAXLEASE_LOG_ERR,
			"range %p+%zu: the id has no queue pair yet: rdma_create_qp() or "
			"rdma_create_ep() comes first",
			addr, length);
		daxlease_private_log_flush(ctx);
		return -EINVAL;
	}
	return daxlease_private_reg_mr(ctx, id->pd, id->qp, fd, addr, length, access, opts, ret_mr);
}

int daxlease_reg_msgs(struct daxlease_ctx *ctx, struct rdma_cm_id *id, int fd, void *addr,
		      size_t length, const struct daxlease_mr_opts *opts,
		      struct daxlease_mr **ret_mr)
{
	return reg(ctx, id, fd, addr, length, IBV_ACCESS_LOCAL_WRITE, opts, ret_mr);
}

int daxlease_reg_read(struct daxlease_ctx *ctx, struct rdma_cm_id *id, int fd, void *addr,
		      size_t length, const struct daxlease_mr_opts *opts,
		      struct daxlease_mr **ret_mr)
{
	return reg(ctx, id, fd, addr, length, IBV_ACCESS_REMOTE_READ, opts, ret_mr);
}

int daxlease_reg_write(struct daxlease_ctx *ctx, struct rdma_cm_id *id, int fd, void *addr,
		       size_t length, const struct daxlease_mr_opts *opts,
		       struct daxlease_mr **ret_mr)
{
	return reg(ctx, id, fd, addr, length, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE,
		   opts, ret_mr);
}
