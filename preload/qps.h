/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The queue pairs of the process, by the protection domain that they work in. */
#ifndef PRELOAD_QPS_H
#define PRELOAD_QPS_H

#include <infiniband/verbs.h>

void qps_add(struct ibv_qp *qp);
/* Before it is destroyed: waits for a fence under way. If that fails it is added again. */
void qps_remove(const struct ibv_qp *qp);
/* Those of a device that is closed. */
void qps_forget(const struct ibv_context *context);
/*
 * Moves all that can reach memory regions of pd to the error state, and returns how many
 * these were.
 */
unsigned int qps_fence(const struct ibv_pd *pd);

void qps_lock(void);
void qps_unlock(void);
/* In a child, with the lock: no thread that was fencing or waiting is in it. */
void qps_forget_threads(void);

#endif
