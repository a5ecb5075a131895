// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * A page of the file is written to itself. Devices exist that register memory and then fail
 * each request for it, or put the data in the wrong place.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "inspect.h"

#define PAGE 4096
#define PORT 1
#define PATIENCE_S 5
#define MAX_GIDS 64

struct link {
	struct ibv_cq *cq;
	struct ibv_qp *qps[2];
	struct ibv_mr *mr;
	struct ibv_port_attr port;
	union ibv_gid gid;
	int gid_index;
};

static bool is_nil(const union ibv_gid *gid)
{
	static const union ibv_gid nil;

	return !memcmp(gid, &nil, sizeof(nil));
}

/* The last one there is: those of an IP address come after the one of the link. */
static int find_gid(struct ibv_context *ctx, union ibv_gid *ret_gid)
{
	union ibv_gid gid;
	int found = -1;

	for (int i = 0; i < MAX_GIDS; i++) {
		if (ibv_query_gid(ctx, PORT, i, &gid))
			break;
		if (is_nil(&gid))
			continue;
		found = i;
		*ret_gid = gid;
	}
	return found;
}

static int to_init(struct ibv_qp *qp)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = PORT,
		.qp_access_flags = IBV_ACCESS_REMOTE_WRITE,
	};

	return ibv_modify_qp(qp, &attr,
			     IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

static int to_receive(const struct link *l, struct ibv_qp *qp, uint32_t from)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = l->port.active_mtu,
		.dest_qp_num = from,
		.max_dest_rd_atomic = 1,
		.min_rnr_timer = 12,
		.ah_attr = { .dlid = l->port.lid, .port_num = PORT },
	};

	if (l->gid_index >= 0) {
		attr.ah_attr.is_global = 1;
		attr.ah_attr.grh.dgid = l->gid;
		attr.ah_attr.grh.sgid_index = (uint8_t)l->gid_index;
		attr.ah_attr.grh.hop_limit = 4;
	}
	return ibv_modify_qp(qp, &attr,
			     IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
				     IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
				     IBV_QP_MIN_RNR_TIMER);
}

static int to_send(struct ibv_qp *qp)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTS,
		.timeout = 14,
		.retry_cnt = 7,
		.rnr_retry = 7,
		.max_rd_atomic = 1,
	};

	return ibv_modify_qp(qp, &attr,
			     IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
				     IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

/* NULL, or what could not be done. */
static const char *make_link(const struct device *d, void *buf, struct link *l)
{
	struct ibv_qp_init_attr init = {
		.cap = { .max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
		.sq_sig_all = 1,
	};

	if (ibv_query_port(d->ctx, PORT, &l->port) || l->port.state != IBV_PORT_ACTIVE)
		return "port 1 is not active";
	l->gid_index = find_gid(d->ctx, &l->gid);
	if (l->port.link_layer == IBV_LINK_LAYER_ETHERNET && l->gid_index < 0)
		return "the device has no address";
	l->cq = ibv_create_cq(d->ctx, 4, NULL, NULL, 0);
	if (!l->cq)
		return "ibv_create_cq";
	init.send_cq = init.recv_cq = l->cq;
	for (int i = 0; i < 2; i++) {
		l->qps[i] = ibv_create_qp(d->pd, &init);
		if (!l->qps[i])
			return "ibv_create_qp";
		if (to_init(l->qps[i]))
			return "ibv_modify_qp to INIT";
	}
	for (int i = 0; i < 2; i++) {
		if (to_receive(l, l->qps[i], l->qps[!i]->qp_num))
			return "ibv_modify_qp to RTR";
		if (to_send(l->qps[i]))
			return "ibv_modify_qp to RTS";
	}
	l->mr = ibv_reg_mr(d->pd, buf, PAGE, IBV_ACCESS_LOCAL_WRITE);
	return l->mr ? NULL : "ibv_reg_mr of a page of memory";
}

static void end_link(struct link *l)
{
	for (int i = 0; i < 2; i++) {
		if (l->qps[i])
			ibv_destroy_qp(l->qps[i]);
	}
	if (l->mr)
		ibv_dereg_mr(l->mr);
	if (l->cq)
		ibv_destroy_cq(l->cq);
}

/* The completion's status; -1: it could not be posted, -2: none came. */
static int write_page(struct link *l, void *buf, void *addr, uint32_t rkey)
{
	struct ibv_sge sge = { (uintptr_t)buf, PAGE, l->mr->lkey };
	struct ibv_send_wr wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.wr.rdma = { .remote_addr = (uintptr_t)addr, .rkey = rkey },
	}, *bad_wr;
	time_t until = time(NULL) + PATIENCE_S;
	struct ibv_wc wc;
	int n;

	if (ibv_post_send(l->qps[0], &wr, &bad_wr))
		return -1;
	do
		n = ibv_poll_cq(l->cq, 1, &wc);
	while (n == 0 && time(NULL) <= until);
	return n == 1 ? (int)wc.status : -2;
}

static void judge(int status, bool same, const struct link *l, char *ret_text, size_t size)
{
	if (status > 0)
		snprintf(ret_text, size, "the write failed: %s",
			 ibv_wc_status_str((enum ibv_wc_status)status));
	else if (status < 0)
		snprintf(ret_text, size, "the write %s",
			 status == -1 ? "could not be posted" : "got no completion");
	else if (!same)
		snprintf(
			ret_text, size,
			"the write succeeded, but the data is in the wrong place (path MTU %u; put "
			"right again)",
			128u << l->port.active_mtu);
	else
		ret_text[0] = '\0';
}

void traffic_try(const struct device *device, void *addr, uint32_t rkey, char *ret_text,
		 size_t size)
{
	struct link l = { .gid_index = -1 };
	void *copy = aligned_alloc(PAGE, PAGE), *buf = aligned_alloc(PAGE, PAGE);
	const char *why = copy && buf ? NULL : "out of memory";
	bool same = true;
	int status;

	if (!why) {
		memcpy(copy, addr, PAGE);
		memcpy(buf, addr, PAGE);
		why = make_link(device, buf, &l);
	}
	if (why) {
		snprintf(ret_text, size, "not tried: %s", why);
	} else {
		status = write_page(&l, buf, addr, rkey);
		same = !memcmp(addr, copy, PAGE);
		judge(status, same, &l, ret_text, size);
	}
	end_link(&l); /* nothing is written any more */
	if (copy && !same)
		memcpy(addr, copy, PAGE);
	free(copy);
	free(buf);
}
