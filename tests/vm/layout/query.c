// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* What the kernel tells about leases: F_GETLAYOUT, F_GETLEASE, /proc. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "../other.h"
#include "../runner.h"
#include "holder.h"

/* A file that this process has open, and somebody who can break it. */
struct query {
	struct other other;
	struct file file;
};

static void query_begin(struct query *q, const struct world *w)
{
	other_start(&q->other);
	pattern_make(&q->file, w, "file", O_RDWR);
	layout_signal(q->file.fd);
}

static void query_end(struct query *q)
{
	file_close(&q->file);
	other_stop(&q->other);
}

static void check_lease(int fd, unsigned int type, unsigned int flags, unsigned int break_ms,
			unsigned int pins)
{
	struct layout_lease l = layout_get(fd);

	CHECK_EQ(l.l_type, type);
	CHECK_EQ(l.l_flags, flags);
	CHECK_EQ(l.l_break_ms, break_ms);
	CHECK_EQ(l.l_pins, pins);
}

static void begin_break(struct query *q)
{
	siginfo_t info;

	other_begin(&q->other, OP_TRUNCATE, q->file.path, PAGE, -1);
	CHECK(layout_wait_signal(SOON_MS, &info));
	CHECK_EQ(info.si_fd, q->file.fd);
}

static void end_break(struct query *q)
{
	CHECK_EQ(layout_give(q->file.fd), 0);
	CHECK_EQ(other_end(&q->other, SOON_MS), 0);
	check_lease(q->file.fd, F_UNLCK, 0, 0, 0);
}

/* ------------------------------------------------------------------------- */

static void states(const struct world *w, const void *arg)
{
	struct query q;
	int second;

	(void)arg;
	query_begin(&q, w);
	second = (int)CALL(open(q.file.path, O_RDONLY | O_CLOEXEC));
	check_lease(q.file.fd, F_UNLCK, 0, 0, 0);
	CHECK_EQ(layout_take(q.file.fd, 0), 0);
	check_lease(q.file.fd, F_RDLCK, 0, 0, 0);
	/* Of this description only. */
	check_lease(second, F_UNLCK, 0, 0, 0);
	CHECK_EQ(layout_take(second, 0), 0);
	CHECK_EQ(layout_give(q.file.fd), 0);
	check_lease(q.file.fd, F_UNLCK, 0, 0, 0);
	check_lease(second, F_RDLCK, 0, 0, 0);
	CHECK_EQ(layout_take(q.file.fd, LAYOUT_UNBREAKABLE), 0);
	check_lease(q.file.fd, F_RDLCK, LAYOUT_UNBREAKABLE, 0, 0);
	CHECK_EQ(layout_give(q.file.fd), 0);
	CALL(close(second));
	CHECK_EQ(leases_in_kernel(0), 0);
	query_end(&q);
}

static void deadline(const struct world *w, const void *arg)
{
	struct layout_lease first, later;
	struct query q;

	(void)arg;
	query_begin(&q, w);
	sysctl_set("lease-break-time", 20);
	CHECK_EQ(layout_take(q.file.fd, 0), 0);
	begin_break(&q);
	first = layout_get(q.file.fd);
	sleep_ms(500);
	later = layout_get(q.file.fd);
	CHECK_EQ(first.l_type, F_RDLCK);
	CHECK_EQ(first.l_flags, LAYOUT_BREAKING);
	CHECK_BETWEEN(first.l_break_ms, 15000, 20000);
	CHECK_BETWEEN(later.l_break_ms, 10000, first.l_break_ms - 400);
	end_break(&q);
	query_end(&q);
}

static void no_deadline(const struct world *w, const void *arg)
{
	struct query q;

	(void)arg;
	query_begin(&q, w);
	sysctl_set("lease-break-time", 0);
	CHECK_EQ(layout_take(q.file.fd, 0), 0);
	begin_break(&q);
	check_lease(q.file.fd, F_RDLCK, LAYOUT_BREAKING, LAYOUT_NO_DEADLINE, 0);
	sleep_ms(500);
	CHECK(other_waits(&q.other));
	end_break(&q);
	query_end(&q);
}

