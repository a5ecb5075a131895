/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Regions of files on FS-DAX that note what the library tells them, and the usual
 * stage for a case: another process, a device, a context, a connection, a region.
 */
#ifndef VM_REGION_H
#define VM_REGION_H

#include <pthread.h>
#include <stdatomic.h>

#include "file.h"
#include "other.h"
#include "rdma.h"
#include "support.h"

struct region {
	struct daxlease_mr *mr;
	struct file *file;
	uint8_t *addr;
	size_t length;

	/* What the drain callback is to do. NULL: sleep for drain_ms, then "drained". */
	int (*on_drain)(struct region *r);
	unsigned int drain_ms;
	void *arg;

	/* What came; under lock. */
	pthread_mutex_t lock;
	pthread_cond_t came;
	unsigned int drains, releases, regains, lends, guards;
	struct daxlease_break brk;
	int release_result;
	struct daxlease_regain regain;
	uint64_t drain_ns, drained_ns, release_ns;
};

struct how {
	unsigned int flags; /* DAXLEASE_MR_* */
	uint32_t budget_ms;
	size_t offset, length; /* of the mapping; 0: all of it */
	int (*on_drain)(struct region *r);
	unsigned int drain_ms;
	void *arg;
};

/* -errno of daxlease_reg_mr(). how may be NULL. */
int region_try(struct region *r, struct daxlease_ctx *ctx, struct ibv_pd *pd, struct file *f,
	       const struct world *w, const struct how *how);
void region_make(struct region *r, struct daxlease_ctx *ctx, struct ibv_pd *pd, struct file *f,
		 const struct world *w, const struct how *how);
void region_end(struct region *r);

/* Waits until *count (one of the region's) is at least n; the case fails after a while. */
#define WAIT_FOR(r, count, n) region_wait(r, &(r)->count, n, __FILE__, __LINE__, #count)
void region_wait(struct region *r, const unsigned int *count, unsigned int n, const char *file,
		 int line, const char *what);
/* The file has as many leases, or a guard of this process. */
void region_check_leased(const struct region *r, unsigned int leases);
/* No callback has come, and the registration is what it was. */
void region_check_untouched(struct region *r);
/* Drained and given back in time, once; nothing else. */
void region_check_released(struct region *r, int result);

struct daxlease_mr_info region_info(const struct region *r);
uint32_t region_rkey(const struct region *r);
struct daxlease_ctx *ctx_make(enum daxlease_mode mode);
struct daxlease_stats ctx_stats(struct daxlease_ctx *ctx);

/* ------------------------------------------------------------------------- */

struct stage {
	const struct world *w;
	struct other other;
	struct device dev;
	struct daxlease_ctx *ctx;
	struct link link;
	struct file file;
	struct region region;
};

/* The other process, the device and a context. */
void stage_begin(struct stage *s, const struct world *w, enum daxlease_mode mode);
/* And a file, opened with these flags, registered, with a connection. */
void stage_open(struct stage *s, const struct world *w, int flags, const struct how *how);
/* The end of either: everything has to be given back by now or then. */
void stage_close(struct stage *s);
void stage_end(struct stage *s);

/* One access by the peer to the region's page; the status that is wanted. */
void stage_access(struct stage *s, unsigned int page, uint32_t rkey, int wanted);
/* The peer gets no access with this key; needs a new connection afterwards. */
void stage_no_access(struct stage *s, uint32_t rkey);

/* A peer that writes to the region's first page without pause. */
struct traffic {
	pthread_t thread;
	struct stage *s;
	atomic_bool stop;
	atomic_uint done, failed;
};

void traffic_start(struct traffic *t, struct stage *s);
/* Stops it; how many writes failed. */
unsigned int traffic_stop(struct traffic *t);
/* Waits for a few more writes: it goes on. */
void traffic_check(struct traffic *t);

#endif
