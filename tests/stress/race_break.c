// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * race_break [SECONDS] [thread|loop|signal]: everything that can happen to a lease at
 * once. Writers and readers open the files while their regions are registered,
 * deregistered, recalled, regained and drained late by several threads, whose
 * callbacks call into the library; a second context comes and goes all the time.
 * Each registration has to have exactly one end, and nothing may be left.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <daxlease/daxlease.h>

#include "fake_verbs.h"
#include "support.h"

#define FILES 3
#define BUDGET_MS 200
/* Long for a machine that is busy, short for a lease-break-time of 45 s. */
#define STUCK_MS 15000

#define REQUIRE(cond) require(cond, #cond, __LINE__)

static void require(bool ok, const char *what, int line)
{
	if (ok)
		return;
	fprintf(stderr, "race_break.c:%d: not so: %s\n", line, what);
	abort();
}

/* One registered region, as its callbacks and its owner know it. */
struct region {
	struct daxlease_mr *_Atomic mr;
	struct ibv_qp qp;
	atomic_bool open;    /* registered, and its end not told yet */
	atomic_bool pending; /* somebody is to call daxlease_mr_drained() */
	atomic_int running;
	unsigned int seed;
};

static struct daxlease_ctx *_Atomic ctx;
static enum daxlease_mode mode;
static struct file files[FILES];
static struct file extra; /* of the context that comes and goes */
static atomic_bool stop, stop_dispatch;
static atomic_uint registrations, ends, opens, recalls, late;

static bool chance(unsigned int *seed, unsigned int percent)
{
	return (unsigned int)rand_r(seed) % 100 < percent;
}

/* ------------------------------------------------------------------------- */
/* Callbacks */

static void enter(struct region *r)
{
	REQUIRE(atomic_fetch_add(&r->running, 1) == 0);
}

static void leave(struct region *r)
{
	atomic_fetch_sub(&r->running, 1);
}

static int on_drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct region *r = userdata;
	int answer = 0;

	enter(r);
	REQUIRE(brk->size == sizeof(*brk));
	REQUIRE(daxlease_mr_get_info(mr, &info) == 0);
	REQUIRE(daxlease_dereg_mr(mr) == -EDEADLK);
	REQUIRE(daxlease_mr_recall(mr) == -EDEADLK);
	REQUIRE(daxlease_ctx_free(ctx) == -EDEADLK);
	if (chance(&r->seed, 30)) {
		answer = DAXLEASE_PENDING;
		atomic_store(&r->pending, true);
	} else if (chance(&r->seed, 5)) {
		answer = -EIO;
	} else if (chance(&r->seed, 10)) {
		answer = DAXLEASE_PENDING;
		daxlease_mr_drained(mr);
	}
	leave(r);
	return answer;
}

static void on_release(struct daxlease_mr *mr, int result, void *userdata)
{
	struct region *r = userdata;

	enter(r);
	REQUIRE(result == 0 || result == -ETIMEDOUT);
	REQUIRE(daxlease_mr_get_ibv_mr(mr) == NULL);
	atomic_store(&r->pending, false);
	/* The end of a registration, once. */
	REQUIRE(atomic_exchange(&r->open, false));
	atomic_fetch_add(&ends, 1);
	leave(r);
}

static void on_regain(struct daxlease_mr *mr, const struct daxlease_regain *regain, void *userdata)
{
	struct region *r = userdata;

	(void)mr;
	enter(r);
	REQUIRE(!regain->error);
	/* A new one, of which the last had its end. */
	REQUIRE(!atomic_exchange(&r->open, true));
	atomic_fetch_add(&registrations, 1);
	leave(r);
}

static void on_guard(struct daxlease_mr *mr, bool guarded, void *userdata)
{
	struct region *r = userdata;
	struct daxlease_mr_info info = { .size = sizeof(info) };

	(void)guarded;
	enter(r);
	REQUIRE(daxlease_mr_get_info(mr, &info) == 0);
	leave(r);
}

/* ------------------------------------------------------------------------- */
/* Owners of regions */

