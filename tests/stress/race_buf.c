// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * race_buf [SECONDS] [thread|loop|signal]: everything that can happen to buffers of a ring at
 * once. Others break the file while slots are filled and emptied by several threads, requests
 * begin and end, and completions are handed on, late, or never. Each registration has to have
 * exactly one end, nobody waits for longer than the budget allows, and nothing may be left.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <daxlease/uring.h>

#include "fake_layout.h"
#include "fake_uring.h"
#include "fault.h"
#include "support.h"

#define SLOTS 4u
#define BUDGET_MS 200
/* Long for a machine that is busy. */
#define STUCK_MS 15000

#define REQUIRE(cond) require(cond, #cond, __LINE__)

static void require(bool ok, const char *what, int line)
{
	if (ok)
		return;
	fprintf(stderr, "race_buf.c:%d: not so: %s\n", line, what);
	abort();
}

struct holder {
	struct daxlease_buf *_Atomic buf;
	atomic_bool open; /* registered, and its end not told yet */
	atomic_bool pending;
	atomic_int running;
	unsigned int seed;
};

static struct daxlease_ctx *_Atomic ctx;
static enum daxlease_mode mode;
static struct daxlease_ring *ring;
static struct file file;
static int fd;
static atomic_bool stop, stop_dispatch;
static atomic_uint registrations, ends, breaks, uses, handed_on, busy;

static bool chance(unsigned int *seed, unsigned int percent)
{
	return (unsigned int)rand_r(seed) % 100 < percent;
}

/* ------------------------------------------------------------------------- */
/* Callbacks */

static void enter(struct holder *h)
{
	REQUIRE(atomic_fetch_add(&h->running, 1) == 0);
}

static void leave(struct holder *h)
{
	atomic_fetch_sub(&h->running, 1);
}

static int on_drain(struct daxlease_buf *buf, const struct daxlease_break *brk, void *userdata)
{
	struct holder *h = userdata;
	int answer = 0;

	enter(h);
	REQUIRE(brk->size == sizeof(*brk));
	REQUIRE(daxlease_dereg_buf(buf) == -EDEADLK);
	if (chance(&h->seed, 30)) {
		answer = DAXLEASE_PENDING;
		atomic_store(&h->pending, true);
	} else if (chance(&h->seed, 5)) {
		answer = -EIO;
	}
	leave(h);
	return answer;
}

static void on_release(struct daxlease_buf *buf, int result, void *userdata)
{
	struct holder *h = userdata;

	(void)buf;
	enter(h);
	REQUIRE(result == 0 || result == -ETIMEDOUT);
	atomic_store(&h->pending, false);
	REQUIRE(atomic_exchange(&h->open, false));
	atomic_fetch_add(&ends, 1);
	leave(h);
}

static void on_regain(struct daxlease_buf *buf, const struct daxlease_buf_regain *regain,
		      void *userdata)
{
	struct holder *h = userdata;

	(void)buf;
	enter(h);
	REQUIRE(!regain->error);
	REQUIRE(!atomic_exchange(&h->open, true));
	atomic_fetch_add(&registrations, 1);
	leave(h);
}

/* ------------------------------------------------------------------------- */
/* Owners of slots, and their requests */

static bool reg(struct holder *h, unsigned int slot, unsigned int flags)
{
	const struct daxlease_buf_opts opts = {
		.size = sizeof(opts),
		.flags = flags,
		.drain_budget_ms = BUDGET_MS,
		.drain = on_drain,
		.release = on_release,
		.regain = on_regain,
		.userdata = h,
	};
	struct daxlease_buf *buf = NULL;
	int err;

	atomic_store(&h->open, true);
	err = daxlease_reg_buf(ring, slot, file.fd, file.map + slot * PAGE, PAGE, &opts, &buf);
	REQUIRE(!err || err == -EAGAIN);
	atomic_store(&h->buf, buf);
	atomic_fetch_add(&registrations, !err);
	return !err;
}

static void dereg(struct holder *h)
{
	struct daxlease_buf *buf = atomic_exchange(&h->buf, NULL);
	uint64_t start = now_ms();
	int err;

	while ((err = daxlease_dereg_buf(buf)) == -EBUSY) {
		REQUIRE(now_ms() - start < STUCK_MS);
		atomic_fetch_add(&busy, 1);
		usleep(300);
	}
	REQUIRE(err == 0);
	REQUIRE(atomic_load(&h->running) == 0);
	atomic_fetch_add(&ends, atomic_exchange(&h->open, false));
}

static void *own(void *arg)
{
	unsigned int slot = (unsigned int)(uintptr_t)arg;
	unsigned int seed = slot * 7919 + 1;

	while (!atomic_load(&stop)) {
		struct holder h = { .seed = (unsigned int)rand_r(&seed) };

		if (!reg(&h, slot, chance(&seed, 70) ? DAXLEASE_MR_REGAIN : 0)) {
			usleep(200);
			continue;
		}
		for (int i = rand_r(&seed) % 8; i > 0; i--) {
			if (chance(&seed, 70))
				atomic_fetch_add(&uses, fake_ring_use(fd, slot));
			usleep((unsigned int)rand_r(&seed) % 1500);
			if (atomic_exchange(&h.pending, false))
				daxlease_buf_drained(atomic_load(&h.buf));
		}
		dereg(&h);
	}
	return NULL;
}

