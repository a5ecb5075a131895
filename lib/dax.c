// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <sys/stat.h>

#include "dax.h"
#include "log.h"
#include "sys.h"
#include "util.h"

/*
 * Follows `first` to the end of the range over however many VMAs mprotect(2) and
 * madvise(2) have made of the mapping.
 */
static int check_rest(int maps_fd, uintptr_t end, const struct sys_vma *first, bool *writable)
{
	struct sys_vma vma = *first;

	*writable = first->writable;
	while (vma.end < end) {
		uintptr_t at = vma.end;
		int err = sys_query_vma(maps_fd, at, &vma);

		if (err)
			return err == -ENOENT ? -EFAULT : err;
		if (vma.dev != first->dev || vma.ino != first->ino || vma.shared != first->shared ||
		    (vma.ino &&
		     vma.offset + (at - vma.start) != first->offset + (at - first->start)))
			return -EINVAL;
		*writable = *writable && vma.writable;
	}
	return 0;
}

static int fd_info(int fd, struct log *log, struct sys_file *ret_file)
{
	int err = sys_access_mode(fd);

	if (err >= 0)
		err = sys_file_info(fd, ret_file);
	if (err < 0) {
		log_add(log, DAXLEASE_LOG_ERR,
			"fd %d: not open, or opened with O_PATH: pass the descriptor that the range "
			"was mapped from",
			fd);
		return err;
	}
	if (S_ISREG(ret_file->mode) || S_ISCHR(ret_file->mode))
		return 0;
	log_add(log, DAXLEASE_LOG_ERR, "fd %d: no regular file, cannot be leased", fd);
	return -EINVAL;
}

static int check_fd(int fd, const struct sys_file *file, const struct sys_vma *vma, struct log *log)
{
	/* stat(2) and maps disagree about the device on btrfs and overlayfs. */
	if (vma->ino == file->ino && (vma->dev == file->dev || !file->dax))
		return 0;
	log_add(log, DAXLEASE_LOG_ERR,
		"fd %d: the range is mapped from something else (%s): pass its own descriptor, or "
		"-1 for plain memory",
		fd, vma->name[0] ? vma->name : "anonymous memory");
	return -EINVAL;
}

/* Without a descriptor: its name tells, if it has one still. statx opens nothing. */
static int check_name(const struct sys_vma *vma, struct log *log, struct sys_file *ret_file)
{
	if (!vma->ino || sys_path_info(vma->name, ret_file) || vma->ino != ret_file->ino ||
	    vma->dev != ret_file->dev) {
		*ret_file = (struct sys_file){ 0 };
		return 0;
	}
	if (!ret_file->dax || !S_ISREG(ret_file->mode))
		return 0;
	log_add(log, DAXLEASE_LOG_ERR,
		"%s is on FS-DAX: pass the descriptor it was mapped from, so that it can be leased",
		vma->name);
	return -EBADF;
}

static int range_error(const void *addr, size_t length, int err, const char *why, struct log *log)
{
	log_add(log, DAXLEASE_LOG_ERR, "range %p+%zu: %s", addr, length, why);
	return err;
}

int dax_inspect(int maps_fd, int fd, const void *addr, size_t length, struct log *log,
		struct dax_range *ret_range)
{
	uintptr_t start = (uintptr_t)addr;
	struct dax_range range = { 0 };
	struct sys_file file;
	struct sys_vma vma;
	int err;

	err = fd == -1 ? 0 : fd_info(fd, log, &file);
	if (err)
		return err;
	err = sys_query_vma(maps_fd, start, &vma);
	if (err == -ENOENT)
		return range_error(addr, length, -EFAULT, "not mapped", log);
	if (err)
		return range_error(addr, length, err, "cannot read /proc/self/maps", log);
	err = fd == -1 ? check_name(&vma, log, &file) : check_fd(fd, &file, &vma, log);
	if (err)
		return err;
	range.fs_dax = file.dax && S_ISREG(file.mode);
	range.page_cache = !range.fs_dax && vma.ino && vma.shared && S_ISREG(file.mode);
	range.dev = vma.dev;
	range.ino = vma.ino;
	range.offset = vma.offset + (start - vma.start);
	err = check_rest(maps_fd, start + length, &vma, &range.writable);
	if (err == -EINVAL && range.fs_dax)
		return range_error(addr, length, err, "reaches beyond one mapping of the file",
				   log);
	if (err && err != -EINVAL) /* plain memory may well span several mappings */
		return range_error(addr, length, err, "only partly mapped", log);
	if (range.fs_dax && !vma.shared)
		return range_error(addr, length, -EOPNOTSUPP,
				   "mapped MAP_PRIVATE, remote writes would not reach the file: "
				   "map it MAP_SHARED",
				   log);
	*ret_range = range;
	return 0;
}

int dax_check(int maps_fd, const void *addr, size_t length, const struct dax_range *range)
{
	uintptr_t start = (uintptr_t)addr;
	struct sys_vma vma;
	bool writable;
	int err;

	err = sys_query_vma(maps_fd, start, &vma);
	if (err)
		return err == -ENOENT ? -EFAULT : err;
	if (vma.dev != range->dev || vma.ino != range->ino ||
	    vma.offset + (start - vma.start) != range->offset || !vma.shared)
		return -EFAULT;
	err = check_rest(maps_fd, start + length, &vma, &writable);
	return err == -EINVAL ? -EFAULT : err;
}
