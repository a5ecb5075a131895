// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Holders and breakers that are killed at any moment: nobody may be stuck, no lease may
 * be left, and the filesystem has to be sound afterwards.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../runner.h"
#include "feature.h"
#include "pin.h"

#define REAP_MS 10000u

unsigned int kill_rounds = 40, kill_seed;

/* What is drawn for one round. */
struct draw {
	bool file_first, closes, unlinks, kills_holder, kills_breaker;
	unsigned int answer; /* 0: never, else after so many ms - 1 */
	unsigned int delay_us;
	enum pin_kind pins;
};

struct round {
	struct draw draw;
	char path[256];
	atomic_bool held, broken;
	atomic_uint done; /* operations of the breaker that came back */
};

static void draw(struct draw *d)
{
	unsigned int r = (unsigned int)rand(), victim = (unsigned int)rand() % 3;

	d->file_first = r & 1;
	d->closes = (r & 6) == 6;
	d->unlinks = (r & 24) == 24;
	d->answer = r & 32 ? 0 : 1 + (unsigned int)rand() % 6;
	d->pins = r & 64 ? PIN_MR : (r & 128 ? PIN_RING : PIN_MR);
	d->kills_holder = victim != 0;
	d->kills_breaker = victim != 1;
	d->delay_us = (unsigned int)rand() % 30000;
}

/* ------------------------------------------------------------------------- */

static void answer(struct round *r, struct file *f, struct pinner *pinner, struct pin *pin)
{
	sleep_ms(r->draw.answer - 1);
	pin_drop(pin);
	if (f->fd < 0)
		return;
	layout_give(f->fd);
	layout_signal(f->fd);
	/* And takes it back as soon as it can. */
	if (!layout_take(f->fd, 0) && pin_try(pin, pinner, f->map, FILE_SIZE))
		layout_give(f->fd);
}

static void hold(struct round *r)
{
	struct pinner pinner;
	struct pin pin;
	siginfo_t info;
	struct file f;

	snprintf(f.path, sizeof(f.path), "%s", r->path);
	if (!r->draw.file_first)
		pinner_open(&pinner, r->draw.pins);
	file_open(&f, FILE_SIZE, O_RDWR);
	if (r->draw.file_first)
		pinner_open(&pinner, r->draw.pins);
	layout_signal(f.fd);
	CHECK_EQ(layout_take(f.fd, 0), 0);
	CHECK_EQ(pin_try(&pin, &pinner, f.map, FILE_SIZE), 0);
	if (r->draw.closes)
		file_close(&f);
	atomic_store(&r->held, true);
	for (;;) {
		if (layout_wait_signal(1000, &info) && r->draw.answer)
			answer(r, &f, &pinner, &pin);
	}
}

static void break_it(struct round *r)
{
	int fd = (int)CALL(open(r->path, O_RDWR | O_CLOEXEC));
	uint8_t page[PAGE] = { 'x' };

	while (!atomic_load(&r->held))
		sleep_ms(1);
	if (r->draw.unlinks)
		CALL(unlink(r->path));
	atomic_store(&r->broken, true);
	for (unsigned int i = 0;; i++) {
		int ret = i % 2 ? fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE,
					    2 * PAGE) :
				  ftruncate(fd, i % 4 ? 4 * PAGE : FILE_SIZE);

		CHECK(!ret || errno == ETXTBSY);
		CHECK_EQ(pwrite(fd, page, PAGE, PAGE), PAGE);
		atomic_fetch_add(&r->done, 1);
	}
}

static pid_t start(struct round *r, void (*fn)(struct round *r))
{
	pid_t pid;

	fflush(NULL);
	pid = (pid_t)CALL(fork());
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn(r);
		_exit(EXIT_SUCCESS);
	}
	return pid;
}

/* ------------------------------------------------------------------------- */
/* The end of a process */

static void show_file(pid_t pid, const char *name)
{
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		fprintf(stderr, "%s: %s%s", path, line, strchr(line, '\n') ? "" : "\n");
	if (f)
		fclose(f);
}

static void reap(pid_t pid, const char *who)
{
	int status;

	CALL(kill(pid, SIGKILL));
	status = wait_child(pid, REAP_MS);
	if (status < 0) {
		show_file(pid, "stat");
		show_file(pid, "wchan");
		show_file(pid, "stack");
		fail_at(__FILE__, __LINE__, "the %s cannot be killed", who);
	}
	/* Not by a check of its own. */
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail_at(__FILE__, __LINE__, "the %s ended with status %#x", who,
			(unsigned int)status);
}

