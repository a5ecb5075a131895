// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ring.h"

#define ENTRIES 64

/* ------------------------------------------------------------------------- */
/* Rings */

void ring_open(struct ring *ring, struct daxlease_ctx *ctx, unsigned int flags)
{
	struct iovec iov = { .iov_base = ring->own, .iov_len = sizeof(ring->own) };

	memset(ring, 0, sizeof(*ring));
	ring->flags = flags;
	CHECK_EQ(io_uring_queue_init(ENTRIES, &ring->uring, flags), 0);
	CHECK_EQ(io_uring_register_buffers_sparse(&ring->uring, SLOTS), 0);
	CHECK_EQ(io_uring_register_buffers_update_tag(&ring->uring, OWN_SLOT, &iov, NULL, 1), 1);
	if (ctx)
		CHECK_EQ(daxlease_ring_new(ctx, ring->uring.ring_fd, &ring->lib), 0);
}

void ring_close(struct ring *ring)
{
	CHECK(ring_slot(ring, OWN_SLOT) == ring->own);
	for (unsigned int i = 0; i < SLOTS; i++)
		CHECK(i == OWN_SLOT || !ring_slot(ring, i));
	CHECK_EQ(daxlease_ring_free(ring->lib), 0);
	io_uring_queue_exit(&ring->uring);
}

/* False: the ring was busy, and fdinfo says nothing then. */
static bool find_slot(const struct ring *ring, unsigned int slot, unsigned long long *ret_addr)
{
	char path[64], line[256];
	bool in_table = false;
	unsigned int i;
	FILE *info;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", ring->uring.ring_fd);
	info = fopen(path, "re");
	CHECK(info);
	*ret_addr = 0;
	while (fgets(line, sizeof(line), info)) {
		if (!strncmp(line, "UserBufs:", 9))
			in_table = true;
		else if (in_table && sscanf(line, "%u: 0x%llx/", &i, ret_addr) == 2 && i == slot)
			break;
		*ret_addr = 0;
	}
	fclose(info);
	return in_table;
}

void *ring_slot(const struct ring *ring, unsigned int slot)
{
	uint64_t end = now_ns() + SOON_MS * MSEC;
	unsigned long long addr;

	while (!find_slot(ring, slot, &addr))
		CHECK(now_ns() < end);
	return (void *)(uintptr_t)addr;
}

static struct io_uring_sqe *get_sqe(struct ring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);

	/* With SQPOLL the kernel's thread takes them when it likes. */
	while (!sqe) {
		CHECK(io_uring_submit(&ring->uring) >= 0);
		sqe = io_uring_get_sqe(&ring->uring);
	}
	return sqe;
}

void ring_read(struct ring *ring, unsigned int slot, int fd, void *to, unsigned int n,
	       uint64_t user_data)
{
	struct io_uring_sqe *sqe = get_sqe(ring);

	io_uring_prep_read_fixed(sqe, fd, to, n, 0, (int)slot);
	io_uring_sqe_set_data64(sqe, user_data);
	CHECK(io_uring_submit(&ring->uring) >= 0);
}

void ring_write(struct ring *ring, unsigned int slot, int fd, const void *from, unsigned int n,
		uint64_t user_data)
{
	struct io_uring_sqe *sqe = get_sqe(ring);

	io_uring_prep_write_fixed(sqe, fd, from, n, 0, (int)slot);
	io_uring_sqe_set_data64(sqe, user_data);
	CHECK(io_uring_submit(&ring->uring) >= 0);
}

int ring_wait(struct ring *ring, unsigned int ms, bool hand_on, struct io_uring_cqe *ret_cqe)
{
	uint64_t end = now_ns() + ms * MSEC;
	struct io_uring_cqe *cqe;

	for (;;) {
		struct __kernel_timespec ts = { .tv_nsec = (long long)MSEC };

		if (!io_uring_wait_cqe_timeout(&ring->uring, &cqe, &ts)) {
			*ret_cqe = *cqe;
			io_uring_cqe_seen(&ring->uring, cqe);
			if (!daxlease_is_cqe(ret_cqe->user_data))
				return 0;
			if (hand_on)
				CHECK_EQ(daxlease_ring_cqe(ring->lib, ret_cqe->user_data), 1);
		} else if (now_ns() >= end) {
			return -ETIME;
		}
	}
}

/* ------------------------------------------------------------------------- */
/* Buffers */

