// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Programs that use a guarded file and leave its blocks where they are: nobody is told. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "holder.h"

#define BIG (256 * PAGE)
#define READERS 8
#define WRITERS 3
#define ROUNDS 20

/* What a case needs: a guarded file, in this process or in a daemon. */
struct yard {
	const struct world *w;
	struct daemon daemon;
	struct other others[READERS];
	unsigned int count;
	struct device dev;
	struct daxlease_ctx *ctx;
	struct file file;
	struct region region;
};

/* The others exist before the file is guarded, and open it after that. */
static void yard_begin(struct yard *y, const struct world *w, unsigned int others, bool daemon)
{
	const struct how how = { .on_drain = answer_later };

	memset(y, 0, sizeof(*y));
	y->w = w;
	if (daemon)
		daemon_start(&y->daemon);
	for (; y->count < others; y->count++)
		other_start(&y->others[y->count]);
	device_open(&y->dev, "rxe0");
	y->ctx = ctx_make_at(daemon ? &y->daemon : NULL);
	daxlease_ctx_set_log(y->ctx, log_line, DAXLEASE_LOG_DEBUG, NULL);
	world_path(w, "file", y->file.path, sizeof(y->file.path));
	pattern_write(y->file.path, BIG, 1);
	file_open(&y->file, BIG, O_RDWR);
	CHECK_EQ(region_try(&y->region, y->ctx, y->dev.pd, &y->file, w, &how), 0);
	CHECK_EQ(region_info(&y->region).kind, DAXLEASE_KIND_GUARD);
}

static void check_not_told(struct yard *y)
{
	sleep_ms(QUIET_MS);
	CHECK_EQ(y->region.drains + y->region.releases, 0);
	CHECK_EQ(ctx_stats(y->ctx).breaks, 0);
	CHECK_EQ(daxlease_mr_get_state(y->region.mr), DAXLEASE_STATE_ACTIVE);
}

static void yard_end(struct yard *y)
{
	region_end(&y->region);
	CHECK_EQ(daxlease_ctx_free(y->ctx), 0);
	device_close(&y->dev);
	file_close(&y->file);
	for (unsigned int i = 0; i < y->count; i++)
		other_stop(&y->others[i]);
}

/* ------------------------------------------------------------------------- */
/* Programs that read; $F is the file, $R what is in it */

struct program {
	const char *name, *command;
};

static const struct program programs[] = {
	{ "cat", "cat $F | cmp - $R" },
	{ "cp", "cp $F $F.copy && cmp $F.copy $R && cp $F /tmp/copy && cmp /tmp/copy $R" },
	{ "dd", "dd if=$F bs=64k status=none | cmp - $R && "
		"dd if=$F iflag=direct bs=64k status=none | cmp - $R" },
	{ "grep", "grep -c nothing $F >/dev/null; test $? = 1 && stat $F >/dev/null" },
	{ "tar", "tar -C / -cf - ${F#/} | tar -xOf - | cmp - $R" },
	{ "perl", "perl -e 'open F, q(<), shift; local $/; print <F>' $F | cmp - $R" },
	{ "write", "dd if=$R of=$F bs=64k conv=notrunc status=none && cmp $F $R" },
	{ "write-direct",
	  "dd if=$R of=$F oflag=direct bs=64k conv=notrunc,fsync status=none && cmp $F $R" },
};

static void run_programs(const struct world *w, const void *arg)
{
	char command[1024], reference[] = "/tmp/reference-XXXXXX";
	struct yard y;

	close((int)CALL(mkstemp(reference)));
	pattern_write(reference, BIG, 1);
	yard_begin(&y, w, 1, arg);
	for (unsigned int i = 0; i < ARRAY_SIZE(programs); i++) {
		const struct program *p = &programs[i];

		/* The copy of cp shares its blocks on XFS: then writes move them. */
		if (!strcmp(w->fs, "xfs") && !strncmp(p->name, "write", 5))
			continue;
		fprintf(stderr, "%s\n", p->name);
		snprintf(command, sizeof(command), "F='%s' R='%s'; %s", y.file.path, reference,
			 p->command);
		CHECK_EQ(other_do(&y.others[0], OP_SHELL, command, 0, -1), 0);
	}
	check_not_told(&y);
	yard_end(&y);
	CALL(unlink(reference));
}

/* ------------------------------------------------------------------------- */
/* Readers at the same time */

static int read_all(const char *path, long amount, int fd)
{
	static uint8_t page[PAGE];

	for (long round = 0; round < amount; round++) {
		struct stat st;

		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || fstat(fd, &st))
			return -1;
		for (off_t at = 0; at < st.st_size; at += PAGE) {
			if (pread(fd, page, PAGE, at) != PAGE)
				return -1;
			CHECK_EQ(page[PAGE - 1], (uint8_t)(1 + at / PAGE));
		}
		close(fd);
	}
	return 0;
}

