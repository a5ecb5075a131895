/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The client's connection to a server, apart from what goes over it. */
#ifndef DAX_LOG_LINK_H
#define DAX_LOG_LINK_H

#include "conn.h"

struct link {
	/* The caller's, constant */
	const char *host;
	uint16_t port;
	uint32_t writes; /* that may be outstanding */
	uint64_t session;
	uint32_t id; /* that it had before, or NO_ID */
	struct daxlease_peer_opts peer;
	int signal_fd; /* gives up waiting when it is readable */

	struct rdma_event_channel *channel;
	struct rdma_cm_id *cm_id;
	struct ibv_pd *pd;
	struct ibv_comp_channel *completions;
	struct ibv_cq *cq;
	struct conn conn;
};

/* 0, and what the server said; or -errno, which is told if `loud`. -EINTR: a signal. */
int link_open(struct link *link, bool loud, struct welcome *ret_welcome);
void link_close(struct link *link);

/* Whether the server has ended the connection. */
bool link_is_over(struct link *link);

#endif
