/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A region's share in the lease of its file: the first takes the lease, the last gives
 * it back. ctx->lock is held; whatever takes a lease, or waits for one that is being taken,
 * drops it meanwhile.
 */
#ifndef DAXLEASE_SHARE_H
#define DAXLEASE_SHARE_H

#include "objects.h"

/*
 * Puts r, which is not registered yet, under the lease of its file; r->range says
 * which, r->kind what kind. A refusal is logged.
 */
int share_join(struct region *r, int fd);

/* r, which is not registered any more, leaves. */
void share_leave(struct region *r);

/*
 * Gives the lease back if r is the last that has it, so that a failure can still be
 * told: then r has to stay.
 */
int share_give_back_last(struct region *r);

#endif
