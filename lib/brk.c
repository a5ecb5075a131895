// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "brk.h"
#include "state.h"
#include "sys.h"

#define BUDGET_DEFAULT_MS 10000
#define BREAK_TIME_UNKNOWN 45 /* seconds: the kernel's default */
#define BACKOFF_FIRST_MS 1
#define BACKOFF_MAX_MS 1000
#define PATIENCE_MAX_MS 128
#define SETTLED_NS NSEC_PER_SEC
#define GIVE_BACK_TRIES 3

#define FILE_FMT "fd %d (inode %ju): "
#define FILE_ARGS(l) (l)->fd, (uintmax_t)(l)->ino

static __thread unsigned int callback_depth;
static __thread bool fencing;

bool brk_in_callback(void)
{
	return callback_depth > 0;
}

bool brk_in_fence(void)
{
	return fencing;
}

/* ------------------------------------------------------------------------- */
/* Queue and timers */

void brk_queue(struct daxlease_ctx *ctx, struct lease *l)
{
	if (l->on_work)
		return;
	l->on_work = true;
	TAILQ_INSERT_TAIL(&ctx->work, l, work_link);
}

static void set_due(struct daxlease_ctx *ctx, struct lease *l, uint64_t at_ns)
{
	l->due_ns = at_ns;
	ctx->next_due_ns = min_u64(ctx->next_due_ns, at_ns);
}

static void queue_due(struct daxlease_ctx *ctx, uint64_t now)
{
	struct lease *l;

	if (now < ctx->next_due_ns)
		return;
	ctx->next_due_ns = NEVER;
	TAILQ_FOREACH(l, &ctx->leases, link) {
		if (l->due_ns > now) {
			ctx->next_due_ns = min_u64(ctx->next_due_ns, l->due_ns);
			continue;
		}
		l->due_ns = NEVER;
		brk_queue(ctx, l);
	}
}

/* Callbacks that another thread found and could not call. */
static void queue_user_due(struct daxlease_ctx *ctx)
{
	struct lease *l;

	if (!ctx->user_due)
		return;
	ctx->user_due = false;
	TAILQ_FOREACH(l, &ctx->leases, link) {
		if (l->user_due)
			brk_queue(ctx, l);
	}
}

static uint64_t back_off(uint32_t *backoff_ms, uint64_t now)
{
	*backoff_ms = *backoff_ms ? *backoff_ms * 2 : BACKOFF_FIRST_MS;
	if (*backoff_ms > BACKOFF_MAX_MS)
		*backoff_ms = BACKOFF_MAX_MS;
	return now + *backoff_ms * NSEC_PER_MSEC;
}

/* What is not put off needs no clock. */
static bool is_time(uint64_t at_ns)
{
	return !at_ns || sys_now_ns() >= at_ns;
}

/* ------------------------------------------------------------------------- */
/* Questions */

static bool is_registered(const struct region *r)
{
	return r->pinned || r->in_pin;
}

/* And not only because requests that are under way use it still. */
static bool is_attached(const struct region *r)
{
	return (r->pinned && !r->leaving) || r->in_pin;
}

static bool any_attached(const struct lease *l)
{
	struct region *r;

	TAILQ_FOREACH(r, &l->regions, link) {
		if (is_attached(r))
			return true;
	}
	return false;
}

bool brk_any_leaving(const struct lease *l)
{
	struct region *r;

	TAILQ_FOREACH(r, &l->regions, link) {
		if (r->leaving)
			return true;
	}
	return false;
}

static bool any_registered(const struct lease *l)
{
	struct region *r;

	TAILQ_FOREACH(r, &l->regions, link) {
		if (is_registered(r))
			return true;
	}
	return false;
}

bool brk_usable(const struct region *r)
{
	switch (r->state) {
	case DAXLEASE_STATE_ACTIVE:
	case DAXLEASE_STATE_UNGUARDED:
		return r->pinned;
	case DAXLEASE_STATE_DRAINING:
		return r->pinned && !r->answered;
	default:
		return false;
	}
}

static bool wants_regain(const struct region *r)
{
	return r->state == DAXLEASE_STATE_RELEASED && !r->closing && !r->regain_off &&
	       (r->regain_once || r->flags & DAXLEASE_MR_REGAIN);
}

/* After its final event was told, and not before. */
static bool can_regain(const struct region *r)
{
	return wants_regain(r) && !r->release_due && !r->in_cb && !r->in_pin;
}

static bool any_wants_regain(const struct lease *l)
{
	struct region *r;

	TAILQ_FOREACH(r, &l->regions, link) {
		if (wants_regain(r))
			return true;
	}
	return false;
}

