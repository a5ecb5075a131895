/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * libdaxlease-rdmacm: leased memory regions for programs that use librdmacm, and for
 * their peers, who hold the rkey and so are the ones to be stopped.
 *
 *  - daxlease_reg_msgs(), _reg_read(), _reg_write() are rdma_reg_msgs() and its kin
 *    plus a lease.
 *  - An *offer* is a region that connected peers get *grants* of: address, length, rkey.
 *    Before the file is changed each of them is sent a *revoke*, and answers when it is
 *    done; who does not in time loses its access, alone. Afterwards all get new grants.
 *
 * Both sides of a connection have a struct daxlease_peer for the other one. What the
 * library says to its like goes over the application's own reliable connection, as SEND
 * of at most DAXLEASE_PEER_MSG_SIZE bytes; so an answer cannot overtake the RDMA that it
 * speaks of. docs/offer-protocol.md has the format.
 *
 * The conventions and the errors' meanings are those of daxlease.h. In addition:
 *
 *  -EPROTO      the peer broke the protocol: its queue pair was moved to the error
 *               state; disconnect
 *  -ENOTCONN    its queue pair is in the error state
 *
 * daxlease_rdmacm(7) explains all of it.
 */
#ifndef DAXLEASE_RDMACM_H
#define DAXLEASE_RDMACM_H

#include <daxlease/daxlease.h>

#include <rdma/rdma_cma.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------- */
/* Registering for an id                              see daxlease_reg_msgs(3) */

/*
 * daxlease_reg_mr() with the protection domain of id, and with IBV_ACCESS_LOCAL_WRITE
 * (_reg_msgs()), IBV_ACCESS_REMOTE_READ (_reg_read()), or IBV_ACCESS_LOCAL_WRITE and
 * IBV_ACCESS_REMOTE_WRITE (_reg_write()). rdma_reg_read(3) asks for LOCAL_WRITE as well;
 * here it is left out, so that a read-only mapping will do.
 *
 * The queue pair that id has now is fenced with the region, as after daxlease_mr_add_qp().
 * So deregister before rdma_destroy_qp() or rdma_destroy_ep(), as with rdma_dereg_mr().
 *
 * -EINVAL: id has no queue pair; those of daxlease_reg_mr(3) and daxlease_mr_add_qp(3).
 * Since 0.1.
 */
DAXLEASE_API DAXLEASE_MUST_CHECK int
daxlease_reg_msgs(struct daxlease_ctx *ctx, struct rdma_cm_id *id, int fd, void *addr,
		  size_t length, const struct daxlease_mr_opts *opts, struct daxlease_mr **ret_mr);
DAXLEASE_API DAXLEASE_MUST_CHECK int
daxlease_reg_read(struct daxlease_ctx *ctx, struct rdma_cm_id *id, int fd, void *addr,
		  size_t length, const struct daxlease_mr_opts *opts, struct daxlease_mr **ret_mr);
DAXLEASE_API DAXLEASE_MUST_CHECK int
daxlease_reg_write(struct daxlease_ctx *ctx, struct rdma_cm_id *id, int fd, void *addr,
		   size_t length, const struct daxlease_mr_opts *opts, struct daxlease_mr **ret_mr);

/* ------------------------------------------------------------------------- */
/* Peers, on both sides                               see daxlease_peer_new(3) */

struct daxlease_peer;
struct daxlease_offer;

/* Bytes that a receive of the application must have room for at least. */
#define DAXLEASE_PEER_MSG_SIZE 48
/*
 * Work requests of the library that may be outstanding for a peer at once, a SEND and a bind
 * for each message: room to leave in the queue pair (max_send_wr) and the completion queue.
 */
#define DAXLEASE_PEER_SEND_WR 16
/* Messages that may come from the other side at once: receives to have posted for them. */
#define DAXLEASE_PEER_RECV_WR 8
/* Offers of one peer that the other side keeps apart. */
#define DAXLEASE_PEER_OFFERS 64

/* What may be done, until it is revoked. */
struct daxlease_grant {
	size_t size;	/* set by the library (by the caller of _get_grant()) */
	uint32_t offer; /* the number that the holder gave it */
	uint32_t rkey;
	uint64_t generation; /* of this offer, always growing */
	uint64_t addr;	     /* remote */
	uint64_t length;     /* bytes; may be less, or more, than before */
	int access;	     /* IBV_ACCESS_REMOTE_READ, _WRITE, _ATOMIC */
};

/*
 * The other side grants access. Called in daxlease_peer_wc(). grant is valid during the
 * call only.
 */
typedef void (*daxlease_peer_grant_fn)(struct daxlease_peer *peer,
				       const struct daxlease_grant *grant, void *userdata);

