// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "brk.h"
#include "region.h"
#include "share.h"
#include "sys.h"
#include "watch.h"

#define REGION_FLAGS (DAXLEASE_MR_REGAIN | DAXLEASE_MR_DRAIN_FOR_READERS | DAXLEASE_MR_EXCLUSIVE)

int region_check(const struct region *r)
{
	return r ? ctx_check(r->ctx) : -EINVAL;
}

/* ------------------------------------------------------------------------- */
/* Registering */

int region_read_opts(struct daxlease_ctx *ctx, void *dst, size_t known, const void *src)
{
	int err = opts_get(dst, known, src);

	if (err)
		log_add(&ctx->log, DAXLEASE_LOG_ERR,
			err == -E2BIG ?
				"options newer than this library: install one as new as the "
				"program's daxlease.h" :
				"options without their size: set .size = sizeof(opts)");
	return err;
}

static int check_opts(struct region *r)
{
	struct daxlease_ctx *ctx = r->ctx;
	const struct lease_ops *ops;

	if (r->flags & ~REGION_FLAGS) {
		log_add(&ctx->log, DAXLEASE_LOG_ERR,
			"unknown flags 0x%x: built against a newer daxlease.h?",
			r->flags & ~REGION_FLAGS);
		return -EINVAL;
	}
	if (r->kind == DAXLEASE_KIND_AUTO)
		r->kind = ctx->kind;
	if (r->kind == DAXLEASE_KIND_AUTO)
		return 0;
	ops = lease_kind_find(r->kind);
	if (!ops) {
		log_add(&ctx->log, DAXLEASE_LOG_ERR,
			"lease kind %d (%s) is not in this version: use auto, layout, layout-rfc, "
			"guard, deleg or lease",
			(int)r->kind, daxlease_kind_str(r->kind));
		return -EOPNOTSUPP;
	}
	if (r->ops->must_pin && !ops->pins) {
		log_add(&ctx->log, DAXLEASE_LOG_ERR,
			"lease kind %s does not pin, which io_uring buffers need: use auto or layout",
			daxlease_kind_str(r->kind));
		return -EOPNOTSUPP;
	}
	if (r->flags & DAXLEASE_MR_EXCLUSIVE && !ops->exclusive) {
		log_add(&ctx->log, DAXLEASE_LOG_ERR,
			"lease kind %s does not refuse others: use auto, layout or guard, or leave "
			"DAXLEASE_MR_EXCLUSIVE out",
			daxlease_kind_str(r->kind));
		return -EOPNOTSUPP;
	}
	return 0;
}

/* Under the lease, for before it the file may still have shrunk unnoticed. */
static int check_room(struct region *r)
{
	uint64_t size;
	int err = sys_file_size(r->lease->fd, &size);

	if (!err && brk_room(r, size) >= r->length)
		return 0;
	log_add(&r->ctx->log, DAXLEASE_LOG_ERR, "range %p+%zu: %s", r->addr, r->length,
		err ? strerror(-err) : "reaches beyond the end of the file: extend it first");
	return err ? err : -EINVAL;
}

/* From here on it is the caller's. ctx->lock is held. */
static void publish(struct region *r, bool on_demand, void *ret)
{
	brk_registered(r, r->length, on_demand);
	r->ctx->stats.regions++;
	r->ops->hand_out(r, ret);
}

static int register_plain(struct region *r, void *ret)
{
	bool on_demand = false;
	int err = r->ops->attach(r, r->length, &on_demand);

	if (err)
		return err;
	ctx_lock(r->ctx);
	publish(r, on_demand, ret);
	ctx_unlock(r->ctx);
	return 0;
}

/*
 * The region joins the lease before it is registered, and takes part in whatever
 * happens to it: a break meanwhile waits until it is attached, and is then told.
 */
static int register_leased(struct region *r, int fd, void *ret)
{
	struct daxlease_ctx *ctx = r->ctx;
	bool on_demand = false;
	int err;

	ctx_lock(ctx);
	err = share_join(r, fd);
	r->in_pin = true;
	watch_kick(ctx); /* the lease may have been taken again, which others wait for */
	ctx_unlock(ctx);
	if (err)
		return err;
	err = check_room(r);
	if (!err)
		err = r->ops->attach(r, r->length, &on_demand);
	ctx_lock(ctx);
	r->in_pin = false;
	if (err)
		share_leave(r);
	else
		publish(r, on_demand, ret);
	watch_kick(ctx);
	ctx_unlock(ctx);
	return err;
}