static bool reg(struct region *r, struct daxlease_ctx *c, struct file *f, unsigned int flags)
{
	const struct daxlease_mr_opts opts = {
		.size = sizeof(opts),
		.flags = flags,
		.drain_budget_ms = BUDGET_MS,
		.drain = on_drain,
		.release = on_release,
		.regain = on_regain,
		.guard = on_guard,
		.userdata = r,
	};
	struct daxlease_mr *mr = NULL;
	size_t page = (size_t)rand_r(&r->seed) % 4;
	int err;

	atomic_store(&r->open, true);
	err = daxlease_reg_mr(c, &fake_pd, f->fd, f->map + page * PAGE, PAGE, ACCESS, &opts, &mr);
	REQUIRE(!err || err == -EAGAIN);
	atomic_store(&r->mr, mr);
	atomic_fetch_add(&registrations, !err);
	return !err;
}

/* The last registration ends here, unless its end was told. */
static void dereg(struct region *r)
{
	struct daxlease_mr *mr = atomic_exchange(&r->mr, NULL);
	int err = daxlease_mr_remove_qp(mr, &r->qp);

	REQUIRE(err == 0 || err == -ENOENT);
	REQUIRE(daxlease_dereg_mr(mr) == 0);
	REQUIRE(atomic_load(&r->running) == 0);
	atomic_fetch_add(&ends, atomic_exchange(&r->open, false));
}

static void recall(struct region *r)
{
	int err = daxlease_mr_recall(atomic_load(&r->mr));

	REQUIRE(err == 0 || err == -ETIMEDOUT || err == -EALREADY);
	atomic_fetch_add(&recalls, 1);
	err = daxlease_mr_regain(atomic_load(&r->mr));
	REQUIRE(err == 0 || err == -EAGAIN || err == -EALREADY);
}

static void answer(struct region *r)
{
	if (atomic_exchange(&r->pending, false)) {
		daxlease_mr_drained(atomic_load(&r->mr));
		atomic_fetch_add(&late, 1);
	}
}

static void *own(void *arg)
{
	unsigned int seed = (unsigned int)(uintptr_t)arg * 7919;
	struct file *f = &files[(uintptr_t)arg % FILES];

	while (!atomic_load(&stop)) {
		struct region r = { .seed = (unsigned int)rand_r(&seed) };

		if (!reg(&r, ctx, f, chance(&seed, 70) ? DAXLEASE_MR_REGAIN : 0)) {
			usleep(200);
			continue;
		}
		daxlease_mr_add_qp(atomic_load(&r.mr), &r.qp);
		for (int i = rand_r(&seed) % 8; i > 0; i--) {
			if (chance(&seed, 10))
				recall(&r);
			usleep((unsigned int)rand_r(&seed) % 1500);
			answer(&r);
		}
		dereg(&r);
	}
	return NULL;
}

/* A context with a region of its own, freed as soon as its region is gone. */
static void *come_and_go(void *arg)
{
	const struct daxlease_ctx_opts opts = { .size = sizeof(opts), .mode = mode };
	unsigned int seed = 4711;

	(void)arg;
	while (!atomic_load(&stop)) {
		struct region r = { .seed = (unsigned int)rand_r(&seed) };
		struct daxlease_ctx *c;

		REQUIRE(daxlease_ctx_new(&opts, &c) == 0);
		if (reg(&r, c, &extra, 0)) {
			REQUIRE(daxlease_ctx_free(c) == -EBUSY);
			usleep((unsigned int)rand_r(&seed) % 3000);
			dereg(&r);
		}
		REQUIRE(daxlease_ctx_free(c) == 0);
	}
	return NULL;
}

/* ------------------------------------------------------------------------- */
/* Those who want the files */

static void open_and_close(const char *path, int flags)
{
	uint64_t start = now_ms();
	int fd = open(path, flags | O_CLOEXEC);

	REQUIRE(fd >= 0 || errno == EWOULDBLOCK);
	REQUIRE(now_ms() - start < STUCK_MS);
	if (fd >= 0)
		close(fd);
	atomic_fetch_add(&opens, 1);
}

static void *want(void *arg)
{
	static const int flags[] = { O_WRONLY, O_RDONLY, O_WRONLY | O_NONBLOCK, O_RDWR };
	unsigned int seed = (unsigned int)(uintptr_t)arg;

	while (!atomic_load(&stop)) {
		unsigned int which = (unsigned int)rand_r(&seed) % (FILES + 1);
		const char *path = which < FILES ? files[which].path : extra.path;

		open_and_close(path, flags[rand_r(&seed) % 4]);
		if (chance(&seed, 30))
			open_and_close(path, O_WRONLY); /* two in a row */
		usleep((unsigned int)rand_r(&seed) % 3000);
	}
	return NULL;
}