static bool any_can_regain(const struct lease *l)
{
	struct region *r;

	TAILQ_FOREACH(r, &l->regions, link) {
		if (can_regain(r))
			return true;
	}
	return false;
}

/* Held for nobody: regaining was given up, or giving it back was refused. */
static bool is_unneeded(const struct lease *l)
{
	return !any_registered(l) && !any_wants_regain(l);
}

/* Asked, or told to go, but it is not gone yet: when that counts as an overrun. */
static uint64_t overrun_at(const struct region *r)
{
	return r->in_break && !r->fenced && (r->leaving || r->elsewhere) ? r->deadline_ns : NEVER;
}

/* When time alone makes something due: what the steps below wait for. */
static uint64_t region_due(const struct lease *l, const struct region *r)
{
	if (r->in_pin)
		return NEVER;
	switch (r->state) {
	case DAXLEASE_STATE_DRAINING:
		return r->deadline_ns;
	case DAXLEASE_STATE_DEREGISTERING:
		return min_u64(overrun_at(r), r->elsewhere ? NEVER : r->retry_at_ns);
	case DAXLEASE_STATE_RELEASED:
		return l->held && !l->breaking && !r->elsewhere && can_regain(r) ? r->retry_at_ns :
										   NEVER;
	default:
		return NEVER;
	}
}

static uint64_t lease_due(const struct lease *l)
{
	struct region *r;
	uint64_t due = NEVER;

	if (l->taking)
		; /* whoever does queues it afterwards */
	else if (l->breaking ? !any_attached(l) :
		 l->held     ? is_unneeded(l) :
			       !l->recalled && (l->lent || any_can_regain(l)))
		due = l->retry_at_ns;
	TAILQ_FOREACH(r, &l->regions, link)
		due = min_u64(due, region_due(l, r));
	return due;
}

/* ------------------------------------------------------------------------- */
/* Regions */

static void move(struct region *r, enum state_event ev)
{
	int next = state_next(r->state, ev);

	assert(next >= 0);
	r->state = (enum daxlease_state)next;
	publish_state(r);
}

struct run {
	struct daxlease_ctx *ctx;
	const struct brk_runner *runner;
	unsigned int called;
};

/*
 * Where the pipeline drops the lock: into a callback or a call of the pin of r, which is
 * marked busy. Others go on with what is left. (The other place is brk_take().)
 */
static void go_away(struct run *run, struct region *r, bool *busy)
{
	struct daxlease_ctx *ctx = run->ctx;
	struct lease *l = r->lease;

	*busy = true;
	if (lease_is_shared(l))
		brk_queue(ctx, l); /* the other regions of the file */
	set_due(ctx, l, lease_due(l));
	run->runner->away(ctx);
	pthread_mutex_unlock(&ctx->lock); /* no log lines: their function may block */
}

static void come_back(struct run *run, bool *busy)
{
	ctx_lock(run->ctx);
	*busy = false;
	run->runner->back(run->ctx);
	pthread_cond_broadcast(&run->ctx->changed);
}

static void join_break(struct lease *l, struct region *r)
{
	uint32_t ms = r->drain_budget_ms ? r->drain_budget_ms : BUDGET_DEFAULT_MS;
	uint64_t start = r->late_ns ? r->late_ns : l->notice_ns;

	r->in_break = true;
	r->asked = false;
	r->answered = !r->has.drain;
	r->fenced = false;
	r->fence_due = false;
	r->deadline_ns = min_u64(start + ms * NSEC_PER_MSEC, l->budget_end_ns);
}

static void begin_drain(struct lease *l, struct region *r)
{
	move(r, EV_BREAK);
	join_break(l, r);
}

static void overrun(struct region *r, const char *why)
{
	r->fenced = true;
	r->fence_due = true;
	r->ctx->stats.overruns++;
	r->lease->retry_at_ns = 0; /* to ask soon whether that has helped */
	r->lease->backoff_ms = 0;
	log_add(&r->ctx->log, DAXLEASE_LOG_WARNING, FILE_FMT "region %p+%zu fenced: %s",
		FILE_ARGS(r->lease), r->addr, r->registered, why);
}

static void end_drain(struct region *r, const char *why_fenced)
{
	if (why_fenced)
		overrun(r, why_fenced);
	move(r, EV_DRAINED);
	r->retry_at_ns = 0;
	r->backoff_ms = 0;
}

/* The region is marked in_pin, the lock is not held. */
static void fence(struct region *r)
{
	callback_depth++;
	fencing = true;
	r->ops->fence(r);
	fencing = false;
	callback_depth--;
}

/* False: it is to be done in another thread, which shall come and dispatch. */
static bool is_here(struct region *r)
{
	r->elsewhere = r->ops->is_here && !r->ops->is_here(r);
	if (r->elsewhere)
		r->lease->user_due = r->ctx->user_due = true;
	return !r->elsewhere;
}

