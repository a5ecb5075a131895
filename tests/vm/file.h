/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Files on FS-DAX, mapped. */
#ifndef VM_FILE_H
#define VM_FILE_H

#include "support.h"

#define FILE_SIZE (16 * PAGE)

/* A file and a mapping of it. */
struct file {
	char path[256];
	ino_t ino;
	int fd;
	uint8_t *map;
	size_t size;
};

/* Makes the file, its blocks written, and opens and maps it (O_RDONLY: PROT_READ). */
void file_make(struct file *f, const struct world *w, const char *name, size_t size, int flags);
void file_open(struct file *f, size_t size, int flags);
/* Unmaps and closes what is left of it. */
void file_close(struct file *f);
size_t file_size_now(const struct file *f);

#endif
