/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Cutting the log down to its head, by the server itself: recall, ftruncate, regain. The
 * recall is only begun, as it is over when all clients have answered, and their answers come
 * through the loop.
 */
#ifndef DAX_LOG_ROTATE_H
#define DAX_LOG_ROTATE_H

#include <stdbool.h>
#include <stdint.h>

#include <daxlease/daxlease.h>

struct rotator {
	/* The caller's, constant */
	struct daxlease_mr *mr;
	const char *path;
	int fd;
	uint64_t head;	     /* bytes that stay */
	uint64_t size;	     /* that it has again afterwards */
	const char *log;     /* list of cuts, or NULL */
	bool without_recall; /* for tests: does not ask anybody */

	bool running;
	uint64_t began_ns;
	uint64_t count;	  /* rotations, in all */
	uint64_t last_ns; /* what the last one took */
};

/* 0, or -errno, which is told. */
int rotator_start(struct rotator *rotator);

/* To be called after each daxlease_ctx_dispatch(): goes on if the recall is over. */
int rotator_step(struct rotator *rotator);

#endif
