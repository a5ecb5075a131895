// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Public calls on peers, for both sides, and the lock. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "conn.h"
#include "member.h"
#include "private.h"
#include "sys.h"
#include "taker.h"
#include "util.h"

/* See parties.h. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t users_changed = PTHREAD_COND_INITIALIZER;
static __thread unsigned int callback_depth;

/* A thread of the parent may have held it. */
static void renew_lock_in_child(void)
{
	lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	users_changed = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

static void prepare_fork(void)
{
	pthread_atfork(NULL, NULL, renew_lock_in_child);
}

/* What libdaxlease is asked for under the lock may have something to log, too. */
void big_lock(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, prepare_fork);
	pthread_mutex_lock(&lock);
	daxlease_private_log_hold();
}

void big_unlock(struct daxlease_ctx *ctx)
{
	daxlease_private_log_release();
	pthread_mutex_unlock(&lock);
	daxlease_private_log_flush(ctx);
}

void callback_enter(void)
{
	callback_depth++;
}

void callback_leave(void)
{
	callback_depth--;
}

bool in_callback(void)
{
	return callback_depth > 0;
}

void callback_begin(struct daxlease_ctx *ctx, struct daxlease_peer *peer)
{
	if (peer)
		peer->users++;
	big_unlock(ctx);
	callback_enter();
}

void callback_end(struct daxlease_peer *peer)
{
	callback_leave();
	big_lock();
	if (!peer)
		return;
	peer->users--;
	pthread_cond_broadcast(&users_changed);
}

/* ------------------------------------------------------------------------- */

static int peer_check(const struct daxlease_peer *peer)
{
	if (!peer)
		return -EINVAL;
	return peer->pid == sys_getpid() ? 0 : -ECHILD;
}

/* After what may have moved its queue pair to the error state. */
static void peer_unlock(struct daxlease_peer *peer)
{
	member_if_broken(peer);
	big_unlock(peer->ctx);
}

static int refuse(struct daxlease_ctx *ctx, int err, const char *why)
{
	daxlease_private_log(ctx, DAXLEASE_LOG_ERR, "no peer made: %s", why);
	daxlease_private_log_flush(ctx);
	return err;
}

int daxlease_peer_new(struct daxlease_ctx *ctx, struct rdma_cm_id *id,
		      const struct daxlease_peer_opts *opts, struct daxlease_peer **ret_peer)
{
	struct daxlease_peer *peer;
	int err;

	if (!id || !ret_peer)
		return refuse(ctx, -EINVAL, "id or ret_peer is NULL");
	if (!id->qp || id->qp->qp_type != IBV_QPT_RC)
		return refuse(ctx, -EINVAL,
			      "the id has no queue pair of a reliable connection: "
			      "rdma_create_qp() comes first");
	peer = sys_calloc(1, sizeof(*peer));
	if (!peer)
		return refuse(ctx, -ENOMEM, "out of memory");
	peer->pid = sys_getpid();
	peer->ctx = ctx;
	peer->id = id;
	peer->qp = id->qp;
	TAILQ_INIT(&peer->members);
	taker_init(peer);
	err = opts_get(&peer->opts, sizeof(peer->opts), opts);
	if (!err)
		err = conn_open(peer);
	if (err) {
		free(peer);
		return refuse(ctx, err,
			      err == -E2BIG  ? "options newer than this library" :
			      err == -EINVAL ? "options without their size" :
					       "no registered memory for its messages");
	}
	*ret_peer = peer;
	return 0;
}

int daxlease_peer_free(struct daxlease_peer *peer)
{
	int err;

	if (!peer)
		return 0;
	err = peer_check(peer);
	if (!err && in_callback())
		err = -EDEADLK;
	if (err)
		return err;
	big_lock();
	while (peer->users)
		pthread_cond_wait(&users_changed, &lock);
	member_peer_leaves(peer);
	big_unlock(peer->ctx);
	conn_close(peer);
	daxlease_private_log_flush(peer->ctx);
	taker_end(peer);
	free(peer);
	return 0;
}

/* ------------------------------------------------------------------------- */
/* Completions */

static int handle(struct daxlease_peer *peer, const struct wire_msg *msg)
{
	if (msg->type == WIRE_DRAINED)
		return member_answered(peer, msg);
	return taker_handle(peer, msg);
}

static void give_up(struct daxlease_peer *peer, int err)
{
	member_count_broken(peer);
	conn_break(peer, err == -EPROTO ? "it broke the protocol: to the error state" :
					  "out of memory for its offer: to the error state");
}

/* A message that carries our magic number. */
static int receive(struct daxlease_peer *peer, const void *buf, size_t len)
{
	struct wire_msg msg;
	int ret = wire_decode(buf, len, &msg);

	if (ret == 0)
		return 0;
	big_lock();
	if (peer->broken)
		ret = 0; /* nothing that it says counts any more */
	else if (ret > 0)
		ret = handle(peer, &msg);
	if (ret < 0)
		give_up(peer, ret);
	peer_unlock(peer);
	return ret < 0 ? ret : 1;
}

static int completed(struct daxlease_peer *peer, const struct ibv_wc *wc)
{
	big_lock();
	conn_completed(peer, wc);
	peer_unlock(peer);
	return 1;
}

static void retry(struct daxlease_peer *peer)
{
	big_lock();
	conn_retry(peer);
	peer_unlock(peer);
}

/* The application's completion failed: the queue pair is in the error state, or about to. */
static void failed(struct daxlease_peer *peer)
{
	big_lock();
	conn_break(peer, "a work request failed: in the error state");
	peer_unlock(peer);
}

int daxlease_peer_wc(struct daxlease_peer *peer, const struct ibv_wc *wc, const void *buf)
{
	int err = peer_check(peer);
	int ret = 0;

	if (err)
		return err;
	if (!wc)
		return -EINVAL;
	if (conn_owns(peer, wc))
		return completed(peer, wc);
	if (wc->status != IBV_WC_SUCCESS)
		failed(peer);
	else if (wc->opcode == IBV_WC_RECV && buf)
		ret = receive(peer, buf, wc->byte_len);
	if (atomic_load(&peer->stuck))
		retry(peer);
	return ret;
}

/* ------------------------------------------------------------------------- */

int daxlease_peer_drained(struct daxlease_peer *peer, uint32_t offer)
{
	int err = peer_check(peer);

	if (err)
		return err;
	big_lock();
	err = taker_answer(peer, offer);
	peer_unlock(peer);
	return err;
}

int daxlease_peer_get_grant(struct daxlease_peer *peer, uint32_t offer,
			    struct daxlease_grant *ret_grant)
{
	const struct daxlease_grant *grant;
	int err = peer_check(peer);

	if (err)
		return err;
	if (!ret_grant)
		return -EINVAL;
	big_lock();
	grant = taker_grant(peer, offer);
	err = grant ? opts_put(ret_grant, grant, sizeof(*grant)) : -ENOENT;
	big_unlock(peer->ctx);
	return err;
}

struct rdma_cm_id *daxlease_peer_get_id(const struct daxlease_peer *peer)
{
	return peer ? peer->id : NULL;
}

void *daxlease_peer_get_userdata(const struct daxlease_peer *peer)
{
	return peer ? peer->opts.userdata : NULL;
}
