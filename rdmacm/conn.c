// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conn.h"
#include "private.h"
#include "verbs.h"

/*
 * A page of its own: after ibv_fork_init(3) a child does not have the pages that are
 * registered, and others' memory must not be among them.
 */
int conn_open(struct daxlease_peer *peer)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	const size_t size = SLOTS * WIRE_SIZE;
	int err;

	TAILQ_INIT(&peer->outgoing);
	peer->bytes = aligned_alloc(page, (size + page - 1) / page * page);
	if (!peer->bytes)
		return -ENOMEM;
	err = verbs_reg_mr(peer->qp->pd, peer->bytes, size, 0, &peer->mr);
	if (err)
		free(peer->bytes);
	return err;
}

void conn_close(struct daxlease_peer *peer)
{
	int err = verbs_dereg_mr(peer->mr);

	if (err) { /* the device may still read it: better lost than reused */
		daxlease_private_log(
			peer->ctx, DAXLEASE_LOG_ERR,
			"queue pair %u: the memory of its messages is not deregistered: %s",
			peer->qp->qp_num, strerror(-err));
		return;
	}
	free(peer->bytes);
}

void conn_break(struct daxlease_peer *peer, const char *why)
{
	int err;

	if (peer->broken)
		return;
	peer->broken = true;
	daxlease_private_log(peer->ctx, DAXLEASE_LOG_INFO, "queue pair %u: %s", peer->qp->qp_num,
			     why);
	err = verbs_fence_qp(peer->qp);
	if (err)
		daxlease_private_log(peer->ctx, DAXLEASE_LOG_ERR,
				     "queue pair %u could not be moved to the error state: %s",
				     peer->qp->qp_num, strerror(-err));
}

static struct slot *free_slot(struct daxlease_peer *peer)
{
	for (unsigned int i = 0; i < SLOTS; i++) {
		if (!peer->slots[i].busy)
			return &peer->slots[i];
	}
	return NULL;
}

static int post(struct daxlease_peer *peer, struct slot *slot, struct outgoing *out)
{
	uint8_t *buf = peer->bytes + (size_t)(slot - peer->slots) * WIRE_SIZE;
	const struct edge_send send = {
		.wr_id = (uintptr_t)&slot->busy,
		.buf = buf,
		.len = WIRE_SIZE,
		.lkey = peer->mr->lkey,
		.bind = out->bind_due ? &out->bind : NULL,
		.bind_wr_id = (uintptr_t)&slot->bind_busy,
	};
	bool bound;
	int err;

	wire_encode(&out->msg, buf);
	err = edge_post_send(peer->qp, &send, &bound);
	if (bound)
		out->bind_due = false;
	slot->busy = !err;
	return err;
}

/*
 * Stuck is set before the attempt: who takes the completion that makes room, after an attempt
 * in vain, has to see it, for there may be no other.
 */
static void send_waiting(struct daxlease_peer *peer)
{
	struct outgoing *out;
	struct slot *slot;
	int err = 0;

	atomic_store(&peer->stuck, true);
	while (!peer->broken && (out = TAILQ_FIRST(&peer->outgoing))) {
		slot = free_slot(peer);
		err = slot ? post(peer, slot, out) : -ENOMEM;
		if (err)
			break;
		TAILQ_REMOVE(&peer->outgoing, out, link);
		out->queued = false;
	}
	if (err && err != -ENOMEM && err != -EAGAIN)
		conn_break(peer, "a message cannot be posted: to the error state");
	if (peer->broken || TAILQ_EMPTY(&peer->outgoing))
		atomic_store(&peer->stuck, false);
}

void conn_send(struct daxlease_peer *peer, struct outgoing *out)
{
	if (!out->queued)
		TAILQ_INSERT_TAIL(&peer->outgoing, out, link);
	out->queued = true;
	send_waiting(peer);
}

bool conn_cancel(struct daxlease_peer *peer, struct outgoing *out)
{
	if (!out->queued)
		return false;
	TAILQ_REMOVE(&peer->outgoing, out, link);
	out->queued = false;
	return true;
}

void conn_retry(struct daxlease_peer *peer)
{
	if (!TAILQ_EMPTY(&peer->outgoing))
		send_waiting(peer);
}

bool conn_owns(const struct daxlease_peer *peer, const struct ibv_wc *wc)
{
	return wc->wr_id - (uintptr_t)peer->slots < sizeof(peer->slots) &&
	       wc->qp_num == peer->qp->qp_num;
}

void conn_completed(struct daxlease_peer *peer, const struct ibv_wc *wc)
{
	struct slot *slot = &peer->slots[(wc->wr_id - (uintptr_t)peer->slots) / sizeof(*slot)];

	if (wc->status != IBV_WC_SUCCESS)
		conn_break(peer, wc->status == IBV_WC_WR_FLUSH_ERR ?
					 "in the error state" :
					 "a message was not delivered: to the error state");
	if (wc->wr_id == (uintptr_t)&slot->busy)
		slot->busy = false;
	send_waiting(peer);
}
