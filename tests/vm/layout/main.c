// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The cases of the kernel's layout leases. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../runner.h"
#include "feature.h"
#include "layout.h"

/* Not the status of cases that failed: the kernel has nothing to test. */
#define EXIT_NOT_THERE 3

struct arguments {
	const char *filter;
	bool only_storm;
	const char *exchange_range; /* "on" or "off": just this, on a device */
};

static int usage(void)
{
	fprintf(stderr, "usage: layout-cases [--filter [!]RE] [--storm N] [--seed N] FS...\n"
			"       layout-cases --exchange-range on|off DEVICE\n"
			"FS: ext4 or xfs, mounted with dax=always on /dax/FS; see run.sh\n"
			"--storm N: just kill/storm, with N rounds\n"
			"Exit status: 0, 1 if a case failed, 3 if the kernel has no F_SETLAYOUT\n");
	return 2;
}

static bool parse(int argc, char **argv, struct arguments *args)
{
	static const struct option options[] = {
		{ "filter", required_argument, NULL, 'f' },
		{ "storm", required_argument, NULL, 's' },
		{ "seed", required_argument, NULL, 'r' },
		{ "exchange-range", required_argument, NULL, 'x' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'f') {
			args->filter = optarg;
		} else if (c == 's') {
			args->only_storm = true;
			kill_rounds = (unsigned int)strtoul(optarg, NULL, 10);
		} else if (c == 'r') {
			kill_seed = (unsigned int)strtoul(optarg, NULL, 10);
		} else if (c == 'x') {
			args->exchange_range = optarg;
		} else {
			return false;
		}
	}
	return optind < argc;
}

static bool are_there(char **filesystems)
{
	char dir[64];

	for (; *filesystems; filesystems++) {
		snprintf(dir, sizeof(dir), "/dax/%s", *filesystems);
		if (!layout_is_there(dir))
			return false;
	}
	return true;
}

static void add_all(const struct arguments *args)
{
	if (!args->only_storm) {
		add_query_cases();
		add_refusal_cases();
		add_pin_cases();
		add_example_cases();
		add_exit_cases();
		add_quiet_cases();
		add_matrix_cases();
		add_neighbour_cases();
		add_perftest_cases();
	}
	add_kill_cases();
}

int main(int argc, char **argv)
{
	struct arguments args = { .filter = "" };
	int status;

	if (!parse(argc, argv, &args))
		return usage();
	if (args.exchange_range) {
		status = xfs_set_exchange_range(argv[optind], !strcmp(args.exchange_range, "on"));
		if (status)
			fprintf(stderr, "%s: %s\n", argv[optind], strerror(-status));
		return status ? EXIT_FAILURE : EXIT_SUCCESS;
	}
	if (!are_there(argv + optind)) {
		printf("this kernel has no F_SETLAYOUT: no case was run\n");
		return EXIT_NOT_THERE;
	}
	if (!kill_seed)
		kill_seed = (unsigned int)time(NULL);
	printf("seed %u\n", kill_seed);
	add_all(&args);
	status = runner_run(args.filter, argv + optind);
	return status < 0 ? usage() : status;
}
