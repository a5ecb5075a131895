// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Public calls on rings and their buffers; see uring.h for what each of them promises. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "brk.h"
#include "region.h"
#include "sys.h"
#include "watch.h"

/* ------------------------------------------------------------------------- */
/* Rings */

static int refuse_ring(struct daxlease_ctx *ctx, int ring_fd, int err, const char *why)
{
	log_add(&ctx->log, DAXLEASE_LOG_ERR, "ring, fd %d: %s: %s", ring_fd, strerror(-err), why);
	log_flush(&ctx->log);
	return err;
}

static int explain_ring(struct daxlease_ctx *ctx, int ring_fd, int err)
{
	switch (err) {
	case -EOPNOTSUPP: /* so the kernel says */
		return refuse_ring(ctx, ring_fd, -EINVAL, "no io_uring");
	case -EBADFD:
		return refuse_ring(ctx, ring_fd, -EINVAL,
				   "not enabled: io_uring_enable_rings() first");
	case -EEXIST:
		return refuse_ring(ctx, ring_fd, -EPERM,
				   "IORING_SETUP_SINGLE_ISSUER, and this is not its thread");
	case -EPERM:
	case -EACCES:
		return refuse_ring(ctx, ring_fd, -EPERM,
				   "io_uring is forbidden (seccomp, or "
				   "restrictions of the ring)");
	case -ENOSYS:
		return refuse_ring(ctx, ring_fd, err, "this kernel has no io_uring, or hides it");
	default:
		return refuse_ring(ctx, ring_fd, err, "no use of it as a ring");
	}
}

struct question {
	int ring_fd;
	int answer;
};

static void *ask(void *arg)
{
	struct question *q = arg;

	q->answer = sys_uring_probe(q->ring_fd);
	return NULL;
}

/*
 * Whether the ring has one thread only that may change it: another one is sent to try, for the
 * flags that the ring was made with cannot be had from the kernel, and what a caller says of them
 * might turn out wrong in the middle of a break.
 */
static int is_single_issuer(int ring_fd)
{
	struct question q = { .ring_fd = ring_fd };
	pthread_t thread;
	int err = sys_thread_create(&thread, ask, &q);

	if (err)
		return err;
	pthread_join(thread, NULL);
	return q.answer == -EEXIST ? 1 : q.answer;
}

static int inspect(int ring_fd)
{
	int err = sys_uring_probe(ring_fd);

	if (!err)
		err = sys_uring_flush(ring_fd); /* says whether it is enabled */
	return err < 0 ? err : is_single_issuer(ring_fd);
}

int daxlease_ring_new(struct daxlease_ctx *ctx, int ring_fd, struct daxlease_ring **ret_ring)
{
	struct daxlease_ring *ring;
	int single, err = ctx_check(ctx);

	if (err)
		return err;
	if (!ret_ring)
		return refuse_ring(ctx, ring_fd, -EINVAL, "ret_ring is NULL");
	single = ring_fd < 0 ? -EBADF : inspect(ring_fd);
	if (single < 0)
		return explain_ring(ctx, ring_fd, single);
	if (single && ctx->mode == DAXLEASE_MODE_THREAD)
		return refuse_ring(ctx, ring_fd, -EINVAL,
				   "IORING_SETUP_SINGLE_ISSUER, so the library's thread may not "
				   "change it: use DAXLEASE_MODE_LOOP");
	ring = sys_calloc(1, sizeof(*ring));
	if (!ring)
		return refuse_ring(ctx, ring_fd, -ENOMEM, "out of memory");
	ring->ctx = ctx;
	ring->tid = single ? sys_gettid() : 0;
	ring->fd = sys_dup(ring_fd);
	if (ring->fd < 0) {
		err = ring->fd;
		free(ring);
		return refuse_ring(ctx, ring_fd, err, "no duplicate of the descriptor");
	}
	LIST_INIT(&ring->bufs);
	ctx_lock(ctx);
	ctx->rings++;
	ctx_unlock(ctx);
	*ret_ring = ring;
	return 0;
}

int daxlease_ring_free(struct daxlease_ring *ring)
{
	struct daxlease_ctx *ctx;
	int err;

	if (!ring)
		return 0;
	ctx = ring->ctx;
	err = ctx_check_not_in_callback(ctx);
	if (err)
		return err;
	ctx_lock(ctx);
	if (LIST_EMPTY(&ring->bufs))
		ctx->rings--;
	else
		err = -EBUSY;
	ctx_unlock(ctx);
	if (err)
		return refuse_ring(ctx, ring->fd, err,
				   "not freed: it has buffers, deregister them first");
	sys_close(ring->fd);
	free(ring);
	return 0;
}

