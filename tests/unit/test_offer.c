// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Offers and their peers: both sides are the real ones; what lies between them is carried,
 * withheld or forged by the test.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <daxlease/rdmacm.h>

#include "fake_edge.h"
#include "fake_verbs.h"
#include "fault.h"
#include "support.h"

#define BOTH (IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE)
#define NUMBER 7
#define SHORT_MS 150

/* ------------------------------------------------------------------------- */
/* A connection with its two ends */

struct end {
	struct rdma_cm_id id;
	struct ibv_qp qp;
	struct daxlease_peer *peer; /* the other side, as seen from here */
};

struct conn {
	struct end holder, taker;
	/* What the taker was told, and does */
	int revoke_answer;
	bool answer_inside;
	unsigned int grants, revokes;
	struct daxlease_grant grant;
	uint64_t deadline_ns;
};

static void on_grant(struct daxlease_peer *peer, const struct daxlease_grant *grant, void *userdata)
{
	struct conn *c = userdata;

	assert_ptr_equal(peer, c->taker.peer);
	c->grants++;
	c->grant = *grant;
	assert_int_equal(daxlease_peer_free(peer), -EDEADLK);
}

static int on_revoke(struct daxlease_peer *peer, uint32_t offer, uint64_t deadline_ns,
		     void *userdata)
{
	struct conn *c = userdata;

	c->revokes++;
	c->deadline_ns = deadline_ns;
	assert_int_equal(offer, c->grant.offer);
	if (c->answer_inside)
		assert_int_equal(daxlease_peer_drained(peer, offer), 0);
	return c->revoke_answer;
}

static void end_open(struct fix *fx, struct end *e, const struct daxlease_peer_opts *opts)
{
	static uint32_t next_qp;

	e->qp = (struct ibv_qp){ .pd = &fake_pd, .qp_type = IBV_QPT_RC, .qp_num = ++next_qp };
	e->id = (struct rdma_cm_id){ .qp = &e->qp, .pd = &fake_pd };
	assert_int_equal(daxlease_peer_new(fx ? fx->ctx : NULL, &e->id, opts, &e->peer), 0);
	assert_ptr_equal(daxlease_peer_get_id(e->peer), &e->id);
}

static void conn_open(struct fix *fx, struct conn *c)
{
	const struct daxlease_peer_opts opts = {
		.size = sizeof(opts),
		.grant = on_grant,
		.revoke = on_revoke,
		.userdata = c,
	};

	end_open(fx, &c->holder, NULL);
	end_open(NULL, &c->taker, &opts);
	assert_ptr_equal(daxlease_peer_get_userdata(c->taker.peer), c);
}

static void conn_close(struct conn *c)
{
	assert_int_equal(daxlease_peer_free(c->holder.peer), 0);
	assert_int_equal(daxlease_peer_free(c->taker.peer), 0);
}

static int receive(struct end *to, const void *bytes, uint32_t len)
{
	const struct ibv_wc wc = {
		.wr_id = 1,
		.status = IBV_WC_SUCCESS,
		.opcode = IBV_WC_RECV,
		.byte_len = len,
		.qp_num = to->qp.qp_num,
	};

	return daxlease_peer_wc(to->peer, &wc, bytes);
}

static int receive_msg(struct end *to, const struct wire_msg *msg)
{
	uint8_t bytes[WIRE_SIZE];

	wire_encode(msg, bytes);
	return receive(to, bytes, sizeof(bytes));
}

static void complete(struct end *e, uint64_t wr_id, enum ibv_wc_status status)
{
	const struct ibv_wc wc = {
		.wr_id = wr_id,
		.status = status,
		.opcode = IBV_WC_SEND,
		.qp_num = e->qp.qp_num,
	};

	assert_int_equal(daxlease_peer_wc(e->peer, &wc, NULL), 1);
}

/* The next message from one end to the other. */
static struct wire_msg carry(struct end *from, struct end *to)
{
	struct posted p = edge_take(&from->qp);

	assert_true(p.wr_id != 0);
	complete(from, p.wr_id, IBV_WC_SUCCESS);
	assert_int_equal(receive(to, p.bytes, sizeof(p.bytes)), 1);
	return p.msg;
}

/* All of them, in both directions, until there is none. */
static void carry_all(struct conn *c)
{
	while (edge_count(&c->holder.qp) || edge_count(&c->taker.qp)) {
		if (edge_count(&c->holder.qp))
			carry(&c->holder, &c->taker);
		if (edge_count(&c->taker.qp))
			carry(&c->taker, &c->holder);
	}
}

/* ------------------------------------------------------------------------- */
/* An offer of fx->file */

struct holder {
	struct user u;
	struct daxlease_offer *offer;
	atomic_uint lates, fences;
	struct daxlease_peer *late_peer;
	atomic_int how;
};

static void on_late(struct daxlease_offer *offer, struct daxlease_peer *peer,
		    enum daxlease_late how, void *userdata)
{
	struct holder *h = userdata;

	assert_ptr_equal(offer, h->offer);
	assert_int_equal(atomic_load(&h->u.releases), 0); /* it comes before */
	assert_int_equal(daxlease_peer_free(peer), -EDEADLK);
	assert_int_equal(daxlease_offer_remove(offer, peer), -EDEADLK);
	assert_int_equal(daxlease_offer_free(offer), -EDEADLK);
	h->late_peer = peer;
	atomic_store(&h->how, how);
	atomic_fetch_add(&h->lates, 1);
}

static void on_fence(struct daxlease_mr *mr, void *userdata)
{
	struct user *u = userdata;
	struct holder *h = (struct holder *)u;

	(void)mr;
	atomic_fetch_add(&h->fences, 1);
}

static int try_offer(struct fix *fx, struct holder *h, unsigned int flags, uint32_t budget_ms,
		     bool drain)
{
	struct daxlease_mr_opts mr = user_opts(&h->u, DAXLEASE_MR_REGAIN, budget_ms);
	const struct daxlease_offer_opts opts = {
		.size = sizeof(opts),
		.flags = flags,
		.number = NUMBER,
		.mr = &mr,
		.late = on_late,
		.userdata = h,
	};

	if (!drain)
		mr.drain = NULL;
	mr.fence = on_fence;
	return daxlease_offer_new(fx->ctx, &fake_pd, fx->file.fd, fx->file.map, fx->file.size, BOTH,
				  &opts, &h->offer);
}

static void offer(struct fix *fx, struct holder *h, bool windows, uint32_t budget_ms)
{
	edge_reset(windows);
	assert_int_equal(try_offer(fx, h, 0, budget_ms, true), 0);
	h->u.mr = daxlease_offer_get_mr(h->offer);
}

static struct daxlease_offer_stats stats_of(const struct holder *h)
{
	struct daxlease_offer_stats stats = { .size = sizeof(stats) };

	assert_int_equal(daxlease_offer_get_stats(h->offer, &stats), 0);
	return stats;
}

static void end_offer(struct fix *fx, struct holder *h)
{
	assert_int_equal(daxlease_offer_free(h->offer), 0);
	assert_int_equal(edge_windows(), 0);
	assert_int_equal(fake_live(), 0);
	assert_int_equal(file_lease(&fx->file), F_UNLCK);
}

