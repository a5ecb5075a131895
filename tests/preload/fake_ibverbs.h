/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A libibverbs.so.1 with one device: it calls itself and its provider by name, as the real one
 * does, counts, and pins no file that has "dax" in its path.
 */
#ifndef FAKE_IBVERBS_H
#define FAKE_IBVERBS_H

#include <stdbool.h>
#include <stdint.h>

#include <infiniband/verbs.h>

struct ibv_device *fake_device(void);

unsigned int fake_live(void);	/* registrations */
unsigned int fake_regs(void);	/* so far */
unsigned int fake_fenced(void); /* moves of a queue pair to the error state */
/* Each fence stays where it is until they are not slow any more; and how many do so now. */
void fake_slow_fences(bool slow);
unsigned int fake_slow(void);
int fake_last_access(void);
uint64_t fake_last_iova(void);
/* The next registration gets this key; after that they count on. */
void fake_next_key(uint32_t key);

#endif
