// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Public calls on memory regions; see daxlease.h for what each of them promises. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "brk.h"
#include "private.h"
#include "region.h"
#include "sys.h"

static const struct region *region_of(const struct daxlease_mr *mr)
{
	return mr ? &mr->region : NULL;
}

static struct region *region_in(struct daxlease_mr *mr)
{
	return mr ? &mr->region : NULL;
}

static struct ibv_mr *usable_mr(const struct daxlease_mr *mr)
{
	return brk_usable(&mr->region) ? mr->ibv_mr : NULL;
}

/* ------------------------------------------------------------------------- */
/* The list of queue pairs */

static size_t find_qp(const struct daxlease_mr *mr, const struct ibv_qp *qp)
{
	size_t i;

	for (i = 0; i < mr->nqps && mr->qps[i] != qp; i++)
		;
	return i;
}

static int add_qp(struct daxlease_mr *mr, struct ibv_qp *qp)
{
	size_t max = mr->maxqps ? mr->maxqps * 2 : 4;
	struct ibv_qp **qps;

	if (find_qp(mr, qp) < mr->nqps)
		return -EEXIST;
	if (mr->nqps == mr->maxqps) {
		qps = sys_realloc(mr->qps, max * sizeof(*qps));
		if (!qps)
			return -ENOMEM;
		mr->qps = qps;
		mr->maxqps = max;
	}
	mr->qps[mr->nqps++] = qp;
	return 0;
}

static int remove_qp(struct daxlease_mr *mr, struct ibv_qp *qp)
{
	size_t i = find_qp(mr, qp);

	if (i == mr->nqps)
		return -ENOENT;
	mr->qps[i] = mr->qps[--mr->nqps];
	return 0;
}

/* ------------------------------------------------------------------------- */
/* The pin, and the callbacks */

static void describe(const struct region *r, char *buf, size_t size)
{
	const struct daxlease_mr *mr = (const struct daxlease_mr *)r;

	snprintf(buf, size, "rkey 0x%x", mr->ibv_mr->rkey);
}

static void hand_out(struct region *r, void *ret)
{
	struct daxlease_mr **ret_mr = ret;

	*ret_mr = mr_of(r);
}

static int call_drain(struct region *r, const struct daxlease_break *brk)
{
	struct daxlease_mr *mr = mr_of(r);

	return mr->opts.drain(mr, brk, mr->opts.userdata);
}

static void call_release(struct region *r, int result)
{
	struct daxlease_mr *mr = mr_of(r);

	mr->opts.release(mr, result, mr->opts.userdata);
}

static void call_guard(struct region *r, bool guarded)
{
	struct daxlease_mr *mr = mr_of(r);

	mr->opts.guard(mr, guarded, mr->opts.userdata);
}

static void note_regain(struct region *r, int error)
{
	struct daxlease_mr *mr = mr_of(r);
	struct ibv_mr *ibv_mr = usable_mr(mr);

	mr->regain = (struct daxlease_regain){ .size = sizeof(mr->regain), .error = error };
	if (!ibv_mr)
		return;
	mr->regain.ibv_mr = ibv_mr;
	mr->regain.lkey = ibv_mr->lkey;
	mr->regain.rkey = ibv_mr->rkey;
	mr->regain.length = r->registered;
}

static void call_regain(struct region *r)
{
	struct daxlease_mr *mr = mr_of(r);
	struct daxlease_regain regain = mr->regain;

	mr->opts.regain(mr, &regain, mr->opts.userdata);
}

/* What else there is to be stopped first, then the queue pairs that we were told of. */
static void fence(struct region *r)
{
	struct daxlease_mr *mr = mr_of(r);

	if (mr->opts.fence)
		mr->opts.fence(mr, mr->opts.userdata);
	pin_mr_fence(r);
}

static const struct pin_ops mr_ops = {
	.detach_call = "ibv_dereg_mr",
	.attach = pin_mr_attach,
	.detach = pin_mr_detach,
	.fence = fence,
	.describe = describe,
	.hand_out = hand_out,
	.drain = call_drain,
	.release = call_release,
	.guard = call_guard,
	.note_regain = note_regain,
	.regain = call_regain,
};

/* ------------------------------------------------------------------------- */
/* Registering and deregistering */

static void take_opts(struct daxlease_mr *mr)
{
	const struct daxlease_mr_opts *opts = &mr->opts;
	struct region *r = &mr->region;

	r->flags = opts->flags;
	r->kind = opts->kind;
	r->drain_budget_ms = opts->drain_budget_ms;
	r->has.drain = opts->drain;
	r->has.release = opts->release;
	r->has.regain = opts->regain;
	r->has.guard = opts->guard;
}

/* qp: NULL, or its first one. */
static int new_region(struct daxlease_ctx *ctx, struct ibv_pd *pd, struct ibv_qp *qp, int fd,
		      void *addr, size_t length, int access, const struct daxlease_mr_opts *opts,
		      struct daxlease_mr **ret_mr)
{
	struct daxlease_mr *mr = sys_calloc(1, sizeof(*mr));
	int err;

