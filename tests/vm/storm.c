// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Very many files broken at the same time, with a queue for 16 signals: nothing may
 * be lost.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "region.h"

#define FILES 1000u
#define MAX_BREAKERS 4u
#define QUEUE 16u
#define STORM_MS 60000u

struct storm {
	struct device dev;
	struct daxlease_ctx *ctx;
	unsigned int slices; /* of the files, one for each breaker */
	struct other breakers[MAX_BREAKERS];
	struct file *files;
	struct region *regions;
};

static void set_limit(int resource, rlim_t value)
{
	const struct rlimit limit = { .rlim_cur = value, .rlim_max = value };

	CALL(setrlimit(resource, &limit));
}

/* "SLICE-NUMBER" */
static void file_name(const struct storm *st, unsigned int i, char *name, size_t size)
{
	snprintf(name, size, "%u-%u", i % st->slices, i / st->slices);
}

static void storm_begin(struct storm *st, const struct world *w, unsigned int slices)
{
	char name[32];

	st->slices = slices;
	set_limit(RLIMIT_NOFILE, 4 * FILES);
	for (unsigned int i = 0; i < st->slices; i++)
		other_start(&st->breakers[i]);
	set_limit(RLIMIT_SIGPENDING, QUEUE);
	device_open(&st->dev, "rxe0");
	st->ctx = ctx_make(DAXLEASE_MODE_THREAD);
	daxlease_ctx_set_log(st->ctx, log_line, DAXLEASE_LOG_WARNING, NULL);
	st->files = calloc(FILES, sizeof(*st->files));
	st->regions = calloc(FILES, sizeof(*st->regions));
	CHECK(st->files && st->regions);
	for (unsigned int i = 0; i < FILES; i++) {
		file_name(st, i, name, sizeof(name));
		file_make(&st->files[i], w, name, PAGE, O_RDWR);
		CHECK_EQ(region_try(&st->regions[i], st->ctx, st->dev.pd, &st->files[i], w, NULL),
			 0);
		CALL(close(st->files[i].fd)); /* the library has its own */
		st->files[i].fd = -1;
	}
	CHECK_EQ(ctx_stats(st->ctx).leases, FILES);
	CHECK_EQ(leases_in_kernel(0), w->kind == DAXLEASE_KIND_GUARD ? 0 : FILES);
}

static void storm_break(struct storm *st, const struct world *w, enum op op)
{
	for (unsigned int i = 0; i < st->slices; i++) {
		char prefix[256], name[32];

		snprintf(name, sizeof(name), "%u-", i);
		world_path(w, name, prefix, sizeof(prefix));
		other_begin(&st->breakers[i], op, prefix, FILES / st->slices, -1);
	}
	for (unsigned int i = 0; i < st->slices; i++)
		CHECK_EQ(other_end(&st->breakers[i], STORM_MS), 0);
}

static void storm_check(struct storm *st)
{
	struct daxlease_stats stats;

	for (unsigned int i = 0; i < FILES; i++) {
		struct region *r = &st->regions[i];

		WAIT_FOR(r, releases, 1);
		CHECK_EQ(r->drains, 1);
		CHECK_EQ(r->releases, 1);
		CHECK_EQ(r->release_result, 0);
	}
	stats = ctx_stats(st->ctx);
	fprintf(stderr, "signals %ju overflows %ju drain_max %ju ms\n", (uintmax_t)stats.signals,
		(uintmax_t)stats.signal_overflows, (uintmax_t)(stats.drain_max_ns / MSEC));
	CHECK_EQ(stats.breaks, FILES);
	CHECK_EQ(stats.released, FILES);
	CHECK_EQ(stats.lost + stats.overruns + stats.dereg_failures, 0);
	CHECK_EQ(stats.leases, 0);
	CHECK_EQ(leases_in_kernel(0), 0);
}

static void storm_end(struct storm *st)
{
	for (unsigned int i = 0; i < FILES; i++) {
		region_end(&st->regions[i]);
		CALL(munmap(st->files[i].map, st->files[i].size));
	}
	CHECK_EQ(daxlease_ctx_free(st->ctx), 0);
	device_close(&st->dev);
	for (unsigned int i = 0; i < st->slices; i++)
		other_stop(&st->breakers[i]);
	free(st->files);
	free(st->regions);
}

struct manner {
	const char *name;
	unsigned int slices;
	enum op op;
	bool overflows; /* for sure */
};

static const struct manner manners[] = {
	/* The holder stands still while all are broken. */
	{ "at-one-moment", 1, OP_STOP_AND_STORM, true },
	/* Breakers that wait, each for one file after the other, while the holder works. */
	{ "waiting", MAX_BREAKERS, OP_STORM_TRUNCATES, false },
	/* As fast as they can, without waiting. */
	{ "running", MAX_BREAKERS, OP_STORM_OPENS, false },
};

static void storm(const struct world *w, const void *arg)
{
	const struct manner *m = arg;
	struct storm st;

	storm_begin(&st, w, m->slices);
	storm_break(&st, w, m->op);
	storm_check(&st);
	if (m->overflows)
		CHECK(ctx_stats(st.ctx).signal_overflows >= 1);
	storm_end(&st);
}

void add_storm_cases(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(manners); i++) {
		/* Opens break no layout lease, nor a guard. */
		unsigned int kinds = manners[i].op == OP_STORM_TRUNCATES ? KIND_ALL : KIND_BOTH;

		add_case(storm, &manners[i], kinds, 120, "storm/%s", manners[i].name);
	}
}
