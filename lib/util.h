/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
#ifndef DAXLEASE_UTIL_H
#define DAXLEASE_UTIL_H

#include <stddef.h>
#include <stdint.h>

#define NSEC_PER_SEC 1000000000ull
#define NSEC_PER_MSEC 1000000ull

#define NEVER UINT64_MAX /* a point in time that does not come */

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define PRINTF_LIKE(fmt, first) __attribute__((format(printf, fmt, first)))

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/*
 * Copies a caller's size-tagged struct into one of ours of `known` bytes, which
 * is zeroed first. src may be NULL. -EINVAL: size does not even cover itself;
 * -E2BIG: a part that we do not know is not zero, what we know was copied.
 */
int opts_get(void *dst, size_t known, const void *src);

/*
 * The other way: fills a caller's struct from ours as far as its size reaches,
 * keeps its size member, and zeroes what we do not know.
 */
int opts_put(void *dst, const void *src, size_t known);

#endif
