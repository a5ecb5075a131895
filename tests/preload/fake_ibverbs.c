// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_ibverbs.h"

#undef ibv_reg_mr
#undef ibv_reg_mr_iova

#define DESTROYED ((enum ibv_qp_type)0xdead)

/* As in rdma-core, where it is the provider's: freed by it. */
struct fake_mr {
	struct ibv_mr mr;
	int type, access;
};

int ibv_cmd_dereg_mr(struct ibv_mr *mr);
int ibv_dontfork_range(void *base, size_t size);

static struct ibv_device device = { .name = "fake0" };
static atomic_uint live, regs, fenced, next_handle = 1, next_key = 100;
static atomic_uint slow;
static atomic_bool slow_fences;
static atomic_int last_access;
static atomic_ullong last_iova;

struct ibv_device *fake_device(void)
{
	return &device;
}

unsigned int fake_live(void)
{
	return live;
}

unsigned int fake_regs(void)
{
	return regs;
}

unsigned int fake_fenced(void)
{
	return fenced;
}

void fake_slow_fences(bool is_slow)
{
	slow_fences = is_slow;
}

unsigned int fake_slow(void)
{
	return slow;
}

int fake_last_access(void)
{
	return last_access;
}

uint64_t fake_last_iova(void)
{
	return last_iova;
}

void fake_next_key(uint32_t key)
{
	next_key = key;
}

/* ------------------------------------------------------------------------- */
/* Devices, domains, queue pairs */

static int query_device_ex(struct ibv_context *context,
			   const struct ibv_query_device_ex_input *input,
			   struct ibv_device_attr_ex *attr, size_t size)
{
	(void)context;
	(void)input;
	memset(attr, 0, size);
	attr->odp_caps.general_caps = IBV_ODP_SUPPORT;
	return 0;
}

static struct ibv_qp *make_qp(struct ibv_context *context, struct ibv_pd *pd)
{
	struct ibv_qp *qp = calloc(1, sizeof(*qp));

	qp->context = context;
	qp->pd = pd;
	qp->state = IBV_QPS_INIT;
	return qp;
}

static struct ibv_qp *create_qp_ex(struct ibv_context *context, struct ibv_qp_init_attr_ex *attr)
{
	return make_qp(context, attr->pd);
}

struct ibv_context *ibv_open_device(struct ibv_device *dev)
{
	struct verbs_context *v = calloc(1, sizeof(*v));

	v->sz = sizeof(*v);
	v->context.abi_compat = __VERBS_ABI_IS_EXTENDED;
	v->context.device = dev;
	v->create_qp_ex = create_qp_ex;
	v->query_device_ex = query_device_ex;
	return &v->context;
}

int ibv_close_device(struct ibv_context *context)
{
	struct verbs_context *v = verbs_get_ctx(context);
	bool restored = v->create_qp_ex == create_qp_ex;

	/* Whoever uses it later is to be noticed. */
	memset(v, 0x5a, sizeof(*v));
	free(v);
	return restored ? 0 : -1;
}

struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
	struct ibv_pd *pd = calloc(1, sizeof(*pd));

	pd->context = context;
	pd->handle = next_handle++;
	return pd;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	free(pd);
	return 0;
}

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
	(void)attr;
	return make_qp(pd->context, pd);
}

/* Not freed, so that whoever uses it later is noticed. */
int ibv_destroy_qp(struct ibv_qp *qp)
{
	qp->qp_type = DESTROYED;
	return 0;
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	if (qp->qp_type == DESTROYED)
		abort();
	slow++;
	while (slow_fences)
		usleep(1000);
	slow--;
	if (mask & IBV_QP_STATE)
		qp->state = attr->qp_state;
	fenced += qp->state == IBV_QPS_ERR;
	return 0;
}

int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
	(void)context;
	memset(attr, 0, sizeof(*attr));
	return 0;
}

const char *ibv_get_device_name(struct ibv_device *dev)
{
	return dev->name;
}

/* ------------------------------------------------------------------------- */
/* Memory */

static bool is_dax(const void *addr)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long start, end;
	bool dax = false;
	char line[4096];

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx", &start, &end) == 2 && (uintptr_t)addr >= start &&
		    (uintptr_t)addr < end)
			dax = strstr(line, "/dax-") && strstr(line, "s ");
	}
	if (f)
		fclose(f);
	return dax;
}

int ibv_dontfork_range(void *base, size_t size)
{
	(void)base;
	(void)size;
	return 0;
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
				unsigned int access)
{
	struct fake_mr *mr;

	if (!(access & IBV_ACCESS_ON_DEMAND)) {
		ibv_dontfork_range(addr, length);
		if (is_dax(addr)) {
			errno = EOPNOTSUPP;
			return NULL;
		}
	}
	mr = calloc(1, sizeof(*mr));
	mr->mr = (struct ibv_mr){ .context = pd->context, .pd = pd, .addr = addr };
	mr->mr.length = length;
	mr->mr.handle = next_handle++;
	mr->mr.lkey = mr->mr.rkey = next_key++;
	mr->access = (int)access;
	last_access = (int)access;
	last_iova = iova;
	live++;
	regs++;
	return &mr->mr;
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
	return ibv_reg_mr_iova2(pd, addr, length, (uintptr_t)addr, (unsigned int)access);
}

struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
			       int access)
{
	return ibv_reg_mr_iova2(pd, addr, length, iova, (unsigned int)access);
}

int ibv_rereg_mr(struct ibv_mr *mr, int flags, struct ibv_pd *pd, void *addr, size_t length,
		 int access)
{
	(void)pd;
	(void)access;
	if (flags & IBV_REREG_MR_CHANGE_TRANSLATION) {
		mr->addr = addr;
		mr->length = length;
	}
	return 0;
}

/* The kernel's part. */
int ibv_cmd_dereg_mr(struct ibv_mr *mr)
{
	(void)mr;
	live--;
	errno = ENOTTY; /* of something tried first, such as an older ioctl */
	return 0;
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	int err = ibv_cmd_dereg_mr(mr);

	if (!err)
		free((struct fake_mr *)mr);
	return err;
}
