// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>

#include "verbs.h"

/* The largest piece that one struct ibv_sge can name. */
#define SGE_MAX (1u << 30)

/* Some providers fail without saying why. */
static int errno_or_eio(void)
{
	return errno ? -errno : -EIO;
}

int verbs_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access, struct ibv_mr **ret_mr)
{
	struct ibv_mr *mr;

	errno = 0;
	mr = ibv_reg_mr(pd, addr, length, access);
	if (!mr)
		return errno_or_eio();
	*ret_mr = mr;
	return 0;
}

/* For calls that should return a positive errno; some providers return -1 and errno. */
static int negative(int ret)
{
	return ret < 0 ? errno_or_eio() : -ret;
}

int verbs_dereg_mr(struct ibv_mr *mr)
{
	errno = 0;
	return negative(ibv_dereg_mr(mr));
}

int verbs_prefetch(struct ibv_mr *mr, bool writable)
{
	enum ibv_advise_mr_advice advice =
		writable ? IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE : IBV_ADVISE_MR_ADVICE_PREFETCH;
	uint64_t addr = (uintptr_t)mr->addr;
	uint64_t end = addr + mr->length;

	while (addr < end) {
		struct ibv_sge sge = {
			.addr = addr,
			.length = end - addr < SGE_MAX ? (uint32_t)(end - addr) : SGE_MAX,
			.lkey = mr->lkey,
		};
		int err = ibv_advise_mr(mr->pd, advice, 0, &sge, 1);

		if (err)
			return -err;
		addr += sge.length;
	}
	return 0;
}

/*
 * Each provider has the function, and some only say EOPNOTSUPP: an empty list tells
 * them apart.
 */
static bool has_prefetch(struct ibv_context *device)
{
	struct ibv_pd *pd = ibv_alloc_pd(device);
	bool has;

	if (!pd)
		return false;
	has = ibv_advise_mr(pd, IBV_ADVISE_MR_ADVICE_PREFETCH, 0, NULL, 0) != EOPNOTSUPP;
	ibv_dealloc_pd(pd);
	return has;
}

int verbs_query_odp(struct ibv_context *device, struct verbs_odp *ret_odp)
{
	struct ibv_device_attr_ex attr = { .comp_mask = 0 };
	int err;

	errno = 0;
	err = negative(ibv_query_device_ex(device, NULL, &attr));
	if (err)
		return err;
	ret_odp->supported = attr.odp_caps.general_caps & IBV_ODP_SUPPORT;
	ret_odp->rc_caps = attr.odp_caps.per_transport_caps.rc_odp_caps;
	ret_odp->prefetch = ret_odp->supported && has_prefetch(device);
	return 0;
}

int verbs_fence_qp(struct ibv_qp *qp)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_ERR };

	errno = 0;
	return negative(ibv_modify_qp(qp, &attr, IBV_QP_STATE));
}

const char *verbs_device_name(const struct ibv_context *device)
{
	return ibv_get_device_name(device->device);
}