static void join(struct fix *fx, struct holder *h, struct conn *c)
{
	conn_open(fx, c);
	assert_int_equal(daxlease_offer_add(h->offer, c->holder.peer, BOTH), 0);
	carry_all(c);
	assert_int_equal(c->grants, 1);
}

/* A writer comes, and may wait. */
static void begin_break(struct fix *fx, struct holder *h, struct breaker *b)
{
	unsigned int drains = atomic_load(&h->u.drains);

	breaker_truncate(b, &fx->file, fx->file.size);
	EVENTUALLY(fx, atomic_load(&h->u.drains) == drains + 1);
}

static void wait_revoke(struct fix *fx, struct conn *c)
{
	EVENTUALLY(fx, edge_count(&c->holder.qp) == 1);
}

static void end_break(struct fix *fx, struct holder *h, struct breaker *b, int result)
{
	EVENTUALLY(fx, breaker_done(b));
	assert_int_equal(b->err, 0);
	assert_true(b->done_ns >= fake_last_dereg_ns());
	EVENTUALLY(fx, atomic_load(&h->u.releases) == 1);
	assert_int_equal(atomic_load(&h->u.result), result);
	breaker_end(b);
}

/* ------------------------------------------------------------------------- */
/* Granting and revoking */

static void offer__grant_revoke_grant(struct fix *fx, bool windows)
{
	struct daxlease_grant now = { .size = sizeof(now) };
	struct holder h = { 0 };
	struct conn c = { 0 };
	struct breaker b;

	offer(fx, &h, windows, 0);
	join(fx, &h, &c);
	assert_int_equal(c.grant.offer, NUMBER);
	assert_int_equal(c.grant.generation, 1);
	assert_int_equal(c.grant.addr, (uintptr_t)fx->file.map);
	assert_int_equal(c.grant.length, fx->file.size);
	assert_int_equal(c.grant.access, BOTH);
	assert_int_equal(daxlease_peer_get_grant(c.taker.peer, NUMBER, &now), 0);
	assert_int_equal(now.rkey, c.grant.rkey);
	assert_int_equal(daxlease_peer_get_grant(c.taker.peer, NUMBER + 1, &now), -ENOENT);
	assert_int_equal(edge_windows(), windows);
	assert_int_equal(edge_opens(&c.holder.qp, c.grant.rkey, BOTH), windows);

	begin_break(fx, &h, &b);
	wait_revoke(fx, &c);
	NOT_FOR_MS(fx, 30, breaker_done(&b)); /* it waits for the peer */
	carry(&c.holder, &c.taker);
	assert_int_equal(c.revokes, 1);
	assert_true(c.deadline_ns > now_ns());
	assert_true(c.deadline_ns <= now_ns() + 10000000000u);
	assert_int_equal(daxlease_peer_get_grant(c.taker.peer, NUMBER, &now), -ENOENT);
	NOT_FOR_MS(fx, 30, breaker_done(&b)); /* for its answer */
	assert_int_equal(fake_live(), 3);
	carry(&c.taker, &c.holder);
	end_break(fx, &h, &b, 0);
	EVENTUALLY(fx, edge_count(&c.holder.qp) == 1);
	carry_all(&c);
	assert_int_equal(c.grants, 2);
	assert_int_equal(c.grant.generation, 2);
	assert_int_equal(edge_windows(), windows);
	assert_int_equal(stats_of(&h).grants, 2);
	assert_int_equal(stats_of(&h).revokes, 1);
	assert_int_equal(stats_of(&h).answers, 1);
	assert_int_equal(stats_of(&h).late + stats_of(&h).revoked + stats_of(&h).protocol, 0);
	assert_int_equal(stats_of(&h).windows, windows);
	assert_int_equal(fake_fences(), 0);
	assert_int_equal(daxlease_peer_free(c.taker.peer), 0);
	assert_int_equal(daxlease_offer_remove(h.offer, c.holder.peer), 0);
	assert_int_equal(daxlease_offer_remove(h.offer, c.holder.peer), -ENOENT);
	assert_int_equal(c.holder.qp.state == IBV_QPS_ERR, !windows);
	assert_int_equal(daxlease_peer_free(c.holder.peer), 0);
	end_offer(fx, &h);
}

static void offer__with_windows(void **state)
{
	offer__grant_revoke_grant(*state, true);
}

static void offer__with_keys(void **state)
{
	offer__grant_revoke_grant(*state, false);
}

static void offer__access_of_the_region(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };

	offer(fx, &h, true, 0);
	assert_int_equal(fake_last_access() & ~IBV_ACCESS_ON_DEMAND,
			 IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_MW_BIND);
	end_offer(fx, &h);
	assert_int_equal(try_offer(fx, &h, DAXLEASE_OFFER_NO_WINDOWS, 0, true), 0);
	assert_int_equal(fake_last_access() & ~IBV_ACCESS_ON_DEMAND, IBV_ACCESS_LOCAL_WRITE | BOTH);
	assert_false(stats_of(&h).windows);
	end_offer(fx, &h);
}

/* The file is shorter afterwards, and then as long as before. */
static void offer__new_length(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };
	struct breaker b;

	offer(fx, &h, true, 0);
	join(fx, &h, &c);
	breaker_truncate(&b, &fx->file, PAGE);
	wait_revoke(fx, &c);
	carry_all(&c);
	end_break(fx, &h, &b, 0);
	EVENTUALLY(fx, edge_count(&c.holder.qp) == 1);
	carry_all(&c);
	assert_int_equal(c.grant.length, PAGE);
	conn_close(&c);
	end_offer(fx, &h);
}

/* A peer that comes while there is nothing to have gets it later. */
static void offer__joined_meanwhile(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };

	offer(fx, &h, true, 0);
	fix_serve(fx);
	assert_int_equal(daxlease_mr_recall(h.u.mr), 0);
	fix_serve_stop(fx);
	conn_open(fx, &c);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, IBV_ACCESS_REMOTE_READ), 0);
	NOT_FOR_MS(fx, 20, edge_count(&c.holder.qp) != 0);
	assert_int_equal(daxlease_mr_regain(h.u.mr), 0);
	EVENTUALLY(fx, edge_count(&c.holder.qp) == 1);
	carry_all(&c);
	assert_int_equal(c.grant.access, IBV_ACCESS_REMOTE_READ);
	assert_true(edge_opens(&c.holder.qp, c.grant.rkey, IBV_ACCESS_REMOTE_READ));
	assert_false(edge_opens(&c.holder.qp, c.grant.rkey, IBV_ACCESS_REMOTE_WRITE));
	conn_close(&c);
	end_offer(fx, &h);
}

/* An answer that comes later, and one from inside the callback. */
static void offer__answered_later(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { .revoke_answer = DAXLEASE_PENDING }, d = { .answer_inside = true };
	struct breaker b;

	offer(fx, &h, true, 0);
	join(fx, &h, &c);
	join(fx, &h, &d);
	assert_int_equal(daxlease_peer_drained(c.taker.peer, NUMBER), -EINVAL);
	begin_break(fx, &h, &b);
	wait_revoke(fx, &d);
	carry_all(&d);
	carry_all(&c);
	assert_int_equal(c.revokes + d.revokes, 2);
	assert_int_equal(edge_windows(), 1); /* an answer ends access at once */
	NOT_FOR_MS(fx, 30, breaker_done(&b));
	assert_int_equal(daxlease_peer_drained(c.taker.peer, NUMBER), 0);
	assert_int_equal(daxlease_peer_drained(c.taker.peer, NUMBER), -EINVAL);
	carry_all(&c);
	end_break(fx, &h, &b, 0);
	conn_close(&c);
	conn_close(&d);
	end_offer(fx, &h);
}

