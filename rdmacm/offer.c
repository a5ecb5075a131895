// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Public calls on offers, and what their regions' callbacks do. */
#include <errno.h>
#include <stdlib.h>

#include "conn.h"
#include "member.h"
#include "private.h"
#include "sys.h"
#include "util.h"

#define WRITES (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)
#define RIGHTS (IBV_ACCESS_REMOTE_READ | WRITES)

/* ------------------------------------------------------------------------- */
/* The region's callbacks */

static void grant_all(struct daxlease_offer *offer)
{
	struct daxlease_mr_info info;
	struct member *m;

	big_lock();
	offer->open = !offer->draining;
	offer->fenced = false;
	if (member_can_grant(offer, &info)) {
		TAILQ_FOREACH(m, &offer->members, offer_link) {
			if (m->state == MEMBER_IDLE)
				member_grant_again(m, &info);
		}
	}
	big_unlock(offer->ctx);
}

static uint32_t ms_until(uint64_t deadline_ns)
{
	uint64_t now = sys_now_ns();
	uint64_t ms = deadline_ns > now ? (deadline_ns - now) / NSEC_PER_MSEC : 0;

	return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

static int drain_own(struct daxlease_offer *offer, const struct daxlease_break *brk)
{
	int ret;

	if (!offer->mr_opts.drain)
		return 0;
	callback_begin(offer->ctx, NULL);
	ret = offer->mr_opts.drain(offer->mr, brk, offer->mr_opts.userdata);
	callback_end(NULL);
	return ret;
}

static void revoke_all(struct daxlease_offer *offer, uint32_t budget_ms)
{
	struct member *m;

	TAILQ_FOREACH(m, &offer->members, offer_link)
		member_revoke(m, budget_ms);
}

static int on_drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	struct daxlease_offer *offer = userdata;
	int ret;

	(void)mr;
	big_lock();
	offer->open = false;
	offer->draining = true;
	offer->asking = true;
	offer->own_drained = false;
	offer->fenced = false;
	ret = drain_own(offer, brk);
	if (ret == 0)
		offer->own_drained = true;
	if (ret >= 0)
		revoke_all(offer, ms_until(brk->deadline_ns));
	offer->asking = false;
	if (ret >= 0)
		ret = offer->own_drained && !offer->waiting ? 0 : DAXLEASE_PENDING;
	big_unlock(offer->ctx);
	return ret;
}

static void on_fence(struct daxlease_mr *mr, void *userdata)
{
	struct daxlease_offer *offer = userdata;
	struct member *m;

	big_lock();
	offer->open = false;
	offer->fenced = true;
	TAILQ_FOREACH(m, &offer->members, offer_link)
		member_end_access(m);
	big_unlock(NULL); /* this thread keeps the deadline: no log lines */
	if (offer->mr_opts.fence) {
		callback_enter();
		offer->mr_opts.fence(mr, offer->mr_opts.userdata);
		callback_leave();
	}
}

static struct member *next_late(struct daxlease_offer *offer)
{
	struct member *m;

	TAILQ_FOREACH(m, &offer->members, offer_link) {
		if (m->late_due)
			return m;
	}
	return NULL;
}

static void tell_late(struct daxlease_offer *offer)
{
	struct daxlease_peer *peer;
	struct member *m;
	enum daxlease_late how;

	while ((m = next_late(offer))) {
		m->late_due = false;
		if (!offer->opts.late)
			continue;
		peer = m->peer; /* m may go meanwhile, the peer may not */
		how = m->late;
		callback_begin(offer->ctx, peer);
		offer->opts.late(offer, peer, how, offer->opts.userdata);
		callback_end(peer);
	}
}

static void on_release(struct daxlease_mr *mr, int result, void *userdata)
{
	struct daxlease_offer *offer = userdata;

	big_lock();
	offer->open = false; /* if it was regained and gone again before we were told */
	offer->draining = false;
	tell_late(offer);
	big_unlock(offer->ctx);
	if (offer->mr_opts.release) {
		callback_enter();
		offer->mr_opts.release(mr, result, offer->mr_opts.userdata);
		callback_leave();
	}
}

/* The application comes first: what it does to the new region is there before the peers. */
static void on_regain(struct daxlease_mr *mr, const struct daxlease_regain *regain, void *userdata)
{
	struct daxlease_offer *offer = userdata;

	if (offer->mr_opts.regain) {
		callback_enter();
		offer->mr_opts.regain(mr, regain, offer->mr_opts.userdata);
		callback_leave();
	}
	if (regain->ibv_mr)
		grant_all(offer);
}

