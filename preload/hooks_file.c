// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Changes of a file through a descriptor, which leases do not notice if it is the holder's. What
 * goes by a path, truncate(2) and open(2), breaks the lease in the kernel, and is answered by
 * the library's thread.
 */
#undef _FILE_OFFSET_BITS
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "real.h"
#include "region.h"
#include "shim.h"
#include "sys.h"

/* Otherwise the kernel refuses, and nothing is changed. */
static bool is_writable(int fd)
{
	int mode = sys_access_mode(fd);

	return mode == O_WRONLY || mode == O_RDWR;
}

/* -1 and errno: not allowed. */
static int before_change(int fd)
{
	int saved = errno, err = is_writable(fd) ? region_end_file(fd) : 0;

	errno = err < 0 ? -err : saved;
	return err < 0 ? -1 : 0;
}

static bool shrinks(int fd, off64_t length)
{
	struct stat64 st;

	return length >= 0 && !fstat64(fd, &st) && length < st.st_size;
}

static int call_ftruncate(int fd, off64_t length)
{
	return REAL(ftruncate64) ? REAL(ftruncate64)(fd, length) :
				   (int)syscall(SYS_ftruncate, fd, length);
}

/* A delegation keeps even its holder from making the file longer (EAGAIN). */
static int change_size(int fd, off64_t length)
{
	int ret;

	if (here.inside || !region_any() || !shim_on())
		return call_ftruncate(fd, length);
	if (shrinks(fd, length) && before_change(fd))
		return -1;
	ret = call_ftruncate(fd, length);
	if (!ret || errno != EAGAIN || region_end_file(fd) != 1)
		return ret;
	return call_ftruncate(fd, length);
}

int ftruncate(int fd, off_t length)
{
	return shim_probed() ? -1 : change_size(fd, length);
}

int ftruncate64(int fd, off64_t length)
{
	return shim_probed() ? -1 : change_size(fd, length);
}

static int change_blocks(int fd, int mode, off64_t offset, off64_t length)
{
	bool adds_only = !(mode & ~FALLOC_FL_KEEP_SIZE);
	bool is_range = offset >= 0 && length > 0;

	if (!adds_only && is_range && !here.inside && region_any() && shim_on() &&
	    before_change(fd))
		return -1;
	return REAL(fallocate64) ? REAL(fallocate64)(fd, mode, offset, length) :
				   (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
	return shim_probed() ? -1 : change_blocks(fd, mode, offset, length);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
	return shim_probed() ? -1 : change_blocks(fd, mode, offset, length);
}
