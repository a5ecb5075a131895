/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * One connection, on both sides: the queue pair of an rdma_cm_id, a struct daxlease_peer
 * for the other end, and buffers for messages.
 */
#ifndef DAX_LOG_CONN_H
#define DAX_LOG_CONN_H

#include <stdbool.h>
#include <stdint.h>

#include <daxlease/rdmacm.h>

#include "message.h"

/* What a completion belongs to: upper half of wr_id, the lower one is a number. */
enum work {
	WORK_RECEIVE = 1,
	WORK_SEND,
	WORK_WRITE,
};

#define WORK_ID(work, number) ((uint64_t)(work) << 32 | (number))

/* Twice as many, for the answers of the library and what has just been answered. */
#define CONN_RECEIVES (2 * MAX_FLUSHES)
#define CONN_SENDS (2 * MAX_FLUSHES)

/* Completions that a connection can have outstanding. */
#define CONN_COMPLETIONS(writes) \
	((int)(writes) + CONN_RECEIVES + CONN_SENDS + DAXLEASE_PEER_SEND_WR)

/* Room for a message of either kind. */
union buffer {
	struct message message;
	uint8_t library[DAXLEASE_PEER_MSG_SIZE];
};

struct conn {
	struct rdma_cm_id *id; /* the caller's */
	struct daxlease_peer *peer;
	struct ibv_mr *mr; /* of buffers */
	union buffer *buffers;
	uint64_t sending; /* a bit for each send buffer in use; CONN_SENDS are 64 */
};

struct conn_setup {
	struct daxlease_ctx *ctx; /* for log lines of the library, or NULL */
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	uint32_t writes; /* RDMA WRITEs that may be outstanding */
	const struct daxlease_peer_opts *peer;
};

/*
 * Makes queue pair and peer, and posts the receives; connecting is the caller's. -errno
 * is told.
 */
int conn_open(struct conn *conn, struct rdma_cm_id *id, const struct conn_setup *setup);

/* Frees all but the id; a conn that is all zero is fine. */
void conn_close(struct conn *conn);

/* Sends a message from that send buffer, which is unused. */
int conn_send(struct conn *conn, unsigned int number, const struct message *msg);
/* Whether the device still has it. */
bool conn_is_sending(const struct conn *conn, unsigned int number);
/* A send buffer that is unused; -ENOBUFS: none is. */
int conn_unused(const struct conn *conn);

enum conn_event {
	CONN_NOTHING, /* the library's business, or a send that is complete */
	CONN_MESSAGE, /* one came: *ret_msg */
	CONN_BROKEN,  /* the connection is of no more use */
};

/* What a completion of the connection means. */
enum conn_event conn_completed(struct conn *conn, const struct ibv_wc *wc, struct message *ret_msg);

/* What rdma_connect(3) and rdma_accept(3) need besides the private data. */
struct rdma_conn_param conn_param(const void *private_data, uint8_t length);

/* Whether the next event of the channel is there; it is the caller's to acknowledge. */
bool conn_next_event(struct rdma_event_channel *channel, struct rdma_cm_event **ret_event);

int set_nonblocking(int fd);

#endif
