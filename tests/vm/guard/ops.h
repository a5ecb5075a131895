/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What others do with a guarded file. Each is done through a descriptor of its own, or
 * through the one that it is given.
 */
#ifndef VM_GUARD_OPS_H
#define VM_GUARD_OPS_H

#include "../other.h"

enum outcome {
	NOT_SO, /* it has no descriptor */
	PASSES, /* at once, and nobody is told */
	WAITS,	/* for the holders, or is refused */
};

struct guard_op {
	const char *name;
	const char *fs;			   /* the only filesystem that it is for, or NULL */
	other_fn run;			   /* fd -1: by path */
	void (*prepare)(const char *path); /* before anybody guards the file */
	enum outcome later, earlier;	   /* opened after the file was guarded, and before */
	off_t size_after;
};

/* Ended by one without a name. */
extern const struct guard_op guard_ops[];

#endif
