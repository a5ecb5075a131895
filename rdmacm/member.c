// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "conn.h"
#include "member.h"
#include "private.h"
#include "sys.h"
#include "util.h"

/* ------------------------------------------------------------------------- */
/* Members */

static bool has_access(const struct member *m)
{
	return m->state == MEMBER_GRANTED || m->state == MEMBER_REVOKED;
}

/* All that it takes is there: the region can be deregistered. */
void member_check_drained(struct daxlease_offer *offer)
{
	if (offer->draining && !offer->asking && offer->own_drained && !offer->waiting)
		daxlease_mr_drained(offer->mr); /* too late: it was fenced */
}

/* Leaves MEMBER_REVOKED, or any other state. */
static void set_state(struct member *m, int state)
{
	const bool waited = m->state == MEMBER_REVOKED;

	m->state = state;
	if (state == MEMBER_REVOKED)
		m->offer->waiting++;
	if (!waited)
		return;
	m->offer->waiting--;
	member_check_drained(m->offer);
}

/*
 * Its window, after which it has no access. Should the device refuse, the queue pair is
 * the next best; then the region cannot be deregistered, and that is tried for ever.
 */
static void free_window(struct member *m)
{
	int err;

	if (!m->mw)
		return;
	err = edge_free_window(m->mw);
	if (err) {
		daxlease_private_log(m->offer->ctx, DAXLEASE_LOG_ERR,
				     "memory window of queue pair %u not taken away: %s",
				     m->peer->qp->qp_num, strerror(-err));
		conn_break(m->peer, "its window cannot be taken away: to the error state");
	}
	m->mw = NULL;
}

/* Its queue pair is in the error state. */
static void set_gone(struct member *m)
{
	if (m->state == MEMBER_GONE)
		return;
	conn_cancel(m->peer, &m->out);
	free_window(m);
	set_state(m, MEMBER_GONE);
}

void member_if_broken(struct daxlease_peer *peer)
{
	struct member *m;

	if (!peer->broken)
		return;
	TAILQ_FOREACH(m, &peer->members, peer_link)
		set_gone(m);
}

static void break_peer(struct daxlease_peer *peer, const char *why)
{
	conn_break(peer, why);
	member_if_broken(peer);
}

/*
 * -EAGAIN: the region is gone again; it will be back. If it is there it stays until the lock
 * is dropped, since both ways out of being registered come by here.
 */
static int prepare_window(struct member *m, const struct daxlease_mr_info *info)
{
	struct edge_bind *bind = &m->out.bind;
	int err;

	bind->mr = daxlease_mr_get_ibv_mr(m->offer->mr);
	if (!bind->mr)
		return -EAGAIN;
	err = edge_alloc_window(m->offer->pd, &m->mw, &bind->rkey);
	if (err)
		return err;
	bind->mw = m->mw;
	bind->addr = (uintptr_t)info->addr;
	bind->length = info->registered;
	bind->access = m->access;
	m->out.bind_due = true;
	return 0;
}

/* info: of the region, which is registered. */
int member_grant(struct member *m, const struct daxlease_mr_info *info)
{
	struct daxlease_offer *offer = m->offer;
	int err = offer->windows ? prepare_window(m, info) : 0;

	if (err)
		return err == -EAGAIN ? 0 : err;
	m->generation = ++m->peer->last_granted;
	m->out.msg = (struct wire_msg){
		.type = WIRE_GRANT,
		.offer = offer->opts.number,
		.generation = m->generation,
		.rkey = offer->windows ? m->out.bind.rkey : info->rkey,
		.addr = (uintptr_t)info->addr,
		.length = info->registered,
		.access = m->access,
	};
	set_state(m, MEMBER_GRANTED);
	offer->stats.grants++;
	conn_send(m->peer, &m->out);
	member_if_broken(m->peer);
	return m->state == MEMBER_GONE ? -ENOTCONN : 0;
}

/* Without a grant it would wait for ever; so it had better connect again. */
void member_grant_again(struct member *m, const struct daxlease_mr_info *info)
{
	int err = member_grant(m, info);

	if (!err || err == -ENOTCONN)
		return;
	daxlease_private_log(m->offer->ctx, DAXLEASE_LOG_ERR,
			     "no memory window for queue pair %u: %s", m->peer->qp->qp_num,
			     strerror(-err));
	break_peer(m->peer, "cannot be granted anything: to the error state");
}

static void say(struct member *m, enum wire_type type, uint32_t budget_ms)
{
	m->out.bind_due = false;
	m->out.msg = (struct wire_msg){
		.type = type,
		.offer = m->offer->opts.number,
		.generation = m->generation,
		.budget_ms = budget_ms,
	};
	conn_send(m->peer, &m->out);
}