/*
 * "Post no more that uses the grant." Called in daxlease_peer_wc(). Returns 0: nothing
 * that uses it will be posted, answer now; what was posted on this queue pair before may
 * still be under way, for the answer waits behind it. DAXLEASE_PENDING:
 * daxlease_peer_drained() will follow; needed for work on other queue pairs, or to
 * finish something first. Negative: cannot, the queue pair is moved to the error state.
 * After deadline_ns (CLOCK_MONOTONIC, nanoseconds, as estimated here) the other side takes
 * the access away. 0: it has withdrawn the offer; no answer is wanted, what is returned
 * does not matter.
 */
typedef int (*daxlease_peer_revoke_fn)(struct daxlease_peer *peer, uint32_t offer,
				       uint64_t deadline_ns, void *userdata);

struct daxlease_peer_opts {
	size_t size; /* sizeof(struct daxlease_peer_opts) */
	/* For who takes offers. Without revoke each is answered at once. */
	daxlease_peer_grant_fn grant;
	daxlease_peer_revoke_fn revoke;
	void *userdata;
};

/*
 * A peer for the other side of id, whose queue pair (RC) exists; before or after it is
 * connected. ctx is used for log lines only and may be NULL; it has to outlive the peer
 * otherwise. id stays the caller's; free the peer before its queue pair is destroyed.
 *
 * Create it before a receive can complete, and pass each completion of the queue pair to
 * daxlease_peer_wc().
 *
 * -EINVAL: id has no queue pair, or not of a reliable connection. -ENOMEM; errors of
 * ibv_reg_mr(3), for its messages. -E2BIG. Since 0.1.
 */
DAXLEASE_API DAXLEASE_MUST_CHECK int daxlease_peer_new(struct daxlease_ctx *ctx,
						       struct rdma_cm_id *id,
						       const struct daxlease_peer_opts *opts,
						       struct daxlease_peer **ret_peer);

/*
 * Takes it out of all offers and frees it. If it may still use one of them, its queue
 * pair is moved to the error state first. Nothing more is to be done with the queue pair
 * afterwards but polling what is left of it, unseen, and destroying it: what the library
 * posted may still be outstanding. NULL is a no-op.
 *
 * -EDEADLK: from a callback. -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_peer_free(struct daxlease_peer *peer);

/*
 * Each completion of the peer's queue pair is shown to this. buf is the beginning of the
 * receive buffer if wc is a receive, NULL otherwise. No other thread may show completions
 * of the same peer meanwhile.
 *
 * Returns 1: it was the library's; a receive buffer can be posted again. 0: it is the
 * application's. -EPROTO: see the top; the completion was the library's, too. -ENOMEM: for
 * an offer of the other side; likewise, and the queue pair was moved to the error state.
 * -ECHILD. Since 0.1.
 *
 * A message is the library's if it begins with its magic number, so the application's
 * own ones must not. Costs a few comparisons otherwise. The first DAXLEASE_PEER_MSG_SIZE bytes
 * of a receive are in one piece.
 */
DAXLEASE_API int daxlease_peer_wc(struct daxlease_peer *peer, const struct ibv_wc *wc,
				  const void *buf);

/*
 * The answer to a revoke callback that returned DAXLEASE_PENDING. From any thread.
 *
 * -EINVAL: nobody asked. -ENOTCONN, -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_peer_drained(struct daxlease_peer *peer, uint32_t offer);

/*
 * The grant of an offer as it is now, as far as ret_grant->size reaches. A revoke may
 * come in the other thread that shows completions.
 *
 * -ENOENT: no such offer, or it is revoked. -EINVAL: size too small to hold itself.
 * -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_peer_get_grant(struct daxlease_peer *peer, uint32_t offer,
					 struct daxlease_grant *ret_grant);

/* As given; NULL for NULL. Since 0.1. */
DAXLEASE_API struct rdma_cm_id *daxlease_peer_get_id(const struct daxlease_peer *peer);
DAXLEASE_API void *daxlease_peer_get_userdata(const struct daxlease_peer *peer);

/* ------------------------------------------------------------------------- */
/* Offers: the holder's side                         see daxlease_offer_new(3) */

/* How a peer that did not answer in time lost its access. */
enum daxlease_late {
	/* Its queue pair was moved to the error state: disconnect. */
	DAXLEASE_LATE_FENCED = 0,
	/*
	 * Its memory window was taken away. What it still sends to it breaks its queue
	 * pair, and so does a grant that is still in the queue; else it is connected, and
	 * has the next grant once it answers.
	 */
	DAXLEASE_LATE_REVOKED,
};

