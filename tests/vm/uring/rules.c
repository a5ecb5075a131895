// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* What is refused, with which error; what passes through; who may call what. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../region.h"
#include "ring.h"

#define SINGLE IORING_SETUP_SINGLE_ISSUER
#define DEFER (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)

extern unsigned int layouts_found;

/* ------------------------------------------------------------------------- */
/* Kernels */

/* One error, and one line, that says why; and nothing is left behind. */
static void not_there(const struct world *w, const void *arg)
{
	struct daxlease_ctx *ctx = ctx_make(DAXLEASE_MODE_THREAD);
	struct buffer b;
	struct ring ring;
	struct file f;

	(void)arg;
	if (layouts_found)
		return; /* the other cases are of such kernels */
	ring_open(&ring, ctx, 0);
	file_make(&f, w, "file", FILE_SIZE, O_RDWR);
	log_forget();
	CHECK_EQ(buffer_try(&b, &ring, 1, &f, 0, FILE_SIZE, w, NULL), -EOPNOTSUPP);
	CHECK_EQ(log_errors(), 1);
	CHECK(log_has("only under a layout lease"));
	CHECK_EQ(leases_in_kernel(f.ino), 0);
	CHECK_EQ(ctx_stats(ctx).regions, 0);
	ring_close(&ring);
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
	file_close(&f);
}

/* A byte goes through a pipe into the buffer. */
static void check_use(struct ring *ring, unsigned int slot, uint8_t *addr)
{
	struct io_uring_cqe cqe;
	int ends[2];

	CALL(pipe(ends));
	CALL(write(ends[1], "y", 1));
	ring_read(ring, slot, ends[0], addr, 1, 5);
	CHECK_EQ(ring_wait(ring, SOON_MS, true, &cqe), 0);
	CHECK_EQ(cqe.user_data, 5);
	CHECK_EQ(cqe.res, 1);
	CHECK_EQ(addr[0], 'y');
	CALL(close(ends[0]));
	CALL(close(ends[1]));
}

static void plain(const struct world *w, struct ring *ring, struct file *f)
{
	struct buffer b;

	buffer_make(&b, ring, 2, f, 0, f->size, w, NULL);
	CHECK_EQ(buffer_info(&b).kind, DAXLEASE_KIND_NONE);
	CHECK_EQ(buffer_info(&b).lease_fd, -1);
	check_use(ring, 2, f->map);
	CHECK_EQ(daxlease_buf_recall(b.buf), -EOPNOTSUPP);
	CHECK_EQ(daxlease_dereg_buf(b.buf), 0);
	CHECK(!ring_slot(ring, 2));
}

