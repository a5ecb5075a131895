/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What a thread is doing right now. */
#ifndef PRELOAD_HERE_H
#define PRELOAD_HERE_H

struct reg;

struct here {
	/*
	 * Calls of ours to an original are under way. What that calls in turn, mostly through
	 * the very names that are hooked, belongs to it and passes through.
	 */
	unsigned int inside;
	/* dlsym(3) is under way, which may allocate and map memory. */
	unsigned int resolving;
	/* daxlease_reg_mr() is under way, for this: see region.c. */
	struct reg *reg;
	/* The self-test calls hooks; they count it here and do nothing else. */
	unsigned int probing, probed;
};

/* Of the kind that needs no memory at the first access: hooks run in any thread. */
extern __thread struct here here __attribute__((tls_model("initial-exec")));

#endif
