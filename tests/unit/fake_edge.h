/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* In place of rdmacm/edge.c: keeps what was posted, and has memory windows. */
#ifndef TEST_FAKE_EDGE_H
#define TEST_FAKE_EDGE_H

#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

struct posted {
	struct ibv_qp *qp;
	uint64_t wr_id, bind_wr_id;
	uint8_t bytes[WIRE_SIZE];
	struct wire_msg msg;
	bool bound; /* a window with it */
};

void edge_reset(bool windows);
/* The next n posts fail with this (positive) errno, after they bound a window if `bind`. */
void edge_fail_post(unsigned int n, int err, bool bind);
/* Is called before a window is made; NULL: nothing is. */
void edge_before_alloc(void (*fn)(void));
void edge_fail_alloc(unsigned int n, int err);
void edge_fail_free(unsigned int n, int err);

/* Messages posted to this queue pair and not taken yet. */
unsigned int edge_count(const struct ibv_qp *qp);
/* The oldest of them. */
struct posted edge_take(const struct ibv_qp *qp);
unsigned int edge_windows(void);
/* The device lets go of those that it would not free. */
void edge_lose_windows(void);
/* Whether this key opens a window for that queue pair now, with that access. */
bool edge_opens(const struct ibv_qp *qp, uint32_t rkey, int access);

#endif
