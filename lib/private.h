/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What libdaxlease does for its sister libraries and for nobody else: the symbols are of
 * version DAXLEASE_PRIVATE, and may change with any release. ctx may be NULL: nothing is
 * done.
 */
#ifndef DAXLEASE_PRIVATE_H
#define DAXLEASE_PRIVATE_H

#include <daxlease/daxlease.h>

#include "util.h"

/* A log line of ctx; any lock may be held. Handed out by private_log_flush(). */
DAXLEASE_API void daxlease_private_log(struct daxlease_ctx *ctx, enum daxlease_log_level level,
				       const char *fmt, ...) PRINTF_LIKE(3, 4);
/* No lock may be held. */
DAXLEASE_API void daxlease_private_log_flush(struct daxlease_ctx *ctx);
/*
 * Whatever is called in between, in this thread, hands out no log lines: their function may
 * block, or take locks of the program's.
 */
DAXLEASE_API void daxlease_private_log_hold(void);
DAXLEASE_API void daxlease_private_log_release(void);

/* The start of a public call: -EINVAL, -ECHILD; -EDEADLK in a callback, if it waits. */
DAXLEASE_API int daxlease_private_check(const struct daxlease_ctx *ctx, bool waits);

/* daxlease_reg_mr(), and daxlease_mr_add_qp() before anything can happen to the region. */
DAXLEASE_API int daxlease_private_reg_mr(struct daxlease_ctx *ctx, struct ibv_pd *pd,
					 struct ibv_qp *qp, int fd, void *addr, size_t length,
					 int access, const struct daxlease_mr_opts *opts,
					 struct daxlease_mr **ret_mr);

#endif
