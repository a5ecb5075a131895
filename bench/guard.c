// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * (g) The kind guard. A break against a bare fanotify loop, which deregisters and answers
 * whatever comes, and against one that first looks whether it is a change at all; and what
 * those pay who read and write a guarded file beside it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "call.h"
#include "fan.h"

#define LENGTH (64 << 10)
#define FILE_NAME "broken"
#define PARALLEL 8

struct guard {
	const struct env *env;
	struct region file;
	struct breaker breaker;
	sem_t done;
	uint64_t noticed;
	struct ibv_mr *mr; /* of the bare loop */
	bool looks;	   /* the bare loop */
	struct call_files files;
	int fan;
	int stop[2];
	pthread_t thread;
};

struct variant {
	struct samples notice, whole;
};

static void wait_done(struct guard *g)
{
	while (sem_wait(&g->done))
		;
}

static void count(struct guard *g, struct variant *v)
{
	const struct breaker_times *t = g->breaker.shared;

	samples_add(&v->notice, (double)(g->noticed - t->called) / 1e3);
	samples_add(&v->whole, (double)(t->returned - t->called) / 1e3);
}

static void path_of(const struct env *env, char *ret_path, size_t size)
{
	snprintf(ret_path, size, "%s/" FILE_NAME, env->work);
}

/* ------------------------------------------------------------------------- */
/* Ours */

static int on_drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	struct guard *g = userdata;

	(void)mr;
	(void)brk;
	g->noticed = now_ns();
	return 0;
}

static void on_release(struct daxlease_mr *mr, int result, void *userdata)
{
	struct guard *g = userdata;

	(void)mr;
	if (result)
		die(result, "the library's break");
	sem_post(&g->done);
}

static struct daxlease_mr *register_ours(struct guard *g, struct daxlease_ctx *ctx,
					 daxlease_drain_fn drain)
{
	const struct daxlease_mr_opts opts = {
		.size = sizeof(opts),
		.drain = drain,
		.release = on_release,
		.userdata = g,
	};
	struct daxlease_mr *mr;
	int err = daxlease_reg_mr(ctx, g->env->pd, g->file.fd, g->file.addr, g->file.length, ACCESS,
				  &opts, &mr);

	if (err)
		die(err, "daxlease_reg_mr");
	return mr;
}

static void deregister_ours(struct daxlease_mr *mr)
{
	int err = daxlease_dereg_mr(mr);

	if (err)
		die(err, "daxlease_dereg_mr");
}

static void break_ours(struct guard *g, struct daxlease_ctx *ctx, struct variant *v)
{
	struct daxlease_mr *mr = register_ours(g, ctx, on_drain);

	breaker_run(&g->breaker, BY_TRUNCATE);
	wait_done(g);
	deregister_ours(mr);
	count(g, v);
}

/* ------------------------------------------------------------------------- */
/* By hand */

static void answer_one(struct guard *g, const struct fan_event *event)
{
	struct call call = { .fd = event->fd, .tid = event->tid };

	enum call_kind kind = CALL_UNDECIDED;

	while (g->looks && kind == CALL_UNDECIDED)
		kind = call_look(&g->files, &call, event->open);
	if (g->looks && kind != CALL_CHANGE)
		die(0, "a truncate does not look like one");
	g->noticed = now_ns();
	if (g->mr)
		dereg_by_hand(g->mr);
	g->mr = NULL;
	fan_answer(g->fan, event->fd, 0);
	close(event->fd);
	sem_post(&g->done);
}

static void *bare_main(void *arg)
{
	struct guard *g = arg;
	struct pollfd fds[] = {
		{ .fd = g->fan, .events = POLLIN },
		{ .fd = g->stop[0], .events = POLLIN },
	};
	struct fan_event events[FAN_EVENTS];
	bool more;
	int n;

	for (;;) {
		poll(fds, 2, -1);
		if (fds[1].revents)
			return NULL;
		n = fan_read(g->fan, events, &more);
		for (int i = 0; i < n; i++)
			answer_one(g, &events[i]);
	}
}

