/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What the public calls on regions have in common, whatever kind of pin they have. */
#ifndef DAXLEASE_REGION_H
#define DAXLEASE_REGION_H

#include "objects.h"

/* The caller's options, of which the library knows `known` bytes. A refusal is logged. */
int region_read_opts(struct daxlease_ctx *ctx, void *dst, size_t known, const void *src);

/* -EINVAL, logged: why, if that is not NULL, or what is wrong with the range. */
int region_check_range(struct daxlease_ctx *ctx, const void *addr, size_t length, const char *why);

/* One line that says why, and err. No lock is held. */
int region_refuse(struct daxlease_ctx *ctx, const void *addr, size_t length, int err,
		  const char *why);

/*
 * Leases and pins r, whose constant members are set but for lease and range. ret is where
 * pin_ops.hand_out() writes. If it fails, r is the caller's to free.
 */
int region_register(struct region *r, int fd, void *ret);

/* Detaches r and leaves its lease; 0: it is the caller's to free. */
int region_deregister(struct region *r);

/* r may be NULL: -EINVAL. */
int region_check(const struct region *r);
enum daxlease_state region_state(const struct region *r);
int region_drained(struct region *r);
int region_recall(struct region *r);
int region_recall_start(struct region *r);
int region_regain(struct region *r);

#endif