static void on_guard(struct daxlease_mr *mr, bool guarded, void *userdata)
{
	struct daxlease_offer *offer = userdata;

	callback_enter();
	offer->mr_opts.guard(mr, guarded, offer->mr_opts.userdata);
	callback_leave();
}

/* ------------------------------------------------------------------------- */
/* Making and freeing */

static int offer_check(const struct daxlease_offer *offer)
{
	if (!offer)
		return -EINVAL;
	return offer->pid == sys_getpid() ? 0 : -ECHILD;
}

static int read_opts(struct daxlease_offer *offer, const struct daxlease_offer_opts *opts)
{
	int err = opts_get(&offer->opts, sizeof(offer->opts), opts);

	if (!err)
		err = opts_get(&offer->mr_opts, sizeof(offer->mr_opts), offer->opts.mr);
	if (err) {
		daxlease_private_log(
			offer->ctx, DAXLEASE_LOG_ERR,
			err == -E2BIG ? "options newer than this library: install one as new as "
					"the program's rdmacm.h" :
					"options without their size: set .size = sizeof(opts)");
		return err;
	}
	if (!(offer->opts.flags & ~DAXLEASE_OFFER_NO_WINDOWS))
		return 0;
	daxlease_private_log(offer->ctx, DAXLEASE_LOG_ERR,
			     "unknown flags 0x%x: built against a newer rdmacm.h?",
			     offer->opts.flags & ~DAXLEASE_OFFER_NO_WINDOWS);
	return -EINVAL;
}

static int mr_access(const struct daxlease_offer *offer)
{
	int local = offer->access & WRITES ? IBV_ACCESS_LOCAL_WRITE : 0;

	return local | (offer->windows ? IBV_ACCESS_MW_BIND : offer->access);
}

static int register_region(struct daxlease_offer *offer, int fd, void *addr, size_t length)
{
	struct daxlease_mr_opts opts = offer->mr_opts;

	opts.size = sizeof(opts);
	opts.userdata = offer;
	opts.drain = on_drain;
	opts.fence = on_fence;
	opts.release = on_release;
	opts.regain = on_regain;
	opts.guard = offer->mr_opts.guard ? on_guard : NULL;
	return daxlease_reg_mr(offer->ctx, offer->pd, fd, addr, length, mr_access(offer), &opts,
			       &offer->mr);
}

static int make_offer(struct daxlease_offer *offer, int fd, void *addr, size_t length,
		      const struct daxlease_offer_opts *opts)
{
	int err = read_opts(offer, opts);

	if (err)
		return err;
	offer->windows =
		!(offer->opts.flags & DAXLEASE_OFFER_NO_WINDOWS) && edge_has_windows(offer->pd);
	offer->stats.windows = offer->windows;
	err = register_region(offer, fd, addr, length);
	if (!err)
		grant_all(offer); /* to nobody yet */
	return err;
}

int daxlease_offer_new(struct daxlease_ctx *ctx, struct ibv_pd *pd, int fd, void *addr,
		       size_t length, int access, const struct daxlease_offer_opts *opts,
		       struct daxlease_offer **ret_offer)
{
	struct daxlease_offer *offer, *before;
	int err = daxlease_private_check(ctx, false);

	if (err)
		return err;
	if (!pd || !ret_offer || !access || access & ~RIGHTS) {
		daxlease_private_log(ctx, DAXLEASE_LOG_ERR,
				     "daxlease_offer_new: access has to be IBV_ACCESS_REMOTE_READ, "
				     "_WRITE or _ATOMIC; pd and ret_offer must be there");
		daxlease_private_log_flush(ctx);
		return -EINVAL;
	}
	offer = sys_calloc(1, sizeof(*offer));
	if (!offer)
		return -ENOMEM;
	offer->pid = sys_getpid();
	offer->ctx = ctx;
	offer->pd = pd;
	offer->access = access;
	TAILQ_INIT(&offer->members);
	before = *ret_offer;
	*ret_offer = offer; /* for the callbacks that may come before we return */
	err = make_offer(offer, fd, addr, length, opts);
	daxlease_private_log_flush(ctx);
	if (err) {
		*ret_offer = before;
		free(offer);
	}
	return err;
}

static void remove_all(struct daxlease_offer *offer)
{
	struct member *m;

	big_lock();
	while ((m = TAILQ_FIRST(&offer->members)))
		member_withdraw(m);
	big_unlock(offer->ctx);
}

