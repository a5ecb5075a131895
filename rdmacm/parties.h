/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Peers, offers, and the pairs of them: members.
 *
 * One lock for all of it, big_lock() in peer.c. What it protects changes when peers come
 * and go and when a file is changed, never on the data path; and a peer can be in offers of
 * several contexts, so finer ones would need an order. It is never held while the user's
 * code runs. Calls of libdaxlease that do not wait are made under it: its locks are inside.
 */
#ifndef DAXLEASE_PARTIES_H
#define DAXLEASE_PARTIES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include <daxlease/rdmacm.h>

#include "edge.h"
#include "wire.h"

/* A message that is to be sent, or was: at most one of each kind of matter. */
struct outgoing {
	TAILQ_ENTRY(outgoing) link; /* peer->outgoing, if queued */
	bool queued;
	struct wire_msg msg;
	bool bind_due; /* bind is to be posted in front of it */
	struct edge_bind bind;
};

/* Messages to a peer that may be under way at once; each may have a bind with it. */
#define SLOTS (DAXLEASE_PEER_SEND_WR / 2)

/* A place for the bytes of a message while the device has it. */
struct slot {
	bool busy;
	bool bind_busy; /* the address of this is the wr_id of a bind */
};

/* An offer of the other side to us. */
struct taken {
	TAILQ_ENTRY(taken) link; /* peer->taken */
	enum {
		TAKEN_NONE,
		TAKEN_GRANTED,
		TAKEN_REVOKED
	} state;
	struct daxlease_grant grant; /* the last one */
	struct outgoing answer;
};

struct daxlease_peer {
	pid_t pid;
	struct daxlease_ctx *ctx; /* for log lines, or NULL */
	struct rdma_cm_id *id;
	struct ibv_qp *qp;
	struct daxlease_peer_opts opts; /* constant to here */

	bool broken;	    /* the queue pair is in the error state */
	unsigned int users; /* threads in a callback about it */

	/* Sending; see conn.c */
	struct slot slots[SLOTS];
	uint8_t *bytes;	   /* WIRE_SIZE for each slot */
	struct ibv_mr *mr; /* of bytes */
	TAILQ_HEAD(, outgoing) outgoing;
	atomic_bool stuck; /* some may not be posted yet; read without the lock */

	/* What it offers us; see taker.c */
	TAILQ_HEAD(, taken) taken;
	unsigned int ntaken;
	uint64_t last_taken; /* generation */

	/* What we offer it; see offer.c */
	TAILQ_HEAD(, member) members;
	unsigned int nmembers;
	uint64_t last_granted; /* generation */
};

/* A peer that an offer is made to. */
struct member {
	TAILQ_ENTRY(member) offer_link; /* offer->members */
	TAILQ_ENTRY(member) peer_link;	/* peer->members */
	struct daxlease_offer *offer;
	struct daxlease_peer *peer;
	int access;
	enum {
		MEMBER_IDLE,	/* has nothing, and waits for a grant */
		MEMBER_GRANTED, /* has access */
		MEMBER_REVOKED, /* and was asked to answer */
		MEMBER_OVERDUE, /* has none any more, and has yet to answer */
		MEMBER_GONE,	/* its queue pair is in the error state */
	} state;
	uint64_t generation; /* of the last grant */
	uint64_t floor;	     /* grants up to this one were of an earlier membership */
	struct ibv_mw *mw;   /* what it has access by, or NULL: the region's own key */
	struct outgoing out;
	bool late_due; /* the callback is */
	enum daxlease_late late;
};

struct daxlease_offer {
	pid_t pid;
	struct daxlease_ctx *ctx;
	struct ibv_pd *pd;
	int access;
	bool windows;
	struct daxlease_offer_opts opts;
	struct daxlease_mr_opts mr_opts; /* as the application gave them */
	struct daxlease_mr *mr;		 /* constant to here */

	TAILQ_HEAD(, member) members;
	bool open;	      /* peers have grants, or get them at once */
	bool draining;	      /* since the drain callback; until released */
	bool asking;	      /* not all were asked yet */
	bool own_drained;     /* the application's part is done */
	bool fenced;	      /* since the last drain began; until regained */
	unsigned int waiting; /* members that are MEMBER_REVOKED */
	struct daxlease_offer_stats stats;
};

void big_lock(void);
/* Hands out the log lines of ctx; NULL: others will. */
void big_unlock(struct daxlease_ctx *ctx);
/* Around the user's code, without the lock: what would wait for it is refused inside. */
void callback_enter(void);
void callback_leave(void);
bool in_callback(void);

/* The same where the lock is held: it is dropped meanwhile. The peer, if any, stays. */
void callback_begin(struct daxlease_ctx *ctx, struct daxlease_peer *peer);
void callback_end(struct daxlease_peer *peer);

#endif
