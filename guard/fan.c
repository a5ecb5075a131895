// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "fan.h"

/* <linux/fanotify.h> of Linux 6.13 and 6.14; older headers are what most machines have. */
#ifndef FAN_PRE_ACCESS
#define FAN_PRE_ACCESS 0x00100000
#endif
#ifndef FAN_ERRNO
#define FAN_ERRNO(err) (((uint32_t)(err)&0xff) << 24)
#endif
#ifndef FAN_REPORT_TID
#define FAN_REPORT_TID 0x00000100
#endif
#ifndef FAN_REPORT_FD_ERROR
#define FAN_REPORT_FD_ERROR 0x00002000
#endif
#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

/* <linux/magic.h> of later kernels */
#ifndef AFS_FS_MAGIC
#define AFS_FS_MAGIC 0x6B414653
#endif

#define EVENTS (FAN_PRE_ACCESS | FAN_OPEN_PERM)
/* With the range of an access, which is nothing to us: a header, its place and length. */
#define EVENT_SIZE sizeof(struct fanotify_event_metadata)
#define EVENT_MAX (EVENT_SIZE + 24)
#define BREAK_TIME_DEFAULT 45 /* seconds */
#define EXTENTS 64	      /* asked for at once */

static int result(int ret)
{
	return ret < 0 ? -errno : ret;
}

/* Groups of this class are made without them, too. What is not known fails before no file does. */
static bool has_events(int fan)
{
	return fanotify_mark(fan, FAN_MARK_ADD, EVENTS, -1, NULL) == 0 || errno != EINVAL;
}

int fan_init(void)
{
	/*
	 * Events bring a descriptor, and making one is an open like any other: it would wait
	 * for a lease that somebody holds on the file, but for O_NONBLOCK.
	 */
	int fan = fanotify_init(FAN_CLASS_PRE_CONTENT | FAN_REPORT_TID | FAN_REPORT_FD_ERROR |
					FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS | FAN_CLOEXEC |
					FAN_NONBLOCK,
				O_RDONLY | O_LARGEFILE | O_NONBLOCK | O_CLOEXEC);

	if (fan < 0)
		return -errno;
	if (has_events(fan))
		return fan;
	close(fan);
	return -EINVAL;
}

int fan_watch(int fan, int fd)
{
	return result(fanotify_mark(fan, FAN_MARK_ADD, EVENTS, fd, NULL));
}

int fan_unwatch(int fan, int fd)
{
	return result(fanotify_mark(fan, FAN_MARK_REMOVE, EVENTS, fd, NULL));
}

int fan_read(int fan, struct fan_event *ret_events, bool *ret_more)
{
	union {
		struct fanotify_event_metadata meta;
		char bytes[FAN_EVENTS * EVENT_SIZE];
	} room;
	ssize_t size = read(fan, &room, sizeof(room));
	int n = 0;

	if (size < 0)
		return -errno;
	for (ssize_t at = 0; size - at >= (ssize_t)sizeof(room.meta);) {
		struct fanotify_event_metadata meta;

		memcpy(&meta, room.bytes + at, sizeof(meta));
		ret_events[n++] = (struct fan_event){
			.fd = meta.fd,
			.tid = meta.pid,
			.open = meta.mask & FAN_OPEN_PERM,
		};
		at += meta.event_len;
	}
	*ret_more = sizeof(room) - (size_t)size < EVENT_MAX;
	return n;
}

int fan_answer(int fan, int fd, int err)
{
	const struct fanotify_response response = {
		.fd = fd,
		.response = err ? FAN_DENY | FAN_ERRNO(-err) : FAN_ALLOW,
	};

	return write(fan, &response, sizeof(response)) < 0 ? -errno : 0;
}

/* The file server of a network or FUSE filesystem is not asked. */
static int file_info(int fd, const char *path, struct fan_file *ret_file)
{
	struct statx stx;

	if (statx(fd, path, AT_STATX_DONT_SYNC | (*path ? 0 : AT_EMPTY_PATH), STATX_BASIC_STATS,
		  &stx) < 0)
		return -errno;
	ret_file->dev = makedev(stx.stx_dev_major, stx.stx_dev_minor);
	ret_file->ino = stx.stx_ino;
	ret_file->mode = stx.stx_mode;
	ret_file->uid = stx.stx_uid;
	return 0;
}

int fan_file_info(int fd, struct fan_file *ret_file)
{
	return file_info(fd, "", ret_file);
}

int fan_event_file(int fd, struct fan_file *ret_file)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	*ret_file = (struct fan_file){
		.dev = st.st_dev,
		.ino = st.st_ino,
		.mode = st.st_mode,
		.uid = st.st_uid,
	};
	return 0;
}

int fan_access_mode(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	return flags & O_PATH ? -EBADF : flags & O_ACCMODE;
}

