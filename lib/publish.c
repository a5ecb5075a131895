// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <stdatomic.h>
#include <string.h>

#include "objects.h"
#include "publish.h"
#include "sys.h"

int publish_new(struct publish_table **ret_table)
{
	struct publish_table *t;
	void *addr;
	int err = sys_map_named(PUBLISH_NAME, sizeof(*t), &addr);

	if (err)
		return err;
	t = addr;
	t->version = PUBLISH_VERSION;
	t->size = sizeof(*t);
	t->pid = sys_getpid();
	t->slots = PUBLISH_REGIONS;
	atomic_store_explicit(&t->magic, PUBLISH_MAGIC, memory_order_release);
	*ret_table = t;
	return 0;
}

void publish_free(struct publish_table *t)
{
	if (t)
		sys_unmap(t, sizeof(*t));
}

/* Readers are not waited for; they try again. */
static void begin(struct publish_table *t)
{
	atomic_fetch_add_explicit(&t->seq, 1, memory_order_acquire);
}

static void end(struct publish_table *t, const struct daxlease_stats *stats)
{
	t->regions = stats->regions;
	t->leases = stats->leases;
	t->breaks = stats->breaks;
	t->released = stats->released;
	t->overruns = stats->overruns;
	t->lost = stats->lost;
	t->regained = stats->regained;
	t->drain_max_ns = stats->drain_max_ns;
	atomic_fetch_add_explicit(&t->seq, 1, memory_order_release);
}

static struct publish_region *free_slot(struct publish_table *t)
{
	for (unsigned int i = 0; i < PUBLISH_REGIONS; i++) {
		if (!t->region[i].used)
			return &t->region[i];
	}
	return NULL;
}

static void fill(const struct region *r, struct publish_region *slot)
{
	slot->kind = r->lease->ops ? r->lease->ops->kind : DAXLEASE_KIND_NONE;
	slot->on_demand = r->on_demand;
	slot->breaks +=
		r->state == DAXLEASE_STATE_DRAINING && slot->state != DAXLEASE_STATE_DRAINING;
	slot->state = r->state;
	slot->since_ns = sys_now_ns();
}

void publish_add(struct region *r)
{
	struct publish_table *t = r->ctx->table;
	struct publish_region *slot = t ? free_slot(t) : NULL;

	if (!t)
		return;
	begin(t);
	if (slot) {
		*slot = (struct publish_region){
			.addr = (uintptr_t)r->addr,
			.length = r->length,
			.dev = r->range.dev,
			.ino = r->range.ino,
			.used = 1,
		};
		fill(r, slot);
	}
	end(t, &r->ctx->stats);
	r->published = slot;
}

void publish_state(struct region *r)
{
	struct publish_table *t = r->ctx->table;

	if (!t)
		return;
	begin(t);
	if (r->published)
		fill(r, r->published);
	end(t, &r->ctx->stats);
}

void publish_counters(struct daxlease_ctx *ctx)
{
	struct publish_table *t = ctx->table;

	if (!t)
		return;
	begin(t);
	end(t, &ctx->stats);
}

void publish_remove(struct region *r)
{
	struct publish_table *t = r->ctx->table;

	if (!t)
		return;
	begin(t);
	if (r->published)
		memset(r->published, 0, sizeof(*r->published));
	end(t, &r->ctx->stats);
	r->published = NULL;
}
