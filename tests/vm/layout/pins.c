// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* When pages may be pinned for long, and what such a pin does to the lease. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../runner.h"
#include "ops.h"
#include "pin.h"

/* A file, not leased yet, and what pins it. */
struct stand {
	struct other other;
	struct file file;
	struct pinner pinner;
	struct pin pin;
};

static void stand_begin(struct stand *s, const struct world *w, const void *kind)
{
	memset(s, 0, sizeof(*s));
	other_start(&s->other);
	pinner_open(&s->pinner, *(const enum pin_kind *)kind);
	pattern_make(&s->file, w, "file", O_RDWR);
}

static int try(struct stand *s)
{
	return pin_try(&s->pin, &s->pinner, s->file.map, FILE_SIZE);
}

/* And leased and pinned. */
static void stand_pinned(struct stand *s, const struct world *w, const void *kind)
{
	stand_begin(s, w, kind);
	layout_signal(s->file.fd);
	CHECK_EQ(layout_take(s->file.fd, 0), 0);
	CHECK_EQ(try(s), 0);
}

static void stand_end(struct stand *s)
{
	pin_drop(&s->pin);
	pinner_close(&s->pinner);
	file_close(&s->file);
	other_stop(&s->other);
}

static unsigned int pins_of(int fd)
{
	return layout_get(fd).l_pins;
}

/* What is refused leaves no trace: no pin, and whoever changes the file does not wait. */
static void refused(struct stand *s)
{
	CHECK_EQ(try(s), -EOPNOTSUPP);
	CHECK_EQ(pins_of(s->file.fd), 0);
	CHECK_EQ(other_do(&s->other, OP_TRUNCATE, s->file.path, PAGE, -1), 0);
	CHECK_BETWEEN(other_took_ms(&s->other), 0, AT_ONCE_MS);
}

/* ------------------------------------------------------------------------- */
/* Whose lease it is */

static void no_lease(const struct world *w, const void *kind)
{
	struct stand s;

	stand_begin(&s, w, kind);
	refused(&s);
	stand_end(&s);
}

/* The lease is on another description of the same inode. */
static void other_description(const struct world *w, const void *kind)
{
	struct stand s;
	int fd;

	stand_begin(&s, w, kind);
	fd = (int)CALL(open(s.file.path, O_RDWR | O_CLOEXEC));
	CHECK_EQ(layout_take(fd, 0), 0);
	CHECK_EQ(try(&s), -EOPNOTSUPP);
	CHECK_EQ(pins_of(fd), 0);
	CHECK_EQ(layout_give(fd), 0);
	refused(&s);
	close(fd);
	stand_end(&s);
}

/* An ordinary lease is none for this. */
static void ordinary_lease(const struct world *w, const void *kind)
{
	struct stand s;

	stand_begin(&s, w, kind);
	CHECK_EQ(layout_old(s.file.fd, F_WRLCK), 0);
	CHECK_EQ(try(&s), -EOPNOTSUPP);
	CHECK_EQ(layout_old(s.file.fd, F_UNLCK), 0);
	refused(&s);
	stand_end(&s);
}

static void breaking(const struct world *w, const void *kind)
{
	siginfo_t info;
	struct stand s;

	stand_begin(&s, w, kind);
	layout_signal(s.file.fd);
	CHECK_EQ(layout_take(s.file.fd, 0), 0);
	other_begin(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1);
	CHECK(layout_wait_signal(SOON_MS, &info));
	CHECK_EQ(try(&s), -EOPNOTSUPP);
	CHECK(other_waits(&s.other));
	CHECK_EQ(layout_give(s.file.fd), 0);
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	stand_end(&s);
}

static void released(const struct world *w, const void *kind)
{
	struct stand s;

	stand_pinned(&s, w, kind);
	pin_drop(&s.pin);
	CHECK_EQ(layout_give(s.file.fd), 0);
	CHECK_EQ(try(&s), -EOPNOTSUPP);
	CHECK_EQ(layout_take(s.file.fd, 0), 0);
	CHECK_EQ(try(&s), 0);
	pin_drop(&s.pin);
	CHECK_EQ(layout_give(s.file.fd), 0);
	refused(&s);
	stand_end(&s);
}

