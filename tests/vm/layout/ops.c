// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "ops.h"

/* What other_fn has besides; nothing here needs it. */
#define OP_UNUSED __attribute__((unused)) long amount, __attribute__((unused)) int shared

#define HALF (FILE_SIZE / 2)
#define AT ((off_t)(4 * PAGE)) /* well within what is pinned */

/* ------------------------------------------------------------------------- */
/* What is in no header that can be relied on */

/* xfs_fs.h */
struct exchange_range {
	int32_t file1_fd;
	uint32_t pad;
	uint64_t file1_offset, file2_offset, length, flags;
};
#define EXCHANGE_RANGE _IOW('X', 129, struct exchange_range)

struct scrub_metadata {
	uint32_t type, flags;
	uint64_t ino;
	uint32_t gen, agno;
	uint64_t reserved[5];
};
#define SCRUB_METADATA _IOWR('X', 60, struct scrub_metadata)
#define SCRUB_BMBTD 12
#define SCRUB_REPAIR (1u << 0)
#define SCRUB_FORCE_REBUILD (1u << 8)

struct old_time {
	long sec;
	int32_t nsec;
};

struct swap_extents {
	int64_t version, target, tmp, offset, length;
	char pad[16];
	struct {
		uint64_t ino;
		uint16_t mode, nlink;
		uint32_t uid, gid, rdev;
		int32_t blksize;
		int64_t size;
		struct old_time atime, mtime, ctime;
		int64_t blocks;
		uint32_t xflags;
		int32_t extsize, extents;
		uint32_t gen;
		uint16_t ids[5];
		unsigned char pad[2];
		uint32_t cowextsize, dmevmask;
		uint16_t dmstate, aextents;
	} stat;
};
#define SWAP_EXTENTS _IOWR('X', 109, struct swap_extents)

#ifndef FALLOC_FL_UNSHARE_RANGE
#define FALLOC_FL_UNSHARE_RANGE 0x40
#endif

/* ------------------------------------------------------------------------- */

static int open_it(const char *path, int flags)
{
	return open(path, flags | O_CLOEXEC);
}

/* The result and errno of what was done with fd, which it closes. */
static int closing(int fd, int ret)
{
	int err = errno;

	if (fd >= 0)
		close(fd);
	errno = err;
	return ret;
}

static int allocate(const char *path, int mode, off_t at, off_t length)
{
	int fd = open_it(path, O_RDWR);

	return fd < 0 ? -1 : closing(fd, fallocate(fd, mode, at, length));
}

static void mate_of(const char *path, char *ret_mate, size_t size)
{
	snprintf(ret_mate, size, "%s.mate", path);
}

static int open_mate(const char *path)
{
	char mate[300];

	mate_of(path, mate, sizeof(mate));
	return open_it(mate, O_RDWR);
}

/* ------------------------------------------------------------------------- */
/* Sizes and holes */

static int op_shrink(const char *path, OP_UNUSED)
{
	return truncate(path, AT);
}

static int op_grow(const char *path, OP_UNUSED)
{
	return truncate(path, 2 * FILE_SIZE);
}

static int op_ftruncate(const char *path, OP_UNUSED)
{
	int fd = open_it(path, O_RDWR);

	return fd < 0 ? -1 : closing(fd, ftruncate(fd, AT));
}

static int op_ftruncate_same(const char *path, OP_UNUSED)
{
	int fd = open_it(path, O_RDWR);

	return fd < 0 ? -1 : closing(fd, ftruncate(fd, FILE_SIZE));
}

static int op_o_trunc(const char *path, OP_UNUSED)
{
	int fd = open_it(path, O_WRONLY | O_TRUNC);

	return fd < 0 ? -1 : closing(fd, 0);
}

static int op_punch(const char *path, OP_UNUSED)
{
	return allocate(path, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, AT, PAGE);
}

static int op_collapse(const char *path, OP_UNUSED)
{
	return allocate(path, FALLOC_FL_COLLAPSE_RANGE, AT, PAGE);
}

