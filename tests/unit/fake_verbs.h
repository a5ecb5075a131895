/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* A device in place of lib/verbs.c: counts, fails and blocks as it is told. */
#ifndef TEST_FAKE_VERBS_H
#define TEST_FAKE_VERBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <infiniband/verbs.h>

extern struct ibv_pd fake_pd;

/* Everything back to the start: a device with on-demand paging, nothing fails. */
void fake_reset(void);

/* The next n calls fail with this (positive) errno. */
void fake_fail_reg(unsigned int n, int err);
void fake_fail_dereg(unsigned int n, int err);
void fake_fail_fence(unsigned int n, int err);
/* Registering without IBV_ACCESS_ON_DEMAND fails so, for ever; 0: it works. */
void fake_fail_pinned(int err);
void fake_odp(bool supported);
/* Says of which MRs windows are left, so that they cannot be deregistered; may be NULL. */
extern bool (*fake_mr_in_use)(const struct ibv_mr *mr);

/* Calls made while a gate is shut wait until it is opened. */
void fake_shut_reg(void);
void fake_shut_dereg(void);
/* Only the next call waits, those after it don't. */
void fake_shut_dereg_once(void);
void fake_open_reg(void);
void fake_open_dereg(void);
/* Lets n calls pass that wait, or come later, and keeps the gate shut. */
void fake_pass_dereg(unsigned int n);
unsigned int fake_waiting(void);

unsigned int fake_live(void);
unsigned int fake_regs(void);
unsigned int fake_deregs(void); /* calls, failures included */
unsigned int fake_fences(void);
unsigned int fake_prefetches(void);
int fake_last_access(void);
size_t fake_last_length(void);
uint64_t fake_last_dereg_ns(void); /* when one succeeded last */

#endif
