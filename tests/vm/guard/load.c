// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Many at once: who waits does not hold up who need not. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "holder.h"

#define READS 1000
#define SLOWER 5 /* that much is noise on a machine that others use as well */
#define BREAKERS 10u

/* ------------------------------------------------------------------------- */
/* Reads of one file while another one is being drained */

static int compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* How long one of them takes, ns. */
static int median_of_reads(const char *path, long amount, int fd)
{
	static uint64_t took[READS];
	static uint8_t page[PAGE];

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	for (long i = 0; i < amount; i++) {
		uint64_t begin = now_ns();

		if (pread(fd, page, PAGE, PAGE) != PAGE)
			return -1;
		took[i] = now_ns() - begin;
	}
	close(fd);
	qsort(took, (size_t)amount, sizeof(took[0]), compare);
	return (int)took[amount / 2];
}

static int reads(struct other *o, const struct file *f)
{
	int ns;

	other_begin_fn(o, median_of_reads, f->path, READS, -1);
	ns = other_end(o, 4 * SOON_MS);
	CHECK(ns > 0);
	return ns;
}

static void make_file(struct file *f, const struct world *w, const char *name)
{
	world_path(w, name, f->path, sizeof(f->path));
	pattern_write(f->path, FILE_SIZE, 1);
	file_open(f, FILE_SIZE, O_RDWR);
}

static void beside_a_drain(const struct world *w, const void *arg)
{
	const struct how how = { .on_drain = answer_later, .budget_ms = 30000 };
	struct daemon daemon = { 0 };
	struct other waiter, reader;
	struct region first, second;
	struct file file1, file2;
	struct daxlease_ctx *ctx;
	struct device dev;
	int idle, busy;

	if (arg)
		daemon_start(&daemon);
	other_start(&waiter);
	other_start(&reader);
	device_open(&dev, "rxe0");
	ctx = ctx_make_at(arg ? &daemon : NULL);
	make_file(&file1, w, "first");
	make_file(&file2, w, "second");
	CHECK_EQ(region_try(&first, ctx, dev.pd, &file1, w, &how), 0);
	CHECK_EQ(region_try(&second, ctx, dev.pd, &file2, w, &how), 0);
	idle = reads(&reader, &file2);
	other_begin(&waiter, OP_TRUNCATE, file1.path, PAGE, -1);
	WAIT_FOR(&first, drains, 1);
	busy = reads(&reader, &file2);
	CHECK(other_waits(&waiter));
	CHECK_EQ(daxlease_mr_drained(first.mr), 0);
	CHECK_EQ(other_end(&waiter, SOON_MS), 0);
	fprintf(stderr, "median of %d reads: idle %d ns, beside a drain %d ns\n", READS, idle,
		busy);
	CHECK(busy < SLOWER * idle);
	WAIT_FOR(&first, releases, 1);
	CHECK_EQ(first.release_result, 0);
	CHECK_EQ(second.drains, 0);
	region_end(&first);
	region_end(&second);
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
	other_stop(&waiter);
	other_stop(&reader);
}

/* ------------------------------------------------------------------------- */
/* Many files, each broken by a thread of its own, and all of them before one is answered */

struct storm {
	struct daemon daemon;
	struct other breakers[BREAKERS];
	struct device dev;
	struct daxlease_ctx *ctx;
	struct file *files;
	struct region *regions;
	unsigned int count;
};

static atomic_int storm_failures;

struct shared {
	atomic_uint holding; /* processes that have all their files */
	atomic_ullong slowest_ns;
};

/* Of all processes of a case that has one. */
static struct shared *shared;

static void note_time(uint64_t ns)
{
	unsigned long long slowest = shared ? atomic_load(&shared->slowest_ns) : ns;

	while (ns > slowest && !atomic_compare_exchange_weak(&shared->slowest_ns, &slowest, ns))
		;
}

static void *truncate_one(void *arg)
{
	uint64_t begin = now_ns();

	if (truncate(arg, 0))
		atomic_fetch_add(&storm_failures, 1);
	note_time(now_ns() - begin);
	free(arg);
	return NULL;
}

/* PATH0 ... up to amount; how many went wrong. */
static int truncate_all(const char *path, long amount, int fd)
{
	pthread_t *threads = calloc((size_t)amount, sizeof(*threads));
	pthread_attr_t attr;

	(void)fd;
	CHECK(threads);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 * 1024);
	for (long i = 0; i < amount; i++) {
		char *one;

		CHECK(asprintf(&one, "%s%ld", path, i) > 0);
		CHECK(!pthread_create(&threads[i], &attr, truncate_one, one));
	}
	for (long i = 0; i < amount; i++)
		pthread_join(threads[i], NULL);
	free(threads);
	return atomic_load(&storm_failures);
}

