// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"

static struct env env;
static pid_t main_pid;

static const struct part {
	const char *name;
	void (*fn)(const struct env *env);
} parts[] = {
	{ "a", bench_register },
	{ "b", bench_break },
	{ "c", bench_leases },
	{ "d", bench_pinned },
	{ "g", bench_guard },
	{ "u", bench_uring },
	{ "resources", bench_resources },
};

static void usage(FILE *to)
{
	fprintf(to,
		"Usage: daxlease-bench [OPTION...] DIR\n"
		"\n"
		"Compare the library with the same thing done by hand, on files in DIR. All of it\n"
		"needs FS-DAX there and an RDMA device with on-demand paging; without them the rest\n"
		"is measured.\n"
		"\n"
		"  --quick        fewer rounds\n"
		"  --json         print JSON\n"
		"  --only PART    a (registering), b (breaks), c (many leases), d (pinned or\n"
		"                 on demand), g (guard), u (io_uring) or resources\n"
		"  --kind KIND    lease kind of a, b and c: auto (default), deleg, lease\n"
		"  --guard-socket PATH\n"
		"                 in g, measure the daxleased that listens there as well\n"
		"  --device NAME  RDMA device; default: the first with on-demand paging\n"
		"  --strict       exit status 1 if a target is missed\n"
		"  --help         show this text\n"
		"\n"
		"Exit status: 0, or 1 with --strict, or 2 if something could not be measured.\n");
}

static void clean_up(void)
{
	char path[sizeof(env.work) + 64];

	if (getpid() != main_pid || !env.work[0])
		return;
	snprintf(path, sizeof(path), "%s/broken", env.work);
	unlink(path);
	rmdir(env.work);
}

static void on_end(int signo)
{
	/* Neither allocates nor locks; what is open goes with the process. */
	clean_up();
	signal(signo, SIG_DFL);
	raise(signo);
}

static const struct part *find_part(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		if (!strcmp(parts[i].name, name))
			return &parts[i];
	}
	die(0, "--only %s: no such part (a, b, c, d, g, u, resources)", name);
}

static void check_dir(const char *dir)
{
	struct stat st;

	if (stat(dir, &st))
		die(errno, "%s", dir);
	if (!S_ISDIR(st.st_mode))
		die(0, "%s: not a directory", dir);
}

struct options {
	bool json, strict;
	const struct part *only;
};

static void parse(int argc, char **argv, struct options *o)
{
	enum {
		QUICK = 256,
		JSON,
		ONLY,
		KIND,
		DEVICE,
		GUARD_SOCKET,
		STRICT,
		HELP
	};
	static const struct option longs[] = {
		{ "quick", no_argument, NULL, QUICK },
		{ "json", no_argument, NULL, JSON },
		{ "only", required_argument, NULL, ONLY },
		{ "kind", required_argument, NULL, KIND },
		{ "device", required_argument, NULL, DEVICE },
		{ "guard-socket", required_argument, NULL, GUARD_SOCKET },
		{ "strict", no_argument, NULL, STRICT },
		{ "help", no_argument, NULL, HELP },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case QUICK:
			env.quick = true;
			break;
		case JSON:
			o->json = true;
			break;
		case ONLY:
			o->only = find_part(optarg);
			break;
		case KIND:
			if (daxlease_kind_from_str(optarg, &env.asked))
				die(0, "--kind %s: no such lease kind", optarg);
			if (env.asked == DAXLEASE_KIND_GUARD)
				die(0, "--kind guard: it has a part of its own, --only g");
			break;
		case DEVICE:
			env.device_name = optarg;
			break;
		case GUARD_SOCKET:
			env.guard_socket = optarg;
			break;
		case STRICT:
			o->strict = true;
			break;
		case HELP:
			usage(stdout);
			exit(EXIT_SUCCESS);
		default:
			usage(stderr);
			exit(2);
		}
	}
	if (argc - optind != 1) {
		usage(stderr);
		exit(2);
	}
	env.dir = argv[optind];
}

int main(int argc, char **argv)
{
	struct options o = { 0 };

	parse(argc, argv, &o);
	check_dir(env.dir);
	main_pid = getpid();
	atexit(clean_up);
	signal(SIGINT, on_end);
	signal(SIGTERM, on_end);
	env_open(&env);
	report_begin(o.json, o.strict);
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		if (!o.only || o.only == &parts[i])
			parts[i].fn(&env);
	}
	env_close(&env);
	return report_end();
}
