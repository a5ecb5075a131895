/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The objects, and who may touch what.
 *
 * ctx->lock protects every member of a context, of its leases and of its regions,
 * unless the member says otherwise. It is never held while the user's code or a
 * call of a pin runs: a region is marked busy (in_cb, in_pin) instead, and a busy
 * region is not freed, nor its lease. The same goes for a lease that is being taken, which
 * may wait (taking). Inside it log->lock and the lock in lease.c are taken, never both.
 */
#ifndef DAXLEASE_OBJECTS_H
#define DAXLEASE_OBJECTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include <daxlease/daxlease.h>
#include <daxlease/uring.h>

#include "dax.h"
#include "guard.h"
#include "lease.h"
#include "log.h"
#include "pin.h"
#include "publish.h"

#define LEASE_BUCKETS 256
#define MAX_HELPERS 8

/* One lease of a context, shared by all its regions of that file, or description. */
struct lease {
	LIST_ENTRY(lease) bucket_link; /* ctx->buckets */
	TAILQ_ENTRY(lease) link;       /* ctx->leases */
	TAILQ_ENTRY(lease) work_link;  /* ctx->work, if on_work */
	TAILQ_HEAD(regions, region) regions;
	const struct lease_ops *ops;
	dev_t dev;
	ino_t ino;
	int fd; /* our duplicate: the handle on the lease; si_fd of its signals */
	struct lease_want want;
	unsigned int unseen; /* DAXLEASE_UNSEEN_*, besides what its kind does not notice */

	bool held;
	bool taking;   /* lease_take() runs, without the lock */
	bool noticed;  /* a signal came that nobody has looked at */
	bool breaking; /* regions are being drained, then it is given back */
	bool lent;     /* given back for a reader, regions still registered */
	bool recalled; /* by the holder, who has not asked for it back yet */
	bool on_work;
	bool user_due; /* a callback is due that could not be called where it was found */
	enum daxlease_cause cause;   /* of the break, or of the last one */
	int result;		     /* of the last break: 0, -ETIMEDOUT, -ESTALE */
	int retake_error;	     /* that it was said why it is not leased again */
	int error;		     /* of detaching or of giving back in this break, or 0 */
	bool foreign;		     /* others wait for it: the kernel has a deadline */
	uint64_t noticed_ns;	     /* when noticed was set */
	uint64_t notice_ns;	     /* when the break began */
	uint64_t kernel_deadline_ns; /* 0 = none */
	uint64_t budget_end_ns;	     /* end of the longest drain that it allows */
	uint64_t due_ns;	     /* when to look again though nothing happened */
	uint64_t retry_at_ns;	     /* not before: taking it again */
	uint64_t taken_ns;	     /* when it was taken last, after a break */
	uint32_t backoff_ms;
	uint32_t patience_ms; /* before the first attempt to take it again */
};

/* A region: a share in a lease (or none), and a pin, of which pin.h says what kinds there are. */
struct region {
	TAILQ_ENTRY(region) link; /* lease->regions */
	struct daxlease_ctx *ctx; /* constant from here */
	const struct pin_ops *ops;
	struct lease *lease; /* NULL: memory that passed through */
	void *addr;
	size_t length;
	struct dax_range range;
	unsigned int flags; /* DAXLEASE_MR_* */
	enum daxlease_kind kind;
	uint32_t drain_budget_ms;
	struct {
		bool drain, release, regain, guard;
	} has; /* the user's callbacks. To here */

	bool pinned; /* attached */
	size_t registered;
	uint64_t generation;
	enum daxlease_state state;
	bool on_demand;

	bool in_cb;	  /* a callback of this region runs, without the lock */
	bool in_pin;	  /* a call of its pin runs, without the lock */
	bool leaving;	  /* detached but for what uses the pages still; see pin_ops.detach */
	bool elsewhere;	  /* what is due is to be done in another thread; see pin_ops.is_here */
	atomic_bool gone; /* brk_gone() since it was attached; set with the lock, read without */
	bool closing;	  /* being deregistered: no callbacks any more, no regaining */

	/* The break that it is in */
	bool in_break;
	bool asked;	      /* the drain callback was called */
	bool answered;	      /* and it is done */
	bool fenced;	      /* or it was not */
	bool fence_due;	      /* the pin is still to be fenced */
	uint64_t late_ns;     /* it was registered only then, after the break began, or 0 */
	uint64_t deadline_ns; /* end of its budget */

	/* Regaining */
	bool regain_once; /* asked for, for this time */
	bool regain_off;  /* given up */
	bool retired;	  /* deregistered by the program, though it has not left yet */
	bool past_end;	  /* the file ends before it */
	int last_error;
	uint64_t retry_at_ns; /* not before: detaching or attaching again */
	uint32_t backoff_ms;

	/* Callbacks that are due, told in this order */
	bool regain_due;
	int regain_error;
	unsigned int guard_flips; /* changes of guarded that were not told yet */
	bool guard_told;
	bool release_due;
	int release_result;

	struct publish_region *published; /* its place in ctx->table, or NULL */
};

