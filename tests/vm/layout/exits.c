// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Holders and breakers that end without a word, and holders that differ. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../other.h"
#include "../runner.h"
#include "holder.h"

#define BIG (256 * PAGE)

/* In which order a process opens what it pins with and the file, and how it ends. */
struct manner {
	const char *name;
	enum pin_kind pins;
	bool file_first, unlinks, closes, killed;
};

static const struct manner manners[] = {
	{ "mr-device-first", PIN_MR, false, true, false, false },
	{ "mr-file-first", PIN_MR, true, true, false, false },
	{ "mr-device-first-killed", PIN_MR, false, true, false, true },
	{ "mr-file-first-killed", PIN_MR, true, true, false, true },
	{ "mr-closed", PIN_MR, false, true, true, false },
	{ "ring-first", PIN_RING, false, true, false, false },
	{ "ring-last", PIN_RING, true, true, false, false },
	{ "ring-killed", PIN_RING, false, true, false, true },
	{ "mr-keeps-name", PIN_MR, false, false, false, false },
};

static _Noreturn void hold_and_end(const struct world *w, const struct manner *m, int ready)
{
	struct pinner pinner;
	struct file file;
	struct pin pin;

	if (!m->file_first)
		pinner_open(&pinner, m->pins);
	file_make(&file, w, "file", BIG, O_RDWR);
	if (m->file_first)
		pinner_open(&pinner, m->pins);
	CHECK_EQ(layout_take(file.fd, 0), 0);
	CHECK_EQ(pin_try(&pin, &pinner, file.map, BIG), 0);
	if (m->unlinks)
		CALL(unlink(file.path));
	if (m->closes)
		file_close(&file);
	CHECK_EQ(write(ready, "x", 1), 1);
	if (m->killed)
		pause();
	_exit(EXIT_SUCCESS);
}

static fsblkcnt_t free_blocks(const struct world *w)
{
	struct statfs fs;

	CALL(statfs(w->dir, &fs));
	return fs.f_bfree;
}

/* Blocks of unlinked files may come back later: XFS has a worker for them. */
static void wait_free(const struct world *w, fsblkcnt_t wanted)
{
	for (unsigned int i = 0; free_blocks(w) < wanted; i++) {
		if (i == SOON_MS / 10)
			fail_at(__FILE__, __LINE__, "%ju blocks are free, wanted %ju",
				(uintmax_t)free_blocks(w), (uintmax_t)wanted);
		sync();
		sleep_ms(10);
	}
}

/* It must not be stuck in eviction, waiting for pins that its own exit would drop. */
static void ends_pinned(const struct world *w, const void *arg)
{
	const struct manner *m = arg;
	fsblkcnt_t before;
	int ready[2];
	pid_t pid;
	char c;

	sync();
	before = free_blocks(w);
	CALL(pipe2(ready, O_CLOEXEC));
	fflush(NULL);
	pid = (pid_t)CALL(fork());
	if (!pid)
		hold_and_end(w, m, ready[1]);
	CALL(close(ready[1]));
	CHECK_EQ(read(ready[0], &c, 1), 1);
	if (m->killed) {
		CALL(kill(pid, SIGKILL));
		CHECK(wait_child(pid, SOON_MS) >= 0);
	} else {
		expect_child_ok(pid, SOON_MS);
	}
	for (unsigned int i = 0; leases_in_kernel(0); i++) {
		CHECK(i < SOON_MS / 10);
		sleep_ms(10);
	}
	/* All but what the directory may have grown by. */
	if (m->unlinks)
		wait_free(w, before - 8);
}

/* ------------------------------------------------------------------------- */
/* While somebody waits */

struct scene {
	struct other other;
	struct holder *h;
	char path[256];
};

static void scene_begin(struct scene *s, const struct world *w, enum pin_kind pins)
{
	const struct holder_how how = { .pins = pins, .pinned = FILE_SIZE };

	other_start(&s->other);
	world_path(w, "file", s->path, sizeof(s->path));
	pattern_write(s->path, FILE_SIZE, 1);
	s->h = holder_new(s->path, &how);
	holder_start_process(s->h);
	other_begin(&s->other, OP_TRUNCATE, s->path, PAGE, -1);
	wait_until_breaking(s->h->file.ino);
	sleep_ms(50);
	CHECK(other_waits(&s->other));
}

