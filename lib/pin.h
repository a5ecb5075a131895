/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Kinds of pins: what keeps the pages of a region where they are, and how that is ended.
 * A kind is one file (pin_*.c), and its public calls, which make regions with it.
 */
#ifndef DAXLEASE_PIN_H
#define DAXLEASE_PIN_H

#include <stdbool.h>
#include <stddef.h>

#include <daxlease/daxlease.h>

struct region;

/*
 * attach, detach and fence block as long as the other side does and need no lock, only
 * that the region is marked in_pin. What attach makes is stored in the kind's own members,
 * which nobody reads before the region is marked pinned.
 */
struct pin_ops {
	const char *detach_call; /* for log lines: what it is that failed */
	bool must_pin;		 /* FS-DAX only under leases that allow it */

	/*
	 * Pins the first `length` bytes. A refusal is logged, and says why. *ret_on_demand:
	 * not pinned, but by on-demand paging.
	 */
	int (*attach)(struct region *r, size_t length, bool *ret_on_demand);
	/*
	 * -EINPROGRESS: nothing new can use the pages, but something does still. If it ends,
	 * brk_gone() is called; the kernel keeps such a lease from being given back before. Is
	 * called again then, and from time to time.
	 */
	int (*detach)(struct region *r);
	/* The budget is over: what uses the memory is to fail, as far as that can be had. */
	void (*fence)(struct region *r);
	/* Whether this thread may make these calls. NULL: any may. */
	bool (*is_here)(const struct region *r);
	/* How the program knows it, for log lines: "rkey 0x1234". With the lock. */
	void (*describe)(const struct region *r, char *buf, size_t size);
	/* Writes the object that it is a part of to where the caller wants it. With the lock. */
	void (*hand_out)(struct region *r, void *ret);

	/* The user's callbacks, if region.has says that there is one. */
	int (*drain)(struct region *r, const struct daxlease_break *brk);
	void (*release)(struct region *r, int result);
	void (*guard)(struct region *r, bool guarded);
	/* With the lock, right before regain(): what it will tell. */
	void (*note_regain)(struct region *r, int error);
	void (*regain)(struct region *r);
};

/* A memory region, pinned if the lease allows it, else with on-demand paging. */
int pin_mr_attach(struct region *r, size_t length, bool *ret_on_demand);
int pin_mr_detach(struct region *r);
/* Moves its queue pairs to the error state, all that can be. */
void pin_mr_fence(struct region *r);

/* A buffer in a slot of an io_uring. */
int pin_buf_attach(struct region *r, size_t length, bool *ret_on_demand);
int pin_buf_detach(struct region *r);
/* Cancels requests of the ring. */
void pin_buf_fence(struct region *r);
bool pin_buf_is_here(const struct region *r);

#endif
