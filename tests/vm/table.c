// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * What a lease notices: each line of the table in daxlease(7), from the point of view
 * of the holder, of its peer and of the one who caused it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "region.h"

#define DRAIN_MS 200
#define DEREG_MS 100
#define QUIET_MS 150 /* long enough for a callback that should not come */

enum outcome {
	SETTLED,    /* no conflict */
	UNSEEN,	    /* succeeds, and nobody is told */
	LENT,	    /* let in at once, the registration stays */
	LENT_AGAIN, /* the same, but this one fails with EAGAIN */
	BROKEN,	    /* waits until all is given back */
	AGAIN,	    /* EAGAIN, but the break has begun */
	REFUSED,    /* the description is not writable */
};

struct row {
	const char *name;
	enum op op;
	long amount;
	bool shared; /* through the holder's description */
	enum outcome lease_rd, lease_wr, deleg_rd, deleg_wr;
	enum outcome layout; /* REFUSED is the same as in lease_rd; so in the next */
	enum outcome guard;
	const char *perl; /* of OP_SHELL: an expression for success, $f is the file */
};

/* Of one page, unless the options say more. */
#define FALLOCATE(options) "!system q(fallocate -o 4096 -l 4096 " options " ) . $f"

static const struct row rows[] = {
	{ "open-read", OP_OPEN_READ, 0, false, SETTLED, LENT, SETTLED, LENT, SETTLED, SETTLED,
	  NULL },
	{ "open-read-nonblock", OP_SHELL, 0, false, SETTLED, LENT_AGAIN, SETTLED, LENT_AGAIN,
	  SETTLED, SETTLED, "sysopen F, $f, O_RDONLY | O_NONBLOCK" },
	{ "open-write", OP_OPEN_WRITE, 0, false, BROKEN, BROKEN, BROKEN, BROKEN, SETTLED, SETTLED,
	  NULL },
	{ "open-write-nonblock", OP_OPEN_WRITE_NONBLOCK, 0, false, AGAIN, AGAIN, AGAIN, AGAIN,
	  SETTLED, SETTLED, NULL },
	{ "truncate", OP_TRUNCATE, PAGE, false, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN,
	  NULL },
	{ "ftruncate-shared", OP_FTRUNCATE, PAGE, true, REFUSED, UNSEEN, REFUSED, AGAIN, BROKEN,
	  BROKEN, NULL },
	{ "punch-shared", OP_PUNCH, PAGE, true, REFUSED, UNSEEN, REFUSED, UNSEEN, BROKEN, UNSEEN,
	  NULL },
	{ "pwrite-shared", OP_PWRITE, PAGE, true, REFUSED, UNSEEN, REFUSED, UNSEEN, UNSEEN, UNSEEN,
	  NULL },
	{ "unlink", OP_UNLINK, 0, false, UNSEEN, UNSEEN, BROKEN, BROKEN, UNSEEN, UNSEEN, NULL },
	{ "rename", OP_RENAME, 0, false, UNSEEN, UNSEEN, BROKEN, BROKEN, UNSEEN, UNSEEN, NULL },
	{ "link", OP_LINK, 0, false, UNSEEN, UNSEEN, BROKEN, BROKEN, UNSEEN, UNSEEN, NULL },
	{ "chmod", OP_CHMOD, 0, false, UNSEEN, UNSEEN, BROKEN, BROKEN, UNSEEN, UNSEEN, NULL },
	{ "chown", OP_SHELL, 0, false, UNSEEN, UNSEEN, BROKEN, BROKEN, UNSEEN, UNSEEN,
	  "chown 1, 1, $f" },
	{ "utimes", OP_SHELL, 0, false, UNSEEN, UNSEEN, BROKEN, BROKEN, UNSEEN, UNSEEN,
	  "utime 1, 1, $f" },
	/* setxattr(2), of x86_64 */
	{ "setxattr", OP_SHELL, 0, false, UNSEEN, UNSEEN, BROKEN, BROKEN, UNSEEN, UNSEEN,
	  "!syscall 188, $f, my $n = q(user.x), my $v = q(y), 1, 0" },
	{ "open-trunc", OP_SHELL, 0, false, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN,
	  "open F, q(>), $f" },
	{ "ftruncate", OP_SHELL, 0, false, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN,
	  "open(F, q(+<), $f) && truncate F, 4096" },
	{ "ftruncate-grow", OP_SHELL, 0, false, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN,
	  "open(F, q(+<), $f) && truncate F, 1048576" },
	{ "ftruncate-same", OP_SHELL, 0, false, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN,
	  "open(F, q(+<), $f) && truncate F, 65536" },
	{ "write", OP_SHELL, 0, false, BROKEN, BROKEN, BROKEN, BROKEN, UNSEEN, UNSEEN,
	  "open(F, q(+<), $f) && syswrite F, q(x)" },
	{ "append", OP_SHELL, 0, false, BROKEN, BROKEN, BROKEN, BROKEN, UNSEEN, UNSEEN,
	  "open(F, q(>>), $f) && syswrite F, q(x)" },
	{ "punch", OP_SHELL, 0, false, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN,
	  FALLOCATE("-p") },
	{ "zero", OP_SHELL, 0, false, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN,
	  FALLOCATE("-z") },
	{ "collapse", OP_SHELL, 0, false, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN,
	  FALLOCATE("-c") },
	{ "insert", OP_SHELL, 0, false, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN,
	  FALLOCATE("-i") },
	{ "preallocate", OP_SHELL, 0, false, BROKEN, BROKEN, BROKEN, BROKEN, UNSEEN, UNSEEN,
	  FALLOCATE("-l 131072") },
	{ "preallocate-keep", OP_SHELL, 0, false, BROKEN, BROKEN, BROKEN, BROKEN, UNSEEN, UNSEEN,
	  FALLOCATE("-n -l 131072") },
};