/* The holder is gone: whoever waits for it has to get on. */
static void check_progress(struct round *r)
{
	unsigned int before = atomic_load(&r->done);
	uint64_t end = now_ns() + REAP_MS * MSEC;

	while (atomic_load(&r->done) < before + 2) {
		if (now_ns() > end)
			fail_at(__FILE__, __LINE__, "the breaker is stuck without a holder");
		sleep_ms(1);
	}
}

static void wait_no_locks(void)
{
	uint64_t end = now_ns() + REAP_MS * MSEC;

	while (leases_in_kernel(0)) {
		if (now_ns() > end)
			fail_at(__FILE__, __LINE__, "leases are left");
		sleep_ms(2);
	}
}

static void run_round(struct round *r)
{
	pid_t holder, breaker;
	uint64_t end = now_ns() + REAP_MS * MSEC;

	pattern_write(r->path, FILE_SIZE, 1);
	holder = start(r, hold);
	breaker = start(r, break_it);
	while (!atomic_load(&r->broken)) {
		CHECK(now_ns() < end);
		sleep_ms(1);
	}
	CALL(usleep(r->draw.delay_us));
	if (r->draw.kills_holder && r->draw.kills_breaker) {
		CALL(kill(holder, SIGKILL));
		CALL(kill(breaker, SIGKILL));
	}
	if (r->draw.kills_holder) {
		reap(holder, "holder");
		if (!r->draw.kills_breaker)
			check_progress(r);
		reap(breaker, "breaker");
	} else {
		reap(breaker, "breaker");
		reap(holder, "holder");
	}
	wait_no_locks();
	if (!r->draw.unlinks)
		CALL(unlink(r->path));
}

/* ------------------------------------------------------------------------- */
/* Is the filesystem sound? */

static const char *device_of(const struct world *w)
{
	return !strcmp(w->fs, "xfs") ? "/dev/pmem1" : "/dev/pmem0";
}

static int shell(const char *fmt, const char *arg)
{
	char command[256];
	int status;

	snprintf(command, sizeof(command), fmt, arg);
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static bool check_filesystem(const struct world *w)
{
	bool xfs = !strcmp(w->fs, "xfs");
	const char *device = device_of(w);
	bool sound;

	/* xfs_repair may be too old to know that feature. */
	if (!xfs)
		return shell("e2fsck -f -n %s 2>&1", device) == 0;
	CHECK_EQ(xfs_set_exchange_range(device, false), 0);
	sound = shell("xfs_repair -n %s 2>&1", device) == 0;
	CHECK_EQ(xfs_set_exchange_range(device, true), 0);
	return sound;
}

static void check_sound(const struct world *w)
{
	char mount_point[64];
	bool sound;

	snprintf(mount_point, sizeof(mount_point), "/dax/%s", w->fs);
	for (unsigned int i = 0; umount(mount_point); i++) {
		CHECK_EQ(errno, EBUSY);
		CHECK(i < REAP_MS / 50);
		sleep_ms(50);
	}
	sound = check_filesystem(w);
	CALL(mount(device_of(w), mount_point, w->fs, 0, "dax=always"));
	CHECK(sound);
}

static void storm(const struct world *w, const void *arg)
{
	struct round *r =
		mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	(void)arg;
	CHECK(r != MAP_FAILED);
	sysctl_set("lease-break-time", 1);
	srand(kill_seed);
	for (unsigned int i = 0; i < kill_rounds; i++) {
		char name[32];

		memset(r, 0, sizeof(*r));
		snprintf(name, sizeof(name), "round-%u", i);
		world_path(w, name, r->path, sizeof(r->path));
		draw(&r->draw);
		fprintf(stderr,
			"round %u: file_first %d closes %d unlinks %d answer %u pins %d "
			"kills holder %d breaker %d after %u us\n",
			i, r->draw.file_first, r->draw.closes, r->draw.unlinks, r->draw.answer,
			r->draw.pins, r->draw.kills_holder, r->draw.kills_breaker,
			r->draw.delay_us);
		run_round(r);
	}
	check_sound(w);
}

void add_kill_cases(void)
{
	/* Each round takes some tens of milliseconds, or a second with a silent holder. */
	runner_add(NULL, "kill/storm", storm, NULL, 0, 60 + 4 * kill_rounds);
}