/* Past the deadline, but kept by what is pinned. */
static void overdue(const struct world *w, const void *arg)
{
	struct pinner pinner;
	struct query q;
	struct pin pin;

	(void)arg;
	query_begin(&q, w);
	sysctl_set("lease-break-time", 1);
	pinner_open(&pinner, PIN_MR);
	CHECK_EQ(layout_take(q.file.fd, 0), 0);
	CHECK_EQ(pin_try(&pin, &pinner, q.file.map, FILE_SIZE), 0);
	check_lease(q.file.fd, F_RDLCK, 0, 0, 1);
	begin_break(&q);
	CHECK_EQ(other_end(&q.other, SOON_MS), -ETXTBSY);
	check_lease(q.file.fd, F_RDLCK, LAYOUT_BREAKING, 0, 1);
	CHECK_EQ(layout_give(q.file.fd), -EBUSY);
	/* No way back, and none round: the break stays. */
	CHECK_EQ(layout_take(q.file.fd, 0), -EAGAIN);
	pin_drop(&pin);
	CHECK_EQ(layout_give(q.file.fd), 0);
	pinner_close(&pinner);
	query_end(&q);
}

/* Several breakers, one break: one signal. */
static void one_signal(const struct world *w, const void *arg)
{
	struct other second;
	siginfo_t info;
	struct query q;

	(void)arg;
	other_start(&second);
	query_begin(&q, w);
	CHECK_EQ(layout_take(q.file.fd, 0), 0);
	begin_break(&q);
	other_begin(&second, OP_TRUNCATE, q.file.path, 2 * PAGE, -1);
	CHECK(!layout_wait_signal(300, &info));
	CHECK(other_waits(&q.other) && other_waits(&second));
	end_break(&q);
	CHECK_EQ(other_end(&second, SOON_MS), 0);
	/* A lease that is taken anew is told anew. */
	layout_signal(q.file.fd);
	CHECK_EQ(layout_take(q.file.fd, 0), 0);
	begin_break(&q);
	end_break(&q);
	CHECK(!layout_wait_signal(50, &info));
	other_stop(&second);
	query_end(&q);
}

/* ------------------------------------------------------------------------- */
/* Whom it tells */

static void owner_reset(const struct world *w, const void *arg)
{
	struct query q;

	(void)arg;
	query_begin(&q, w);
	CHECK_EQ(layout_take(q.file.fd, 0), 0);
	CHECK_EQ(CALL(fcntl(q.file.fd, F_GETSIG)), LAYOUT_SIGNAL);
	CHECK_EQ(CALL(fcntl(q.file.fd, F_GETOWN)), getpid());
	CHECK_EQ(layout_give(q.file.fd), 0);
	CHECK_EQ(CALL(fcntl(q.file.fd, F_GETSIG)), 0);
	CHECK_EQ(CALL(fcntl(q.file.fd, F_GETOWN)), 0);
	query_end(&q);
}

static void owner_reset_by_force(const struct world *w, const void *arg)
{
	struct query q;

	(void)arg;
	query_begin(&q, w);
	sysctl_set("lease-break-time", 1);
	CHECK_EQ(layout_take(q.file.fd, 0), 0);
	begin_break(&q);
	CHECK_EQ(other_end(&q.other, SOON_MS), 0);
	check_lease(q.file.fd, F_UNLCK, 0, 0, 0);
	CHECK_EQ(layout_give(q.file.fd), -EAGAIN);
	CHECK_EQ(CALL(fcntl(q.file.fd, F_GETSIG)), 0);
	CHECK_EQ(CALL(fcntl(q.file.fd, F_GETOWN)), 0);
	query_end(&q);
}