struct cell {
	const struct row *row;
	bool write;
};

static void begin_row(struct stage *s, const struct row *row)
{
	const char *path = s->file.path;
	char command[512];

	if (row->perl) {
		CHECK((size_t)snprintf(command, sizeof(command),
				       "perl -MFcntl -e '$f = shift; (%s) or exit $!' '%s'",
				       row->perl, path) < sizeof(command));
		path = command;
	}
	other_begin(&s->other, row->op, path, row->amount, row->shared ? s->file.fd : -1);
}

static int end_row(struct stage *s, const struct row *row)
{
	int ret = other_end(&s->other, SOON_MS);

	return row->perl ? -ret : ret; /* an exit status is errno */
}

static int do_row(struct stage *s, const struct row *row)
{
	begin_row(s, row);
	return end_row(s, row);
}

/* While it is asked to drain, the peer's work still succeeds. */
static int use_while_draining(struct region *r)
{
	struct stage *s = r->arg;

	stage_access(s, 0, region_rkey(r), IBV_WC_SUCCESS);
	sleep_ms(DRAIN_MS);
	return 0;
}

/* The registration and the lease are as they were. */
static void check_untouched(struct stage *s)
{
	sleep_ms(QUIET_MS);
	region_check_untouched(&s->region);
	stage_access(s, 0, region_rkey(&s->region), IBV_WC_SUCCESS);
	CHECK_EQ(ctx_stats(s->ctx).breaks, 0);
}

/* What nobody was told of happened to the file all the same, but not to others' blocks. */
static void check_gone(struct stage *s)
{
	if (file_size_now(&s->file) > PAGE)
		return;
	stage_access(s, 1, region_rkey(&s->region), IBV_WC_REM_ACCESS_ERR);
}

static void check_quiet(struct stage *s, const struct row *row, bool change)
{
	struct traffic traffic;
	bool writable = CALL(fcntl(s->file.fd, F_GETFL)) & O_RDWR;

	if (writable)
		traffic_start(&traffic, s);
	CHECK_EQ(do_row(s, row), 0);
	if (writable) {
		traffic_check(&traffic);
		CHECK_EQ(traffic_stop(&traffic), 0);
	}
	check_untouched(s);
	if (change && row->op == OP_FTRUNCATE)
		check_gone(s);
}