static void unbreakable(const struct world *w, const void *kind)
{
	struct stand s;

	stand_begin(&s, w, kind);
	CHECK_EQ(layout_take(s.file.fd, LAYOUT_UNBREAKABLE), 0);
	CHECK_EQ(try(&s), 0);
	CHECK_EQ(pins_of(s.file.fd), 1);
	CHECK_EQ(layout_give(s.file.fd), -EBUSY);
	pin_drop(&s.pin);
	CHECK_EQ(layout_give(s.file.fd), 0);
	stand_end(&s);
}

/* ------------------------------------------------------------------------- */
/* Several processes */

/* In the child, with the mapping that it has inherited. Pins until it is told to end. */
static _Noreturn void pin_in_child(struct stand *s, enum pin_kind kind, int from, int to)
{
	struct pinner mine;
	struct pin pin;
	int err;
	char c;

	pinner_open(&mine, kind);
	err = pin_try(&pin, &mine, s->file.map, FILE_SIZE);
	CHECK_EQ(write(to, &err, sizeof(err)), sizeof(err));
	(void)!read(from, &c, 1);
	_exit(EXIT_SUCCESS);
}

/* Pins end some time after the process does: rings are taken apart by a kernel worker. */
static void wait_unpinned(int fd)
{
	for (unsigned int i = 0; pins_of(fd); i++) {
		CHECK(i < SOON_MS / 10);
		sleep_ms(10);
	}
}

static void forked_child(const struct world *w, const void *kind)
{
	int there[2], back[2], err;
	struct stand s;
	pid_t pid;

	stand_begin(&s, w, kind);
	CHECK_EQ(layout_take(s.file.fd, 0), 0);
	CALL(pipe(there));
	CALL(pipe(back));
	fflush(NULL);
	pid = (pid_t)CALL(fork());
	if (!pid) {
		close(there[1]);
		pin_in_child(&s, *(const enum pin_kind *)kind, there[0], back[1]);
	}
	close(there[0]);
	CHECK_EQ(read(back[0], &err, sizeof(err)), sizeof(err));
	CHECK_EQ(err, 0);
	CHECK_EQ(pins_of(s.file.fd), 1);
	CHECK_EQ(layout_give(s.file.fd), -EBUSY);
	CALL(close(there[1]));
	expect_child_ok(pid, SOON_MS);
	wait_unpinned(s.file.fd);
	CHECK_EQ(layout_give(s.file.fd), 0);
	stand_end(&s);
}

/* Runs in the other process, which keeps all of it. amount: the kind, or -1 to drop. */
static int pin_there(const char *path, long amount, int fd)
{
	static struct pinner pinner;
	static struct pin pin;
	int err;
	void *map;

	(void)path;
	if (amount < 0) {
		pin_drop(&pin);
		pinner_close(&pinner);
		return 0;
	}
	map = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -1;
	pinner_open(&pinner, (enum pin_kind)amount);
	err = pin_try(&pin, &pinner, map, FILE_SIZE);
	errno = -err;
	return err ? -1 : 0;
}

static int call_there(struct stand *s, long amount, int fd)
{
	other_begin_fn(&s->other, pin_there, s->file.path, amount, fd);
	return other_end(&s->other, SOON_MS);
}

static void passed_fd(const struct world *w, const void *kind)
{
	struct stand s;

	stand_begin(&s, w, kind);
	CHECK_EQ(layout_take(s.file.fd, 0), 0);
	CHECK_EQ(call_there(&s, *(const enum pin_kind *)kind, s.file.fd), 0);
	CHECK_EQ(pins_of(s.file.fd), 1);
	CHECK_EQ(layout_give(s.file.fd), -EBUSY);
	CHECK_EQ(call_there(&s, -1, -1), 0);
	CHECK_EQ(layout_give(s.file.fd), 0);
	stand_end(&s);
}

