// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Runs a command and puts its start and end on the timeline. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"

#define SAFE "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%+,-./:=@_"

struct options {
	const char *who;
	unsigned long within_ms;
};

/* As one would type it, as far as it fits. */
static void command_line(char **argv, char *line, size_t size)
{
	size_t n = 0;

	line[0] = 0;
	for (; *argv && n < size; argv++) {
		const char *quote = (*argv)[strspn(*argv, SAFE)] ? "'" : "";

		n += (size_t)snprintf(line + n, size - n, "%s%s%s%s", n ? " " : "", quote, *argv,
				      quote);
	}
}

static pid_t start(char **argv)
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	pid_t pid = fork();

	if (pid < 0 || null < 0)
		die("cannot start %s: %s", argv[0], strerror(errno));
	if (pid)
		return pid;
	dup2(null, STDOUT_FILENO);
	execvp(argv[0], argv);
	fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static int run(char **argv, const struct options *opts)
{
	uint64_t begin;
	char line[512];
	int status;
	double ms;
	pid_t pid;

	command_line(argv, line, sizeof(line));
	event("begin", "$ %s", line);
	begin = now_ns();
	pid = start(argv);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	ms = ms_between(begin, now_ns());
	status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	if (status)
		event("failed", "%s failed after %.1f ms with status %d", argv[0], ms, status);
	else
		event("returned", "%s returned after %.1f ms", argv[0], ms);
	if (opts->within_ms && ms > (double)opts->within_ms)
		die("%s took %.0f ms, more than %lu", argv[0], ms, opts->within_ms);
	return status;
}

static void usage(FILE *out)
{
	fputs("usage: timed [OPTION...] -- COMMAND [ARG...]\n"
	      "Runs COMMAND, its output thrown away, and prints when it began and returned.\n"
	      "\n"
	      "  --who NAME         name on the timeline (other)\n"
	      "  --within MS        fail if it takes longer\n"
	      "  --now              no COMMAND: print CLOCK_MONOTONIC in nanoseconds, to be put\n"
	      "                     into $DEMO_EPOCH_NS\n"
	      "  --help             this text\n",
	      out);
}

static void parse_options(int argc, char **argv, struct options *opts)
{
	static const struct option table[] = {
		{ "who", required_argument, NULL, 'w' },
		{ "within", required_argument, NULL, 'm' },
		{ "now", no_argument, NULL, 'n' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "+h", table, NULL)) != -1) {
		switch (c) {
		case 'w':
			opts->who = optarg;
			break;
		case 'm':
			opts->within_ms = parse_number("within", optarg, 1, 3600000);
			break;
		case 'n':
			printf("%llu\n", (unsigned long long)now_ns());
			exit(EXIT_SUCCESS);
		case 'h':
			usage(stdout);
			exit(EXIT_SUCCESS);
		default:
			usage(stderr);
			exit(EXIT_USAGE);
		}
	}
	if (optind == argc) {
		usage(stderr);
		exit(EXIT_USAGE);
	}
}

int main(int argc, char **argv)
{
	struct options opts = { .who = "other" };

	event_init("timed");
	parse_options(argc, argv, &opts);
	event_init(opts.who);
	return run(argv + optind, &opts);
}