bool fan_is_remote(int fd)
{
	static const unsigned int types[] = {
		FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC,  SMB_SUPER_MAGIC,  SMB2_SUPER_MAGIC,
		CIFS_SUPER_MAGIC, V9FS_MAGIC,	    CEPH_SUPER_MAGIC, AFS_SUPER_MAGIC,
		AFS_FS_MAGIC,	  CODA_SUPER_MAGIC,
	};
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return false; /* what comes next fails as well */
	for (unsigned int i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		if ((unsigned int)fs.f_type == types[i])
			return true;
	}
	return false;
}

/* 1, 0, or -errno. Copies on write are made of blocks that other files have as well. */
static int has_shared_blocks(int fd)
{
	struct fiemap *map = calloc(1, sizeof(*map) + EXTENTS * sizeof(map->fm_extents[0]));
	int ret = map ? 0 : -ENOMEM;
	bool more = map;

	while (more && !ret) {
		map->fm_length = FIEMAP_MAX_OFFSET - map->fm_start;
		map->fm_extent_count = EXTENTS;
		ret = result(ioctl(fd, FS_IOC_FIEMAP, map));
		more = !ret && map->fm_mapped_extents;
		for (unsigned int i = 0; more && i < map->fm_mapped_extents; i++) {
			const struct fiemap_extent *e = &map->fm_extents[i];

			if (e->fe_flags & FIEMAP_EXTENT_SHARED)
				ret = 1;
			more = !(e->fe_flags & FIEMAP_EXTENT_LAST);
			map->fm_start = e->fe_logical + e->fe_length;
		}
	}
	free(map);
	return ret;
}

enum fan_moves fan_writes_move(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return FAN_MOVES;
	if (fs.f_type == EXT4_SUPER_MAGIC)
		return FAN_MOVES_NEVER;
	return fs.f_type != XFS_SUPER_MAGIC || has_shared_blocks(fd) ? FAN_MOVES : FAN_MOVES_NOT;
}

/* ------------------------------------------------------------------------- */
/* Other people's processes */

static int read_text(const char *path, char *ret_text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;
	int err = 0;

	if (fd < 0)
		return -errno;
	n = read(fd, ret_text, size - 1);
	if (n < 0)
		err = -errno;
	ret_text[n < 0 ? 0 : n] = '\0';
	close(fd);
	return err;
}

int fan_open_call(pid_t tid)
{
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/syscall", (int)tid);
	return result(open(path, O_RDONLY | O_CLOEXEC));
}

int fan_read_call(int fd, char *ret_text, size_t size)
{
	ssize_t n = pread(fd, ret_text, size - 1, 0);

	ret_text[n < 0 ? 0 : n] = '\0';
	return n < 0 ? -errno : 0;
}

int fan_task_threads(pid_t tid)
{
	char path[48], text[4096];
	const char *line;
	int err;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
	err = read_text(path, text, sizeof(text));
	if (err)
		return err;
	line = strstr(text, "\nThreads:");
	return line ? atoi(line + strlen("\nThreads:")) : -EINVAL;
}

int fan_task_fd(pid_t tid, int fd, struct fan_file *ret_file)
{
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)tid, fd);
	return file_info(AT_FDCWD, path, ret_file);
}

static bool is_for_writing(pid_t pid, const char *fd)
{
	char path[48], text[256];
	const char *line;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.12s", (int)pid, fd);
	if (read_text(path, text, sizeof(text)))
		return false;
	line = strstr(text, "flags:");
	return line && (strtoul(line + strlen("flags:"), NULL, 8) & (O_WRONLY | O_RDWR)) &&
	       !(strtoul(line + strlen("flags:"), NULL, 8) & O_PATH);
}

static bool can_write(pid_t pid, const struct fan_file *file)
{
	char path[32];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		struct fan_file other;

		found = isdigit((unsigned char)entry->d_name[0]) &&
			!fan_task_fd(pid, atoi(entry->d_name), &other) && other.dev == file->dev &&
			other.ino == file->ino && is_for_writing(pid, entry->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}

unsigned int fan_openers(const struct fan_file *file, pid_t except, pid_t *ret_pid)
{
	DIR *proc = opendir("/proc");
	unsigned int found = 0;
	struct dirent *entry;

	while (proc && (entry = readdir(proc))) {
		pid_t pid = (pid_t)atoi(entry->d_name); /* 0 for what is no process */

		/* We have it ourselves, as the hold's descriptor. */
		if (pid <= 0 || pid == except || pid == getpid() || !can_write(pid, file))
			continue;
		found++;
		*ret_pid = pid;
	}
	if (proc)
		closedir(proc);
	return found;
}

/* ------------------------------------------------------------------------- */
/* Time */

int fan_open_break_time(void)
{
	return result(open("/proc/sys/fs/lease-break-time", O_RDONLY | O_CLOEXEC));
}

int fan_break_time(int fd)
{
	char text[16];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return BREAK_TIME_DEFAULT;
	text[n] = '\0';
	return atoi(text);
}

uint64_t fan_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
