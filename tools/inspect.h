/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What daxlease doctor finds out; doctor.c prints it. */
#ifndef TOOLS_INSPECT_H
#define TOOLS_INSPECT_H

#include <stdbool.h>

#include <daxlease/daxlease.h>

#include "proc.h"

struct machine {
	char release[65];
	long leases_enable, break_time; /* -1: unknown */
	uint64_t memlock;		/* bytes, UINT64_MAX: no limit */
	bool can_guard;			/* CAP_SYS_ADMIN */
	int daemon;			/* 0: daxleased answers; -errno */
};

void inspect_machine(struct machine *ret_machine);

struct device {
	struct ibv_context *ctx;
	struct ibv_pd *pd;
	char name[64];
	int err; /* it could not be opened: -errno */
	bool active;
	unsigned int mtu;
	uint64_t odp_general; /* IBV_ODP_SUPPORT: 0 = no on-demand paging */
	uint32_t odp_rc, odp_uc, odp_ud;
};

/* All, or the one with this name. -ENODEV. The list is freed by inspect_devices_free(). */
int inspect_devices(const char *only, struct device **ret_devices, size_t *ret_n);
void inspect_devices_free(struct device *devices, size_t n);

/* What came of registering the file with a device. */
struct attempt {
	int err; /* 0 or -errno; why says more */
	enum daxlease_kind kind;
	bool on_demand;
	bool traffic_tried;
	char why[512];
	char traffic[160]; /* empty: the write arrived; else what came of it */
};

struct file_report {
	const char *path;
	int err;       /* it could not be looked at: -errno */
	char why[160]; /* that, or why there is no DAX; empty: there is */
	struct file_id id;
	uid_t owner;
	uint64_t size;
	bool writable; /* by us */
	bool may_lease;
	bool opened; /* false: somebody leases it, and opening would break that */
	struct mount mount;
	struct daxlease_caps caps;
	struct users users;
	struct lock *locks;
	size_t nlocks;
	uint64_t huge;		  /* bytes that can be mapped by huge pages; UINT64_MAX: unknown */
	struct attempt *attempts; /* one for each device */
};

int inspect_file(const char *path, const struct device *devices, size_t ndevices, bool traffic,
		 struct file_report *ret_report);
void inspect_file_free(struct file_report *report);

/*
 * Writes page to addr by RDMA, through a connection of the device to itself. Empty text: it
 * arrived; else why not. The content stays as it was, whatever happens.
 */
void traffic_try(const struct device *device, void *addr, uint32_t rkey, char *ret_text,
		 size_t size);

#endif
