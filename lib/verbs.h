/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The only module that calls ibv_*. Its foreign conventions (NULL + errno,
 * positive errno) end here: 0 or -errno.
 */
#ifndef DAXLEASE_VERBS_H
#define DAXLEASE_VERBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <infiniband/verbs.h>

struct verbs_odp {
	bool supported;	  /* explicit on-demand paging at all */
	uint32_t rc_caps; /* IBV_ODP_SUPPORT_* */
	bool prefetch;	  /* ibv_advise_mr() is implemented */
};

int verbs_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access, struct ibv_mr **ret_mr);
int verbs_dereg_mr(struct ibv_mr *mr);
/* Asks the device to page in a whole on-demand MR. -EOPNOTSUPP: it cannot. */
int verbs_prefetch(struct ibv_mr *mr, bool writable);
int verbs_query_odp(struct ibv_context *device, struct verbs_odp *ret_odp);
/* Moves a queue pair to the error state. */
int verbs_fence_qp(struct ibv_qp *qp);
const char *verbs_device_name(const struct ibv_context *device);

#endif
