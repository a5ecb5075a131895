/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What <linux/fcntl.h> has on kernels with layout leases, for tests and benchmarks. */
#ifndef FCNTL_LAYOUT_H
#define FCNTL_LAYOUT_H

#include <fcntl.h>
#include <stdint.h>

#ifndef F_SETLAYOUT
#define F_GETLAYOUT (1024 + 17)
#define F_SETLAYOUT (1024 + 18)
#define LAYOUT_UNBREAKABLE 1u
#define LAYOUT_BREAKING 2u
#define LAYOUT_NO_DEADLINE UINT32_MAX
struct layout_lease {
	uint32_t l_flags;
	uint16_t l_type;
	uint16_t pad;
	uint32_t l_break_ms;
	uint32_t l_pins;
};
#endif

#endif