static void holder_killed(const struct world *w, const void *arg)
{
	struct scene s;

	scene_begin(&s, w, *(const enum pin_kind *)arg);
	CALL(kill(s.h->pid, SIGKILL));
	CHECK(wait_child(s.h->pid, SOON_MS) >= 0);
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	CHECK_EQ(leases_in_kernel(0), 0);
	other_stop(&s.other);
}

/* Stopped, it can neither answer nor go away; then it is killed. */
static void holder_stopped(const struct world *w, const void *arg)
{
	struct scene s;

	scene_begin(&s, w, *(const enum pin_kind *)arg);
	CALL(kill(s.h->pid, SIGSTOP));
	sleep_ms(100);
	CHECK(other_waits(&s.other));
	CALL(kill(s.h->pid, SIGKILL));
	CHECK(wait_child(s.h->pid, SOON_MS) >= 0);
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	other_stop(&s.other);
}

static void breaker_killed(const struct world *w, const void *arg)
{
	struct snapshot before, after;
	struct scene s;
	int fd;

	scene_begin(&s, w, *(const enum pin_kind *)arg);
	fd = (int)CALL(open(s.path, O_RDONLY | O_CLOEXEC));
	snapshot_take(&before, fd);
	CALL(kill(s.other.pid, SIGKILL));
	CHECK(wait_child(s.other.pid, 2000) >= 0);
	snapshot_take(&after, fd);
	CHECK(!snapshot_differs(&before, &after));
	/* Whether the break goes on without it does not matter; giving back works. */
	holder_order(s.h, ORDER_GIVE);
	CHECK_EQ(atomic_load(&s.h->give_result), 0);
	CHECK_EQ(truncate(s.path, PAGE), 0);
	holder_end(s.h, 1);
}

static void on_alarm(int sig)
{
	(void)sig;
}

static int truncate_with_alarm(const char *path, long amount, int fd)
{
	/* Without SA_RESTART. */
	const struct sigaction action = { .sa_handler = on_alarm };

	(void)fd;
	sigaction(SIGALRM, &action, NULL);
	alarm(1);
	return truncate(path, amount);
}

static void breaker_interrupted(const struct world *w, const void *arg)
{
	const struct holder_how how = { .pins = *(const enum pin_kind *)arg, .pinned = FILE_SIZE };
	struct other other;
	struct holder *h;
	char path[256];

	other_start(&other);
	world_path(w, "file", path, sizeof(path));
	pattern_write(path, FILE_SIZE, 1);
	h = holder_new(path, &how);
	holder_start_process(h);
	other_begin_fn(&other, truncate_with_alarm, path, PAGE, -1);
	CHECK_EQ(other_end(&other, SOON_MS), -EINTR);
	CHECK_BETWEEN(other_took_ms(&other), 900, 4000);
	holder_order(h, ORDER_GIVE);
	CHECK_EQ(other_do(&other, OP_TRUNCATE, path, PAGE, -1), 0);
	holder_end(h, 1);
	other_stop(&other);
}

/* Of two holders one answers, and that is not enough. */
static void one_of_two(const struct world *w, const void *arg)
{
	struct holder_how how = { .pins = *(const enum pin_kind *)arg,
				  .pinned = FILE_SIZE,
				  .answer_ms = 100 };
	struct holder *answers, *silent;
	struct other other;
	char path[256];

	other_start(&other);
	sysctl_set("lease-break-time", BREAK_S);
	world_path(w, "file", path, sizeof(path));
	pattern_write(path, FILE_SIZE, 1);
	answers = holder_new(path, &how);
	how.answer_ms = 0;
	silent = holder_new(path, &how);
	holder_start_process(answers);
	holder_start_process(silent);
	CHECK_EQ(other_do(&other, OP_TRUNCATE, path, PAGE, -1), -ETXTBSY);
	CHECK_BETWEEN(other_took_ms(&other), DEADLINE_MIN_MS, DEADLINE_MAX_MS);
	CHECK_EQ(atomic_load(&answers->give_result), 0);
	holder_order(silent, ORDER_DROP);
	CHECK_EQ(other_do(&other, OP_TRUNCATE, path, PAGE, -1), 0);
	holder_end(answers, 1);
	holder_end(silent, 1);
	other_stop(&other);
}

