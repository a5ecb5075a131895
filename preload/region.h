/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Registrations. Plain memory goes to the original; FS-DAX through libdaxlease, and the program
 * gets a struct ibv_mr of ours, the shadow, which outlives the registration.
 */
#ifndef PRELOAD_REGION_H
#define PRELOAD_REGION_H

#include <stdbool.h>
#include <stdint.h>

#include "real.h"

enum reg_how {
	REG_MR,
	REG_IOVA,
	REG_IOVA2,
	REG_EX,
	REG_DMABUF,
};

struct shadow;

/* A registration, as the program asked for it. */
struct reg {
	enum reg_how how;
	struct ibv_pd *pd;
	void *addr;
	size_t length;
	uint64_t iova;
	unsigned int access;
	int fd;				/* REG_DMABUF */
	uint64_t offset;		/* REG_DMABUF */
	struct real_mr_init_attr *attr; /* REG_EX */
	struct shadow *shadow;		/* while libdaxlease registers it */
};

/* As the verbs of these names: NULL and errno; a positive errno. */
struct ibv_mr *region_reg(struct reg *reg);
int region_dereg(struct ibv_mr *mr);
int region_rereg(struct ibv_mr *mr, int flags, struct ibv_pd *pd, void *addr, size_t length,
		 int access);
/* A provider deregisters: whether mr was ours, and then *ret_result is the verb's. */
bool region_dereg_by_provider(struct ibv_mr *mr, int *ret_result);
/* Before a device is closed: ends what the program has left registered. */
void region_close_device(const struct ibv_context *context);
/* Somebody registers without a hook of ours. */
void region_check_unseen(const void *addr, size_t length);

/*
 * The program is about to change the layout of its own file, which the lease may not notice:
 * fences and deregisters. -ETXTBSY: the policy forbids it. 1: there was something.
 */
int region_end_file(int fd);
/* Whether region_end_file() is worth a system call. */
bool region_any(void);

void region_before_fork(void);
void region_after_fork(void);
void region_forget_parent(void);

#endif