void brk_leaving(struct region *r)
{
	r->leaving = true;
	if (atomic_load(&r->gone))
		r->retry_at_ns = 0;
	else if (r->fenced) /* there may be new ones to fence, that were about to begin */
		r->retry_at_ns = back_off(&r->backoff_ms, sys_now_ns());
	else
		r->retry_at_ns = NEVER;
}

void brk_gone(struct region *r)
{
	atomic_store(&r->gone, true);
	if (!r->leaving)
		return;
	r->retry_at_ns = 0;
	r->lease->retry_at_ns = 0;
	brk_queue(r->ctx, r->lease);
	pthread_cond_broadcast(&r->ctx->changed); /* as in region_drained() */
}

void brk_detached(struct region *r)
{
	log_add(&r->ctx->log, DAXLEASE_LOG_INFO, FILE_FMT "deregistered %p+%zu",
		FILE_ARGS(r->lease), r->addr, r->registered);
	r->pinned = false;
	r->leaving = false;
	r->registered = 0;
	r->last_error = 0;
	r->retry_at_ns = 0;
	r->backoff_ms = 0;
	move(r, EV_DEREG);
}

static void deregister(struct run *run, struct lease *l, struct region *r)
{
	int err;

	go_away(run, r, &r->in_pin);
	if (r->fence_due)
		fence(r);
	err = r->ops->detach(r);
	come_back(run, &r->in_pin);
	/* What uses it may not have been found this time. */
	r->fence_due = r->fenced && err == -EINPROGRESS;
	if (!err) {
		brk_detached(r);
		return;
	}
	if (err == -EINPROGRESS) {
		brk_leaving(r);
		return;
	}
	r->ctx->stats.dereg_failures++;
	r->last_error = err;
	l->error = err;
	r->retry_at_ns = back_off(&r->backoff_ms, sys_now_ns());
	log_add(&r->ctx->log, DAXLEASE_LOG_ERR,
		FILE_FMT "%s of %p+%zu: %s; the lease is kept, trying again", FILE_ARGS(l),
		r->ops->detach_call, r->addr, r->registered, strerror(-err));
}

size_t brk_room(const struct region *r, uint64_t size)
{
	const uint64_t page = r->ctx->page_size;
	uint64_t end = (size + page - 1) / page * page;

	return end > r->range.offset ? min_u64(r->length, end - r->range.offset) : 0;
}

static void set_guarded(struct region *r, bool guarded)
{
	move(r, guarded ? EV_GUARD : EV_LEND);
	if (!r->has.guard)
		return;
	/* Told in pairs: what nobody has seen of a whole round trip is left out. */
	r->guard_flips = r->guard_flips < 2 ? r->guard_flips + 1 : 1;
}

static bool is_transient(int err)
{
	return err == -ENOMEM || err == -EAGAIN || err == -EINTR || err == -EBUSY;
}

static void regain_failed(struct region *r, int err)
{
	r->last_error = err;
	if (is_transient(err)) {
		r->retry_at_ns = back_off(&r->backoff_ms, sys_now_ns());
		return;
	}
	r->regain_off = true;
	r->regain_once = false;
	r->regain_error = err;
	r->regain_due = r->has.regain;
	log_add(&r->ctx->log, DAXLEASE_LOG_ERR,
		FILE_FMT "%p+%zu cannot be registered again, given up: %s", FILE_ARGS(r->lease),
		r->addr, r->length, strerror(-err));
}

void brk_registered(struct region *r, size_t length, bool on_demand)
{
	r->pinned = true;
	r->leaving = false;
	r->on_demand = on_demand;
	move(r, EV_REG);
	r->registered = length;
	r->generation++;
	r->last_error = 0;
	r->backoff_ms = 0;
	r->fenced = false;
	if (!r->lease)
		return;
	/* What happened to the lease meanwhile. */
	if (r->lease->lent)
		set_guarded(r, false);
	r->late_ns = r->lease->breaking ? sys_now_ns() : 0;
	if (r->late_ns)
		brk_queue(r->ctx, r->lease);
}

static void regained(struct region *r, size_t length, bool on_demand)
{
	char what[64];

	brk_registered(r, length, on_demand);
	r->regain_once = false;
	r->regain_error = 0;
	r->regain_due = r->has.regain;
	r->ctx->stats.regained++;
	r->ops->describe(r, what, sizeof(what));
	log_add(&r->ctx->log, DAXLEASE_LOG_INFO, FILE_FMT "registered again %p+%zu, %s",
		FILE_ARGS(r->lease), r->addr, length, what);
}

