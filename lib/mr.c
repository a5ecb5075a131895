// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Public calls on regions; see daxlease.h for what each of them promises. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "brk.h"
#include "private.h"
#include "share.h"
#include "sys.h"
#include "watch.h"

#define MR_FLAGS (DAXLEASE_MR_REGAIN | DAXLEASE_MR_DRAIN_FOR_READERS | DAXLEASE_MR_EXCLUSIVE)

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
/* Registering */

static int check_opts(struct daxlease_ctx *ctx, struct daxlease_mr_opts *opts)
{
	const struct lease_ops *ops;

	if (opts->flags & ~MR_FLAGS) {
		log_add(&ctx->log, DAXLEASE_LOG_ERR,
			"unknown flags 0x%x: built against a newer daxlease.h?",
			opts->flags & ~MR_FLAGS);
		return -EINVAL;
	}
	if (opts->kind == DAXLEASE_KIND_AUTO)
		opts->kind = ctx->kind;
	if (opts->kind == DAXLEASE_KIND_AUTO)
		return 0;
	ops = lease_kind_find(opts->kind);
	if (!ops) {
		log_add(&ctx->log, DAXLEASE_LOG_ERR,
			"lease kind %d (%s) is not in this version: use auto, layout, layout-rfc, "
			"guard, deleg or lease",
			(int)opts->kind, daxlease_kind_str(opts->kind));
		return -EOPNOTSUPP;
	}
	if (opts->flags & DAXLEASE_MR_EXCLUSIVE && !ops->exclusive) {
		log_add(&ctx->log, DAXLEASE_LOG_ERR,
			"lease kind %s does not refuse others: use auto, layout or guard, or leave "
			"DAXLEASE_MR_EXCLUSIVE out",
			daxlease_kind_str(opts->kind));
		return -EOPNOTSUPP;
	}
	return 0;
}

static int read_opts(struct daxlease_ctx *ctx, const struct daxlease_mr_opts *opts,
		     struct daxlease_mr_opts *ret_opts)
{
	int err = opts_get(ret_opts, sizeof(*ret_opts), opts);

	if (err) {
		log_add(&ctx->log, DAXLEASE_LOG_ERR,
			err == -E2BIG ?
				"options newer than this library: install one as new as the "
				"program's daxlease.h" :
				"options without their size: set .size = sizeof(opts)");
		return err;
	}
	return check_opts(ctx, ret_opts);
}

/* Under the lease, for before it the file may still have shrunk unnoticed. */
static int check_room(struct daxlease_mr *mr)
{
	uint64_t size;
	int err = sys_file_size(mr->lease->fd, &size);

	if (!err && brk_room(mr, size) >= mr->length)
		return 0;
	log_add(&mr->ctx->log, DAXLEASE_LOG_ERR, "range %p+%zu: %s", mr->addr, mr->length,
		err ? strerror(-err) : "reaches beyond the end of the file: extend it first");
	return err ? err : -EINVAL;
}

/* From here on it is the caller's. ctx->lock is held. */
static void publish(struct daxlease_mr *mr, const struct pin *pin, struct daxlease_mr **ret_mr)
{
	brk_registered(mr, pin, mr->length);
	mr->ctx->stats.regions++;
	*ret_mr = mr;
}

static int register_plain(struct daxlease_mr *mr, struct daxlease_mr **ret_mr)
{
	struct pin pin;
	int err = pin_attach(mr, mr->length, &pin);

	if (err)
		return err;
	ctx_lock(mr->ctx);
	publish(mr, &pin, ret_mr);
	ctx_unlock(mr->ctx);
	return 0;
}

/*
 * The region joins the lease before it is registered, and takes part in whatever
 * happens to it: a break meanwhile waits for ibv_reg_mr(), and is then told.
 */
static int register_leased(struct daxlease_mr *mr, int fd, struct daxlease_mr **ret_mr)
{
	struct daxlease_ctx *ctx = mr->ctx;
	struct pin pin;
	int err;

	ctx_lock(ctx);
	err = share_join(mr, fd);
	mr->in_verbs = true;
	watch_kick(ctx); /* the lease may have been taken again, which others wait for */
	ctx_unlock(ctx);
	if (err)
		return err;
	err = check_room(mr);
	if (!err)
		err = pin_attach(mr, mr->length, &pin);
	ctx_lock(ctx);
	mr->in_verbs = false;
	if (err)
		share_leave(mr);
	else
		publish(mr, &pin, ret_mr);
	watch_kick(ctx);
	ctx_unlock(ctx);
	return err;
}

