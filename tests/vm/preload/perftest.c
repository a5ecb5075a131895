// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* perftest with a file on FS-DAX: not without the shim, and with it from begin to end. */
#include <fcntl.h>
#include <string.h>

#include "../file.h"
#include "../runner.h"
#include "program.h"

/* It has two buffers, one to send from and one to receive into. */
#define MAPPED (2 * 65536u)

static const char *const few[] = { "-n", "100", NULL };

static bool has_data(const struct file *f)
{
	FILE *in = fopen(f->path, "re");
	int c;

	CHECK(in);
	while ((c = getc(in)) == '\0')
		;
	fclose(in);
	return c != EOF;
}

static void runs(const struct world *w, const void *arg)
{
	static const struct shim off, on = { .on = true, .log = "info" };
	const char *tool = arg;
	struct perftest t;
	struct file f;

	file_make(&f, w, "file", MAPPED, O_RDWR);
	file_close(&f);
	perftest_start(&t, SERVER, tool, f.path, &off, few);
	CHECK(program_exit(&t.server, 2 * SOON_MS) > 0);
	CHECK(strstr(program_text(&t.server), "Couldn't allocate MR"));
	program_exit(&t.client, 2 * SOON_MS);

	perftest_start(&t, SERVER, tool, f.path, &on, few);
	CHECK_EQ(program_exit(&t.client, 2 * SOON_MS), 0);
	CHECK_EQ(program_exit(&t.server, 2 * SOON_MS), 0);
	CHECK(strstr(program_text(&t.server), layout_kernel ? "pinned" : "on demand"));
	/* Both print how much they did. */
	CHECK(strstr(program_text(&t.client),
		     tool[3] == 'w' && strstr(tool, "lat") ? "t_avg" : "BW average"));
	CHECK_EQ(leases_in_kernel(f.ino), 0);
	/* What is read stays as it was; perftest fills it itself. */
	CHECK(has_data(&f) || strstr(tool, "read"));
}

void add_perftest_cases(void)
{
	static const char *const tools[] = { "ib_write_bw", "ib_read_bw", "ib_send_bw",
					     "ib_write_lat" };

	for (unsigned int i = 0; i < ARRAY_SIZE(tools); i++) {
		char name[64];

		snprintf(name, sizeof(name), "preload/perftest/%s", tools[i]);
		runner_add(NULL, name, runs, tools[i], 0, 60);
	}
}
