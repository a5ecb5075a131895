// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>

#include "edge.h"

#define WINDOWS (IBV_DEVICE_MEM_WINDOW_TYPE_2A | IBV_DEVICE_MEM_WINDOW_TYPE_2B)

/* Providers return a positive errno, or -1 and errno, or a negative errno, or say nothing. */
static int negative(int ret)
{
	if (ret >= 0)
		return -ret;
	return errno ? -errno : ret < -1 ? ret : -EIO;
}

/*
 * IBV_SEND_FENCE: behind the RDMA reads that were posted before; what else was is in
 * front of it anyway.
 */
int edge_post_send(struct ibv_qp *qp, const struct edge_send *send, bool *ret_bound)
{
	const struct edge_bind *bind = send->bind;
	struct ibv_sge sge = {
		.addr = (uintptr_t)send->buf,
		.length = send->len,
		.lkey = send->lkey,
	};
	struct ibv_send_wr send_wr = {
		.wr_id = send->wr_id,
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_SEND,
		.send_flags = IBV_SEND_SIGNALED | IBV_SEND_FENCE,
	};
	struct ibv_send_wr bind_wr = { .wr_id = send->bind_wr_id,
				       .next = &send_wr,
				       .opcode = IBV_WR_BIND_MW };
	struct ibv_send_wr *bad = NULL;
	int err;

	if (bind) {
		bind_wr.bind_mw.mw = bind->mw;
		bind_wr.bind_mw.rkey = bind->rkey;
		bind_wr.bind_mw.bind_info = (struct ibv_mw_bind_info){
			.mr = bind->mr,
			.addr = bind->addr,
			.length = bind->length,
			.mw_access_flags = (unsigned int)bind->access,
		};
	}
	errno = 0;
	err = negative(ibv_post_send(qp, bind ? &bind_wr : &send_wr, &bad));
	*ret_bound = bind && (!err || bad == &send_wr);
	return err;
}

/* Not all that announce them have them. */
bool edge_has_windows(struct ibv_pd *pd)
{
	struct ibv_device_attr attr;
	struct ibv_mw *mw;

	if (ibv_query_device(pd->context, &attr) || !(attr.device_cap_flags & WINDOWS))
		return false;
	mw = ibv_alloc_mw(pd, IBV_MW_TYPE_2);
	return mw && !ibv_dealloc_mw(mw);
}

int edge_alloc_window(struct ibv_pd *pd, struct ibv_mw **ret_mw, uint32_t *ret_rkey)
{
	struct ibv_mw *mw;

	errno = 0;
	mw = ibv_alloc_mw(pd, IBV_MW_TYPE_2);
	if (!mw)
		return errno ? -errno : -EIO;
	*ret_mw = mw;
	*ret_rkey = ibv_inc_rkey(mw->rkey);
	return 0;
}

int edge_free_window(struct ibv_mw *mw)
{
	errno = 0;
	return negative(ibv_dealloc_mw(mw));
}