int region_register(struct region *r, int fd, void *ret)
{
	struct daxlease_ctx *ctx = r->ctx;
	int err;

	r->guard_told = true;
	r->state = DAXLEASE_STATE_REGAINING; /* until it is registered */
	err = check_opts(r);
	if (!err)
		err = dax_inspect(ctx->maps_fd, fd, r->addr, r->length, &ctx->log, &r->range);
	if (err)
		return err;
	if (r->range.fs_dax)
		return register_leased(r, fd, ret);
	if (r->flags & DAXLEASE_MR_EXCLUSIVE) {
		log_add(&ctx->log, DAXLEASE_LOG_ERR,
			"range %p+%zu: exclusive, but no mapping of FS-DAX, and so not leased: leave "
			"DAXLEASE_MR_EXCLUSIVE out",
			r->addr, r->length);
		return -EOPNOTSUPP;
	}
	return register_plain(r, ret);
}

int region_refuse(struct daxlease_ctx *ctx, const void *addr, size_t length, int err,
		  const char *why)
{
	log_add(&ctx->log, DAXLEASE_LOG_ERR, "range %p+%zu: %s", addr, length, why);
	log_flush(&ctx->log);
	return err;
}

int region_check_range(struct daxlease_ctx *ctx, const void *addr, size_t length, const char *why)
{
	if (!why && !length)
		why = "length is 0";
	if (!why && (uintptr_t)addr + length < (uintptr_t)addr)
		why = "wraps around";
	return why ? region_refuse(ctx, addr, length, -EINVAL, why) : 0;
}

/* ------------------------------------------------------------------------- */
/* Deregistering */

static void wait_idle(struct region *r)
{
	while (r->in_cb || r->in_pin)
		pthread_cond_wait(&r->ctx->changed, &r->ctx->lock);
}

/* For good, whatever comes. */
static void retire(struct region *r, enum daxlease_state state)
{
	r->state = state;
	r->regain_off = true;
	r->retired = true;
	publish_state(r);
}

/* The break pipeline may come first; then there is nothing left to do. */
static int detach(struct region *r)
{
	int err = 0;

	if (!r->pinned)
		return 0;
	r->in_pin = true;
	ctx_unlock(r->ctx);
	do
		err = r->ops->detach(r);
	while (err == -EINPROGRESS && atomic_load(&r->gone));
	ctx_lock(r->ctx);
	r->in_pin = false;
	if (!err) {
		r->pinned = false;
		r->leaving = false;
		r->registered = 0;
		retire(r, DAXLEASE_STATE_RELEASED);
	} else if (err == -EINPROGRESS) {
		brk_leaving(r);
		retire(r, DAXLEASE_STATE_DEREGISTERING);
		err = 0;
	} else {
		log_add(&r->ctx->log, DAXLEASE_LOG_ERR,
			"%s of %p+%zu: %s; region and lease stay, call again", r->ops->detach_call,
			r->addr, r->length, strerror(-err));
	}
	return err;
}

/* If something uses it still, as far as we know: the kernel knows, but of whole leases only. */
static int give_back_last(struct region *r)
{
	int err;

	if (r->leaving && lease_is_shared(r->lease))
		return r->lease->held ? brk_settle(r->ctx, r->lease) : -EBUSY;
	err = share_give_back_last(r);
	if (!err && r->leaving)
		brk_detached(r);
	return err;
}

int region_deregister(struct region *r)
{
	struct daxlease_ctx *ctx = r->ctx;
	int err;

	ctx_lock(ctx);
	r->closing = true;
	wait_idle(r);
	err = detach(r);
	if (!err)
		err = give_back_last(r);
	if (err) {
		r->closing = false;
		r->last_error = err;
		if (r->lease)
			brk_queue(ctx, r->lease);
	} else {
		if (r->lease)
			share_leave(r);
		ctx->stats.regions--;
	}
	pthread_cond_broadcast(&ctx->changed);
	watch_kick(ctx);
	ctx_unlock(ctx);
	return err;
}

