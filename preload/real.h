/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The originals behind the hooks: what a program would have called without us, which may be
 * the hook of another preloaded library. Looked up at the first use, since libibverbs may
 * be loaded by dlopen(3) long after the start.
 */
#ifndef PRELOAD_REAL_H
#define PRELOAD_REAL_H

#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <infiniband/verbs.h>

/* The header has macros of these names, for what compilers know of the arguments. */
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

/* Of rdma-core 58, which the header here may be older than. */
struct real_mr_init_attr {
	size_t length;
	int access;
	uint64_t comp_mask;
	uint64_t iova;
	void *addr;
	int fd;
	uint64_t fd_offset;
	void *dmah;
};
#define REAL_MR_IOVA (1u << 0)
#define REAL_MR_ADDR (1u << 1)
struct ibv_mr *ibv_reg_mr_ex(struct ibv_pd *pd, struct real_mr_init_attr *attr);

/* What providers call to deregister. Of a private version, but older than that. */
int ibv_cmd_dereg_mr(struct ibv_mr *mr);
/* What libibverbs calls for each registration that is not on demand. */
int ibv_dontfork_range(void *base, size_t size);

/*
 * X(name, hooked). Without versions: dlsym(3) gives the default one, which is what programs are
 * linked with, while dlvsym(3) would pass over hooks of other preloaded libraries, which have none.
 */
#define REAL_CALLS(X)            \
	X(mmap, 1)               \
	X(mmap64, 1)             \
	X(munmap, 1)             \
	X(mremap, 1)             \
	X(ftruncate, 1)          \
	X(ftruncate64, 1)        \
	X(fallocate, 1)          \
	X(fallocate64, 1)        \
	X(ibv_reg_mr, 1)         \
	X(ibv_reg_mr_iova, 1)    \
	X(ibv_reg_mr_iova2, 1)   \
	X(ibv_reg_mr_ex, 1)      \
	X(ibv_reg_dmabuf_mr, 1)  \
	X(ibv_rereg_mr, 1)       \
	X(ibv_dereg_mr, 1)       \
	X(ibv_cmd_dereg_mr, 1)   \
	X(ibv_dontfork_range, 1) \
	X(ibv_open_device, 1)    \
	X(ibv_import_device, 1)  \
	X(ibv_close_device, 1)   \
	X(ibv_create_qp, 1)      \
	X(ibv_destroy_qp, 1)     \
	X(ibv_modify_qp, 0)      \
	X(ibv_alloc_pd, 0)       \
	X(ibv_dealloc_pd, 0)     \
	X(ibv_query_device, 0)   \
	X(ibv_get_device_name, 0)

enum real_id {
#define X(name, hooked) REAL_##name,
	REAL_CALLS(X)
#undef X
	REAL_COUNT
};

extern _Atomic(void *) real_found[REAL_COUNT];

void *real_look_up(enum real_id id);

/* NULL: it is not there, or this thread is looking one up. */
static inline void *real_get(enum real_id id)
{
	void *p = atomic_load_explicit(&real_found[id], memory_order_acquire);

	return p ? p : real_look_up(id);
}
#define REAL(name) ((__typeof__(&(name)))(uintptr_t)real_get(REAL_##name))

/* Which object a call by that name reaches now, and whether that is ours. */
struct real_binding {
	const char *name;
	const char *object; /* NULL: nobody has the name */
	int hooked, ours;
};
void real_binding(enum real_id id, struct real_binding *ret_binding);

#endif
