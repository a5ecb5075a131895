// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* A program that people really use, and that knows nothing of leases: ib_write_bw. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../runner.h"
#include "ops.h"
#include "pin.h"

#define BUFFER 65536u
/* It has two of them, one to send from and one to receive into. */
#define MAPPED (2 * BUFFER)
#define SECONDS "6"

/* With tests/launcher/lease_mmap.c before it, or not. */
enum launch {
	PLAIN,
	WATCHED, /* it only says why a registration failed */
	LEASED,
};

struct bw {
	pid_t pid;
	int log;
};

static void set_launch(enum launch launch)
{
	unsetenv("LD_PRELOAD");
	unsetenv("LEASE_MMAP");
	if (launch != PLAIN)
		setenv("LD_PRELOAD", LEASE_MMAP, 1);
	if (launch == WATCHED)
		setenv("LEASE_MMAP", "none", 1);
}

/* The server if file is given: what the client writes arrives there. */
static void bw_start(struct bw *bw, const char *file, enum launch launch)
{
	char gid[16], map[300];
	struct device dev;

	device_open(&dev, "rxe0");
	snprintf(gid, sizeof(gid), "%d", dev.gid_index);
	device_close(&dev);
	snprintf(map, sizeof(map), "--mmap=%s", file ? file : "");
	bw->log = (int)CALL(memfd_create("ib_write_bw", MFD_CLOEXEC));
	bw->pid = (pid_t)CALL(fork());
	if (bw->pid)
		return;
	dup2(bw->log, STDOUT_FILENO);
	dup2(bw->log, STDERR_FILENO);
	set_launch(launch);
	/* clang-format off */
	execlp("ib_write_bw", "ib_write_bw", "-F", "-d", "rxe0", "-x", gid, "-m", "4096",
	       "-s", "65536", "-D", SECONDS, "-f", "1", file ? map : "10.9.0.1", NULL);
	/* clang-format on */
	perror("ib_write_bw (Debian: perftest)");
	_exit(127);
}

/* What it has printed so far, which is shown if the case fails. */
static char *bw_text(const struct bw *bw)
{
	static char text[16384];
	ssize_t n = CALL(pread(bw->log, text, sizeof(text) - 1, 0));

	text[n] = '\0';
	return text;
}

/* Exit status, or -1 for a signal. */
static int bw_end(struct bw *bw)
{
	int status = wait_child(bw->pid, 2 * SOON_MS);

	printf("%s", bw_text(bw));
	fflush(stdout);
	CHECK(status >= 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool is_listening(void)
{
	FILE *f = fopen("/proc/net/tcp", "re");
	bool found = false;
	char line[256];

	CHECK(f);
	/* 18515, perftest's port, with nobody at the other end; 0A: it listens. */
	while (fgets(line, sizeof(line), f))
		found |= strstr(line, ":4853 00000000:0000 0A") != NULL;
	fclose(f);
	return found;
}

/* Both sides, connected. */
static void both_start(struct bw *server, struct bw *client, const char *file, enum launch launch)
{
	uint64_t end = now_ns() + SOON_MS * MSEC;
	siginfo_t info = { 0 };

	bw_start(server, file, launch);
	while (!is_listening()) {
		CHECK(now_ns() < end);
		if (!waitid(P_PID, (id_t)server->pid, &info, WEXITED | WNOHANG | WNOWAIT) &&
		    info.si_pid)
			fail_at(__FILE__, __LINE__, "no server: %s", bw_text(server));
		sleep_ms(20);
	}
	bw_start(client, NULL, PLAIN);
}

static void make_file(struct file *f, const struct world *w)
{
	file_make(f, w, "file", MAPPED, O_RDWR);
	/* Nobody else is to have it open or mapped. */
	file_close(f);
}

static bool has_data(const struct file *f)
{
	FILE *in = fopen(f->path, "re");
	int c;

	CHECK(in);
	while ((c = getc(in)) == '\0')
		;
	fclose(in);
	return c != EOF;
}

/* Until something is pinned and the client writes there. */
static void wait_pinned(const struct bw *server, const struct file *f)
{
	uint64_t end = now_ns() + SOON_MS * MSEC;

	while (!pins_of_process(server->pid) || !has_data(f)) {
		if (now_ns() > end)
			fail_at(__FILE__, __LINE__, "not pinned, or no data: %s", bw_text(server));
		sleep_ms(20);
	}
}

/* ------------------------------------------------------------------------- */

static void pinned(const struct world *w, const void *arg)
{
	struct bw server, client;
	struct file f;

	(void)arg;
	make_file(&f, w);
	both_start(&server, &client, f.path, LEASED);
	wait_pinned(&server, &f);
	CHECK_EQ(leases_in_kernel(f.ino), 1);
	CHECK_EQ(pins_of_process(client.pid), 0);
	CHECK_EQ(bw_end(&client), 0);
	CHECK_EQ(bw_end(&server), 0);
	CHECK(strstr(bw_text(&client), "BW average"));
	CHECK(has_data(&f));
	CHECK_EQ(leases_in_kernel(f.ino), 0);
}

/* What the launcher promises: a break ends the program, and whoever breaks goes on. */
static void broken(const struct world *w, const void *arg)
{
	struct bw server, client;
	struct other other;
	struct file f;

	(void)arg;
	other_start(&other);
	make_file(&f, w);
	both_start(&server, &client, f.path, LEASED);
	wait_pinned(&server, &f);
	CHECK_EQ(other_do(&other, OP_TRUNCATE, f.path, PAGE, -1), 0);
	CHECK_EQ(bw_end(&server), -1);
	CHECK_EQ(file_size_now(&f), PAGE);
	/* Left alone, it may have ended by itself. */
	kill(client.pid, SIGKILL);
	bw_end(&client);
	other_stop(&other);
}

static void refused(const struct world *w, const void *arg)
{
	struct bw server, client;
	struct file f;

	(void)arg;
	make_file(&f, w);
	for (enum launch launch = PLAIN; launch <= WATCHED; launch++) {
		both_start(&server, &client, f.path, launch);
		CHECK(bw_end(&server) > 0);
		CHECK(bw_end(&client) > 0);
		CHECK(strstr(bw_text(&server), "Couldn't allocate MR"));
		/* The kernel's word, which ib_write_bw keeps to itself. */
		if (launch == WATCHED)
			CHECK(strstr(bw_text(&server), "Operation not supported"));
		CHECK_EQ(leases_in_kernel(f.ino), 0);
	}
	CHECK(!has_data(&f));
}

void add_perftest_cases(void)
{
	runner_add(NULL, "perftest/pinned", pinned, NULL, 0, 0);
	runner_add(NULL, "perftest/broken", broken, NULL, 0, 0);
	runner_add(NULL, "perftest/refused", refused, NULL, 0, 0);
}