int daxlease_offer_free(struct daxlease_offer *offer)
{
	int err;

	if (!offer)
		return 0;
	err = offer_check(offer);
	if (!err && in_callback())
		err = -EDEADLK;
	if (!err)
		err = daxlease_private_check(offer->ctx, true);
	if (err)
		return err;
	remove_all(offer);
	err = daxlease_dereg_mr(offer->mr);
	if (err)
		return err;
	free(offer);
	return 0;
}

/* ------------------------------------------------------------------------- */
/* Adding and removing peers */

static int refuse(struct daxlease_offer *offer, int err, const char *why)
{
	daxlease_private_log(offer->ctx, DAXLEASE_LOG_ERR, "offer %u: peer not added: %s",
			     offer->opts.number, why);
	return err;
}

static int check_new(struct daxlease_offer *offer, struct daxlease_peer *peer, int access)
{
	if (peer->qp->pd != offer->pd)
		return refuse(offer, -EINVAL,
			      "its queue pair is of another protection domain than the offer");
	if (!access || access & ~offer->access)
		return refuse(offer, -EINVAL, "no access, or more than the offer has");
	if (access != offer->access && !offer->windows)
		return refuse(offer, -EOPNOTSUPP,
			      "less access than the offer has needs memory windows: make an offer "
			      "of its own for it");
	if (peer->broken)
		return refuse(offer, -ENOTCONN, "its queue pair is in the error state");
	if (member_find(peer, offer->opts.number))
		return refuse(offer, -EEXIST, "it has an offer of this number already");
	if (peer->nmembers == DAXLEASE_PEER_OFFERS)
		return refuse(offer, -ENOSPC, "it has DAXLEASE_PEER_OFFERS of them already");
	return 0;
}

static int add(struct daxlease_offer *offer, struct daxlease_peer *peer, int access)
{
	struct daxlease_mr_info info;
	struct member *m;
	int err = check_new(offer, peer, access);

	if (err)
		return err;
	m = sys_calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->offer = offer;
	m->peer = peer;
	m->access = access;
	m->floor = peer->last_granted;
	TAILQ_INSERT_TAIL(&offer->members, m, offer_link);
	TAILQ_INSERT_TAIL(&peer->members, m, peer_link);
	peer->nmembers++;
	offer->stats.peers++;
	if (!member_can_grant(offer, &info))
		return 0;
	err = member_grant(m, &info);
	if (err)
		member_withdraw(m);
	return err;
}

int daxlease_offer_add(struct daxlease_offer *offer, struct daxlease_peer *peer, int access)
{
	int err = offer_check(offer);

	if (err)
		return err;
	if (!peer)
		return -EINVAL;
	big_lock();
	err = add(offer, peer, access);
	big_unlock(offer->ctx);
	return err;
}

int daxlease_offer_remove(struct daxlease_offer *offer, struct daxlease_peer *peer)
{
	struct member *m;
	int err = offer_check(offer);

	if (!err && in_callback())
		err = -EDEADLK;
	if (err)
		return err;
	if (!peer)
		return -EINVAL;
	big_lock();
	m = member_find(peer, offer->opts.number);
	if (m && m->offer == offer)
		member_withdraw(m);
	else
		err = -ENOENT;
	big_unlock(offer->ctx);
	return err;
}

/* ------------------------------------------------------------------------- */
/* The rest */

int daxlease_offer_drained(struct daxlease_offer *offer)
{
	int err = offer_check(offer);

	if (err)
		return err;
	big_lock();
	if (offer->fenced)
		err = -ETIMEDOUT;
	else if (!offer->draining || offer->own_drained)
		err = -EINVAL;
	offer->own_drained = true;
	if (!err)
		member_check_drained(offer);
	big_unlock(offer->ctx);
	return err;
}

struct daxlease_mr *daxlease_offer_get_mr(const struct daxlease_offer *offer)
{
	return offer ? offer->mr : NULL;
}

int daxlease_offer_get_stats(struct daxlease_offer *offer, struct daxlease_offer_stats *ret_stats)
{
	struct daxlease_offer_stats stats;
	int err = offer_check(offer);

	if (err)
		return err;
	if (!ret_stats)
		return -EINVAL;
	big_lock();
	stats = offer->stats;
	big_unlock(offer->ctx);
	return opts_put(ret_stats, &stats, sizeof(stats));
}
