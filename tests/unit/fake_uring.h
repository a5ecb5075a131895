/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Rings in place of the kernel's, which a machine may forbid: slots, requests that use them, and
 * tags. What is registered counts as pinned in fake_layout.c. A ring is known by the inode of its
 * descriptor; on any other descriptor the real calls are made.
 */
#ifndef TEST_FAKE_URING_H
#define TEST_FAKE_URING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* No rings are left, nothing is forbidden. */
void fake_rings_reset(void);
void fake_rings_after_fork(void);

/*
 * A ring with a table of so many slots, 0: none. single: only this thread may change it, and
 * requests that ended let go in its flush only.
 */
int fake_ring_make(unsigned int slots, bool single);
void fake_ring_close(int fd);
void fake_ring_disable(int fd);
/* Every call returns this; 0: none does. */
void fake_rings_forbid(int err);

/* A request begins to use what is in the slot. False: it is empty. */
bool fake_ring_use(int fd, unsigned int slot);
/* All requests of the ring end. */
void fake_ring_end(int fd);
/* Cancelling finds nothing so many times, and then all. */
void fake_ring_resist(int fd, unsigned int times);
unsigned int fake_ring_cancels(int fd);
/* As sys_uring_cancel() was called last; enum sys_cancel. */
int fake_ring_cancelled(int *ret_fd, uint64_t *ret_user_data);

/* The next tag that was posted; false: none was. */
bool fake_ring_cqe(int fd, uint64_t *ret_tag);
void *fake_ring_slot(int fd, unsigned int slot);
/* The program puts something of its own there. */
void fake_ring_replace(int fd, unsigned int slot, void *addr);

#endif
