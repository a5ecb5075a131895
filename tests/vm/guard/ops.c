// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../layout/layout.h"
#include "../layout/ops.h"
#include "ops.h"

/* What other_fn has besides; nothing here needs it. */
#define UNUSED __attribute__((unused))
#define HALF (FILE_SIZE / 2)
#define AT ((off_t)(4 * PAGE))

#ifndef FALLOC_FL_UNSHARE_RANGE
#define FALLOC_FL_UNSHARE_RANGE 0x40
#endif
#define RING_OP_FTRUNCATE 55 /* of Linux 6.9; the headers may be older */

/* ------------------------------------------------------------------------- */
/* Descriptors */

/* The one that was given, or an own one. */
static int open_for(const char *path, int fd, int flags)
{
	return fd >= 0 ? dup(fd) : open(path, flags | O_CLOEXEC);
}

/* Its result and errno, and closes fd. */
static int closing(int fd, int ret)
{
	int err = errno;

	if (fd >= 0)
		close(fd);
	errno = err;
	return ret;
}

static void mate_of(const char *path, char *ret_mate, size_t size)
{
	snprintf(ret_mate, size, "%s.mate", path);
}

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

/* ------------------------------------------------------------------------- */
/* Sizes */

static int op_truncate(const char *path, UNUSED long amount, UNUSED int given)
{
	return truncate(path, AT);
}

static int resize(const char *path, int given, off_t size)
{
	int fd = open_for(path, given, O_RDWR);

	return fd < 0 ? -1 : closing(fd, ftruncate(fd, size));
}

static int op_shrink(const char *path, UNUSED long amount, int given)
{
	return resize(path, given, AT);
}

static int op_grow(const char *path, UNUSED long amount, int given)
{
	return resize(path, given, 2 * FILE_SIZE);
}

static int op_same(const char *path, UNUSED long amount, int given)
{
	return resize(path, given, FILE_SIZE);
}

static int opening(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0644);

	return fd < 0 ? -1 : closing(fd, 0);
}

static int op_o_trunc(const char *path, UNUSED long amount, UNUSED int given)
{
	return opening(path, O_RDWR | O_TRUNC);
}

static int op_creat(const char *path, UNUSED long amount, UNUSED int given)
{
	return opening(path, O_WRONLY | O_CREAT | O_TRUNC);
}

/* ------------------------------------------------------------------------- */
/* fallocate */

static int allocate(const char *path, int given, int mode, off_t at, off_t length)
{
	int fd = open_for(path, given, O_RDWR);

	return fd < 0 ? -1 : closing(fd, fallocate(fd, mode, at, length));
}

static int op_punch(const char *path, UNUSED long amount, int given)
{
	return allocate(path, given, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, AT, PAGE);
}

static int op_collapse(const char *path, UNUSED long amount, int given)
{
	return allocate(path, given, FALLOC_FL_COLLAPSE_RANGE, AT, PAGE);
}

static int op_insert(const char *path, UNUSED long amount, int given)
{
	return allocate(path, given, FALLOC_FL_INSERT_RANGE, AT, PAGE);
}

static int op_zero(const char *path, UNUSED long amount, int given)
{
	return allocate(path, given, FALLOC_FL_ZERO_RANGE, AT, PAGE);
}

static int op_unshare(const char *path, UNUSED long amount, int given)
{
	return allocate(path, given, FALLOC_FL_UNSHARE_RANGE, HALF, HALF);
}

static int op_preallocate(const char *path, UNUSED long amount, int given)
{
	return allocate(path, given, 0, 0, 2 * FILE_SIZE);
}

static int op_preallocate_keep(const char *path, UNUSED long amount, int given)
{
	return allocate(path, given, FALLOC_FL_KEEP_SIZE, FILE_SIZE, FILE_SIZE);
}

/* ------------------------------------------------------------------------- */
/* Two files */

static int with_mate(const char *path, int given, int (*fn)(int file, int mate))
{
	int file = open_for(path, given, O_RDWR), mate;
	char name[300];

	if (file < 0)
		return -1;
	mate_of(path, name, sizeof(name));
	mate = open(name, O_RDWR | O_CLOEXEC);
	return closing(file, mate < 0 ? -1 : closing(mate, fn(file, mate)));
}

static int clone_range(int from, int into)
{
	struct file_clone_range range = {
		.src_fd = from, .src_offset = HALF, .src_length = HALF, .dest_offset = HALF
	};

	return ioctl(into, FICLONERANGE, &range);
}

