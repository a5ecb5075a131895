// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Public calls on contexts; see daxlease.h for what each of them promises. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "brk.h"
#include "sys.h"
#include "watch.h"

#define SIGNO_DEFAULT (SIGRTMAX - 2)

int ctx_check(const struct daxlease_ctx *ctx)
{
	if (!ctx)
		return -EINVAL;
	return ctx->pid == sys_getpid() ? 0 : -ECHILD;
}

int ctx_check_not_in_callback(const struct daxlease_ctx *ctx)
{
	int err = ctx_check(ctx);

	return err ? err : brk_in_callback() ? -EDEADLK : 0;
}

static int check_mode(const struct daxlease_ctx_opts *opts)
{
	if ((unsigned int)opts->mode > DAXLEASE_MODE_SIGNAL)
		return -EINVAL;
	if ((unsigned int)opts->kind > DAXLEASE_KIND_LEASE || opts->kind == DAXLEASE_KIND_NONE)
		return -EINVAL;
	if (opts->signo < 0 || opts->signo > SIGRTMAX || opts->flags & ~DAXLEASE_CTX_PUBLISH)
		return -EINVAL;
	/* Standard signals coalesce, and the library's thread would take the program's. */
	if (opts->signo && opts->signo < SIGRTMIN && opts->mode != DAXLEASE_MODE_SIGNAL)
		return -EINVAL;
	return 0;
}

static void init_locks(struct daxlease_ctx *ctx)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&ctx->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&ctx->changed, &attr);
	pthread_cond_init(&ctx->help, &attr);
	pthread_condattr_destroy(&attr);
}

static void init(struct daxlease_ctx *ctx, const struct daxlease_ctx_opts *opts)
{
	ctx->pid = sys_getpid();
	ctx->mode = opts->mode;
	ctx->kind = opts->kind;
	ctx->signo = opts->signo;
	if (!ctx->signo)
		ctx->signo = ctx->mode == DAXLEASE_MODE_SIGNAL ? SIGIO : SIGNO_DEFAULT;
	ctx->page_size = (uint64_t)sysconf(_SC_PAGESIZE);
	ctx->maps_fd = ctx->break_time_fd = -1;
	ctx->event_fd = ctx->timer_fd = ctx->poll_fd = -1;
	ctx->next_due_ns = ctx->timer_ns = ctx->watch_due_ns = NEVER;
	TAILQ_INIT(&ctx->leases);
	TAILQ_INIT(&ctx->work);
	init_locks(ctx);
	log_init(&ctx->log);
	log_set(&ctx->log, opts->log_fn, opts->log_level, opts->log_userdata);
	ctx->guard = guard_new(opts->guard_socket, &ctx->log, watch_guard, ctx);
}

/* It works without as well. */
static void publish(struct daxlease_ctx *ctx)
{
	int err = publish_new(&ctx->table);

	if (err)
		log_add(&ctx->log, DAXLEASE_LOG_WARNING,
			"no table for daxlease watch: %s: it does not show this context",
			strerror(-err));
}

static int start(struct daxlease_ctx *ctx, unsigned int flags)
{
	int err;

	if (!ctx->guard)
		return -ENOMEM;
	if (flags & DAXLEASE_CTX_PUBLISH)
		publish(ctx);
	ctx->maps_fd = sys_open_maps();
	if (ctx->maps_fd < 0) {
		log_add(&ctx->log, DAXLEASE_LOG_ERR, "/proc/self/maps: %s: is /proc mounted?",
			strerror(-ctx->maps_fd));
		return ctx->maps_fd;
	}
	ctx->break_time_fd = sys_open_break_time();
	if (ctx->break_time_fd < 0)
		log_add(&ctx->log, DAXLEASE_LOG_WARNING,
			"/proc/sys/fs/lease-break-time: %s: assuming the default of 45 s",
			strerror(-ctx->break_time_fd));
	err = watch_start(ctx);
	if (err)
		log_add(&ctx->log, DAXLEASE_LOG_ERR, "no thread or descriptors for the context: %s",
			strerror(-err));
	return err;
}

