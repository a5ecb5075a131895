// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* perftest's programs, as a server whose memory is a file, and a client beside it. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define MAX_ARGS 24
#define SECONDS 120 /* for one run; far more than it takes */
#define TRIES 100

struct child {
	pid_t pid;
	int log;
};

static void child_start(struct child *c, char *const *argv, const char *preload)
{
	fflush(NULL);
	c->log = memfd_create("log", MFD_CLOEXEC);
	if (c->log < 0)
		die(errno, "memfd_create");
	c->pid = fork();
	if (c->pid < 0)
		die(errno, "fork");
	if (c->pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm(SECONDS);
	dup2(c->log, STDOUT_FILENO);
	dup2(c->log, STDERR_FILENO);
	if (preload)
		setenv("LD_PRELOAD", preload, 1);
	execvp(argv[0], argv);
	perror(argv[0]);
	_exit(127);
}

static bool child_runs(const struct child *c)
{
	siginfo_t info = { 0 };

	return !waitid(P_PID, (id_t)c->pid, &info, WEXITED | WNOHANG | WNOWAIT) && !info.si_pid;
}

/* Waits, and returns whether it was successful; what it has printed goes to text. */
static bool child_end(struct child *c, char *text, size_t size)
{
	ssize_t n;
	int status;

	while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
		;
	n = pread(c->log, text, size - 1, 0);
	text[n > 0 ? n : 0] = '\0';
	close(c->log);
	return WIFEXITED(status) && !WEXITSTATUS(status);
}

/* ------------------------------------------------------------------------- */

struct command {
	char *argv[MAX_ARGS];
	int n;
	char number[3][16];
	char map[64];
};

static void add(struct command *c, const char *arg)
{
	c->argv[c->n++] = (char *)(uintptr_t)arg;
}

static void add_number(struct command *c, int i, const char *option, unsigned int value)
{
	snprintf(c->number[i], sizeof(c->number[i]), "%u", value);
	add(c, option);
	add(c, c->number[i]);
}

static void make_command(struct command *c, const struct env *env, const struct port *port,
			 const struct perftest *p)
{
	memset(c, 0, sizeof(*c));
	add(c, p->program);
	add(c, "-F"); /* no complaints about the frequency of processors */
	add(c, "-d");
	add(c, ibv_get_device_name(env->device->device));
	add(c, "-m");
	add(c, "4096");
	add_number(c, 0, "-s", PAGE);
	add_number(c, 1, "-n", p->iterations);
	if (port->gid_index >= 0)
		add_number(c, 2, "-x", (unsigned int)port->gid_index);
}

/* The row of the table that has this size and this many iterations. */
static bool find_row(const struct perftest *p, const char *text, double *ret_figures)
{
	const char *line = text;

	while (line) {
		unsigned int size, iterations;
		double *f = ret_figures;

		memset(f, 0, PERFTEST_FIGURES * sizeof(*f));
		if (sscanf(line, " %u %u %lf %lf %lf %lf %lf %lf", &size, &iterations, &f[0], &f[1],
			   &f[2], &f[3], &f[4], &f[5]) >= 5 &&
		    size == PAGE && iterations == p->iterations)
			return true;
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	return false;
}

/* Until the server listens, the client fails at once. */
static bool run_client(const struct child *server, struct command *c, char *text, size_t size)
{
	struct child client;

	for (unsigned int i = 0; i < TRIES; i++) {
		child_start(&client, c->argv, NULL);
		if (child_end(&client, text, size))
			return true;
		if (!child_runs(server))
			return false;
		sleep_ms(100);
	}
	return false;
}

bool perftest_run(const struct env *env, const struct port *port, const struct perftest *p, int fd,
		  bool pinned, double *ret_figures)
{
	static char client_text[16384], server_text[16384];
	struct command server_cmd, client_cmd;
	struct child server;
	bool ok;

	make_command(&server_cmd, env, port, p);
	/* The file has no name, but this leads to a description of the server's own. */
	snprintf(server_cmd.map, sizeof(server_cmd.map), "--mmap=/proc/%d/fd/%d", (int)getpid(),
		 fd);
	add(&server_cmd, server_cmd.map);
	if (!pinned)
		add(&server_cmd, "--odp");
	make_command(&client_cmd, env, port, p);
	add(&client_cmd, "127.0.0.1");

	child_start(&server, server_cmd.argv, pinned ? LEASE_MMAP : NULL);
	ok = run_client(&server, &client_cmd, client_text, sizeof(client_text));
	if (!ok)
		kill(server.pid, SIGTERM);
	if (!child_end(&server, server_text, sizeof(server_text)))
		ok = false;
	if (ok && find_row(p, client_text, ret_figures))
		return true;
	fprintf(stderr, "daxlease-bench: %s, %s\nserver:\n%s\nclient:\n%s\n", p->program,
		pinned ? "pinned" : "with --odp", server_text, client_text);
	return false;
}

bool perftest_is_there(const struct perftest *p)
{
	char program[32], text[256];
	struct child c;

	snprintf(program, sizeof(program), "%s", p->program);
	child_start(&c, (char *[]){ program, (char[]){ "--version" }, NULL }, NULL);
	child_end(&c, text, sizeof(text));
	return !strstr(text, strerror(ENOENT));
}
