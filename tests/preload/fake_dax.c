// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Every file below a folder dax-* is on FS-DAX, as far as statx(2) tells. And leases are not
 * given back for a while, if that is asked for.
 */
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/stat.h>

int statx(int dirfd, const char *path, int flags, unsigned int mask, struct statx *stx)
{
	__typeof__(&statx) real = (__typeof__(&statx))(uintptr_t)dlsym(RTLD_NEXT, "statx");
	char link[64], name[4096];
	int ret = real(dirfd, path, flags, mask, stx);
	ssize_t n;

	if (ret)
		return ret;
	snprintf(name, sizeof(name), "%s", path);
	if (!*path) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", dirfd);
		n = readlink(link, name, sizeof(name) - 1);
		name[n < 0 ? 0 : n] = '\0';
	}
	if (strstr(name, "/dax-"))
		stx->stx_attributes |= STATX_ATTR_DAX;
	return ret;
}

void fake_keep_leases(bool keep);

static atomic_bool keeps_leases;

void fake_keep_leases(bool keep)
{
	keeps_leases = keep;
}

static int call_fcntl(int fd, int cmd, long arg)
{
	if (cmd == F_SETLEASE && arg == F_UNLCK && keeps_leases) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fcntl, fd, cmd, arg);
}

#define FCNTL(name)                              \
	int name(int fd, int cmd, ...)           \
	{                                        \
		va_list args;                    \
		long arg;                        \
                                                 \
		va_start(args, cmd);             \
		arg = va_arg(args, long);        \
		va_end(args);                    \
		return call_fcntl(fd, cmd, arg); \
	}

FCNTL(fcntl)
FCNTL(fcntl64)
