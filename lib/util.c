// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <string.h>

#include "util.h"

/* No struct will ever be so large: a size that was never set. */
#define OPTS_MAX 4096

int opts_get(void *dst, size_t known, const void *src)
{
	const unsigned char *bytes = src;
	size_t size;

	memset(dst, 0, known);
	if (!src)
		return 0;
	memcpy(&size, src, sizeof(size));
	if (size < sizeof(size))
		return -EINVAL;
	if (size > OPTS_MAX)
		return -E2BIG;
	memcpy(dst, src, size < known ? size : known);
	for (size_t i = known; i < size; i++) {
		if (bytes[i])
			return -E2BIG;
	}
	return 0;
}

int opts_put(void *dst, const void *src, size_t known)
{
	unsigned char *to = dst;
	const unsigned char *from = src;
	size_t size;

	memcpy(&size, dst, sizeof(size));
	if (size < sizeof(size))
		return -EINVAL;
	for (size_t i = sizeof(size); i < size; i++)
		to[i] = i < known ? from[i] : 0;
	return 0;
}