static void storm_begin(struct storm *st, const struct world *w, bool daemon)
{
	const struct rlimit limit = { .rlim_cur = 8 * storm_files + 1024,
				      .rlim_max = 8 * storm_files + 1024 };
	/* All of them are held until the last one is asked for. */
	const struct how how = { .on_drain = answer_later, .budget_ms = 10000 + 300 * storm_files };

	memset(st, 0, sizeof(*st));
	sysctl_set("lease-break-time", (int)(45 + storm_files));
	CALL(setrlimit(RLIMIT_NOFILE, &limit));
	if (daemon)
		daemon_start(&st->daemon);
	for (unsigned int i = 0; i < BREAKERS; i++)
		other_start(&st->breakers[i]);
	device_open(&st->dev, "rxe0");
	st->ctx = ctx_make_at(daemon ? &st->daemon : NULL);
	daxlease_ctx_set_log(st->ctx, log_line, DAXLEASE_LOG_ERR, NULL);
	st->count = (storm_files + BREAKERS - 1) / BREAKERS * BREAKERS;
	st->files = calloc(st->count, sizeof(*st->files));
	st->regions = calloc(st->count, sizeof(*st->regions));
	CHECK(st->files && st->regions);
	for (unsigned int i = 0; i < st->count; i++) {
		char name[32];

		snprintf(name, sizeof(name), "%u-%u", i % BREAKERS, i / BREAKERS);
		file_make(&st->files[i], w, name, PAGE, O_RDWR);
		CHECK_EQ(region_try(&st->regions[i], st->ctx, st->dev.pd, &st->files[i], w, &how),
			 0);
	}
}

static void storm_break(struct storm *st, const struct world *w)
{
	for (unsigned int i = 0; i < BREAKERS; i++) {
		char prefix[256], name[32];

		snprintf(name, sizeof(name), "%u-", i);
		world_path(w, name, prefix, sizeof(prefix));
		other_begin_fn(&st->breakers[i], truncate_all, prefix, st->count / BREAKERS, -1);
	}
	for (unsigned int i = 0; i < st->count; i++)
		WAIT_FOR(&st->regions[i], drains, 1);
	for (unsigned int i = 0; i < BREAKERS; i++)
		CHECK(other_waits(&st->breakers[i]));
	for (unsigned int i = 0; i < st->count; i++) {
		CHECK_EQ(file_size_now(&st->files[i]), PAGE);
		CHECK_EQ(daxlease_mr_drained(st->regions[i].mr), 0);
	}
	for (unsigned int i = 0; i < BREAKERS; i++)
		CHECK_EQ(other_end(&st->breakers[i], 4 * SOON_MS + 100 * storm_files), 0);
}

static void storm_check(struct storm *st)
{
	struct daxlease_stats stats;

	for (unsigned int i = 0; i < st->count; i++) {
		WAIT_FOR(&st->regions[i], releases, 1);
		CHECK_EQ(st->regions[i].drains, 1);
		CHECK_EQ(st->regions[i].release_result, 0);
		CHECK_EQ(file_size_now(&st->files[i]), 0);
	}
	stats = ctx_stats(st->ctx);
	fprintf(stderr, "%u files, drain_max %ju ms\n", st->count,
		(uintmax_t)(stats.drain_max_ns / MSEC));
	CHECK_EQ(stats.breaks, st->count);
	CHECK_EQ(stats.released, st->count);
	CHECK_EQ(stats.overruns, 0);
	CHECK_EQ(stats.lost, 0);
	CHECK_EQ(stats.dereg_failures, 0);
}

static void storm(const struct world *w, const void *arg)
{
	struct storm st;

	storm_begin(&st, w, arg);
	storm_break(&st, w);
	storm_check(&st);
	for (unsigned int i = 0; i < st.count; i++) {
		region_end(&st.regions[i]);
		file_close(&st.files[i]);
	}
	CHECK_EQ(daxlease_ctx_free(st.ctx), 0);
	for (unsigned int i = 0; i < BREAKERS; i++)
		other_stop(&st.breakers[i]);
	if (arg) {
		EVENTUALLY(daemon_count(&st.daemon).holds == 0);
		CHECK_EQ(daemon_count(&st.daemon).lost, 0);
		daemon_stop(&st.daemon);
	}
}

/* ------------------------------------------------------------------------- */
/*
 * The files of several processes, each answered at once. The last call may take longer than
 * the limit on a slow machine, for that begins when the guard has seen it.
 */

#define HOLDERS 10u
#define HOLD_MS 90000u /* until all are held, or given back */

struct many {
	const struct world *w;
	bool mixed; /* every other one is root; else all are users */
	struct daemon daemon;
	struct other holders[HOLDERS], breakers[HOLDERS];
};

static struct many many;

static bool is_released(struct region *r)
{
	bool is;

	pthread_mutex_lock(&r->lock);
	is = r->releases == 1;
	pthread_mutex_unlock(&r->lock);
	return is;
}

static void wait_released(struct region *r, uint64_t until_ns)
{
	while (!is_released(r)) {
		CHECK(now_ns() < until_ns && "given back in time");
		sleep_ms(5);
	}
	CHECK_EQ(r->drains, 1);
	CHECK_EQ(r->release_result, 0);
}

