/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What stands between the library and the kernel in these tests: every sys_*
 * function that can fail is wrapped (-Wl,--wrap), so that one call can be made to,
 * a file can pass for FS-DAX, and settings of the machine can be pretended. Not
 * wrapped: sys_event_set() and sys_timer_arm(), which Linux has no reason to refuse
 * with a valid descriptor.
 */
#ifndef TEST_FAULT_H
#define TEST_FAULT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* A regular file with this bit in its mode counts as being on FS-DAX. */
#define FAULT_DAX_BIT S_ISVTX

/* The nth call from now on (1 = the next) of any wrapped function fails; 0: none. */
void fault_arm(unsigned int nth);
/* The same for one function only, n times from its nth call on. */
void fault_arm_name(const char *name, unsigned int nth, unsigned int times);
/* Is called, once, before the next call of that function. */
void fault_before(const char *name, void (*fn)(void *arg), void *arg);
/* Nothing fails, nothing is pretended. */
void fault_reset(void);
/* What fault_arm()'s failure hit, NULL: it was not reached. */
const char *fault_hit(void);

/* In a child of a program with threads: one of them may have been in here. */
void fault_after_fork(void);

/* For the fakes: -errno if this call is to fail, else 0. */
int fault_check(const char *name, int err);

/* What sys_read_break_time() returns; INT_MIN: what the machine has. */
void fault_break_time(int seconds);
/* sys_wait_signal() sleeps so long before it returns. */
void fault_slow_watch(unsigned int ms);
/* sys_getpid() says this; 0: the truth. */
void fault_pid(pid_t pid);
/* sys_memlock_limit() says this; 0: the truth. */
void fault_memlock(uint64_t limit);
/* sys_set_deleg() and sys_get_deleg() work on a lease, as if the kernel had delegations. */
void fault_deleg(bool emulate);
/* What sys_leases_enabled() returns; INT_MIN: what the machine has. */
void fault_leases_enabled(int enabled);
/* Every lease is refused with this: -EINVAL, as where there are none; 0: none is. */
void fault_refuse_leases(int err);
/* Leases taken (sys_set_lease() other than F_UNLCK that returned 0) so far. */
unsigned int fault_takes(void);

#endif
