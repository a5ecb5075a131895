// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conn.h"
#include "util.h"

#define BUFFERS (CONN_RECEIVES + CONN_SENDS)

_Static_assert(CONN_SENDS == 64, "one bit each in struct conn");

int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		return fail(-errno, "fcntl");
	return 0;
}

struct rdma_conn_param conn_param(const void *private_data, uint8_t length)
{
	return (struct rdma_conn_param){
		.private_data = private_data,
		.private_data_len = length,
		.responder_resources = 1,
		.initiator_depth = 1,
		.retry_count = 6, /* soft-RoCE takes 7 for "for ever" */
		.rnr_retry_count = 7,
	};
}

bool conn_next_event(struct rdma_event_channel *channel, struct rdma_cm_event **ret_event)
{
	if (!rdma_get_cm_event(channel, ret_event))
		return true;
	if (errno != EAGAIN && errno != EINTR)
		fail(-errno, "rdma_get_cm_event");
	return false;
}

/* ------------------------------------------------------------------------- */

static int post_receive(struct conn *conn, uint32_t number)
{
	struct ibv_sge sge = {
		.addr = (uintptr_t)&conn->buffers[number],
		.length = sizeof(conn->buffers[0]),
		.lkey = conn->mr->lkey,
	};
	struct ibv_recv_wr *bad, wr = {
		.wr_id = WORK_ID(WORK_RECEIVE, number),
		.sg_list = &sge,
		.num_sge = 1,
	};

	return -ibv_post_recv(conn->id->qp, &wr, &bad);
}

static int make_qp(struct conn *conn, const struct conn_setup *setup)
{
	struct ibv_qp_init_attr init = {
		.send_cq = setup->cq,
		.recv_cq = setup->cq,
		.cap = { .max_send_wr = setup->writes + CONN_SENDS + DAXLEASE_PEER_SEND_WR,
			 .max_recv_wr = CONN_RECEIVES,
			 .max_send_sge = 1,
			 .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
	};

	return rdma_create_qp(conn->id, setup->pd, &init) ? -errno : 0;
}

/* Pages of their own: see ibv_fork_init(3). */
static int make_buffers(struct conn *conn, struct ibv_pd *pd)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t size = (BUFFERS * sizeof(*conn->buffers) + page - 1) / page * page;

	conn->buffers = aligned_alloc(page, size);
	if (!conn->buffers)
		return -ENOMEM;
	memset(conn->buffers, 0, size);
	conn->mr = ibv_reg_mr(pd, conn->buffers, size, IBV_ACCESS_LOCAL_WRITE);
	return conn->mr ? 0 : -errno;
}

static int post_receives(struct conn *conn)
{
	int err = 0;

	for (uint32_t i = 0; i < CONN_RECEIVES && !err; i++)
		err = post_receive(conn, i);
	return err;
}

int conn_open(struct conn *conn, struct rdma_cm_id *id, const struct conn_setup *setup)
{
	const char *what = "cannot make a queue pair";
	int err;

	*conn = (struct conn){ .id = id };
	err = make_qp(conn, setup);
	if (!err) {
		what = "cannot register buffers for messages (is ulimit -l too low?)";
		err = make_buffers(conn, setup->pd);
	}
	if (!err) {
		what = "daxlease_peer_new";
		err = daxlease_peer_new(setup->ctx, id, setup->peer, &conn->peer);
	}
	if (!err) {
		what = "cannot post receives";
		err = post_receives(conn);
	}
	if (!err)
		return 0;
	conn_close(conn);
	return fail(err, "%s", what);
}

void conn_close(struct conn *conn)
{
	int err = daxlease_peer_free(conn->peer);

	if (err)
		fail(err, "daxlease_peer_free");
	if (conn->id && conn->id->qp)
		rdma_destroy_qp(conn->id);
	if (conn->mr)
		ibv_dereg_mr(conn->mr);
	free(conn->buffers);
	*conn = (struct conn){ 0 };
}

int conn_unused(const struct conn *conn)
{
	return ~conn->sending ? __builtin_ctzll(~conn->sending) : -ENOBUFS;
}

bool conn_is_sending(const struct conn *conn, unsigned int number)
{
	return conn->sending & 1ull << number;
}

int conn_send(struct conn *conn, unsigned int number, const struct message *msg)
{
	union buffer *buffer = &conn->buffers[CONN_RECEIVES + number];
	struct ibv_sge sge = {
		.addr = (uintptr_t)buffer,
		.length = sizeof(*msg),
		.lkey = conn->mr->lkey,
	};
	struct ibv_send_wr *bad, wr = {
		.wr_id = WORK_ID(WORK_SEND, number),
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_SEND,
		.send_flags = IBV_SEND_SIGNALED,
	};
	int err;

	buffer->message = *msg;
	err = -ibv_post_send(conn->id->qp, &wr, &bad);
	if (!err)
		conn->sending |= 1ull << number;
	return err;
}

/* ------------------------------------------------------------------------- */

static bool is_message(const struct ibv_wc *wc, const union buffer *buffer)
{
	return wc->byte_len == sizeof(struct message) && buffer->message.magic == MESSAGE_MAGIC;
}

static enum conn_event received(struct conn *conn, const struct ibv_wc *wc, bool libs,
				struct message *ret_msg)
{
	uint32_t number = (uint32_t)wc->wr_id;
	const union buffer *buffer = &conn->buffers[number];
	enum conn_event event = CONN_NOTHING;

	if (!libs && !is_message(wc, buffer))
		return CONN_BROKEN;
	if (!libs) {
		*ret_msg = buffer->message;
		event = CONN_MESSAGE;
	}
	return post_receive(conn, number) ? CONN_BROKEN : event;
}

/* After an error only wr_id, status and qp_num of a completion are to be believed. */
enum conn_event conn_completed(struct conn *conn, const struct ibv_wc *wc, struct message *ret_msg)
{
	enum work work = (enum work)(wc->wr_id >> 32);
	bool receive = work == WORK_RECEIVE && wc->status == IBV_WC_SUCCESS;
	int libs = daxlease_peer_wc(conn->peer, wc,
				    receive ? &conn->buffers[(uint32_t)wc->wr_id] : NULL);

	if (libs < 0)
		return CONN_BROKEN;
	if (receive)
		return received(conn, wc, libs, ret_msg);
	if (!libs && work == WORK_SEND)
		conn->sending &= ~(1ull << (uint32_t)wc->wr_id);
	return wc->status == IBV_WC_SUCCESS ? CONN_NOTHING : CONN_BROKEN;
}
