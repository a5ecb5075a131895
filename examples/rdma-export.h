/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What rdma-export tells its client, as private data of rdma_accept(3). */
#ifndef EXAMPLE_RDMA_EXPORT_H
#define EXAMPLE_RDMA_EXPORT_H

#include <stdint.h>

/* In the byte order of this machine: both ends are of the same kind here. */
struct export_info {
	uint64_t addr;
	uint64_t length;
	uint32_t rkey;
};

/* The client's word that it is done, in a SEND. */
#define EXPORT_DONE_SIZE 4

#endif