/* Registers again. False: the file does not reach that far yet. */
static bool regain(struct run *run, struct region *r)
{
	bool on_demand = false;
	size_t length = 0;
	uint64_t size;
	int err = sys_file_size(r->lease->fd, &size);

	if (!err)
		length = brk_room(r, size);
	r->past_end = !err && !length;
	if (r->past_end) {
		r->retry_at_ns = back_off(&r->backoff_ms, sys_now_ns());
		return false;
	}
	move(r, EV_REGAIN);
	go_away(run, r, &r->in_pin);
	if (!err)
		err = dax_check(r->ctx->maps_fd, r->addr, length, &r->range);
	if (!err)
		err = r->ops->attach(r, length, &on_demand);
	come_back(run, &r->in_pin);
	if (!err) {
		regained(r, length, on_demand);
	} else {
		move(r, EV_REG_FAILED);
		regain_failed(r, err);
	}
	return true;
}

/* ------------------------------------------------------------------------- */
/* Callbacks */

static void callback_begin(struct run *run, struct region *r)
{
	go_away(run, r, &r->in_cb);
	log_flush(&run->ctx->log); /* one callback, or another */
	callback_depth++;
	run->called++;
}

static void callback_end(struct run *run, struct region *r)
{
	callback_depth--;
	come_back(run, &r->in_cb);
	queue_user_due(run->ctx); /* one more thread may call now */
}

static void call_regain(struct run *run, struct region *r)
{
	r->regain_due = false;
	r->ops->note_regain(r, r->regain_error);
	callback_begin(run, r);
	r->ops->regain(r);
	callback_end(run, r);
}

static void call_guard(struct run *run, struct region *r)
{
	bool guarded = !r->guard_told;

	r->guard_flips--;
	r->guard_told = guarded;
	callback_begin(run, r);
	r->ops->guard(r, guarded);
	callback_end(run, r);
}

static void call_drain(struct run *run, struct lease *l, struct region *r)
{
	struct daxlease_break brk = {
		.size = sizeof(brk),
		.cause = l->cause,
		.deadline_ns = r->deadline_ns,
		.kernel_deadline_ns = l->kernel_deadline_ns,
	};
	int ret;

	r->asked = true;
	callback_begin(run, r);
	ret = r->ops->drain(r, &brk);
	callback_end(run, r);
	if (r->state != DAXLEASE_STATE_DRAINING || ret >= DAXLEASE_PENDING)
		return;
	if (ret == 0)
		r->answered = true;
	else if (!r->answered)
		end_drain(r, "the drain callback could not drain it");
}

static void call_release(struct run *run, struct region *r)
{
	r->release_due = false;
	callback_begin(run, r);
	r->ops->release(r, r->release_result);
	callback_end(run, r);
}

static bool drain_due(const struct region *r)
{
	return r->state == DAXLEASE_STATE_DRAINING && !r->asked && !r->answered;
}

static bool callback_due(const struct region *r)
{
	return !r->closing && !r->in_cb &&
	       (r->regain_due || r->guard_flips || drain_due(r) || r->release_due);
}

/* False: none is due, or not to be called here and now. */
static bool try_callback(struct run *run, struct lease *l, struct region *r)
{
	struct daxlease_ctx *ctx = run->ctx;

	if (!callback_due(r))
		return false;
	if (!run->runner->may_call(ctx)) {
		l->user_due = true;
		ctx->user_due = true;
		return false;
	}
	if (r->regain_due)
		call_regain(run, r);
	else if (r->guard_flips)
		call_guard(run, r);
	else if (drain_due(r))
		call_drain(run, l, r);
	else
		call_release(run, r);
	return true;
}

/* ------------------------------------------------------------------------- */
/*
 * One step of a region, of all regions of a lease, of the lease itself. True: something
 * was done, the lock may have been dropped meanwhile, look again from the start.
 */

static bool step_draining(struct region *r)
{
	if (r->answered)
		end_drain(r, NULL);
	else if (sys_now_ns() >= r->deadline_ns)
		end_drain(r, "not drained within its budget");
	else
		return false;
	return true;
}

static bool end_break(struct daxlease_ctx *ctx, struct lease *l);

static bool step_deregistering(struct run *run, struct lease *l, struct region *r)
{
	uint64_t now = sys_now_ns();

	if (l->breaking && !r->in_break) /* the program began it, before the break */
		join_break(l, r);
	if (now >= overrun_at(r)) {
		/* Whether they do is asked at intervals, so maybe not for long. */
		if (r->leaving && end_break(run->ctx, l))
			return true;
		overrun(r, r->leaving ? "requests use it still at the end of its budget" :
					"its ring's own thread did not dispatch within its budget");
		r->retry_at_ns = 0;
	}
	if (now < r->retry_at_ns || !is_here(r))
		return false;
	deregister(run, l, r);
	return true;
}

