// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* (c) Many leases: all taken, then all given back. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "bench.h"
#include "lease.h"

/* Files that one variant takes or gives back in a row, before the other's turn. */
#define GROUP 20

struct many {
	const struct env *env;
	struct daxlease_ctx *ctx;
	struct region *files;
	struct daxlease_mr **mrs;
	struct ibv_mr **bare;
	double *took;
	size_t n; /* a multiple of 2 * GROUP */
	pid_t tid;
	int signo;
	struct lease_notice notice;
};

struct variant {
	void (*take)(struct many *m, size_t i);
	void (*give_back)(struct many *m, size_t i);
	struct samples taking, giving, both;
};

/* ------------------------------------------------------------------------- */
/* One of each; never inlined, so that callgrind can tell them apart */

__attribute__((noinline)) static void take_layer(struct many *m, size_t i)
{
	const struct lease_ops *ops;
	const struct lease_want want = { .access_mode = O_RDWR };
	int err = lease_take(m->env->kind, m->files[i].fd, want, &m->notice, &ops);

	if (err)
		die(err, "lease %zu through the lease layer", i);
}

__attribute__((noinline)) static void give_back_layer(struct many *m, size_t i)
{
	int err = lease_kind_find(m->env->kind)
			  ->give_back(m->files[i].fd, (struct lease_want){ 0 }, false);

	if (err)
		die(err, "giving back lease %zu through the lease layer", i);
}

__attribute__((noinline)) static void take_bare(struct many *m, size_t i)
{
	int err = lease_by_hand(m->files[i].fd, m->env->kind, m->tid, m->signo);

	if (err)
		die(err, "lease %zu by hand", i);
}

__attribute__((noinline)) static void give_back_bare(struct many *m, size_t i)
{
	int err = unlease_by_hand(m->files[i].fd, m->env->kind);

	if (err)
		die(err, "giving back lease %zu by hand", i);
}

__attribute__((noinline)) static void take_public(struct many *m, size_t i)
{
	const struct region *r = &m->files[i];
	int err = daxlease_reg_mr(m->ctx, m->env->pd, r->fd, r->addr, r->length, ACCESS, NULL,
				  &m->mrs[i]);

	if (err)
		die(err, "daxlease_reg_mr %zu", i);
}

__attribute__((noinline)) static void give_back_public(struct many *m, size_t i)
{
	int err = daxlease_dereg_mr(m->mrs[i]);

	if (err)
		die(err, "daxlease_dereg_mr %zu", i);
}

__attribute__((noinline)) static void take_bare_mr(struct many *m, size_t i)
{
	take_bare(m, i);
	m->bare[i] = reg_by_hand(m->env, &m->files[i]);
}

__attribute__((noinline)) static void give_back_bare_mr(struct many *m, size_t i)
{
	dereg_by_hand(m->bare[i]);
	give_back_bare(m, i);
}

/* ------------------------------------------------------------------------- */

static double time_group(struct many *m, size_t group, void (*fn)(struct many *m, size_t i))
{
	uint64_t begin = now_ns();

	for (size_t i = group * GROUP; i < (group + 1) * GROUP; i++)
		fn(m, i);
	return (double)(now_ns() - begin) / 1e3 / GROUP;
}

/* All leases are held at once, half of them through each of the variants. */
static void run_round(struct many *m, struct variant *v, unsigned int round)
{
	const size_t groups = m->n / GROUP;

	for (size_t g = 0; g < groups; g++)
		m->took[g] = time_group(m, g, v[(g + round) % 2].take);
	for (size_t g = 0; g < groups; g++) {
		struct variant *now = &v[(g + round) % 2];
		double gave = time_group(m, g, now->give_back);

		samples_add(&now->taking, m->took[g]);
		samples_add(&now->giving, gave);
		samples_add(&now->both, m->took[g] + gave);
	}
}

static void clear(struct variant *v)
{
	for (size_t i = 0; i < 2; i++) {
		samples_free(&v[i].taking);
		samples_free(&v[i].giving);
		samples_free(&v[i].both);
	}
}

static void compare(struct many *m, const char *name, struct variant *v, double target)
{
	const unsigned int rounds = m->env->quick ? 4 : 10;

	run_round(m, v, 0); /* the kernel's own memory for leases is made now */
	run_round(m, v, 1);
	clear(v);
	for (unsigned int i = 0; i < rounds; i++)
		run_round(m, v, i);
	report_pair(name, "us", &v[0].both, &v[1].both, target);
	report_pair("  taking", "us", &v[0].taking, &v[1].taking, 0);
	report_pair("  giving back", "us", &v[0].giving, &v[1].giving, 0);
	clear(v);
}

static void layer(struct many *m)
{
	struct variant v[] = {
		{ .take = take_layer, .give_back = give_back_layer },
		{ .take = take_bare, .give_back = give_back_bare },
	};

	compare(m, "lease layer", v, 1.2);
}

static void public(struct many *m)
{
	struct variant v[] = {
		{ .take = take_public, .give_back = give_back_public },
		{ .take = take_bare_mr, .give_back = give_back_bare_mr },
	};

	if (!m->env->regions) {
		report_note("through daxlease_reg_mr(): not measured: %s", m->env->why);
		return;
	}
	m->ctx = new_ctx(m->env, DAXLEASE_MODE_THREAD);
	compare(m, "whole regions: daxlease_reg_mr()", v, 0);
	daxlease_ctx_free(m->ctx);
}

static void make_files(struct many *m)
{
	m->files = calloc(m->n, sizeof(*m->files));
	m->mrs = calloc(m->n, sizeof(*m->mrs));
	m->bare = calloc(m->n, sizeof(*m->bare));
	m->took = calloc(m->n / GROUP, sizeof(*m->took));
	if (!m->files || !m->mrs || !m->bare || !m->took)
		die(0, "out of memory");
	for (size_t i = 0; i < m->n; i++)
		region_make(m->env, 4096, NULL, &m->files[i]);
}

static void end_files(struct many *m)
{
	for (size_t i = 0; i < m->n; i++)
		region_end(&m->files[i]);
	free(m->files);
	free(m->mrs);
	free(m->bare);
	free(m->took);
}

static size_t how_many(const struct env *env)
{
	const size_t want = env->quick ? 1000 : 10000;
	const size_t max = raise_descriptors() - 100;
	/* A region has the library's duplicate besides the program's own. */
	const size_t per_file = env->regions ? 2 : 1;

	if (want * per_file <= max)
		return want;
	report_note("fewer files than %zu: RLIMIT_NOFILE (ulimit -Hn) is in the way", want);
	return max / per_file / (2 * GROUP) * (2 * GROUP);
}

void bench_leases(const struct env *env)
{
	struct many m = { .env = env, .tid = gettid(), .signo = SIGRTMAX - 5 };

	report_part("c", "many leases, kind %s: per file, taken and given back",
		    daxlease_kind_str(env->kind));
	m.n = how_many(env);
	report_note("%zu files", m.n);
	block_signal(m.signo);
	m.notice = (struct lease_notice){
		.signo = m.signo,
		.owner = { .type = F_OWNER_TID, .id = m.tid },
	};
	make_files(&m);
	layer(&m);
	public(&m);
	end_files(&m);
}