static void break_bare(struct guard *g, bool looks, struct variant *v)
{
	int err;

	g->looks = looks;
	g->mr = reg_by_hand(g->env, &g->file);
	err = fan_watch(g->fan, g->file.fd);
	if (err)
		die(err, "a fanotify mark");
	breaker_run(&g->breaker, BY_TRUNCATE);
	wait_done(g);
	fan_unwatch(g->fan, g->file.fd);
	count(g, v);
}

static void start_bare(struct guard *g)
{
	g->fan = fan_init();
	if (g->fan < 0)
		die(g->fan,
		    "a fanotify group of class FAN_CLASS_PRE_CONTENT (CAP_SYS_ADMIN, Linux >= 6.14)");
	if (pipe2(g->stop, O_CLOEXEC) || pthread_create(&g->thread, NULL, bare_main, g))
		die(errno, "the bare loop");
}

static void end_bare(struct guard *g)
{
	close(g->stop[1]);
	pthread_join(g->thread, NULL);
	call_files_close(&g->files);
	close(g->stop[0]);
	close(g->fan);
}

/* An ordinary lease, broken by the same call: what the guard is taken instead of. */
static void *lease_main(void *arg)
{
	struct guard *g = arg;
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMAX - 5);
	g->fan = gettid();
	sem_post(&g->done);
	while (sigwaitinfo(&set, &info) < 0 || info.si_code > 0) {
		g->noticed = now_ns();
		dereg_by_hand(g->mr);
		unlease_by_hand(g->file.fd, DAXLEASE_KIND_LEASE);
		sem_post(&g->done);
	}
	return NULL;
}

static void break_lease(struct guard *g, struct variant *v)
{
	int err;

	g->mr = reg_by_hand(g->env, &g->file);
	err = lease_by_hand(g->file.fd, DAXLEASE_KIND_LEASE, g->fan, SIGRTMAX - 5);
	if (err)
		die(err, "a lease by hand");
	breaker_run(&g->breaker, BY_TRUNCATE);
	wait_done(g);
	count(g, v);
}

/* ------------------------------------------------------------------------- */
/* Breaks */

static void print(const char *name, struct variant *ours, struct variant *bare, double target)
{
	char text[80];

	snprintf(text, sizeof(text), "%s: to the notice", name);
	report_pair(text, "us", &ours->notice, &bare->notice, 0);
	snprintf(text, sizeof(text), "%s: to the breaker's return", name);
	report_pair(text, "us", &ours->whole, &bare->whole, target);
}

static void free_variants(struct variant *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		samples_free(&v[i].notice);
		samples_free(&v[i].whole);
	}
}

enum {
	HERE,
	THERE,
	BARE,
	LOOKING,
	LEASE,
	VARIANTS
};

static void measure_breaks(struct guard *g, struct daxlease_ctx *here, struct daxlease_ctx *there)
{
	const unsigned int rounds = g->env->quick ? 50 : 300, warm = 10;
	struct variant v[VARIANTS] = { 0 };

	start_bare(g);
	for (unsigned int i = 0; i < rounds + warm; i++) {
		if (i == warm)
			free_variants(v, VARIANTS);
		break_ours(g, here, &v[HERE]);
		break_bare(g, false, &v[BARE]);
		break_bare(g, true, &v[LOOKING]);
		if (there)
			break_ours(g, there, &v[THERE]);
	}
	end_bare(g);
	print("in the process", &v[HERE], &v[BARE], 1.2);
	if (there)
		print("through daxleased", &v[THERE], &v[BARE], 2);
	else
		report_note(
			"daxleased not measured: start it, and name its socket by --guard-socket");
	print("the bare loop, looking", &v[LOOKING], &v[BARE], 0);

	/* No guard may be there, which would see the call first. */
	block_signal(SIGRTMAX - 5);
	if (pthread_create(&g->thread, NULL, lease_main, g))
		die(0, "no thread");
	wait_done(g);
	for (unsigned int i = 0; i < rounds; i++)
		break_lease(g, &v[LEASE]);
	print("an ordinary lease by hand", &v[LEASE], &v[BARE], 0);
	pthread_kill(g->thread, SIGRTMAX - 5);
	pthread_join(g->thread, NULL);
	report_columns("ours", "looking loop");
	print("in the process", &v[HERE], &v[LOOKING], 0);
	if (there)
		print("through daxleased", &v[THERE], &v[LOOKING], 0);
	free_variants(v, VARIANTS);
}

