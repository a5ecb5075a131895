// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The programs that people really use, as the other side. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "region.h"

enum effect {
	DRAINS,
	READS,
	REFUSED,
	NOTHING,
	NO_CASE
};

struct tool {
	const char *name;
	const char *command;		 /* $F: the file */
	enum effect lease, deleg, quiet; /* quiet: layouts and guard */
	long size_after;		 /* -1: does not matter */
};

static const struct tool tools[] = {
	{ "truncate", "LC_ALL=C truncate -s 4096 $F 2>&1 | grep 'Resource temporarily unavailable'",
	  REFUSED, REFUSED, NO_CASE, FILE_SIZE },
	{ "truncate-waits", "truncate -s 4096 $F", NO_CASE, NO_CASE, DRAINS, PAGE },
	{ "perl", "perl -e 'truncate($ARGV[0], 4096) or die $!' $F", DRAINS, DRAINS, DRAINS, PAGE },
	{ "fallocate", "fallocate -p -o 4096 -l 4096 $F", DRAINS, DRAINS, DRAINS, FILE_SIZE },
	{ "dd", "dd if=/dev/zero of=$F bs=4096 count=1 conv=notrunc", DRAINS, DRAINS, NOTHING,
	  FILE_SIZE },
	{ "append", ": >> $F", DRAINS, DRAINS, NOTHING, FILE_SIZE },
	{ "overwrite", ": > $F", DRAINS, DRAINS, DRAINS, 0 },
	{ "cp", "cp $F /tmp/copy && test $(stat -c %s /tmp/copy) = 65536", READS, READS, NOTHING,
	  FILE_SIZE },
	{ "cp-onto", "cp /dev/null $F", DRAINS, DRAINS, DRAINS, 0 },
	{ "cat", "cat $F | wc -c | grep -x 65536", READS, READS, NOTHING, FILE_SIZE },
	{ "stat", "stat $F && ls -l $F", NOTHING, NOTHING, NOTHING, FILE_SIZE },
	{ "mv", "mv $F $F.new", NOTHING, DRAINS, NOTHING, -1 },
	{ "rm", "rm $F", NOTHING, DRAINS, NOTHING, -1 },
	{ "chmod", "chmod 600 $F", NOTHING, DRAINS, NOTHING, FILE_SIZE },
	{ "chown", "chown 1 $F", NOTHING, DRAINS, NOTHING, FILE_SIZE },
	/* It opens the file for writing first, with O_NONBLOCK; -c does not. */
	{ "touch", "touch $F", DRAINS, DRAINS, NOTHING, FILE_SIZE },
	{ "touch-c", "touch -c $F", NOTHING, DRAINS, NOTHING, FILE_SIZE },
	{ "ln", "ln $F $F.new", NOTHING, DRAINS, NOTHING, FILE_SIZE },
};

static void check_drained(struct stage *s, uint32_t rkey)
{
	region_check_released(&s->region, 0);
	CHECK_EQ(s->region.drains, 1);
	stage_no_access(s, rkey);
}

static void check_read(struct stage *s)
{
	WAIT_FOR(&s->region, guards, 1);
	CHECK(s->region.lends >= 1);
	CHECK_EQ(s->region.lends, s->region.guards);
	CHECK_EQ(s->region.drains + s->region.releases, 0);
	CHECK_EQ(region_info(&s->region).generation, 1);
}

static void run_tool(const struct world *w, const void *arg)
{
	const struct tool *tool = arg;
	enum effect effect = is_quiet(w->kind)		    ? tool->quiet :
			     w->kind == DAXLEASE_KIND_DELEG ? tool->deleg :
							      tool->lease;
	struct traffic traffic;
	char command[1024];
	struct stage s;
	uint32_t rkey;

	stage_open(&s, w, O_RDWR, NULL);
	rkey = region_rkey(&s.region);
	if (effect == READS)
		traffic_start(&traffic, &s);
	else
		stage_access(&s, 0, rkey, IBV_WC_SUCCESS);
	snprintf(command, sizeof(command), "F='%s'; %s", s.file.path, tool->command);
	CHECK_EQ(other_do(&s.other, OP_SHELL, command, 0, -1), 0);
	if (effect == READS) {
		traffic_check(&traffic);
		CHECK_EQ(traffic_stop(&traffic), 0);
		check_read(&s);
	} else if (effect == NOTHING) {
		region_check_untouched(&s.region);
		stage_access(&s, 0, rkey, IBV_WC_SUCCESS);
	} else {
		check_drained(&s, rkey);
	}
	if (tool->size_after >= 0)
		CHECK_EQ(file_size_now(&s.file), tool->size_after);
	if (effect == REFUSED) /* the break has begun all the same: now it succeeds */
		CHECK_EQ(other_do(&s.other, OP_OPEN_WRITE_NONBLOCK, s.file.path, 0, -1), 0);
	stage_close(&s);
}

void add_tool_cases(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(tools); i++) {
		unsigned int kinds = (tools[i].lease != NO_CASE ? KIND_BOTH : 0) |
				     (tools[i].quiet != NO_CASE ? KIND_QUIET : 0);

		add_case(run_tool, &tools[i], kinds, 0, "tool/%s", tools[i].name);
	}
}
