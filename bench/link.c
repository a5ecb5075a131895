// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* A connection of the device to itself, for one write at a time. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

/* The one of an IPv4 address, ::ffff:a.b.c.d, where perftest would look as well. */
static int find_gid(struct ibv_context *device, union ibv_gid *ret_gid)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

	for (int i = 0; i < 16; i++) {
		if (!ibv_query_gid(device, PORT, i, ret_gid) &&
		    !memcmp(ret_gid->raw, mapped, sizeof(mapped)))
			return i;
	}
	return -1;
}

const char *port_find(const struct env *env, struct port *ret_port)
{
	struct ibv_port_attr attr;

	if (ibv_query_port(env->device, PORT, &attr) || attr.state != IBV_PORT_ACTIVE)
		return "port 1 of the device is not active";
	if (attr.active_mtu < IBV_MTU_4096)
		return "a page does not fit into a packet: the path MTU has to be 4096 (for "
		       "soft-RoCE: ip link set NETDEV mtu 9000)";
	*ret_port = (struct port){ .lid = attr.lid, .gid_index = -1 };
	if (attr.link_layer != IBV_LINK_LAYER_ETHERNET)
		return NULL;
	ret_port->gid_index = find_gid(env->device, &ret_port->gid);
	return ret_port->gid_index < 0 ? "the device has no IPv4 address" : NULL;
}

static struct ibv_qp *make_qp(const struct env *env, struct ibv_cq *cq)
{
	struct ibv_qp_init_attr init = {
		.send_cq = cq,
		.recv_cq = cq,
		.cap = { .max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
		.sq_sig_all = 1,
	};
	struct ibv_qp *qp = ibv_create_qp(env->pd, &init);

	if (!qp)
		die(errno, "ibv_create_qp");
	return qp;
}

static void modify(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	int err = ibv_modify_qp(qp, attr, mask | IBV_QP_STATE);

	if (err)
		die(err, "ibv_modify_qp");
}

static void connect_qp(const struct port *port, struct ibv_qp *qp, uint32_t to)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = PORT,
		.qp_access_flags = IBV_ACCESS_REMOTE_WRITE,
	};

	modify(qp, &attr, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
	attr = (struct ibv_qp_attr){
		.qp_state = IBV_QPS_RTR,
		.path_mtu = IBV_MTU_4096,
		.dest_qp_num = to,
		.max_dest_rd_atomic = 1,
		.min_rnr_timer = 12,
		.ah_attr = { .dlid = port->lid, .port_num = PORT },
	};
	if (port->gid_index >= 0) {
		attr.ah_attr.is_global = 1;
		attr.ah_attr.grh.dgid = port->gid;
		attr.ah_attr.grh.sgid_index = (uint8_t)port->gid_index;
		attr.ah_attr.grh.hop_limit = 4;
	}
	modify(qp, &attr,
	       IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
		       IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
	attr = (struct ibv_qp_attr){
		.qp_state = IBV_QPS_RTS,
		.timeout = 15,
		.retry_cnt = 7,
		.rnr_retry = 7,
		.max_rd_atomic = 1,
	};
	modify(qp, &attr,
	       IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
		       IBV_QP_MAX_QP_RD_ATOMIC);
}

void link_open(const struct env *env, const struct port *port, struct link *l)
{
	l->cq = ibv_create_cq(env->device, 4, NULL, NULL, 0);
	if (!l->cq)
		die(errno, "ibv_create_cq");
	l->near = make_qp(env, l->cq);
	l->far = make_qp(env, l->cq);
	connect_qp(port, l->near, l->far->qp_num);
	connect_qp(port, l->far, l->near->qp_num);
	if (posix_memalign(&l->buf, PAGE, PAGE))
		die(0, "out of memory");
	memset(l->buf, 'w', PAGE);
	l->mr = ibv_reg_mr(env->pd, l->buf, PAGE, IBV_ACCESS_LOCAL_WRITE);
	if (!l->mr)
		die(errno, "ibv_reg_mr of a page");
}

void link_close(struct link *l)
{
	ibv_destroy_qp(l->near);
	ibv_destroy_qp(l->far);
	ibv_dereg_mr(l->mr);
	ibv_destroy_cq(l->cq);
	free(l->buf);
}

void link_write_page(struct link *l, void *addr, uint32_t rkey)
{
	struct ibv_sge sge = { (uintptr_t)l->buf, PAGE, l->mr->lkey };
	struct ibv_send_wr wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.wr.rdma = { .remote_addr = (uintptr_t)addr, .rkey = rkey },
	};
	struct ibv_send_wr *bad;
	struct ibv_wc wc;
	int n;

	n = ibv_post_send(l->near, &wr, &bad);
	if (n)
		die(n, "ibv_post_send");
	while ((n = ibv_poll_cq(l->cq, 1, &wc)) == 0)
		;
	if (n < 0 || wc.status != IBV_WC_SUCCESS)
		die(0, "RDMA write: %s", n < 0 ? "no completion" : ibv_wc_status_str(wc.status));
}