static int op_insert(const char *path, OP_UNUSED)
{
	return allocate(path, FALLOC_FL_INSERT_RANGE, AT, PAGE);
}

static int op_zero(const char *path, OP_UNUSED)
{
	return allocate(path, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, AT, PAGE);
}

/* ------------------------------------------------------------------------- */
/* Two files */

static void make_mate(const char *path)
{
	char mate[300];

	mate_of(path, mate, sizeof(mate));
	pattern_write(mate, FILE_SIZE, 100);
}

/* With the same contents, in blocks of its own. */
static void make_twin(const char *path)
{
	char mate[300];

	mate_of(path, mate, sizeof(mate));
	pattern_write(mate, FILE_SIZE, 1);
}

void share_half(const char *path)
{
	struct file_clone_range range = { .src_offset = HALF,
					  .src_length = HALF,
					  .dest_offset = HALF };
	int fd;

	make_mate(path);
	range.src_fd = (int)CALL(open_it(path, O_RDWR));
	fd = (int)CALL(open_mate(path));
	CALL(ioctl(fd, FICLONERANGE, &range));
	CALL(close(fd));
	CALL(close((int)range.src_fd));
}

/* Calls fn with the file and its mate. */
static int with_mate(const char *path, int (*fn)(int file, int mate))
{
	int file = open_it(path, O_RDWR), mate;

	if (file < 0)
		return -1;
	mate = open_mate(path);
	return closing(file, mate < 0 ? -1 : closing(mate, fn(file, mate)));
}

static int clone_into(int file, int mate)
{
	return ioctl(file, FICLONE, mate);
}

static int clone_from(int file, int mate)
{
	return ioctl(mate, FICLONE, file);
}

static int op_reflink_into(const char *path, OP_UNUSED)
{
	return with_mate(path, clone_into);
}

static int op_reflink_from(const char *path, OP_UNUSED)
{
	return with_mate(path, clone_from);
}

static int dedupe(int from, int into)
{
	union {
		struct file_dedupe_range head;
		uint8_t room[sizeof(struct file_dedupe_range) +
			     sizeof(struct file_dedupe_range_info)];
	} range = { .head = { .src_length = FILE_SIZE, .dest_count = 1 } };
	struct file_dedupe_range_info *info = range.head.info;

	info->dest_fd = into;
	if (ioctl(from, FIDEDUPERANGE, &range.head))
		return -1;
	if (info->status < 0) {
		errno = -info->status;
		return -1;
	}
	/* A twin that is no longer one, because the operation was there before. */
	return info->status == FILE_DEDUPE_RANGE_SAME ? 0 : 1;
}

static int dedupe_from(int file, int mate)
{
	return dedupe(file, mate);
}

static int dedupe_into(int file, int mate)
{
	return dedupe(mate, file);
}

static int op_dedupe_from(const char *path, OP_UNUSED)
{
	return with_mate(path, dedupe_from);
}

static int op_dedupe_into(const char *path, OP_UNUSED)
{
	return with_mate(path, dedupe_into);
}

static int exchange(int file, int mate)
{
	struct exchange_range range = { .file1_fd = mate, .length = FILE_SIZE };

	return ioctl(file, EXCHANGE_RANGE, &range);
}

static int exchange_other_way(int file, int mate)
{
	return exchange(mate, file);
}

static int op_exchange(const char *path, OP_UNUSED)
{
	return with_mate(path, exchange);
}

static int op_exchange_mate(const char *path, OP_UNUSED)
{
	return with_mate(path, exchange_other_way);
}

/* The older call of defragmentation: it wants to know the file's times. */
static int swap_extents(int file, int mate)
{
	struct swap_extents swap = { .target = file, .tmp = mate, .length = FILE_SIZE };
	struct stat st;

	if (fstat(file, &st))
		return -1;
	swap.stat.ino = st.st_ino;
	swap.stat.mtime = (struct old_time){ st.st_mtim.tv_sec, (int32_t)st.st_mtim.tv_nsec };
	swap.stat.ctime = (struct old_time){ st.st_ctim.tv_sec, (int32_t)st.st_ctim.tv_nsec };
	return ioctl(file, SWAP_EXTENTS, &swap);
}