static void buf_gone(struct daxlease_buf *buf)
{
	struct region *r = &buf->region;

	if (!r->leaving && !r->in_pin && brk_usable(r))
		log_add(&r->ctx->log, DAXLEASE_LOG_WARNING,
			"slot %u was changed by the program: %p+%zu is not registered any more",
			buf->slot, r->addr, r->registered);
	brk_gone(r);
}

int daxlease_ring_cqe(struct daxlease_ring *ring, uint64_t user_data)
{
	struct daxlease_buf *buf;
	int err;

	if (!ring)
		return -EINVAL;
	if (!daxlease_is_cqe(user_data))
		return 0;
	err = ctx_check(ring->ctx);
	if (err)
		return err;
	ctx_lock(ring->ctx);
	/* If it is none of these, it is of a registration of which the kernel has told already. */
	LIST_FOREACH(buf, &ring->bufs, link) {
		if (buf->region.pinned && buf->tag == user_data)
			buf_gone(buf);
	}
	watch_kick(ring->ctx);
	ctx_unlock(ring->ctx);
	return 1;
}

/* ------------------------------------------------------------------------- */
/* The pin, and the callbacks */

static void describe(const struct region *r, char *buf, size_t size)
{
	const struct daxlease_buf *b = buf_of((struct region *)r);

	snprintf(buf, size, "slot %u", b->slot);
}

static void hand_out(struct region *r, void *ret)
{
	struct daxlease_buf **ret_buf = ret;

	*ret_buf = buf_of(r);
}

static int call_drain(struct region *r, const struct daxlease_break *brk)
{
	struct daxlease_buf *buf = buf_of(r);

	return buf->opts.drain(buf, brk, buf->opts.userdata);
}

static void call_release(struct region *r, int result)
{
	struct daxlease_buf *buf = buf_of(r);

	buf->opts.release(buf, result, buf->opts.userdata);
}

static void note_regain(struct region *r, int error)
{
	struct daxlease_buf *buf = buf_of(r);

	buf->regain = (struct daxlease_buf_regain){
		.size = sizeof(buf->regain),
		.error = error,
		.length = brk_usable(r) ? r->registered : 0,
	};
}

static void call_regain(struct region *r)
{
	struct daxlease_buf *buf = buf_of(r);
	struct daxlease_buf_regain regain = buf->regain;

	buf->opts.regain(buf, &regain, buf->opts.userdata);
}

/* No guard: leases that pin are not lent to readers, who do not break them. */
static const struct pin_ops buf_ops = {
	.detach_call = "emptying the slot",
	.must_pin = true,
	.attach = pin_buf_attach,
	.detach = pin_buf_detach,
	.fence = pin_buf_fence,
	.is_here = pin_buf_is_here,
	.describe = describe,
	.hand_out = hand_out,
	.drain = call_drain,
	.release = call_release,
	.note_regain = note_regain,
	.regain = call_regain,
};

/* ------------------------------------------------------------------------- */
/* Registering and deregistering */

static void take_opts(struct daxlease_buf *buf)
{
	const struct daxlease_buf_opts *opts = &buf->opts;
	struct region *r = &buf->region;

	r->flags = opts->flags;
	r->kind = opts->kind;
	r->drain_budget_ms = opts->drain_budget_ms;
	r->has.drain = opts->drain;
	r->has.release = opts->release;
	r->has.regain = opts->regain;
}

/* Two of ours in one slot would empty each other's. */
static int enter(struct daxlease_buf *buf)
{
	struct daxlease_ring *ring = buf->ring;
	struct daxlease_buf *other;
	int err = 0;

	ctx_lock(ring->ctx);
	LIST_FOREACH(other, &ring->bufs, link) {
		if (other->slot == buf->slot)
			err = -EBUSY;
	}
	if (!err)
		LIST_INSERT_HEAD(&ring->bufs, buf, link);
	ctx_unlock(ring->ctx);
	return err;
}

static void leave(struct daxlease_buf *buf)
{
	ctx_lock(buf->ring->ctx);
	LIST_REMOVE(buf, link);
	ctx_unlock(buf->ring->ctx);
}

static int refuse(const struct daxlease_buf *buf, int err, const char *why)
{
	const struct region *r = &buf->region;

	return region_refuse(r->ctx, r->addr, r->length, err, why);
}

