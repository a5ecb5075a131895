/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The server's clients: who they are, their connections and what they ask for. */
#ifndef DAX_LOG_CLIENTS_H
#define DAX_LOG_CLIENTS_H

#include "conn.h"
#include "store.h"

/* One for each id, whether or not anybody is connected. */
struct client {
	struct owner owner;
	struct conn conn; /* conn.id NULL: nobody */
	bool established;
	bool late; /* fenced: to be disconnected */
};

struct clients {
	/* The caller's, constant */
	struct store *store;
	struct ibv_context *device;
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	struct daxlease_ctx *ctx;
	struct daxlease_offer *offer;
	int access;   /* IBV_ACCESS_* that each is offered */
	bool closing; /* no new ones */

	struct client client[MAX_CLIENTS];
	uint32_t connected;
	uint64_t disconnects; /* other than by the client */
};

/* An event of the server's channel, which is acknowledged. */
void clients_event(struct clients *clients, struct rdma_cm_event *event);

/* A completion of any of them. */
void clients_completed(struct clients *clients, const struct ibv_wc *wc);

/* The offer's callback for a peer that was late. */
void clients_late(struct daxlease_peer *peer, enum daxlease_late how);
/* Disconnects those that were fenced, which no callback may do. */
void clients_close_late(struct clients *clients);

void clients_close_all(struct clients *clients);

#endif