/* ------------------------------------------------------------------------- */
/* The application's own part of a drain */

static void own__answered_later(void **state)
{
	struct fix *fx = *state;
	struct holder h = { .u.drain_answer = DAXLEASE_PENDING };
	struct conn c = { 0 };
	struct breaker b;

	offer(fx, &h, true, 0);
	join(fx, &h, &c);
	assert_int_equal(daxlease_offer_drained(h.offer), -EINVAL);
	begin_break(fx, &h, &b);
	wait_revoke(fx, &c);
	carry_all(&c);
	NOT_FOR_MS(fx, 30, breaker_done(&b));
	assert_int_equal(daxlease_offer_drained(h.offer), 0);
	assert_int_equal(daxlease_offer_drained(h.offer), -EINVAL);
	end_break(fx, &h, &b, 0);
	conn_close(&c);
	end_offer(fx, &h);
}

static void own__cannot(void **state)
{
	struct fix *fx = *state;
	struct holder h = { .u.drain_answer = -EIO };
	struct conn c = { 0 };
	struct breaker b;

	offer(fx, &h, false, 0);
	join(fx, &h, &c);
	breaker_truncate(&b, &fx->file, fx->file.size);
	end_break(fx, &h, &b, -ETIMEDOUT);
	assert_int_equal(c.holder.qp.state, IBV_QPS_ERR);
	assert_int_equal(atomic_load(&h.fences), 1);
	conn_close(&c);
	end_offer(fx, &h);
}

static void own__drained_too_late(void **state)
{
	struct fix *fx = *state;
	struct holder h = { .u.drain_answer = DAXLEASE_PENDING };
	struct breaker b;

	offer(fx, &h, true, SHORT_MS);
	fake_shut_dereg();
	begin_break(fx, &h, &b);
	EVENTUALLY(fx, fake_waiting() == 1);
	assert_int_equal(daxlease_offer_drained(h.offer), -ETIMEDOUT);
	fake_open_dereg();
	end_break(fx, &h, &b, -ETIMEDOUT);
	EVENTUALLY(fx, atomic_load(&h.u.regains) == 1);
	EVENTUALLY(fx, daxlease_offer_drained(h.offer) == -EINVAL);
	end_offer(fx, &h);
}

static void own__nothing_to_do(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct breaker b;

	edge_reset(true);
	assert_int_equal(try_offer(fx, &h, 0, 0, false), 0);
	breaker_truncate(&b, &fx->file, fx->file.size);
	end_break(fx, &h, &b, 0);
	end_offer(fx, &h);
}

/* ------------------------------------------------------------------------- */
/* Peers that do not answer */

static void late__others_are_left_alone(struct fix *fx, bool windows)
{
	struct holder h = { 0 };
	struct conn good = { 0 }, silent = { 0 };
	struct breaker b;
	uint64_t start = now_ns();

	offer(fx, &h, windows, SHORT_MS);
	join(fx, &h, &good);
	join(fx, &h, &silent);
	begin_break(fx, &h, &b);
	wait_revoke(fx, &silent);
	carry_all(&good);
	end_break(fx, &h, &b, -ETIMEDOUT);
	assert_true(b.done_ns - start < 3000000000u);
	assert_int_equal(atomic_load(&h.lates), 1);
	assert_int_equal(atomic_load(&h.fences), 1);
	assert_ptr_equal(h.late_peer, silent.holder.peer);
	assert_int_equal(atomic_load(&h.how),
			 windows ? DAXLEASE_LATE_REVOKED : DAXLEASE_LATE_FENCED);
	assert_int_equal(silent.holder.qp.state == IBV_QPS_ERR, !windows);
	assert_int_equal(good.holder.qp.state, 0);
	assert_false(edge_opens(&silent.holder.qp, silent.grant.rkey, BOTH));
	EVENTUALLY(fx, edge_count(&good.holder.qp) == 1);
	carry_all(&good);
	assert_int_equal(good.grants, 2);
	assert_int_equal(edge_windows(), windows ? 1 : 0);
	assert_int_equal(stats_of(&h).late, windows ? 0 : 1);
	assert_int_equal(stats_of(&h).revoked, windows ? 1 : 0);
	if (windows) { /* it wakes up, answers, and is back in the game */
		carry_all(&silent);
		assert_int_equal(silent.revokes, 1);
		assert_int_equal(silent.grants, 2);
		assert_true(edge_opens(&silent.holder.qp, silent.grant.rkey, BOTH));
	} else {
		assert_int_equal(daxlease_offer_add(h.offer, silent.holder.peer, BOTH), -ENOTCONN);
	}
	conn_close(&good);
	conn_close(&silent);
	end_offer(fx, &h);
}

static void late__revoked(void **state)
{
	late__others_are_left_alone(*state, true);
}

static void late__fenced(void **state)
{
	late__others_are_left_alone(*state, false);
}

/* Nobody dispatches: the library's thread takes away what was never asked back. */
static void late__never_asked(struct fix *fx, bool windows)
{
	struct holder h = { 0 };
	struct conn c = { 0 };
	struct breaker b;

	offer(fx, &h, windows, SHORT_MS);
	join(fx, &h, &c);
	fx->idle = true;
	breaker_truncate(&b, &fx->file, fx->file.size);
	EVENTUALLY(fx, breaker_done(&b));
	assert_int_equal(c.holder.qp.state == IBV_QPS_ERR, !windows);
	assert_int_equal(edge_count(&c.holder.qp), windows ? 1 : 0);
	assert_int_equal(atomic_load(&h.u.drains), 0);
	fx->idle = false;
	end_break(fx, &h, &b, -ETIMEDOUT);
	EVENTUALLY(fx, atomic_load(&h.u.regains) == 1);
	carry_all(&c);
	assert_int_equal(c.grants, windows ? 2 : 1);
	assert_int_equal(c.revokes, windows ? 1 : 0);
	conn_close(&c);
	end_offer(fx, &h);
}

static void late__never_asked_revoked(void **state)
{
	late__never_asked(*state, true);
}

static void late__never_asked_fenced(void **state)
{
	late__never_asked(*state, false);
}

/* The window is not taken away: the queue pair is, and the lease is kept. */
static void late__window_stays(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };
	struct breaker b;

	offer(fx, &h, true, SHORT_MS);
	join(fx, &h, &c);
	edge_fail_free(1, EBUSY);
	breaker_truncate(&b, &fx->file, fx->file.size);
	EVENTUALLY(fx, c.holder.qp.state == IBV_QPS_ERR);
	EVENTUALLY(fx, fix_said(fx, "not taken away"));
	EVENTUALLY(fx, fix_said(fx, "the lease is kept, trying again"));
	assert_false(breaker_done(&b));
	edge_lose_windows();
	end_break(fx, &h, &b, -ETIMEDOUT);
	conn_close(&c);
	end_offer(fx, &h);
}

