/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Which memory of the process is a shared mapping of an FS-DAX file, and of which open file
 * description. A lease belongs to the description, and programs close their descriptor
 * as soon as they have mapped the file; so a duplicate of it is kept for each.
 *
 * What is asked for all memory (is it one of ours?) takes no lock and no system call.
 */
#ifndef PRELOAD_MAPS_H
#define PRELOAD_MAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* An open file description. Counted; each user gives it back with maps_put(). */
struct source {
	struct source *next;
	int fd; /* our duplicate */
	unsigned int refs;
	dev_t dev;
	ino_t ino;
};

/* After mmap(2): notes the mapping down if fd is a regular file on FS-DAX. */
void maps_add(const void *addr, size_t length, int fd);
/* The same with a source that is known. */
void maps_add_source(const void *addr, size_t length, struct source *source);
/* After something else was mapped over the range. */
void maps_remove(const void *addr, size_t length);
/*
 * Before it is unmapped or moved, which the kernel may refuse: what was there, NULL for nothing,
 * is given to maps_taken(), which puts it back if it stays. errno is kept.
 */
struct maps_taken *maps_take(const void *addr, size_t length);
void maps_taken(struct maps_taken *taken, bool stays);

/* The source of the first mapping that the range meets, and where (may be NULL); NULL: of none. */
struct source *maps_find(const void *addr, size_t length, const void **ret_at);
/*
 * The same for a mapping that was made behind our back: asks the kernel, and opens the
 * file anew. 0: the range begins with plain memory, or *ret_source is set; -errno.
 */
int maps_adopt(const void *addr, struct source **ret_source);
/* Whether addr is still a mapping of its file; if not, that is noted down. */
bool maps_is_current(const void *addr, const struct source *source);
void maps_put(struct source *source);

/* Around fork(2). */
void maps_lock(void);
void maps_unlock(void);

#endif