static int register_region(struct daxlease_ctx *ctx, struct daxlease_mr *mr, int fd,
			   struct daxlease_mr **ret_mr)
{
	int err = dax_inspect(ctx->maps_fd, fd, mr->addr, mr->length, &ctx->log, &mr->range);

	if (err)
		return err;
	if (mr->range.fs_dax)
		return register_leased(mr, fd, ret_mr);
	if (mr->opts.flags & DAXLEASE_MR_EXCLUSIVE) {
		log_add(&ctx->log, DAXLEASE_LOG_ERR,
			"range %p+%zu: exclusive, but no mapping of FS-DAX, and so not leased: leave "
			"DAXLEASE_MR_EXCLUSIVE out",
			mr->addr, mr->length);
		return -EOPNOTSUPP;
	}
	return register_plain(mr, ret_mr);
}

static int refuse_region(struct daxlease_ctx *ctx, const void *addr, size_t length, int err,
			 const char *why)
{
	log_add(&ctx->log, DAXLEASE_LOG_ERR, "range %p+%zu: %s", addr, length, why);
	log_flush(&ctx->log);
	return err;
}

/* qp: NULL, or its first one. */
static int new_region(struct daxlease_ctx *ctx, struct ibv_pd *pd, struct ibv_qp *qp, int fd,
		      void *addr, size_t length, int access, const struct daxlease_mr_opts *opts,
		      struct daxlease_mr **ret_mr)
{
	struct daxlease_mr *mr = sys_calloc(1, sizeof(*mr));
	int err;

	if (!mr)
		return refuse_region(ctx, addr, length, -ENOMEM, "out of memory");
	mr->ctx = ctx;
	mr->pd = pd;
	mr->addr = addr;
	mr->length = length;
	mr->access = access;
	mr->guard_told = true;
	mr->state = DAXLEASE_STATE_REGAINING; /* until it is registered */
	err = read_opts(ctx, opts, &mr->opts);
	if (!err && qp)
		err = add_qp(mr, qp);
	if (!err)
		err = register_region(ctx, mr, fd, ret_mr);
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
	const char *why;
	int err = ctx_check(ctx);

	if (err)
		return err;
	why = !pd					 ? "pd is NULL" :
	      !ret_mr					 ? "ret_mr is NULL" :
	      !length					 ? "length is 0" :
	      (uintptr_t)addr + length < (uintptr_t)addr ? "wraps around" :
							   NULL;
	if (why)
		return refuse_region(ctx, addr, length, -EINVAL, why);
	return new_region(ctx, pd, qp, fd, addr, length, access, opts, ret_mr);
}

int daxlease_reg_mr(struct daxlease_ctx *ctx, struct ibv_pd *pd, int fd, void *addr, size_t length,
		    int access, const struct daxlease_mr_opts *opts, struct daxlease_mr **ret_mr)
{
	return daxlease_private_reg_mr(ctx, pd, NULL, fd, addr, length, access, opts, ret_mr);
}

/* ------------------------------------------------------------------------- */
/* Deregistering */

static void wait_idle(struct daxlease_mr *mr)
{
	while (mr->in_cb || mr->in_verbs)
		pthread_cond_wait(&mr->ctx->changed, &mr->ctx->lock);
}

/* The break pipeline may come first; then there is nothing left to do. */
static int deregister(struct daxlease_mr *mr)
{
	int err = 0;

	if (!mr->ibv_mr)
		return 0;
	mr->in_verbs = true;
	ctx_unlock(mr->ctx);
	err = pin_detach(mr);
	ctx_lock(mr->ctx);
	mr->in_verbs = false;
	if (!err) {
		mr->ibv_mr = NULL;
		mr->registered = 0;
		mr->state = DAXLEASE_STATE_RELEASED; /* for good, whatever comes */
		publish_state(mr);
		mr->regain_off = true;
	} else {
		log_add(&mr->ctx->log, DAXLEASE_LOG_ERR,
			"ibv_dereg_mr of %p+%zu: %s; region and lease stay, call again", mr->addr,
			mr->length, strerror(-err));
	}
	return err;
}

