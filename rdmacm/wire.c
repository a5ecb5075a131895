// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "wire.h"

#define MAGIC 0x4441584cu /* "DAXL" */
#define VERSION 1

/* Rights on the wire: numbers of our own, so that it does not depend on verbs.h. */
enum {
	RIGHT_READ = 1 << 0,
	RIGHT_WRITE = 1 << 1,
	RIGHT_ATOMIC = 1 << 2,
	RIGHTS = RIGHT_READ | RIGHT_WRITE | RIGHT_ATOMIC,
};

/* All members are big-endian. */
struct wire {
	uint32_t magic;
	uint8_t version;
	uint8_t type;
	uint16_t size;
	uint32_t offer;
	uint32_t rkey;
	uint64_t generation;
	uint64_t addr;
	uint64_t length;
	uint32_t rights;
	uint32_t budget_ms;
};
_Static_assert(sizeof(struct wire) == WIRE_SIZE, "no holes");

static uint32_t rights_from_access(int access)
{
	return (access & IBV_ACCESS_REMOTE_READ ? RIGHT_READ : 0) |
	       (access & IBV_ACCESS_REMOTE_WRITE ? RIGHT_WRITE : 0) |
	       (access & IBV_ACCESS_REMOTE_ATOMIC ? RIGHT_ATOMIC : 0);
}

static int access_from_rights(uint32_t rights)
{
	return (rights & RIGHT_READ ? IBV_ACCESS_REMOTE_READ : 0) |
	       (rights & RIGHT_WRITE ? IBV_ACCESS_REMOTE_WRITE : 0) |
	       (rights & RIGHT_ATOMIC ? IBV_ACCESS_REMOTE_ATOMIC : 0);
}

void wire_encode(const struct wire_msg *msg, uint8_t *buf)
{
	const struct wire wire = {
		.magic = htobe32(MAGIC),
		.version = VERSION,
		.type = (uint8_t)msg->type,
		.size = htobe16(WIRE_SIZE),
		.offer = htobe32(msg->offer),
		.rkey = htobe32(msg->rkey),
		.generation = htobe64(msg->generation),
		.addr = htobe64(msg->addr),
		.length = htobe64(msg->length),
		.rights = htobe32(rights_from_access(msg->access)),
		.budget_ms = htobe32(msg->budget_ms),
	};

	memcpy(buf, &wire, sizeof(wire));
}

static int check_grant(const struct wire *wire)
{
	uint64_t addr = be64toh(wire->addr), length = be64toh(wire->length);
	uint32_t rights = be32toh(wire->rights);

	if (!length || addr + length < addr || wire->budget_ms)
		return -EPROTO;
	return rights && !(rights & ~(uint32_t)RIGHTS) ? 0 : -EPROTO;
}

/* What a type has no use for is zero. */
static int check(const struct wire *wire)
{
	if (wire->version != VERSION || be16toh(wire->size) != WIRE_SIZE || !wire->generation)
		return -EPROTO;
	if (wire->type == WIRE_GRANT)
		return check_grant(wire);
	if (wire->rkey || wire->addr || wire->length || wire->rights)
		return -EPROTO;
	switch (wire->type) {
	case WIRE_REVOKE:
		return 0;
	case WIRE_DRAINED:
	case WIRE_WITHDRAW:
		return wire->budget_ms ? -EPROTO : 0;
	default:
		return -EPROTO;
	}
}

int wire_decode(const void *buf, size_t len, struct wire_msg *ret_msg)
{
	struct wire wire;
	uint32_t magic;
	int err;

	if (len < sizeof(magic))
		return 0;
	memcpy(&magic, buf, sizeof(magic));
	if (be32toh(magic) != MAGIC)
		return 0;
	if (len != sizeof(wire))
		return -EPROTO;
	memcpy(&wire, buf, sizeof(wire));
	err = check(&wire);
	if (err)
		return err;
	*ret_msg = (struct wire_msg){
		.type = wire.type,
		.offer = be32toh(wire.offer),
		.generation = be64toh(wire.generation),
		.rkey = be32toh(wire.rkey),
		.addr = be64toh(wire.addr),
		.length = be64toh(wire.length),
		.access = access_from_rights(be32toh(wire.rights)),
		.budget_ms = be32toh(wire.budget_ms),
	};
	return 1;
}
