// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <assert.h>
#include <errno.h>
#include <fcntl.h>

#include "brk.h"
#include "sys.h"
#include "watch.h"

#define HELPER_TICK_NS (10 * NSEC_PER_MSEC)
#define HELPER_LINGER_NS (250 * NSEC_PER_MSEC)
/* A watch thread that does not listen for so long is assumed to be stuck. */
#define WATCH_STUCK_NS (10 * NSEC_PER_MSEC)

static void *helper_main(void *arg);

/* ------------------------------------------------------------------------- */
/* Waking */

/*
 * The signal of the leases needs room in the user's queue, SIGIO never does: a
 * standard signal is delivered even if there is no memory for its siginfo.
 */
static void wake_watch(struct daxlease_ctx *ctx)
{
	if (!ctx->watch_waiting || ctx->watch_woken)
		return;
	if (sys_tgkill(ctx->watch_tid, ctx->signo))
		sys_tgkill(ctx->watch_tid, SIGIO);
	ctx->watch_woken = true;
}

static void wake_caller(struct daxlease_ctx *ctx)
{
	if (ctx->event_set)
		return;
	sys_event_set(ctx->event_fd);
	ctx->event_set = true;
}

void watch_kick(struct daxlease_ctx *ctx)
{
	const bool work = !TAILQ_EMPTY(&ctx->work);

	switch (ctx->mode) {
	case DAXLEASE_MODE_LOOP:
		if (ctx->user_due)
			wake_caller(ctx);
		/* fall through */
	case DAXLEASE_MODE_THREAD:
		if (work || ctx->next_due_ns < ctx->watch_due_ns)
			wake_watch(ctx);
		break;
	case DAXLEASE_MODE_SIGNAL:
		if (work || ctx->user_due)
			wake_caller(ctx);
		if (ctx->next_due_ns != ctx->timer_ns) {
			sys_timer_arm(ctx->timer_fd, ctx->next_due_ns);
			ctx->timer_ns = ctx->next_due_ns;
		}
		break;
	}
}

/* ------------------------------------------------------------------------- */
/* Callbacks in threads of ours */

static int start_helper(struct daxlease_ctx *ctx)
{
	struct helper *h = ctx->helpers;

	while (h < ctx->helpers + MAX_HELPERS && h->started && !h->ended)
		h++;
	if (h == ctx->helpers + MAX_HELPERS)
		return -EAGAIN;
	if (h->started)
		pthread_join(h->thread, NULL);
	*h = (struct helper){ .ctx = ctx };
	if (sys_thread_create(&h->thread, helper_main, h))
		return -EAGAIN;
	h->started = true;
	ctx->nhelpers++;
	return 0;
}

static bool enter_user_in_thread(struct daxlease_ctx *ctx)
{
	const unsigned int threads = 1 + ctx->nhelpers;

	if (threads - ctx->users < 2 && start_helper(ctx)) {
		if (ctx->nhelpers)
			return false; /* the last free one keeps the deadlines */
		log_add(&ctx->log, DAXLEASE_LOG_WARNING,
			"no second thread to be had: a callback that blocks now holds up the others");
	}
	ctx->users++;
	watch_kick(ctx); /* the watch thread may have to be up earlier now */
	return true;
}

static void leave_user_in_thread(struct daxlease_ctx *ctx)
{
	ctx->users--;
}

static const struct brk_runner thread_runner = {
	.enter_user = enter_user_in_thread,
	.leave_user = leave_user_in_thread,
};

static bool watch_is_stuck(const struct daxlease_ctx *ctx, uint64_t now)
{
	return !ctx->watch_waiting && now - ctx->watch_busy_ns > WATCH_STUCK_NS;
}

static void wait_changed(struct daxlease_ctx *ctx, uint64_t until_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(until_ns / NSEC_PER_SEC),
			       .tv_nsec = (long)(until_ns % NSEC_PER_SEC) };

	if (until_ns == NEVER)
		pthread_cond_wait(&ctx->changed, &ctx->lock);
	else
		pthread_cond_timedwait(&ctx->changed, &ctx->lock, &ts);
}

