// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Any text, and any call, in place of what /proc/TID/syscall has. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[160] = "";
	unsigned long w[9] = { 0 };

	if (size && data[0] & 1) { /* nine numbers, small ones more often */
		for (size_t i = 1; i < size && i < 64; i++)
			w[i % 9] = w[i % 9] << 8 | data[i];
		snprintf(text, sizeof(text),
			 "%ld 0x%lx 0x%lx 0x%lx 0x%lx 0x%lx 0x%lx 0x%lx 0x%lx\n", (long)w[0], w[1],
			 w[2], w[3], w[4], w[5], w[6], w[7] << 8, w[8]);
	} else {
		memcpy(text, data, size < sizeof(text) ? size : sizeof(text) - 1);
	}
	for (int opens = 0; opens < 2; opens++) {
		struct call_facts facts = call_parse(text, opens);

		if ((unsigned int)facts.kind > CALL_CHANGE)
			abort();
		/* Fewer than nine words are no call. */
		if (facts.kind != CALL_CHANGE && strlen(text) < 17)
			abort();
		if (facts.kind != CALL_REMAP && facts.target_fd != -1)
			abort();
	}
	return 0;
}
