/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Rings, buffers of files on FS-DAX in them, and a thread that keeps requests under way. */
#ifndef VM_URING_RING_H
#define VM_URING_RING_H

#include <pthread.h>
#include <stdatomic.h>

#include <liburing.h>

#include <daxlease/uring.h>

#include "../file.h"
#include "../other.h"
#include "../support.h"

#define SLOTS 8u /* of each table; the first is the program's own */
#define OWN_SLOT 0u

struct ring {
	struct io_uring uring;
	struct daxlease_ring *lib;
	unsigned int flags; /* IORING_SETUP_* */
	uint8_t own[PAGE];  /* what is in OWN_SLOT */
};

/* A ring with a table, known to the context. */
void ring_open(struct ring *ring, struct daxlease_ctx *ctx, unsigned int flags);
/* All slots but the program's own are empty by now. */
void ring_close(struct ring *ring);
/* What the kernel says is in a slot; NULL: nothing. */
void *ring_slot(const struct ring *ring, unsigned int slot);
/* Submits one request. */
void ring_read(struct ring *ring, unsigned int slot, int fd, void *to, unsigned int n,
	       uint64_t user_data);
void ring_write(struct ring *ring, unsigned int slot, int fd, const void *from, unsigned int n,
		uint64_t user_data);
/*
 * The next completion that is the program's; the library's are handed on, if hand_on, or else
 * left out. -ETIME.
 */
int ring_wait(struct ring *ring, unsigned int ms, bool hand_on, struct io_uring_cqe *ret_cqe);

/* A buffer and what came. */
struct buffer {
	struct daxlease_buf *buf;
	struct ring *ring;
	unsigned int slot;
	uint8_t *addr;
	size_t length;
	int answer; /* of the drain callback */
	atomic_uint drains, releases, regains;
	atomic_int result, regain_error;
	atomic_bool open; /* requests may be submitted */
	atomic_ullong drain_ns, release_ns;
};

/* -errno of daxlease_reg_buf(). opts: what is not said here; may be NULL. */
int buffer_try(struct buffer *b, struct ring *ring, unsigned int slot, const struct file *f,
	       size_t offset, size_t length, const struct world *w,
	       const struct daxlease_buf_opts *opts);
void buffer_make(struct buffer *b, struct ring *ring, unsigned int slot, const struct file *f,
		 size_t offset, size_t length, const struct world *w,
		 const struct daxlease_buf_opts *opts);
/* Completions are reaped meanwhile. */
void buffer_end(struct buffer *b);
struct daxlease_buf_info buffer_info(const struct buffer *b);

/* cond within SOON_MS; what is to be dispatched or reaped meanwhile is. */
#define UNTIL(ctx, ring, cond)                                                            \
	do {                                                                              \
		uint64_t end_ = now_ns() + SOON_MS * MSEC;                                \
                                                                                          \
		while (!(cond)) {                                                         \
			if (now_ns() > end_)                                              \
				fail_at(__FILE__, __LINE__, "not so in time: %s", #cond); \
			turn(ctx, ring);                                                  \
		}                                                                         \
	} while (0)
/* Dispatches if the mode wants it, and sleeps a little. */
void turn(struct daxlease_ctx *ctx, struct ring *ring);

/* Pages that the process has pinned, of which it is told in /proc/self/status, in KiB. */
unsigned int pinned_kib(void);

void add_example_cases(void);
void add_storm_cases(void);
void add_wait_cases(void);
void add_rule_cases(void);

#endif
