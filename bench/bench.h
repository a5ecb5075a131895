/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * daxlease-bench: what the library costs over the same thing done by hand.
 *
 * Each part measures its variants in turn, one operation of each at a time and in
 * changing order, so that noise hits all of them alike.
 */
#ifndef DAXLEASE_BENCH_H
#define DAXLEASE_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <daxlease/daxlease.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

struct env {
	const char *dir;
	char work[4096];	 /* our folder in dir */
	const char *device_name; /* NULL: the first one with on-demand paging */
	enum daxlease_kind asked;
	enum daxlease_kind kind;  /* what is obtained on this filesystem */
	const char *guard_socket; /* of daxleased, NULL: it is not measured */
	bool quick;

	struct ibv_context *device; /* NULL: none */
	struct ibv_pd *pd;
	bool regions;	    /* the library can lease and register a file here */
	char why[512];	    /* why not */
	char no_guard[512]; /* why the kind guard is not to be had; empty: it is */
};

/* ------------------------------------------------------------------------- */
/* report.c: samples and what becomes of them */

struct samples {
	double *v;
	size_t n, max;
};

void samples_add(struct samples *s, double v);
double samples_quantile(const struct samples *s, double q); /* sorts */
void samples_free(struct samples *s);

void report_begin(bool json, bool strict);
/* Returns the exit status. */
int report_end(void);
void report_part(const char *part, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Instead of "ours" and "bare", up to the end of the part. */
void report_columns(const char *left, const char *right);
void report_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Medians of both and their ratio; target 0: none; ours or bare may be NULL. */
void report_pair(const char *name, const char *unit, const struct samples *ours,
		 const struct samples *bare, double target);
/* A single number; limit < 0: none. */
void report_value(const char *name, const char *unit, double value, double limit);

/* ------------------------------------------------------------------------- */
/* fixture.c: files, memory, devices, leases by hand */

/* A mapping of a file of its own. */
struct region {
	int fd;
	void *addr;
	size_t length;
};

#define ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)

/* Says what is wrong, with errno unless err is 0, and ends the program. */
void die(int err, const char *fmt, ...) __attribute__((noreturn, format(printf, 2, 3)));

uint64_t now_ns(void);
void sleep_ms(unsigned int ms);

void env_open(struct env *env);
void env_close(struct env *env);
struct daxlease_ctx *new_ctx(const struct env *env, enum daxlease_mode mode);
/* Of the kind guard; socket as in struct daxlease_ctx_opts. */
struct daxlease_ctx *new_guard_ctx(const char *socket);

/* A file without a name, or with one for others to open. */
int make_file(const struct env *env, size_t length, const char *name);
void region_make(const struct env *env, size_t length, const char *name, struct region *r);
void region_end(struct region *r);

/* Soft limit of descriptors up to the hard one; returns it. */
size_t raise_descriptors(void);

void block_signal(int signo);
/* As the library does it: F_SETOWN_EX, F_SETSIG, the lease. -errno. */
int lease_by_hand(int fd, enum daxlease_kind kind, pid_t tid, int signo);
int unlease_by_hand(int fd, enum daxlease_kind kind);

struct ibv_mr *reg_by_hand(const struct env *env, const struct region *r);
void dereg_by_hand(struct ibv_mr *mr);

/* ------------------------------------------------------------------------- */
/* link.c: a connection of the device to itself */

#define PORT 1
#define PAGE 4096u

/* The device's port. */
struct port {
	uint16_t lid;
	int gid_index; /* -1: not Ethernet */
	union ibv_gid gid;
};

struct link {
	struct ibv_cq *cq;
	struct ibv_qp *near, *far;
	struct ibv_mr *mr; /* of the page that is sent */
	void *buf;
};

/* NULL, or why pages cannot be written through it. */
const char *port_find(const struct env *env, struct port *ret_port);
void link_open(const struct env *env, const struct port *port, struct link *l);
void link_close(struct link *l);
/* Comes back when it is acknowledged. */
void link_write_page(struct link *l, void *addr, uint32_t rkey);

/* ------------------------------------------------------------------------- */
/* perftest.c: programs of others */

struct perftest {
	const char *program;
	unsigned int iterations;
};

#define PERFTEST_FIGURES 6

bool perftest_is_there(const struct perftest *p);
/*
 * The server's memory is the file, mapped by itself: pinned, under a lease that
 * tests/launcher takes for it, or on demand. Gets the columns of the client's table after
 * the size and the iterations.
 */
bool perftest_run(const struct env *env, const struct port *port, const struct perftest *p, int fd,
		  bool pinned, double *ret_figures);

/* ------------------------------------------------------------------------- */
/* breaker.c: a process of its own that wants the file */

enum breaker_way {
	BY_TRUNCATE = 't', /* to the length that it has */
	BY_OPEN = 'o'
};

/* What it writes, in memory that both see. */
struct breaker_times {
	uint64_t called, returned;
	int err;
};

struct breaker {
	struct breaker_times *shared;
	int to, from;
	pid_t pid;
};

/* The file has this name in env->work, and may be made later. */
/*
 * at_once: it runs as soon as it can, ahead of everybody else, if the caller has CAP_SYS_NICE.
 * On one processor what is measured is then what it waited for, and not in which order the
 * scheduler puts those who woke it and what these do afterwards.
 */
void breaker_start(struct breaker *b, const struct env *env, const char *name, size_t length,
		   bool at_once);
void breaker_end(struct breaker *b);
/* Comes back when its call has returned. */
void breaker_run(struct breaker *b, enum breaker_way way);

/* ------------------------------------------------------------------------- */
/* resources.c */

/* How often threads of this process but this one gave up a processor, or lost it. */
unsigned long switches_of_others(void);

/* ------------------------------------------------------------------------- */
/* The parts */

void bench_register(const struct env *env); /* a */
void bench_break(const struct env *env);    /* b */
void bench_leases(const struct env *env);   /* c */
void bench_pinned(const struct env *env);   /* d */
void bench_guard(const struct env *env);    /* g */
void bench_uring(const struct env *env);    /* u */
void bench_resources(const struct env *env);

#endif