/* ------------------------------------------------------------------------- */
/* Draining, recalling, regaining */

enum daxlease_state region_state(const struct region *r)
{
	enum daxlease_state state;

	if (region_check(r))
		return DAXLEASE_STATE_RELEASED;
	ctx_lock(r->ctx);
	state = r->state;
	ctx_unlock(r->ctx);
	return state;
}

static int answer(struct region *r)
{
	if (r->state != DAXLEASE_STATE_DRAINING)
		return r->fenced ? -ETIMEDOUT : -EINVAL;
	if (!r->asked || r->answered)
		return -EINVAL;
	r->answered = true;
	brk_queue(r->ctx, r->lease);
	/* Whoever waits in a recall runs the pipeline itself in some modes. */
	pthread_cond_broadcast(&r->ctx->changed);
	return 0;
}

int region_drained(struct region *r)
{
	int err = region_check(r);

	if (err)
		return err;
	ctx_lock(r->ctx);
	err = answer(r);
	watch_kick(r->ctx);
	ctx_unlock(r->ctx);
	return err;
}

static bool all_told(const struct lease *l)
{
	const struct region *r;

	TAILQ_FOREACH(r, &l->regions, link) {
		if (!r->closing && (r->release_due || r->in_cb))
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
static int check_leased(const struct region *r)
{
	int err = region_check(r);

	if (!err)
		err = ctx_check_not_in_callback(r->ctx);
	return err ? err : r->lease ? 0 : -EOPNOTSUPP;
}

int region_recall(struct region *r)
{
	int err = check_leased(r);

	if (err)
		return err;
	ctx_lock(r->ctx);
	err = recall(r->lease, r->ctx);
	ctx_unlock(r->ctx);
	return err;
}

int region_recall_start(struct region *r)
{
	int err = region_check(r);

	if (err)
		return err;
	if (!r->lease)
		return -EOPNOTSUPP;
	ctx_lock(r->ctx);
	if (r->lease->recalled)
		err = -EALREADY;
	else
		begin_recall(r->lease, r->ctx);
	watch_kick(r->ctx);
	ctx_unlock(r->ctx);
	return err;
}

static bool regain_done(const void *arg)
{
	const struct region *r = arg;

	if (r->in_cb || r->regain_due || r->release_due)
		return false;
	if (r->state == DAXLEASE_STATE_REGAINING)
		return false;
	return r->state != DAXLEASE_STATE_RELEASED || r->last_error || r->past_end ||
	       r->lease->breaking || !r->lease->held;
}

static void want_all(struct lease *l, bool want)
{
	struct region *r;

	TAILQ_FOREACH(r, &l->regions, link) {
		if (r->state != DAXLEASE_STATE_RELEASED || r->retired)
			continue;
		r->regain_once = want;
		if (!want)
			continue;
		r->regain_off = false;
		r->past_end = false;
		r->last_error = 0;
		r->retry_at_ns = 0;
	}
}

static int regain_result(const struct region *r)
{
	if (r->pinned)
		return 0;
	if (r->last_error)
		return r->last_error;
	return r->past_end ? -ENODATA : -EAGAIN;
}

static int regain(struct region *r)
{
	struct daxlease_ctx *ctx = r->ctx;
	struct lease *l = r->lease;
	int err;

	while (l->taking)
		pthread_cond_wait(&ctx->changed, &ctx->lock);
	if (l->breaking)
		return -EAGAIN;
	if (!l->recalled && r->state != DAXLEASE_STATE_RELEASED)
		return -EALREADY;
	l->recalled = false;
	r->retired = false; /* it is asked for */
	want_all(l, true);
	err = l->held ? 0 : brk_retake(ctx, l, NULL);
	brk_queue(ctx, l);
	if (!err) {
		watch_wait(ctx, regain_done, r);
		err = regain_result(r);
	}
	if (err) {
		want_all(l, false);
		brk_queue(ctx, l); /* nobody may need the lease then */
	}
	return err;
}

int region_regain(struct region *r)
{
	int err = check_leased(r);

	if (err)
		return err;
	ctx_lock(r->ctx);
	err = regain(r);
	watch_kick(r->ctx);
	ctx_unlock(r->ctx);
	return err;
}
