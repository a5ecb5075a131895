// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Runs the cases, one after the other, each in a process of its own. */
#include <ftw.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <regex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

#define MAX_CASES 1024
#define DEFAULT_SECONDS 40

struct vm_case {
	char name[80];
	case_fn fn;
	const void *arg;
	enum daxlease_kind kind;
	unsigned int seconds;
};

unsigned int layouts_found;

static struct vm_case cases[MAX_CASES];
static unsigned int ncases;
static unsigned int passed, failed;
static regex_t filter;

void add_case(case_fn fn, const void *arg, unsigned int kinds, unsigned int seconds,
	      const char *fmt, ...)
{
	char name[64];
	va_list args;

	va_start(args, fmt);
	vsnprintf(name, sizeof(name), fmt, args);
	va_end(args);
	for (unsigned int kind = 0; kind < DAXLEASE_KIND_MAX; kind++) {
		struct vm_case *c = &cases[ncases];

		if (!(kinds & (KIND_BOTH | layouts_found) & 1u << kind))
			continue;
		CHECK(ncases < MAX_CASES);
		*c = (struct vm_case){ .fn = fn, .arg = arg, .seconds = seconds, .kind = kind };
		if (!seconds)
			c->seconds = DEFAULT_SECONDS;
		snprintf(c->name, sizeof(c->name), "%s/%s", name, daxlease_kind_str(kind));
		ncases++;
	}
}

/* ------------------------------------------------------------------------- */
/* One case */

static void settings_default(void)
{
	sysctl_set("lease-break-time", 45);
	sysctl_set("leases-enable", 1);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	return ftw->level ? remove(path) : 0;
}

/* A lease is gone as soon as the last process that has the description has ended. */
static bool no_lease_is_left(void)
{
	for (unsigned int i = 0; leases_in_kernel(0); i++) {
		if (i == 100)
			return false;
		sleep_ms(20);
	}
	return true;
}

static _Noreturn void run_in_child(const struct vm_case *c, const struct world *w, int log)
{
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(log, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	c->fn(w, c->arg);
	_exit(EXIT_SUCCESS);
}

/* What it left running goes with it. */
static void end_group(pid_t pid)
{
	kill(-pid, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0)
		;
}

static const char *run_case(const struct vm_case *c, const struct world *w, int log)
{
	const char *result = NULL;
	int status;
	pid_t pid;

	settings_default();
	fflush(NULL);
	pid = (pid_t)CALL(fork());
	if (!pid)
		run_in_child(c, w, log);
	setpgid(pid, pid);
	status = wait_child(pid, c->seconds * 1000);
	if (status < 0)
		result = "time was up";
	else if (WIFSIGNALED(status))
		result = strsignal(WTERMSIG(status));
	else if (WEXITSTATUS(status))
		result = "failed";
	end_group(pid);
	settings_default();
	if (!no_lease_is_left())
		result = "leases are left";
	nftw(w->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	return result;
}

static void show_log(int log)
{
	char buf[4096];
	off_t at = 0;
	ssize_t n;

	fflush(stdout);
	while ((n = pread(log, buf, sizeof(buf), at)) > 0) {
		CHECK(write(STDOUT_FILENO, buf, (size_t)n) == n);
		at += n;
	}
}

static void report_case(const struct vm_case *c, const struct world *w)
{
	struct world mine = *w;
	int log = (int)CALL(memfd_create("log", MFD_CLOEXEC));
	uint64_t begin = now_ns();
	const char *result;

	CALL(fcntl(log, F_SETFL, O_APPEND));
	mine.kind = c->kind;
	result = run_case(c, &mine, log);
	*(result ? &failed : &passed) += 1;
	printf("%sok %s/%s (%" PRIu64 " ms)%s%s\n", result ? "not " : "", w->fs, c->name,
	       (now_ns() - begin) / MSEC, result ? ": " : "", result ? result : "");
	if (result)
		show_log(log);
	fflush(stdout);
	close(log);
}

/* ------------------------------------------------------------------------- */
/* All of them */

/* By asking for one, as the library does. What is missing is said, lest it be missed. */
static void find_layouts(const char *fs)
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
	printf("kinds:");
	for (unsigned int kind = 0; kind < DAXLEASE_KIND_MAX; kind++) {
		if ((KIND_BOTH | layouts_found) & 1u << kind)
			printf(" %s", daxlease_kind_str(kind));
	}
	printf("%s\n", layouts_found == KIND_LAYOUTS ?
			       "" :
			       " (no cases for other layout leases, which this kernel lacks)");
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

static bool is_wanted(const struct vm_case *c, const struct world *w)
{
	char name[128];

	snprintf(name, sizeof(name), "%s/%s", w->fs, c->name);
	return regexec(&filter, name, 0, NULL, 0) == 0;
}

static void run_world(const char *fs)
{
	char dir[64];
	const struct world w = { .fs = fs, .dir = dir };
	unsigned int before = passed + failed;
	uint64_t begin = now_ns();

	snprintf(dir, sizeof(dir), "/dax/%s/cases", fs);
	CALL(mkdir(dir, 0755));
	for (unsigned int i = 0; i < ncases; i++) {
		if (is_wanted(&cases[i], &w))
			report_case(&cases[i], &w);
	}
	CALL(rmdir(dir));
	printf("%s: %u cases in %.1f s\n", fs, passed + failed - before,
	       (double)(now_ns() - begin) / 1e9);
}

static int usage(void)
{
	fprintf(stderr, "usage: vm-cases [--filter RE] FS...\n"
			"FS: ext4 or xfs, mounted with dax=always on /dax/FS\n");
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "filter", required_argument, NULL, 'f' },
						 { 0 } };
	const char *re = "";
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c != 'f')
			return usage();
		re = optarg;
	}
	if (optind == argc || regcomp(&filter, re, REG_EXTENDED | REG_NOSUB))
		return usage();
	/* Whatever a case leaves behind becomes a child of this process, and is ended. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	find_layouts(argv[optind]);
	add_all();
	for (int i = optind; i < argc; i++)
		run_world(argv[i]);
	printf("%u passed, %u failed\n", passed, failed);
	return failed || !passed;
}