/* ------------------------------------------------------------------------- */
/* Bystanders */

static char buf[PAGE];

static void do_read(int fd)
{
	if (pread(fd, buf, sizeof(buf), 0) != sizeof(buf))
		die(errno, "pread");
}

static void do_write(int fd)
{
	if (pwrite(fd, buf, sizeof(buf), 0) != sizeof(buf))
		die(errno, "pwrite");
}

static void do_open(int fd)
{
	char path[32];
	int other;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	other = open(path, O_RDONLY | O_CLOEXEC);
	if (other < 0)
		die(errno, "open");
	close(other);
}

static void sample(struct samples *s, void (*fn)(int fd), int fd, unsigned int rounds)
{
	for (unsigned int i = 0; i < rounds; i++) {
		uint64_t begin = now_ns();

		fn(fd);
		samples_add(s, (double)(now_ns() - begin) / 1e3);
	}
}

static void measure_calls(struct guard *g, struct daxlease_ctx *ctx, int fd, int plain)
{
	static const struct {
		const char *name;
		void (*fn)(int fd);
	} calls[] = {
		{ "pread of 4 KiB", do_read },
		{ "pwrite of 4 KiB", do_write },
		{ "open and close", do_open },
	};
	const unsigned int rounds = g->env->quick ? 200 : 2000;
	struct daxlease_mr *mr = register_ours(g, ctx, on_drain);

	report_columns("guarded", "not");
	for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
		struct samples guarded = { 0 }, not = { 0 };

		sample(&guarded, calls[i].fn, fd, rounds);
		sample(&not, calls[i].fn, plain, rounds);
		report_pair(calls[i].name, "us", &guarded, &not, 0);
		samples_free(&guarded);
		samples_free(&not );
	}
	deregister_ours(mr);
}

struct reader {
	int fd;
	atomic_bool *stop;
	unsigned long reads;
	pthread_t thread;
};

static void *read_main(void *arg)
{
	struct reader *r = arg;
	char page[PAGE];

	while (!atomic_load_explicit(r->stop, memory_order_relaxed)) {
		if (pread(r->fd, page, sizeof(page), 0) != sizeof(page))
			die(errno, "pread");
		r->reads++;
	}
	return NULL;
}

/* Reads a second, of n threads. */
static double throughput(int fd, unsigned int n, unsigned int ms)
{
	struct reader readers[PARALLEL];
	atomic_bool stop = false;
	unsigned long reads = 0;

	for (unsigned int i = 0; i < n; i++) {
		readers[i] = (struct reader){ .fd = fd, .stop = &stop };
		if (pthread_create(&readers[i].thread, NULL, read_main, &readers[i]))
			die(0, "no thread");
	}
	sleep_ms(ms);
	atomic_store(&stop, true);
	for (unsigned int i = 0; i < n; i++) {
		pthread_join(readers[i].thread, NULL);
		reads += readers[i].reads;
	}
	return (double)reads * 1e3 / ms;
}

static void measure_parallel(struct guard *g, struct daxlease_ctx *ctx, int fd)
{
	const unsigned int ms = g->env->quick ? 300 : 3000;
	struct daxlease_mr *mr = register_ours(g, ctx, on_drain);
	double one = throughput(fd, 1, ms), all = throughput(fd, PARALLEL, ms);

	deregister_ours(mr);
	report_value("guarded, 1 reader", "reads/s", one, -1);
	report_value("guarded, 8 readers", "reads/s", all, -1);
	report_value("8 readers : 1 reader", "", all / one, -1);
	report_value("processors", "", (double)sysconf(_SC_NPROCESSORS_ONLN), -1);
}

