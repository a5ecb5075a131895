// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Programs without files on FS-DAX: with the shim and without, they print the same and make the
 * same calls.
 */
#include <ctype.h>
#include <signal.h>
#include <string.h>

#include "../runner.h"
#include "program.h"

#define ADDRESS "10.9.0.1"

struct pair {
	const char *name;
	unsigned int port; /* where the server listens */
	const char *server[16], *client[16];
	bool stays; /* the server */
};

static const struct pair pairs[] = {
	{ "ibv_rc_pingpong",
	  18515,
	  { "ibv_rc_pingpong", "-d", "rxe0", "-g", "1", "-n", "100" },
	  { "ibv_rc_pingpong", "-d", "rxe0", "-g", "1", "-n", "100", ADDRESS } },
	{ "ibv_ud_pingpong",
	  18515,
	  { "ibv_ud_pingpong", "-d", "rxe0", "-g", "1", "-n", "100", "-s", "1024" },
	  { "ibv_ud_pingpong", "-d", "rxe0", "-g", "1", "-n", "100", "-s", "1024", ADDRESS } },
	{ "rping",
	  7174,
	  { "rping", "-s", "-a", ADDRESS, "-C", "10", "-v" },
	  { "rping", "-c", "-a", ADDRESS, "-C", "10", "-v" } },
	{ "udaddy", 7174, { "udaddy", "-b", ADDRESS }, { "udaddy", "-s", ADDRESS } },
	{ "ucmatose", 7471, { "ucmatose", "-b", ADDRESS }, { "ucmatose", "-s", ADDRESS } },
	{ "riostream",
	  7471,
	  { "riostream", "-S", "4096", "-C", "10", "-I", "10", "-b", ADDRESS },
	  { "riostream", "-S", "4096", "-C", "10", "-I", "10", "-s", ADDRESS } },
	{ "qperf",
	  19765,
	  { "qperf" },
	  { "qperf", "-cm", "1", "-t", "1", "-m", "4096", ADDRESS, "rc_lat", "rc_bw" },
	  true },
	{ "rcopy",
	  7427,
	  { "rcopy" },
	  { "rcopy", "/proc/self/exe", ADDRESS ":/tmp/rcopied" },
	  true },
};

static bool goes_on(char c)
{
	return isxdigit((unsigned char)c) || c == '.' || c == 'x';
}

/*
 * Numbers are times, rates, addresses and keys, which differ each time, and so do units: what
 * follows a "=" is left out.
 */
static void normalise(char *text)
{
	bool number = false, skip = false;
	char *to = text;

	for (char *from = text; *from; from++) {
		skip = (skip || *from == '=') && *from != '\n';
		if (skip || (number && goes_on(*from)) || (*from == ' ' && from[1] == ' '))
			continue;
		number = isdigit((unsigned char)*from);
		*to++ = number ? '#' : *from;
	}
	*to = '\0';
}

static void run_pair(const struct pair *pair, const struct shim *shim, char *ret_server,
		     char *ret_client, size_t size)
{
	struct program server, client;

	program_start(&server, shim, pair->server);
	program_wait_port(&server, pair->port);
	program_start(&client, shim, pair->client);
	CHECK_EQ(program_exit(&client, 2 * SOON_MS), 0);
	if (pair->stays)
		kill(server.pid, SIGTERM);
	CHECK(!program_end(&server, 2 * SOON_MS) || pair->stays);
	snprintf(ret_client, size, "%s", program_text(&client));
	snprintf(ret_server, size, "%s", program_text(&server));
	normalise(ret_client);
	normalise(ret_server);
}

static void check_same(const char *what, const char *a, const char *b)
{
	if (strcmp(a, b) != 0)
		fail_at(__FILE__, __LINE__, "%s without the shim:\n%s\nand with it:\n%s", what, a,
			b);
}

static void same(const struct world *w, const void *arg)
{
	static const struct shim off = { .count = true }, on = { .on = true, .count = true };
	static char server[2][8192], client[2][8192];
	const struct pair *pair = arg;

	(void)w;
	run_pair(pair, &off, server[0], client[0], sizeof(server[0]));
	run_pair(pair, &on, server[1], client[1], sizeof(server[1]));
	CHECK(strstr(client[0], "verb open zz") || strstr(client[0], "verb open z\n"));
	check_same("server", server[0], server[1]);
	check_same("client", client[0], client[1]);
}

void add_same_cases(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(pairs); i++) {
		char name[64];

		snprintf(name, sizeof(name), "preload/same/%s", pairs[i].name);
		/* Files have nothing to do with it. */
		runner_add("ext4", name, same, &pairs[i], 0, 0);
	}
}