/* Accepts a half-built context. */
static void destroy(struct daxlease_ctx *ctx)
{
	watch_stop(ctx);
	guard_free(ctx->guard);
	if (ctx->maps_fd >= 0)
		sys_close(ctx->maps_fd);
	if (ctx->break_time_fd >= 0)
		sys_close(ctx->break_time_fd);
	log_end(&ctx->log);
	publish_free(ctx->table);
	pthread_cond_destroy(&ctx->changed);
	pthread_cond_destroy(&ctx->help);
	pthread_mutex_destroy(&ctx->lock);
	free(ctx->by_fd);
	free(ctx);
}

int daxlease_ctx_new(const struct daxlease_ctx_opts *opts, struct daxlease_ctx **ret_ctx)
{
	struct daxlease_ctx_opts known;
	struct daxlease_ctx *ctx;
	int err;

	if (!ret_ctx)
		return -EINVAL;
	err = opts_get(&known, sizeof(known), opts);
	if (!err)
		err = check_mode(&known);
	if (err) {
		if (known.log_fn)
			known.log_fn(DAXLEASE_LOG_ERR,
				     err == -E2BIG ?
					     "context options newer than this library" :
					     "context options: unknown mode, kind, flags or signal",
				     known.log_userdata);
		return err;
	}
	ctx = sys_calloc(1, sizeof(*ctx));
	if (!ctx)
		return -ENOMEM;
	init(ctx, &known);
	err = start(ctx, known.flags);
	if (err) {
		destroy(ctx);
		return err;
	}
	log_flush(&ctx->log);
	*ret_ctx = ctx;
	return 0;
}

int daxlease_ctx_free(struct daxlease_ctx *ctx)
{
	int err;

	if (!ctx)
		return 0;
	err = ctx_check_not_in_callback(ctx);
	if (err)
		return err;
	ctx_lock(ctx);
	if (ctx->rings) {
		err = -EBUSY;
		log_add(&ctx->log, DAXLEASE_LOG_ERR,
			"context not freed: %u rings exist, free them first", ctx->rings);
	}
	if (ctx->stats.regions) {
		err = -EBUSY;
		log_add(&ctx->log, DAXLEASE_LOG_ERR,
			"context not freed: %ju regions exist, deregister them first",
			(uintmax_t)ctx->stats.regions);
	}
	ctx_unlock(ctx);
	if (!err)
		destroy(ctx);
	return err;
}

static int check_loop(const struct daxlease_ctx *ctx)
{
	int err = ctx_check(ctx);

	return err ? err : ctx->mode == DAXLEASE_MODE_THREAD ? -EINVAL : 0;
}

int daxlease_ctx_get_fd(struct daxlease_ctx *ctx)
{
	int err = check_loop(ctx);

	if (err)
		return err;
	return ctx->mode == DAXLEASE_MODE_SIGNAL ? ctx->poll_fd : ctx->event_fd;
}

int daxlease_ctx_dispatch(struct daxlease_ctx *ctx)
{
	int err = check_loop(ctx);

	if (!err)
		err = ctx_check_not_in_callback(ctx);
	return err ? err : watch_dispatch(ctx);
}

int daxlease_ctx_notify(struct daxlease_ctx *ctx, const siginfo_t *info)
{
	int err = ctx_check(ctx);

	if (err)
		return err;
	/*
	 * The signal says which file only if none of its kind was pending already, so
	 * all are asked, later, in dispatch.
	 */
	return ctx->mode == DAXLEASE_MODE_SIGNAL && info ? watch_signal(ctx) : -EINVAL;
}

int daxlease_ctx_set_log(struct daxlease_ctx *ctx, daxlease_log_fn fn,
			 enum daxlease_log_level level, void *userdata)
{
	int err = ctx_check(ctx);

	if (!err)
		log_set(&ctx->log, fn, level, userdata);
	return err;
}

int daxlease_ctx_get_stats(struct daxlease_ctx *ctx, struct daxlease_stats *ret_stats)
{
	struct daxlease_stats stats;
	int err = ctx_check(ctx);

	if (err)
		return err;
	if (!ret_stats)
		return -EINVAL;
	ctx_lock(ctx);
	stats = ctx->stats;
	ctx_unlock(ctx);
	return opts_put(ret_stats, &stats, sizeof(stats));
}
