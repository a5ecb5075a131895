// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "region.h"

/* ------------------------------------------------------------------------- */
/* Callbacks */

static void note(struct region *r, unsigned int *count)
{
	(*count)++;
	pthread_cond_broadcast(&r->came);
	pthread_mutex_unlock(&r->lock);
}

static int drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	struct region *r = userdata;
	int ret = 0;

	(void)mr;
	pthread_mutex_lock(&r->lock);
	r->brk = *brk;
	r->drain_ns = now_ns();
	note(r, &r->drains);
	if (r->on_drain)
		ret = r->on_drain(r);
	else
		sleep_ms(r->drain_ms);
	pthread_mutex_lock(&r->lock);
	r->drained_ns = now_ns();
	pthread_mutex_unlock(&r->lock);
	return ret;
}

static void release(struct daxlease_mr *mr, int result, void *userdata)
{
	struct region *r = userdata;

	CHECK(!daxlease_mr_get_ibv_mr(mr));
	pthread_mutex_lock(&r->lock);
	r->release_result = result;
	r->release_ns = now_ns();
	note(r, &r->releases);
}

static void regain(struct daxlease_mr *mr, const struct daxlease_regain *info, void *userdata)
{
	struct region *r = userdata;

	(void)mr;
	pthread_mutex_lock(&r->lock);
	r->regain = *info;
	note(r, &r->regains);
}

static void guard(struct daxlease_mr *mr, bool guarded, void *userdata)
{
	struct region *r = userdata;

	(void)mr;
	pthread_mutex_lock(&r->lock);
	note(r, guarded ? &r->guards : &r->lends);
}

/* ------------------------------------------------------------------------- */
/* Regions */

static void region_init(struct region *r, struct file *f, const struct how *how)
{
	*r = (struct region){
		.file = f,
		.addr = f->map + how->offset,
		.length = how->length ? how->length : f->size - how->offset,
		.on_drain = how->on_drain,
		.drain_ms = how->drain_ms,
		.arg = how->arg,
		.release_result = 1,
	};
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->came, NULL);
}

static bool only_readable(const struct file *f)
{
	return (CALL(fcntl(f->fd, F_GETFL)) & O_ACCMODE) == O_RDONLY;
}

static int access_of(const struct file *f)
{
	if (only_readable(f))
		return IBV_ACCESS_REMOTE_READ;
	return IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
}

int region_try(struct region *r, struct daxlease_ctx *ctx, struct ibv_pd *pd, struct file *f,
	       const struct world *w, const struct how *how)
{
	const struct how defaults = { 0 };
	struct daxlease_mr_opts opts = {
		.size = sizeof(opts),
		.kind = w->kind,
		.drain = drain,
		.release = release,
		.regain = regain,
		.guard = guard,
		.userdata = r,
	};

	if (!how)
		how = &defaults;
	region_init(r, f, how);
	opts.flags = how->flags;
	opts.drain_budget_ms = how->budget_ms;
	return daxlease_reg_mr(ctx, pd, f->fd, r->addr, r->length, access_of(f), &opts, &r->mr);
}

void region_make(struct region *r, struct daxlease_ctx *ctx, struct ibv_pd *pd, struct file *f,
		 const struct world *w, const struct how *how)
{
	CHECK_EQ(region_try(r, ctx, pd, f, w, how), 0);
	CHECK_EQ(region_info(r).kind, w->kind);
	/* The kernel pins FS-DAX as for writing. */
	CHECK_EQ(region_info(r).on_demand, !is_layout(w->kind) || only_readable(f));
	if (is_layout(w->kind) && only_readable(f))
		CHECK(log_has("map it PROT_WRITE"));
	region_check_leased(r, 1);
}

void region_end(struct region *r)
{
	CHECK_EQ(daxlease_dereg_mr(r->mr), 0);
	r->mr = NULL;
}

void region_wait(struct region *r, const unsigned int *count, unsigned int n, const char *file,
		 int line, const char *what)
{
	struct timespec end;
	int err = 0;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += SOON_MS / 1000;
	pthread_mutex_lock(&r->lock);
	while (*count < n && !err)
		err = pthread_cond_timedwait(&r->came, &r->lock, &end);
	pthread_mutex_unlock(&r->lock);
	if (err)
		fail_at(file, line, "%s: only %u, waited for %u", what, *count, n);
}

void region_check_leased(const struct region *r, unsigned int leases)
{
	bool guarded = region_info(r).kind == DAXLEASE_KIND_GUARD;

	CHECK_EQ(leases_in_kernel(r->file->ino), guarded ? 0 : leases);
	CHECK_EQ(is_guarded_by(getpid(), r->file->ino), guarded && leases);
}

void region_check_untouched(struct region *r)
{
	struct daxlease_mr_info info = region_info(r);

	CHECK_EQ(r->drains + r->releases + r->regains + r->lends + r->guards, 0);
	CHECK_EQ(info.state, DAXLEASE_STATE_ACTIVE);
	CHECK_EQ(info.generation, 1);
	CHECK_EQ(info.registered, r->length);
	region_check_leased(r, 1);
	CHECK(!lease_is_breaking(r->file->ino));
}

