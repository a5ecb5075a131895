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
		/* A helper wakes by itself soon, but here is something for now. */
		if (work && ctx->nhelpers && !ctx->watch_waiting)
			pthread_cond_signal(&ctx->help);
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
/* Threads of ours: while one is away, in a callback or a call of a pin, another is here */

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

static bool is_last(const struct daxlease_ctx *ctx)
{
	return ctx->users >= ctx->nhelpers;
}

static bool may_call_in_thread(struct daxlease_ctx *ctx)
{
	if (!is_last(ctx) || !start_helper(ctx))
		return true;
	if (ctx->nhelpers)
		return false; /* the last one that is here keeps the deadlines */
	log_add(&ctx->log, DAXLEASE_LOG_WARNING,
		"no second thread to be had: a callback that blocks now holds up the others");
	return true;
}

/* A call of a pin has to be made, with or without a deputy. */
static void away_in_thread(struct daxlease_ctx *ctx)
{
	if (is_last(ctx))
		start_helper(ctx);
	ctx->users++;
	watch_kick(ctx); /* the watch thread may have to be up earlier now */
}

static void back_in_thread(struct daxlease_ctx *ctx)
{
	ctx->users--;
}

static bool never_call(struct daxlease_ctx *ctx)
{
	(void)ctx;
	return false;
}

/* DAXLEASE_MODE_THREAD, DAXLEASE_MODE_LOOP */
static const struct brk_runner thread_runner = {
	.may_call = may_call_in_thread,
	.away = away_in_thread,
	.back = back_in_thread,
};

static const struct brk_runner silent_runner = {
	.may_call = never_call,
	.away = away_in_thread,
	.back = back_in_thread,
};

static void run_in_thread(struct daxlease_ctx *ctx)
{
	brk_run(ctx, ctx->mode == DAXLEASE_MODE_THREAD ? &thread_runner : &silent_runner);
	watch_kick(ctx); /* the caller, in DAXLEASE_MODE_LOOP; the watch thread's timer */
}

/* The user's function may block as any other callback. True: it was called. */
static bool flush_log(struct daxlease_ctx *ctx)
{
	if (!log_pending(&ctx->log) || !may_call_in_thread(ctx))
		return false;
	away_in_thread(ctx);
	ctx_unlock(ctx);
	ctx_lock(ctx);
	back_in_thread(ctx);
	return true;
}

static bool watch_is_stuck(const struct daxlease_ctx *ctx, uint64_t now)
{
	return !ctx->watch_waiting && now - ctx->watch_busy_ns > WATCH_STUCK_NS;
}

static void wait_on(struct daxlease_ctx *ctx, pthread_cond_t *cond, uint64_t until_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(until_ns / NSEC_PER_SEC),
			       .tv_nsec = (long)(until_ns % NSEC_PER_SEC) };

	if (until_ns == NEVER)
		pthread_cond_wait(cond, &ctx->lock);
	else
		pthread_cond_timedwait(cond, &ctx->lock, &ts);
}

