// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* examples/uring-loop.c, from outside: what it says, and that it has one thread. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ring.h"

#define SOURCE "/run/uring-loop-source"
#define SIZE (64 * PAGE)

struct program {
	pid_t pid;
	FILE *out;
};

static void make_source(void)
{
	uint8_t page[PAGE];
	int fd = (int)CALL(open(SOURCE, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));

	for (unsigned int i = 0; i < SIZE / PAGE; i++) {
		memset(page, (int)i + 1, sizeof(page));
		CHECK_EQ(write(fd, page, sizeof(page)), sizeof(page));
	}
	CALL(close(fd));
}

static void program_start(struct program *p, const char *file)
{
	int ends[2];

	CALL(pipe2(ends, O_CLOEXEC));
	p->pid = (pid_t)CALL(fork());
	if (!p->pid) {
		dup2(ends[1], STDOUT_FILENO);
		execl(URING_LOOP, "uring-loop", SOURCE, file, "rxe0", NULL);
		_exit(127);
	}
	CALL(close(ends[1]));
	p->out = fdopen(ends[0], "r");
	CHECK(p->out);
}

/* Waits for a line with this in it; the runner ends a case that waits for ever. */
static void program_says(struct program *p, const char *text)
{
	char line[256] = "";

	while (!strstr(line, text)) {
		if (!fgets(line, sizeof(line), p->out))
			fail_at(__FILE__, __LINE__, "it ended without saying: %s", text);
		fputs(line, stdout);
	}
}

/* Without io_uring's workers, which are the kernel's. */
static unsigned int threads_of(pid_t pid)
{
	unsigned int n = 0;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	CHECK(dir);
	for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
		char comm[400], name[32] = "";
		FILE *f;

		if (e->d_name[0] == '.')
			continue;
		snprintf(comm, sizeof(comm), "%s/%s/comm", path, e->d_name);
		f = fopen(comm, "re");
		if (f) {
			CHECK(fgets(name, sizeof(name), f));
			fclose(f);
		}
		n += strncmp(name, "iou-", 4) != 0;
	}
	closedir(dir);
	return n;
}

/* Its own, and the library's that listens. A helper of that may stay for a moment. */
static void check_threads(pid_t pid)
{
	uint64_t end = now_ns() + SOON_MS * MSEC;

	while (threads_of(pid) != 2) {
		CHECK(now_ns() < end);
		sleep_ms(10);
	}
}

static void example(const struct world *w, const void *arg)
{
	struct program p;
	struct other other;
	struct file f;

	(void)arg;
	other_start(&other);
	make_source();
	file_make(&f, w, "file", SIZE, O_RDWR);
	program_start(&p, f.path);
	program_says(&p, "registered");
	sleep_ms(500);
	for (int i = 0; i < 3; i++) {
		CHECK_EQ(other_do(&other, OP_TRUNCATE, f.path, SIZE / 2, -1), 0);
		program_says(&p, "released: drained in time");
		program_says(&p, "regained");
		CHECK_EQ(other_do(&other, OP_TRUNCATE, f.path, SIZE, -1), 0);
		sleep_ms(300);
	}
	check_threads(p.pid);
	CALL(kill(p.pid, SIGTERM));
	program_says(&p, "blocks copied");
	expect_child_ok(p.pid, SOON_MS);
	fclose(p.out);
	/* What was copied is there. */
	for (unsigned int i = 0; i < SIZE / 2 / PAGE; i++)
		CHECK_EQ(f.map[i * PAGE], i + 1);
	other_stop(&other);
	file_close(&f);
	CHECK_EQ(leases_in_kernel(f.ino), 0);
	CALL(unlink(SOURCE));
}

void add_example_cases(void)
{
	add_case(example, NULL, KIND_LAYOUT, 0, "example");
}
