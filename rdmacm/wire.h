/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What peers say to each other, as bytes; docs/offer-protocol.md has the format. */
#ifndef DAXLEASE_WIRE_H
#define DAXLEASE_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include <daxlease/rdmacm.h>

#define WIRE_SIZE DAXLEASE_PEER_MSG_SIZE

enum wire_type {
	WIRE_GRANT = 1, /* holder: you may, from here on */
	WIRE_REVOKE,	/* holder: stop, and answer */
	WIRE_DRAINED,	/* the answer */
	WIRE_WITHDRAW,	/* holder: it is over, do not answer */
};

struct wire_msg {
	enum wire_type type;
	uint32_t offer;
	uint64_t generation;
	/* WIRE_GRANT; 0 otherwise */
	uint32_t rkey;
	uint64_t addr;
	uint64_t length;
	int access; /* IBV_ACCESS_REMOTE_* */
	/* WIRE_REVOKE: until the access is taken away; 0: it has been */
	uint32_t budget_ms;
};

/* buf has room for WIRE_SIZE bytes. */
void wire_encode(const struct wire_msg *msg, uint8_t *buf);

/*
 * 1: a message. 0: it does not claim to be one. -EPROTO: it does, but is none that can
 * be understood.
 */
int wire_decode(const void *buf, size_t len, struct wire_msg *ret_msg);

#endif