static int on_drain_later(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	struct guard *g = userdata;

	(void)mr;
	(void)brk;
	sem_post(&g->done);
	return DAXLEASE_PENDING;
}

static void *break_main(void *arg)
{
	struct guard *g = arg;

	breaker_run(&g->breaker, BY_TRUNCATE);
	return NULL;
}

/* While the file of g waits to be drained; so few that it is not waiting for too long. */
static void sample_beside_drain(struct guard *g, struct daxlease_ctx *ctx, struct samples *s,
				int fd, unsigned int reads)
{
	struct daxlease_mr *drained = register_ours(g, ctx, on_drain_later);

	if (pthread_create(&g->thread, NULL, break_main, g))
		die(0, "no thread");
	wait_done(g); /* drain was called */
	sample(s, do_read, fd, reads);
	daxlease_mr_drained(drained);
	wait_done(g); /* released */
	pthread_join(g->thread, NULL);
	deregister_ours(drained);
}

/* Another file's readers; in turns, for the machine may become slower meanwhile. */
static void measure_beside_drain(struct guard *g, struct daxlease_ctx *ctx)
{
	const unsigned int drains = g->env->quick ? 2 : 20, reads = 500;
	struct guard other = { .env = g->env };
	struct samples idle = { 0 }, beside = { 0 };
	struct daxlease_mr *mr;
	char path[32];
	int fd;

	region_make(g->env, LENGTH, NULL, &other.file);
	mr = register_ours(&other, ctx, on_drain);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", other.file.fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	for (unsigned int i = 0; i < drains; i++) {
		sample(&idle, do_read, fd, reads);
		sample_beside_drain(g, ctx, &beside, fd, reads);
	}
	deregister_ours(mr);
	report_columns("beside a drain", "idle");
	report_pair("pread of 4 KiB, another guarded file", "us", &beside, &idle, 2);
	samples_free(&idle);
	samples_free(&beside);
	close(fd);
	region_end(&other.file);
}

/* ------------------------------------------------------------------------- */

static void measure_bystanders(struct guard *g, struct daxlease_ctx *ctx)
{
	char path[sizeof(g->env->work) + 64];
	struct daxlease_mr *mr = register_ours(g, ctx, on_drain);
	int plain = make_file(g->env, LENGTH, NULL), fd;

	path_of(g->env, path, sizeof(path));
	fd = open(path, O_RDWR | O_CLOEXEC); /* what was opened before pays nothing */
	if (fd < 0)
		die(errno, "%s", path);
	deregister_ours(mr);
	measure_calls(g, ctx, fd, plain);
	measure_parallel(g, ctx, fd);
	measure_beside_drain(g, ctx);
	close(fd);
	close(plain);
}

void bench_guard(const struct env *env)
{
	struct guard g = { .env = env };
	struct daxlease_ctx *here, *there = NULL;
	char path[sizeof(env->work) + 64];

	report_part("g", "the guard: a break by truncate, and bystanders");
	if (!env->regions || env->no_guard[0]) {
		report_note("not measured: %s", env->regions ? env->no_guard : env->why);
		return;
	}
	breaker_start(&g.breaker, env, FILE_NAME, LENGTH, true);
	region_make(env, LENGTH, FILE_NAME, &g.file);
	sem_init(&g.done, 0, 0);
	here = new_guard_ctx("");
	if (env->guard_socket)
		there = new_guard_ctx(env->guard_socket);
	report_columns("ours", "bare loop");
	measure_breaks(&g, here, there);
	measure_bystanders(&g, here);
	daxlease_ctx_free(there);
	daxlease_ctx_free(here);
	sem_destroy(&g.done);
	region_end(&g.file);
	breaker_end(&g.breaker);
	path_of(env, path, sizeof(path));
	unlink(path);
}
