// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Anything that peers may say to each other, in any order, while the file is changed: both
 * sides of libdaxlease-rdmacm, over a region that is a model here. The input is a program;
 * see step().
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fake_edge.h"
#include "fake_verbs.h"
#include "parties.h"
#include "private.h"
#include "verbs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PEERS 3
#define NUMBER 1
#define BOTH (IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE)

/* ------------------------------------------------------------------------- */
/* The region, in place of libdaxlease */

static struct region {
	struct daxlease_mr_opts opts;
	enum {
		REGISTERED,
		DRAINING,
		DRAINED
	} state;
	uint32_t key;
} region;

bool (*fake_mr_in_use)(const struct ibv_mr *mr);
static struct ibv_mr region_mr, message_mr = { .lkey = 1 };

int daxlease_reg_mr(struct daxlease_ctx *ctx, struct ibv_pd *pd, int fd, void *addr, size_t length,
		    int access, const struct daxlease_mr_opts *opts, struct daxlease_mr **ret_mr)
{
	(void)ctx, (void)pd, (void)fd, (void)addr, (void)length, (void)access;
	region = (struct region){ .opts = *opts, .key = 1 };
	*ret_mr = (struct daxlease_mr *)&region;
	return 0;
}

int daxlease_private_reg_mr(struct daxlease_ctx *ctx, struct ibv_pd *pd, struct ibv_qp *qp, int fd,
			    void *addr, size_t length, int access,
			    const struct daxlease_mr_opts *opts, struct daxlease_mr **ret_mr)
{
	(void)qp;
	return daxlease_reg_mr(ctx, pd, fd, addr, length, access, opts, ret_mr);
}

int daxlease_dereg_mr(struct daxlease_mr *mr)
{
	(void)mr;
	if (fake_mr_in_use(&region_mr))
		abort();
	return 0;
}

int daxlease_mr_drained(struct daxlease_mr *mr)
{
	(void)mr;
	if (region.state != DRAINING)
		return -EINVAL;
	region.state = DRAINED;
	return 0;
}

int daxlease_mr_get_info(const struct daxlease_mr *mr, struct daxlease_mr_info *ret_info)
{
	(void)mr;
	if (region.state == REGISTERED) {
		ret_info->addr = &region;
		ret_info->registered = 4096;
		ret_info->rkey = region.key;
	}
	return 0;
}

struct ibv_mr *daxlease_mr_get_ibv_mr(const struct daxlease_mr *mr)
{
	(void)mr;
	return &region_mr;
}

void daxlease_private_log(struct daxlease_ctx *ctx, enum daxlease_log_level level, const char *fmt,
			  ...)
{
	(void)ctx, (void)level, (void)fmt;
}

void daxlease_private_log_hold(void)
{
}

void daxlease_private_log_release(void)
{
}

int daxlease_private_check(const struct daxlease_ctx *ctx, bool waits)
{
	(void)ctx, (void)waits;
	return 0;
}

void daxlease_private_log_flush(struct daxlease_ctx *ctx)
{
	(void)ctx;
}

int verbs_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access, struct ibv_mr **ret_mr)
{
	(void)pd, (void)addr, (void)length, (void)access;
	*ret_mr = &message_mr;
	return 0;
}

int verbs_dereg_mr(struct ibv_mr *mr)
{
	(void)mr;
	return 0;
}

int verbs_fence_qp(struct ibv_qp *qp)
{
	qp->state = IBV_QPS_ERR;
	return 0;
}

/* ------------------------------------------------------------------------- */
/* Two ends for each connection */

static struct end {
	struct rdma_cm_id id;
	struct ibv_qp qp;
	struct daxlease_peer *peer;
} ends[2 * PEERS]; /* holder's, taker's, by turns */

static struct ibv_pd pd;
static struct daxlease_offer *offer;
static unsigned int revoke_answer;

static int on_revoke(struct daxlease_peer *peer, uint32_t number, uint64_t deadline_ns,
		     void *userdata)
{
	(void)deadline_ns, (void)userdata;
	if (revoke_answer == 2)
		daxlease_peer_drained(peer, number);
	return revoke_answer == 3 ? -EIO : revoke_answer ? DAXLEASE_PENDING : 0;
}

static void connect_end(struct end *e)
{
	const struct daxlease_peer_opts opts = { .size = sizeof(opts), .revoke = on_revoke };

	while (edge_count(&e->qp)) /* of its earlier life */
		edge_take(&e->qp);
	e->qp = (struct ibv_qp){ .pd = &pd, .qp_type = IBV_QPT_RC };
	e->id = (struct rdma_cm_id){ .qp = &e->qp };
	if (daxlease_peer_new(NULL, &e->id, &opts, &e->peer))
		abort();
}

static void receive(struct end *e, const void *buf, size_t len)
{
	const struct ibv_wc wc = { .wr_id = 1, .opcode = IBV_WC_RECV, .byte_len = (uint32_t)len };
	int ret = daxlease_peer_wc(e->peer, &wc, buf);

	if (ret < 0 && e->qp.state != IBV_QPS_ERR)
		abort();
}

