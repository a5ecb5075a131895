// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* (a) Register and deregister, through the library and by hand. */
#include <stdio.h>
#include <unistd.h>

#include "bench.h"

struct reg {
	const struct env *env;
	struct daxlease_ctx *ctx;
	struct region file;
	pid_t tid;
	int signo;
};

struct times {
	uint64_t begin, middle, end;
};

/* Named, and never inlined, so that callgrind can tell them apart. */
typedef void (*pair_fn)(struct reg *r, struct times *t);

__attribute__((noinline)) static void pair_ours(struct reg *r, struct times *t)
{
	struct daxlease_mr *mr;
	int err;

	t->begin = now_ns();
	err = daxlease_reg_mr(r->ctx, r->env->pd, r->file.fd, r->file.addr, r->file.length, ACCESS,
			      NULL, &mr);
	t->middle = now_ns();
	if (err)
		die(err, "daxlease_reg_mr");
	err = daxlease_dereg_mr(mr);
	t->end = now_ns();
	if (err)
		die(err, "daxlease_dereg_mr");
}

__attribute__((noinline)) static void pair_bare(struct reg *r, struct times *t)
{
	struct ibv_mr *mr;

	t->begin = now_ns();
	mr = reg_by_hand(r->env, &r->file);
	t->middle = now_ns();
	dereg_by_hand(mr);
	t->end = now_ns();
}

/* The prefetch that the library asks for as well, so that first accesses don't fault. */
static void prefetch(struct ibv_mr *mr)
{
	struct ibv_sge sge = { (uintptr_t)mr->addr, (uint32_t)mr->length, mr->lkey };

	ibv_advise_mr(mr->pd, IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, 0, &sge, 1);
}

__attribute__((noinline)) static void pair_prefetch(struct reg *r, struct times *t)
{
	struct ibv_mr *mr;

	t->begin = now_ns();
	mr = reg_by_hand(r->env, &r->file);
	prefetch(mr);
	t->middle = now_ns();
	dereg_by_hand(mr);
	t->end = now_ns();
}

__attribute__((noinline)) static void pair_leased(struct reg *r, struct times *t)
{
	const enum daxlease_kind kind = r->env->kind;
	struct ibv_mr *mr;

	t->begin = now_ns();
	if (lease_by_hand(r->file.fd, kind, r->tid, r->signo))
		die(0, "no lease by hand");
	mr = reg_by_hand(r->env, &r->file);
	prefetch(mr);
	t->middle = now_ns();
	dereg_by_hand(mr);
	unlease_by_hand(r->file.fd, kind);
	t->end = now_ns();
}

/* ------------------------------------------------------------------------- */

struct variant {
	pair_fn fn;
	struct samples reg, dereg, both;
};

static void run_once(struct reg *r, struct variant *v)
{
	struct times t;

	v->fn(r, &t);
	samples_add(&v->reg, (double)(t.middle - t.begin) / 1e3);
	samples_add(&v->dereg, (double)(t.end - t.middle) / 1e3);
	samples_add(&v->both, (double)(t.end - t.begin) / 1e3);
}

static void end_variants(struct variant *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		samples_free(&v[i].reg);
		samples_free(&v[i].dereg);
		samples_free(&v[i].both);
	}
}

static void interleave(struct reg *r, struct variant *v, size_t n)
{
	unsigned int rounds = r->env->quick ? 200 : 2000;
	struct times t;

	if (r->file.length > 16 << 20)
		rounds /= 4;
	for (unsigned int i = 0; i < 20; i++)
		v[i % n].fn(r, &t);
	for (unsigned int i = 0; i < rounds; i++) {
		for (size_t j = 0; j < n; j++)
			run_once(r, &v[(i + j) % n]);
	}
}

static void name_it(char *buf, size_t size, const char *what, size_t length)
{
	snprintf(buf, size, "%s, %zu KiB", what, length >> 10);
}

static void further(struct reg *r)
{
	struct variant v[] = { { .fn = pair_ours }, { .fn = pair_prefetch }, { .fn = pair_bare } };
	struct daxlease_mr *first;
	char name[64];
	int err;

	err = daxlease_reg_mr(r->ctx, r->env->pd, r->file.fd, r->file.addr, r->file.length, ACCESS,
			      NULL, &first);
	if (err)
		die(err, "daxlease_reg_mr");
	interleave(r, v, ARRAY_LEN(v));
	name_it(name, sizeof(name), "further region", r->file.length);
	report_pair(name, "us", &v[0].both, &v[2].both, 1.05);
	report_pair("  registering", "us", &v[0].reg, &v[2].reg, 0);
	report_pair("  deregistering", "us", &v[0].dereg, &v[2].dereg, 0);
	report_pair("  bare with the same prefetch", "us", &v[0].both, &v[1].both, 0);
	end_variants(v, ARRAY_LEN(v));
	daxlease_dereg_mr(first);
}

static void first(struct reg *r)
{
	struct variant v[] = { { .fn = pair_ours }, { .fn = pair_leased }, { .fn = pair_bare } };
	char name[64];

	interleave(r, v, ARRAY_LEN(v));
	name_it(name, sizeof(name), "first region of a file", r->file.length);
	report_pair(name, "us", &v[0].both, &v[2].both, 0);
	report_pair("  bare with prefetch, and leased by hand", "us", &v[0].both, &v[1].both, 0);
	end_variants(v, ARRAY_LEN(v));
}

void bench_register(const struct env *env)
{
	static const size_t lengths[] = { 4 << 10, 1 << 20, 64 << 20 };
	struct reg r = { .env = env, .tid = gettid(), .signo = SIGRTMAX - 5 };

	report_part("a", "register and deregister, on-demand paging, lease kind %s",
		    daxlease_kind_str(env->kind));
	if (!env->regions) {
		report_note("not measured: %s", env->why);
		return;
	}
	block_signal(r.signo);
	r.ctx = new_ctx(env, DAXLEASE_MODE_THREAD);
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		region_make(env, lengths[i], NULL, &r.file);
		further(&r);
		first(&r);
		region_end(&r.file);
	}
	daxlease_ctx_free(r.ctx);
}
