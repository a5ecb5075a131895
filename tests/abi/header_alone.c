// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The public header needs nothing before it, and POSIX only, no GNU extensions. */
#include <daxlease/daxlease.h>

int main(void)
{
	return daxlease_version() == 0;
}