static void readers(const struct world *w, const void *arg)
{
	struct yard y;

	yard_begin(&y, w, READERS, arg);
	for (unsigned int i = 0; i < READERS; i++)
		other_begin_fn(&y.others[i], read_all, y.file.path, 2, -1);
	for (unsigned int i = 0; i < READERS; i++)
		CHECK_EQ(other_end(&y.others[i], 4 * SOON_MS), 0);
	check_not_told(&y);
	yard_end(&y);
}

/* ------------------------------------------------------------------------- */
/* Writers, as a database: each in pages of its own */

static int write_some(const char *path, long writer, int fd)
{
	unsigned int seed = (unsigned int)writer;
	uint8_t page[PAGE];

	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -1;
	for (unsigned int i = 0; i < ROUNDS; i++) {
		unsigned int at = (unsigned int)rand_r(&seed) % (BIG / PAGE / WRITERS) * WRITERS +
				  (unsigned int)writer;

		memset(page, (int)(200 + writer), PAGE);
		if (pwrite(fd, page, PAGE, (off_t)at * PAGE) != PAGE || fsync(fd) ||
		    pread(fd, page, PAGE, (off_t)at * PAGE) != PAGE)
			return -1;
		CHECK_EQ(page[7], (uint8_t)(200 + writer));
	}
	return close(fd);
}

static void writers(const struct world *w, const void *arg)
{
	unsigned int written = 0;
	struct yard y;

	yard_begin(&y, w, WRITERS, arg);
	for (long i = 0; i < WRITERS; i++)
		other_begin_fn(&y.others[i], write_some, y.file.path, i, -1);
	for (unsigned int i = 0; i < WRITERS; i++)
		CHECK_EQ(other_end(&y.others[i], 4 * SOON_MS), 0);
	check_not_told(&y);
	for (unsigned int i = 0; i < BIG / PAGE; i++) {
		uint8_t is = y.file.map[i * PAGE], was = (uint8_t)(1 + i);

		CHECK(is == was || is == 200 + i % WRITERS);
		written += is != was;
	}
	CHECK(written > WRITERS);
	yard_end(&y);
}

/* ------------------------------------------------------------------------- */
/* Copies that share blocks (XFS): from then on a write moves them, and is a change */

static int write_page(const char *path, long at, int fd)
{
	static uint8_t page[PAGE];

	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || pwrite(fd, page, PAGE, at) != PAGE)
		return -1;
	return close(fd);
}

/*
 * Not through the mapping: a write to a shared block that is mapped makes Linux 7.3 warn
 * (fs/dax.c, dax_disassociate_entry()), whoever guards it or not.
 */
static uint8_t byte_at(const struct file *f, off_t at)
{
	uint8_t byte;

	CHECK_EQ(pread(f->fd, &byte, 1, at), 1);
	return byte;
}

static void copied_then_written(const struct world *w, const void *arg)
{
	const bool shares = !strcmp(w->fs, "xfs");
	char command[600];
	struct yard y;

	yard_begin(&y, w, 1, arg);
	other_begin_fn(&y.others[0], write_page, y.file.path, PAGE, -1);
	CHECK_EQ(other_end(&y.others[0], SOON_MS), 0);
	check_not_told(&y);
	snprintf(command, sizeof(command), "cp --reflink=%s '%s' '%s.copy'",
		 shares ? "always" : "auto", y.file.path, y.file.path);
	CHECK_EQ(other_do(&y.others[0], OP_SHELL, command, 0, -1), 0);
	check_not_told(&y);
	other_begin_fn(&y.others[0], write_page, y.file.path, 2 * PAGE, -1);
	if (shares) {
		WAIT_FOR(&y.region, drains, 1);
		sleep_ms(QUIET_MS);
		CHECK(other_waits(&y.others[0]));
		CHECK_EQ(byte_at(&y.file, 2 * PAGE), 3);
		CHECK_EQ(daxlease_mr_drained(y.region.mr), 0);
		CHECK_EQ(other_end(&y.others[0], SOON_MS), 0);
		WAIT_FOR(&y.region, releases, 1); /* told after the other one was let go on */
		CHECK_EQ(y.region.release_result, 0);
	} else {
		CHECK_EQ(other_end(&y.others[0], SOON_MS), 0);
		check_not_told(&y);
	}
	CHECK_EQ(byte_at(&y.file, 2 * PAGE), 0);
	yard_end(&y);
}

void add_bystander_cases(void)
{
	static const struct {
		const char *name;
		case_fn fn;
	} cases[] = {
		{ "programs", run_programs },
		{ "readers", readers },
		{ "writers", writers },
		{ "copied-then-written", copied_then_written },
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		add_case(cases[i].fn, NULL, KIND_GUARD, 60, "beside/%s", cases[i].name);
		add_case(cases[i].fn, "", KIND_GUARD, 60, "beside/%s-daemon", cases[i].name);
	}
}
