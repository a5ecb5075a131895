/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The cuts of a file's end, written down by whoever makes them, for the verifier: a text
 * file with a line "BEGIN RETURN SIZE WHO" for each, the times of CLOCK_MONOTONIC in ns.
 */
#ifndef DAX_LOG_CUTS_H
#define DAX_LOG_CUTS_H

#include <stddef.h>
#include <stdint.h>

struct cut {
	uint64_t begin_ns;  /* before the call */
	uint64_t return_ns; /* after it */
	uint64_t size;	    /* what is left */
	char who[16];
};

struct cuts {
	size_t count;
	struct cut *cut;
};

/* Appends a line at once, so that several processes can share the file. -errno is told. */
int cuts_write(const char *path, const struct cut *cut);

/* Adds those of a file to *cuts. -errno is told. */
int cuts_read(const char *path, struct cuts *cuts);
void cuts_free(struct cuts *cuts);

/* ftruncate(fd) to cut->size, or truncate(path) if fd is -1; puts the times into *cut. */
int cuts_truncate(const char *path, int fd, struct cut *cut);

#endif