	if (!mr)
		return region_refuse(ctx, addr, length, -ENOMEM, "out of memory");
	mr->region.ctx = ctx;
	mr->region.ops = &mr_ops;
	mr->region.addr = addr;
	mr->region.length = length;
	mr->pd = pd;
	mr->access = access;
	err = region_read_opts(ctx, &mr->opts, sizeof(mr->opts), opts);
	take_opts(mr);
	if (!err && qp)
		err = add_qp(mr, qp);
	if (!err)
		err = region_register(&mr->region, fd, ret_mr);
	if (err) {
		free(mr->qps);
		free(mr);
	}
	log_flush(&ctx->log);
	return err;
}

int daxlease_private_reg_mr(struct daxlease_ctx *ctx, struct ibv_pd *pd, struct ibv_qp *qp, int fd,
			    void *addr, size_t length, int access,
			    const struct daxlease_mr_opts *opts, struct daxlease_mr **ret_mr)
{
	int err = ctx_check(ctx);

	if (err)
		return err;
	err = region_check_range(ctx, addr, length,
				 !pd	 ? "pd is NULL" :
				 !ret_mr ? "ret_mr is NULL" :
					   NULL);
	if (err)
		return err;
	return new_region(ctx, pd, qp, fd, addr, length, access, opts, ret_mr);
}

int daxlease_reg_mr(struct daxlease_ctx *ctx, struct ibv_pd *pd, int fd, void *addr, size_t length,
		    int access, const struct daxlease_mr_opts *opts, struct daxlease_mr **ret_mr)
{
	return daxlease_private_reg_mr(ctx, pd, NULL, fd, addr, length, access, opts, ret_mr);
}

int daxlease_dereg_mr(struct daxlease_mr *mr)
{
	int err;

	if (!mr)
		return 0;
	err = ctx_check_not_in_callback(mr->region.ctx);
	if (!err)
		err = region_deregister(&mr->region);
	if (err)
		return err;
	free(mr->qps);
	free(mr);
	return 0;
}

/* ------------------------------------------------------------------------- */
/* Accessors */

struct ibv_mr *daxlease_mr_get_ibv_mr(const struct daxlease_mr *mr)
{
	struct ibv_mr *ibv_mr;

	if (region_check(region_of(mr)))
		return NULL;
	ctx_lock(mr->region.ctx);
	ibv_mr = usable_mr(mr);
	ctx_unlock(mr->region.ctx);
	return ibv_mr;
}

void *daxlease_mr_get_userdata(const struct daxlease_mr *mr)
{
	return mr ? mr->opts.userdata : NULL;
}

enum daxlease_state daxlease_mr_get_state(const struct daxlease_mr *mr)
{
	return region_state(region_of(mr));
}

static void fill_info(const struct daxlease_mr *mr, struct daxlease_mr_info *info)
{
	const struct region *r = &mr->region;
	const struct lease *l = r->lease;
	const struct ibv_mr *ibv_mr = usable_mr(mr);

	info->state = r->state;
	info->kind = l ? l->ops->kind : DAXLEASE_KIND_NONE;
	info->on_demand = r->on_demand;
	info->unseen = l ? l->ops->unseen | l->unseen : 0;
	info->lease_fd = l ? l->fd : -1;
	info->last_error = r->last_error;
	info->addr = r->addr;
	info->length = r->length;
	info->generation = r->generation;
	if (ibv_mr) {
		info->registered = r->registered;
		info->lkey = ibv_mr->lkey;
		info->rkey = ibv_mr->rkey;
	}
}

int daxlease_mr_get_info(const struct daxlease_mr *mr, struct daxlease_mr_info *ret_info)
{
	struct daxlease_mr_info info = { 0 };
	int err = region_check(region_of(mr));

	if (err)
		return err;
	if (!ret_info)
		return -EINVAL;
	ctx_lock(mr->region.ctx);
	fill_info(mr, &info);
	ctx_unlock(mr->region.ctx);
	return opts_put(ret_info, &info, sizeof(info));
}

/* ------------------------------------------------------------------------- */
/* Queue pairs */

/* A fence under way reads the list without the lock. */
static int change_qps(struct daxlease_mr *mr, struct ibv_qp *qp,
		      int (*change)(struct daxlease_mr *mr, struct ibv_qp *qp))
{
	int err = region_check(region_of(mr));

	if (err)
		return err;
	if (!qp)
		return -EINVAL;
	if (brk_in_fence())
		return -EDEADLK;
	ctx_lock(mr->region.ctx);
	while (mr->region.in_pin)
		pthread_cond_wait(&mr->region.ctx->changed, &mr->region.ctx->lock);
	err = change(mr, qp);
	ctx_unlock(mr->region.ctx);
	return err;
}

int daxlease_mr_add_qp(struct daxlease_mr *mr, struct ibv_qp *qp)
{
	return change_qps(mr, qp, add_qp);
}

int daxlease_mr_remove_qp(struct daxlease_mr *mr, struct ibv_qp *qp)
{
	return change_qps(mr, qp, remove_qp);
}

/* ------------------------------------------------------------------------- */
/* Draining, recalling, regaining */

int daxlease_mr_drained(struct daxlease_mr *mr)
{
	return region_drained(region_in(mr));
}

int daxlease_mr_recall(struct daxlease_mr *mr)
{
	return region_recall(region_in(mr));
}

int daxlease_mr_recall_start(struct daxlease_mr *mr)
{
	return region_recall_start(region_in(mr));
}

int daxlease_mr_regain(struct daxlease_mr *mr)
{
	return region_regain(region_in(mr));
}
