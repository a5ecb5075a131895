/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Open devices: ibv_create_qp_ex(3) is an inline function, which calls the provider by a
 * pointer in struct verbs_context. That one is replaced, for queue pairs to be known; those
 * for posting and polling are not.
 */
#ifndef PRELOAD_DEVICES_H
#define PRELOAD_DEVICES_H

#include <infiniband/verbs.h>

/* Again does no harm. */
void devices_watch(struct ibv_context *context);
/* Before it is closed. */
void devices_forget(struct ibv_context *context);

void devices_lock(void);
void devices_unlock(void);

#endif
