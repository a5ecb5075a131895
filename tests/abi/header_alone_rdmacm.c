// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* As header_alone.c, for programs that use librdmacm. */
#include <daxlease/rdmacm.h>

int main(void)
{
	return daxlease_peer_free(0);
}