/* What it was never told of is taken back without a word. True: then it has no access. */
static bool take_back_unsent(struct member *m)
{
	if (m->state != MEMBER_GRANTED || !conn_cancel(m->peer, &m->out))
		return false;
	m->offer->stats.grants--;
	free_window(m);
	set_state(m, MEMBER_IDLE);
	member_if_broken(m->peer);
	return true;
}

void member_revoke(struct member *m, uint32_t budget_ms)
{
	if (m->state != MEMBER_GRANTED || take_back_unsent(m))
		return;
	set_state(m, MEMBER_REVOKED);
	m->offer->stats.revokes++;
	say(m, WIRE_REVOKE, budget_ms);
	member_if_broken(m->peer);
}

static void set_late(struct member *m, enum daxlease_late how)
{
	m->late_due = true;
	m->late = how;
	if (how == DAXLEASE_LATE_FENCED)
		m->offer->stats.late++;
	else
		m->offer->stats.revoked++;
}

/* It did not answer in time, or could not even be asked. */
void member_end_access(struct member *m)
{
	const bool asked = m->state == MEMBER_REVOKED;

	if (!has_access(m) || take_back_unsent(m))
		return;
	if (!m->mw) {
		set_late(m, DAXLEASE_LATE_FENCED);
		break_peer(m->peer, "no answer in time: to the error state");
		return;
	}
	free_window(m);
	member_if_broken(m->peer);
	if (m->state == MEMBER_GONE)
		return;
	set_late(m, DAXLEASE_LATE_REVOKED);
	set_state(m, MEMBER_OVERDUE);
	if (m->out.queued)
		m->out.msg.budget_ms = 0;
	if (asked)
		return;
	m->offer->stats.revokes++;
	say(m, WIRE_REVOKE, 0);
	member_if_broken(m->peer);
}

/* The region, if it can be granted to somebody now. */
bool member_can_grant(const struct daxlease_offer *offer, struct daxlease_mr_info *ret_info)
{
	*ret_info = (struct daxlease_mr_info){ .size = sizeof(*ret_info) };
	return offer->open && !daxlease_mr_get_info(offer->mr, ret_info) && ret_info->registered;
}

struct member *member_find(const struct daxlease_peer *peer, uint32_t number)
{
	struct member *m;

	TAILQ_FOREACH(m, &peer->members, peer_link) {
		if (m->offer->opts.number == number)
			return m;
	}
	return NULL;
}

int member_answered(struct daxlease_peer *peer, const struct wire_msg *msg)
{
	struct member *m = member_find(peer, msg->offer);
	struct daxlease_mr_info info;

	if (!m) /* it was withdrawn meanwhile */
		return 0;
	if (msg->generation <= m->floor) /* likewise, and offered again */
		return 0;
	if (msg->generation != m->generation)
		return -EPROTO;
	switch (m->state) {
	case MEMBER_REVOKED:
		m->offer->stats.answers++;
		free_window(m);
		set_state(m, MEMBER_IDLE);
		break;
	case MEMBER_OVERDUE:
		set_state(m, MEMBER_IDLE);
		break;
	default:
		return -EPROTO;
	}
	member_if_broken(peer);
	if (m->state == MEMBER_IDLE && member_can_grant(m->offer, &info))
		member_grant_again(m, &info);
	return 0;
}

void member_count_broken(struct daxlease_peer *peer)
{
	struct member *m;

	TAILQ_FOREACH(m, &peer->members, peer_link)
		m->offer->stats.protocol++;
}

static void leave(struct member *m)
{
	struct daxlease_offer *offer = m->offer;

	conn_cancel(m->peer, &m->out);
	free_window(m);
	set_state(m, MEMBER_GONE);
	TAILQ_REMOVE(&offer->members, m, offer_link);
	TAILQ_REMOVE(&m->peer->members, m, peer_link);
	m->peer->nmembers--;
	offer->stats.peers--;
	free(m);
}

void member_peer_leaves(struct daxlease_peer *peer)
{
	struct member *m;

	TAILQ_FOREACH(m, &peer->members, peer_link) {
		if (has_access(m))
			conn_break(peer, "freed with access: to the error state");
	}
	while ((m = TAILQ_FIRST(&peer->members)))
		leave(m);
}

/*
 * The message has to be on its way before the member is gone; without room for it, the
 * peer could not know.
 */
static void tell_withdrawn(struct member *m)
{
	if (!m->mw && has_access(m)) {
		break_peer(m->peer, "withdrawn: to the error state");
		return;
	}
	free_window(m);
	say(m, WIRE_WITHDRAW, 0);
	if (m->out.queued)
		break_peer(m->peer, "cannot be told that it is withdrawn: to the error state");
}

void member_withdraw(struct member *m)
{
	if (m->state != MEMBER_IDLE && m->state != MEMBER_GONE && !take_back_unsent(m))
		tell_withdrawn(m);
	leave(m);
}
