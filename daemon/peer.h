/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Who is at the other end of a socket, and what he may do. */
#ifndef DAXLEASED_PEER_H
#define DAXLEASED_PEER_H

#include "server.h"

/*
 * As he was when he connected. ret_peer->pidfd is the caller's. Privileged are root and
 * who has CAP_LEASE as an ambient capability. -errno if it cannot be known: without a
 * pidfd it would not be seen when he dies and a child keeps the socket, and a guard for
 * nobody would refuse others for ever. -ESRCH, -EINVAL: he is dead already.
 */
int peer_of(int sock, struct guard_peer *ret_peer);

#endif
