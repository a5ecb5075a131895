// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * (u) io_uring: READ_FIXED into a leased buffer on FS-DAX, and into one of memory, tmpfs's, that
 * is registered by hand. Nothing breaks, so the library has nothing to do. What is read is a file
 * on FS-DAX: that takes no detour, while files of tmpfs are read by other threads of io_uring.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <liburing.h>

#include <daxlease/uring.h>

#include "bench.h"

#define LENGTH ((size_t)1 << 20)
#define DEPTH 32u
#define SLOTS 2u

enum way {
	LEASED,
	BARE,
	WAYS
};

struct setup {
	struct io_uring ring;
	struct region source, target[WAYS];
	struct daxlease_ctx *ctx;
	struct daxlease_ring *lib;
	struct daxlease_buf *buf;
};

/* A file in memory, mapped. */
static void in_memory(struct region *r)
{
	r->fd = memfd_create("target", MFD_CLOEXEC);
	r->length = LENGTH;
	if (r->fd < 0 || ftruncate(r->fd, (off_t)LENGTH))
		die(errno, "memfd_create");
	r->addr = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, 0);
	if (r->addr == MAP_FAILED)
		die(errno, "mmap");
	memset(r->addr, 1, LENGTH);
}

static void register_bare(struct setup *s)
{
	const struct region *r = &s->target[BARE];
	struct iovec iov = { .iov_base = r->addr, .iov_len = r->length };
	int ret = io_uring_register_buffers_update_tag(&s->ring, BARE, &iov, NULL, 1);

	if (ret != 1)
		die(ret, "io_uring_register_buffers_update_tag");
}

/* What daxlease_reg_buf() says; without layout leases there is nothing to measure. */
static int set_up(const struct env *env, struct setup *s)
{
	const struct region *r = &s->target[LEASED];
	int err;

	err = io_uring_queue_init(2 * DEPTH, &s->ring, 0);
	if (!err)
		err = io_uring_register_buffers_sparse(&s->ring, SLOTS);
	if (err)
		die(err, "a ring");
	region_make(env, LENGTH, NULL, &s->source);
	memset(s->source.addr, 2, LENGTH);
	in_memory(&s->target[BARE]);
	register_bare(s);
	region_make(env, LENGTH, NULL, &s->target[LEASED]);
	memset(r->addr, 1, r->length);
	err = daxlease_ctx_new(NULL, &s->ctx);
	if (err)
		die(err, "daxlease_ctx_new");
	err = daxlease_ring_new(s->ctx, s->ring.ring_fd, &s->lib);
	if (err)
		die(err, "daxlease_ring_new");
	return daxlease_reg_buf(s->lib, LEASED, r->fd, r->addr, r->length, NULL, &s->buf);
}

static void tear_down(struct setup *s)
{
	int err = daxlease_dereg_buf(s->buf);

	if (!err)
		err = daxlease_ring_free(s->lib);
	if (!err)
		err = daxlease_ctx_free(s->ctx);
	if (err)
		die(err, "taking it down");
	io_uring_queue_exit(&s->ring);
	region_end(&s->target[LEASED]);
	region_end(&s->target[BARE]);
	region_end(&s->source);
}

/* DEPTH reads, submitted at once; how long it takes until all are reaped. */
static uint64_t batch(struct setup *s, enum way way, unsigned int size)
{
	struct io_uring_cqe *cqe;
	uint64_t begin = now_ns();
	int err;

	for (unsigned int i = 0; i < DEPTH; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);
		size_t at = (size_t)i * size % LENGTH;

		io_uring_prep_read_fixed(sqe, s->source.fd, (char *)s->target[way].addr + at, size,
					 at, way);
	}
	err = io_uring_submit(&s->ring);
	for (unsigned int i = 0; i < DEPTH && err >= 0; i++) {
		err = io_uring_wait_cqe(&s->ring, &cqe);
		if (!err && cqe->res != (int)size)
			die(cqe->res < 0 ? cqe->res : EIO, "READ_FIXED");
		io_uring_cqe_seen(&s->ring, cqe);
	}
	if (err < 0)
		die(err, "a batch of reads");
	return now_ns() - begin;
}

static void reading(const struct env *env, struct setup *s, unsigned int size, const char *name)
{
	unsigned int rounds = env->quick ? 300 : 4000;
	struct samples took[WAYS] = { 0 };

	for (unsigned int i = 0; i < WAYS * (rounds + 10); i++) {
		/* Changing order; the first of each are not counted. */
		enum way way = (i + i / WAYS) % WAYS;
		uint64_t ns = batch(s, way, size);

		if (i >= WAYS * 10)
			samples_add(&took[way], (double)ns / 1e3);
	}
	/* A throughput of 0.98 at least. */
	report_pair(name, "us", &took[LEASED], &took[BARE], 1 / 0.98);
	samples_free(&took[LEASED]);
	samples_free(&took[BARE]);
}

void bench_uring(const struct env *env)
{
	struct setup s = { 0 };
	unsigned long before;
	int err;

	report_part("u",
		    "READ_FIXED from FS-DAX, 32 at a time, to a leased buffer on FS-DAX (ours)");
	err = set_up(env, &s);
	if (err) {
		report_note(
			"not measured: no leased buffer can be had in %s: %s (FS-DAX, and a kernel "
			"with layout leases)",
			env->dir, strerror(-err));
		s.buf = NULL;
		tear_down(&s);
		return;
	}
	sleep_ms(500); /* until no thread of the library's lingers */
	before = switches_of_others();
	reading(env, &s, 4096, "32 reads of 4 KiB");
	reading(env, &s, 32768, "32 reads of 32 KiB");
	report_value("wake-ups of the library's thread meanwhile", "",
		     (double)(switches_of_others() - before), 0);
	tear_down(&s);
}
