/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What the programs have in common. */
#ifndef PRELOAD_VICTIM_H
#define PRELOAD_VICTIM_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fake_ibverbs.h"

#define PAGE 4096u
#define SIZE (8 * PAGE)

#define CHECK(cond)                                                                           \
	do {                                                                                  \
		if (!(cond)) {                                                                \
			fprintf(stderr, "%s:%d: not so: %s (errno %s)\n", __FILE__, __LINE__, \
				#cond, strerror(errno));                                      \
			exit(1);                                                              \
		}                                                                             \
	} while (0)

#define READ_WRITE (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)

#endif
