/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * One peer of one offer: what access it has, and what it has been told. All under the
 * lock.
 */
#ifndef DAXLEASE_MEMBER_H
#define DAXLEASE_MEMBER_H

#include "parties.h"

/* ---- for offers ---- */

/* The region, if it can be granted to somebody now. */
bool member_can_grant(const struct daxlease_offer *offer, struct daxlease_mr_info *ret_info);
/* To one that has nothing. */
int member_grant(struct member *m, const struct daxlease_mr_info *info);
/* The same, after a break. If it fails the peer is broken off: it would wait for ever. */
void member_grant_again(struct member *m, const struct daxlease_mr_info *info);
/* Asks for an answer. */
void member_revoke(struct member *m, uint32_t budget_ms);
/* The time for an answer is over. */
void member_end_access(struct member *m);
/* Takes it out, without asking. */
void member_withdraw(struct member *m);

/* What the region's drain waited for is there, unless more is missing. */
void member_check_drained(struct daxlease_offer *offer);

/* ---- for peers ---- */

struct member *member_find(const struct daxlease_peer *peer, uint32_t number);
/* An answer came. -EPROTO: it is none. */
int member_answered(struct daxlease_peer *peer, const struct wire_msg *msg);
/* It broke the protocol: for the counters. */
void member_count_broken(struct daxlease_peer *peer);
/* If the peer's queue pair is in the error state, nobody waits for it any more. */
void member_if_broken(struct daxlease_peer *peer);
/* Takes it out of all offers; to the error state before, if it may use one. */
void member_peer_leaves(struct daxlease_peer *peer);

#endif