static void help(struct daxlease_ctx *ctx)
{
	uint64_t quiet_since = sys_now_ns();

	while (!ctx->stop) {
		uint64_t now;

		brk_run(ctx, &thread_runner);
		now = sys_now_ns();
		if (watch_is_stuck(ctx, now)) {
			brk_scan(ctx);
			brk_run(ctx, &thread_runner);
		}
		if (ctx->users || ctx->breaking)
			quiet_since = now;
		else if (now - quiet_since > HELPER_LINGER_NS)
			break;
		ctx_unlock(ctx); /* and hand out log lines */
		ctx_lock(ctx);
		wait_changed(ctx, min_u64(now + HELPER_TICK_NS, ctx->next_due_ns));
	}
}

static void *helper_main(void *arg)
{
	struct helper *h = arg;
	struct daxlease_ctx *ctx = h->ctx;

	ctx_lock(ctx);
	help(ctx);
	watch_kick(ctx); /* timers are the watch thread's again */
	ctx->nhelpers--;
	h->ended = true;
	/* Whoever joins this thread may hold the lock: no user code any more. */
	pthread_mutex_unlock(&ctx->lock);
	return NULL;
}

/* ------------------------------------------------------------------------- */
/* The watch thread */

/* wake_watch(); glibc's sigtimedwait() makes SI_USER of the kernel's SI_TKILL. */
static bool is_wakeup(const struct daxlease_ctx *ctx, const siginfo_t *info)
{
	return (info->si_code == SI_TKILL || info->si_code == SI_USER) && info->si_pid == ctx->pid;
}

static void take_signal(struct daxlease_ctx *ctx, const siginfo_t *info)
{
	if (info->si_signo == ctx->signo) {
		if (is_wakeup(ctx, info))
			return;
		ctx->stats.signals++;
		if (info->si_code > 0 && info->si_code != SI_KERNEL) {
			brk_notice(ctx, info->si_fd);
			return;
		}
	}
	/*
	 * SIGIO: the user's signal queue is full, and breaks go unnamed. Our own may
	 * have swallowed the kernel's, for there is only ever one pending.
	 */
	if (!is_wakeup(ctx, info))
		ctx->stats.signal_overflows++;
	brk_scan(ctx);
}

static void wait_signal(struct daxlease_ctx *ctx, const sigset_t *set)
{
	siginfo_t info;
	int signo;

	ctx->watch_waiting = true;
	ctx->watch_due_ns = ctx->next_due_ns;
	ctx_unlock(ctx);
	signo = sys_wait_signal(set, ctx->watch_due_ns, &info);
	ctx_lock(ctx);
	ctx->watch_waiting = false;
	ctx->watch_woken = false;
	ctx->watch_due_ns = NEVER;
	ctx->watch_busy_ns = sys_now_ns();
	if (signo > 0)
		take_signal(ctx, &info);
}

static void *watch_main(void *arg)
{
	struct daxlease_ctx *ctx = arg;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, ctx->signo);
	sigaddset(&set, SIGIO);
	ctx_lock(ctx);
	ctx->watch_tid = sys_gettid();
	ctx->watch_busy_ns = sys_now_ns();
	pthread_cond_broadcast(&ctx->changed);
	while (!ctx->stop) {
		brk_run(ctx, ctx->mode == DAXLEASE_MODE_THREAD ? &thread_runner : NULL);
		watch_kick(ctx); /* the caller, in DAXLEASE_MODE_LOOP */
		if (!ctx->stop)
			wait_signal(ctx, &set);
	}
	ctx_unlock(ctx);
	return NULL;
}

/* ------------------------------------------------------------------------- */
/* The caller's thread */

static bool enter_user_in_caller(struct daxlease_ctx *ctx)
{
	watch_kick(ctx); /* while this thread is away */
	return true;
}

static void leave_user_in_caller(struct daxlease_ctx *ctx)
{
	(void)ctx;
}

static const struct brk_runner caller_runner = {
	.enter_user = enter_user_in_caller,
	.leave_user = leave_user_in_caller,
};

