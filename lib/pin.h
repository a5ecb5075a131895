/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The pin of a region: its memory region. The calls block as long as the device
 * does and need no lock, only that the region is marked in_verbs.
 */
#ifndef DAXLEASE_PIN_H
#define DAXLEASE_PIN_H

#include "objects.h"

struct pin {
	struct ibv_mr *ibv_mr;
	bool on_demand;
};

/*
 * The registration ladder, for the first `length` bytes: pinned if the region's
 * lease allows it, then on-demand paging, then a refusal that says why.
 */
int pin_attach(struct daxlease_mr *mr, size_t length, struct pin *ret_pin);

int pin_detach(struct daxlease_mr *mr);

/* Moves the region's queue pairs to the error state, all that can be. */
void pin_fence(struct daxlease_mr *mr);

#endif
