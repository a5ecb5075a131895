/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What is mapped in a range of our memory: FS-DAX or not, and which file. */
#ifndef DAXLEASE_DAX_H
#define DAXLEASE_DAX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct log;

struct dax_range {
	bool fs_dax;	 /* all of it is a shared mapping of one FS-DAX file */
	bool page_cache; /* a shared mapping of a regular file that is not FS-DAX */
	bool writable;	 /* by its protection */
	dev_t dev;	 /* of the file, if fs_dax */
	ino_t ino;
	uint64_t offset; /* in the file, of the range's start */
	int access_mode; /* of fd: O_RDONLY, O_RDWR */
};

/*
 * Looks at [addr, addr + length), which must not wrap. fd is what the caller says
 * it was mapped from, or -1 for "no file".
 *
 * -EBADF: fd is not open or O_PATH, or FS-DAX without fd. -EFAULT: not or partly
 * mapped. -EINVAL: no mapping of fd, or of several files; a directory.
 * -EOPNOTSUPP: MAP_PRIVATE of FS-DAX. Each is logged.
 */
int dax_inspect(int maps_fd, int fd, const void *addr, size_t length, struct log *log,
		struct dax_range *ret_range);

/* Still the same file at the same offset, all of it? -EFAULT: no. */
int dax_check(int maps_fd, const void *addr, size_t length, const struct dax_range *range);

#endif