static void run_in_caller(struct daxlease_ctx *ctx, unsigned int *called)
{
	if (ctx->mode == DAXLEASE_MODE_SIGNAL && atomic_exchange(&ctx->scan_wanted, false)) {
		ctx->stats.signals++;
		brk_scan(ctx);
	}
	*called += brk_run(ctx, &caller_runner);
}

int watch_dispatch(struct daxlease_ctx *ctx)
{
	unsigned int called = 0;

	ctx_lock(ctx);
	sys_event_clear(ctx->event_fd);
	ctx->event_set = false;
	if (ctx->mode == DAXLEASE_MODE_SIGNAL) {
		sys_event_clear(ctx->timer_fd);
		ctx->timer_ns = NEVER;
	}
	run_in_caller(ctx, &called);
	watch_kick(ctx);
	ctx_unlock(ctx);
	return (int)called;
}

void watch_wait(struct daxlease_ctx *ctx, bool (*done)(const void *arg), const void *arg)
{
	unsigned int called = 0;

	if (ctx->mode == DAXLEASE_MODE_THREAD)
		watch_kick(ctx);
	while (!done(arg)) {
		if (ctx->mode != DAXLEASE_MODE_THREAD) {
			run_in_caller(ctx, &called);
			if (done(arg))
				break;
		}
		wait_changed(ctx, ctx->mode == DAXLEASE_MODE_THREAD ? NEVER : ctx->next_due_ns);
	}
	watch_kick(ctx);
}

int watch_signal(struct daxlease_ctx *ctx)
{
	int saved = errno;
	int err;

	atomic_store(&ctx->scan_wanted, true);
	err = sys_event_set(ctx->event_fd);
	errno = saved;
	return err;
}

/* ------------------------------------------------------------------------- */
/* Start and stop */

static int start_thread(struct daxlease_ctx *ctx)
{
	int err = sys_thread_create(&ctx->watch, watch_main, ctx);

	if (err)
		return err;
	ctx_lock(ctx);
	while (!ctx->watch_tid)
		pthread_cond_wait(&ctx->changed, &ctx->lock);
	ctx_unlock(ctx);
	ctx->notice = (struct lease_notice){
		.signo = ctx->signo,
		.owner = { .type = F_OWNER_TID, .id = ctx->watch_tid },
	};
	return 0;
}

static int start_signal_mode(struct daxlease_ctx *ctx)
{
	ctx->notice = (struct lease_notice){
		.signo = ctx->signo,
		.owner = { .type = F_OWNER_PID, .id = ctx->pid },
	};
	ctx->timer_fd = sys_timerfd();
	if (ctx->timer_fd < 0)
		return ctx->timer_fd;
	ctx->poll_fd = sys_epoll((int[]){ ctx->event_fd, ctx->timer_fd }, 2);
	return ctx->poll_fd < 0 ? ctx->poll_fd : 0;
}

int watch_start(struct daxlease_ctx *ctx)
{
	if (ctx->mode != DAXLEASE_MODE_THREAD) {
		ctx->event_fd = sys_eventfd();
		if (ctx->event_fd < 0)
			return ctx->event_fd;
	}
	return ctx->mode == DAXLEASE_MODE_SIGNAL ? start_signal_mode(ctx) : start_thread(ctx);
}

static void close_if(int fd)
{
	if (fd >= 0)
		sys_close(fd);
}

void watch_stop(struct daxlease_ctx *ctx)
{
	ctx_lock(ctx);
	ctx->stop = true;
	wake_watch(ctx);
	pthread_cond_broadcast(&ctx->changed);
	ctx_unlock(ctx);
	if (ctx->watch_tid)
		pthread_join(ctx->watch, NULL);
	for (unsigned int i = 0; i < MAX_HELPERS; i++) {
		if (ctx->helpers[i].started)
			pthread_join(ctx->helpers[i].thread, NULL);
	}
	close_if(ctx->event_fd);
	close_if(ctx->timer_fd);
	close_if(ctx->poll_fd);
}