/* ------------------------------------------------------------------------- */
/* Mappings */

static void *map_private(const struct stand *s)
{
	void *map = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, s->file.fd, 0);

	CHECK(map != MAP_FAILED);
	return map;
}

/* What would be pinned of a private mapping is a copy, not the file: refused, lease or not. */
static void check_private(struct stand *s, int err)
{
	CHECK_EQ(err, -EOPNOTSUPP);
	CHECK_EQ(pins_of(s->file.fd), 0);
	CHECK_EQ(layout_give(s->file.fd), 0);
	CHECK_EQ(other_do(&s->other, OP_TRUNCATE, s->file.path, 0, -1), 0);
	CHECK_BETWEEN(other_took_ms(&s->other), 0, AT_ONCE_MS);
}

static void private_mapping(const struct world *w, const void *kind)
{
	struct stand s;
	void *map;

	stand_begin(&s, w, kind);
	map = map_private(&s);
	CHECK_EQ(pin_try(&s.pin, &s.pinner, map, FILE_SIZE), -EOPNOTSUPP);
	CHECK_EQ(layout_take(s.file.fd, 0), 0);
	check_private(&s, pin_try(&s.pin, &s.pinner, map, FILE_SIZE));
	stand_end(&s);
}

static void private_read_only(const struct world *w, const void *kind)
{
	struct stand s;
	void *map;

	stand_begin(&s, w, kind);
	map = map_private(&s);
	CHECK_EQ(pin_try_read_only(&s.pin, &s.pinner, map, FILE_SIZE), -EOPNOTSUPP);
	CHECK_EQ(layout_take(s.file.fd, 0), 0);
	check_private(&s, pin_try_read_only(&s.pin, &s.pinner, map, FILE_SIZE));
	stand_end(&s);
}

static void read_only_mr(const struct world *w, const void *kind)
{
	struct stand s;

	stand_begin(&s, w, kind);
	CHECK_EQ(pin_try_read_only(&s.pin, &s.pinner, s.file.map, FILE_SIZE), -EOPNOTSUPP);
	CHECK_EQ(layout_take(s.file.fd, 0), 0);
	CHECK_EQ(pin_try_read_only(&s.pin, &s.pinner, s.file.map, FILE_SIZE), 0);
	CHECK_EQ(pins_of(s.file.fd), 1);
	CHECK_EQ(layout_give(s.file.fd), -EBUSY);
	pin_drop(&s.pin);
	CHECK_EQ(layout_give(s.file.fd), 0);
	stand_end(&s);
}

/*
 * A store to blocks that the file has in common with another one gives it others. Then
 * what is pinned would be the other file's, which has no lease. So the pin itself has to
 * see to it that the blocks are the file's own, even if it is only to be read by.
 */
static void read_only_shared(const struct world *w, const void *kind)
{
	struct snapshot before, after;
	struct stand s;

	stand_begin(&s, w, kind);
	share_half(s.file.path);
	CHECK_EQ(layout_take(s.file.fd, 0), 0);
	CHECK_EQ(pin_try_read_only(&s.pin, &s.pinner, s.file.map + FILE_SIZE / 2, FILE_SIZE / 2),
		 0);
	snapshot_layout(&before, s.file.fd);
	for (size_t at = FILE_SIZE / 2; at < FILE_SIZE; at += PAGE)
		((volatile uint8_t *)s.file.map)[at] = 'x';
	snapshot_layout(&after, s.file.fd);
	CHECK(!snapshot_differs(&before, &after));
	CHECK_EQ(pins_of(s.file.fd), 1);
	pin_drop(&s.pin);
	CHECK_EQ(layout_give(s.file.fd), 0);
	stand_end(&s);
}