static int register_buf(struct daxlease_buf *buf, int fd, struct daxlease_buf **ret_buf)
{
	int err;

	if ((unsigned int)buf->opts.cancel > DAXLEASE_CANCEL_ANY)
		return refuse(buf, -EINVAL, "unknown cancel: built against a newer uring.h?");
	if (!pin_buf_is_here(&buf->region))
		return refuse(
			buf, -EPERM,
			"the ring has IORING_SETUP_SINGLE_ISSUER, and this is not its thread");
	err = enter(buf);
	if (err)
		return refuse(buf, err, "the slot has a buffer already: deregister it first");
	err = region_register(&buf->region, fd, ret_buf);
	if (err)
		leave(buf);
	return err;
}

int daxlease_reg_buf(struct daxlease_ring *ring, unsigned int slot, int fd, void *addr,
		     size_t length, const struct daxlease_buf_opts *opts,
		     struct daxlease_buf **ret_buf)
{
	struct daxlease_ctx *ctx = ring ? ring->ctx : NULL;
	struct daxlease_buf *buf;
	int err = ctx_check(ctx);

	if (err)
		return err;
	err = region_check_range(ctx, addr, length, !ret_buf ? "ret_buf is NULL" : NULL);
	if (err)
		return err;
	buf = sys_calloc(1, sizeof(*buf));
	if (!buf)
		return region_refuse(ctx, addr, length, -ENOMEM, "out of memory");
	buf->region.ctx = ctx;
	buf->region.ops = &buf_ops;
	buf->region.addr = addr;
	buf->region.length = length;
	buf->ring = ring;
	buf->slot = slot;
	err = region_read_opts(ctx, &buf->opts, sizeof(buf->opts), opts);
	take_opts(buf);
	if (!err)
		err = register_buf(buf, fd, ret_buf);
	if (err)
		free(buf);
	log_flush(&ctx->log);
	return err;
}

int daxlease_dereg_buf(struct daxlease_buf *buf)
{
	int err;

	if (!buf)
		return 0;
	err = ctx_check_not_in_callback(buf->region.ctx);
	if (!err && !pin_buf_is_here(&buf->region))
		err = refuse(buf, -EPERM,
			     "the ring has IORING_SETUP_SINGLE_ISSUER, and this is not its thread");
	if (!err)
		err = region_deregister(&buf->region);
	if (err)
		return err;
	leave(buf);
	free(buf);
	return 0;
}

/* ------------------------------------------------------------------------- */
/* The rest is as of any region */

static struct region *region_of(const struct daxlease_buf *buf)
{
	return buf ? (struct region *)&buf->region : NULL;
}

void *daxlease_buf_get_userdata(const struct daxlease_buf *buf)
{
	return buf ? buf->opts.userdata : NULL;
}

enum daxlease_state daxlease_buf_get_state(const struct daxlease_buf *buf)
{
	return region_state(region_of(buf));
}

static void fill_info(const struct daxlease_buf *buf, struct daxlease_buf_info *info)
{
	const struct region *r = &buf->region;
	const struct lease *l = r->lease;

	info->state = r->state;
	info->kind = l ? l->ops->kind : DAXLEASE_KIND_NONE;
	info->slot = buf->slot;
	info->unseen = l ? l->ops->unseen | l->unseen : 0;
	info->lease_fd = l ? l->fd : -1;
	info->last_error = r->last_error;
	info->addr = r->addr;
	info->length = r->length;
	info->generation = r->generation;
	info->registered = brk_usable(r) ? r->registered : 0;
}

int daxlease_buf_get_info(const struct daxlease_buf *buf, struct daxlease_buf_info *ret_info)
{
	struct daxlease_buf_info info = { 0 };
	int err = region_check(region_of(buf));

	if (err)
		return err;
	if (!ret_info)
		return -EINVAL;
	ctx_lock(buf->region.ctx);
	fill_info(buf, &info);
	ctx_unlock(buf->region.ctx);
	return opts_put(ret_info, &info, sizeof(info));
}

int daxlease_buf_drained(struct daxlease_buf *buf)
{
	return region_drained(region_of(buf));
}

int daxlease_buf_recall(struct daxlease_buf *buf)
{
	return region_recall(region_of(buf));
}

int daxlease_buf_recall_start(struct daxlease_buf *buf)
{
	return region_recall_start(region_of(buf));
}

int daxlease_buf_regain(struct daxlease_buf *buf)
{
	return region_regain(region_of(buf));
}