/* ------------------------------------------------------------------------- */
/* The modes */

static void *dispatch(void *arg)
{
	struct pollfd pfd = { .fd = daxlease_ctx_get_fd(ctx), .events = POLLIN };

	(void)arg;
	while (!atomic_load(&stop_dispatch)) {
		if (poll(&pfd, 1, 2) > 0)
			REQUIRE(daxlease_ctx_dispatch(ctx) >= 0);
	}
	return NULL;
}

static void on_signal(int signo, siginfo_t *info, void *uctx)
{
	(void)signo;
	(void)uctx;
	daxlease_ctx_notify(atomic_load(&ctx), info);
}

static void parse(int argc, char **argv, unsigned int *seconds)
{
	*seconds = argc > 1 ? (unsigned int)atoi(argv[1]) : 5;
	if (argc > 2 && !strcmp(argv[2], "loop"))
		mode = DAXLEASE_MODE_LOOP;
	if (argc > 2 && !strcmp(argv[2], "signal"))
		mode = DAXLEASE_MODE_SIGNAL;
}

static void begin(void)
{
	const struct daxlease_ctx_opts opts = { .size = sizeof(opts), .mode = mode };
	const struct sigaction sa = { .sa_sigaction = on_signal,
				      .sa_flags = SA_SIGINFO | SA_RESTART };
	struct daxlease_ctx *c;

	for (int i = 0; i < FILES; i++)
		file_make(&files[i], 4, true);
	file_make(&extra, 4, true);
	if (mode == DAXLEASE_MODE_SIGNAL)
		sigaction(SIGIO, &sa, NULL);
	REQUIRE(daxlease_ctx_new(&opts, &c) == 0);
	atomic_store(&ctx, c);
}

static void end(void)
{
	struct daxlease_stats stats = { .size = sizeof(stats) };

	REQUIRE(daxlease_ctx_get_stats(ctx, &stats) == 0);
	printf("registrations %u, ends %u, opens %u, breaks %ju, lent %ju, recalls %u, late "
	       "%u, overruns %ju\n",
	       atomic_load(&registrations), atomic_load(&ends), atomic_load(&opens),
	       (uintmax_t)stats.breaks, (uintmax_t)stats.reader_breaks, atomic_load(&recalls),
	       atomic_load(&late), (uintmax_t)stats.overruns);
	REQUIRE(atomic_load(&registrations) == atomic_load(&ends));
	REQUIRE(stats.regions == 0);
	REQUIRE(stats.leases == 0);
	REQUIRE(stats.lost == 0);
	REQUIRE(stats.breaks > 0 && stats.recalls > 0);
	REQUIRE(fake_live() == 0);
	REQUIRE(daxlease_ctx_free(ctx) == 0);
	ctx = NULL;
	for (int i = 0; i < FILES; i++) {
		REQUIRE(file_lease(&files[i]) == F_UNLCK);
		file_end(&files[i]);
	}
	REQUIRE(file_lease(&extra) == F_UNLCK);
	file_end(&extra);
}

enum {
	OWNERS = 5,
	WANTERS = 2,
	DISPATCHERS = 2,
	THREADS = OWNERS + WANTERS + 1
};

int main(int argc, char **argv)
{
	pthread_t threads[THREADS], dispatchers[DISPATCHERS];
	unsigned int seconds, n = 0;

	parse(argc, argv, &seconds);
	begin();
	for (uintptr_t i = 0; i < OWNERS; i++)
		pthread_create(&threads[n++], NULL, own, (void *)(i + 1));
	for (uintptr_t i = 0; i < WANTERS; i++)
		pthread_create(&threads[n++], NULL, want, (void *)(i + 1));
	if (mode != DAXLEASE_MODE_SIGNAL) /* its signals would be for either of them */
		pthread_create(&threads[n++], NULL, come_and_go, NULL);
	for (int i = 0; mode != DAXLEASE_MODE_THREAD && i < DISPATCHERS; i++)
		pthread_create(&dispatchers[i], NULL, dispatch, NULL);
	sleep_ms(seconds * 1000);
	atomic_store(&stop, true);
	for (unsigned int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&stop_dispatch, true);
	for (int i = 0; mode != DAXLEASE_MODE_THREAD && i < DISPATCHERS; i++)
		pthread_join(dispatchers[i], NULL);
	end();
	return 0;
}
