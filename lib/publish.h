/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What others may read of a context (DAXLEASE_CTX_PUBLISH): a table in memory of its own, which
 * /proc/PID/maps calls "/memfd:daxlease", for those who may read the process's memory anyway.
 * daxlease(1) does. No descriptor is kept for it, and a child does not have it.
 */
#ifndef DAXLEASE_PUBLISH_H
#define DAXLEASE_PUBLISH_H

#include <stdint.h>

#define PUBLISH_NAME "daxlease"
#define PUBLISH_MAGIC 0x3130657361656c78ull /* "xlease01" */
#define PUBLISH_VERSION 1
#define PUBLISH_REGIONS 256 /* more are counted only */

struct publish_region {
	uint64_t addr, length;
	uint64_t dev, ino; /* of the file */
	uint64_t since_ns; /* in this state; CLOCK_MONOTONIC */
	uint64_t breaks;   /* of this region so far */
	uint32_t kind;	   /* enum daxlease_kind */
	uint32_t state;	   /* enum daxlease_state */
	uint32_t used;	   /* 0: free */
	uint32_t on_demand;
};

struct publish_table {
	_Atomic uint64_t magic; /* PUBLISH_MAGIC once the rest of the head is there */
	uint32_t version;
	uint32_t size; /* of all of it */
	int32_t pid;
	uint32_t slots;
	/* Odd: it is being changed. The same before and after: what was read is of one moment. */
	_Atomic uint64_t seq;
	uint64_t regions, leases; /* now */
	uint64_t breaks, released, overruns, lost, regained, drain_max_ns;
	struct publish_region region[PUBLISH_REGIONS];
};

struct daxlease_ctx;
struct region;

/* 0 or -errno. */
int publish_new(struct publish_table **ret_table);
void publish_free(struct publish_table *table);

/* With ctx->lock. Of a context that does not publish: nothing is done. */
void publish_add(struct region *r);
void publish_state(struct region *r);
void publish_remove(struct region *r);
/* When some of these may have changed since. */
void publish_counters(struct daxlease_ctx *ctx);

#endif
