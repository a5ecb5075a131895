// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The cases of the preload shim. */
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <unistd.h>

#include "../../launcher/fcntl_layout.h"
#include "../runner.h"
#include "program.h"

bool layout_kernel;
const char *count_path, *owner_path;

static bool has_layout(void)
{
	struct layout_lease l = { .l_type = F_UNLCK };
	int fd = (int)CALL(open("/dax/ext4", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
	bool has = !fcntl(fd, F_GETLAYOUT, &l);

	close(fd);
	return has;
}

static int usage(void)
{
	fprintf(stderr, "usage: preload-cases --shim FILE --owner FILE --count FILE\n"
			"                     [--filter [!]RE] FS...\n"
			"FS: ext4 or xfs, mounted with dax=always on /dax/FS; see run.sh\n"
			"--shim FILE: libdaxlease-preload.so; --owner FILE: preload-owner;\n"
			"--count FILE: preload-count.so\n"
			"Exit status: 0, 1 if a case failed\n");
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "count", required_argument, NULL, 'c' },
		{ "filter", required_argument, NULL, 'f' },
		{ "owner", required_argument, NULL, 'o' },
		{ "shim", required_argument, NULL, 's' },
		{ 0 },
	};
	const char *re = "";
	int c, status;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'f')
			re = optarg;
		else if (c == 's')
			shim_path = optarg;
		else if (c == 'o')
			owner_path = optarg;
		else if (c == 'c')
			count_path = optarg;
		else
			return usage();
	}
	if (optind == argc || !shim_path || !owner_path || !count_path)
		return usage();
	layout_kernel = has_layout();
	add_perftest_cases();
	add_break_cases();
	add_own_cases();
	add_same_cases();
	status = runner_run(re, argv + optind);
	return status < 0 ? usage() : status;
}
