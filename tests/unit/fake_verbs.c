// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>

#include "fake_layout.h"
#include "fake_verbs.h"
#include "fault.h"
#include "support.h"
#include "verbs.h"

struct gate {
	bool shut;
	unsigned int pass; /* may go through though it is shut */
	bool once;	   /* whoever comes first leaves it open for the others */
};

struct failure {
	unsigned int times;
	int err;
};

static struct {
	bool odp;
	int pinned_err;
	struct failure reg, dereg, fence;
	struct gate reg_gate, dereg_gate;
	unsigned int waiting;
	unsigned int live, regs, deregs, fences, prefetches;
	int last_access;
	size_t last_length;
	uint64_t last_dereg_ns;
	uint32_t next_key;
} fake = { .odp = true };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static struct ibv_device device = { .name = "fake0" };
static struct ibv_context context = { .device = &device };
struct ibv_pd fake_pd = { .context = &context };

bool (*fake_mr_in_use)(const struct ibv_mr *mr);

/* Under the lock: sets a member, reads a member. */
#define SET(member, value)                        \
	do {                                      \
		pthread_mutex_lock(&lock);        \
		fake.member = (value);            \
		pthread_cond_broadcast(&changed); \
		pthread_mutex_unlock(&lock);      \
	} while (0)

#define GETTER(type, name, member)           \
	type name(void)                      \
	{                                    \
		type value;                  \
                                             \
		pthread_mutex_lock(&lock);   \
		value = fake.member;         \
		pthread_mutex_unlock(&lock); \
		return value;                \
	}

GETTER(unsigned int, fake_waiting, waiting)
GETTER(unsigned int, fake_live, live)
GETTER(unsigned int, fake_regs, regs)
GETTER(unsigned int, fake_deregs, deregs)
GETTER(unsigned int, fake_fences, fences)
GETTER(unsigned int, fake_prefetches, prefetches)
GETTER(int, fake_last_access, last_access)
GETTER(size_t, fake_last_length, last_length)
GETTER(uint64_t, fake_last_dereg_ns, last_dereg_ns)

void fake_reset(void)
{
	pthread_mutex_lock(&lock);
	fake = (typeof(fake)){ .odp = true, .next_key = fake.next_key };
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

void fake_fail_reg(unsigned int n, int err)
{
	SET(reg, ((struct failure){ n, err }));
}

void fake_fail_dereg(unsigned int n, int err)
{
	SET(dereg, ((struct failure){ n, err }));
}

void fake_fail_fence(unsigned int n, int err)
{
	SET(fence, ((struct failure){ n, err }));
}

void fake_fail_pinned(int err)
{
	SET(pinned_err, err);
}

void fake_odp(bool supported)
{
	SET(odp, supported);
}

void fake_shut_reg(void)
{
	SET(reg_gate, ((struct gate){ .shut = true }));
}

void fake_shut_dereg(void)
{
	SET(dereg_gate, ((struct gate){ .shut = true }));
}

void fake_shut_dereg_once(void)
{
	SET(dereg_gate, ((struct gate){ .shut = true, .once = true }));
}

void fake_open_reg(void)
{
	SET(reg_gate, (struct gate){ 0 });
}

void fake_open_dereg(void)
{
	SET(dereg_gate, (struct gate){ 0 });
}

void fake_pass_dereg(unsigned int n)
{
	SET(dereg_gate.pass, n);
}

static void go_through(struct gate *gate)
{
	if (gate->once && fake.waiting)
		return;
	fake.waiting++;
	while (gate->shut && !gate->pass)
		pthread_cond_wait(&changed, &lock);
	fake.waiting--;
	if (gate->shut)
		gate->pass--;
}

static int take_failure(struct failure *failure)
{
	if (!failure->times)
		return 0;
	failure->times--;
	return -failure->err;
}

static int check_access(int access, const void *addr)
{
	if (access & IBV_ACCESS_ON_DEMAND)
		return fake.odp ? 0 : -EOPNOTSUPP;
	return fake.pinned_err ? -fake.pinned_err : fake_layout_pin(addr);
}

struct fake_mr {
	struct ibv_mr mr; /* first */
	bool pinned;
};

static struct ibv_mr *make_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
	struct fake_mr *fmr = calloc(1, sizeof(*fmr));
	struct ibv_mr *mr = &fmr->mr;

	if (!fmr)
		abort();
	fmr->pinned = !(access & IBV_ACCESS_ON_DEMAND);
	mr->context = pd->context;
	mr->pd = pd;
	mr->addr = addr;
	mr->length = length;
	mr->lkey = ++fake.next_key;
	mr->rkey = fake.next_key | 1u << 31;
	fake.live++;
	fake.last_access = access;
	fake.last_length = length;
	return mr;
}

int verbs_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access, struct ibv_mr **ret_mr)
{
	int err = fault_check("verbs_reg_mr", -ENOMEM);

	pthread_mutex_lock(&lock);
	fake.regs++;
	go_through(&fake.reg_gate);
	if (!err)
		err = take_failure(&fake.reg);
	if (!err)
		err = check_access(access, addr);
	if (!err)
		*ret_mr = make_mr(pd, addr, length, access);
	pthread_mutex_unlock(&lock);
	return err;
}

int verbs_dereg_mr(struct ibv_mr *mr)
{
	int err = fault_check("verbs_dereg_mr", -EBUSY);

	pthread_mutex_lock(&lock);
	fake.deregs++;
	go_through(&fake.dereg_gate);
	if (!err)
		err = take_failure(&fake.dereg);
	if (!err && fake_mr_in_use && fake_mr_in_use(mr))
		err = -EINVAL;
	if (!err) {
		fake.live--;
		fake.last_dereg_ns = now_ns();
		if (((struct fake_mr *)mr)->pinned)
			fake_layout_unpin(mr->addr);
		free(mr);
	}
	pthread_mutex_unlock(&lock);
	return err;
}

int verbs_prefetch(struct ibv_mr *mr, bool writable)
{
	int err = fault_check("verbs_prefetch", -EOPNOTSUPP);

	(void)mr;
	(void)writable;
	if (!err)
		SET(prefetches, fake.prefetches + 1);
	return err;
}

int verbs_query_odp(struct ibv_context *dev, struct verbs_odp *ret_odp)
{
	int err = fault_check("verbs_query_odp", -EIO);

	(void)dev;
	if (err)
		return err;
	pthread_mutex_lock(&lock);
	*ret_odp = (struct verbs_odp){ .supported = fake.odp,
				       .rc_caps = fake.odp ? IBV_ODP_SUPPORT_WRITE : 0,
				       .prefetch = fake.odp };
	pthread_mutex_unlock(&lock);
	return 0;
}

int verbs_fence_qp(struct ibv_qp *qp)
{
	int err = fault_check("verbs_fence_qp", -EINVAL);

	pthread_mutex_lock(&lock);
	fake.fences++;
	if (!err)
		err = take_failure(&fake.fence);
	if (!err)
		qp->state = IBV_QPS_ERR;
	pthread_mutex_unlock(&lock);
	return err;
}

const char *verbs_device_name(const struct ibv_context *dev)
{
	return dev->device->name;
}