static bool step_region(struct run *run, struct lease *l, struct region *r)
{
	if (try_callback(run, l, r))
		return true;
	if (r->in_pin)
		return false;
	switch (r->state) {
	case DAXLEASE_STATE_ACTIVE:
	case DAXLEASE_STATE_UNGUARDED:
		if (!l->breaking)
			return false;
		begin_drain(l, r);
		return true;
	case DAXLEASE_STATE_DRAINING:
		return step_draining(r);
	case DAXLEASE_STATE_DEREGISTERING:
		return step_deregistering(run, l, r);
	case DAXLEASE_STATE_RELEASED:
		return l->held && !l->breaking && can_regain(r) && is_time(r->retry_at_ns) &&
		       is_here(r) && regain(run, r);
	case DAXLEASE_STATE_REGAINING:
		break;
	}
	return false;
}

/* ------------------------------------------------------------------------- */
/* Leases */

/* 0: never. */
static uint64_t deadline_of(struct daxlease_ctx *ctx, const struct lease *l, uint64_t from_ns)
{
	uint64_t ns = l->ops->deadline ? l->ops->deadline(l->fd, l->want) : LEASE_NO_DEADLINE;
	int seconds;

	if (ns != LEASE_NO_DEADLINE)
		return ns;
	seconds = ctx->break_time_fd < 0 ? -1 : sys_read_break_time(ctx->break_time_fd);
	if (seconds == 0)
		return 0;
	return from_ns + (uint64_t)(seconds < 0 ? BREAK_TIME_UNKNOWN : seconds) * NSEC_PER_SEC;
}

/* Somebody else waits since from_ns, and the kernel will not let them wait for ever. */
static void set_foreign(struct daxlease_ctx *ctx, struct lease *l, uint64_t from_ns)
{
	uint64_t end = deadline_of(ctx, l, from_ns);

	l->foreign = true;
	if (!end)
		return;
	l->kernel_deadline_ns = end;
	l->budget_end_ns = from_ns + (end > from_ns ? end - from_ns : 0) / 4 * 3;
}

void brk_begin(struct daxlease_ctx *ctx, struct lease *l, enum daxlease_cause cause)
{
	const bool foreign = cause == DAXLEASE_CAUSE_BREAK || cause == DAXLEASE_CAUSE_READER;

	l->breaking = true;
	ctx->breaking++;
	l->cause = cause;
	l->result = 0;
	l->error = 0;
	l->notice_ns = foreign ? l->noticed_ns : sys_now_ns();
	l->retry_at_ns = 0;
	l->foreign = false;
	l->kernel_deadline_ns = 0;
	l->budget_end_ns = NEVER;
	if (foreign) {
		set_foreign(ctx, l, l->notice_ns);
		ctx->stats.breaks++;
	} else if (cause == DAXLEASE_CAUSE_RECALL) {
		ctx->stats.recalls++;
	}
	log_add(&ctx->log, DAXLEASE_LOG_INFO, FILE_FMT "%s", FILE_ARGS(l),
		cause == DAXLEASE_CAUSE_RECALL ? "lease recalled" :
		cause == DAXLEASE_CAUSE_SHRUNK ? "file shrank while it was not leased" :
						 "lease broken");
}

void brk_left(struct daxlease_ctx *ctx, struct lease *l)
{
	if (l->breaking || !any_registered(l))
		brk_queue(ctx, l);
}

static void notice(struct daxlease_ctx *ctx, struct lease *l)
{
	if (!l->noticed)
		l->noticed_ns = sys_now_ns();
	l->noticed = true;
	brk_queue(ctx, l);
}

static void notice_fd(struct daxlease_ctx *ctx, int fd)
{
	if (fd >= 0 && (size_t)fd < ctx->nfds && ctx->by_fd[fd])
		notice(ctx, ctx->by_fd[fd]);
}

/* all: not only what was received along with something else. */
static void notice_broken(struct daxlease_ctx *ctx, bool all)
{
	int fds[16];
	unsigned int n;

	do {
		n = guard_broken(ctx->guard, all, fds, ARRAY_SIZE(fds));
		for (unsigned int i = 0; i < n; i++)
			notice_fd(ctx, fds[i]);
	} while (n == ARRAY_SIZE(fds));
}

static bool is_late(const struct lease *l)
{
	return l->breaking && l->kernel_deadline_ns && sys_now_ns() > l->kernel_deadline_ns;
}