static int end_region(struct daxlease_mr *mr)
{
	struct daxlease_ctx *ctx = mr->ctx;
	int err;

	ctx_lock(ctx);
	mr->closing = true;
	wait_idle(mr);
	err = deregister(mr);
	if (!err)
		err = share_give_back_last(mr);
	if (err) {
		mr->closing = false;
		mr->last_error = err;
		if (mr->lease)
			brk_queue(ctx, mr->lease);
	} else {
		if (mr->lease)
			share_leave(mr);
		ctx->stats.regions--;
	}
	pthread_cond_broadcast(&ctx->changed);
	watch_kick(ctx);
	ctx_unlock(ctx);
	return err;
}

int daxlease_dereg_mr(struct daxlease_mr *mr)
{
	int err;

	if (!mr)
		return 0;
	err = ctx_check_not_in_callback(mr->ctx);
	if (!err)
		err = end_region(mr);
	if (err)
		return err;
	free(mr->qps);
	free(mr);
	return 0;
}

/* ------------------------------------------------------------------------- */
/* Accessors */

static int mr_check(const struct daxlease_mr *mr)
{
	return mr ? ctx_check(mr->ctx) : -EINVAL;
}

struct ibv_mr *daxlease_mr_get_ibv_mr(const struct daxlease_mr *mr)
{
	struct ibv_mr *ibv_mr;

	if (mr_check(mr))
		return NULL;
	ctx_lock(mr->ctx);
	ibv_mr = brk_usable_mr(mr);
	ctx_unlock(mr->ctx);
	return ibv_mr;
}

void *daxlease_mr_get_userdata(const struct daxlease_mr *mr)
{
	return mr ? mr->opts.userdata : NULL;
}

enum daxlease_state daxlease_mr_get_state(const struct daxlease_mr *mr)
{
	enum daxlease_state state;

	if (mr_check(mr))
		return DAXLEASE_STATE_RELEASED;
	ctx_lock(mr->ctx);
	state = mr->state;
	ctx_unlock(mr->ctx);
	return state;
}

static void fill_info(const struct daxlease_mr *mr, struct daxlease_mr_info *info)
{
	const struct lease *l = mr->lease;
	const struct ibv_mr *ibv_mr = brk_usable_mr(mr);

	info->state = mr->state;
	info->kind = l ? l->ops->kind : DAXLEASE_KIND_NONE;
	info->on_demand = mr->on_demand;
	info->unseen = l ? l->ops->unseen | l->unseen : 0;
	info->lease_fd = l ? l->fd : -1;
	info->last_error = mr->last_error;
	info->addr = mr->addr;
	info->length = mr->length;
	info->generation = mr->generation;
	if (ibv_mr) {
		info->registered = mr->registered;
		info->lkey = ibv_mr->lkey;
		info->rkey = ibv_mr->rkey;
	}
}

int daxlease_mr_get_info(const struct daxlease_mr *mr, struct daxlease_mr_info *ret_info)
{
	struct daxlease_mr_info info = { 0 };
	int err = mr_check(mr);

	if (err)
		return err;
	if (!ret_info)
		return -EINVAL;
	ctx_lock(mr->ctx);
	fill_info(mr, &info);
	ctx_unlock(mr->ctx);
	return opts_put(ret_info, &info, sizeof(info));
}

/* ------------------------------------------------------------------------- */
/* Queue pairs */