static void check_refused(struct stage *s, const struct row *row)
{
	int err = do_row(s, row);

	CHECK(err == -EBADF || err == -EINVAL);
	check_untouched(s);
}

static void check_lent(struct stage *s, const struct row *row, int result)
{
	struct region *r = &s->region;
	uint32_t rkey = region_rkey(r);
	struct traffic traffic;

	traffic_start(&traffic, s);
	CHECK_EQ(do_row(s, row), result);
	WAIT_FOR(r, lends, 1);
	WAIT_FOR(r, guards, 1);
	traffic_check(&traffic);
	CHECK_EQ(traffic_stop(&traffic), 0);
	CHECK_EQ(r->drains + r->releases + r->regains, 0);
	CHECK_EQ(r->lends, 1);
	CHECK_EQ(r->guards, 1);
	CHECK_EQ(region_rkey(r), rkey);
	CHECK_EQ(region_info(r).generation, 1);
	CHECK_EQ(daxlease_mr_get_state(r->mr), DAXLEASE_STATE_ACTIVE);
	CHECK_EQ(leases_in_kernel(s->file.ino), 1);
	CHECK_EQ(ctx_stats(s->ctx).reader_breaks, 1);
}

static void check_told(struct stage *s, uint32_t rkey)
{
	struct region *r = &s->region;
	struct daxlease_stats stats;

	region_check_released(r, 0);
	CHECK_EQ(r->drains, 1);
	CHECK_EQ(r->brk.cause, DAXLEASE_CAUSE_BREAK);
	CHECK_BETWEEN(r->brk.kernel_deadline_ns - r->brk.deadline_ns, 34 * SEC, 36 * SEC);
	stage_no_access(s, rkey);
	stats = ctx_stats(s->ctx);
	CHECK_EQ(stats.breaks, 1);
	CHECK_EQ(stats.released, 1);
	CHECK_EQ(stats.overruns + stats.lost + stats.dereg_failures, 0);
}

static void check_broken(struct stage *s, const struct row *row)
{
	uint32_t rkey = region_rkey(&s->region);

	begin_row(s, row);
	WAIT_FOR(&s->region, drains, 1);
	CHECK(other_waits(&s->other));
	CHECK_EQ(end_row(s, row), 0);
	WAIT_FOR(&s->region, releases, 1);
	CHECK(s->other.end_ns >= s->region.drained_ns);
	CHECK(s->other.end_ns >= dereg_end_ns());
	CHECK(other_took_ms(&s->other) >= DRAIN_MS);
	check_told(s, rkey);
}

static void check_again(struct stage *s, const struct row *row)
{
	uint32_t rkey = region_rkey(&s->region);

	CHECK_EQ(do_row(s, row), -EAGAIN);
	CHECK_EQ(file_size_now(&s->file), FILE_SIZE);
	/* It comes back while the holder still drains, or could: it did not wait. */
	WAIT_FOR(&s->region, releases, 1);
	CHECK(s->other.end_ns < s->region.release_ns);
	check_told(s, rkey);
	CHECK_EQ(do_row(s, row), 0);
}

static enum outcome outcome_of(const struct cell *cell, enum daxlease_kind kind)
{
	const struct row *row = cell->row;

	if (is_quiet(kind) && !cell->write && row->lease_rd == REFUSED)
		return REFUSED;
	if (is_quiet(kind))
		return is_layout(kind) ? row->layout : row->guard;
	if (kind == DAXLEASE_KIND_DELEG)
		return cell->write ? row->deleg_wr : row->deleg_rd;
	return cell->write ? row->lease_wr : row->lease_rd;
}

