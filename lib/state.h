/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Which states a region may go through: a pure table, no locks, no I/O. */
#ifndef DAXLEASE_STATE_H
#define DAXLEASE_STATE_H

#include <daxlease/daxlease.h>

enum state_event {
	EV_BREAK,      /* the lease is breaking, or recalled */
	EV_LEND,       /* the lease was lent to a reader */
	EV_GUARD,      /* and is held again */
	EV_DRAINED,    /* the application is done, or was fenced */
	EV_DEREG,      /* the pin is detached */
	EV_REGAIN,     /* the lease is held, attaching begins */
	EV_REG,	       /* it is attached */
	EV_REG_FAILED, /* or did not */
	EV_COUNT
};

/* The state after ev, or -EINVAL if ev cannot happen in this state. */
int state_next(enum daxlease_state state, enum state_event ev);

#endif