static void open_plain(struct file *f, const char *path, size_t size)
{
	*f = (struct file){ .size = size };
	snprintf(f->path, sizeof(f->path), "%s", path);
	f->fd = (int)CALL(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	CALL(ftruncate(f->fd, (off_t)size));
	f->map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	CHECK(f->map != MAP_FAILED);
}

static void pass_through(const struct world *w, const void *arg)
{
	const unsigned int *flags = arg;
	struct daxlease_ctx *ctx = ctx_make(*flags ? DAXLEASE_MODE_LOOP : DAXLEASE_MODE_THREAD);
	struct file f = { .fd = -1, .size = 2 * PAGE };
	struct ring ring;

	ring_open(&ring, ctx, *flags);
	f.map = mmap(NULL, f.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(f.map != MAP_FAILED);
	plain(w, &ring, &f);
	file_close(&f);
	open_plain(&f, "/run/uring-tmpfs", 4 * PAGE);
	plain(w, &ring, &f);
	file_close(&f);
	CALL(unlink("/run/uring-tmpfs"));
	open_plain(&f, "/dax/huge/uring", 2u << 20);
	plain(w, &ring, &f);
	file_close(&f);
	CALL(unlink("/dax/huge/uring"));
	CHECK_EQ(ctx_stats(ctx).regions, 0);
	CHECK_EQ(log_errors(), 0);
	ring_close(&ring);
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
}

static void page_cache(const struct world *w, const void *arg)
{
	struct daxlease_ctx *ctx = ctx_make(DAXLEASE_MODE_THREAD);
	struct buffer b;
	struct ring ring;
	struct file f;

	(void)arg;
	ring_open(&ring, ctx, 0);
	open_plain(&f, "/dax/pagecache/uring", 4 * PAGE);
	log_forget();
	CHECK_EQ(buffer_try(&b, &ring, 1, &f, 0, f.size, w, NULL), -EOPNOTSUPP);
	CHECK_EQ(log_errors(), 1);
	CHECK(log_has("page cache"));
	file_close(&f);
	CALL(unlink("/dax/pagecache/uring"));
	ring_close(&ring);
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
}

/* ------------------------------------------------------------------------- */
/* Threads */

static void *register_elsewhere(void *arg)
{
	struct buffer *b = arg;
	const struct world w = { .kind = DAXLEASE_KIND_AUTO };
	struct file f = { .map = b->ring->own, .fd = -1 };
	struct daxlease_ring *lib = NULL;
	struct buffer mine;

	CHECK_EQ(buffer_try(&mine, b->ring, 5, &f, 0, PAGE, &w, NULL), -EPERM);
	CHECK_EQ(daxlease_dereg_buf(b->buf), -EPERM);
	CHECK_EQ(daxlease_ring_new(arg ? *(struct daxlease_ctx **)(b + 1) : NULL,
				   b->ring->uring.ring_fd, &lib),
		 -EPERM);
	return NULL;
}

static void own_thread_only(const struct world *w, const void *arg)
{
	const unsigned int *flags = arg;
	struct daxlease_ctx *ctx = ctx_make(DAXLEASE_MODE_THREAD);
	struct daxlease_ring *lib = NULL;
	struct {
		struct buffer b;
		struct daxlease_ctx *ctx;
	} with;
	pthread_t thread;
	struct ring ring;
	struct file f = { .fd = -1 };

	/* The library's thread may not change it. */
	ring_open(&ring, NULL, *flags);
	log_forget();
	CHECK_EQ(daxlease_ring_new(ctx, ring.uring.ring_fd, &lib), -EINVAL);
	CHECK(!lib && log_has("DAXLEASE_MODE_LOOP"));
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
	ring_close(&ring);

	with.ctx = ctx_make(DAXLEASE_MODE_LOOP);
	ring_open(&ring, with.ctx, *flags);
	f.map = ring.own;
	buffer_make(&with.b, &ring, 1, &f, 0, PAGE, w, NULL);
	CHECK_EQ(pthread_create(&thread, NULL, register_elsewhere, &with), 0);
	CHECK_EQ(pthread_join(thread, NULL), 0);
	buffer_end(&with.b);
	ring_close(&ring);
	CHECK_EQ(daxlease_ctx_free(with.ctx), 0);
}

/* Its thread does not dispatch: others are refused at the kernel's deadline, and it is counted. */
static void asleep(const struct world *w, const void *arg)
{
	const unsigned int *flags = arg;
	struct daxlease_ctx *ctx;
	struct daxlease_stats stats;
	struct other other;
	struct buffer b;
	struct ring ring;
	struct file f;

	other_start(&other);
	sysctl_set("lease-break-time", 2);
	ctx = ctx_make(DAXLEASE_MODE_LOOP);
	ring_open(&ring, ctx, *flags);
	file_make(&f, w, "file", FILE_SIZE, O_RDWR);
	buffer_make(&b, &ring, 1, &f, 0, FILE_SIZE, w, NULL);
	other_begin(&other, OP_TRUNCATE, f.path, 0, -1);
	CHECK_EQ(other_end(&other, SOON_MS), -ETXTBSY);
	CHECK_EQ(file_size_now(&f), FILE_SIZE);
	stats = ctx_stats(ctx);
	CHECK_EQ(stats.breaks, 1);
	CHECK_EQ(stats.overruns, 1);
	CHECK(ring_slot(&ring, 1) == b.addr);
	check_use(&ring, 1, f.map);
	/* It wakes up. */
	UNTIL(ctx, &ring, atomic_load(&b.releases));
	CHECK_EQ(atomic_load(&b.result), -ETIMEDOUT);
	CHECK_EQ(ctx_stats(ctx).overruns, 1);
	CHECK_EQ(other_do(&other, OP_TRUNCATE, f.path, 0, -1), 0);
	other_stop(&other);
	buffer_end(&b);
	ring_close(&ring);
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
	file_close(&f);
}

/* ------------------------------------------------------------------------- */
/* Recalling, being exclusive */

static void recalled(const struct world *w, const void *arg)
{
	const unsigned int *flags = arg;
	struct daxlease_ctx *ctx = ctx_make(*flags ? DAXLEASE_MODE_LOOP : DAXLEASE_MODE_THREAD);
	struct buffer b;
	struct ring ring;
	struct file f;

	ring_open(&ring, ctx, *flags);
	file_make(&f, w, "file", FILE_SIZE, O_RDWR);
	buffer_make(&b, &ring, 1, &f, 0, FILE_SIZE, w, NULL);
	for (unsigned int i = 1; i <= 3; i++) {
		CHECK_EQ(daxlease_buf_recall(b.buf), 0);
		CHECK_EQ(atomic_load(&b.releases), i);
		CHECK(!ring_slot(&ring, 1));
		CALL(ftruncate(f.fd, PAGE));
		CALL(ftruncate(f.fd, FILE_SIZE));
		CHECK_EQ(daxlease_buf_regain(b.buf), 0);
		CHECK_EQ(atomic_load(&b.regains), i);
		CHECK(ring_slot(&ring, 1) == b.addr);
		check_use(&ring, 1, f.map);
	}
	CHECK_EQ(buffer_info(&b).generation, 4);
	buffer_end(&b);
	ring_close(&ring);
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
	file_close(&f);
}

static void exclusive(const struct world *w, const void *arg)
{
	const struct daxlease_buf_opts opts = { .flags = DAXLEASE_MR_EXCLUSIVE };
	const unsigned int *flags = arg;
	struct daxlease_ctx *ctx;
	struct other other;
	struct buffer b, second;
	struct ring ring;
	struct file f;

	other_start(&other);
	ctx = ctx_make(*flags ? DAXLEASE_MODE_LOOP : DAXLEASE_MODE_THREAD);
	ring_open(&ring, ctx, *flags);
	file_make(&f, w, "file", FILE_SIZE, O_RDWR);
	buffer_make(&b, &ring, 1, &f, 0, FILE_SIZE, w, &opts);
	CHECK_EQ(buffer_try(&second, &ring, 1, &f, 0, FILE_SIZE, w, &opts), -EBUSY);
	CHECK_EQ(buffer_try(&second, &ring, SLOTS, &f, 0, FILE_SIZE, w, &opts), -EINVAL);
	CHECK_EQ(buffer_try(&second, &ring, 2, &f, 0, FILE_SIZE, w, NULL), -EINVAL);
	CHECK_EQ(other_do(&other, OP_TRUNCATE, f.path, 0, -1), -ETXTBSY);
	check_use(&ring, 1, f.map);
	CHECK_EQ(daxlease_ring_free(ring.lib), -EBUSY);
	CHECK_EQ(daxlease_ctx_free(ctx), -EBUSY);
	CHECK_EQ(atomic_load(&b.drains), 0);
	buffer_end(&b);
	CHECK_EQ(other_do(&other, OP_TRUNCATE, f.path, 0, -1), 0);
	other_stop(&other);
	CHECK_EQ(daxlease_ctx_free(ctx), -EBUSY);
	ring_close(&ring);
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
	file_close(&f);
}

void add_rule_cases(void)
{
	static const unsigned int none = 0, single = SINGLE, defer = DEFER;

	add_case(not_there, NULL, 0, 0, "kernel");
	add_case(page_cache, NULL, 0, 0, "page-cache");
	add_case(pass_through, &none, 0, 0, "plain/thread");
	add_case(pass_through, &defer, 0, 0, "plain/defer");
	add_case(own_thread_only, &single, 0, 0, "own-thread/single");
	add_case(own_thread_only, &defer, 0, 0, "own-thread/defer");
	add_case(asleep, &single, KIND_LAYOUTS, 0, "asleep/single");
	add_case(asleep, &defer, KIND_LAYOUTS, 0, "asleep/defer");
	add_case(recalled, &none, KIND_LAYOUTS, 0, "recalled/thread");
	add_case(recalled, &defer, KIND_LAYOUTS, 0, "recalled/defer");
	add_case(exclusive, &none, KIND_LAYOUTS, 0, "exclusive/thread");
	add_case(exclusive, &defer, KIND_LAYOUTS, 0, "exclusive/defer");
}
