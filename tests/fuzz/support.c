// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* What fake_fan.c needs of the unit tests' support.c and fault.c. */
#include <time.h>
#include <unistd.h>

#include "fault.h"
#include "support.h"

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void sleep_ms(unsigned int ms)
{
	usleep(ms * 1000);
}

int fault_check(const char *name, int err)
{
	(void)name;
	(void)err;
	return 0;
}
