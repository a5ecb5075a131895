// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * dax-log: a log in a file on FS-DAX, which clients on other machines append to by RDMA
 * WRITE, while the file can be truncated by anybody at any time.
 *
 * What is promised: once a client counts a record as acknowledged, the record is in the
 * server's file as it was sent, and out of the processor's caches. It stays there until the
 * file is cut off before its end, by whomever, or until the client overwrites it, when it
 * comes round to the same slot of its ring. Somebody who cuts the file waits until the
 * clients have stopped, or until the budget is over; then the file is theirs.
 *
 * How: a client writes records into slots of its own, then sends a request to flush them.
 * A request cannot overtake the writes. The server looks whether the records are there and
 * whole, flushes the processor's caches (the mapping is MAP_SYNC, so that is all there is to
 * do), and answers. InfiniBand's own FLUSH would spare the server that, but rdma-core 44 has
 * none. While the server is not allowed to touch the file it answers "later"; the client
 * writes what is not acknowledged again with its next grant.
 *
 * What is not promised: anything about the device between the wire and the memory. A client
 * that is late loses its access; one that writes into the slots of others is not noticed,
 * for the whole file is offered to each.
 */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "util.h"

static const struct command {
	const char *name;
	int (*main)(int argc, char **argv);
	const char *what;
} commands[] = {
	{ "serve", serve_main, "offer a file on FS-DAX to clients" },
	{ "append", append_main, "append records to the log of a server" },
	{ "verify", verify_main, "compare a file with what clients say was acknowledged" },
	{ "cut", cut_main, "truncate a file, as somebody who knows nothing of all this would" },
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void usage(FILE *out)
{
	fputs("Usage: dax-log COMMAND [OPTION...] ARGUMENT...\n"
	      "A log on FS-DAX that other machines append to by RDMA, under a lease.\n\n",
	      out);
	for (size_t i = 0; i < COMMANDS; i++)
		fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].what);
	fputs("\n"
	      "'dax-log COMMAND --help' says more. A record that was acknowledged is in the file,\n"
	      "whole and out of the processor's caches, until somebody cuts the file off before\n"
	      "its end or the client's ring comes round to its slot again.\n",
	      out);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		usage(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		usage(stdout);
		return 0;
	}
	for (size_t i = 0; i < COMMANDS; i++) {
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].main(argc - 1, argv + 1);
	}
	say("no command '%s'; see --help", argv[1]);
	return EXIT_USAGE;
}
