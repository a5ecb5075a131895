// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Somebody truncates the file while ib_write_bw writes to it. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "../file.h"
#include "../other.h"
#include "../runner.h"
#include "program.h"

#define MAPPED (2 * 65536u)
/* A small fraction of the 45 s of lease-break-time, though two processors are emulated. */
#define AT_ONCE_MS 4000

struct run {
	struct other other;
	struct perftest t;
	struct file f;
};

static bool page_has_data(const struct file *f)
{
	uint8_t page[PAGE];
	int fd = (int)CALL(open(f->path, O_RDONLY | O_CLOEXEC));
	bool found = false;

	CHECK_EQ(read(fd, page, sizeof(page)), sizeof(page));
	for (unsigned int i = 0; i < sizeof(page); i++)
		found |= page[i] != 0;
	close(fd);
	return found;
}

/* cm: connected by librdmacm, and then with 6 retries. */
static void start(struct run *r, const struct world *w, enum side side, const struct shim *shim,
		  const char *seconds, bool cm)
{
	const char *const more[] = { "-D", seconds, "-f", "1", cm ? "-R" : NULL, "--retry_count=6",
				     NULL };

	other_start(&r->other);
	file_make(&r->f, w, "file", MAPPED, O_RDWR);
	file_close(&r->f);
	perftest_start(&r->t, side, "ib_write_bw", r->f.path, shim, more);
	/* The shim's line; perftest's own come when it ends. Then there is traffic soon. */
	program_wait_for(side == SERVER ? &r->t.server : &r->t.client, " registered, lease ");
	sleep_ms(2000);
	CHECK_EQ(leases_in_kernel(r->f.ino), strcmp(shim->kind, "guard") ? 1 : 0);
}

static void end(struct run *r)
{
	CHECK_EQ(leases_in_kernel(r->f.ino), 0);
	other_stop(&r->other);
}

static void check_truncated(struct run *r)
{
	CHECK_EQ(other_do(&r->other, OP_TRUNCATE, r->f.path, PAGE, -1), 0);
	CHECK_BETWEEN(other_took_ms(&r->other), 0, AT_ONCE_MS);
	CHECK_EQ(file_size_now(&r->f), PAGE);
}

static const char moved[] = "1 queue pairs moved to the error state";

static void kill_program(struct program *p)
{
	kill(p->pid, SIGKILL);
	program_end(p, SOON_MS);
}

/*
 * The program ends as soon as its peer does; that one waits for ever, as soft-RoCE takes
 * perftest's 7 retries for that.
 */
static void fence(const struct world *w, const void *arg)
{
	const struct shim shim = { .on = true, .kind = arg, .log = "info" };
	struct run r;

	start(&r, w, SERVER, &shim, "60", false);
	check_truncated(&r);
	program_wait_for(&r.t.server, moved);
	kill_program(&r.t.client);
	CHECK(program_exit(&r.t.server, SOON_MS) > 0);
	CHECK(page_has_data(&r.f));
	end(&r);
}

/*
 * A peer with 6 retries ends by itself. Then the program waits for it for ever, as perftest does
 * with librdmacm.
 */
static void peer(const struct world *w, const void *arg)
{
	const struct shim shim = { .on = true, .kind = arg, .log = "info" };
	struct run r;

	start(&r, w, SERVER, &shim, "60", true);
	check_truncated(&r);
	CHECK(program_exit(&r.t.client, 3 * SOON_MS) > 0);
	/* IBV_WC_RETRY_EXC_ERR */
	CHECK(strstr(program_text(&r.t.client), "Failed status 12"));
	CHECK(page_has_data(&r.f));
	kill_program(&r.t.server);
	end(&r);
}

/* What it has posted is flushed, and it ends by that. */
static void flush(const struct world *w, const void *arg)
{
	const struct shim shim = { .on = true, .kind = arg, .log = "info" };
	struct run r;

	start(&r, w, CLIENT, &shim, "60", false);
	check_truncated(&r);
	CHECK(program_exit(&r.t.client, SOON_MS) > 0);
	CHECK(strstr(program_text(&r.t.client), moved));
	/* IBV_WC_WR_FLUSH_ERR */
	CHECK(strstr(program_text(&r.t.client), "Failed status 5"));
	program_end(&r.t.server, 3 * SOON_MS);
	end(&r);
}

/* Nobody changes it, and the program does not notice that somebody tried. */
static void exclusive(const struct world *w, const void *arg)
{
	const struct shim shim = { .on = true, .kind = arg, .policy = "exclusive", .log = "info" };
	struct run r;

	start(&r, w, SERVER, &shim, "6", false);
	CHECK_EQ(other_do(&r.other, OP_TRUNCATE, r.f.path, PAGE, -1), -ETXTBSY);
	CHECK_EQ(file_size_now(&r.f), MAPPED);
	CHECK_EQ(program_exit(&r.t.client, 3 * SOON_MS), 0);
	CHECK_EQ(program_exit(&r.t.server, SOON_MS), 0);
	CHECK(strstr(program_text(&r.t.client), "BW average"));
	CHECK(!strstr(program_text(&r.t.server), "error state"));
	check_truncated(&r);
	end(&r);
}

static void aborts(const struct world *w, const void *arg)
{
	const struct shim shim = { .on = true, .kind = arg, .policy = "abort", .log = "info" };
	struct run r;
	int status;

	start(&r, w, SERVER, &shim, "60", false);
	check_truncated(&r);
	status = program_end(&r.t.server, SOON_MS);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	CHECK(strstr(program_text(&r.t.server), "DAXLEASE_POLICY=abort"));
	/* Its peer may wait for it. */
	kill_program(&r.t.client);
	end(&r);
}

static void add(const char *what, case_fn fn, const char *kind)
{
	char name[64];

	snprintf(name, sizeof(name), "preload/break/%s/%s", what, kind);
	runner_add(NULL, name, fn, kind, 0, 90);
}

void add_break_cases(void)
{
	add("fence", fence, "guard");
	add("fence", fence, "deleg");
	add("fence", fence, "lease");
	add("peer", peer, "guard");
	add("flush", flush, "guard");
	add("exclusive", exclusive, "guard");
	add("abort", aborts, "guard");
	if (!layout_kernel)
		return;
	add("fence", fence, "layout");
	add("fence", fence, "layout-rfc");
	add("exclusive", exclusive, "layout");
	add("exclusive", exclusive, "layout-rfc");
}