/* ------------------------------------------------------------------------- */
/* Peers that answer wrongly */

static struct wire_msg answer_of(const struct conn *c)
{
	return (struct wire_msg){ .type = WIRE_DRAINED,
				  .offer = NUMBER,
				  .generation = c->grant.generation };
}

/* One of two sends this, at rest or while it was asked; the other one goes on. */
static void assert_broken_by(struct fix *fx, const void *bytes, uint32_t len, bool in_drain)
{
	struct holder h = { 0 };
	struct conn good = { 0 }, bad = { 0 };
	struct breaker b;

	offer(fx, &h, true, 0);
	join(fx, &h, &good);
	join(fx, &h, &bad);
	if (in_drain) {
		begin_break(fx, &h, &b);
		wait_revoke(fx, &good);
		carry_all(&good);
		NOT_FOR_MS(fx, 20, breaker_done(&b));
	}
	assert_int_equal(receive(&bad.holder, bytes, len), -EPROTO);
	assert_int_equal(bad.holder.qp.state, IBV_QPS_ERR);
	assert_false(edge_opens(&bad.holder.qp, bad.grant.rkey, BOTH));
	assert_int_equal(stats_of(&h).protocol, 1);
	if (!in_drain) {
		begin_break(fx, &h, &b);
		carry_all(&good);
	}
	end_break(fx, &h, &b, 0);
	assert_int_equal(atomic_load(&h.lates), 0);
	EVENTUALLY(fx, edge_count(&good.holder.qp) == 1);
	carry_all(&good);
	assert_int_equal(good.grants, 2);
	assert_int_equal(edge_count(&bad.holder.qp), in_drain ? 1 : 0); /* its old revoke */
	/* Nothing that it says counts any more. */
	assert_int_equal(receive(&bad.holder, bytes, len), 1);
	assert_int_equal(stats_of(&h).protocol, 1);
	conn_close(&good);
	conn_close(&bad);
	end_offer(fx, &h);
}

static void assert_msg_breaks(struct fix *fx, struct wire_msg msg, bool in_drain)
{
	uint8_t bytes[WIRE_SIZE];

	wire_encode(&msg, bytes);
	assert_broken_by(fx, bytes, sizeof(bytes), in_drain);
}

static void wrong__unasked(void **state)
{
	const struct conn first = { .grant.generation = 1 };

	assert_msg_breaks(*state, answer_of(&first), false);
}

static void wrong__old_generation(void **state)
{
	const struct conn other = { .grant.generation = 2 };

	assert_msg_breaks(*state, answer_of(&other), true);
}

static void wrong__a_revoke_for_the_holder(void **state)
{
	const struct wire_msg msg = { .type = WIRE_REVOKE, .offer = NUMBER, .generation = 1 };

	assert_msg_breaks(*state, msg, true);
}

static void wrong__garbage(void **state)
{
	uint8_t bytes[100];

	memset(bytes, 0xa5, sizeof(bytes));
	memcpy(bytes, "DAXL", 4);
	assert_broken_by(*state, bytes, sizeof(bytes), false);
	fake_reset();
}

static void wrong__answers_twice(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };
	struct breaker b;
	struct wire_msg msg;

	offer(fx, &h, true, 0);
	join(fx, &h, &c);
	msg = answer_of(&c);
	begin_break(fx, &h, &b);
	wait_revoke(fx, &c);
	assert_int_equal(receive_msg(&c.holder, &msg), 1);
	assert_int_equal(receive_msg(&c.holder, &msg), -EPROTO);
	assert_int_equal(c.holder.qp.state, IBV_QPS_ERR);
	end_break(fx, &h, &b, 0);
	conn_close(&c);
	end_offer(fx, &h);
}

/* The application's own messages, and an offer that is none. */
static void wrong__not_ours(void **state)
{
	const struct wire_msg unknown = { .type = WIRE_DRAINED, .offer = 99, .generation = 5 };
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };
	struct ibv_wc wc = { .wr_id = 3, .opcode = IBV_WC_RDMA_WRITE };

	offer(fx, &h, true, 0);
	join(fx, &h, &c);
	assert_int_equal(receive(&c.holder, "hello, this is not for you", 26), 0);
	assert_int_equal(receive(&c.holder, "", 0), 0);
	assert_int_equal(daxlease_peer_wc(c.holder.peer, &wc, NULL), 0);
	assert_int_equal(receive_msg(&c.holder, &unknown), 1);
	assert_int_equal(c.holder.qp.state, 0);
	conn_close(&c);
	end_offer(fx, &h);
}

/* ------------------------------------------------------------------------- */
/* Connections that end, queues that are full */

static void conn__ends_in_a_drain(struct fix *fx, void (*end)(struct conn *c))
{
	struct holder h = { 0 };
	struct conn c = { 0 };
	struct breaker b;

	offer(fx, &h, true, 0);
	join(fx, &h, &c);
	begin_break(fx, &h, &b);
	wait_revoke(fx, &c);
	NOT_FOR_MS(fx, 20, breaker_done(&b));
	end(&c);
	end_break(fx, &h, &b, 0);
	assert_int_equal(atomic_load(&h.lates), 0);
	assert_int_equal(daxlease_peer_free(c.holder.peer), 0);
	assert_int_equal(daxlease_peer_free(c.taker.peer), 0);
	end_offer(fx, &h);
}

static void fail_message(struct conn *c)
{
	complete(&c->holder, edge_take(&c->holder.qp).wr_id, IBV_WC_RETRY_EXC_ERR);
	assert_int_equal(c->holder.qp.state, IBV_QPS_ERR);
}

static void fail_work(struct conn *c)
{
	const struct ibv_wc wc = { .wr_id = 1, .status = IBV_WC_WR_FLUSH_ERR };

	assert_int_equal(daxlease_peer_wc(c->holder.peer, &wc, NULL), 0);
}

static void free_peer(struct conn *c)
{
	assert_int_equal(daxlease_peer_free(c->holder.peer), 0);
	assert_int_equal(c->holder.qp.state, IBV_QPS_ERR);
	c->holder.peer = NULL;
}

static void conn__message_fails(void **state)
{
	conn__ends_in_a_drain(*state, fail_message);
}

static void conn__work_fails(void **state)
{
	conn__ends_in_a_drain(*state, fail_work);
}

static void conn__peer_is_freed(void **state)
{
	conn__ends_in_a_drain(*state, free_peer);
}

/* What was not sent yet is taken back without a word. */
static void conn__grant_never_sent(struct fix *fx, bool bound)
{
	struct holder h = { 0 };
	struct conn c = { 0 };
	struct ibv_wc wc = { .wr_id = 1, .opcode = IBV_WC_RDMA_WRITE };
	struct breaker b;

	offer(fx, &h, true, 0);
	conn_open(fx, &c);
	edge_fail_post(2, ENOMEM, bound);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, BOTH), 0);
	assert_int_equal(daxlease_peer_wc(c.holder.peer, &wc, NULL), 0); /* in vain */
	assert_int_equal(edge_count(&c.holder.qp), 0);
	breaker_truncate(&b, &fx->file, fx->file.size);
	end_break(fx, &h, &b, 0);
	assert_int_equal(c.revokes, 0);
	EVENTUALLY(fx, edge_count(&c.holder.qp) == 1);
	carry_all(&c);
	assert_int_equal(c.grants, 1);
	assert_int_equal(edge_windows(), 1);
	assert_int_equal(stats_of(&h).grants, 1);
	conn_close(&c);
	end_offer(fx, &h);
}