/*
 * Giving back can be refused, -EACCES, if the file was given to another owner or the
 * process dropped its rights. At its deadline the kernel takes the lease by itself, or
 * makes a read lease of it for a reader, which can then be given back as if in time.
 * But not while something is pinned: then it stays, refuses the others, and is given
 * back late.
 */
static bool kernel_took(const struct lease *l, int err)
{
	if (l->ops->pins && (!err || err == -EBUSY))
		return false;
	return is_late(l);
}

static const char *why_not_given_back(int err)
{
	switch (err) {
	case -EACCES:
		return ": be the owner again, or have CAP_LEASE; the kernel takes it at its "
		       "deadline";
	case -EBUSY:
		return ": something else is pinned in a mapping of this descriptor, by the program "
		       "itself (ibv_reg_mr, io_uring buffers) or in a child: deregister it there; "
		       "trying again";
	default:
		return "";
	}
}

int brk_settle(struct daxlease_ctx *ctx, struct lease *l)
{
	struct region *r;
	int err = any_attached(l) ? -EBUSY : brk_give_back(ctx, l);

	if (err)
		return err;
	TAILQ_FOREACH(r, &l->regions, link) {
		if (r->leaving)
			brk_detached(r);
	}
	brk_queue(ctx, l);
	return 0;
}

int brk_give_back(struct daxlease_ctx *ctx, struct lease *l)
{
	bool waits;
	int err = 0;

	for (int i = 0; l->held && i < GIVE_BACK_TRIES; i++) {
		err = l->ops->give_back(l->fd, l->want, any_wants_regain(l));
		l->held = err && err != -ESTALE;
	}
	if (l->ops->kind == DAXLEASE_KIND_GUARD)
		notice_broken(ctx, false); /* as in brk_take() */
	if (kernel_took(l, err)) {
		err = -ESTALE;
		l->held = false;
	}
	waits = err == -EBUSY && brk_any_leaving(l);
	if (err == -ESTALE) {
		ctx->stats.lost++;
		log_add(&ctx->log, DAXLEASE_LOG_WARNING,
			FILE_FMT "the kernel had taken the lease before it was given back: lost",
			FILE_ARGS(l));
	} else if (err) {
		/* Once for all attempts; and not if it was only a question: see end_break(). */
		log_add(&ctx->log, err == l->error || waits ? DAXLEASE_LOG_DEBUG : DAXLEASE_LOG_ERR,
			FILE_FMT "lease not given back: %s%s", FILE_ARGS(l), strerror(-err),
			why_not_given_back(err));
	} else if (is_late(l)) {
		log_add(&ctx->log, DAXLEASE_LOG_WARNING,
			FILE_FMT "lease given back after the kernel's deadline: whoever waited was "
				 "refused with ETXTBSY",
			FILE_ARGS(l));
	} else {
		log_add(&ctx->log, DAXLEASE_LOG_INFO, FILE_FMT "lease given back", FILE_ARGS(l));
	}
	if (!l->held)
		ctx->stats.leases--;
	else if (!waits)
		l->error = err;
	return err;
}

/*
 * The first attempt to have it again is made soon, but leaves the others time to
 * run: chmod(2) and its kin break a delegation, and look again whether there is one
 * after they were woken. Whoever is broken right after taking it waits longer.
 */
static void plan_retake(struct lease *l)
{
	uint64_t now = sys_now_ns();

	if (!l->patience_ms || now - l->taken_ns > SETTLED_NS)
		l->patience_ms = BACKOFF_FIRST_MS;
	else if (l->patience_ms < PATIENCE_MAX_MS)
		l->patience_ms *= 2;
	l->backoff_ms = l->patience_ms;
	l->retry_at_ns = now + l->patience_ms * NSEC_PER_MSEC;
}

static void end_region_break(struct lease *l, struct region *r, int lost)
{
	struct daxlease_stats *stats = &r->ctx->stats;

	if (!r->in_break)
		return;
	r->in_break = false;
	r->release_result = lost ? lost : r->fenced ? -ETIMEDOUT : 0;
	r->release_due = r->has.release;
	r->guard_flips = 0; /* the release says it all */
	r->guard_told = true;
	if (!r->release_result)
		stats->released++;
	if (r->release_result == -ESTALE || !l->result)
		l->result = r->release_result;
}

/* What requests of such a ring have let go of, only its own thread finds out. */
static void detach_again_here(struct lease *l)
{
	struct region *r;

	TAILQ_FOREACH(r, &l->regions, link) {
		if (r->leaving && !r->fenced && r->ops->is_here && r->ops->is_here(r))
			r->retry_at_ns = l->retry_at_ns;
	}
}