/* A region that is pinned by a memory region. */
struct daxlease_mr {
	struct region region;
	struct ibv_pd *pd; /* constant from here */
	int access;
	struct daxlease_mr_opts opts; /* to here */
	struct ibv_mr *ibv_mr;	      /* valid while region.pinned */
	struct ibv_qp **qps;	      /* region.in_pin keeps it from changing */
	size_t nqps, maxqps;
	struct daxlease_regain regain; /* for the callback that is due; kept by region.in_cb */
};

static inline struct daxlease_mr *mr_of(struct region *r)
{
	return (struct daxlease_mr *)((char *)r - offsetof(struct daxlease_mr, region));
}

/* A ring of the program's. */
struct daxlease_ring {
	struct daxlease_ctx *ctx; /* constant from here */
	int fd;			  /* our duplicate */
	pid_t tid;		  /* the only thread that may make register calls, or 0. To here */
	LIST_HEAD(, daxlease_buf) bufs;
};

/* A region that is pinned by a registered buffer. */
struct daxlease_buf {
	struct region region;
	LIST_ENTRY(daxlease_buf) link; /* ring->bufs */
	struct daxlease_ring *ring;    /* constant from here */
	unsigned int slot;
	struct daxlease_buf_opts opts;	   /* to here */
	uint64_t tag;			   /* valid while region.pinned */
	bool emptied;			   /* the slot, by us; region.in_pin keeps it */
	struct daxlease_buf_regain regain; /* as in struct daxlease_mr */
};

static inline struct daxlease_buf *buf_of(struct region *r)
{
	return (struct daxlease_buf *)((char *)r - offsetof(struct daxlease_buf, region));
}

struct helper {
	struct daxlease_ctx *ctx;
	pthread_t thread;
	bool started; /* thread is to be joined */
	bool ended;
};

struct daxlease_ctx {
	pid_t pid; /* constant from here */
	enum daxlease_mode mode;
	enum daxlease_kind kind;
	int signo;
	struct lease_notice notice;
	struct guard *guard; /* has its own lock */
	int maps_fd;	     /* /proc/self/maps */
	int break_time_fd;   /* /proc/sys/fs/lease-break-time, or -1 */
	int event_fd;	     /* LOOP, SIGNAL: there is something to dispatch */
	int timer_fd;	     /* SIGNAL: at next_due_ns */
	int poll_fd;	     /* SIGNAL: epoll over both */
	uint64_t page_size;
	struct publish_table *table; /* NULL: nothing is published. To here */

	struct log log;		 /* has its own lock */
	atomic_bool scan_wanted; /* no lock: set in a signal handler */

	pthread_mutex_t lock;
	pthread_cond_t changed; /* anything below changed; CLOCK_MONOTONIC */

	LIST_HEAD(, lease) buckets[LEASE_BUCKETS]; /* by file */
	TAILQ_HEAD(, lease) leases;
	TAILQ_HEAD(, lease) work; /* to be looked at */
	struct lease **by_fd;	  /* fds long */
	size_t nfds;
	unsigned int breaking; /* leases that are */
	unsigned int rings;    /* struct daxlease_ring that exist */
	bool user_due;	       /* some lease->user_due */
	bool event_set;	       /* event_fd was written since the last dispatch */
	uint64_t next_due_ns;  /* no later than any lease->due_ns */
	uint64_t timer_ns;     /* what timer_fd is armed for */
	struct daxlease_stats stats;

	/* Threads; see watch.c */
	pthread_t watch;
	pid_t watch_tid;
	bool watch_waiting; /* in sigtimedwait(), until watch_due_ns */
	bool watch_woken;   /* and on its way out of it */
	uint64_t watch_due_ns;
	uint64_t watch_busy_ns; /* since when it is not */
	bool stop;
	unsigned int users;	    /* threads of ours in a callback or call of a pin */
	unsigned int guard_runners; /* threads of the guard that run the pipeline */
	unsigned int nhelpers;	    /* running */
	pthread_cond_t help;	    /* there is work for them; CLOCK_MONOTONIC */
	struct helper helpers[MAX_HELPERS];
};

/* More than one region shares the lease. */
static inline bool lease_is_shared(const struct lease *l)
{
	return TAILQ_FIRST(&l->regions) != TAILQ_LAST(&l->regions, regions);
}

/* Locks; unlocking hands out the log lines that were added meanwhile. */
static inline void ctx_lock(struct daxlease_ctx *ctx)
{
	pthread_mutex_lock(&ctx->lock);
}

static inline void ctx_unlock(struct daxlease_ctx *ctx)
{
	if (ctx->table)
		publish_counters(ctx);
	pthread_mutex_unlock(&ctx->lock);
	log_flush(&ctx->log);
}

/* The start of each public call: -ECHILD in a child, which must not even lock. */
int ctx_check(const struct daxlease_ctx *ctx);

/* For calls that would wait for the callback they are made from: -EDEADLK. */
int ctx_check_not_in_callback(const struct daxlease_ctx *ctx);

#endif
