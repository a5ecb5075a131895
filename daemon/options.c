// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "options.h"

#define LISTENERS_UNASKED 4 /* at most, without --listeners */
#define MOST_CLIENTS 16384  /* each has a thread */

enum {
	OPT_SOCKET = 256,
	OPT_MAX_CLIENTS,
	OPT_MAX_CLIENTS_PER_USER,
	OPT_MAX_FILES,
	OPT_MAX_FILES_PER_USER,
	OPT_LISTENERS,
	OPT_LOG_LEVEL,
	OPT_STATUS,
	OPT_VERSION,
};

static const struct option long_options[] = {
	{ "socket", required_argument, NULL, OPT_SOCKET },
	{ "max-clients", required_argument, NULL, OPT_MAX_CLIENTS },
	{ "max-clients-per-user", required_argument, NULL, OPT_MAX_CLIENTS_PER_USER },
	{ "max-files", required_argument, NULL, OPT_MAX_FILES },
	{ "max-files-per-user", required_argument, NULL, OPT_MAX_FILES_PER_USER },
	{ "listeners", required_argument, NULL, OPT_LISTENERS },
	{ "log-level", required_argument, NULL, OPT_LOG_LEVEL },
	{ "status", no_argument, NULL, OPT_STATUS },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

static const char help[] =
	"Usage: daxleased [OPTION...]\n"
	"\n"
	"Guards files for programs that use libdaxlease and may not do so themselves:\n"
	"whoever is about to change the layout of a guarded file waits until the program\n"
	"that holds it has given it back, or is refused.\n"
	"\n"
	"  --socket PATH             listen there, or ask there with --status: an\n"
	"                              absolute path (" GUARD_SOCKET ").\n"
	"                              A socket that systemd passes goes first\n"
	"  --max-clients N           connections, all together (512)\n"
	"  --max-clients-per-user N  and of one user, 0: any number (64)\n"
	"  --max-files N             files that clients may hold, all together, counted\n"
	"                              for each client, 0: any number (16384)\n"
	"  --max-files-per-user N    and those of one user, 0: any number (4096)\n"
	"  --listeners N             threads that answer, 1 to 16 (as many as there are\n"
	"                              processors, up to 4)\n"
	"  --log-level LEVEL         err, warning, info (default) or debug\n"
	"  --status                  print the counters of the daemon that runs\n"
	"  --version                 print the version\n"
	"  -h, --help                show this text\n"
	"\n"
	"Limits of one user do not hold for root, nor for those with CAP_LEASE.\n"
	"SIGTERM and SIGINT end it; SIGHUP and SIGUSR1 print the counters to the log.\n"
	"\n"
	"Exit status: 0 ended by SIGTERM or SIGINT, or --status was answered; 1 it cannot\n"
	"run; 2 wrong usage; 3 --status: nobody answers there.\n"
	"daxleased(8) has the rest.\n";

static int complain(const char *what, const char *value, const char *want)
{
	fprintf(stderr, "daxleased: %s %s: %s; see --help\n", what, value, want);
	return -EINVAL;
}

static int parse_number(const char *name, const char *text, unsigned int min, unsigned int max,
			unsigned int *ret_number)
{
	char want[64], *end;
	unsigned long n;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (!errno && text[0] >= '0' && text[0] <= '9' && !*end && n >= min && n <= max) {
		*ret_number = (unsigned int)n;
		return 0;
	}
	snprintf(want, sizeof(want), "has to be a number from %u to %u", min, max);
	return complain(name, text, want);
}

static int parse_level(const char *text, enum guard_log *ret_level)
{
	static const char *const names[] = {
		[GUARD_LOG_ERR] = "err",
		[GUARD_LOG_WARNING] = "warning",
		[GUARD_LOG_INFO] = "info",
		[GUARD_LOG_DEBUG] = "debug",
	};

	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(text, names[i])) {
			*ret_level = (enum guard_log)i;
			return 0;
		}
	}
	return complain("--log-level", text, "has to be err, warning, info or debug");
}

/* It changes to another folder, and removes the socket at the end. */
static int parse_socket(const char *text, const char **ret_path)
{
	if (text[0] != '/')
		return complain("--socket", text, "has to be an absolute path");
	*ret_path = text;
	return 0;
}

static int parse_limit(int opt, const char *text, struct guard_opts *guard)
{
	switch (opt) {
	case OPT_MAX_CLIENTS:
		return parse_number("--max-clients", text, 1, MOST_CLIENTS, &guard->max_clients);
	case OPT_MAX_CLIENTS_PER_USER:
		return parse_number("--max-clients-per-user", text, 0, INT_MAX,
				    &guard->max_clients_of_user);
	case OPT_MAX_FILES:
		return parse_number("--max-files", text, 0, INT_MAX, &guard->max_holds);
	case OPT_MAX_FILES_PER_USER:
		return parse_number("--max-files-per-user", text, 0, INT_MAX,
				    &guard->max_holds_of_user);
	default:
		return parse_number("--listeners", text, 1, GUARD_MAX_LISTENERS, &guard->listeners);
	}
}

static int parse_one(int opt, const char *value, struct options *o)
{
	switch (opt) {
	case OPT_SOCKET:
		return parse_socket(value, &o->socket);
	case OPT_LOG_LEVEL:
		return parse_level(value, &o->level);
	case OPT_STATUS:
		o->action = ACTION_STATUS;
		return 0;
	case OPT_VERSION:
		puts("daxleased " DAXLEASED_VERSION);
		o->action = ACTION_DONE;
		return 0;
	case 'h':
		fputs(help, stdout);
		o->action = ACTION_DONE;
		return 0;
	case '?':
		fputs("daxleased: see --help\n", stderr); /* getopt_long() said what is wrong */
		return -EINVAL;
	default:
		return parse_limit(opt, value, &o->guard);
	}
}

static unsigned int count_listeners(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	return cpus < 1 ? 1 : cpus > LISTENERS_UNASKED ? LISTENERS_UNASKED : (unsigned int)cpus;
}

int options_parse(int argc, char **argv, struct options *ret_options)
{
	struct options o = {
		.action = ACTION_RUN,
		.socket = GUARD_SOCKET,
		.level = GUARD_LOG_INFO,
		.guard = {
			.listeners = count_listeners(),
			.max_clients = 512,
			.max_clients_of_user = 64,
			.max_holds = 16384,
			.max_holds_of_user = 4096,
		},
	};
	int opt, err = 0;

	while (!err && o.action != ACTION_DONE &&
	       (opt = getopt_long(argc, argv, "h", long_options, NULL)) != -1)
		err = parse_one(opt, optarg, &o);
	if (!err && o.action != ACTION_DONE && optind < argc)
		err = complain("argument", argv[optind], "there are only options");
	if (!err)
		*ret_options = o;
	return err;
}
