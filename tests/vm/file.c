// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"

static void fill(const char *path, size_t size)
{
	static const uint8_t zeroes[PAGE];
	int fd = (int)CALL(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));

	for (size_t at = 0; at < size; at += sizeof(zeroes))
		CHECK_EQ(pwrite(fd, zeroes, sizeof(zeroes), (off_t)at), sizeof(zeroes));
	CALL(close(fd));
}

void file_open(struct file *f, size_t size, int flags)
{
	int prot = (flags & O_ACCMODE) == O_RDONLY ? PROT_READ : PROT_READ | PROT_WRITE;
	struct stat st;

	f->fd = (int)CALL(open(f->path, flags | O_CLOEXEC));
	CALL(fstat(f->fd, &st));
	f->ino = st.st_ino;
	f->size = size;
	f->map = mmap(NULL, size, prot, MAP_SHARED, f->fd, 0);
	CHECK(f->map != MAP_FAILED);
}

void file_make(struct file *f, const struct world *w, const char *name, size_t size, int flags)
{
	world_path(w, name, f->path, sizeof(f->path));
	fill(f->path, size);
	file_open(f, size, flags);
}

void file_close(struct file *f)
{
	if (f->map)
		CALL(munmap(f->map, f->size));
	if (f->fd >= 0)
		CALL(close(f->fd));
	f->map = NULL;
	f->fd = -1;
}

size_t file_size_now(const struct file *f)
{
	struct stat st;

	CALL(stat(f->path, &st));
	return (size_t)st.st_size;
}
