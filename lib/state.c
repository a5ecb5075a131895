// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>

#include "state.h"
#include "util.h"

#define STATES (DAXLEASE_STATE_REGAINING + 1)

/* 0 = cannot happen, else the next state + 1. */
#define TO(state) (DAXLEASE_STATE_##state + 1)

static const unsigned char next[STATES][EV_COUNT] = {
	[DAXLEASE_STATE_ACTIVE] = {
		[EV_BREAK] = TO(DRAINING),
		[EV_LEND] = TO(UNGUARDED),
	},
	[DAXLEASE_STATE_UNGUARDED] = {
		[EV_BREAK] = TO(DRAINING),
		[EV_GUARD] = TO(ACTIVE),
	},
	[DAXLEASE_STATE_DRAINING] = {
		[EV_DRAINED] = TO(DEREGISTERING),
	},
	[DAXLEASE_STATE_DEREGISTERING] = {
		[EV_DEREG] = TO(RELEASED),
	},
	[DAXLEASE_STATE_RELEASED] = {
		[EV_REGAIN] = TO(REGAINING),
	},
	[DAXLEASE_STATE_REGAINING] = {
		[EV_REG] = TO(ACTIVE),
		[EV_REG_FAILED] = TO(RELEASED),
	},
};

int state_next(enum daxlease_state state, enum state_event ev)
{
	if ((unsigned int)state >= STATES || (unsigned int)ev >= EV_COUNT)
		return -EINVAL;
	return next[state][ev] ? next[state][ev] - 1 : -EINVAL;
}