static void conn__grant_never_sent_nor_bound(void **state)
{
	conn__grant_never_sent(*state, false);
}

static void conn__grant_bound_never_sent(void **state)
{
	conn__grant_never_sent(*state, true);
}

/* The queue has room again. */
static void conn__queue_full(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };
	struct ibv_wc wc = { .wr_id = 1, .opcode = IBV_WC_RDMA_WRITE };

	offer(fx, &h, true, 0);
	conn_open(fx, &c);
	edge_fail_post(1, ENOMEM, true);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, BOTH), 0);
	assert_int_equal(edge_count(&c.holder.qp), 0);
	assert_int_equal(daxlease_peer_wc(c.holder.peer, &wc, NULL), 0);
	carry_all(&c);
	assert_int_equal(c.grants, 1);
	assert_true(edge_opens(&c.holder.qp, c.grant.rkey, BOTH));
	conn_close(&c);
	end_offer(fx, &h);
}

static void conn__cannot_be_posted(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };

	offer(fx, &h, true, 0);
	conn_open(fx, &c);
	edge_fail_post(1, EINVAL, false);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, BOTH), -ENOTCONN);
	assert_int_equal(c.holder.qp.state, IBV_QPS_ERR);
	assert_int_equal(stats_of(&h).peers, 0);
	conn_close(&c);
	end_offer(fx, &h);
}

/* More messages than places for them: ten offers. */
static void conn__all_slots_busy(void **state)
{
	struct fix *fx = *state;
	struct daxlease_offer *offers[10];
	struct conn c = { 0 };

	edge_reset(true);
	conn_open(fx, &c);
	for (uint32_t i = 0; i < 10; i++) {
		const struct daxlease_offer_opts opts = { .size = sizeof(opts), .number = i };

		assert_int_equal(daxlease_offer_new(fx->ctx, &fake_pd, fx->file.fd, fx->file.map,
						    PAGE, BOTH, &opts, &offers[i]),
				 0);
		assert_int_equal(daxlease_offer_add(offers[i], c.holder.peer, BOTH), 0);
	}
	assert_int_equal(edge_count(&c.holder.qp), 8);
	/* Completions of the binds, as with sq_sig_all, make no room. */
	complete(&c.holder, edge_take(&c.holder.qp).bind_wr_id, IBV_WC_SUCCESS);
	assert_int_equal(edge_count(&c.holder.qp), 7);
	carry_all(&c);
	assert_int_equal(c.grants, 9); /* one was lost, and its place with it */
	conn_close(&c);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(daxlease_offer_free(offers[i]), 0);
}

/* ------------------------------------------------------------------------- */
/* Windows that cannot be had */

static void window__none_for_a_new_peer(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };

	offer(fx, &h, true, 0);
	conn_open(fx, &c);
	edge_fail_alloc(1, ENOMEM);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, BOTH), -ENOMEM);
	assert_int_equal(stats_of(&h).peers, 0);
	assert_int_equal(c.holder.qp.state, 0);
	conn_close(&c);
	end_offer(fx, &h);
}

/* It would wait for ever: it is broken off, and can connect again. */
static void window__none_after_a_break(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };
	struct breaker b;

	offer(fx, &h, true, 0);
	join(fx, &h, &c);
	edge_fail_alloc(1, ENOMEM);
	begin_break(fx, &h, &b);
	wait_revoke(fx, &c);
	carry_all(&c);
	end_break(fx, &h, &b, 0);
	EVENTUALLY(fx, c.holder.qp.state == IBV_QPS_ERR);
	assert_true(fix_said(fx, "no memory window"));
	conn_close(&c);
	end_offer(fx, &h);
}

/* ------------------------------------------------------------------------- */
/* Ending offers */

static void free__withdraws(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };

	offer(fx, &h, true, 0);
	join(fx, &h, &c);
	fake_fail_dereg(1, EBUSY);
	assert_int_equal(daxlease_offer_free(h.offer), -EBUSY);
	assert_int_equal(stats_of(&h).peers, 0);
	assert_int_equal(edge_windows(), 0);
	assert_int_equal(daxlease_offer_free(h.offer), 0);
	carry_all(&c);
	assert_int_equal(c.revokes, 1);
	assert_int_equal(c.deadline_ns, 0); /* told, not asked */
	assert_int_equal(c.holder.qp.state, 0);
	assert_int_equal(daxlease_peer_drained(c.taker.peer, NUMBER), -EINVAL);
	conn_close(&c);
	assert_int_equal(fake_live(), 0);
}

/* It crosses an answer, and the same number is offered again. */
static void free__crosses_an_answer(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { .revoke_answer = DAXLEASE_PENDING };
	struct breaker b;

	offer(fx, &h, true, 0);
	join(fx, &h, &c);
	begin_break(fx, &h, &b);
	wait_revoke(fx, &c);
	carry_all(&c);
	assert_int_equal(daxlease_peer_drained(c.taker.peer, NUMBER), 0);
	assert_int_equal(daxlease_offer_remove(h.offer, c.holder.peer), 0);
	end_break(fx, &h, &b, 0); /* nobody is left to wait for */
	carry_all(&c);
	assert_int_equal(c.holder.qp.state, 0);
	assert_int_equal(c.revokes, 1);
	EVENTUALLY(fx, atomic_load(&h.u.regains) == 1);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, BOTH), 0);
	carry_all(&c);
	assert_int_equal(c.grants, 2);
	assert_int_equal(c.grant.generation, 2);
	conn_close(&c);
	end_offer(fx, &h);
}

/* An honest answer is under way while the same number is offered again. */
static void free__answer_crosses_a_new_offer(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };
	struct breaker b;

	offer(fx, &h, true, 0);
	join(fx, &h, &c);
	begin_break(fx, &h, &b);
	wait_revoke(fx, &c);
	carry(&c.holder, &c.taker);
	assert_int_equal(edge_count(&c.taker.qp), 1);
	assert_int_equal(daxlease_offer_remove(h.offer, c.holder.peer), 0);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, BOTH), 0);
	end_break(fx, &h, &b, 0);
	EVENTUALLY(fx, atomic_load(&h.u.regains) == 1);
	carry(&c.taker, &c.holder);
	carry_all(&c);
	assert_int_equal(c.holder.qp.state, 0);
	assert_int_equal(c.grants, 2);
	conn_close(&c);
	end_offer(fx, &h);
}

