// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The real verbs.c, with functions in place of libibverbs. */
#include <errno.h>
#include <string.h>

#include "support.h"
#include "verbs.h"

static struct {
	struct ibv_mr *mr;
	int err; /* what the function returns, or leaves in errno */
	int access;
	unsigned int calls;
	uint64_t advised;
	enum ibv_advise_mr_advice advice;
	bool no_advice, no_pd;
	uint64_t odp_caps;
	enum ibv_qp_state state;
} lib;

static struct ibv_device device = { .name = "fake0" };
static struct verbs_context context;
static struct ibv_pd pd;

/* The header makes a macro of it that may call either of the two. */
#undef ibv_reg_mr

static struct ibv_mr *reg(int access)
{
	lib.access = access;
	errno = lib.err;
	return lib.mr;
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *p, void *addr, size_t length, int access)
{
	(void)p;
	(void)addr;
	(void)length;
	return reg(access);
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *p, void *addr, size_t length, uint64_t iova,
				unsigned int access)
{
	(void)p;
	(void)addr;
	(void)length;
	(void)iova;
	return reg((int)access);
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	(void)mr;
	return lib.err;
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	(void)qp;
	assert_int_equal(mask, IBV_QP_STATE);
	lib.state = attr->qp_state;
	return lib.err;
}

const char *ibv_get_device_name(struct ibv_device *dev)
{
	return dev->name;
}

/* What ibv_query_device_ex() comes down to with a provider that has no more. */
int ibv_query_device(struct ibv_context *dev, struct ibv_device_attr *attr)
{
	(void)dev;
	memset(attr, 0, sizeof(*attr));
	return lib.err;
}

static int advise(struct ibv_pd *p, enum ibv_advise_mr_advice advice, uint32_t flags,
		  struct ibv_sge *sge, uint32_t n)
{
	(void)p;
	assert_int_equal(flags, 0);
	if (n == 0) /* only asked whether there is such a call */
		return lib.no_advice ? EOPNOTSUPP : EINVAL;
	assert_int_equal(n, 1);
	lib.calls++;
	lib.advice = advice;
	if (!lib.err)
		lib.advised += sge->length;
	return lib.err;
}

struct ibv_pd *ibv_alloc_pd(struct ibv_context *dev)
{
	(void)dev;
	return lib.no_pd ? NULL : &pd;
}

int ibv_dealloc_pd(struct ibv_pd *p)
{
	assert_ptr_equal(p, &pd);
	return 0;
}

static int query(struct ibv_context *dev, const struct ibv_query_device_ex_input *input,
		 struct ibv_device_attr_ex *attr, size_t size)
{
	(void)dev;
	(void)input;
	memset(attr, 0, size);
	attr->odp_caps.general_caps = lib.odp_caps;
	attr->odp_caps.per_transport_caps.rc_odp_caps = IBV_ODP_SUPPORT_WRITE;
	errno = lib.err < 0 ? EIO : 0;
	return lib.err;
}

static int setup(void **state)
{
	(void)state;
	memset(&lib, 0, sizeof(lib));
	memset(&context, 0, sizeof(context));
	context.context.device = &device;
	context.context.abi_compat = __VERBS_ABI_IS_EXTENDED;
	context.sz = sizeof(context);
	context.query_device_ex = query;
	context.advise_mr = advise;
	pd.context = &context.context;
	return 0;
}

static void verbs_reg_mr__works(void **state)
{
	struct ibv_mr mr, *got = NULL;

	(void)state;
	lib.mr = &mr;
	assert_int_equal(verbs_reg_mr(&pd, &mr, 8, IBV_ACCESS_REMOTE_READ, &got), 0);
	assert_ptr_equal(got, &mr);
	assert_int_equal(lib.access, IBV_ACCESS_REMOTE_READ);
}

static void verbs_reg_mr__fails(void **state)
{
	struct ibv_mr *got = (void *)1;

	(void)state;
	lib.err = ENOMEM;
	assert_int_equal(verbs_reg_mr(&pd, NULL, 8, 0, &got), -ENOMEM);
	lib.err = 0; /* some providers do not say why */
	assert_int_equal(verbs_reg_mr(&pd, NULL, 8, 0, &got), -EIO);
	assert_ptr_equal(got, (void *)1);
}

