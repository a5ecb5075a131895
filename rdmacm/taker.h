/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The side that is granted access. All under the lock. */
#ifndef DAXLEASE_TAKER_H
#define DAXLEASE_TAKER_H

#include "parties.h"

void taker_init(struct daxlease_peer *peer);
void taker_end(struct daxlease_peer *peer);

/*
 * A message of the holder came. Drops the lock around the callbacks. -EPROTO, -ENOMEM: the
 * connection is to be given up.
 */
int taker_handle(struct daxlease_peer *peer, const struct wire_msg *msg);

/* Sends the answer to a revoke. -EINVAL: none is due. */
int taker_answer(struct daxlease_peer *peer, uint32_t offer);

/* The grant as it is now, NULL if there is none. */
const struct daxlease_grant *taker_grant(const struct daxlease_peer *peer, uint32_t offer);

#endif
