/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A device, and RC connections from it to itself: one end plays the remote peer.
 *
 * ibv_dereg_mr() of this program stands in front of the real one, which the library
 * calls as well: it can be slowed down, and notes when it was done. That makes the
 * order of "deregistered" and "the other side goes on" visible.
 */
#ifndef VM_RDMA_H
#define VM_RDMA_H

#include <stdbool.h>
#include <stdint.h>

#include <infiniband/verbs.h>

struct device {
	struct ibv_context *ctx;
	struct ibv_pd *pd;
	union ibv_gid gid;
	int gid_index;
};

void device_open(struct device *dev, const char *name);
void device_close(struct device *dev);

/* One end of a connection whose other end may be in another process. */
struct ibv_qp *qp_make(struct ibv_pd *pd, struct ibv_cq *cq);
void qp_connect(const struct device *dev, struct ibv_qp *qp, uint32_t to);

struct link {
	struct ibv_pd *near_pd; /* of the peer's own buffer */
	struct ibv_cq *near_cq, *far_cq;
	struct ibv_qp *near, *far; /* the peer; the one on the side of the region */
	struct ibv_mr *mr;
	uint8_t *buf;
};

/* The far end is in pd, which has to be one of this device. */
void link_open(struct link *link, struct device *dev, struct ibv_pd *pd);
void link_close(struct link *link);

/* Writes len bytes of `fill` to the far side, or reads them. enum ibv_wc_status. */
int link_write(struct link *link, void *addr, uint32_t rkey, uint32_t len, uint8_t fill);
int link_read(struct link *link, void *addr, uint32_t rkey, uint32_t len);
enum ibv_qp_state link_far_state(struct link *link);

/* The next calls of ibv_dereg_mr() take this much longer. */
extern unsigned int dereg_delay_ms;
/* When the last successful one returned, and how many there were. */
uint64_t dereg_end_ns(void);
unsigned int dereg_count(void);

/* ibv_reg_mr() and the query of the device behave as if there was no on-demand paging. */
void device_hide_odp(struct device *dev);

#endif