/* A thread, by F_SETOWN_EX: the signal is for it alone. */
static void owner_thread(const struct world *w, const void *arg)
{
	const struct f_owner_ex owner = { .type = F_OWNER_TID, .pid = gettid() };
	struct query q;

	(void)arg;
	query_begin(&q, w);
	CHECK_EQ(layout_take(q.file.fd, 0), 0);
	CALL(fcntl(q.file.fd, F_SETOWN_EX, &owner));
	begin_break(&q);
	end_break(&q);
	query_end(&q);
}

/* ------------------------------------------------------------------------- */
/* /proc */

/* Whether a line of the file is as wanted behind what the format skips (it ends with %n). */
static bool has_line(const char *path, const char *format, const char *wanted)
{
	FILE *f = fopen(path, "re");
	bool found = false;
	char line[256];

	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		int skip = 0;

		line[strcspn(line, "\n")] = '\0';
		fprintf(stderr, "%s: %s\n", path, line);
		/* How many blanks are in between is nothing to rely on. */
		for (char *c = line; (c = strstr(c, "  "));)
			memmove(c, c + 1, strlen(c));
		sscanf(line, format, &skip);
		found |= skip && !strcmp(line + skip, wanted);
	}
	fclose(f);
	return found;
}

static void lock_text(const struct file *f, const char *kind, pid_t pid, char *ret, size_t size)
{
	struct stat st;

	CALL(fstat(f->fd, &st));
	snprintf(ret, size, "%s %d %02x:%02x:%ju 0 EOF", kind, (int)pid, major(st.st_dev),
		 minor(st.st_dev), (uintmax_t)st.st_ino);
}

static void check_proc(const struct file *f, const char *kind, unsigned int pins)
{
	char text[128], path[64];

	lock_text(f, kind, getpid(), text, sizeof(text));
	if (!has_line("/proc/locks", "%*d: %n", text))
		fail_at(__FILE__, __LINE__, "/proc/locks has no \"%s\"", text);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", f->fd);
	if (!has_line(path, "lock: %*d: %n", text))
		fail_at(__FILE__, __LINE__, "%s has no \"%s\"", path, text);
	snprintf(text, sizeof(text), "%u", pins);
	if (!has_line(path, "layout-pins: %n", text))
		fail_at(__FILE__, __LINE__, "%s has no layout-pins: %s", path, text);
}

static void proc_files(const struct world *w, const void *arg)
{
	struct pinner pinner;
	struct query q;
	struct pin pin;
	char text[128];

	(void)arg;
	query_begin(&q, w);
	pinner_open(&pinner, PIN_MR);
	CHECK_EQ(layout_take(q.file.fd, LAYOUT_UNBREAKABLE), 0);
	check_proc(&q.file, "LAYOUT UNBREAK READ", 0);
	CHECK_EQ(layout_give(q.file.fd), 0);
	layout_signal(q.file.fd);
	CHECK_EQ(layout_take(q.file.fd, 0), 0);
	check_proc(&q.file, "LAYOUT ACTIVE READ", 0);
	CHECK_EQ(pin_try(&pin, &pinner, q.file.map, FILE_SIZE), 0);
	check_proc(&q.file, "LAYOUT ACTIVE READ", 1);
	begin_break(&q);
	check_proc(&q.file, "LAYOUT BREAKING UNLCK", 1);
	/* As for every lease: who waits has no file of its own. */
	snprintf(text, sizeof(text), "LAYOUT BREAKER WRITE %d <none>:0 0 EOF", (int)q.other.pid);
	if (!has_line("/proc/locks", "%*d: -> %n", text))
		fail_at(__FILE__, __LINE__, "/proc/locks has no \"-> %s\"", text);
	pin_drop(&pin);
	end_break(&q);
	CHECK_EQ(leases_in_kernel(0), 0);
	pinner_close(&pinner);
	query_end(&q);
}

/* ------------------------------------------------------------------------- */
/* The spelling of 2019 */

static int old_get(int fd)
{
	return (int)CALL(fcntl(fd, F_GETLEASE));
}

