// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "rdma.h"
#include "support.h"

#define LINK_BUF 65536u
#define PORT 1

/* ------------------------------------------------------------------------- */
/* In front of libibverbs */

unsigned int dereg_delay_ms;
static atomic_ullong last_dereg_ns;
static atomic_uint deregs;

int ibv_dereg_mr(struct ibv_mr *mr)
{
	static int (*real)(struct ibv_mr * mr);
	int err;

	if (!real)
		real = (__typeof__(real))(uintptr_t)dlsym(RTLD_NEXT, "ibv_dereg_mr");
	if (dereg_delay_ms)
		sleep_ms(dereg_delay_ms);
	err = real(mr);
	if (!err) {
		atomic_store(&last_dereg_ns, now_ns());
		atomic_fetch_add(&deregs, 1);
	}
	return err;
}

uint64_t dereg_end_ns(void)
{
	return atomic_load(&last_dereg_ns);
}

unsigned int dereg_count(void)
{
	return atomic_load(&deregs);
}

static bool odp_hidden;
static int (*real_query)(struct ibv_context *ctx, const struct ibv_query_device_ex_input *input,
			 struct ibv_device_attr_ex *attr, size_t size);

static int query_without_odp(struct ibv_context *ctx, const struct ibv_query_device_ex_input *input,
			     struct ibv_device_attr_ex *attr, size_t size)
{
	int err = real_query(ctx, input, attr, size);

	memset(&attr->odp_caps, 0, sizeof(attr->odp_caps));
	return err;
}

/* What the macro ibv_reg_mr() calls. Refuses as ib_uverbs does for a driver without ODP. */
struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
				unsigned int access)
{
	static struct ibv_mr *(*real)(struct ibv_pd * pd, void *addr, size_t length, uint64_t iova,
				      unsigned int access);

	if (odp_hidden && access & IBV_ACCESS_ON_DEMAND) {
		errno = EINVAL;
		return NULL;
	}
	if (!real)
		real = (__typeof__(real))(uintptr_t)dlsym(RTLD_NEXT, "ibv_reg_mr_iova2");
	return real(pd, addr, length, iova, access);
}

void device_hide_odp(struct device *dev)
{
	struct verbs_context *verbs = verbs_get_ctx(dev->ctx);

	CHECK(verbs && verbs->query_device_ex);
	real_query = verbs->query_device_ex;
	verbs->query_device_ex = query_without_odp;
	odp_hidden = true;
}

/* ------------------------------------------------------------------------- */
/* Devices */

static struct ibv_context *open_by_name(const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_context *ctx = NULL;

	CHECK(list);
	for (unsigned int i = 0; list[i] && !ctx; i++) {
		if (!strcmp(ibv_get_device_name(list[i]), name))
			ctx = ibv_open_device(list[i]);
	}
	ibv_free_device_list(list);
	if (!ctx)
		fail_at(__FILE__, __LINE__, "no RDMA device %s", name);
	return ctx;
}

/* The one of the IPv4 address: ::ffff:a.b.c.d. */
static void find_gid(struct device *dev)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

	for (dev->gid_index = 0; dev->gid_index < 16; dev->gid_index++) {
		if (!ibv_query_gid(dev->ctx, PORT, dev->gid_index, &dev->gid) &&
		    !memcmp(dev->gid.raw, mapped, sizeof(mapped)))
			return;
	}
	fail_at(__FILE__, __LINE__, "%s has no IPv4 address",
		ibv_get_device_name(dev->ctx->device));
}

void device_open(struct device *dev, const char *name)
{
	dev->ctx = open_by_name(name);
	dev->pd = ibv_alloc_pd(dev->ctx);
	CHECK(dev->pd);
	find_gid(dev);
}

void device_close(struct device *dev)
{
	CHECK_EQ(ibv_dealloc_pd(dev->pd), 0);
	CHECK_EQ(ibv_close_device(dev->ctx), 0);
}

/* ------------------------------------------------------------------------- */
/* Connections */

struct ibv_qp *qp_make(struct ibv_pd *pd, struct ibv_cq *cq)
{
	struct ibv_qp_init_attr init = {
		.send_cq = cq,
		.recv_cq = cq,
		.cap = { .max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1, .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
		.sq_sig_all = 1,
	};
	struct ibv_qp *qp = ibv_create_qp(pd, &init);
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = PORT,
		.qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ,
	};