static int clone_into(int file, int mate)
{
	return ioctl(file, FICLONE, mate);
}

static int clone_from(int file, int mate)
{
	return ioctl(mate, FICLONE, file);
}

static int clone_range_into(int file, int mate)
{
	return clone_range(mate, file);
}

static int clone_range_from(int file, int mate)
{
	return clone_range(file, mate);
}

static int copy_into(int file, int mate)
{
	loff_t from = AT, to = AT;

	return copy_file_range(mate, &from, file, &to, PAGE, 0) == PAGE ? 0 : -1;
}

static int copy_from(int file, int mate)
{
	loff_t from = AT, to = AT;

	return copy_file_range(file, &from, mate, &to, PAGE, 0) == PAGE ? 0 : -1;
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

#define OP_WITH_MATE(name)                                                    \
	static int op_##name(const char *path, UNUSED long amount, int given) \
	{                                                                     \
		return with_mate(path, given, name);                          \
	}

OP_WITH_MATE(clone_into)
OP_WITH_MATE(clone_from)
OP_WITH_MATE(clone_range_into)
OP_WITH_MATE(clone_range_from)
OP_WITH_MATE(copy_into)
OP_WITH_MATE(copy_from)
OP_WITH_MATE(dedupe_into)
OP_WITH_MATE(dedupe_from)

/* ------------------------------------------------------------------------- */
/* io_uring, by system call: the tests need no library that the project does not */

struct ring {
	int fd;
	struct io_uring_params params;
	uint8_t *sq, *cq;
	struct io_uring_sqe *sqes;
};

static void *ring_map(int ring, off_t what, size_t size)
{
	void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, what);

	CHECK(map != MAP_FAILED);
	return map;
}

static void ring_open(struct ring *r)
{
	const struct io_uring_params *p = &r->params;

	memset(r, 0, sizeof(*r));
	r->fd = (int)CALL(syscall(SYS_io_uring_setup, 1, &r->params));
	r->sq = ring_map(r->fd, IORING_OFF_SQ_RING, p->sq_off.array + 4 * p->sq_entries);
	r->cq = ring_map(r->fd, IORING_OFF_CQ_RING,
			 p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe));
	r->sqes = ring_map(r->fd, IORING_OFF_SQES, p->sq_entries * sizeof(struct io_uring_sqe));
}

static void ring_close(struct ring *r)
{
	const struct io_uring_params *p = &r->params;

	CALL(munmap(r->sq, p->sq_off.array + 4 * p->sq_entries));
	CALL(munmap(r->cq, p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe)));
	CALL(munmap(r->sqes, p->sq_entries * sizeof(struct io_uring_sqe)));
	CALL(close(r->fd));
}

/* One request; its result, as a system call would give it. */
static int ring_do(const struct io_uring_sqe *sqe)
{
	const struct io_uring_cqe *cqe;
	struct ring r;
	int result;

	ring_open(&r);
	r.sqes[0] = *sqe;
	((uint32_t *)(r.sq + r.params.sq_off.array))[0] = 0;
	__atomic_store_n((uint32_t *)(r.sq + r.params.sq_off.tail), 1, __ATOMIC_RELEASE);
	CALL(syscall(SYS_io_uring_enter, r.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0));
	CHECK_EQ(__atomic_load_n((uint32_t *)(r.cq + r.params.cq_off.tail), __ATOMIC_ACQUIRE), 1);
	cqe = (const struct io_uring_cqe *)(r.cq + r.params.cq_off.cqes);
	result = cqe->res;
	ring_close(&r);
	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}

static int through_ring(const char *path, int given, struct io_uring_sqe *sqe, int wanted)
{
	int fd = open_for(path, given, O_RDWR);

	if (fd < 0)
		return -1;
	sqe->fd = fd;
	return closing(fd, ring_do(sqe) == wanted ? 0 : -1);
}

static int op_ring_ftruncate(const char *path, UNUSED long amount, int given)
{
	struct io_uring_sqe sqe = { .opcode = RING_OP_FTRUNCATE, .off = AT };

	return through_ring(path, given, &sqe, 0);
}

static int op_ring_punch(const char *path, UNUSED long amount, int given)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_FALLOCATE,
				    .off = AT,
				    .addr = PAGE,
				    .len = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };

	return through_ring(path, given, &sqe, 0);
}

