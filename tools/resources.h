/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* RDMA resources of processes, as the kernel lists them (what rdma-resource(8) shows). */
#ifndef TOOLS_RESOURCES_H
#define TOOLS_RESOURCES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct resource {
	enum {
		RESOURCE_MR,
		RESOURCE_QP,
	} kind;
	char device[64];
	pid_t pid;
	uint32_t number; /* of the MR, or the queue pair's */
	uint64_t length; /* RESOURCE_MR: bytes */
	uint32_t state;	 /* RESOURCE_QP: enum ibv_qp_state */
};

/* The list is the caller's. -errno: there is no such list on this machine. */
int resources_list(struct resource **ret_list, size_t *ret_n);

#endif