/* A connection may see any number of offers, one after the other. */
static void free__offers_come_and_go(void **state)
{
	struct fix *fx = *state;
	struct daxlease_offer_opts opts = { .size = sizeof(opts) };
	struct daxlease_offer *o;
	struct conn c = { 0 };

	edge_reset(true);
	conn_open(fx, &c);
	for (opts.number = 1; opts.number <= DAXLEASE_PEER_OFFERS + 5; opts.number++) {
		assert_int_equal(daxlease_offer_new(fx->ctx, &fake_pd, fx->file.fd, fx->file.map,
						    PAGE, BOTH, &opts, &o),
				 0);
		assert_int_equal(daxlease_offer_add(o, c.holder.peer, BOTH), 0);
		carry_all(&c);
		assert_int_equal(c.grants, opts.number);
		assert_int_equal(daxlease_offer_free(o), 0);
		carry_all(&c);
		assert_int_equal(c.revokes, opts.number);
	}
	conn_close(&c);
}

/* ------------------------------------------------------------------------- */
/* Locks, threads, children */

static struct {
	struct daxlease_offer *offer;
	pthread_t thread;
	atomic_bool begun, done;
} other;

static void *ask_for_stats(void *arg)
{
	struct daxlease_offer_stats stats = { .size = sizeof(stats) };

	(void)arg;
	assert_int_equal(daxlease_offer_get_stats(other.offer, &stats), 0);
	atomic_store(&other.done, true);
	return NULL;
}

/* Waits for another thread of the program that calls in here, as for a lock of its. */
static void log_and_wait(enum daxlease_log_level level, const char *line, void *userdata)
{
	(void)level, (void)userdata;
	if (!strstr(line, "not delivered") || atomic_exchange(&other.begun, true))
		return;
	pthread_create(&other.thread, NULL, ask_for_stats, NULL);
	for (int i = 0; i < 500 && !atomic_load(&other.done); i++)
		sleep_ms(10);
	assert_true(atomic_load(&other.done));
}

static void lock__not_held_for_log_lines(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };
	struct breaker b;

	offer(fx, &h, true, 0);
	join(fx, &h, &c);
	other.offer = h.offer;
	assert_int_equal(daxlease_ctx_set_log(fx->ctx, log_and_wait, DAXLEASE_LOG_INFO, NULL), 0);
	begin_break(fx, &h, &b);
	wait_revoke(fx, &c);
	fail_message(&c);
	end_break(fx, &h, &b, 0);
	EVENTUALLY(fx, atomic_load(&other.done));
	pthread_join(other.thread, NULL);
	assert_int_equal(daxlease_ctx_set_log(fx->ctx, NULL, DAXLEASE_LOG_ERR, NULL), 0);
	conn_close(&c);
	end_offer(fx, &h);
}

static void *come_and_go(void *arg)
{
	struct daxlease_grant grant = { .size = sizeof(grant) };
	struct conn *c = arg;

	while (!atomic_load(&other.done))
		daxlease_peer_get_grant(c->taker.peer, NUMBER, &grant);
	return NULL;
}

/* A child makes its own, whatever the parent's threads were in the middle of. */
static void lock__is_new_in_a_child(void **state)
{
	struct conn c = { 0 };
	pthread_t thread;
	int status;

	edge_reset(false);
	conn_open(*state, &c);
	atomic_store(&other.done, false);
	assert_int_equal(pthread_create(&thread, NULL, come_and_go, &c), 0);
	for (int i = 0; i < 100; i++) {
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (!pid) {
			struct conn own = { 0 };
			struct daxlease_grant grant = { .size = sizeof(grant) };

			alarm(10);
			fault_after_fork();
			end_open(NULL, &own.taker, NULL);
			_exit(daxlease_peer_get_grant(own.taker.peer, 1, &grant) != -ENOENT);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
	atomic_store(&other.done, true);
	pthread_join(thread, NULL);
	conn_close(&c);
}

static struct daxlease_mr *late_mr;

static void until_fenced(void)
{
	for (int i = 0; i < 500; i++) {
		if (daxlease_mr_get_state(late_mr) == DAXLEASE_STATE_DEREGISTERING)
			return;
		sleep_ms(10);
	}
}

/* The budget ends while a window is made for a new peer. */
static void late__while_it_is_granted(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };
	struct breaker b;

	offer(fx, &h, true, SHORT_MS);
	conn_open(fx, &c);
	fx->idle = true; /* the drain callback is not called */
	breaker_truncate(&b, &fx->file, fx->file.size);
	EVENTUALLY(fx, user_state(&h.u) == DAXLEASE_STATE_DRAINING);
	late_mr = h.u.mr;
	edge_before_alloc(until_fenced);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, BOTH), 0);
	edge_before_alloc(NULL);
	fx->idle = false;
	end_break(fx, &h, &b, -ETIMEDOUT);
	conn_close(&c);
	end_offer(fx, &h);
}

/* ------------------------------------------------------------------------- */
/* What is refused */

static void refused__offers(void **state)
{
	struct fix *fx = *state;
	struct daxlease_offer *o = NULL;
	struct daxlease_offer_opts opts = { .size = sizeof(opts) };
	struct daxlease_mr_opts mr = { .size = 1 };
	const int fd = fx->file.fd;
	char *const map = fx->file.map;

	edge_reset(true);
	assert_int_equal(daxlease_offer_new(NULL, &fake_pd, fd, map, PAGE, BOTH, NULL, &o),
			 -EINVAL);
	assert_int_equal(daxlease_offer_new(fx->ctx, NULL, fd, map, PAGE, BOTH, NULL, &o), -EINVAL);
	assert_int_equal(daxlease_offer_new(fx->ctx, &fake_pd, fd, map, PAGE, 0, NULL, &o),
			 -EINVAL);
	assert_int_equal(daxlease_offer_new(fx->ctx, &fake_pd, fd, map, PAGE, ACCESS, NULL, &o),
			 -EINVAL);
	assert_int_equal(daxlease_offer_new(fx->ctx, &fake_pd, -1, map, PAGE, BOTH, NULL, &o),
			 -EBADF);
	opts.flags = 1u << 31;
	assert_int_equal(daxlease_offer_new(fx->ctx, &fake_pd, fd, map, PAGE, BOTH, &opts, &o),
			 -EINVAL);
	assert_true(fix_said(fx, "unknown flags"));
	opts.flags = 0;
	opts.mr = &mr;
	assert_int_equal(daxlease_offer_new(fx->ctx, &fake_pd, fd, map, PAGE, BOTH, &opts, &o),
			 -EINVAL);
	opts.size = 1;
	assert_int_equal(daxlease_offer_new(fx->ctx, &fake_pd, fd, map, PAGE, BOTH, &opts, &o),
			 -EINVAL);
	assert_null(o);
	assert_int_equal(fake_live(), 0);
	assert_int_equal(daxlease_offer_free(NULL), 0);
	assert_null(daxlease_offer_get_mr(NULL));
}

static void refused__peers(void **state)
{
	struct ibv_pd other_pd = fake_pd;
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 }, d = { 0 };

	offer(fx, &h, false, 0);
	conn_open(fx, &c);
	assert_int_equal(daxlease_offer_add(h.offer, NULL, BOTH), -EINVAL);
	assert_int_equal(daxlease_offer_add(NULL, c.holder.peer, BOTH), -EINVAL);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, 0), -EINVAL);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, IBV_ACCESS_REMOTE_ATOMIC),
			 -EINVAL);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, IBV_ACCESS_REMOTE_READ),
			 -EOPNOTSUPP);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, BOTH), 0);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, BOTH), -EEXIST);
	conn_open(fx, &d);
	d.holder.qp.pd = &other_pd;
	assert_int_equal(daxlease_offer_add(h.offer, d.holder.peer, BOTH), -EINVAL);
	assert_true(fix_said(fx, "protection domain"));
	conn_close(&c);
	conn_close(&d);
	end_offer(fx, &h);
}

