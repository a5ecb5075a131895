// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Another preloaded library with some of the same hooks, such as a tracer; before or after. */
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>

struct ibv_mr;
struct ibv_pd;

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access);
unsigned int other_hooks_maps(void);
unsigned int other_hooks_regs(void);

static unsigned int maps, regs;

unsigned int other_hooks_maps(void)
{
	return maps;
}

unsigned int other_hooks_regs(void)
{
	return regs;
}

void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	static __typeof__(&mmap) real;

	if (!real)
		real = (__typeof__(&mmap))(uintptr_t)dlsym(RTLD_NEXT, "mmap");
	maps++;
	return real(addr, length, prot, flags, fd, offset);
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
	__typeof__(&ibv_reg_mr) real =
		(__typeof__(&ibv_reg_mr))(uintptr_t)dlsym(RTLD_NEXT, "ibv_reg_mr");

	regs++;
	return real(pd, addr, length, access);
}

/* Before main() and before other constructors, maybe. */
__attribute__((constructor)) static void start(void)
{
	munmap(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096);
}