static void run_cell(const struct world *w, const void *arg)
{
	const struct cell *cell = arg;
	struct stage s;
	const struct how how = { .on_drain = use_while_draining, .arg = &s };

	stage_open(&s, w, cell->write ? O_RDWR : O_RDONLY, &how);
	stage_access(&s, 0, region_rkey(&s.region), IBV_WC_SUCCESS);
	dereg_delay_ms = DEREG_MS;
	switch (outcome_of(cell, w->kind)) {
	case SETTLED:
		check_quiet(&s, cell->row, false);
		break;
	case UNSEEN:
		check_quiet(&s, cell->row, true);
		break;
	case LENT:
		check_lent(&s, cell->row, 0);
		break;
	case LENT_AGAIN:
		check_lent(&s, cell->row, -EAGAIN);
		break;
	case BROKEN:
		check_broken(&s, cell->row);
		break;
	case AGAIN:
		check_again(&s, cell->row);
		break;
	case REFUSED:
		check_refused(&s, cell->row);
		break;
	}
	dereg_delay_ms = 0;
	stage_close(&s);
}

/* ------------------------------------------------------------------------- */
/* Readers that stay */

#define READER_MS 700

static void reader_stays(const struct world *w, const void *arg)
{
	struct traffic traffic;
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	traffic_start(&traffic, &s);
	other_begin(&s.other, OP_OPEN_READ, s.file.path, READER_MS, -1);
	WAIT_FOR(&s.region, lends, 1);
	CHECK_EQ(daxlease_mr_get_state(s.region.mr), DAXLEASE_STATE_UNGUARDED);
	traffic_check(&traffic);
	CHECK(other_waits(&s.other)); /* it reads still */
	CHECK_EQ(s.region.guards, 0);
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	CHECK(s.other.got_ns - s.other.begin_ns < SOON_MS * MSEC);
	WAIT_FOR(&s.region, guards, 1);
	CHECK_EQ(traffic_stop(&traffic), 0);
	CHECK_EQ(s.region.drains + s.region.releases, 0);
	CHECK_EQ(leases_in_kernel(s.file.ino), 1);
	stage_close(&s);
}

/* Somebody shortens the file while it is unguarded: found out afterwards. */
static void reader_then_shrunk(const struct world *w, const void *arg)
{
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	other_begin(&s.other, OP_OPEN_READ, s.file.path, READER_MS, -1);
	WAIT_FOR(&s.region, lends, 1);
	CALL(ftruncate(s.file.fd, PAGE));
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	WAIT_FOR(&s.region, releases, 1);
	CHECK_EQ(s.region.drains, 1);
	CHECK_EQ(s.region.brk.cause, DAXLEASE_CAUSE_SHRUNK);
	CHECK_EQ(s.region.release_result, 0);
	CHECK_EQ(leases_in_kernel(s.file.ino), 0);
	stage_close(&s);
}

static void reader_drained(const struct world *w, const void *arg)
{
	const struct how how = { .flags = DAXLEASE_MR_DRAIN_FOR_READERS, .drain_ms = DRAIN_MS };
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, &how);
	CHECK_EQ(other_do(&s.other, OP_OPEN_READ, s.file.path, 0, -1), 0);
	CHECK(other_took_ms(&s.other) >= DRAIN_MS);
	region_check_released(&s.region, 0);
	CHECK_EQ(s.region.brk.cause, DAXLEASE_CAUSE_READER);
	stage_close(&s);
}

void add_table_cases(void)
{
	static struct cell cells[ARRAY_SIZE(rows)][2];

	for (unsigned int i = 0; i < ARRAY_SIZE(rows); i++) {
		for (unsigned int write = 0; write < 2; write++) {
			/* To a guard it is the same; some rows have to do. */
			bool guard = write || rows[i].op != OP_SHELL;

			cells[i][write] = (struct cell){ .row = &rows[i], .write = write };
			add_case(run_cell, &cells[i][write],
				 guard ? KIND_ALL : KIND_BOTH | KIND_LAYOUTS, 0, "table/%s/%s",
				 rows[i].name, write ? "wr" : "rd");
		}
	}
	add_case(reader_stays, NULL, KIND_BOTH, 0, "reader/stays");
	add_case(reader_then_shrunk, NULL, KIND_BOTH, 0, "reader/then-shrunk");
	add_case(reader_drained, NULL, KIND_BOTH, 0, "reader/drained");
}