static void reap(void)
{
	uint64_t tag;

	while (fake_ring_cqe(fd, &tag)) {
		REQUIRE(daxlease_ring_cqe(ring, tag) == 1);
		atomic_fetch_add(&handed_on, 1);
	}
}

/* Requests end now and then, and what is posted is found at another time. */
static void *complete(void *arg)
{
	unsigned int seed = 42;

	(void)arg;
	while (!atomic_load(&stop_dispatch)) {
		usleep((unsigned int)rand_r(&seed) % 4000);
		if (chance(&seed, 60))
			fake_ring_end(fd);
		if (chance(&seed, 60))
			reap();
		/* A few resist being cancelled. */
		if (chance(&seed, 2))
			fake_ring_resist(fd, 2);
	}
	return NULL;
}

/* Others want the file. */
static void *want(void *arg)
{
	unsigned int seed = 4711;

	(void)arg;
	while (!atomic_load(&stop)) {
		uint64_t start = now_ms();
		int err = fake_layout_break(&file);

		REQUIRE(err == 0 || err == -EAGAIN);
		atomic_fetch_add(&breaks, err != 0);
		while (err && fake_layout_waits(&file)) {
			REQUIRE(now_ms() - start < STUCK_MS);
			usleep(200);
		}
		usleep((unsigned int)rand_r(&seed) % 20000);
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

static void begin(int argc, char **argv)
{
	struct daxlease_ctx_opts opts = { .size = sizeof(opts) };
	const struct sigaction sa = { .sa_sigaction = on_signal,
				      .sa_flags = SA_SIGINFO | SA_RESTART };
	struct daxlease_ctx *c;

	if (argc > 2 && !strcmp(argv[2], "loop"))
		mode = DAXLEASE_MODE_LOOP;
	if (argc > 2 && !strcmp(argv[2], "signal"))
		mode = DAXLEASE_MODE_SIGNAL;
	opts.mode = mode;
	if (mode == DAXLEASE_MODE_SIGNAL)
		sigaction(SIGIO, &sa, NULL);
	file_make(&file, SLOTS, true);
	fake_layout_emulate(FAKE_SETLAYOUT);
	fake_layout_map(&file);
	fd = fake_ring_make(SLOTS, false);
	REQUIRE(daxlease_ctx_new(&opts, &c) == 0);
	atomic_store(&ctx, c);
	REQUIRE(daxlease_ring_new(c, fd, &ring) == 0);
}

static void end(void)
{
	struct daxlease_stats stats = { .size = sizeof(stats) };

	reap();
	REQUIRE(daxlease_ctx_get_stats(ctx, &stats) == 0);
	printf("registrations %u, ends %u, breaks %u, requests %u, handed on %u, busy %u, "
	       "overruns %ju\n",
	       atomic_load(&registrations), atomic_load(&ends), atomic_load(&breaks),
	       atomic_load(&uses), atomic_load(&handed_on), atomic_load(&busy),
	       (uintmax_t)stats.overruns);
	REQUIRE(atomic_load(&registrations) == atomic_load(&ends));
	REQUIRE(atomic_load(&breaks) > 0);
	REQUIRE(stats.lost == 0 && stats.regions == 0 && stats.leases == 0);
	for (unsigned int i = 0; i < SLOTS; i++)
		REQUIRE(!fake_ring_slot(fd, i));
	REQUIRE(fake_layout_leases(NULL) == 0);
	REQUIRE(daxlease_ring_free(ring) == 0);
	REQUIRE(daxlease_ctx_free(ctx) == 0);
	fake_ring_close(fd);
	file_end(&file);
}

int main(int argc, char **argv)
{
	unsigned int seconds = argc > 1 ? (unsigned int)atoi(argv[1]) : 5;
	pthread_t owners[SLOTS], wanting, completing, dispatching;

	begin(argc, argv);
	for (unsigned int i = 0; i < SLOTS; i++)
		REQUIRE(!pthread_create(&owners[i], NULL, own, (void *)(uintptr_t)i));
	REQUIRE(!pthread_create(&wanting, NULL, want, NULL));
	REQUIRE(!pthread_create(&completing, NULL, complete, NULL));
	if (mode != DAXLEASE_MODE_THREAD)
		REQUIRE(!pthread_create(&dispatching, NULL, dispatch, NULL));
	/* A signal may end it early. */
	for (uint64_t until = now_ms() + 1000ull * seconds; now_ms() < until;)
		sleep_ms(10);
	atomic_store(&stop, true);
	for (unsigned int i = 0; i < SLOTS; i++)
		pthread_join(owners[i], NULL);
	pthread_join(wanting, NULL);
	atomic_store(&stop_dispatch, true);
	pthread_join(completing, NULL);
	if (mode != DAXLEASE_MODE_THREAD)
		pthread_join(dispatching, NULL);
	end();
	return 0;
}