/* One that nobody can break beside one that answers: refused, whatever that one does. */
static void unbreakable_of_two(const struct world *w, const void *arg)
{
	struct holder_how how = { .pins = *(const enum pin_kind *)arg,
				  .pinned = FILE_SIZE,
				  .answer_ms = 100 };
	struct holder *breakable, *unbreakable;
	struct other other;
	char path[256];

	other_start(&other);
	world_path(w, "file", path, sizeof(path));
	pattern_write(path, FILE_SIZE, 1);
	breakable = holder_new(path, &how);
	how.flags = LAYOUT_UNBREAKABLE;
	unbreakable = holder_new(path, &how);
	holder_start_process(breakable);
	holder_start_process(unbreakable);
	CHECK_EQ(other_do(&other, OP_TRUNCATE, path, PAGE, -1), -ETXTBSY);
	CHECK_EQ(file_size_now(&breakable->file), FILE_SIZE);
	holder_order(unbreakable, ORDER_GIVE);
	CHECK_EQ(other_do(&other, OP_TRUNCATE, path, PAGE, -1), 0);
	holder_end(unbreakable, 0);
	holder_end(breakable, 1);
	other_stop(&other);
}

/*
 * EXT4_IOC_SWAP_BOOT exchanges the blocks of a file and of a hidden one. It neither unmaps nor
 * waits for anything, so the series has it refuse DAX files.
 */
#define SWAP_BOOT _IO('f', 17)

static void swap_boot(const struct world *w, const void *arg)
{
	const struct holder_how how = { .pins = PIN_MR, .pinned = FILE_SIZE };
	struct snapshot before, after;
	struct holder *h;
	char path[256];
	int fd;

	(void)arg;
	world_path(w, "file", path, sizeof(path));
	pattern_write(path, FILE_SIZE, 1);
	h = holder_new(path, &how);
	holder_start_process(h);
	fd = (int)CALL(open(path, O_RDWR | O_CLOEXEC));
	snapshot_take(&before, fd);
	CHECK_EQ(ioctl(fd, SWAP_BOOT), -1);
	CHECK_EQ(errno, EOPNOTSUPP);
	snapshot_take(&after, fd);
	CHECK(!snapshot_differs(&before, &after));
	holder_end(h, 0);
}

void add_exit_cases(void)
{
	static const enum pin_kind kinds[] = { PIN_NONE, PIN_MR, PIN_RING };
	static const char *const kind_names[] = { "unpinned", "mr", "ring" };
	static const struct {
		const char *name;
		case_fn fn;
	} scenes[] = {
		{ "holder-killed", holder_killed },
		{ "holder-stopped", holder_stopped },
		{ "breaker-killed", breaker_killed },
		{ "breaker-interrupted", breaker_interrupted },
	};
	char name[64];

	for (unsigned int i = 0; i < ARRAY_SIZE(manners); i++) {
		snprintf(name, sizeof(name), "exit/%s", manners[i].name);
		runner_add(NULL, name, ends_pinned, &manners[i], 0, 0);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(scenes); i++) {
		for (unsigned int k = 0; k < ARRAY_SIZE(kinds); k++) {
			snprintf(name, sizeof(name), "exit/%s-%s", scenes[i].name, kind_names[k]);
			runner_add(NULL, name, scenes[i].fn, &kinds[k], 0, 0);
		}
	}
	runner_add("ext4", "exit/swap-boot", swap_boot, NULL, 0, 0);
	runner_add(NULL, "exit/one-of-two", one_of_two, &kinds[1], 0, 0);
	runner_add(NULL, "exit/unbreakable-of-two", unbreakable_of_two, &kinds[1], 0, 0);
}