static void help(struct daxlease_ctx *ctx)
{
	uint64_t quiet_since = sys_now_ns();

	while (!ctx->stop) {
		uint64_t now = sys_now_ns();

		if (watch_is_stuck(ctx, now))
			brk_scan(ctx);
		run_in_thread(ctx);
		if (flush_log(ctx))
			continue;
		if (ctx->users || ctx->breaking)
			quiet_since = now;
		else if (now - quiet_since > HELPER_LINGER_NS)
			break;
		wait_on(ctx, &ctx->help, min_u64(now + HELPER_TICK_NS, ctx->next_due_ns));
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

static void wait_signals(struct daxlease_ctx *ctx, const sigset_t *set)
{
	siginfo_t info;
	int signo;

	ctx->watch_waiting = true;
	ctx->watch_due_ns = ctx->next_due_ns;
	pthread_mutex_unlock(&ctx->lock);
	signo = sys_wait_signal(set, ctx->watch_due_ns, &info);
	ctx_lock(ctx);
	ctx->watch_waiting = false;
	ctx->watch_woken = false;
	ctx->watch_due_ns = NEVER;
	ctx->watch_busy_ns = sys_now_ns();
	/* All that came at once, for their deadlines run from now; if there can be more. */
	while (signo > 0) {
		take_signal(ctx, &info);
		signo = ctx->stats.leases > 1 ? sys_wait_signal(set, 0, &info) : 0;
	}
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
		run_in_thread(ctx);
		if (!flush_log(ctx) && !ctx->stop)
			wait_signals(ctx, &set);
	}
	ctx_unlock(ctx);
	return NULL;
}

/* ------------------------------------------------------------------------- */
/*
 * The guard's threads in this process run the pipeline themselves, for a break has been
 * noticed by one of them, and going on in another thread takes time. One of them stays
 * behind to answer others, and the watch thread or a helper to keep the deadlines.
 */

static bool may_call_in_listener(struct daxlease_ctx *ctx)
{
	return ctx->users <= ctx->nhelpers;
}

static void away_in_listener(struct daxlease_ctx *ctx)
{
	watch_kick(ctx);
}

static void back_in_listener(struct daxlease_ctx *ctx)
{
	(void)ctx;
}

static const struct brk_runner listener_runner = {
	.may_call = may_call_in_listener,
	.away = away_in_listener,
	.back = back_in_listener,
};

static const struct brk_runner silent_listener_runner = {
	.may_call = never_call,
	.away = away_in_listener,
	.back = back_in_listener,
};

static void run_in_listener(struct daxlease_ctx *ctx)
{
	if (ctx->mode == DAXLEASE_MODE_SIGNAL || ctx->stop ||
	    ctx->guard_runners + 1 >= guard_listeners(ctx->guard))
		return;
	ctx->guard_runners++;
	brk_run(ctx,
		ctx->mode == DAXLEASE_MODE_THREAD ? &listener_runner : &silent_listener_runner);
	ctx->guard_runners--;
}

void watch_guard(void *arg)
{
	struct daxlease_ctx *ctx = arg;

	ctx_lock(ctx);
	if (ctx->stop) { /* there are no regions, and no descriptors any more */
		pthread_mutex_unlock(&ctx->lock);
		return;
	}
	brk_notice_guard(ctx);
	run_in_listener(ctx);
	watch_kick(ctx);
	/* Log lines are the watch thread's: their function may block, and this one must not. */
	if (log_pending(&ctx->log))
		wake_watch(ctx);
	pthread_mutex_unlock(&ctx->lock);
}

/* ------------------------------------------------------------------------- */
/* The caller's thread */

static bool may_call_in_caller(struct daxlease_ctx *ctx)
{
	(void)ctx;
	return true;
}

static void away_in_caller(struct daxlease_ctx *ctx)
{
	watch_kick(ctx); /* the watch thread, if there is one, keeps the deadlines */
}

static void back_in_caller(struct daxlease_ctx *ctx)
{
	(void)ctx;
}

static const struct brk_runner caller_runner = {
	.may_call = may_call_in_caller,
	.away = away_in_caller,
	.back = back_in_caller,
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

/* How long a waiting caller may sleep. A signal handler cannot wake it. */
static uint64_t caller_sleep(const struct daxlease_ctx *ctx)
{
	switch (ctx->mode) {
	case DAXLEASE_MODE_THREAD:
		return NEVER;
	case DAXLEASE_MODE_SIGNAL:
		return min_u64(ctx->next_due_ns, sys_now_ns() + HELPER_TICK_NS);
	default:
		return ctx->next_due_ns;
	}
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
			watch_kick(ctx); /* something may be left for another thread */
		}
		wait_on(ctx, &ctx->changed, caller_sleep(ctx));
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
	if (sys_thread_create(&ctx->watch, watch_main, ctx))
		return -EAGAIN;
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
	pthread_cond_broadcast(&ctx->help);
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
