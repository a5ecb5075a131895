// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Memory, descriptors, threads, and whether anything wakes up for nothing. */
#include <dirent.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "bench.h"

#define COUNT 1000

struct held {
	struct region files[COUNT];
	struct daxlease_mr *mrs[COUNT];
	struct ibv_mr *bare[COUNT];
};

static size_t allocated(void)
{
	struct mallinfo2 info = mallinfo2();

	return info.uordblks + info.hblkhd;
}

/* Entries of a folder of /proc/self. */
static int entries(const char *path)
{
	DIR *dir = opendir(path);
	int n = 0;

	if (!dir)
		die(0, "%s: is /proc mounted?", path);
	for (struct dirent *e = readdir(dir); e; e = readdir(dir))
		n += e->d_name[0] != '.';
	closedir(dir);
	return n;
}

static int descriptors(void)
{
	return entries("/proc/self/fd");
}

/* A thread that was joined may be listed still for a moment. */
static int threads(void)
{
	sleep_ms(20);
	return entries("/proc/self/task");
}

/* How often this thread gave up the processor, or lost it. */
static unsigned long switches_of(const char *tid)
{
	unsigned long sum = 0, n;
	char path[300], line[128];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%s/status", tid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "voluntary_ctxt_switches: %lu", &n) == 1 ||
		    sscanf(line, "nonvoluntary_ctxt_switches: %lu", &n) == 1)
			sum += n;
	}
	fclose(f);
	return sum;
}

unsigned long switches_of_others(void)
{
	DIR *dir = opendir("/proc/self/task");
	unsigned long sum = 0;

	if (!dir)
		die(0, "/proc/self/task: is /proc mounted?");
	for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
		if (e->d_name[0] != '.' && atoi(e->d_name) != gettid())
			sum += switches_of(e->d_name);
	}
	closedir(dir);
	return sum;
}

/* ------------------------------------------------------------------------- */

static struct daxlease_mr *reg_ours(const struct env *env, struct daxlease_ctx *ctx,
				    const struct region *r)
{
	struct daxlease_mr *mr;
	int err = daxlease_reg_mr(ctx, env->pd, r->fd, r->addr, r->length, ACCESS, NULL, &mr);

	if (err)
		die(err, "daxlease_reg_mr");
	return mr;
}

/* Bytes that the provider allocates for an MR, with us or without us. */
static double bytes_of_bare(const struct env *env, struct held *h)
{
	size_t before = allocated();
	size_t bytes;

	for (size_t i = 0; i < COUNT; i++)
		h->bare[i] = reg_by_hand(env, &h->files[0]);
	bytes = allocated() - before;
	for (size_t i = 0; i < COUNT; i++)
		dereg_by_hand(h->bare[i]);
	return (double)bytes / COUNT;
}

static double bytes_of_region(const struct env *env, struct daxlease_ctx *ctx, struct held *h)
{
	struct daxlease_mr *first = reg_ours(env, ctx, &h->files[0]);
	size_t before = allocated();
	size_t bytes;

	for (size_t i = 0; i < COUNT; i++)
		h->mrs[i] = reg_ours(env, ctx, &h->files[0]);
	bytes = allocated() - before;
	for (size_t i = 0; i < COUNT; i++)
		daxlease_dereg_mr(h->mrs[i]);
	daxlease_dereg_mr(first);
	return (double)bytes / COUNT;
}

static void wake_ups(const char *name, double limit)
{
	unsigned long before = switches_of_others();

	sleep_ms(2000);
	report_value(name, "", (double)(switches_of_others() - before), limit);
}

/* One region on each of many files, held for a while. */
static void measure_files(const struct env *env, struct daxlease_ctx *ctx, struct held *h,
			  double bytes_region, double bytes_bare)
{
	const int fds_before = descriptors();
	const size_t before = allocated();
	double bytes;

	for (size_t i = 0; i < COUNT; i++)
		h->mrs[i] = reg_ours(env, ctx, &h->files[i]);
	bytes = (double)(allocated() - before) / COUNT;
	report_value("malloc'ed by the provider per MR", "bytes", bytes_bare, -1);
	report_value("malloc'ed by the library per region", "bytes", bytes_region - bytes_bare,
		     512);
	report_value("malloc'ed by the library per leased file", "bytes", bytes - bytes_region,
		     1024);
	report_value("descriptors per leased file", "",
		     (double)(descriptors() - fds_before) / COUNT, 1);
	report_value("threads with these leases held, besides the program's", "", threads() - 1, 1);
	wake_ups("wake-ups in 2 s with these leases held", 0);
	for (size_t i = 0; i < COUNT; i++)
		daxlease_dereg_mr(h->mrs[i]);
}

static void measure_regions(const struct env *env)
{
	struct held *h = calloc(1, sizeof(*h));
	struct daxlease_ctx *ctx;
	double region, bare;

	if (!h)
		die(0, "out of memory");
	raise_descriptors();
	ctx = new_ctx(env, DAXLEASE_MODE_THREAD);
	for (size_t i = 0; i < COUNT; i++)
		region_make(env, 4096, NULL, &h->files[i]);
	bare = bytes_of_bare(env, h);
	region = bytes_of_region(env, ctx, h);
	measure_files(env, ctx, h, region, bare);
	for (size_t i = 0; i < COUNT; i++)
		region_end(&h->files[i]);
	daxlease_ctx_free(ctx);
	free(h);
}

static void measure_mode(const struct env *env, enum daxlease_mode mode, const char *name,
			 double want_threads)
{
	const int fds_before = descriptors(), threads_before = threads();
	struct daxlease_ctx *ctx = new_ctx(env, mode);
	char text[64];

	snprintf(text, sizeof(text), "context, mode %s: threads", name);
	report_value(text, "", threads() - threads_before, want_threads);
	snprintf(text, sizeof(text), "context, mode %s: descriptors", name);
	report_value(text, "", descriptors() - fds_before, -1);
	snprintf(text, sizeof(text), "context, mode %s: wake-ups in 2 s", name);
	wake_ups(text, 0);
	daxlease_ctx_free(ctx);
}

void bench_resources(const struct env *env)
{
	report_part("resources", "memory, descriptors, threads, wake-ups");
	measure_mode(env, DAXLEASE_MODE_THREAD, "THREAD", 1);
	measure_mode(env, DAXLEASE_MODE_LOOP, "LOOP", 1);
	measure_mode(env, DAXLEASE_MODE_SIGNAL, "SIGNAL", 0);
	if (env->regions)
		measure_regions(env);
	else
		report_note("per region and file: not measured: %s", env->why);
}
