/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#ifndef VM_FEATURE_H
#define VM_FEATURE_H

#include <stdbool.h>

/*
 * Says in the superblock of an unmounted XFS whether the filesystem may exchange ranges.
 * mkfs.xfs can since 6.10; older ones, and xfs_repair, do not know of it. -errno
 */
int xfs_set_exchange_range(const char *device, bool on);

#endif