/*
 * A peer did not answer in time. Called before the release callback, and as that one is;
 * disconnect it with rdma_disconnect(), but free it elsewhere.
 */
typedef void (*daxlease_offer_late_fn)(struct daxlease_offer *offer, struct daxlease_peer *peer,
				       enum daxlease_late how, void *userdata);

/* Register with remote access, though the device has memory windows. */
#define DAXLEASE_OFFER_NO_WINDOWS (1u << 0)

struct daxlease_offer_opts {
	size_t size;	    /* sizeof(struct daxlease_offer_opts) */
	unsigned int flags; /* DAXLEASE_OFFER_* */
	uint32_t number;    /* what peers know it by; each of a peer's has its own */
	/*
	 * As for daxlease_reg_mr(3); copied. Its callbacks are called for the region of
	 * the offer: drain before the peers are asked, and daxlease_offer_drained(), not
	 * daxlease_mr_drained(), answers if it returned DAXLEASE_PENDING.
	 */
	const struct daxlease_mr_opts *mr;
	daxlease_offer_late_fn late;
	void *userdata; /* of late; callbacks of mr have their own */
};

/*
 * Leases the file and registers [addr, addr + length) as daxlease_reg_mr() does, for
 * peers that may have access, IBV_ACCESS_REMOTE_READ, _WRITE or _ATOMIC, or less.
 *
 * Where the device has memory windows of type 2, the region itself cannot be reached
 * from outside: each peer gets a window of its own, which only its queue pair can use.
 *
 * With *ret_offer written first, callbacks may come before this call has returned.
 *
 * Errors of daxlease_reg_mr(3). -EINVAL: access has nothing, or more; unknown flags.
 * Since 0.1.
 */
DAXLEASE_API DAXLEASE_MUST_CHECK int daxlease_offer_new(struct daxlease_ctx *ctx, struct ibv_pd *pd,
							int fd, void *addr, size_t length,
							int access,
							const struct daxlease_offer_opts *opts,
							struct daxlease_offer **ret_offer);

/*
 * Takes all peers out, as daxlease_offer_remove() does, deregisters and frees.
 *
 * Errors of daxlease_dereg_mr(3); then the offer stays, without peers, and the call may be
 * repeated. NULL is a no-op. -EDEADLK, -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_offer_free(struct daxlease_offer *offer);

/*
 * Offers it to a peer, which is connected: it is sent a grant, now or once the region is
 * registered again.
 *
 * -EEXIST: it has it already, or another one of the same number. -EINVAL: the peer's
 * queue pair has another protection domain, access is nothing or more than the offer's.
 * -EOPNOTSUPP: access is less, and there are no windows. -ENOTCONN: see the top. -ENOSPC: more than
 * DAXLEASE_PEER_OFFERS. -ENOMEM, -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_offer_add(struct daxlease_offer *offer, struct daxlease_peer *peer,
				    int access);

/*
 * Takes access away without asking. With windows the peer is told, and stays connected,
 * unless the send queue has no room for that; then, and without windows if it had access,
 * its queue pair is moved to the error state.
 *
 * -ENOENT: it does not have it. -EDEADLK: from a callback. -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_offer_remove(struct daxlease_offer *offer, struct daxlease_peer *peer);

/*
 * The answer to a drain callback in opts.mr that returned DAXLEASE_PENDING.
 *
 * -ETIMEDOUT: too late, the region has been fenced. -EINVAL: nobody asked. -ECHILD. Since
 * 0.1.
 */
DAXLEASE_API int daxlease_offer_drained(struct daxlease_offer *offer);

/*
 * The region, for daxlease_mr_get_info(), _add_qp(), _recall(), _recall_start(), _regain();
 * the offer's, so do not deregister it. NULL for NULL. Since 0.1.
 */
DAXLEASE_API struct daxlease_mr *daxlease_offer_get_mr(const struct daxlease_offer *offer);

struct daxlease_offer_stats {
	size_t size;	   /* set by the caller */
	bool windows;	   /* each peer has a memory window */
	uint64_t peers;	   /* now */
	uint64_t grants;   /* sent */
	uint64_t revokes;  /* sent */
	uint64_t answers;  /* to them, in time */
	uint64_t late;	   /* not in time: DAXLEASE_LATE_FENCED */
	uint64_t revoked;  /* not in time: DAXLEASE_LATE_REVOKED */
	uint64_t protocol; /* that broke the protocol */
};

/*
 * Counters since it was made, as far as ret_stats->size reaches.
 *
 * -EINVAL: size too small to hold itself. -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_offer_get_stats(struct daxlease_offer *offer,
					  struct daxlease_offer_stats *ret_stats);

#ifdef __cplusplus
}
#endif

#endif