static void carry(struct end *from, struct end *to, bool fails)
{
	struct posted p = edge_take(&from->qp);
	const struct ibv_wc wc = { .wr_id = p.wr_id, .status = fails ? IBV_WC_RETRY_EXC_ERR : 0 };

	if (!p.wr_id)
		return;
	if (daxlease_peer_wc(from->peer, &wc, NULL) != 1)
		abort();
	if (!fails)
		receive(to, p.bytes, sizeof(p.bytes));
}

/* ------------------------------------------------------------------------- */
/* The file is changed */

/* The promise: nobody can reach the region any more. */
static void check_nobody_has_access(void)
{
	struct member *m;

	if (fake_mr_in_use(&region_mr) || offer->waiting)
		abort();
	TAILQ_FOREACH(m, &offer->members, offer_link) {
		if (m->peer->qp->state == IBV_QPS_ERR)
			continue;
		if (m->state != MEMBER_IDLE && m->state != MEMBER_OVERDUE)
			abort();
	}
}

static void begin_break(void)
{
	const struct daxlease_break brk = { .size = sizeof(brk), .deadline_ns = UINT64_MAX };
	int ret;

	if (region.state != REGISTERED)
		return;
	region.state = DRAINING;
	ret = region.opts.drain((struct daxlease_mr *)&region, &brk, region.opts.userdata);
	if (ret == 0)
		region.state = DRAINED;
}

static void end_break(bool regain)
{
	const struct daxlease_regain info = { .size = sizeof(info), .rkey = ++region.key };
	struct daxlease_mr *mr = (struct daxlease_mr *)&region;

	if (region.state != DRAINED)
		region.opts.fence(mr, region.opts.userdata);
	region.state = DRAINED;
	check_nobody_has_access();
	region.opts.release(mr, 0, region.opts.userdata);
	check_nobody_has_access();
	if (!regain)
		return;
	region.state = REGISTERED;
	region.opts.regain(mr, &info, region.opts.userdata);
}

/* ------------------------------------------------------------------------- */
/* The program */

struct input {
	const uint8_t *at;
	size_t left;
};

static uint8_t take(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

/* A message that is right in its form. */
static void send_made(struct input *in, struct end *to)
{
	struct wire_msg msg = { .type = take(in) % 5 };
	uint8_t buf[WIRE_SIZE], at, bits = take(in);

	msg.offer = bits & 1 ? NUMBER : take(in);
	msg.generation = bits & 2 && !TAILQ_EMPTY(&to->peer->members) ?
				 TAILQ_FIRST(&to->peer->members)->generation :
				 take(in);
	if (msg.type == WIRE_GRANT) {
		msg.length = take(in);
		msg.access = BOTH;
	}
	wire_encode(&msg, buf);
	if (bits & 4) { /* or nearly so */
		at = take(in) % WIRE_SIZE;
		buf[at] = take(in);
	}
	receive(to, buf, sizeof(buf));
}

static void send_raw(struct input *in, struct end *to)
{
	size_t len = take(in);
	uint8_t buf[256];

	for (size_t i = 0; i < len; i++)
		buf[i] = take(in);
	receive(to, buf, len);
}

static void step(struct input *in)
{
	uint8_t op = take(in), which = take(in) % (2 * PEERS);
	struct end *e = &ends[which], *other = &ends[which ^ 1], *holder = &ends[which & ~1];

	switch (op % 12) {
	case 0:
		send_raw(in, e);
		break;
	case 1:
		send_made(in, e);
		break;
	case 2:
	case 3:
		carry(e, other, false);
		break;
	case 4:
		carry(e, other, true);
		break;
	case 5:
		begin_break();
		break;
	case 6:
		end_break(op & 16);
		break;
	case 7:
		daxlease_offer_add(offer, holder->peer, BOTH);
		break;
	case 8:
		daxlease_offer_remove(offer, holder->peer);
		break;
	case 9:
		daxlease_peer_free(e->peer);
		connect_end(e);
		break;
	case 10:
		revoke_answer = op >> 4 & 3;
		break;
	case 11:
		daxlease_peer_drained(e->peer, NUMBER);
		break;
	}
	if (op & 128)
		edge_fail_post(1, op & 64 ? EINVAL : ENOMEM, op & 32);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	uint8_t flags = take(&in);
	const struct daxlease_offer_opts opts = { .size = sizeof(opts), .number = NUMBER };
	static struct ibv_context device;

	pd.context = &device;
	edge_reset(flags & 1);
	for (unsigned int i = 0; i < 2 * PEERS; i++)
		connect_end(&ends[i]);
	/* Not NULL, and nobody looks into it. */
	if (daxlease_offer_new((struct daxlease_ctx *)&region, &pd, 3, &region, 4096, BOTH, &opts,
			       &offer))
		abort();
	for (unsigned int i = 0; i < PEERS; i++)
		daxlease_offer_add(offer, ends[2 * i].peer, BOTH);
	while (in.left)
		step(&in);
	for (unsigned int i = 0; i < 2 * PEERS; i++)
		daxlease_peer_free(ends[i].peer);
	if (daxlease_offer_free(offer) || edge_windows())
		abort();
	return 0;
}
