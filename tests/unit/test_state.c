// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>

#include "state.h"
#include "support.h"

struct arrow {
	enum daxlease_state from;
	enum state_event ev;
	enum daxlease_state to;
};

static const struct arrow arrows[] = {
	{ DAXLEASE_STATE_ACTIVE, EV_BREAK, DAXLEASE_STATE_DRAINING },
	{ DAXLEASE_STATE_ACTIVE, EV_LEND, DAXLEASE_STATE_UNGUARDED },
	{ DAXLEASE_STATE_UNGUARDED, EV_BREAK, DAXLEASE_STATE_DRAINING },
	{ DAXLEASE_STATE_UNGUARDED, EV_GUARD, DAXLEASE_STATE_ACTIVE },
	{ DAXLEASE_STATE_DRAINING, EV_DRAINED, DAXLEASE_STATE_DEREGISTERING },
	{ DAXLEASE_STATE_DEREGISTERING, EV_DEREG, DAXLEASE_STATE_RELEASED },
	{ DAXLEASE_STATE_RELEASED, EV_REGAIN, DAXLEASE_STATE_REGAINING },
	{ DAXLEASE_STATE_REGAINING, EV_REG, DAXLEASE_STATE_ACTIVE },
	{ DAXLEASE_STATE_REGAINING, EV_REG_FAILED, DAXLEASE_STATE_RELEASED },
};

#define ARROWS (sizeof(arrows) / sizeof(arrows[0]))

static int expected(enum daxlease_state from, enum state_event ev)
{
	for (size_t i = 0; i < ARROWS; i++) {
		if (arrows[i].from == from && arrows[i].ev == ev)
			return (int)arrows[i].to;
	}
	return -EINVAL;
}

static void state_next__each_pair(void **state)
{
	(void)state;
	for (int from = 0; from <= DAXLEASE_STATE_REGAINING; from++) {
		for (int ev = 0; ev < EV_COUNT; ev++)
			assert_int_equal(state_next(from, ev), expected(from, ev));
	}
}

static void state_next__out_of_range(void **state)
{
	(void)state;
	assert_int_equal(state_next(DAXLEASE_STATE_REGAINING + 1, EV_BREAK), -EINVAL);
	assert_int_equal(state_next(DAXLEASE_STATE_ACTIVE, EV_COUNT), -EINVAL);
	assert_int_equal(state_next(-1, EV_BREAK), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(state_next__each_pair),
		cmocka_unit_test(state_next__out_of_range),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
