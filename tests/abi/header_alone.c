// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The public headers need nothing before them, and POSIX only, no GNU extensions. */
#include <daxlease/uring.h>

int main(void)
{
	return daxlease_version() == 0 || daxlease_is_cqe(0);
}
