/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Whether there is anything to do, and for whom. */
#ifndef PRELOAD_SHIM_H
#define PRELOAD_SHIM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "here.h"
#include "settings.h"

enum shim_state {
	SHIM_NEW, /* no hook has run yet */
	SHIM_ON,
	SHIM_OFF,
};

extern _Atomic int shim_state;
extern struct settings shim_settings; /* constant once there is a state */

/* The environment is read by whoever comes first, which may be before our constructor. */
bool shim_start(void);

static inline bool shim_on(void)
{
	int state = atomic_load_explicit(&shim_state, memory_order_acquire);

	return state == SHIM_ON || (state == SHIM_NEW && shim_start());
}

/* The beginning of a hook: whether it is only the self-test that calls. */
static inline bool shim_probed(void)
{
	if (!here.probing)
		return false;
	here.probed++;
	return true;
}

/*
 * What is hooked is no cancellation point, but much of what we call is, some of it with a lock held.
 * To be given back to shim_cancelable().
 */
static inline int shim_uncancelable(void)
{
	int old;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
	return old;
}

static inline void shim_cancelable(int old)
{
	pthread_setcancelstate(old, &old);
}

#endif