/* Two files side by side, as one range. Returns where. */
static uint8_t *side_by_side(const struct file *a, const struct file *b)
{
	uint8_t *room = mmap(NULL, 2 * FILE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(room != MAP_FAILED);
	CHECK(mmap(room, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, a->fd, 0) ==
	      room);
	CHECK(mmap(room + FILE_SIZE, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		   b->fd, 0) == room + FILE_SIZE);
	return room;
}

static void two_files(const struct world *w, const void *kind)
{
	struct file second;
	struct stand s;
	uint8_t *room;

	stand_begin(&s, w, kind);
	pattern_make(&second, w, "second", O_RDWR);
	room = side_by_side(&s.file, &second);
	CHECK_EQ(layout_take(s.file.fd, 0), 0);
	/* One of them is not enough, and what was pinned before that was seen is let go. */
	CHECK_EQ(pin_try(&s.pin, &s.pinner, room, 2 * FILE_SIZE), -EOPNOTSUPP);
	CHECK_EQ(pins_of(s.file.fd), 0);
	CHECK_EQ(layout_take(second.fd, 0), 0);
	CHECK_EQ(pin_try(&s.pin, &s.pinner, room, 2 * FILE_SIZE), 0);
	CHECK(pins_of(s.file.fd) >= 1 && pins_of(second.fd) >= 1);
	CHECK_EQ(layout_give(s.file.fd), -EBUSY);
	CHECK_EQ(layout_give(second.fd), -EBUSY);
	pin_drop(&s.pin);
	CHECK_EQ(layout_give(s.file.fd), 0);
	CHECK_EQ(layout_give(second.fd), 0);
	file_close(&second);
	stand_end(&s);
}

/* ------------------------------------------------------------------------- */
/* Counting, giving back, closing */

static void counted(const struct world *w, const void *kind)
{
	struct pinner second_pinner;
	struct pin second;
	struct stand s;

	stand_pinned(&s, w, kind);
	CHECK_EQ(pins_of(s.file.fd), 1);
	pinner_open(&second_pinner, *(const enum pin_kind *)kind);
	CHECK_EQ(pin_try(&second, &second_pinner, s.file.map + PAGE, PAGE), 0);
	CHECK_EQ(pins_of(s.file.fd), 2);
	CHECK_EQ(layout_give(s.file.fd), -EBUSY);
	pin_drop(&s.pin);
	CHECK_EQ(pins_of(s.file.fd), 1);
	CHECK_EQ(layout_give(s.file.fd), -EBUSY);
	/* Refusing has changed nothing. */
	CHECK(layout_held(s.file.fd));
	CHECK_EQ(leases_in_kernel(s.file.ino), 1);
	pin_drop(&second);
	CHECK_EQ(pins_of(s.file.fd), 0);
	CHECK_EQ(layout_give(s.file.fd), 0);
	CHECK_EQ(layout_give(s.file.fd), -EAGAIN);
	pinner_close(&second_pinner);
	stand_end(&s);
}

/* The old spelling has no way round. */
static void old_give_busy(const struct world *w, const void *kind)
{
	struct stand s;

	stand_begin(&s, w, kind);
	CHECK_EQ(layout_old(s.file.fd, OLD_LAYOUT), 0);
	CHECK_EQ(try(&s), 0);
	CHECK_EQ(layout_old(s.file.fd, F_UNLCK), -EBUSY);
	CHECK_EQ(layout_give(s.file.fd), -EBUSY);
	pin_drop(&s.pin);
	CHECK_EQ(layout_old(s.file.fd, F_UNLCK), 0);
	stand_end(&s);
}

/* With the descriptor and the mapping gone, the pin alone keeps the lease. */
static void closed(const struct world *w, const void *kind)
{
	int fd;
	siginfo_t info;
	struct stand s;

	stand_pinned(&s, w, kind);
	sysctl_set("lease-break-time", 1);
	fd = s.file.fd;
	file_close(&s.file);
	CHECK_EQ(leases_in_kernel(s.file.ino), 1);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), -ETXTBSY);
	CHECK(layout_wait_signal(0, &info));
	CHECK_EQ(info.si_fd, fd);
	CHECK_EQ(file_size_now(&s.file), FILE_SIZE);
	pin_drop(&s.pin);
	for (unsigned int i = 0; leases_in_kernel(s.file.ino); i++) {
		CHECK(i < SOON_MS / 10);
		sleep_ms(10);
	}
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), 0);
	stand_end(&s);
}