static void refused__new_peers(void **state)
{
	struct fix *fx = *state;
	struct ibv_qp ud = { .qp_type = IBV_QPT_UD, .pd = &fake_pd };
	struct ibv_qp rc = { .qp_type = IBV_QPT_RC, .pd = &fake_pd };
	struct rdma_cm_id id = { 0 };
	struct daxlease_peer_opts opts = { .size = 1 };
	struct daxlease_peer *peer = NULL;

	assert_int_equal(daxlease_peer_new(fx->ctx, NULL, NULL, &peer), -EINVAL);
	assert_int_equal(daxlease_peer_new(fx->ctx, &id, NULL, &peer), -EINVAL);
	assert_true(fix_said(fx, "rdma_create_qp"));
	id.qp = &ud;
	assert_int_equal(daxlease_peer_new(fx->ctx, &id, NULL, &peer), -EINVAL);
	id.qp = &rc;
	assert_int_equal(daxlease_peer_new(fx->ctx, &id, NULL, NULL), -EINVAL);
	assert_int_equal(daxlease_peer_new(fx->ctx, &id, &opts, &peer), -EINVAL);
	opts.size = 1 << 20;
	assert_int_equal(daxlease_peer_new(fx->ctx, &id, &opts, &peer), -E2BIG);
	fake_fail_reg(1, ENOMEM);
	assert_int_equal(daxlease_peer_new(fx->ctx, &id, NULL, &peer), -ENOMEM);
	fault_arm_name("sys_calloc", 1, 1);
	assert_int_equal(daxlease_peer_new(fx->ctx, &id, NULL, &peer), -ENOMEM);
	assert_null(peer);
	assert_int_equal(daxlease_peer_free(NULL), 0);
	assert_int_equal(daxlease_peer_wc(NULL, NULL, NULL), -EINVAL);
	assert_null(daxlease_peer_get_id(NULL));
	assert_null(daxlease_peer_get_userdata(NULL));
	assert_int_equal(fake_live(), 0);
}

static void refused__in_a_child(void **state)
{
	struct daxlease_offer_stats stats = { .size = sizeof(stats) };
	struct daxlease_grant grant = { .size = sizeof(grant) };
	struct ibv_wc wc = { 0 };
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };

	offer(fx, &h, true, 0);
	join(fx, &h, &c);
	fault_pid(1);
	assert_int_equal(daxlease_peer_wc(c.holder.peer, &wc, NULL), -ECHILD);
	assert_int_equal(daxlease_peer_drained(c.taker.peer, NUMBER), -ECHILD);
	assert_int_equal(daxlease_peer_get_grant(c.taker.peer, NUMBER, &grant), -ECHILD);
	assert_int_equal(daxlease_peer_free(c.holder.peer), -ECHILD);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, BOTH), -ECHILD);
	assert_int_equal(daxlease_offer_remove(h.offer, c.holder.peer), -ECHILD);
	assert_int_equal(daxlease_offer_drained(h.offer), -ECHILD);
	assert_int_equal(daxlease_offer_get_stats(h.offer, &stats), -ECHILD);
	assert_int_equal(daxlease_offer_free(h.offer), -ECHILD);
	fault_pid(0);
	assert_int_equal(daxlease_peer_wc(c.holder.peer, NULL, NULL), -EINVAL);
	assert_int_equal(daxlease_peer_get_grant(c.taker.peer, NUMBER, NULL), -EINVAL);
	assert_int_equal(daxlease_offer_get_stats(h.offer, NULL), -EINVAL);
	conn_close(&c);
	end_offer(fx, &h);
}

/* ------------------------------------------------------------------------- */
/* A holder that breaks the protocol */

static void taker__assert_breaks(void **state, struct wire_msg msg, bool granted)
{
	struct conn c = { .revoke_answer = DAXLEASE_PENDING };
	struct wire_msg grant = { .type = WIRE_GRANT,
				  .offer = NUMBER,
				  .generation = 5,
				  .length = 1,
				  .access = IBV_ACCESS_REMOTE_READ };

	edge_reset(false);
	conn_open(*state, &c);
	if (granted)
		assert_int_equal(receive_msg(&c.taker, &grant), 1);
	assert_int_equal(receive_msg(&c.taker, &msg), -EPROTO);
	assert_int_equal(c.taker.qp.state, IBV_QPS_ERR);
	assert_int_equal(receive_msg(&c.taker, &grant), 1); /* heard no more */
	assert_int_equal(c.grants, granted);
	conn_close(&c);
}

static void taker__revoke_without_grant(void **state)
{
	taker__assert_breaks(
		state, (struct wire_msg){ .type = WIRE_REVOKE, .offer = NUMBER, .generation = 5 },
		false);
}

static void taker__revoke_of_another_generation(void **state)
{
	taker__assert_breaks(
		state, (struct wire_msg){ .type = WIRE_REVOKE, .offer = NUMBER, .generation = 4 },
		true);
}

static void taker__withdraw_without_grant(void **state)
{
	taker__assert_breaks(
		state, (struct wire_msg){ .type = WIRE_WITHDRAW, .offer = NUMBER, .generation = 4 },
		true);
}

static void taker__grant_over_grant(void **state)
{
	taker__assert_breaks(state,
			     (struct wire_msg){ .type = WIRE_GRANT,
						.offer = NUMBER,
						.generation = 6,
						.length = 1,
						.access = IBV_ACCESS_REMOTE_READ },
			     true);
}

static void taker__old_grant(void **state)
{
	taker__assert_breaks(state,
			     (struct wire_msg){ .type = WIRE_GRANT,
						.offer = NUMBER + 1,
						.generation = 5,
						.length = 1,
						.access = IBV_ACCESS_REMOTE_READ },
			     true);
}

static void taker__too_many_offers(void **state)
{
	struct conn c = { 0 };
	struct wire_msg grant = { .type = WIRE_GRANT,
				  .length = 1,
				  .access = IBV_ACCESS_REMOTE_READ };

	edge_reset(false);
	conn_open(*state, &c);
	for (grant.offer = 0; grant.offer < DAXLEASE_PEER_OFFERS; grant.offer++) {
		grant.generation++;
		assert_int_equal(receive_msg(&c.taker, &grant), 1);
	}
	grant.generation++;
	assert_int_equal(receive_msg(&c.taker, &grant), -EPROTO);
	conn_close(&c);
}

static void taker__no_memory(void **state)
{
	struct conn c = { 0 };
	const struct wire_msg grant = {
		.type = WIRE_GRANT, .generation = 1, .length = 1, .access = IBV_ACCESS_REMOTE_READ
	};

	edge_reset(false);
	conn_open(*state, &c);
	fault_arm_name("sys_calloc", 1, 1);
	assert_int_equal(receive_msg(&c.taker, &grant), -ENOMEM);
	assert_int_equal(c.taker.qp.state, IBV_QPS_ERR);
	assert_int_equal(daxlease_peer_drained(c.taker.peer, 0), -EINVAL);
	conn_close(&c);
}