static int op_swapext(const char *path, OP_UNUSED)
{
	return with_mate(path, swap_extents);
}

static int op_unshare(const char *path, OP_UNUSED)
{
	return allocate(path, FALLOC_FL_UNSHARE_RANGE, HALF, HALF);
}

/* Writes where blocks are shared get others. */
static int op_write_shared(const char *path, OP_UNUSED)
{
	int fd = open_it(path, O_RDWR);

	return fd < 0 ? -1 : closing(fd, pwrite(fd, "x", 1, HALF) == 1 ? 0 : -1);
}

/* ------------------------------------------------------------------------- */
/* Repair */

static int op_repair(const char *path, OP_UNUSED)
{
	struct scrub_metadata scrub = { .type = SCRUB_BMBTD,
					.flags = SCRUB_REPAIR | SCRUB_FORCE_REBUILD };
	int fd = open_it(path, O_RDWR);

	return fd < 0 ? -1 : closing(fd, ioctl(fd, SCRUB_METADATA, &scrub));
}

const struct op_info breaking_ops[] = {
	{ "shrink", NULL, op_shrink, NULL, EFFECT_SIZE, AT, FILE_SIZE },
	{ "grow", NULL, op_grow, NULL, EFFECT_SIZE, 2 * FILE_SIZE, FILE_SIZE },
	{ "ftruncate", NULL, op_ftruncate, NULL, EFFECT_SIZE, AT, FILE_SIZE },
	{ "ftruncate-same", NULL, op_ftruncate_same, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ "o-trunc", NULL, op_o_trunc, NULL, EFFECT_SIZE, 0, FILE_SIZE },
	{ "punch", NULL, op_punch, NULL, EFFECT_MOVED, FILE_SIZE, FILE_SIZE },
	{ "collapse", NULL, op_collapse, NULL, EFFECT_SIZE, FILE_SIZE - PAGE, FILE_SIZE },
	{ "insert", NULL, op_insert, NULL, EFFECT_SIZE, FILE_SIZE + PAGE, FILE_SIZE },
	{ "zero", NULL, op_zero, NULL, EFFECT_MOVED, FILE_SIZE, FILE_SIZE },
	{ "unshare", "xfs", op_unshare, share_half, EFFECT_MOVED, FILE_SIZE, HALF },
	{ "write-shared", "xfs", op_write_shared, share_half, EFFECT_MOVED, FILE_SIZE, HALF },
	{ "reflink-into", "xfs", op_reflink_into, make_mate, EFFECT_MOVED, FILE_SIZE, FILE_SIZE },
	{ "reflink-from", "xfs", op_reflink_from, make_mate, EFFECT_MOVED, FILE_SIZE, FILE_SIZE },
	{ "dedupe-into", "xfs", op_dedupe_into, make_twin, EFFECT_MOVED, FILE_SIZE, FILE_SIZE },
	{ "dedupe-from", "xfs", op_dedupe_from, make_twin, EFFECT_MOVED, FILE_SIZE, FILE_SIZE },
	{ "exchange", "xfs", op_exchange, make_mate, EFFECT_MOVED, FILE_SIZE, FILE_SIZE },
	{ "exchange-mate", "xfs", op_exchange_mate, make_mate, EFFECT_MOVED, FILE_SIZE, FILE_SIZE },
	{ "swapext", "xfs", op_swapext, make_mate, EFFECT_MOVED, FILE_SIZE, FILE_SIZE, true },
	{ "repair", "xfs", op_repair, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ 0 },
};

/* ------------------------------------------------------------------------- */
/* What leaves the blocks where they are */

static int op_write(const char *path, OP_UNUSED)
{
	int fd = open_it(path, O_WRONLY);

	return fd < 0 ? -1 : closing(fd, pwrite(fd, "x", 1, AT) == 1 ? 0 : -1);
}

