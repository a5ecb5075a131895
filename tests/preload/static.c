// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Linked statically: nothing is preloaded, and nothing goes wrong. */
#include <stdio.h>

int main(void)
{
	return puts("static") < 0;
}
