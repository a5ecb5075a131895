// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The cases of the library: each for the kinds of leases that it is about. */
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "runner.h"

unsigned int layouts_found;
bool guard_found;

static unsigned int kinds_found(void)
{
	return KIND_BOTH | layouts_found | (guard_found ? KIND_GUARD : 0);
}

void add_case(case_fn fn, const void *arg, unsigned int kinds, unsigned int seconds,
	      const char *fmt, ...)
{
	char name[64], with_kind[80];
	va_list args;

	va_start(args, fmt);
	vsnprintf(name, sizeof(name), fmt, args);
	va_end(args);
	for (unsigned int kind = 0; kind < DAXLEASE_KIND_MAX; kind++) {
		if (!(kinds & kinds_found() & 1u << kind))
			continue;
		snprintf(with_kind, sizeof(with_kind), "%s/%s", name, daxlease_kind_str(kind));
		runner_add(NULL, with_kind, fn, arg, kind, seconds);
	}
}

/* By asking for one, as the library does. What is missing is said, lest it be missed. */
static void find_kinds(const char *fs)
{
	struct daxlease_caps caps = { .size = sizeof(caps) };
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/dax/%s/probe", fs);
	fd = (int)CALL(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	CHECK_EQ(daxlease_probe(fd, NULL, &caps), 0);
	CALL(close(fd));
	CALL(unlink(path));
	for (unsigned int kind = 0; kind < DAXLEASE_KIND_MAX; kind++) {
		if (KIND_LAYOUTS & 1u << kind && !caps.kinds[kind].error)
			layouts_found |= 1u << kind;
	}
	guard_found = !caps.kinds[DAXLEASE_KIND_GUARD].error;
	printf("kinds:");
	for (unsigned int kind = 0; kind < DAXLEASE_KIND_MAX; kind++) {
		if (kinds_found() & 1u << kind)
			printf(" %s", daxlease_kind_str(kind));
	}
	printf("%s%s\n",
	       layouts_found == KIND_LAYOUTS ?
		       "" :
		       " (no cases for other layout leases, which this kernel lacks)",
	       guard_found ? "" : " (nor for guards)");
}

static void add_all(void)
{
	add_table_cases();
	add_drain_cases();
	add_process_cases();
	add_refuse_cases();
	add_region_cases();
	add_mode_cases();
	add_tool_cases();
	add_storm_cases();
	add_layout_cases();
}

static int usage(void)
{
	fprintf(stderr, "usage: vm-cases [--filter [!]RE] FS...\n"
			"FS: ext4 or xfs, mounted with dax=always on /dax/FS\n");
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
	add_all();
	status = runner_run(re, argv + optind);
	return status < 0 ? usage() : status;
}
