// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The bytes that peers exchange: docs/offer-protocol.md, and nothing but that. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "wire.h"

static const struct wire_msg grant_msg = {
	.type = WIRE_GRANT,
	.offer = 0x01020304,
	.generation = 0x1112131415161718,
	.rkey = 0x21222324,
	.addr = 0x3132333435363738,
	.length = 0x4142434445464748,
	.access = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE,
};

static const uint8_t grant_bytes[WIRE_SIZE] = {
	'D',  'A',  'X',  'L',	1,    1,    0,	  48,	0x01, 0x02, 0x03, 0x04,
	0x21, 0x22, 0x23, 0x24, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
	0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x41, 0x42, 0x43, 0x44,
	0x45, 0x46, 0x47, 0x48, 0,    0,    0,	  3,	0,    0,    0,	  0,
};

static void assert_msg(const struct wire_msg *is, const struct wire_msg *wanted)
{
	assert_int_equal(is->type, wanted->type);
	assert_int_equal(is->offer, wanted->offer);
	assert_int_equal(is->generation, wanted->generation);
	assert_int_equal(is->rkey, wanted->rkey);
	assert_int_equal(is->addr, wanted->addr);
	assert_int_equal(is->length, wanted->length);
	assert_int_equal(is->access, wanted->access);
	assert_int_equal(is->budget_ms, wanted->budget_ms);
}

static void wire__grant_byte_for_byte(void **state)
{
	struct wire_msg msg;
	uint8_t buf[WIRE_SIZE];

	(void)state;
	wire_encode(&grant_msg, buf);
	assert_memory_equal(buf, grant_bytes, sizeof(buf));
	assert_int_equal(wire_decode(buf, sizeof(buf), &msg), 1);
	assert_msg(&msg, &grant_msg);
}

static void wire__all_types_and_rights(void **state)
{
	static const int accesses[] = { IBV_ACCESS_REMOTE_READ, IBV_ACCESS_REMOTE_WRITE,
					IBV_ACCESS_REMOTE_ATOMIC };
	struct wire_msg msg, is;
	uint8_t buf[WIRE_SIZE];

	(void)state;
	for (int type = WIRE_GRANT; type <= WIRE_WITHDRAW; type++) {
		for (unsigned int i = 0; i < 3; i++) {
			msg = (struct wire_msg){ .type = type, .offer = ~0u, .generation = 1 };
			if (type == WIRE_GRANT) {
				msg.length = UINT64_MAX;
				msg.access = accesses[i];
			} else if (type == WIRE_REVOKE) {
				msg.budget_ms = i * 1000;
			}
			wire_encode(&msg, buf);
			assert_int_equal(wire_decode(buf, sizeof(buf), &is), 1);
			assert_msg(&is, &msg);
		}
	}
}

static void wire__not_ours(void **state)
{
	uint8_t buf[WIRE_SIZE];
	struct wire_msg msg = { .offer = 77 };

	(void)state;
	memcpy(buf, grant_bytes, sizeof(buf));
	for (size_t len = 0; len < 4; len++)
		assert_int_equal(wire_decode(buf, len, &msg), 0);
	for (unsigned int i = 0; i < 4; i++) {
		memcpy(buf, grant_bytes, sizeof(buf));
		buf[i] ^= 1;
		assert_int_equal(wire_decode(buf, sizeof(buf), &msg), 0);
	}
	assert_int_equal(msg.offer, 77);
}

/* Byte `at` set to `value`, in a message of this type. */
static int decode_with(enum wire_type type, unsigned int at, uint8_t value)
{
	struct wire_msg msg = grant_msg, out = { .offer = 77 };
	uint8_t buf[WIRE_SIZE];
	int ret;

	if (type != WIRE_GRANT)
		msg = (struct wire_msg){ .type = type, .offer = 1, .generation = 1 };
	wire_encode(&msg, buf);
	buf[at] = value;
	ret = wire_decode(buf, sizeof(buf), &out);
	if (ret < 0)
		assert_int_equal(out.offer, 77);
	return ret;
}

static void wire__wrong_lengths(void **state)
{
	uint8_t buf[WIRE_SIZE + 1] = { 0 };
	struct wire_msg msg;

	(void)state;
	memcpy(buf, grant_bytes, WIRE_SIZE);
	for (size_t len = 4; len <= sizeof(buf); len++)
		assert_int_equal(wire_decode(buf, len, &msg), len == WIRE_SIZE ? 1 : -EPROTO);
}

static void wire__wrong_values(void **state)
{
	(void)state;
	assert_int_equal(decode_with(WIRE_GRANT, 4, 0), -EPROTO); /* version */
	assert_int_equal(decode_with(WIRE_GRANT, 4, 2), -EPROTO);
	assert_int_equal(decode_with(WIRE_GRANT, 5, 0), -EPROTO); /* type */
	assert_int_equal(decode_with(WIRE_REVOKE, 5, 5), -EPROTO);
	assert_int_equal(decode_with(WIRE_GRANT, 7, 47), -EPROTO); /* size */
	assert_int_equal(decode_with(WIRE_GRANT, 43, 0), -EPROTO); /* rights */
	assert_int_equal(decode_with(WIRE_GRANT, 43, 8), -EPROTO);
	assert_int_equal(decode_with(WIRE_GRANT, 40, 1), -EPROTO);
	assert_int_equal(decode_with(WIRE_GRANT, 47, 1), -EPROTO);    /* budget */
	assert_int_equal(decode_with(WIRE_GRANT, 32, 0xff), -EPROTO); /* wraps around */
	assert_int_equal(decode_with(WIRE_REVOKE, 47, 1), 1);
	assert_int_equal(decode_with(WIRE_DRAINED, 47, 1), -EPROTO);
	assert_int_equal(decode_with(WIRE_WITHDRAW, 47, 1), -EPROTO);
	for (int type = WIRE_REVOKE; type <= WIRE_WITHDRAW; type++) {
		assert_int_equal(decode_with(type, 23, 0), -EPROTO); /* generation */
		assert_int_equal(decode_with(type, 12, 1), -EPROTO); /* what grants have */
		assert_int_equal(decode_with(type, 24, 1), -EPROTO);
		assert_int_equal(decode_with(type, 39, 1), -EPROTO);
		assert_int_equal(decode_with(type, 43, 1), -EPROTO);
	}
}

static void wire__grant_of_nothing(void **state)
{
	struct wire_msg msg = grant_msg;
	uint8_t buf[WIRE_SIZE];

	(void)state;
	msg.length = 0;
	wire_encode(&msg, buf);
	assert_int_equal(wire_decode(buf, sizeof(buf), &msg), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wire__grant_byte_for_byte),
		cmocka_unit_test(wire__all_types_and_rights),
		cmocka_unit_test(wire__not_ours),
		cmocka_unit_test(wire__wrong_lengths),
		cmocka_unit_test(wire__wrong_values),
		cmocka_unit_test(wire__grant_of_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