/* Dropping the last pin while somebody waits, without anything else: that is the answer. */
static void closed_while_waiting(const struct world *w, const void *kind)
{
	struct stand s;

	stand_pinned(&s, w, kind);
	file_close(&s.file);
	other_begin(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1);
	wait_until_breaking(s.file.ino);
	sleep_ms(100);
	CHECK(other_waits(&s.other));
	CHECK_EQ(file_size_now(&s.file), FILE_SIZE);
	pin_drop(&s.pin);
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	stand_end(&s);
}

/* Two rings with the same buffers: both have to let go. */
static void cloned_ring(const struct world *w, const void *kind)
{
	struct pinner clone;
	struct stand s;

	stand_pinned(&s, w, kind);
	CHECK_EQ(pinner_clone(&clone, &s.pinner), 0);
	pin_drop(&s.pin);
	CHECK_EQ(layout_give(s.file.fd), -EBUSY);
	pinner_close(&clone);
	wait_unpinned(s.file.fd);
	CHECK_EQ(layout_give(s.file.fd), 0);
	stand_end(&s);
}

/* Nobody says goodbye: the ring's descriptor is closed. */
static void ring_closed(const struct world *w, const void *kind)
{
	struct stand s;

	stand_pinned(&s, w, kind);
	CALL(close(s.pinner.ring));
	wait_unpinned(s.file.fd);
	CHECK_EQ(layout_give(s.file.fd), 0);
	file_close(&s.file);
	other_stop(&s.other);
}

/* Direct I/O pins for a moment only, and never needed a lease. */
static void short_pin(const struct world *w, const void *kind)
{
	struct stand s;
	char copy[300];
	int fd;

	stand_begin(&s, w, kind);
	snprintf(copy, sizeof(copy), "%s.copy", s.file.path);
	fd = (int)CALL(open(copy, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
	CHECK_EQ(write(fd, s.file.map, FILE_SIZE), FILE_SIZE);
	CALL(close(fd));
	refused(&s);
	stand_end(&s);
}

void add_pin_cases(void)
{
	static const enum pin_kind mr = PIN_MR, ring = PIN_RING;
	static const struct {
		const char *name;
		case_fn fn;
		bool mr, ring;
	} pins[] = {
		{ "no-lease", no_lease, true, true },
		{ "other-description", other_description, true, true },
		{ "ordinary-lease", ordinary_lease, true, true },
		{ "breaking", breaking, true, true },
		{ "released", released, true, true },
		{ "unbreakable", unbreakable, true, true },
		{ "forked-child", forked_child, true, true },
		{ "passed-fd", passed_fd, true, true },
		{ "private-mapping", private_mapping, true, true },
		{ "private-read-only", private_read_only, true, false },
		{ "read-only", read_only_mr, true, false },
		{ "two-files", two_files, true, true },
		{ "counted", counted, true, true },
		{ "old-give-busy", old_give_busy, true, true },
		{ "closed", closed, true, true },
		{ "closed-while-waiting", closed_while_waiting, true, true },
		{ "cloned-ring", cloned_ring, false, true },
		{ "ring-closed", ring_closed, false, true },
		{ "short-pin", short_pin, true, false },
	};
	char name[64];

	runner_add("xfs", "pin-mr/read-only-shared", read_only_shared, &mr, 0, 0);
	for (unsigned int i = 0; i < ARRAY_SIZE(pins); i++) {
		snprintf(name, sizeof(name), "pin-mr/%s", pins[i].name);
		if (pins[i].mr)
			runner_add(NULL, name, pins[i].fn, &mr, 0, 0);
		snprintf(name, sizeof(name), "pin-ring/%s", pins[i].name);
		if (pins[i].ring)
			runner_add(NULL, name, pins[i].fn, &ring, 0, 0);
	}
}
