/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The one context of the library, made when it is first needed. */
#ifndef PRELOAD_CONTEXT_H
#define PRELOAD_CONTEXT_H

#include <daxlease/daxlease.h>

/* -errno: it cannot be made, which was said. */
int context_get(struct daxlease_ctx **ret_ctx);
void context_lock(void);
void context_unlock(void);
/* In a child, with the lock: the parent's is not touched. */
void context_forget(void);

#endif
