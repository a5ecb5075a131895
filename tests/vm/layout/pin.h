/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What keeps pages of a file for long: memory regions, and buffers of io_uring. */
#ifndef VM_PIN_H
#define VM_PIN_H

#include "../rdma.h"
#include "layout.h"

enum pin_kind {
	PIN_NONE,
	PIN_MR,
	PIN_RING
};

/* What is needed to pin: a device, or a ring. May be opened before the file is. */
struct pinner {
	enum pin_kind kind;
	struct device dev;
	int ring;
};

struct pin {
	struct pinner *by;
	struct ibv_mr *mr;
	bool held;
};

void pinner_open(struct pinner *by, enum pin_kind kind);
void pinner_close(struct pinner *by);
/* Whoever holds what another ring holds: the same buffers in a ring of its own. -errno */
int pinner_clone(struct pinner *ret_by, const struct pinner *from);

/* Writable for the peer. -errno; a ring has one pin at a time. */
int pin_try(struct pin *pin, struct pinner *by, void *addr, size_t length);
/* The same, only readable for it; a ring knows no such thing. */
int pin_try_read_only(struct pin *pin, struct pinner *by, void *addr, size_t length);
void pin_drop(struct pin *pin);

/* The most that fdinfo says of a descriptor of the process. */
unsigned int pins_of_process(pid_t pid);

#endif