/* A fence under way reads the list without the lock. */
static int change_qps(struct daxlease_mr *mr, struct ibv_qp *qp,
		      int (*change)(struct daxlease_mr *mr, struct ibv_qp *qp))
{
	int err = mr_check(mr);

	if (err)
		return err;
	if (!qp)
		return -EINVAL;
	if (brk_in_fence())
		return -EDEADLK;
	ctx_lock(mr->ctx);
	while (mr->in_verbs)
		pthread_cond_wait(&mr->ctx->changed, &mr->ctx->lock);
	err = change(mr, qp);
	ctx_unlock(mr->ctx);
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

static int answer(struct daxlease_mr *mr)
{
	if (mr->state != DAXLEASE_STATE_DRAINING)
		return mr->fenced ? -ETIMEDOUT : -EINVAL;
	if (!mr->asked || mr->answered)
		return -EINVAL;
	mr->answered = true;
	brk_queue(mr->ctx, mr->lease);
	/* Whoever waits in a recall runs the pipeline itself in some modes. */
	pthread_cond_broadcast(&mr->ctx->changed);
	return 0;
}

int daxlease_mr_drained(struct daxlease_mr *mr)
{
	int err = mr_check(mr);

	if (err)
		return err;
	ctx_lock(mr->ctx);
	err = answer(mr);
	watch_kick(mr->ctx);
	ctx_unlock(mr->ctx);
	return err;
}

static bool all_told(const struct lease *l)
{
	const struct daxlease_mr *mr;

	TAILQ_FOREACH(mr, &l->regions, link) {
		if (!mr->closing && (mr->release_due || mr->in_cb))
			return false;
	}
	return true;
}

static bool recall_done(const void *arg)
{
	const struct lease *l = arg;

	return l->breaking ? l->error : all_told(l);
}

static void begin_recall(struct lease *l, struct daxlease_ctx *ctx)
{
	l->recalled = true;
	l->error = 0;
	if (!l->breaking)
		brk_begin(ctx, l, DAXLEASE_CAUSE_RECALL);
	brk_queue(ctx, l);
}

static int recall(struct lease *l, struct daxlease_ctx *ctx)
{
	if (l->recalled && !l->breaking)
		return -EALREADY;
	begin_recall(l, ctx);
	watch_wait(ctx, recall_done, l);
	return l->breaking ? l->error : l->result;
}

/* For what waits for callbacks, and needs a lease. */
static int check_leased(const struct daxlease_mr *mr)
{
	int err = mr_check(mr);

	if (!err)
		err = ctx_check_not_in_callback(mr->ctx);
	return err ? err : mr->lease ? 0 : -EOPNOTSUPP;
}

int daxlease_mr_recall(struct daxlease_mr *mr)
{
	int err = check_leased(mr);

	if (err)
		return err;
	ctx_lock(mr->ctx);
	err = recall(mr->lease, mr->ctx);
	ctx_unlock(mr->ctx);
	return err;
}

int daxlease_mr_recall_start(struct daxlease_mr *mr)
{
	int err = mr_check(mr);

	if (err)
		return err;
	if (!mr->lease)
		return -EOPNOTSUPP;
	ctx_lock(mr->ctx);
	if (mr->lease->recalled)
		err = -EALREADY;
	else
		begin_recall(mr->lease, mr->ctx);
	watch_kick(mr->ctx);
	ctx_unlock(mr->ctx);
	return err;
}

static bool regain_done(const void *arg)
{
	const struct daxlease_mr *mr = arg;

	if (mr->in_cb || mr->regain_due || mr->release_due)
		return false;
	if (mr->state == DAXLEASE_STATE_REGAINING)
		return false;
	return mr->state != DAXLEASE_STATE_RELEASED || mr->last_error || mr->past_end ||
	       mr->lease->breaking || !mr->lease->held;
}

static void want_all(struct lease *l, bool want)
{
	struct daxlease_mr *mr;

	TAILQ_FOREACH(mr, &l->regions, link) {
		if (mr->state != DAXLEASE_STATE_RELEASED)
			continue;
		mr->regain_once = want;
		if (!want)
			continue;
		mr->regain_off = false;
		mr->past_end = false;
		mr->last_error = 0;
		mr->retry_at_ns = 0;
	}
}

static int regain_result(const struct daxlease_mr *mr)
{
	if (mr->ibv_mr)
		return 0;
	if (mr->last_error)
		return mr->last_error;
	return mr->past_end ? -ENODATA : -EAGAIN;
}

static int regain(struct daxlease_mr *mr)
{
	struct daxlease_ctx *ctx = mr->ctx;
	struct lease *l = mr->lease;
	int err;

	while (l->taking)
		pthread_cond_wait(&ctx->changed, &ctx->lock);
	if (l->breaking)
		return -EAGAIN;
	if (!l->recalled && mr->state != DAXLEASE_STATE_RELEASED)
		return -EALREADY;
	l->recalled = false;
	want_all(l, true);
	err = l->held ? 0 : brk_retake(ctx, l, NULL);
	brk_queue(ctx, l);
	if (!err) {
		watch_wait(ctx, regain_done, mr);
		err = regain_result(mr);
	}
	if (err) {
		want_all(l, false);
		brk_queue(ctx, l); /* nobody may need the lease then */
	}
	return err;
}

int daxlease_mr_regain(struct daxlease_mr *mr)
{
	int err = check_leased(mr);

	if (err)
		return err;
	ctx_lock(mr->ctx);
	err = regain(mr);
	watch_kick(mr->ctx);
	ctx_unlock(mr->ctx);
	return err;
}
