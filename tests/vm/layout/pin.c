// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "pin.h"

#define ALL_ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)
#define READ_ACCESS IBV_ACCESS_REMOTE_READ

/* Of Linux 6.12; the headers may be older than the kernel. */
#define REGISTER_CLONE_BUFFERS 30
struct clone_buffers {
	uint32_t src_fd;
	uint32_t flags;
	uint32_t src_off, dst_off, nr;
	uint32_t pad[3];
};

/* ------------------------------------------------------------------------- */
/* Rings. By system call: the tests need no library that the project does not. */

static int ring_open(void)
{
	struct io_uring_params params;

	memset(&params, 0, sizeof(params));
	return (int)CALL(syscall(SYS_io_uring_setup, 4, &params));
}

static int ring_register(int ring, unsigned int opcode, void *arg, unsigned int count)
{
	return syscall(SYS_io_uring_register, ring, opcode, arg, count) < 0 ? -errno : 0;
}

static int ring_pin(int ring, void *addr, size_t length)
{
	struct iovec iov = { .iov_base = addr, .iov_len = length };

	return ring_register(ring, IORING_REGISTER_BUFFERS, &iov, 1);
}

int pinner_clone(struct pinner *ret_by, const struct pinner *from)
{
	struct clone_buffers clone = { .src_fd = (uint32_t)from->ring };

	CHECK_EQ(from->kind, PIN_RING);
	pinner_open(ret_by, PIN_RING);
	return ring_register(ret_by->ring, REGISTER_CLONE_BUFFERS, &clone, 1);
}

/* ------------------------------------------------------------------------- */

void pinner_open(struct pinner *by, enum pin_kind kind)
{
	memset(by, 0, sizeof(*by));
	by->kind = kind;
	if (kind == PIN_MR)
		device_open(&by->dev, "rxe0");
	if (kind == PIN_RING)
		by->ring = ring_open();
}

void pinner_close(struct pinner *by)
{
	if (by->kind == PIN_MR)
		device_close(&by->dev);
	if (by->kind == PIN_RING)
		CALL(close(by->ring));
}

static int mr_pin(struct pin *pin, struct pinner *by, void *addr, size_t length,
		  unsigned int access)
{
	pin->mr = ibv_reg_mr(by->dev.pd, addr, length, access);
	return pin->mr ? 0 : -errno;
}

int pin_try(struct pin *pin, struct pinner *by, void *addr, size_t length)
{
	int err = 0;

	memset(pin, 0, sizeof(*pin));
	pin->by = by;
	if (by->kind == PIN_MR)
		err = mr_pin(pin, by, addr, length, ALL_ACCESS);
	if (by->kind == PIN_RING)
		err = ring_pin(by->ring, addr, length);
	pin->held = !err && by->kind != PIN_NONE;
	return err;
}

int pin_try_read_only(struct pin *pin, struct pinner *by, void *addr, size_t length)
{
	int err;

	CHECK_EQ(by->kind, PIN_MR);
	memset(pin, 0, sizeof(*pin));
	pin->by = by;
	err = mr_pin(pin, by, addr, length, READ_ACCESS);
	pin->held = !err;
	return err;
}

void pin_drop(struct pin *pin)
{
	if (!pin->held)
		return;
	pin->held = false;
	if (pin->by->kind == PIN_MR)
		CHECK_EQ(ibv_dereg_mr(pin->mr), 0);
	else
		CHECK_EQ(ring_register(pin->by->ring, IORING_UNREGISTER_BUFFERS, NULL, 0), 0);
}

unsigned int pins_of_process(pid_t pid)
{
	unsigned int most = 0;

	for (int fd = 0; fd < 64; fd++) {
		unsigned int pins;
		char line[256];
		FILE *f;

		snprintf(line, sizeof(line), "/proc/%d/fdinfo/%d", (int)pid, fd);
		f = fopen(line, "re");
		while (f && fgets(line, sizeof(line), f)) {
			if (sscanf(line, "layout-pins: %u", &pins) == 1 && pins > most)
				most = pins;
		}
		if (f)
			fclose(f);
	}
	return most;
}
