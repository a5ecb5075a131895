// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * The verbs that lib/verbs.c calls and that are not hooked. They are not exported, so that
 * nobody else gets them; and this way nothing is linked to libibverbs, which most
 * programs that are started with us do not need.
 */
#include <errno.h>

#include "real.h"

struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
	return REAL(ibv_alloc_pd) ? REAL(ibv_alloc_pd)(context) : NULL;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	return REAL(ibv_dealloc_pd) ? REAL(ibv_dealloc_pd)(pd) : ENOSYS;
}

int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *device_attr)
{
	return REAL(ibv_query_device) ? REAL(ibv_query_device)(context, device_attr) : ENOSYS;
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int attr_mask)
{
	return REAL(ibv_modify_qp) ? REAL(ibv_modify_qp)(qp, attr, attr_mask) : ENOSYS;
}

const char *ibv_get_device_name(struct ibv_device *device)
{
	return REAL(ibv_get_device_name) ? REAL(ibv_get_device_name)(device) : "?";
}