static void verbs_dereg_mr__positive_errno(void **state)
{
	struct ibv_mr mr;

	(void)state;
	assert_int_equal(verbs_dereg_mr(&mr), 0);
	lib.err = EBUSY;
	assert_int_equal(verbs_dereg_mr(&mr), -EBUSY);
}

static void verbs_prefetch__in_pieces(void **state)
{
	struct ibv_mr mr = { .pd = &pd, .addr = (void *)4096, .length = (3ul << 30) + 17 };

	(void)state;
	assert_int_equal(verbs_prefetch(&mr, true), 0);
	assert_int_equal(lib.calls, 4);
	assert_int_equal(lib.advised, mr.length);
	assert_int_equal(lib.advice, IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE);
}

static void verbs_prefetch__stops_at_a_failure(void **state)
{
	struct ibv_mr mr = { .pd = &pd, .addr = (void *)4096, .length = 3ul << 30 };

	(void)state;
	lib.err = EOPNOTSUPP;
	assert_int_equal(verbs_prefetch(&mr, false), -EOPNOTSUPP);
	assert_int_equal(lib.calls, 1);
	assert_int_equal(lib.advice, IBV_ADVISE_MR_ADVICE_PREFETCH);
}

static void verbs_query_odp__with(void **state)
{
	struct verbs_odp odp = { 0 };

	(void)state;
	lib.odp_caps = IBV_ODP_SUPPORT;
	assert_int_equal(verbs_query_odp(&context.context, &odp), 0);
	assert_true(odp.supported && odp.prefetch);
	assert_int_equal(odp.rc_caps, IBV_ODP_SUPPORT_WRITE);
	lib.no_pd = true; /* cannot be asked */
	assert_int_equal(verbs_query_odp(&context.context, &odp), 0);
	assert_false(odp.prefetch);
	lib.no_pd = false;
	lib.no_advice = true; /* there is a function, and it knows nothing */
	assert_int_equal(verbs_query_odp(&context.context, &odp), 0);
	assert_false(odp.prefetch);
	context.advise_mr = NULL;
	assert_int_equal(verbs_query_odp(&context.context, &odp), 0);
	assert_false(odp.prefetch);
}

static void verbs_query_odp__without(void **state)
{
	struct verbs_odp odp = { 0 };

	(void)state;
	assert_int_equal(verbs_query_odp(&context.context, &odp), 0);
	assert_false(odp.supported || odp.prefetch);
}

static void verbs_query_odp__old_provider(void **state)
{
	struct verbs_odp odp = { 0 };

	(void)state;
	context.query_device_ex = NULL;
	lib.odp_caps = IBV_ODP_SUPPORT;
	assert_int_equal(verbs_query_odp(&context.context, &odp), 0);
	assert_false(odp.supported || odp.prefetch);
}

static void verbs_query_odp__fails(void **state)
{
	struct verbs_odp odp = { .rc_caps = 77 };

	(void)state;
	lib.err = ENOSYS;
	assert_int_equal(verbs_query_odp(&context.context, &odp), -ENOSYS);
	lib.err = -1;
	assert_int_equal(verbs_query_odp(&context.context, &odp), -EIO);
	assert_int_equal(odp.rc_caps, 77);
}

static void verbs_fence_qp__to_error(void **state)
{
	struct ibv_qp qp;

	(void)state;
	assert_int_equal(verbs_fence_qp(&qp), 0);
	assert_int_equal(lib.state, IBV_QPS_ERR);
	lib.err = EINVAL;
	assert_int_equal(verbs_fence_qp(&qp), -EINVAL);
}

static void verbs_device_name__of_context(void **state)
{
	(void)state;
	assert_string_equal(verbs_device_name(&context.context), "fake0");
}

#define CASE(fn) cmocka_unit_test_setup(fn, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(verbs_reg_mr__works),
		CASE(verbs_reg_mr__fails),
		CASE(verbs_dereg_mr__positive_errno),
		CASE(verbs_prefetch__in_pieces),
		CASE(verbs_prefetch__stops_at_a_failure),
		CASE(verbs_query_odp__with),
		CASE(verbs_query_odp__without),
		CASE(verbs_query_odp__old_provider),
		CASE(verbs_query_odp__fails),
		CASE(verbs_fence_qp__to_error),
		CASE(verbs_device_name__of_context),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
