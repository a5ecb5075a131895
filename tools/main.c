// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <daxlease/daxlease.h>

#include "tool.h"

static const struct {
	const char *name, *what;
	int (*main)(int argc, char **argv);
} commands[] = {
	{ "run", "run a program with its registrations of FS-DAX files under leases", run_main },
	{ "doctor", "say what this machine, its RDMA devices and files can do", doctor_main },
	{ "who", "say who holds, waits for, and uses files", who_main },
	{ "watch", "show regions and breaks of programs as they happen", watch_main },
};

static void help(FILE *to)
{
	fputs("Usage: daxlease COMMAND [OPTION...]\n"
	      "\n"
	      "RDMA on files of DAX filesystems, under file leases.\n"
	      "\n",
	      to);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(to, "  %-8s %s\n", commands[i].name, commands[i].what);
	fputs("\n"
	      "  --version, -h, --help\n"
	      "\n"
	      "daxlease COMMAND --help says more, and so does daxlease(1).\n",
	      to);
}

void tool_say(const char *fmt, ...)
{
	va_list args;

	fputs("daxlease: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
}

/* Else what is opened first would be taken for it. A COMMAND that is run finds it closed. */
static void fill_closed(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		/* The wrong way round: what would be lost is an error, as it is when closed. */
		if (fcntl(fd, F_GETFD) < 0)
			open("/dev/null", (fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
	}
}

/* Whoever reads what was written would take the part that arrived for the whole. */
static void finish_stdout(void)
{
	bool failed = ferror(stdout);

	errno = 0;
	if (!fflush(stdout) && !failed)
		return;
	if (errno == EPIPE) /* nobody reads it any more: no more than SIGPIPE, if ignored */
		return;
	tool_say("standard output cannot be written to%s%s", errno ? ": " : "",
		 errno ? strerror(errno) : "");
	_exit(TOOL_FAILED);
}

int main(int argc, char **argv)
{
	fill_closed();
	atexit(finish_stdout);
	if (argc < 2) {
		help(stderr);
		return TOOL_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		help(stdout);
		return 0;
	}
	if (!strcmp(argv[1], "--version")) {
		printf("daxlease %s\n", daxlease_version());
		return 0;
	}
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].main(argc - 1, argv + 1);
	}
	tool_say("no command '%s'; see --help", argv[1]);
	return TOOL_USAGE;
}