void region_check_released(struct region *r, int result)
{
	WAIT_FOR(r, releases, 1);
	CHECK_EQ(r->releases, 1);
	CHECK_EQ(r->release_result, result);
	CHECK_EQ(r->lends + r->guards + r->regains, 0);
	CHECK_EQ(daxlease_mr_get_state(r->mr), DAXLEASE_STATE_RELEASED);
	CHECK(!daxlease_mr_get_ibv_mr(r->mr));
	region_check_leased(r, 0);
}

struct daxlease_mr_info region_info(const struct region *r)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };

	CHECK_EQ(daxlease_mr_get_info(r->mr, &info), 0);
	return info;
}

uint32_t region_rkey(const struct region *r)
{
	return region_info(r).rkey;
}

struct daxlease_ctx *ctx_make(enum daxlease_mode mode)
{
	const struct daxlease_ctx_opts opts = {
		.size = sizeof(opts),
		.mode = mode,
		.log_fn = log_line,
		.log_level = DAXLEASE_LOG_INFO,
	};
	struct daxlease_ctx *ctx;

	CHECK_EQ(daxlease_ctx_new(&opts, &ctx), 0);
	return ctx;
}

struct daxlease_stats ctx_stats(struct daxlease_ctx *ctx)
{
	struct daxlease_stats stats = { .size = sizeof(stats) };

	CHECK_EQ(daxlease_ctx_get_stats(ctx, &stats), 0);
	return stats;
}

/* ------------------------------------------------------------------------- */
/* The stage */

void stage_begin(struct stage *s, const struct world *w, enum daxlease_mode mode)
{
	memset(s, 0, sizeof(*s));
	s->w = w;
	s->file.fd = -1;
	other_start(&s->other);
	device_open(&s->dev, "rxe0");
	s->ctx = ctx_make(mode);
}

void stage_end(struct stage *s)
{
	CHECK_EQ(daxlease_ctx_free(s->ctx), 0);
	device_close(&s->dev);
	other_stop(&s->other);
	CHECK_EQ(leases_in_kernel(0), 0);
}

void stage_open(struct stage *s, const struct world *w, int flags, const struct how *how)
{
	stage_begin(s, w, DAXLEASE_MODE_THREAD);
	link_open(&s->link, &s->dev, s->dev.pd);
	file_make(&s->file, w, "file", FILE_SIZE, flags);
	region_make(&s->region, s->ctx, s->dev.pd, &s->file, w, how);
}

void stage_close(struct stage *s)
{
	if (s->region.mr)
		region_end(&s->region);
	link_close(&s->link);
	file_close(&s->file);
	stage_end(s);
}

void stage_access(struct stage *s, unsigned int page, uint32_t rkey, int wanted)
{
	uint8_t *addr = s->region.addr + page * PAGE;

	if (only_readable(&s->file)) {
		CHECK_EQ(link_read(&s->link, addr, rkey, PAGE), wanted);
		return;
	}
	CHECK_EQ(link_write(&s->link, addr, rkey, PAGE, 0x5a), wanted);
	if (wanted == IBV_WC_SUCCESS)
		CHECK_EQ(addr[PAGE - 1], 0x5a);
}

void stage_no_access(struct stage *s, uint32_t rkey)
{
	stage_access(s, 0, rkey, IBV_WC_REM_ACCESS_ERR);
	link_close(&s->link);
	link_open(&s->link, &s->dev, s->dev.pd);
}

/* ------------------------------------------------------------------------- */
/* Traffic */

static void *send_traffic(void *arg)
{
	struct traffic *t = arg;
	uint32_t rkey = region_rkey(&t->s->region);

	while (!atomic_load(&t->stop) && !atomic_load(&t->failed)) {
		if (link_write(&t->s->link, t->s->region.addr, rkey, PAGE, 0x77) == IBV_WC_SUCCESS)
			atomic_fetch_add(&t->done, 1);
		else
			atomic_fetch_add(&t->failed, 1);
	}
	return NULL;
}

void traffic_start(struct traffic *t, struct stage *s)
{
	t->s = s;
	atomic_init(&t->stop, false);
	atomic_init(&t->done, 0);
	atomic_init(&t->failed, 0);
	CHECK(!pthread_create(&t->thread, NULL, send_traffic, t));
	traffic_check(t);
}

void traffic_check(struct traffic *t)
{
	unsigned int from = atomic_load(&t->done);
	uint64_t end = now_ns() + SOON_MS * MSEC;

	while (atomic_load(&t->done) < from + 5) {
		CHECK(!atomic_load(&t->failed));
		CHECK(now_ns() < end);
		sleep_ms(1);
	}
}

unsigned int traffic_stop(struct traffic *t)
{
	atomic_store(&t->stop, true);
	CHECK(!pthread_join(t->thread, NULL));
	return atomic_load(&t->failed);
}
