// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * (b) A break: from the breaker's system call to the drain callback, and to the
 * breaker's return. By hand it is a thread in sigwaitinfo() that deregisters and
 * gives the lease back at once.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

#define LENGTH (64 << 10)
#define FILE_NAME "broken"
/* Longer than the library keeps its second thread after a break. */
#define IDLE_MS 400

struct brk {
	const struct env *env;
	struct region file;
	struct breaker breaker;

	struct daxlease_ctx *ctx;
	pthread_t thread; /* the bare one */
	pid_t tid;
	int signo;
	struct ibv_mr *mr;
	uint64_t noticed;
	sem_t done, started;
};

/* Has the file broken, and waits until both sides are through. */
static void run_breaker(struct brk *b, enum breaker_way way)
{
	breaker_run(&b->breaker, way);
	while (sem_wait(&b->done))
		;
}

/* ------------------------------------------------------------------------- */
/* Ours */

static int on_drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	struct brk *b = userdata;

	(void)mr;
	(void)brk;
	b->noticed = now_ns();
	return 0;
}

static void on_release(struct daxlease_mr *mr, int result, void *userdata)
{
	struct brk *b = userdata;

	(void)mr;
	if (result)
		die(result, "the library's break");
	sem_post(&b->done);
}

static void break_ours(struct brk *b, enum breaker_way way)
{
	const struct daxlease_mr_opts opts = {
		.size = sizeof(opts),
		.drain = on_drain,
		.release = on_release,
		.userdata = b,
	};
	struct daxlease_mr *mr;
	int err = daxlease_reg_mr(b->ctx, b->env->pd, b->file.fd, b->file.addr, b->file.length,
				  ACCESS, &opts, &mr);

	if (err)
		die(err, "daxlease_reg_mr");
	run_breaker(b, way);
	err = daxlease_dereg_mr(mr);
	if (err)
		die(err, "daxlease_dereg_mr");
}

/* ------------------------------------------------------------------------- */
/* By hand */

static void *bare_main(void *arg)
{
	struct brk *b = arg;
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, b->signo);
	b->tid = gettid();
	sem_post(&b->started);
	for (;;) {
		if (sigwaitinfo(&set, &info) < 0)
			continue;
		if (info.si_code <= 0) /* end_bare() */
			return NULL;
		b->noticed = now_ns();
		if (b->mr)
			dereg_by_hand(b->mr);
		if (unlease_by_hand(info.si_fd, b->env->kind))
			die(errno, "giving the lease back by hand");
		sem_post(&b->done);
	}
}

static void break_bare(struct brk *b, enum breaker_way way)
{
	int err;

	b->mr = b->env->regions ? reg_by_hand(b->env, &b->file) : NULL;
	err = lease_by_hand(b->file.fd, b->env->kind, b->tid, b->signo);
	if (err)
		die(err, "lease by hand");
	run_breaker(b, way);
}

/* ------------------------------------------------------------------------- */

struct variant {
	void (*fn)(struct brk *b, enum breaker_way way);
	struct samples notice, whole;
};

static void run_once(struct brk *b, enum breaker_way way, struct variant *v)
{
	v->fn(b, way);
	samples_add(&v->notice, (double)(b->noticed - b->breaker.shared->called) / 1e3);
	samples_add(&v->whole,
		    (double)(b->breaker.shared->returned - b->breaker.shared->called) / 1e3);
}

static void print(struct variant *v, const char *way, double target)
{
	struct variant *ours = v[0].whole.n ? &v[0] : NULL;
	char name[64];

	snprintf(name, sizeof(name), "%s: to the drain callback", way);
	report_pair(name, "us", ours ? &ours->notice : NULL, &v[1].notice, target);
	snprintf(name, sizeof(name), "%s: to the breaker's return", way);
	report_pair(name, "us", ours ? &ours->whole : NULL, &v[1].whole, target);
	for (size_t i = 0; i < 2; i++) {
		samples_free(&v[i].notice);
		samples_free(&v[i].whole);
	}
}

static void measure(struct brk *b, enum breaker_way way, const char *name, unsigned int rounds,
		    unsigned int pause_ms, double target)
{
	struct variant v[] = { { .fn = break_ours }, { .fn = break_bare } };

	for (unsigned int i = 0; i < 2 * rounds; i++) {
		struct variant *now = &v[(i + i / 2) % 2];

		if (now == v && !b->env->regions)
			continue;
		if (pause_ms)
			sleep_ms(pause_ms);
		run_once(b, way, now);
	}
	print(v, name, target);
}

/* The first breaks are not counted: they find everything cold. */
static void warm_up(struct brk *b)
{
	for (unsigned int i = 0; i < 10; i++) {
		if (b->env->regions)
			break_ours(b, BY_TRUNCATE);
		break_bare(b, BY_TRUNCATE);
	}
}

static void measure_all(struct brk *b)
{
	const bool quick = b->env->quick;
	const unsigned int idle = b->env->regions ? IDLE_MS : IDLE_MS / 4;

	measure(b, BY_TRUNCATE, "truncate, after idle", quick ? 5 : 25, idle, 0);
	warm_up(b);
	measure(b, BY_TRUNCATE, "truncate", quick ? 50 : 300, 0, 1.2);
	measure(b, BY_OPEN, "open", quick ? 50 : 300, 0, 1.2);
}

static void start_bare(struct brk *b)
{
	block_signal(b->signo);
	sem_init(&b->done, 0, 0);
	sem_init(&b->started, 0, 0);
	if (pthread_create(&b->thread, NULL, bare_main, b))
		die(0, "no thread");
	while (sem_wait(&b->started))
		;
}

static void end_bare(struct brk *b)
{
	pthread_kill(b->thread, b->signo);
	pthread_join(b->thread, NULL);
	sem_destroy(&b->done);
	sem_destroy(&b->started);
}

void bench_break(const struct env *env)
{
	struct brk b = { .env = env, .signo = SIGRTMAX - 5 };
	char path[sizeof(env->work) + 64];

	report_part("b", "a break from the breaker's call on, lease kind %s",
		    daxlease_kind_str(env->kind));
	if (!env->regions)
		report_note("ours not measured, bare without a registration: %s", env->why);
	breaker_start(&b.breaker, env, FILE_NAME, LENGTH, false);
	region_make(env, LENGTH, FILE_NAME, &b.file);
	start_bare(&b);
	if (env->regions)
		b.ctx = new_ctx(env, DAXLEASE_MODE_THREAD);
	measure_all(&b);
	daxlease_ctx_free(b.ctx);
	end_bare(&b);
	region_end(&b.file);
	breaker_end(&b.breaker);
	snprintf(path, sizeof(path), "%s/" FILE_NAME, env->work);
	unlink(path);
}
