// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

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

static int fd_info(int fd, struct log *log, struct sys_file *ret_file, int *ret_mode)
{
	int err = sys_access_mode(fd);

	*ret_mode = err;
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

static bool is_file(const struct sys_vma *vma, const struct sys_file *file)
{
	/* stat(2) and maps disagree about the device on btrfs and overlayfs. */
	return vma->ino == file->ino && (vma->dev == file->dev || !file->dax);
}

static int check_fd(int maps_fd, int fd, const struct sys_file *file, const struct sys_vma *vma,
		    struct log *log)
{
	char name[PATH_MAX] = "";

	if (is_file(vma, file))
		return 0;
	sys_vma_name(maps_fd, vma->start, name, sizeof(name));
	log_add(log, DAXLEASE_LOG_ERR,
		"fd %d: the range is mapped from something else (%s): pass its own descriptor, or "
		"-1 for plain memory",
		fd, name[0] ? name : "anonymous memory");
	return -EINVAL;
}

/*
 * A file that we have no descriptor of: its name tells, if it has one still. statx
 * opens nothing. Memory filesystems have no device of their own (major 0), and their
 * files often no name.
 */
static int check_name(int maps_fd, const struct sys_vma *vma, struct log *log, bool *ret_regular)
{
	struct sys_file file;
	char name[PATH_MAX];
	int err = sys_vma_name(maps_fd, vma->start, name, sizeof(name));

	if (err || sys_path_info(name, &file) || !is_file(vma, &file)) {
		if (vma->shared && major(vma->dev))
			log_add(log, DAXLEASE_LOG_WARNING,
				"%p: mapped from a file that has no name here: taken for plain "
				"memory, not leased",
				(void *)vma->start);
		return 0;
	}
	*ret_regular = S_ISREG(file.mode);
	if (!file.dax || !S_ISREG(file.mode))
		return 0;
	log_add(log, DAXLEASE_LOG_ERR,
		"%s is on FS-DAX: pass the descriptor it was mapped from, so that it can be leased",
		name);
	return -EBADF;
}

static int range_error(const void *addr, size_t length, int err, const char *why, struct log *log)
{
	log_add(log, DAXLEASE_LOG_ERR, "range %p+%zu: %s", addr, length, why);
	return err;
}

static int inspect_dax(int maps_fd, const void *addr, size_t length, const struct sys_vma *vma,
		       struct log *log, struct dax_range *range)
{
	int err = check_rest(maps_fd, (uintptr_t)addr + length, vma, &range->writable);

	if (err)
		return range_error(addr, length, err,
				   err == -EINVAL ?
					   "reaches beyond one mapping of the file" :
					   "only partly mapped: map all of it, or register less",
				   log);
	if (!vma->shared)
		return range_error(addr, length, -EOPNOTSUPP,
				   "mapped MAP_PRIVATE, remote writes would not reach the file: "
				   "map it MAP_SHARED",
				   log);
	range->fs_dax = true;
	range->dev = vma->dev;
	range->ino = vma->ino;
	range->offset = vma->offset + ((uintptr_t)addr - vma->start);
	return 0;
}

/* Plain memory may span any mappings, but none of FS-DAX. file may be NULL. */
static int inspect_plain(int maps_fd, const void *addr, size_t length, const struct sys_file *file,
			 struct log *log, struct dax_range *range)
{
	uintptr_t at = (uintptr_t)addr;
	struct sys_vma vma;
	int err;

	for (; at < (uintptr_t)addr + length; at = vma.end) {
		bool regular = file && S_ISREG(file->mode);

		err = sys_query_vma(maps_fd, at, &vma);
		if (err)
			return range_error(addr, length, err == -ENOENT ? -EFAULT : err,
					   "only partly mapped: map all of it, or register less",
					   log);
		err = vma.ino && !(file && is_file(&vma, file)) ?
			      check_name(maps_fd, &vma, log, &regular) :
			      0;
		if (err)
			return err;
		range->page_cache = range->page_cache || (vma.ino && vma.shared && regular);
	}
	return 0;
}

int dax_inspect(int maps_fd, int fd, const void *addr, size_t length, struct log *log,
		struct dax_range *ret_range)
{
	struct dax_range range = { 0 };
	struct sys_file file = { 0 };
	struct sys_vma vma;
	int err;

	err = fd == -1 ? 0 : fd_info(fd, log, &file, &range.access_mode);
	if (err)
		return err;
	err = sys_query_vma(maps_fd, (uintptr_t)addr, &vma);
	if (err == -ENOENT)
		return range_error(addr, length, -EFAULT, "not mapped", log);
	if (err)
		return range_error(addr, length, err, "cannot read /proc/self/maps", log);
	err = fd == -1 ? 0 : check_fd(maps_fd, fd, &file, &vma, log);
	if (err)
		return err;
	if (file.dax && S_ISREG(file.mode))
		err = inspect_dax(maps_fd, addr, length, &vma, log, &range);
	else
		err = inspect_plain(maps_fd, addr, length, fd == -1 ? NULL : &file, log, &range);
	if (!err)
		*ret_range = range;
	return err;
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