static int op_write_mapped(const char *path, OP_UNUSED)
{
	int fd = open_it(path, O_RDWR);
	uint8_t *map;

	if (fd < 0)
		return -1;
	map = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return closing(fd, -1);
	map[AT] = 'x';
	return closing(fd, msync(map, FILE_SIZE, MS_SYNC) || munmap(map, FILE_SIZE) ? -1 : 0);
}

static int op_append(const char *path, OP_UNUSED)
{
	int fd = open_it(path, O_WRONLY | O_APPEND);
	uint8_t page[PAGE] = { 'x' };

	return fd < 0 ? -1 : closing(fd, write(fd, page, PAGE) == PAGE ? 0 : -1);
}

static int op_direct(const char *path, OP_UNUSED)
{
	static uint8_t page[PAGE] __attribute__((aligned(PAGE)));
	int fd = open_it(path, O_WRONLY | O_DIRECT);

	return fd < 0 ? -1 : closing(fd, pwrite(fd, page, PAGE, AT) == PAGE ? 0 : -1);
}

static int op_preallocate(const char *path, OP_UNUSED)
{
	return allocate(path, 0, 0, 2 * FILE_SIZE);
}

static int op_preallocate_keep(const char *path, OP_UNUSED)
{
	return allocate(path, FALLOC_FL_KEEP_SIZE, FILE_SIZE, FILE_SIZE);
}

static int op_unlink(const char *path, OP_UNUSED)
{
	return unlink(path);
}

static int with_new_name(const char *path, int (*call)(const char *from, const char *to))
{
	char to[300];

	snprintf(to, sizeof(to), "%s.new", path);
	return call(path, to);
}

static int op_rename(const char *path, OP_UNUSED)
{
	return with_new_name(path, rename);
}

static int op_link(const char *path, OP_UNUSED)
{
	return with_new_name(path, link);
}

static int op_chmod(const char *path, OP_UNUSED)
{
	return chmod(path, 0640);
}

static int op_chown(const char *path, OP_UNUSED)
{
	return chown(path, 1, 1);
}

static int op_utimes(const char *path, OP_UNUSED)
{
	return utimensat(AT_FDCWD, path, NULL, 0);
}

static int op_setxattr(const char *path, OP_UNUSED)
{
	return setxattr(path, "user.test", "x", 1, 0);
}

static int op_open_read(const char *path, OP_UNUSED)
{
	int fd = open_it(path, O_RDONLY);
	char c;

	return fd < 0 ? -1 : closing(fd, pread(fd, &c, 1, AT) == 1 ? 0 : -1);
}

static int op_open_write(const char *path, OP_UNUSED)
{
	int fd = open_it(path, O_RDWR);

	return fd < 0 ? -1 : closing(fd, 0);
}

static int op_fsync(const char *path, OP_UNUSED)
{
	int fd = open_it(path, O_RDWR);

	return fd < 0 ? -1 : closing(fd, fsync(fd));
}

const struct op_info quiet_ops[] = {
	{ "write", NULL, op_write, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ "write-mapped", NULL, op_write_mapped, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ "append", NULL, op_append, NULL, EFFECT_NONE, FILE_SIZE + PAGE, FILE_SIZE },
	{ "write-direct", NULL, op_direct, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ "preallocate", NULL, op_preallocate, NULL, EFFECT_NONE, 2 * FILE_SIZE, FILE_SIZE },
	{ "preallocate-keep", NULL, op_preallocate_keep, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ "unlink", NULL, op_unlink, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ "rename", NULL, op_rename, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ "link", NULL, op_link, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ "chmod", NULL, op_chmod, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ "chown", NULL, op_chown, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ "utimes", NULL, op_utimes, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ "setxattr", NULL, op_setxattr, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ "open-read", NULL, op_open_read, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ "open-write", NULL, op_open_write, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ "fsync", NULL, op_fsync, NULL, EFFECT_NONE, FILE_SIZE, FILE_SIZE },
	{ 0 },
};