static void old_spelling(const struct world *w, const void *arg)
{
	struct query q;

	(void)arg;
	query_begin(&q, w);
	CHECK_EQ(old_get(q.file.fd), F_UNLCK);
	CHECK_EQ(layout_old(q.file.fd, OLD_LAYOUT), 0);
	CHECK_EQ(old_get(q.file.fd), OLD_LAYOUT);
	check_lease(q.file.fd, F_RDLCK, 0, 0, 0);
	CHECK_EQ(layout_old(q.file.fd, F_UNLCK), 0);
	CHECK_EQ(old_get(q.file.fd), F_UNLCK);
	CHECK_EQ(layout_old(q.file.fd, F_UNLCK), -EAGAIN);
	CHECK_EQ(layout_old(q.file.fd, OLD_UNBREAKABLE), 0);
	CHECK_EQ(old_get(q.file.fd), OLD_UNBREAKABLE);
	check_lease(q.file.fd, F_RDLCK, LAYOUT_UNBREAKABLE, 0, 0);
	CHECK_EQ(layout_give(q.file.fd), 0);
	layout_signal(q.file.fd);
	CHECK_EQ(layout_take(q.file.fd, 0), 0);
	CHECK_EQ(old_get(q.file.fd), OLD_LAYOUT);
	begin_break(&q);
	CHECK_EQ(old_get(q.file.fd), F_UNLCK);
	CHECK_EQ(layout_old(q.file.fd, F_UNLCK), 0);
	CHECK_EQ(other_end(&q.other, SOON_MS), 0);
	query_end(&q);
}

/* Giving back an ordinary lease leaves the other kind alone, and the reverse. */
static void two_kinds(const struct world *w, const void *arg)
{
	struct query q;
	int second;

	(void)arg;
	query_begin(&q, w);
	CHECK_EQ(layout_old(q.file.fd, F_WRLCK), 0);
	CHECK_EQ(layout_take(q.file.fd, 0), -EBUSY);
	CHECK_EQ(old_get(q.file.fd), F_WRLCK);
	CHECK_EQ(layout_give(q.file.fd), -EAGAIN);
	CHECK_EQ(old_get(q.file.fd), F_WRLCK);
	CHECK_EQ(layout_old(q.file.fd, F_UNLCK), 0);
	CALL(close(q.file.fd));
	/* On two descriptions of the same inode they do not disturb each other. */
	q.file.fd = (int)CALL(open(q.file.path, O_RDONLY | O_CLOEXEC));
	CALL(munmap(q.file.map, FILE_SIZE));
	q.file.map = NULL;
	second = (int)CALL(open(q.file.path, O_RDONLY | O_CLOEXEC));
	CHECK_EQ(layout_old(second, F_RDLCK), 0);
	CHECK_EQ(layout_take(q.file.fd, 0), 0);
	CHECK_EQ(leases_in_kernel(q.file.ino), 2);
	CHECK_EQ(layout_old(second, F_UNLCK), 0);
	CHECK(layout_held(q.file.fd));
	CHECK_EQ(layout_give(q.file.fd), 0);
	CALL(close(second));
	query_end(&q);
}

void add_query_cases(void)
{
	static const struct {
		const char *name;
		case_fn fn;
	} queries[] = {
		{ "states", states },
		{ "deadline", deadline },
		{ "no-deadline", no_deadline },
		{ "overdue", overdue },
		{ "one-signal", one_signal },
		{ "owner-reset", owner_reset },
		{ "owner-reset-by-force", owner_reset_by_force },
		{ "owner-thread", owner_thread },
		{ "proc", proc_files },
		{ "old-spelling", old_spelling },
		{ "two-kinds", two_kinds },
	};
	char name[64];

	for (unsigned int i = 0; i < ARRAY_SIZE(queries); i++) {
		snprintf(name, sizeof(name), "query/%s", queries[i].name);
		runner_add(NULL, name, queries[i].fn, NULL, 0, 0);
	}
}
