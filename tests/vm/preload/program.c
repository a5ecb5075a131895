// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "program.h"

const char *shim_path;

static void set(const char *name, const char *value)
{
	if (value)
		setenv(name, value, 1);
	else
		unsetenv(name);
}

void program_start(struct program *p, const struct shim *shim, const char *const argv[])
{
	char preload[1024];

	snprintf(preload, sizeof(preload), "%s %s", shim->on ? shim_path : "",
		 shim->count ? count_path : "");
	p->log = (int)CALL(memfd_create(argv[0], MFD_CLOEXEC));
	CALL(fcntl(p->log, F_SETFL, O_APPEND));
	p->pid = (pid_t)CALL(fork());
	if (p->pid)
		return;
	dup2(p->log, STDOUT_FILENO);
	dup2(p->log, STDERR_FILENO);
	set("LD_PRELOAD", preload);
	set("DAXLEASE_POLICY", shim->policy);
	set("DAXLEASE_KIND", shim->kind);
	set("DAXLEASE_LOG", shim->log);
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	perror(argv[0]);
	_exit(127);
}

char *program_text(const struct program *p)
{
	static char text[65536];
	ssize_t n = CALL(pread(p->log, text, sizeof(text) - 1, 0));

	text[n] = '\0';
	return text;
}

int program_end(struct program *p, unsigned int ms)
{
	int status = wait_child(p->pid, ms);

	printf("%s", program_text(p));
	fflush(stdout);
	if (status < 0)
		fail_at(__FILE__, __LINE__, "it hangs");
	return status;
}

int program_exit(struct program *p, unsigned int ms)
{
	int status = program_end(p, ms);

	if (!WIFEXITED(status))
		fail_at(__FILE__, __LINE__, "ended by signal %d", WTERMSIG(status));
	return WEXITSTATUS(status);
}

static bool has_ended(const struct program *p)
{
	siginfo_t info = { 0 };

	return !waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT) && info.si_pid;
}

void program_wait_for(const struct program *p, const char *text)
{
	uint64_t end = now_ns() + 2 * SOON_MS * MSEC;

	while (!strstr(program_text(p), text)) {
		if (now_ns() > end || has_ended(p))
			fail_at(__FILE__, __LINE__, "no '%s': %s", text, program_text(p));
		sleep_ms(20);
	}
}

static bool is_listening(unsigned int port)
{
	char line[256], wanted[32];
	const char *const files[] = { "/proc/net/tcp", "/proc/net/tcp6" };
	bool found = false;

	snprintf(wanted, sizeof(wanted), ":%04X ", port);
	for (unsigned int i = 0; i < ARRAY_SIZE(files); i++) {
		FILE *f = fopen(files[i], "re");

		CHECK(f);
		/* 0A: it listens. */
		while (fgets(line, sizeof(line), f))
			found |= strstr(line, wanted) && strstr(line, ":0000 0A ");
		fclose(f);
	}
	return found;
}

/* A listener of librdmacm is on no list of sockets. */
static bool is_listening_rdma(unsigned int port)
{
	FILE *f = popen("rdma resource show cm_id", "re");
	char line[512], wanted[32];
	bool found = false;

	CHECK(f);
	snprintf(wanted, sizeof(wanted), ":%u ", port);
	while (fgets(line, sizeof(line), f))
		found |= strstr(line, wanted) && strstr(line, "LISTEN");
	pclose(f);
	return found;
}

void program_wait_port(struct program *p, unsigned int port)
{
	uint64_t end = now_ns() + 2 * SOON_MS * MSEC;

	while (!is_listening(port) && !is_listening_rdma(port)) {
		if (now_ns() > end || has_ended(p))
			fail_at(__FILE__, __LINE__, "no server: %s", program_text(p));
		sleep_ms(20);
	}
}

/* ------------------------------------------------------------------------- */

#define PERFTEST_PORT 18515

/* scripts/vm gives the device one IPv4 address, and its GID has this index. */
static const char *const common[] = { "-F", "-d",   "rxe0", "-x",    "1",
				      "-m", "4096", "-s",   "65536", NULL };

static unsigned int append(const char **argv, unsigned int n, const char *const more[])
{
	for (unsigned int i = 0; more[i]; i++) {
		CHECK(n < PERFTEST_MAX - 1);
		argv[n++] = more[i];
	}
	argv[n] = NULL;
	return n;
}

/* map: its option, or NULL; to: the other side, or NULL. */
static void start_side(struct program *p, const char *tool, const struct shim *shim,
		       const char *map, const char *to, const char *const more[])
{
	const char *const last[] = { map ? map : to, map ? to : NULL, NULL };
	const char *const first[] = { tool, NULL };
	const char *argv[PERFTEST_MAX];
	unsigned int n = append(argv, 0, first);

	n = append(argv, n, common);
	n = append(argv, n, more);
	append(argv, n, last);
	program_start(p, shim, argv);
}

void perftest_start(struct perftest *t, enum side side, const char *tool, const char *file,
		    const struct shim *shim, const char *const more[])
{
	static const struct shim off;
	char map[300];

	snprintf(map, sizeof(map), "--mmap=%s", file);
	start_side(&t->server, tool, side == SERVER ? shim : &off, side == SERVER ? map : NULL,
		   NULL, more);
	program_wait_port(&t->server, PERFTEST_PORT);
	start_side(&t->client, tool, side == CLIENT ? shim : &off, side == CLIENT ? map : NULL,
		   "10.9.0.1", more);
}
