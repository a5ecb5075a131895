// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <stdlib.h>

#include "conn.h"
#include "sys.h"
#include "taker.h"
#include "util.h"

void taker_init(struct daxlease_peer *peer)
{
	TAILQ_INIT(&peer->taken);
}

void taker_end(struct daxlease_peer *peer)
{
	struct taken *t;

	while ((t = TAILQ_FIRST(&peer->taken))) {
		TAILQ_REMOVE(&peer->taken, t, link);
		free(t);
	}
}

static struct taken *find(const struct daxlease_peer *peer, uint32_t offer)
{
	struct taken *t;

	TAILQ_FOREACH(t, &peer->taken, link) {
		if (t->grant.offer == offer)
			return t;
	}
	return NULL;
}

const struct daxlease_grant *taker_grant(const struct daxlease_peer *peer, uint32_t offer)
{
	const struct taken *t = find(peer, offer);

	return t && t->state == TAKEN_GRANTED ? &t->grant : NULL;
}

static struct taken *add(struct daxlease_peer *peer)
{
	struct taken *t = sys_calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	TAILQ_INSERT_TAIL(&peer->taken, t, link);
	peer->ntaken++;
	return t;
}

static int granted(struct daxlease_peer *peer, struct taken *t, const struct wire_msg *msg)
{
	struct daxlease_grant grant = {
		.size = sizeof(grant),
		.offer = msg->offer,
		.rkey = msg->rkey,
		.generation = msg->generation,
		.addr = msg->addr,
		.length = msg->length,
		.access = msg->access,
	};

	if ((t && t->state != TAKEN_NONE) || msg->generation <= peer->last_taken ||
	    (!t && peer->ntaken == DAXLEASE_PEER_OFFERS))
		return -EPROTO;
	if (!t)
		t = add(peer);
	if (!t)
		return -ENOMEM;
	peer->last_taken = msg->generation;
	t->grant = grant;
	t->state = TAKEN_GRANTED;
	if (peer->opts.grant) {
		callback_begin(peer->ctx, peer);
		peer->opts.grant(peer, &grant, peer->opts.userdata);
		callback_end(peer);
	}
	return 0;
}

static void answer(struct daxlease_peer *peer, struct taken *t)
{
	t->state = TAKEN_NONE;
	t->answer.msg = (struct wire_msg){
		.type = WIRE_DRAINED,
		.offer = t->grant.offer,
		.generation = t->grant.generation,
	};
	conn_send(peer, &t->answer);
}

/* May the grant be used no more? What the application says. */
static int ask(struct daxlease_peer *peer, uint32_t offer, uint64_t deadline_ns)
{
	int ret;

	if (!peer->opts.revoke)
		return 0;
	callback_begin(peer->ctx, peer);
	ret = peer->opts.revoke(peer, offer, deadline_ns, peer->opts.userdata);
	callback_end(peer);
	return ret;
}

static int revoked(struct daxlease_peer *peer, struct taken *t, const struct wire_msg *msg)
{
	int ret;

	if (!t || t->state != TAKEN_GRANTED || t->grant.generation != msg->generation)
		return -EPROTO;
	t->state = TAKEN_REVOKED;
	ret = ask(peer, msg->offer, sys_now_ns() + msg->budget_ms * NSEC_PER_MSEC);
	t = find(peer, msg->offer);
	if (!t || t->state != TAKEN_REVOKED || t->grant.generation != msg->generation)
		return 0; /* answered by the callback */
	if (ret >= DAXLEASE_PENDING)
		return 0;
	if (ret < 0) {
		conn_break(peer, "the revoke callback could not: to the error state");
		return 0;
	}
	answer(peer, t);
	return 0;
}

/* It may cross our answer. */
static int withdrawn(struct daxlease_peer *peer, struct taken *t, const struct wire_msg *msg)
{
	bool had;

	if (!t || t->grant.generation != msg->generation)
		return -EPROTO;
	had = t->state != TAKEN_NONE;
	conn_cancel(peer, &t->answer);
	TAILQ_REMOVE(&peer->taken, t, link);
	peer->ntaken--;
	free(t);
	if (had)
		ask(peer, msg->offer, 0);
	return 0;
}

int taker_handle(struct daxlease_peer *peer, const struct wire_msg *msg)
{
	struct taken *t = find(peer, msg->offer);

	switch (msg->type) {
	case WIRE_GRANT:
		return granted(peer, t, msg);
	case WIRE_REVOKE:
		return revoked(peer, t, msg);
	case WIRE_WITHDRAW:
		return withdrawn(peer, t, msg);
	case WIRE_DRAINED:
		break;
	}
	return -EPROTO;
}

int taker_answer(struct daxlease_peer *peer, uint32_t offer)
{
	struct taken *t = find(peer, offer);

	if (!t || t->state != TAKEN_REVOKED)
		return -EINVAL;
	if (peer->broken)
		return -ENOTCONN;
	answer(peer, t);
	return peer->broken ? -ENOTCONN : 0;
}
