// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* A program that is not linked with libibverbs, but loads it and finds what it needs by name. */
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include "victim.h"

#undef ibv_reg_mr

#define FIND(handle, name) ((__typeof__(&(name)))(uintptr_t)dlsym(handle, #name))

/* Registers plain memory, unloads the library, and takes care that it comes to another place. */
static void load_and_unload(void)
{
	void *handle = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_GLOBAL);
	uintptr_t at = (uintptr_t)dlsym(handle, "ibv_reg_mr") & ~(uintptr_t)(PAGE - 1);
	struct ibv_context *context = FIND(handle, ibv_open_device)(FIND(handle, fake_device)());
	struct ibv_pd *pd = FIND(handle, ibv_alloc_pd)(context);
	struct ibv_mr *mr = FIND(handle, ibv_reg_mr)(pd, malloc(PAGE), PAGE, READ_WRITE);
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;

	CHECK(mr && FIND(handle, ibv_dereg_mr)(mr) == 0);
	CHECK(dlclose(handle) == 0);
	mmap((void *)at, PAGE, PROT_NONE, flags, -1, 0);
}

int main(int argc, char **argv)
{
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct ibv_mr *mr;
	void *handle;
	uint8_t *map;
	int fd;

	alarm(60);
	CHECK(argc >= 2);
	if (argc > 2)
		load_and_unload();
	handle = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
	CHECK(handle);
	fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && ftruncate(fd, SIZE) == 0);
	map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	context = FIND(handle, ibv_open_device)(FIND(handle, fake_device)());
	pd = FIND(handle, ibv_alloc_pd)(context);
	mr = FIND(handle, ibv_reg_mr)(pd, map, SIZE, READ_WRITE);
	CHECK(mr && fcntl(fd, F_GETLEASE) == F_WRLCK);
	/* The provider frees what it is given. */
	CHECK(FIND(handle, ibv_dereg_mr)(mr) == 0);
	CHECK(fcntl(fd, F_GETLEASE) == F_UNLCK && FIND(handle, fake_live)() == 0);
	/* This one cannot be covered, but is said. */
	errno = 0;
	mr = FIND(handle, ibv_reg_mr_iova2)(pd, map, SIZE, 0, READ_WRITE);
	CHECK(!mr && errno == EOPNOTSUPP);
	CHECK(dlclose(handle) == 0);
	return 0;
}
