// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The cases of guards: the kind of lease that is made of pre-content events. */
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../runner.h"
#include "holder.h"

/* Not the status of cases that failed: the kernel has nothing to test. */
#define EXIT_NOT_THERE 3
#define STORM_FILES 100

const char *daemon_program;
unsigned int storm_files = STORM_FILES;

/* What the library's cases use as well; here there is one kind. */
void add_case(case_fn fn, const void *arg, unsigned int kinds, unsigned int seconds,
	      const char *fmt, ...)
{
	char name[64], with_suite[80];
	va_list args;

	CHECK_EQ(kinds, KIND_GUARD);
	va_start(args, fmt);
	vsnprintf(name, sizeof(name), fmt, args);
	va_end(args);
	snprintf(with_suite, sizeof(with_suite), "guard/%s", name);
	runner_add(NULL, with_suite, fn, arg, DAXLEASE_KIND_GUARD, seconds);
}

/* By asking for one, as the library does. */
static bool is_there(const char *fs)
{
	struct daxlease_caps caps = { .size = sizeof(caps) };
	char dir[64];
	int fd;

	snprintf(dir, sizeof(dir), "/dax/%s", fs);
	fd = (int)CALL(open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
	CHECK_EQ(daxlease_probe(fd, NULL, &caps), 0);
	CALL(close(fd));
	return !caps.kinds[DAXLEASE_KIND_GUARD].error;
}

static void add_all(void)
{
	add_op_cases();
	add_bystander_cases();
	add_load_cases();
	add_daemon_cases();
	add_attack_cases();
	add_inside_cases();
	add_missing_cases();
}

static int usage(void)
{
	fprintf(stderr,
		"usage: guard-cases --daemon FILE [--without] [--filter [!]RE] [--storm N] FS...\n"
		"FS: ext4 or xfs, mounted with dax=always on /dax/FS; see run.sh\n"
		"--daemon FILE: the program daxleased\n"
		"--without: the cases for kernels without pre-content events\n"
		"--storm N: so many files are broken at once (%u)\n"
		"Exit status: 0, 1 if a case failed, 3 if the kernel has no pre-content "
		"events, or has some, with --without\n",
		STORM_FILES);
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "daemon", required_argument, NULL, 'd' },
		{ "filter", required_argument, NULL, 'f' },
		{ "storm", required_argument, NULL, 's' },
		{ "without", no_argument, NULL, 'w' },
		{ 0 },
	};
	const char *re = "";
	bool without = false;
	int c, status;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'd')
			daemon_program = optarg;
		else if (c == 'f')
			re = optarg;
		else if (c == 's')
			storm_files = (unsigned int)strtoul(optarg, NULL, 10);
		else if (c == 'w')
			without = true;
		else
			return usage();
	}
	if (optind == argc || !daemon_program || !storm_files)
		return usage();
	for (int i = optind; i < argc; i++) {
		if (is_there(argv[i]) == without) {
			printf("%s guard on %s: no case was run\n", without ? "a" : "no", argv[i]);
			return EXIT_NOT_THERE;
		}
	}
	runner_shows_all = storm_files != STORM_FILES; /* how long it took */
	if (without)
		add_without_cases();
	else
		add_all();
	status = runner_run(re, argv + optind);
	return status < 0 ? usage() : status;
}