static void taker__cannot_stop(void **state)
{
	struct fix *fx = *state;
	struct conn c = { .revoke_answer = -EIO };
	struct holder h = { 0 };
	struct breaker b;

	offer(fx, &h, true, SHORT_MS);
	join(fx, &h, &c);
	begin_break(fx, &h, &b);
	wait_revoke(fx, &c);
	carry(&c.holder, &c.taker);
	assert_int_equal(c.taker.qp.state, IBV_QPS_ERR);
	assert_int_equal(edge_count(&c.taker.qp), 0);
	end_break(fx, &h, &b, -ETIMEDOUT);
	conn_close(&c);
	end_offer(fx, &h);
}

static void taker__answers_a_broken_connection(void **state)
{
	struct conn c = { .revoke_answer = DAXLEASE_PENDING };
	struct ibv_wc wc = { .wr_id = 1, .status = IBV_WC_WR_FLUSH_ERR };
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct breaker b;

	offer(fx, &h, true, SHORT_MS);
	join(fx, &h, &c);
	begin_break(fx, &h, &b);
	wait_revoke(fx, &c);
	carry(&c.holder, &c.taker);
	assert_int_equal(daxlease_peer_wc(c.taker.peer, &wc, NULL), 0);
	assert_int_equal(daxlease_peer_drained(c.taker.peer, NUMBER), -ENOTCONN);
	end_break(fx, &h, &b, -ETIMEDOUT);
	conn_close(&c);
	end_offer(fx, &h);
}

/* Without callbacks it is answered by itself. */
static void taker__without_callbacks(void **state)
{
	struct fix *fx = *state;
	struct holder h = { 0 };
	struct conn c = { 0 };
	struct breaker b;

	offer(fx, &h, true, 0);
	end_open(fx, &c.holder, NULL);
	end_open(NULL, &c.taker, NULL);
	assert_int_equal(daxlease_offer_add(h.offer, c.holder.peer, BOTH), 0);
	carry_all(&c);
	begin_break(fx, &h, &b);
	wait_revoke(fx, &c);
	carry_all(&c);
	end_break(fx, &h, &b, 0);
	conn_close(&c);
	end_offer(fx, &h);
}

/* ------------------------------------------------------------------------- */
/* Registering for an id */

static void reg__access_and_queue_pair(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = -EIO };
	struct ibv_qp qp = { .qp_type = IBV_QPT_RC, .pd = &fake_pd };
	struct rdma_cm_id id = { .pd = &fake_pd };
	struct daxlease_mr_opts opts = user_opts(&u, 0, 0);
	struct breaker b;
	const struct {
		typeof(daxlease_reg_msgs) *fn;
		int access;
	} all[] = {
		{ daxlease_reg_msgs, IBV_ACCESS_LOCAL_WRITE },
		{ daxlease_reg_read, IBV_ACCESS_REMOTE_READ },
		{ daxlease_reg_write, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE },
	};

	for (unsigned int i = 0; i < 3; i++) {
		id.qp = NULL;
		assert_int_equal(
			all[i].fn(fx->ctx, &id, fx->file.fd, fx->file.map, PAGE, &opts, &u.mr),
			-EINVAL);
		assert_true(fix_said(fx, "no queue pair yet"));
		id.qp = &qp;
		fault_arm_name("sys_realloc", 1, 1);
		assert_int_equal(
			all[i].fn(fx->ctx, &id, fx->file.fd, fx->file.map, PAGE, &opts, &u.mr),
			-ENOMEM);
		fault_reset();
		assert_int_equal(
			all[i].fn(fx->ctx, &id, fx->file.fd, fx->file.map, PAGE, &opts, &u.mr), 0);
		assert_int_equal(fake_last_access() & ~IBV_ACCESS_ON_DEMAND, all[i].access);
		qp.state = 0;
		break_and_release(fx, &u, &b);
		assert_int_equal(qp.state, IBV_QPS_ERR);
		breaker_end(&b);
		user_dereg(&u);
	}
	assert_int_equal(
		daxlease_reg_msgs(NULL, &id, fx->file.fd, fx->file.map, PAGE, &opts, &u.mr),
		-EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_ALL_MODES(offer__with_windows),
		IN_ALL_MODES(offer__with_keys),
		IN_THREAD(offer__access_of_the_region),
		IN_ALL_MODES(offer__new_length),
		IN_ALL_MODES(offer__joined_meanwhile),
		IN_ALL_MODES(offer__answered_later),
		IN_ALL_MODES(own__answered_later),
		IN_ALL_MODES(own__cannot),
		IN_THREAD(own__drained_too_late),
		IN_THREAD(own__nothing_to_do),
		IN_ALL_MODES(late__revoked),
		IN_ALL_MODES(late__fenced),
		IN_MODE(late__never_asked_revoked, loop),
		IN_MODE(late__never_asked_fenced, loop),
		IN_THREAD(late__window_stays),
		IN_ALL_MODES(wrong__unasked),
		IN_ALL_MODES(wrong__old_generation),
		IN_THREAD(wrong__a_revoke_for_the_holder),
		IN_THREAD(wrong__garbage),
		IN_ALL_MODES(wrong__answers_twice),
		IN_THREAD(wrong__not_ours),
		IN_ALL_MODES(conn__message_fails),
		IN_ALL_MODES(conn__work_fails),
		IN_ALL_MODES(conn__peer_is_freed),
		IN_THREAD(conn__grant_never_sent_nor_bound),
		IN_THREAD(conn__grant_bound_never_sent),
		IN_THREAD(conn__queue_full),
		IN_THREAD(conn__cannot_be_posted),
		IN_THREAD(conn__all_slots_busy),
		IN_THREAD(window__none_for_a_new_peer),
		IN_ALL_MODES(window__none_after_a_break),
		IN_THREAD(free__withdraws),
		IN_ALL_MODES(free__crosses_an_answer),
		IN_ALL_MODES(free__answer_crosses_a_new_offer),
		IN_THREAD(free__offers_come_and_go),
		IN_THREAD(lock__not_held_for_log_lines),
		IN_THREAD(lock__is_new_in_a_child),
		IN_MODE(late__while_it_is_granted, loop),
		IN_THREAD(refused__offers),
		IN_THREAD(refused__peers),
		IN_THREAD(refused__new_peers),
		IN_THREAD(refused__in_a_child),
		IN_THREAD(taker__revoke_without_grant),
		IN_THREAD(taker__revoke_of_another_generation),
		IN_THREAD(taker__withdraw_without_grant),
		IN_THREAD(taker__grant_over_grant),
		IN_THREAD(taker__old_grant),
		IN_THREAD(taker__too_many_offers),
		IN_THREAD(taker__no_memory),
		IN_ALL_MODES(taker__cannot_stop),
		IN_THREAD(taker__answers_a_broken_connection),
		IN_THREAD(taker__without_callbacks),
		IN_ALL_MODES(reg__access_and_queue_pair),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