static int op_ring_read(const char *path, UNUSED long amount, int given)
{
	static uint8_t page[PAGE];
	struct io_uring_sqe sqe = {
		.opcode = IORING_OP_READ, .off = AT, .addr = (uintptr_t)page, .len = PAGE
	};

	return through_ring(path, given, &sqe, PAGE);
}

static int op_ring_write(const char *path, UNUSED long amount, int given)
{
	static uint8_t page[PAGE];
	struct io_uring_sqe sqe = {
		.opcode = IORING_OP_WRITE, .off = AT, .addr = (uintptr_t)page, .len = PAGE
	};

	return through_ring(path, given, &sqe, PAGE);
}

/* ------------------------------------------------------------------------- */
/* Reads and writes */

static int write_page(const char *path, int given, int flags, off_t at)
{
	static uint8_t page[PAGE] __attribute__((aligned(PAGE)));
	int fd = open_for(path, given, O_RDWR | flags);

	return fd < 0 ? -1 : closing(fd, pwrite(fd, page, PAGE, at) == PAGE ? 0 : -1);
}

static int read_page(const char *path, int given, int flags)
{
	static uint8_t page[PAGE] __attribute__((aligned(PAGE)));
	int fd = open_for(path, given, O_RDONLY | flags);

	return fd < 0 ? -1 : closing(fd, pread(fd, page, PAGE, AT) == PAGE ? 0 : -1);
}

static int op_write(const char *path, UNUSED long amount, int given)
{
	return write_page(path, given, 0, AT);
}

static int op_write_shared(const char *path, UNUSED long amount, int given)
{
	return write_page(path, given, 0, HALF);
}

static int op_write_direct(const char *path, UNUSED long amount, UNUSED int given)
{
	return write_page(path, -1, O_DIRECT, AT);
}

static int op_append(const char *path, UNUSED long amount, int given)
{
	return write_page(path, given, 0, FILE_SIZE);
}

static int op_read(const char *path, UNUSED long amount, int given)
{
	return read_page(path, given, 0);
}

static int op_read_direct(const char *path, UNUSED long amount, UNUSED int given)
{
	return read_page(path, -1, O_DIRECT);
}

static int op_read_mapped(const char *path, UNUSED long amount, int given)
{
	int fd = open_for(path, given, O_RDONLY);
	const volatile uint8_t *map;
	unsigned int sum = 0;

	if (fd < 0)
		return -1;
	map = mmap(NULL, FILE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return closing(fd, -1);
	for (size_t at = 0; at < FILE_SIZE; at += PAGE)
		sum += map[at];
	return closing(fd, munmap((void *)(uintptr_t)map, FILE_SIZE) || !sum ? -1 : 0);
}

static int op_sendfile(const char *path, UNUSED long amount, int given)
{
	int fd = open_for(path, given, O_RDONLY), to;
	off_t at = 0;

	if (fd < 0)
		return -1;
	to = open("/dev/null", O_WRONLY | O_CLOEXEC);
	return closing(
		fd, closing(to, sendfile(to, fd, &at, FILE_SIZE) == (ssize_t)FILE_SIZE ? 0 : -1));
}

static int op_open_read(const char *path, UNUSED long amount, UNUSED int given)
{
	return opening(path, O_RDONLY);
}

static int op_open_write(const char *path, UNUSED long amount, UNUSED int given)
{
	return opening(path, O_RDWR);
}

/* Its flags are in memory, where others could change them: not looked at. */
static int op_openat2(const char *path, UNUSED long amount, UNUSED int given)
{
	struct open_how how = { .flags = O_RDONLY | O_CLOEXEC };
	int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));

	return fd < 0 ? -1 : closing(fd, 0);
}

static int op_fsync(const char *path, UNUSED long amount, int given)
{
	int fd = open_for(path, given, O_RDWR);

	return fd < 0 ? -1 : closing(fd, fsync(fd));
}

/* ------------------------------------------------------------------------- */
/* Names */

static int op_unlink(const char *path, UNUSED long amount, UNUSED int given)
{
	return unlink(path);
}

static int op_rename(const char *path, UNUSED long amount, UNUSED int given)
{
	char to[300];

	snprintf(to, sizeof(to), "%s.new", path);
	return rename(path, to);
}

static int op_chmod(const char *path, UNUSED long amount, UNUSED int given)
{
	return chmod(path, 0664);
}

/* ------------------------------------------------------------------------- */

