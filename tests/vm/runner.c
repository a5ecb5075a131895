// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <ftw.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <regex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runner.h"

#define MAX_CASES 1024
#define DEFAULT_SECONDS 40

struct vm_case {
	char name[80];
	const char *fs;
	case_fn fn;
	const void *arg;
	enum daxlease_kind kind;
	unsigned int seconds;
};

bool runner_shows_all;

static struct vm_case cases[MAX_CASES];
static unsigned int ncases;
static unsigned int passed, failed;
static regex_t filter;
static bool filter_negated;

void runner_add(const char *fs, const char *name, case_fn fn, const void *arg,
		enum daxlease_kind kind, unsigned int seconds)
{
	struct vm_case *c = &cases[ncases++];

	CHECK(ncases <= MAX_CASES);
	*c = (struct vm_case){ .fs = fs, .fn = fn, .arg = arg, .kind = kind, .seconds = seconds };
	if (!seconds)
		c->seconds = DEFAULT_SECONDS;
	CHECK(snprintf(c->name, sizeof(c->name), "%s", name) < (int)sizeof(c->name));
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
	if (result || runner_shows_all)
		show_log(log);
	fflush(stdout);
	close(log);
}

/* ------------------------------------------------------------------------- */
/* All of them */

static bool is_wanted(const struct vm_case *c, const struct world *w)
{
	char name[128];

	CHECK(snprintf(name, sizeof(name), "%s/%s", w->fs, c->name) < (int)sizeof(name));
	if (c->fs && strcmp(c->fs, w->fs) != 0)
		return false;
	return (regexec(&filter, name, 0, NULL, 0) == 0) != filter_negated;
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

int runner_run(const char *re, char **filesystems)
{
	filter_negated = *re == '!';
	if (regcomp(&filter, re + filter_negated, REG_EXTENDED | REG_NOSUB))
		return -EINVAL;
	/* Whatever a case leaves behind becomes a child of this process, and is ended. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	for (; *filesystems; filesystems++)
		run_world(*filesystems);
	printf("%u passed, %u failed\n", passed, failed);
	return failed || !passed;
}
