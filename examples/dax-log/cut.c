// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Somebody else who truncates the file, with truncate(2), and writes down when: for tests
 * and for the demo. It knows nothing of leases.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <errno.h>
#include <time.h>

#include "commands.h"
#include "cuts.h"
#include "util.h"

struct options {
	const char *path;
	const char *log;
	uint64_t down;
	uint64_t up; /* 0: what it was */
	uint32_t times;
	uint32_t pause_ms;
};

static void usage(FILE *out)
{
	fputs("Usage: dax-log cut [OPTION...] --down N FILE\n"
	      "Truncates FILE to N bytes and makes it long again, and says how long that took.\n"
	      "\n"
	      "  --down N           bytes to leave; K, M or G may follow\n"
	      "  --up N             bytes to make it long again (as it is now)\n"
	      "  --times N          so often (1)\n"
	      "  --pause MS         between two times (0)\n"
	      "  --cuts LIST        append a line for each, for 'dax-log verify'\n"
	      "  --help             this text\n",
	      out);
}

static void set_option(struct options *opts, int c)
{
	switch (c) {
	case 'd':
		opts->down = parse_size("down", optarg, 0, 1ull << 50);
		break;
	case 'u':
		opts->up = parse_size("up", optarg, 1, 1ull << 50);
		break;
	case 't':
		opts->times = (uint32_t)parse_number("times", optarg, 1, 1000000);
		break;
	case 'p':
		opts->pause_ms = (uint32_t)parse_number("pause", optarg, 0, 1000000);
		break;
	case 'c':
		opts->log = optarg;
		break;
	case 'h':
		usage(stdout);
		exit(EXIT_SUCCESS);
	default:
		exit(EXIT_USAGE);
	}
}

static void parse_options(int argc, char **argv, struct options *opts)
{
	static const struct option table[] = {
		{ "down", required_argument, NULL, 'd' },
		{ "up", required_argument, NULL, 'u' },
		{ "times", required_argument, NULL, 't' },
		{ "pause", required_argument, NULL, 'p' },
		{ "cuts", required_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", table, NULL)) != -1)
		set_option(opts, c);
	if (argc - optind != 1 || opts->down == UINT64_MAX) {
		say("cut takes --down N and one FILE; see --help");
		exit(EXIT_USAGE);
	}
	opts->path = argv[optind];
}

static int once(const struct options *opts)
{
	struct cut down = { .size = opts->down, .who = "other" }, up = { .size = opts->up };
	int err = cuts_truncate(opts->path, -1, &down);

	if (!err && opts->log)
		err = cuts_write(opts->log, &down);
	if (!err)
		err = cuts_truncate(opts->path, -1, &up);
	if (!err)
		printf("cut in %.1f ms, grown in %.1f ms\n",
		       (double)(down.return_ns - down.begin_ns) / NS_PER_MS,
		       (double)(up.return_ns - up.begin_ns) / NS_PER_MS);
	return err;
}

static void sleep_ms(uint32_t ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * (long)NS_PER_MS };

	nanosleep(&ts, NULL);
}

int cut_main(int argc, char **argv)
{
	struct options opts = { .down = UINT64_MAX, .times = 1 };
	struct stat st;
	int err = 0;

	parse_options(argc, argv, &opts);
	if (stat(opts.path, &st)) {
		fail(-errno, "%s", opts.path);
		return EXIT_FAILURE;
	}
	if (!opts.up)
		opts.up = (uint64_t)st.st_size;
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (uint32_t i = 0; i < opts.times && !err; i++) {
		if (i)
			sleep_ms(opts.pause_ms);
		err = once(&opts);
	}
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