	CHECK(qp);
	CHECK_EQ(
		ibv_modify_qp(qp, &attr,
			      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
		0);
	return qp;
}

void qp_connect(const struct device *dev, struct ibv_qp *qp, uint32_t to)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = IBV_MTU_4096, /* see run.sh */
		.dest_qp_num = to,
		.max_dest_rd_atomic = 1,
		.min_rnr_timer = 12,
		.ah_attr = { .is_global = 1,
			     .port_num = PORT,
			     .grh = { .dgid = dev->gid,
				      .sgid_index = (uint8_t)dev->gid_index,
				      .hop_limit = 4 } },
	};

	CHECK_EQ(ibv_modify_qp(qp, &attr,
			       IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
				       IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
				       IBV_QP_MIN_RNR_TIMER),
		 0);
	/* About 0.13 s, seven times: patient with an emulated processor. 7 retries are no end. */
	attr = (struct ibv_qp_attr){
		.qp_state = IBV_QPS_RTS,
		.timeout = 15,
		.retry_cnt = 6,
		.rnr_retry = 7,
		.max_rd_atomic = 1,
	};
	CHECK_EQ(ibv_modify_qp(qp, &attr,
			       IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
				       IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC),
		 0);
}

void link_open(struct link *link, struct device *dev, struct ibv_pd *pd)
{
	link->near_pd = dev->pd;
	link->near_cq = ibv_create_cq(dev->ctx, 8, NULL, NULL, 0);
	link->far_cq = ibv_create_cq(dev->ctx, 8, NULL, NULL, 0);
	CHECK(link->near_cq && link->far_cq);
	link->near = qp_make(dev->pd, link->near_cq);
	link->far = qp_make(pd, link->far_cq);
	qp_connect(dev, link->near, link->far->qp_num);
	qp_connect(dev, link->far, link->near->qp_num);
	CHECK(!posix_memalign((void **)&link->buf, PAGE, LINK_BUF));
	link->mr = ibv_reg_mr(dev->pd, link->buf, LINK_BUF, IBV_ACCESS_LOCAL_WRITE);
	CHECK(link->mr);
}

void link_close(struct link *link)
{
	CHECK_EQ(ibv_destroy_qp(link->near), 0);
	CHECK_EQ(ibv_destroy_qp(link->far), 0);
	CHECK_EQ(ibv_dereg_mr(link->mr), 0);
	CHECK_EQ(ibv_destroy_cq(link->near_cq), 0);
	CHECK_EQ(ibv_destroy_cq(link->far_cq), 0);
	free(link->buf);
}

static int run(struct link *link, struct ibv_send_wr *wr)
{
	uint64_t end = now_ns() + 20 * SEC;
	struct ibv_send_wr *bad;
	struct ibv_wc wc;
	int n;

	CHECK_EQ(ibv_post_send(link->near, wr, &bad), 0);
	while ((n = ibv_poll_cq(link->near_cq, 1, &wc)) == 0) {
		CHECK(now_ns() < end);
		sleep_ms(1);
	}
	CHECK_EQ(n, 1);
	return wc.status;
}

static int transfer(struct link *link, enum ibv_wr_opcode opcode, void *addr, uint32_t rkey,
		    uint32_t len)
{
	struct ibv_sge sge = { .addr = (uintptr_t)link->buf,
			       .length = len,
			       .lkey = link->mr->lkey };
	struct ibv_send_wr wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = opcode,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma = { .remote_addr = (uintptr_t)addr, .rkey = rkey },
	};

	CHECK(len <= LINK_BUF);
	return run(link, &wr);
}

int link_write(struct link *link, void *addr, uint32_t rkey, uint32_t len, uint8_t fill)
{
	memset(link->buf, fill, len);
	return transfer(link, IBV_WR_RDMA_WRITE, addr, rkey, len);
}

int link_read(struct link *link, void *addr, uint32_t rkey, uint32_t len)
{
	return transfer(link, IBV_WR_RDMA_READ, addr, rkey, len);
}

enum ibv_qp_state link_far_state(struct link *link)
{
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr;

	CHECK_EQ(ibv_query_qp(link->far, &attr, IBV_QP_STATE, &init), 0);
	return attr.qp_state;
}