/* The last region is deregistered: let the others go on. */
static bool end_break(struct daxlease_ctx *ctx, struct lease *l)
{
	struct region *r;
	int err = 0;

	if (any_attached(l))
		return false;
	/* Where requests use pages still, as far as we know, this asks the kernel, who knows. */
	if (l->held)
		err = brk_give_back(ctx, l);
	if (l->held) { /* see kernel_took() */
		l->retry_at_ns = back_off(&l->backoff_ms, sys_now_ns());
		detach_again_here(l);
		return false;
	}
	l->breaking = false;
	l->lent = false;
	l->noticed = false;
	ctx->breaking--;
	plan_retake(l);
	if (sys_now_ns() - l->notice_ns > ctx->stats.drain_max_ns)
		ctx->stats.drain_max_ns = sys_now_ns() - l->notice_ns;
	TAILQ_FOREACH(r, &l->regions, link) {
		if (r->leaving)
			brk_detached(r);
		end_region_break(l, r, err);
	}
	return true;
}

/* On-demand memory stays safe whatever a reader does; pins and purists differ. */
static bool may_lend(const struct lease *l)
{
	struct region *r;

	TAILQ_FOREACH(r, &l->regions, link) {
		if ((r->pinned && !r->on_demand) || (r->flags & DAXLEASE_MR_DRAIN_FOR_READERS))
			return false;
	}
	return true;
}

static void lend(struct daxlease_ctx *ctx, struct lease *l)
{
	struct region *r;

	brk_give_back(ctx, l);
	if (l->held) { /* it could not be; the slow way may */
		brk_begin(ctx, l, DAXLEASE_CAUSE_READER);
		return;
	}
	log_add(&ctx->log, DAXLEASE_LOG_INFO, FILE_FMT "a reader: lease lent, regions unguarded",
		FILE_ARGS(l));
	ctx->stats.breaks++;
	ctx->stats.reader_breaks++;
	l->lent = true;
	plan_retake(l);
	TAILQ_FOREACH(r, &l->regions, link) {
		if (r->state == DAXLEASE_STATE_ACTIVE)
			set_guarded(r, false);
	}
}

/* A break by others during our own: their deadline counts as well. */
static void tighten(struct daxlease_ctx *ctx, struct lease *l)
{
	struct region *r;

	set_foreign(ctx, l, l->noticed_ns);
	TAILQ_FOREACH(r, &l->regions, link)
		r->deadline_ns = min_u64(r->deadline_ns, l->budget_end_ns);
}

/* A signal came for it: what does the kernel want? */
static void look(struct daxlease_ctx *ctx, struct lease *l)
{
	int query;

	l->noticed = false;
	if (!l->held || (l->breaking && l->foreign))
		return;
	query = l->ops->query(l->fd, l->want);
	if (query == LEASE_HELD)
		return; /* left over from an earlier break */
	if (l->breaking)
		tighten(ctx, l);
	else if (query == LEASE_BREAKING_READER && may_lend(l))
		lend(ctx, l);
	else
		brk_begin(ctx, l,
			  query == LEASE_BREAKING_READER ? DAXLEASE_CAUSE_READER :
							   DAXLEASE_CAUSE_BREAK);
}

static bool shrank(const struct lease *l)
{
	struct region *r;
	uint64_t size;

	if (sys_file_size(l->fd, &size))
		return true;
	TAILQ_FOREACH(r, &l->regions, link) {
		if (r->pinned && brk_room(r, size) < r->registered)
			return true;
	}
	return false;
}

static void guard_again(struct daxlease_ctx *ctx, struct lease *l)
{
	struct region *r;

	l->lent = false;
	if (shrank(l)) {
		brk_begin(ctx, l, DAXLEASE_CAUSE_SHRUNK);
		return;
	}
	TAILQ_FOREACH(r, &l->regions, link) {
		if (r->state == DAXLEASE_STATE_UNGUARDED)
			set_guarded(r, true);
	}
}

int brk_take(struct daxlease_ctx *ctx, struct lease *l, enum daxlease_kind kind,
	     const struct brk_runner *runner)
{
	const struct lease_ops *ops;
	int err;

	/* The first time nobody knows yet which kind it will be. */
	if (l->ops && !l->ops->take_waits) {
		err = lease_take(kind, l->fd, l->want, &ctx->notice, &ops);
	} else {
		l->taking = true;
		set_due(ctx, l, lease_due(l));
		if (runner)
			runner->away(ctx);
		pthread_mutex_unlock(&ctx->lock);
		err = lease_take(kind, l->fd, l->want, &ctx->notice, &ops);
		ctx_lock(ctx);
		if (runner)
			runner->back(ctx);
		l->taking = false;
		/* We may have heard first that it is gone, with all files. */
		notice_broken(ctx, false);
		pthread_cond_broadcast(&ctx->changed);
		if (l->ops || l->noticed)
			brk_queue(ctx, l); /* for what was put off */
	}
	if (err)
		return err;
	l->ops = ops;
	l->held = true;
	l->error = 0;
	l->retake_error = 0;
	l->retry_at_ns = 0;
	l->backoff_ms = 0;
	ctx->stats.leases++;
	return 0;
}