const struct guard_op guard_ops[] = {
	{ "truncate", NULL, op_truncate, NULL, WAITS, NOT_SO, AT },
	{ "shrink", NULL, op_shrink, NULL, WAITS, WAITS, AT },
	{ "grow", NULL, op_grow, NULL, WAITS, WAITS, 2 * FILE_SIZE },
	{ "same", NULL, op_same, NULL, WAITS, WAITS, FILE_SIZE },
	{ "o-trunc", NULL, op_o_trunc, NULL, WAITS, NOT_SO, 0 },
	{ "creat", NULL, op_creat, NULL, WAITS, NOT_SO, 0 },
	{ "openat2", NULL, op_openat2, NULL, WAITS, NOT_SO, FILE_SIZE },
	{ "punch", NULL, op_punch, NULL, WAITS, PASSES, FILE_SIZE },
	{ "collapse", NULL, op_collapse, NULL, WAITS, PASSES, FILE_SIZE - PAGE },
	{ "insert", NULL, op_insert, NULL, WAITS, PASSES, FILE_SIZE + PAGE },
	{ "zero", NULL, op_zero, NULL, WAITS, PASSES, FILE_SIZE },
	{ "unshare", "xfs", op_unshare, share_half, WAITS, PASSES, FILE_SIZE },
	{ "preallocate", NULL, op_preallocate, NULL, PASSES, PASSES, 2 * FILE_SIZE },
	{ "preallocate-keep", NULL, op_preallocate_keep, NULL, PASSES, PASSES, FILE_SIZE },
	{ "clone-into", "xfs", op_clone_into, make_mate, WAITS, PASSES, FILE_SIZE },
	{ "clone-range-into", "xfs", op_clone_range_into, make_mate, WAITS, PASSES, FILE_SIZE },
	{ "clone-from", "xfs", op_clone_from, make_mate, PASSES, PASSES, FILE_SIZE },
	{ "clone-range-from", "xfs", op_clone_range_from, make_mate, PASSES, PASSES, FILE_SIZE },
	{ "dedupe-into", "xfs", op_dedupe_into, make_twin, WAITS, PASSES, FILE_SIZE },
	{ "dedupe-from", "xfs", op_dedupe_from, make_twin, WAITS, PASSES, FILE_SIZE },
	{ "copy-into", "ext4", op_copy_into, make_mate, PASSES, PASSES, FILE_SIZE },
	{ "copy-into", "xfs", op_copy_into, make_mate, WAITS, PASSES, FILE_SIZE },
	{ "copy-from", NULL, op_copy_from, make_mate, PASSES, PASSES, FILE_SIZE },
	{ "ring-ftruncate", NULL, op_ring_ftruncate, NULL, WAITS, WAITS, AT },
	{ "ring-punch", NULL, op_ring_punch, NULL, WAITS, PASSES, FILE_SIZE },
	{ "ring-read", NULL, op_ring_read, NULL, WAITS, PASSES, FILE_SIZE },
	{ "ring-write", NULL, op_ring_write, NULL, WAITS, PASSES, FILE_SIZE },
	{ "write", NULL, op_write, NULL, PASSES, PASSES, FILE_SIZE },
	{ "write-shared", "xfs", op_write_shared, share_half, WAITS, PASSES, FILE_SIZE },
	{ "write-direct", NULL, op_write_direct, NULL, PASSES, NOT_SO, FILE_SIZE },
	{ "append", NULL, op_append, NULL, PASSES, PASSES, FILE_SIZE + PAGE },
	{ "read", NULL, op_read, NULL, PASSES, PASSES, FILE_SIZE },
	{ "read-direct", NULL, op_read_direct, NULL, PASSES, NOT_SO, FILE_SIZE },
	{ "read-mapped", NULL, op_read_mapped, NULL, PASSES, PASSES, FILE_SIZE },
	{ "sendfile", NULL, op_sendfile, NULL, PASSES, PASSES, FILE_SIZE },
	{ "open-read", NULL, op_open_read, NULL, PASSES, NOT_SO, FILE_SIZE },
	{ "open-write", NULL, op_open_write, NULL, PASSES, NOT_SO, FILE_SIZE },
	{ "fsync", NULL, op_fsync, NULL, PASSES, PASSES, FILE_SIZE },
	{ "chmod", NULL, op_chmod, NULL, PASSES, NOT_SO, FILE_SIZE },
	{ "rename", NULL, op_rename, NULL, PASSES, NOT_SO, FILE_SIZE },
	{ "unlink", NULL, op_unlink, NULL, PASSES, NOT_SO, FILE_SIZE },
	{ 0 },
};