static int drain(struct daxlease_buf *buf, const struct daxlease_break *brk, void *userdata)
{
	struct buffer *b = userdata;

	(void)buf;
	CHECK_EQ(brk->cause,
		 brk->kernel_deadline_ns ? DAXLEASE_CAUSE_BREAK : DAXLEASE_CAUSE_RECALL);
	atomic_store(&b->open, false);
	atomic_store(&b->drain_ns, now_ns());
	atomic_fetch_add(&b->drains, 1);
	return b->answer;
}

static void release(struct daxlease_buf *buf, int result, void *userdata)
{
	struct buffer *b = userdata;

	CHECK_EQ(daxlease_buf_get_state(buf), DAXLEASE_STATE_RELEASED);
	CHECK(!ring_slot(b->ring, b->slot));
	atomic_store(&b->result, result);
	atomic_store(&b->release_ns, now_ns());
	atomic_fetch_add(&b->releases, 1);
}

static void regain(struct daxlease_buf *buf, const struct daxlease_buf_regain *info, void *userdata)
{
	struct buffer *b = userdata;

	(void)buf;
	atomic_store(&b->regain_error, info->error);
	atomic_store(&b->open, info->length == b->length);
	atomic_fetch_add(&b->regains, 1);
}

int buffer_try(struct buffer *b, struct ring *ring, unsigned int slot, const struct file *f,
	       size_t offset, size_t length, const struct world *w,
	       const struct daxlease_buf_opts *opts)
{
	struct daxlease_buf_opts all = { 0 };

	memset(b, 0, sizeof(*b));
	b->ring = ring;
	b->slot = slot;
	b->addr = f->map + offset;
	b->length = length;
	b->result = 1;
	b->open = true;
	if (opts)
		all = *opts;
	all.size = sizeof(all);
	all.kind = w->kind;
	all.drain = drain;
	all.release = release;
	all.regain = regain;
	all.userdata = b;
	return daxlease_reg_buf(ring->lib, slot, f->fd, b->addr, length, &all, &b->buf);
}

void buffer_make(struct buffer *b, struct ring *ring, unsigned int slot, const struct file *f,
		 size_t offset, size_t length, const struct world *w,
		 const struct daxlease_buf_opts *opts)
{
	CHECK_EQ(buffer_try(b, ring, slot, f, offset, length, w, opts), 0);
	CHECK(ring_slot(ring, slot) == b->addr);
	if (w->kind != DAXLEASE_KIND_AUTO)
		CHECK_EQ(buffer_info(b).kind, w->kind);
	CHECK_EQ(buffer_info(b).registered, length);
}

void buffer_end(struct buffer *b)
{
	uint64_t end = now_ns() + SOON_MS * MSEC;
	struct io_uring_cqe cqe;
	int err;

	while ((err = daxlease_dereg_buf(b->buf)) == -EBUSY) {
		CHECK(now_ns() < end);
		CHECK_EQ(daxlease_buf_get_state(b->buf), DAXLEASE_STATE_DEREGISTERING);
		CHECK_EQ(ring_wait(b->ring, 1, true, &cqe), -ETIME);
	}
	CHECK_EQ(err, 0);
	b->buf = NULL;
}

struct daxlease_buf_info buffer_info(const struct buffer *b)
{
	struct daxlease_buf_info info = { .size = sizeof(info) };

	CHECK_EQ(daxlease_buf_get_info(b->buf, &info), 0);
	return info;
}

void turn(struct daxlease_ctx *ctx, struct ring *ring)
{
	struct io_uring_cqe *cqe;

	if (daxlease_ctx_get_fd(ctx) >= 0)
		daxlease_ctx_dispatch(ctx);
	if (ring && !io_uring_peek_cqe(&ring->uring, &cqe) && daxlease_is_cqe(cqe->user_data)) {
		CHECK_EQ(daxlease_ring_cqe(ring->lib, cqe->user_data), 1);
		io_uring_cqe_seen(&ring->uring, cqe);
	}
	sleep_ms(1);
}

unsigned int pinned_kib(void)
{
	unsigned int kib = 0;
	char line[256];
	FILE *status = fopen("/proc/self/status", "re");

	CHECK(status);
	while (fgets(line, sizeof(line), status)) {
		if (sscanf(line, "VmPin: %u", &kib) == 1)
			break;
	}
	fclose(status);
	return kib;
}
