// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <string.h>

#include "support.h"
#include "util.h"

struct known {
	size_t size;
	uint32_t a;
	uint32_t b;
};

struct newer {
	size_t size;
	uint32_t a;
	uint32_t b;
	uint32_t c;
	uint32_t d;
};

static void opts_get__null_means_defaults(void **state)
{
	struct known got = { 1, 2, 3 };

	(void)state;
	assert_int_equal(opts_get(&got, sizeof(got), NULL), 0);
	assert_int_equal(got.size + got.a + got.b, 0);
}

static void opts_get__same_size(void **state)
{
	const struct known given = { sizeof(given), 7, 8 };
	struct known got;

	(void)state;
	assert_int_equal(opts_get(&got, sizeof(got), &given), 0);
	assert_memory_equal(&got, &given, sizeof(got));
}

static void opts_get__older_struct(void **state)
{
	const struct known given = { offsetof(struct known, b), 7, 8 };
	struct known got;

	(void)state;
	assert_int_equal(opts_get(&got, sizeof(got), &given), 0);
	assert_int_equal(got.a, 7);
	assert_int_equal(got.b, 0);
}

static void opts_get__newer_struct_zero(void **state)
{
	const struct newer given = { sizeof(given), 7, 8, 0, 0 };
	struct known got;

	(void)state;
	assert_int_equal(opts_get(&got, sizeof(got), &given), 0);
	assert_int_equal(got.b, 8);
}

static void opts_get__newer_struct_not_zero(void **state)
{
	struct newer given = { sizeof(given), 7, 8, 0, 0 };
	struct known got;

	(void)state;
	((unsigned char *)&given)[sizeof(given) - 1] = 1;
	assert_int_equal(opts_get(&got, sizeof(got), &given), -E2BIG);
}

static void opts_get__size_does_not_hold_itself(void **state)
{
	struct known given = { sizeof(size_t) - 1, 7, 8 };
	struct known got;

	(void)state;
	assert_int_equal(opts_get(&got, sizeof(got), &given), -EINVAL);
	given.size = 0;
	assert_int_equal(opts_get(&got, sizeof(got), &given), -EINVAL);
}

static void opts_put__same_size(void **state)
{
	const struct known ours = { 99, 7, 8 };
	struct known theirs = { .size = sizeof(theirs) };

	(void)state;
	assert_int_equal(opts_put(&theirs, &ours, sizeof(ours)), 0);
	assert_int_equal(theirs.size, sizeof(theirs));
	assert_int_equal(theirs.a, 7);
	assert_int_equal(theirs.b, 8);
}

static void opts_put__older_struct(void **state)
{
	const struct known ours = { 99, 7, 8 };
	struct known theirs = { offsetof(struct known, b), 1, 2 };

	(void)state;
	assert_int_equal(opts_put(&theirs, &ours, sizeof(ours)), 0);
	assert_int_equal(theirs.a, 7);
	assert_int_equal(theirs.b, 2);
}

static void opts_put__newer_struct(void **state)
{
	const struct known ours = { 99, 7, 8 };
	struct newer theirs = { sizeof(theirs), 1, 2, 3, 4 };

	(void)state;
	assert_int_equal(opts_put(&theirs, &ours, sizeof(ours)), 0);
	assert_int_equal(theirs.size, sizeof(theirs));
	assert_int_equal(theirs.b, 8);
	assert_int_equal(theirs.c + theirs.d, 0);
}

static void opts_put__size_does_not_hold_itself(void **state)
{
	const struct known ours = { 99, 7, 8 };
	struct known theirs = { 4, 1, 2 };

	(void)state;
	assert_int_equal(opts_put(&theirs, &ours, sizeof(ours)), -EINVAL);
	assert_int_equal(theirs.a, 1);
}

static void min_u64__both_ways(void **state)
{
	(void)state;
	assert_int_equal(min_u64(1, NEVER), 1);
	assert_int_equal(min_u64(NEVER, 1), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(opts_get__null_means_defaults),
		cmocka_unit_test(opts_get__same_size),
		cmocka_unit_test(opts_get__older_struct),
		cmocka_unit_test(opts_get__newer_struct_zero),
		cmocka_unit_test(opts_get__newer_struct_not_zero),
		cmocka_unit_test(opts_get__size_does_not_hold_itself),
		cmocka_unit_test(opts_put__same_size),
		cmocka_unit_test(opts_put__older_struct),
		cmocka_unit_test(opts_put__newer_struct),
		cmocka_unit_test(opts_put__size_does_not_hold_itself),
		cmocka_unit_test(min_u64__both_ways),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
