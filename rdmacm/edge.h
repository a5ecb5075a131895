/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What this library needs of verbs besides lib/verbs.h: the only other module that calls
 * ibv_*. 0 or -errno.
 */
#ifndef DAXLEASE_EDGE_H
#define DAXLEASE_EDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <infiniband/verbs.h>

/* A window that a peer gets, bound in front of the message that tells it. */
struct edge_bind {
	struct ibv_mw *mw;
	uint32_t rkey; /* that it will have */
	struct ibv_mr *mr;
	uint64_t addr;
	uint64_t length;
	int access; /* IBV_ACCESS_REMOTE_* */
};

struct edge_send {
	uint64_t wr_id; /* of the SEND, which is signaled */
	const void *buf;
	uint32_t len;
	uint32_t lkey;
	const struct edge_bind *bind; /* NULL: none */
	uint64_t bind_wr_id;
};

/*
 * Posts [bind and] send. *ret_bound: the bind was posted, which it may be though the send
 * was not. -ENOMEM: the queue is full.
 */
int edge_post_send(struct ibv_qp *qp, const struct edge_send *send, bool *ret_bound);

/* Memory windows of type 2, which a queue pair binds for itself. */
bool edge_has_windows(struct ibv_pd *pd);
int edge_alloc_window(struct ibv_pd *pd, struct ibv_mw **ret_mw, uint32_t *ret_rkey);
/* Returns when nobody can use it any more. */
int edge_free_window(struct ibv_mw *mw);

#endif
