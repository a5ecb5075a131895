/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The break pipeline: drain, fence, deregister, give back, tell, take again.
 *
 * It is a level-triggered state machine: brk_run() looks at each queued lease and
 * does whatever is due, so it does not matter which thread runs it, how many do
 * at once, or how often. All calls need ctx->lock.
 */
#ifndef DAXLEASE_BRK_H
#define DAXLEASE_BRK_H

#include "objects.h"

/*
 * What the running thread may do. It goes away, into a callback or a call of a pin, for
 * as long as that takes; somebody else has to keep the deadlines meanwhile.
 */
struct brk_runner {
	bool (*may_call)(struct daxlease_ctx *ctx); /* the user's code, now */
	void (*away)(struct daxlease_ctx *ctx);
	void (*back)(struct daxlease_ctx *ctx);
};

/* A region left, others remain: they may have waited for it, or need no lease. */
void brk_left(struct daxlease_ctx *ctx, struct lease *l);

/* Something may have happened to a lease: to be looked at. */
void brk_queue(struct daxlease_ctx *ctx, struct lease *l);

/* The kernel's notice for descriptor fd. Unknown ones are ignored. */
void brk_notice(struct daxlease_ctx *ctx, int fd);

/* The guard has news. */
void brk_notice_guard(struct daxlease_ctx *ctx);

/* Notices were or may have been lost: asks every lease. */
void brk_scan(struct daxlease_ctx *ctx);

/*
 * Does all that is due; the lock is dropped meanwhile. Returns how many callbacks
 * were called.
 */
unsigned int brk_run(struct daxlease_ctx *ctx, const struct brk_runner *runner);

/* Begins a break from our side: a recall. */
void brk_begin(struct daxlease_ctx *ctx, struct lease *l, enum daxlease_cause cause);

/*
 * Takes a lease, for the first time, or again if it is not held. The lock is dropped
 * meanwhile if that may wait. runner is NULL in threads that are the caller's own.
 */
int brk_take(struct daxlease_ctx *ctx, struct lease *l, enum daxlease_kind kind,
	     const struct brk_runner *runner);
int brk_retake(struct daxlease_ctx *ctx, struct lease *l, const struct brk_runner *runner);

/* Gives the lease back, of which no region is registered. 0, -ESTALE or -errno. */
int brk_give_back(struct daxlease_ctx *ctx, struct lease *l);

/* The same if requests may use some still: the kernel knows. -EBUSY: some do. */
int brk_settle(struct daxlease_ctx *ctx, struct lease *l);

/* It was attached: the region is in use, whatever happened meanwhile. */
void brk_registered(struct region *r, size_t length, bool on_demand);

/* It is detached, and nothing uses its pages any more. */
void brk_detached(struct region *r);

/*
 * detach said -EINPROGRESS: wait, and look again. In a break until the budget is over at most,
 * else for brk_gone() only.
 */
void brk_leaving(struct region *r);

/* The pin is gone by itself: its last user, maybe after detach said -EINPROGRESS. */
void brk_gone(struct region *r);

/* It is pinned, and there is no knowing yet that it will be detached at any moment. */
bool brk_usable(const struct region *r);

/* Bytes of the region that the pages of a file of this size reach. */
size_t brk_room(const struct region *r, uint64_t size);

/* Only for what uses it still is it not detached. */
bool brk_any_leaving(const struct lease *l);

/* A callback runs in this thread, of whatever context. */
bool brk_in_callback(void);

/* It is a fence callback, whose region is marked in_verbs. */
bool brk_in_fence(void);

#endif
