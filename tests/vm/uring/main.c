// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The cases of io_uring's registered buffers. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../runner.h"
#include "ring.h"

unsigned int layouts_found;

/* kinds 0: once, on every kernel; DAXLEASE_KIND_AUTO then. */
void add_case(case_fn fn, const void *arg, unsigned int kinds, unsigned int seconds,
	      const char *fmt, ...)
{
	char name[64], full[96];
	va_list args;

	va_start(args, fmt);
	vsnprintf(name, sizeof(name), fmt, args);
	va_end(args);
	if (!kinds) {
		snprintf(full, sizeof(full), "uring/%s", name);
		runner_add(NULL, full, fn, arg, DAXLEASE_KIND_AUTO, seconds);
	}
	for (unsigned int kind = 0; kind < DAXLEASE_KIND_MAX; kind++) {
		if (!(kinds & layouts_found & 1u << kind))
			continue;
		snprintf(full, sizeof(full), "uring/%s/%s", name, daxlease_kind_str(kind));
		runner_add(NULL, full, fn, arg, kind, seconds);
	}
}

static void find_kinds(const char *fs)
{
	struct daxlease_caps caps = { .size = sizeof(caps) };
	char dir[64];
	int fd;

	snprintf(dir, sizeof(dir), "/dax/%s", fs);
	fd = (int)CALL(open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
	CHECK_EQ(daxlease_probe(fd, NULL, &caps), 0);
	CALL(close(fd));
	for (unsigned int kind = 0; kind < DAXLEASE_KIND_MAX; kind++) {
		if (KIND_LAYOUTS & 1u << kind && !caps.kinds[kind].error)
			layouts_found |= 1u << kind;
	}
	printf("layout leases: %s\n", layouts_found ? "yes" : "none: what is refused is tried");
}

static int usage(void)
{
	fprintf(stderr, "usage: uring-cases [--filter [!]RE] FS...\n"
			"FS: ext4 or xfs, mounted with dax=always on /dax/FS; see run.sh\n");
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "filter", required_argument, NULL, 'f' },
						 { 0 } };
	const char *re = "";
	int c, status;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c != 'f')
			return usage();
		re = optarg;
	}
	if (optind == argc)
		return usage();
	find_kinds(argv[optind]);
	add_rule_cases();
	add_wait_cases();
	add_example_cases();
	add_storm_cases();
	status = runner_run(re, argv + optind);
	return status < 0 ? usage() : status;
}
