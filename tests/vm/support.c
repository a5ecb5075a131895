// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support.h"

/* ------------------------------------------------------------------------- */
/* Checks */

_Noreturn void fail_at(const char *file, int line, const char *fmt, ...)
{
	const char *name = strrchr(file, '/');
	va_list args;

	flockfile(stderr);
	fprintf(stderr, "%s:%d: ", name ? name + 1 : file, line);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	fflush(stderr);
	_exit(EXIT_FAILURE);
}

void check_eq(const char *file, int line, const char *what, intmax_t is, intmax_t wanted)
{
	if (is != wanted)
		fail_at(file, line, "%s is %jd, wanted %jd", what, is, wanted);
}

void check_between(const char *file, int line, const char *what, intmax_t is, intmax_t low,
		   intmax_t high)
{
	if (is < low || is > high)
		fail_at(file, line, "%s is %jd, wanted %jd to %jd", what, is, low, high);
}

intmax_t check_call(const char *file, int line, const char *what, intmax_t ret)
{
	if (ret == -1)
		fail_at(file, line, "%s: %s", what, strerror(errno));
	return ret;
}

/* ------------------------------------------------------------------------- */
/* Time, processes, the kernel */

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * SEC + (uint64_t)ts.tv_nsec;
}

void sleep_ms(unsigned int ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000 * MSEC) };

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

void world_path(const struct world *w, const char *name, char *ret_path, size_t size)
{
	CHECK(snprintf(ret_path, size, "%s/%s", w->dir, name) < (int)size);
}

static void sysctl_path(const char *name, char *ret_path, size_t size)
{
	snprintf(ret_path, size, "/proc/sys/fs/%s", name);
}

void sysctl_set(const char *name, int value)
{
	char path[128];
	FILE *f;

	sysctl_path(name, path, sizeof(path));
	f = fopen(path, "we");
	CHECK(f);
	fprintf(f, "%d\n", value);
	CALL(fclose(f));
}

int sysctl_get(const char *name)
{
	char path[128];
	int value;
	FILE *f;

	sysctl_path(name, path, sizeof(path));
	f = fopen(path, "re");
	CHECK(f && fscanf(f, "%d", &value) == 1);
	fclose(f);
	return value;
}

/*
 * proc_locks(5): "1: DELEG  BREAKING  UNLCK 123 00:1f:4711 0 EOF". Who waits has a line
 * with "->" before the kind, and is none.
 */
static bool parse_lock(const char *line, ino_t *ret_ino, bool *ret_breaking)
{
	char kind[16], state[16], type[16];
	uintmax_t ino;

	if (sscanf(line, "%*d: %15s %15s %15s %*d %*x:%*x:%ju", kind, state, type, &ino) != 4)
		return false;
	*ret_ino = (ino_t)ino;
	*ret_breaking = !strcmp(state, "BREAKING");
	return !strcmp(kind, "LEASE") || !strcmp(kind, "DELEG") || !strcmp(kind, "LAYOUT");
}

static unsigned int count_leases(ino_t ino, bool only_breaking)
{
	FILE *f = fopen("/proc/locks", "re");
	unsigned int n = 0;
	char line[256];

	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		bool breaking;
		ino_t found;

		if (parse_lock(line, &found, &breaking) && (!ino || found == ino))
			n += !only_breaking || breaking;
	}
	fclose(f);
	return n;
}

unsigned int leases_in_kernel(ino_t ino)
{
	return count_leases(ino, false);
}

bool lease_is_breaking(ino_t ino)
{
	return count_leases(ino, true);
}

/* "fanotify ino:83 sdev:10300000 mflags:0 mask:110000 ignored_mask:40000000 ..." */
static bool has_mark(const char *path, ino_t ino)
{
	FILE *f = fopen(path, "re");
	bool found = false;
	char line[256];
	uintmax_t marked;

	while (f && !found && fgets(line, sizeof(line), f))
		found = sscanf(line, "fanotify ino:%jx", &marked) == 1 && (ino_t)marked == ino;
	if (f)
		fclose(f);
	return found;
}

static bool task_has_mark(const char *task, ino_t ino)
{
	bool found = false;
	char path[320];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/fdinfo", task);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/fdinfo/%.32s", task, entry->d_name);
		found = entry->d_name[0] != '.' && has_mark(path, ino);
	}
	if (dir)
		closedir(dir);
	return found;
}

/* The guard's threads have descriptors of their own. */
bool is_guarded_by(pid_t pid, ino_t ino)
{
	bool found = false;
	char path[64];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%d/task/%.16s", (int)pid, entry->d_name);
		found = entry->d_name[0] != '.' && task_has_mark(path, ino);
	}
	if (dir)
		closedir(dir);
	return found;
}

unsigned int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	CHECK(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

int wait_child(pid_t pid, unsigned int ms)
{
	uint64_t end = now_ns() + ms * MSEC;
	int status;

	while (CALL(waitpid(pid, &status, WNOHANG)) == 0) {
		if (now_ns() >= end)
			return -1;
		sleep_ms(2);
	}
	return status;
}

void expect_child_ok(pid_t pid, unsigned int ms)
{
	CHECK_EQ(wait_child(pid, ms), 0);
}

/* ------------------------------------------------------------------------- */
/* Log */

#define MAX_LINES 256

static struct {
	pthread_mutex_t lock;
	char *lines[MAX_LINES];
	unsigned int count, errors;
} kept = { .lock = PTHREAD_MUTEX_INITIALIZER };

static const char level_letters[] = "EWID";

void log_line(enum daxlease_log_level level, const char *line, void *userdata)
{
	(void)userdata;
	fprintf(stderr, "%c %s\n", level <= DAXLEASE_LOG_DEBUG ? level_letters[level] : '?', line);
	pthread_mutex_lock(&kept.lock);
	kept.errors += level == DAXLEASE_LOG_ERR;
	if (kept.count < MAX_LINES)
		kept.lines[kept.count++] = strdup(line);
	pthread_mutex_unlock(&kept.lock);
}

void log_forget(void)
{
	pthread_mutex_lock(&kept.lock);
	while (kept.count)
		free(kept.lines[--kept.count]);
	kept.errors = 0;
	pthread_mutex_unlock(&kept.lock);
}

unsigned int log_errors(void)
{
	unsigned int errors;

	pthread_mutex_lock(&kept.lock);
	errors = kept.errors;
	pthread_mutex_unlock(&kept.lock);
	return errors;
}

bool log_has(const char *text)
{
	bool found = false;

	pthread_mutex_lock(&kept.lock);
	for (unsigned int i = 0; i < kept.count && !found; i++)
		found = kept.lines[i] && strstr(kept.lines[i], text);
	pthread_mutex_unlock(&kept.lock);
	return found;
}
