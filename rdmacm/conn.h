/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Messages to a peer over its queue pair. They wait in a list for a slot and for room in
 * the send queue, so nothing has to be allocated when one is due. All but conn_owns()
 * under the lock.
 */
#ifndef DAXLEASE_CONN_H
#define DAXLEASE_CONN_H

#include "parties.h"

int conn_open(struct daxlease_peer *peer);
void conn_close(struct daxlease_peer *peer);

/* Sends out->msg as soon as it can be; what out had waiting is replaced. */
void conn_send(struct daxlease_peer *peer, struct outgoing *out);

/* True: it had not been sent yet, and will not be. */
bool conn_cancel(struct daxlease_peer *peer, struct outgoing *out);

/* A completion of the queue pair may have made room. */
void conn_retry(struct daxlease_peer *peer);

/* It is one of ours. */
bool conn_owns(const struct daxlease_peer *peer, const struct ibv_wc *wc);
void conn_completed(struct daxlease_peer *peer, const struct ibv_wc *wc);

/* Moves the queue pair to the error state: nothing comes in or goes out any more. */
void conn_break(struct daxlease_peer *peer, const char *why);

#endif
