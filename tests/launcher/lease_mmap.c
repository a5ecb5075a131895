// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Lets a program that knows nothing of leases pin the files that it maps:
 *
 *   LD_PRELOAD=build/tests/launcher/lease-mmap.so ib_write_bw --mmap=FILE ...
 *
 * The lease has to be on the very open file description of the mapping, which a program
 * like this may close as soon as it has mapped the file. So whoever starts the program
 * cannot take it; mmap() can. Each writable shared mapping of a regular file gets a
 * layout lease (F_SETLAYOUT). Nobody answers a break: SIGIO ends the program, and with
 * it the pins and the lease. Enough for tests, not for more.
 *
 * With LEASE_MMAP=none in the environment it takes no lease. Either way it says why a
 * registration failed, which perftest does not.
 */
/* That would make mmap() another name of mmap64(); here are both. */
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fcntl_layout.h"

struct ibv_mr;
struct ibv_pd;

/* Not from <infiniband/verbs.h>, which makes a macro of ibv_reg_mr(). */
struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access);
struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
				unsigned int access);

#define NEXT(name) ((__typeof__(&(name)))(uintptr_t)dlsym(RTLD_NEXT, #name))

static void say(const char *what)
{
	int err = errno;

	fprintf(stderr, "lease-mmap: %s: %s\n", what, strerror(err));
	errno = err;
}

static int is_for_us(int prot, int flags, int fd)
{
	const char *how = getenv("LEASE_MMAP");
	int type = flags & MAP_TYPE;
	struct stat st;

	if (how && !strcmp(how, "none"))
		return 0;
	return (type == MAP_SHARED || type == MAP_SHARED_VALIDATE) && !(flags & MAP_ANONYMOUS) &&
	       prot & PROT_WRITE && !fstat(fd, &st) && S_ISREG(st.st_mode);
}

/* The duplicate stays, so that fdinfo shows the lease and how much is pinned. */
static void lease(int fd)
{
	struct layout_lease l = { .l_type = F_RDLCK };
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (copy >= 0 && !fcntl(copy, F_SETLAYOUT, &l))
		return;
	say("F_SETLAYOUT");
	if (copy >= 0)
		close(copy);
}

/* On x86_64 they are one call with two names. */
void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off64_t offset)
{
	void *ret = NEXT(mmap64)(addr, length, prot, flags, fd, offset);

	if (ret != MAP_FAILED && is_for_us(prot, flags, fd))
		lease(fd);
	return ret;
}

void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return mmap64(addr, length, prot, flags, fd, offset);
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
	struct ibv_mr *mr = NEXT(ibv_reg_mr)(pd, addr, length, access);

	if (!mr)
		say("ibv_reg_mr");
	return mr;
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
				unsigned int access)
{
	struct ibv_mr *mr = NEXT(ibv_reg_mr_iova2)(pd, addr, length, iova, access);

	if (!mr)
		say("ibv_reg_mr_iova2");
	return mr;
}