/* Once for all attempts: there may be one each second, for each file. */
static void say_not_retaken(struct daxlease_ctx *ctx, struct lease *l, int err)
{
	bool known = err == -EAGAIN || err == l->retake_error;
	char reason[192] = "";

	if (err == -EOPNOTSUPP && l->ops->kind == DAXLEASE_KIND_GUARD)
		guard_reason(ctx->guard, reason, sizeof(reason));
	log_add(&ctx->log, known ? DAXLEASE_LOG_DEBUG : DAXLEASE_LOG_WARNING,
		FILE_FMT "not leased again yet: %s%s%s; trying again", FILE_ARGS(l), strerror(-err),
		reason[0] ? ": " : "", reason);
	if (err != -EAGAIN)
		l->retake_error = err;
}

int brk_retake(struct daxlease_ctx *ctx, struct lease *l, const struct brk_runner *runner)
{
	struct region *r;
	int err = brk_take(ctx, l, l->ops->kind, runner);

	if (err) {
		ctx->stats.lease_retries++;
		l->retry_at_ns = back_off(&l->backoff_ms, sys_now_ns());
		say_not_retaken(ctx, l, err);
		return err;
	}
	l->taken_ns = sys_now_ns();
	TAILQ_FOREACH(r, &l->regions, link) {
		if (r->past_end) /* it may be long enough now */
			r->retry_at_ns = 0;
	}
	brk_queue(ctx, l); /* for the regions that wait for it */
	log_add(&ctx->log, DAXLEASE_LOG_INFO, FILE_FMT "leased again", FILE_ARGS(l));
	if (l->lent)
		guard_again(ctx, l);
	return 0;
}

static bool step_lease(struct run *run, struct lease *l)
{
	struct daxlease_ctx *ctx = run->ctx;

	if (l->breaking)
		return is_time(l->retry_at_ns) && end_break(ctx, l);
	if (!l->held)
		return (l->lent || any_can_regain(l)) && !l->recalled && is_time(l->retry_at_ns) &&
		       !brk_retake(ctx, l, run->runner);
	if (!is_unneeded(l) || !is_time(l->retry_at_ns))
		return false;
	brk_give_back(ctx, l);
	if (l->held)
		l->retry_at_ns = back_off(&l->backoff_ms, sys_now_ns());
	return !l->held;
}

static bool step_regions(struct run *run, struct lease *l)
{
	struct region *r;

	TAILQ_FOREACH(r, &l->regions, link) {
		if (step_region(run, l, r))
			return true; /* the list may have changed */
	}
	return false;
}

static void step(struct run *run, struct lease *l)
{
	do {
		if (l->noticed && !l->taking)
			look(run->ctx, l);
		while (step_regions(run, l))
			;
	} while (!l->taking && (step_lease(run, l) || l->noticed));
	set_due(run->ctx, l, lease_due(l));
}

unsigned int brk_run(struct daxlease_ctx *ctx, const struct brk_runner *runner)
{
	struct run run = { .ctx = ctx, .runner = runner };
	struct lease *l;

	queue_user_due(ctx);
	queue_due(ctx, sys_now_ns());
	while ((l = TAILQ_FIRST(&ctx->work))) {
		TAILQ_REMOVE(&ctx->work, l, work_link);
		l->on_work = false;
		l->user_due = false;
		step(&run, l);
		pthread_cond_broadcast(&ctx->changed);
		queue_due(ctx, sys_now_ns());
	}
	publish_counters(ctx);
	return run.called;
}

/* ------------------------------------------------------------------------- */
/* Notices */

void brk_notice_guard(struct daxlease_ctx *ctx)
{
	notice_broken(ctx, true);
}

void brk_notice(struct daxlease_ctx *ctx, int fd)
{
	notice_fd(ctx, fd);
	/* It may have been of the guard's socket, which somebody else has closed since. */
	brk_notice_guard(ctx);
}

void brk_scan(struct daxlease_ctx *ctx)
{
	struct lease *l;

	brk_notice_guard(ctx);
	TAILQ_FOREACH(l, &ctx->leases, link) {
		if (l->taking || /* to be asked once it is there */
		    (l->held && !(l->breaking && l->foreign) &&
		     l->ops->query(l->fd, l->want) != LEASE_HELD))
			notice(ctx, l);
	}
}
