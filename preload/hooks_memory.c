// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Mappings. On 64-bit machines, which this is for, mmap() and mmap64() are the same. */
#undef _FILE_OFFSET_BITS
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "maps.h"
#include "real.h"
#include "shim.h"

/* Only these reach the file. */
static bool is_shared_file(int flags, int fd)
{
	int type = flags & MAP_TYPE;

	return fd >= 0 && !(flags & MAP_ANONYMOUS) &&
	       (type == MAP_SHARED || type == MAP_SHARED_VALIDATE);
}

static size_t whole_pages(size_t length)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	return (length + page - 1) & ~(page - 1);
}

/*
 * What is mapped over is taken out afterwards: the range is never free in between, so that
 * nobody else can have got it. For all but shared files nothing is started: an allocator maps
 * its first memory before it can serve malloc(3), which dlsym(3) calls.
 */
static void mapped(void *addr, size_t length, int flags, int fd)
{
	if (flags & MAP_FIXED)
		maps_remove(addr, whole_pages(length));
	if (is_shared_file(flags, fd) && !here.inside && shim_on())
		maps_add(addr, length, fd);
}

void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	void *ret;

	if (shim_probed())
		return MAP_FAILED;
	ret = REAL(mmap) ? REAL(mmap)(addr, length, prot, flags, fd, offset) :
			   (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, offset);
	if (ret != MAP_FAILED)
		mapped(ret, length, flags, fd);
	return ret;
}

void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off64_t offset)
{
	void *ret;

	if (shim_probed())
		return MAP_FAILED;
	ret = REAL(mmap64) ? REAL(mmap64)(addr, length, prot, flags, fd, offset) :
			     (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, offset);
	if (ret != MAP_FAILED)
		mapped(ret, length, flags, fd);
	return ret;
}

/* The kernel refuses everything else. */
static bool is_whole_pages(const void *addr, size_t length)
{
	return length && !((uintptr_t)addr & ((uintptr_t)sysconf(_SC_PAGESIZE) - 1));
}

/* Before, for another thread may get the range as soon as it is free. */
int munmap(void *addr, size_t length)
{
	struct maps_taken *taken = NULL;
	int ret;

	if (shim_probed())
		return -1;
	if (is_whole_pages(addr, length))
		taken = maps_take(addr, whole_pages(length));
	ret = REAL(munmap) ? REAL(munmap)(addr, length) : (int)syscall(SYS_munmap, addr, length);
	maps_taken(taken, ret);
	return ret;
}

static void *call_mremap(void *addr, size_t old_length, size_t new_length, int flags, void *to)
{
	if (!REAL(mremap))
		return (void *)syscall(SYS_mremap, addr, old_length, new_length, flags, to);
	return REAL(mremap)(addr, old_length, new_length, flags, to);
}

/*
 * Without an old length the old mapping stays, and with MREMAP_DONTUNMAP, too: what is empty then
 * is filled from the file again.
 */
static void *remap(void *addr, size_t old_length, size_t new_length, int flags, void *to)
{
	size_t length = whole_pages(old_length);
	struct source *source = maps_find(addr, length ? length : 1, NULL);
	struct maps_taken *taken = length && source ? maps_take(addr, length) : NULL;
	void *ret = call_mremap(addr, old_length, new_length, flags, to);

	if (ret != MAP_FAILED && flags & MREMAP_FIXED)
		maps_remove(ret, whole_pages(new_length));
	if (ret != MAP_FAILED && source)
		maps_add_source(ret, new_length, source);
	maps_taken(taken, ret == MAP_FAILED || flags & MREMAP_DONTUNMAP);
	if (source)
		maps_put(source);
	return ret;
}

void *mremap(void *addr, size_t old_length, size_t new_length, int flags, ...)
{
	void *to = NULL;
	va_list args;

	if (shim_probed())
		return MAP_FAILED;
	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) {
		va_start(args, flags);
		to = va_arg(args, void *);
		va_end(args);
	}
	if (here.inside)
		return call_mremap(addr, old_length, new_length, flags, to);
	return remap(addr, old_length, new_length, flags, to);
}