/* Files NAME-0 ... up to amount, from taking them to the end. */
static int hold_many(const char *name, long amount, int fd)
{
	const uint64_t until = now_ns() + 2 * HOLD_MS * MSEC;
	struct region *regions = calloc((size_t)amount, sizeof(*regions));
	struct file *files = calloc((size_t)amount, sizeof(*files));
	struct daxlease_stats stats;
	struct daxlease_ctx *ctx;
	struct device dev;

	(void)fd;
	CHECK(regions && files);
	device_open(&dev, "rxe0");
	if (!many.mixed || (name[0] - '0') % 2)
		become_user();
	ctx = ctx_make_at(&many.daemon);
	daxlease_ctx_set_log(ctx, log_line, DAXLEASE_LOG_ERR, NULL);
	for (long i = 0; i < amount; i++) {
		char one[32];

		snprintf(one, sizeof(one), "%s-%ld", name, i);
		file_make(&files[i], many.w, one, PAGE, O_RDWR);
		CHECK_EQ(region_try(&regions[i], ctx, dev.pd, &files[i], many.w, NULL), 0);
	}
	atomic_fetch_add(&shared->holding, 1);
	for (long i = 0; i < amount; i++)
		wait_released(&regions[i], until);
	stats = ctx_stats(ctx);
	CHECK_EQ(stats.released, amount);
	CHECK_EQ(stats.overruns + stats.lost + stats.dereg_failures, 0);
	for (long i = 0; i < amount; i++)
		region_end(&regions[i]);
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
	return 0;
}

static void many_begin(const struct world *w, bool mixed, long files)
{
	const uint64_t until = now_ns() + HOLD_MS * MSEC;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	CHECK(shared != MAP_FAILED);
	many = (struct many){ .w = w, .mixed = mixed };
	CALL(chmod(w->dir, 0777)); /* users make files */
	daemon_start(&many.daemon);
	for (unsigned int i = 0; i < HOLDERS; i++) {
		other_start(&many.holders[i]);
		other_start(&many.breakers[i]);
	}
	for (unsigned int i = 0; i < HOLDERS; i++) {
		const char name[] = { (char)('0' + i), '\0' };

		other_begin_fn(&many.holders[i], hold_many, name, files, -1);
	}
	while (atomic_load(&shared->holding) < HOLDERS) {
		CHECK(now_ns() < until && "all files are held");
		sleep_ms(10);
	}
}

static void storm_of_many(const struct world *w, const void *arg)
{
	const long files = (storm_files + HOLDERS - 1) / HOLDERS;
	const unsigned int limit_ms = (unsigned int)sysctl_get("lease-break-time") * 1000;
	unsigned int slowest_ms;

	many_begin(w, arg, files);
	CHECK_EQ(daemon_count(&many.daemon).holds, files * HOLDERS);
	for (unsigned int i = 0; i < HOLDERS; i++) {
		char prefix[256], name[32];

		snprintf(name, sizeof(name), "%u-", i);
		world_path(w, name, prefix, sizeof(prefix));
		other_begin_fn(&many.breakers[i], truncate_all, prefix, files, -1);
	}
	for (unsigned int i = 0; i < HOLDERS; i++)
		CHECK_EQ(other_end(&many.breakers[i], 2 * limit_ms), 0);
	for (unsigned int i = 0; i < HOLDERS; i++)
		CHECK_EQ(other_end(&many.holders[i], HOLD_MS), 0);
	slowest_ms = (unsigned int)(atomic_load(&shared->slowest_ns) / MSEC);
	fprintf(stderr, "%ld files of %u processes: the slowest call took %u ms, limit %u ms\n",
		files * HOLDERS, HOLDERS, slowest_ms, limit_ms);
	EVENTUALLY(daemon_count(&many.daemon).holds == 0);
	CHECK_EQ(daemon_count(&many.daemon).breaks, files * HOLDERS);
	CHECK_EQ(daemon_count(&many.daemon).waited, files * HOLDERS);
	CHECK_EQ(daemon_count(&many.daemon).lost, 0);
	CHECK_EQ(daemon_count(&many.daemon).turned_away, 0);
	for (unsigned int i = 0; i < HOLDERS; i++) {
		other_stop(&many.holders[i]);
		other_stop(&many.breakers[i]);
	}
	daemon_stop(&many.daemon);
}

void add_load_cases(void)
{
	add_case(beside_a_drain, NULL, KIND_GUARD, 0, "load/beside-a-drain");
	add_case(beside_a_drain, "", KIND_GUARD, 0, "load/beside-a-drain-daemon");
	add_case(storm, NULL, KIND_GUARD, 180, "load/storm");
	add_case(storm, "", KIND_GUARD, 180, "load/storm-daemon");
	add_case(storm_of_many, NULL, KIND_GUARD, 180, "load/storm-users");
	add_case(storm_of_many, "", KIND_GUARD, 180, "load/storm-mixed");
}
