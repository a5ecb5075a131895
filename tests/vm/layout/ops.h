/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What others do with a file: what moves or frees its blocks, and what does not. */
#ifndef VM_OPS_H
#define VM_OPS_H

#include "../other.h"
#include "layout.h"

/* How the file differs after the operation from what it was. */
enum effect {
	EFFECT_NONE,  /* nothing that a snapshot shows */
	EFFECT_SIZE,  /* the size is size_after */
	EFFECT_MOVED, /* something else, size_after is the size */
};

struct op_info {
	const char *name;
	const char *fs;			   /* the only filesystem that has it, or NULL */
	other_fn run;			   /* by path; opens what it needs */
	void (*prepare)(const char *path); /* before anybody has a lease */
	enum effect effect;
	off_t size_after;
	size_t pinned; /* what a holder pins of the file */
	bool optional; /* the kernel may refuse it on DAX, whoever has a lease or not */
};

/* The second half of the file gets its blocks in common with another one (XFS). */
void share_half(const char *path);

/* All that break, and all that do not, each ended by one without a name. */
extern const struct op_info breaking_ops[], quiet_ops[];

#endif
