// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Preloaded after the shim, or without it: says at the end which verbs came as far as here, and
 * how often. One letter for each call, as numbers are not compared.
 */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#include <infiniband/verbs.h>

#undef ibv_reg_mr

#define NEXT(name) ((__typeof__(&(name)))(uintptr_t)dlsym(RTLD_NEXT, #name))

enum verb {
	OPEN,
	CLOSE,
	REG,
	REG_IOVA2,
	DEREG,
	CREATE_QP,
	MODIFY_QP,
	DESTROY_QP,
	VERBS
};

static const char *const names[VERBS] = { "open",  "close",	"reg",	     "reg_iova2",
					  "dereg", "create_qp", "modify_qp", "destroy_qp" };
static atomic_uint counts[VERBS];

__attribute__((destructor)) static void report(void)
{
	for (unsigned int i = 0; i < VERBS; i++) {
		fprintf(stderr, "verb %s ", names[i]);
		for (unsigned int n = counts[i]; n; n--)
			fputc('z', stderr);
		fputc('\n', stderr);
	}
}

struct ibv_context *ibv_open_device(struct ibv_device *device)
{
	counts[OPEN]++;
	return NEXT(ibv_open_device)(device);
}

int ibv_close_device(struct ibv_context *context)
{
	counts[CLOSE]++;
	return NEXT(ibv_close_device)(context);
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
	counts[REG]++;
	return NEXT(ibv_reg_mr)(pd, addr, length, access);
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
				unsigned int access)
{
	counts[REG_IOVA2]++;
	return NEXT(ibv_reg_mr_iova2)(pd, addr, length, iova, access);
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	counts[DEREG]++;
	return NEXT(ibv_dereg_mr)(mr);
}

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
	counts[CREATE_QP]++;
	return NEXT(ibv_create_qp)(pd, attr);
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	counts[MODIFY_QP]++;
	return NEXT(ibv_modify_qp)(qp, attr, mask);
}

int ibv_destroy_qp(struct ibv_qp *qp)
{
	counts[DESTROY_QP]++;
	return NEXT(ibv_destroy_qp)(qp);
}
