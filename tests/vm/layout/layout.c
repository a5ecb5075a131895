// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "layout.h"

/* ------------------------------------------------------------------------- */
/* The calls */

int layout_set(int fd, const struct layout_lease *l)
{
	return fcntl(fd, F_SETLAYOUT, l) ? -errno : 0;
}

int layout_take(int fd, unsigned int flags)
{
	const struct layout_lease l = { .l_type = F_RDLCK, .l_flags = flags };

	return layout_set(fd, &l);
}

int layout_give(int fd)
{
	const struct layout_lease l = { .l_type = F_UNLCK };

	return layout_set(fd, &l);
}

int layout_old(int fd, int type)
{
	return fcntl(fd, F_SETLEASE, type) ? -errno : 0;
}

struct layout_lease layout_get(int fd)
{
	struct layout_lease l;

	memset(&l, 0xee, sizeof(l));
	CALL(fcntl(fd, F_GETLAYOUT, &l));
	return l;
}

bool layout_held(int fd)
{
	return layout_get(fd).l_type == F_RDLCK;
}

/* Not by its version: whether the call is known, asked without changing anything. */
bool layout_is_there(const char *dir)
{
	struct layout_lease l;
	int fd = (int)CALL(open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
	bool there = fcntl(fd, F_GETLAYOUT, &l) == 0;

	close(fd);
	return there;
}

/* ------------------------------------------------------------------------- */
/* Signals */

static void signal_set(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, LAYOUT_SIGNAL);
}

void layout_signal(int fd)
{
	sigset_t set;

	signal_set(&set);
	CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
	CALL(fcntl(fd, F_SETSIG, LAYOUT_SIGNAL));
}

bool layout_wait_signal(unsigned int ms, siginfo_t *ret_info)
{
	const struct timespec timeout = { .tv_sec = ms / 1000,
					  .tv_nsec = (long)(ms % 1000 * MSEC) };
	sigset_t set;
	int n;

	signal_set(&set);
	while ((n = sigtimedwait(&set, ret_info, &timeout)) < 0 && errno == EINTR)
		;
	return n > 0;
}

void wait_until_breaking(ino_t ino)
{
	uint64_t end = now_ns() + SOON_MS * MSEC;

	while (!lease_is_breaking(ino)) {
		if (now_ns() > end)
			fail_at(__FILE__, __LINE__, "nothing breaks the lease");
		sleep_ms(2);
	}
}

/* ------------------------------------------------------------------------- */
/* Files */

void pattern_write(const char *path, size_t size, unsigned int seed)
{
	int fd = (int)CALL(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644));
	uint8_t page[PAGE];

	for (size_t at = 0; at < size; at += PAGE) {
		memset(page, (int)(seed + at / PAGE), PAGE);
		CHECK_EQ(pwrite(fd, page, PAGE, (off_t)at), PAGE);
	}
	CALL(fsync(fd));
	CALL(close(fd));
}

void pattern_make(struct file *f, const struct world *w, const char *name, int flags)
{
	world_path(w, name, f->path, sizeof(f->path));
	pattern_write(f->path, FILE_SIZE, 1);
	file_open(f, FILE_SIZE, flags);
}

static uint64_t sum_of(int fd, off_t size)
{
	uint64_t sum = 14695981039346656037u;
	uint8_t page[PAGE];

	for (off_t at = 0; at < size; at += PAGE) {
		ssize_t n = CALL(pread(fd, page, PAGE, at));

		for (ssize_t i = 0; i < n; i++)
			sum = (sum ^ page[i]) * 1099511628211u;
	}
	return sum;
}

void snapshot_layout(struct snapshot *s, int fd)
{
	union {
		struct fiemap head;
		uint8_t room[sizeof(struct fiemap) + sizeof(s->extents)];
	} map = { .head = { .fm_length = FIEMAP_MAX_OFFSET,
			    .fm_extent_count = ARRAY_SIZE(s->extents) } };
	struct stat st;

	memset(s, 0, sizeof(*s));
	CALL(fstat(fd, &st));
	s->size = st.st_size;
	s->blocks = st.st_blocks;
	CALL(ioctl(fd, FS_IOC_FIEMAP, &map.head));
	s->count = map.head.fm_mapped_extents;
	CHECK(s->count < ARRAY_SIZE(s->extents));
	memcpy(s->extents, map.head.fm_extents, s->count * sizeof(s->extents[0]));
}

void snapshot_take(struct snapshot *s, int fd)
{
	snapshot_layout(s, fd);
	s->sum = sum_of(fd, s->size);
}

const char *snapshot_differs(const struct snapshot *a, const struct snapshot *b)
{
	if (a->size != b->size)
		return "the size";
	if (a->count != b->count)
		return "the number of extents";
	if (memcmp(a->extents, b->extents, sizeof(a->extents)) != 0)
		return "the extents";
	if (a->blocks != b->blocks)
		return "the number of blocks";
	if (a->sum != b->sum)
		return "the contents";
	return NULL;
}
