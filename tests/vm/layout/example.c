// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* examples/plain-fcntl.c: what its readers copy has to work, in both spellings. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../runner.h"
#include "ops.h"
#include "pin.h"

struct program {
	pid_t pid;
	int input; /* it ends when this is closed */
	int log;
};

static void program_start(struct program *p, const char *file, const char *const *options)
{
	const char *argv[6] = { PLAIN_FCNTL };
	unsigned int n = 1;
	int ends[2];

	while (*options)
		argv[n++] = *options++;
	argv[n++] = file;
	argv[n] = "rxe0";
	CALL(pipe(ends));
	p->log = (int)CALL(memfd_create("plain-fcntl", MFD_CLOEXEC));
	p->pid = (pid_t)CALL(fork());
	if (!p->pid) {
		dup2(ends[0], STDIN_FILENO);
		dup2(p->log, STDOUT_FILENO);
		dup2(p->log, STDERR_FILENO);
		close(ends[0]);
		close(ends[1]);
		execv(PLAIN_FCNTL, (char *const *)argv);
		perror(PLAIN_FCNTL);
		_exit(127);
	}
	close(ends[0]);
	p->input = ends[1];
}

static bool program_said(const struct program *p, const char *what)
{
	char text[4096];
	ssize_t n = CALL(pread(p->log, text, sizeof(text) - 1, 0));

	text[n] = '\0';
	return strstr(text, what);
}

static void program_end(struct program *p)
{
	int status;

	close(p->input);
	status = wait_child(p->pid, 2 * SOON_MS);
	CHECK(WIFEXITED(status));
	CHECK_EQ(WEXITSTATUS(status), 0);
	CHECK(program_said(p, "deregistered"));
	CHECK(program_said(p, "lease given back"));
}

/* Its output is in a file, so the first line comes with the last: the kernel tells. */
static void wait_pinned(const struct program *p)
{
	uint64_t end = now_ns() + SOON_MS * MSEC;

	while (!pins_of_process(p->pid)) {
		CHECK(now_ns() < end);
		sleep_ms(20);
	}
}

struct way {
	const char *options[3];
	int wanted; /* what a truncate says */
};

static void runs(const struct world *w, const void *arg)
{
	const struct way *way = arg;
	struct other other;
	struct program p;
	struct file f;

	other_start(&other);
	file_make(&f, w, "file", FILE_SIZE, O_RDWR);
	program_start(&p, f.path, way->options);
	wait_pinned(&p);
	CHECK_EQ(other_do(&other, OP_TRUNCATE, f.path, PAGE, -1), way->wanted);
	program_end(&p);
	CHECK_EQ(program_said(&p, "break: somebody wants to change the file"), !way->wanted);
	CHECK_EQ(leases_in_kernel(f.ino), 0);
	CHECK_EQ(other_do(&other, OP_TRUNCATE, f.path, PAGE, -1), 0);
	file_close(&f);
	other_stop(&other);
}

void add_example_cases(void)
{
	static const struct way ways[] = {
		{ { NULL }, 0 },
		{ { "--setlayout" }, 0 },
		{ { "--unbreakable" }, -ETXTBSY },
		{ { "--setlayout", "--unbreakable" }, -ETXTBSY },
	};

	runner_add(NULL, "example/rfc", runs, &ways[0], 0, 0);
	runner_add(NULL, "example/setlayout", runs, &ways[1], 0, 0);
	runner_add(NULL, "example/rfc-unbreakable", runs, &ways[2], 0, 0);
	runner_add(NULL, "example/setlayout-unbreakable", runs, &ways[3], 0, 0);
}
