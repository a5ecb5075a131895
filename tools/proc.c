// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "proc.h"

static int read_text(const char *path, char *ret_text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	ret_text[0] = '\0';
	if (fd < 0)
		return -errno;
	n = read(fd, ret_text, size - 1);
	if (n < 0)
		n = -errno;
	else
		ret_text[n] = '\0';
	close(fd);
	return n < 0 ? (int)n : 0;
}

/* Makes room for one more of a list whose length is its capacity at powers of two. */
static void *grown(void *list, size_t n, size_t size)
{
	if (n & (n - 1))
		return list;
	return reallocarray(list, n ? 2 * n : 1, size);
}

static bool is_number(const char *name)
{
	return isdigit((unsigned char)name[0]);
}

static bool is_file(const struct stat *st, const struct file_id *file)
{
	return st->st_ino == file->ino && st->st_dev == file->dev;
}

void proc_comm(pid_t pid, char *ret_comm, size_t size)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	if (read_text(path, ret_comm, size) || !ret_comm[0])
		snprintf(ret_comm, size, "?");
	ret_comm[strcspn(ret_comm, "\n")] = '\0';
	for (char *c = ret_comm; *c; c++)
		*c = *c >= ' ' && *c <= '~' ? *c : '?';
}

/* ------------------------------------------------------------------------- */
/* Who has it */

static unsigned int mode_of_fd(pid_t pid, const char *fd)
{
	char path[64], text[256];
	const char *flags;
	unsigned long mode;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.12s", (int)pid, fd);
	if (read_text(path, text, sizeof(text)) || !(flags = strstr(text, "flags:")))
		return USES_READ;
	mode = strtoul(flags + strlen("flags:"), NULL, 8);
	if (mode & O_PATH)
		return 0;
	mode &= O_ACCMODE;
	return (mode != O_WRONLY ? USES_READ : 0) | (mode != O_RDONLY ? USES_WRITE : 0);
}

static int uses_by_fd(pid_t pid, const struct file_id *file, unsigned int *uses)
{
	char path[40];
	struct dirent *entry;
	struct stat st;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		if (is_number(entry->d_name) && !fstatat(dirfd(dir), entry->d_name, &st, 0) &&
		    is_file(&st, file))
			*uses |= mode_of_fd(pid, entry->d_name);
	}
	closedir(dir);
	return 0;
}

static int uses_by_map(pid_t pid, const struct file_id *file, unsigned int *uses)
{
	unsigned int major_nr, minor_nr;
	unsigned long long ino;
	char path[40], shared;
	size_t size = 0;
	char *line = NULL;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	while (getline(&line, &size, f) > 0) {
		if (sscanf(line, "%*x-%*x %*3c%c %*x %x:%x %llu", &shared, &major_nr, &minor_nr,
			   &ino) == 4 &&
		    ino == file->ino && makedev(major_nr, minor_nr) == file->dev)
			*uses |= USES_MAPPED | (shared == 's' ? USES_SHARED : 0);
	}
	free(line);
	fclose(f);
	return 0;
}

static int add_user(struct users *users, pid_t pid, unsigned int uses)
{
	struct user *list = grown(users->list, users->n, sizeof(*list));

	if (!list)
		return -ENOMEM;
	users->list = list;
	list[users->n] = (struct user){ .pid = pid, .uses = uses };
	proc_comm(pid, list[users->n].comm, sizeof(list[users->n].comm));
	users->n++;
	return 0;
}

int proc_users(const struct file_id *file, pid_t except, struct users *ret_users)
{
	struct users users = { 0 };
	struct dirent *entry;
	DIR *dir = opendir("/proc");
	int err = dir ? 0 : -errno;

	while (!err && (entry = readdir(dir))) {
		pid_t pid = (pid_t)atoi(entry->d_name);
		unsigned int uses = 0;
		int fds, maps;

		if (pid <= 0 || pid == except)
			continue;
		fds = uses_by_fd(pid, file, &uses);
		maps = uses_by_map(pid, file, &uses);
		users.hidden += fds == -EACCES || maps == -EACCES;
		if (uses)
			err = add_user(&users, pid, uses);
	}
	if (dir)
		closedir(dir);
	if (err)
		proc_users_free(&users);
	else
		*ret_users = users;
	return err;
}

void proc_users_free(struct users *users)
{
	free(users->list);
	users->list = NULL;
	users->n = 0;
}

/* ------------------------------------------------------------------------- */
/* /proc/locks */

static bool kind_of_lock(const char *word, enum lock_kind *ret_kind)
{
	static const struct {
		const char *word;
		enum lock_kind kind;
	} kinds[] = { { "LEASE", LOCK_LEASE }, { "DELEG", LOCK_DELEG }, { "LAYOUT", LOCK_LAYOUT } };

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (!strcmp(word, kinds[i].word)) {
			*ret_kind = kinds[i].kind;
			return true;
		}
	}
	return false;
}

/* "7: LEASE  ACTIVE    WRITE 1234 103:02:5678 0 EOF", "7: -> ..." for who waits for it */
bool proc_parse_lock(const char *line, struct lock *ret_lock, struct file_id *ret_file)
{
	struct lock lock = { 0 };
	unsigned int major_nr, minor_nr;
	unsigned long long ino;
	char word[16];
	int pid, at = 0;

	if (sscanf(line, "%*u: %n", &at) < 0 || !at)
		return false;
	line += at;
	if (!strncmp(line, "->", 2)) {
		lock.kind = LOCK_WAITER;
		line += 2;
	}
	if (sscanf(line, " %15s %15s %15s %d %x:%x:%llu", word, lock.state, lock.type, &pid,
		   &major_nr, &minor_nr, &ino) != 7)
		return false;
	if (lock.kind != LOCK_WAITER && !kind_of_lock(word, &lock.kind))
		return false;
	lock.pid = pid > 0 ? pid : 0;
	*ret_lock = lock;
	*ret_file = (struct file_id){ .dev = makedev(major_nr, minor_nr), .ino = ino };
	return true;
}

int proc_locks(const struct file_id *file, struct lock **ret_locks, size_t *ret_n)
{
	FILE *f = fopen("/proc/locks", "re");
	struct lock *locks = NULL, lock;
	struct file_id of;
	size_t n = 0, size = 0;
	char *line = NULL;
	int err = f ? 0 : -errno;

	while (!err && getline(&line, &size, f) > 0) {
		struct lock *list;

		if (!proc_parse_lock(line, &lock, &of) || of.dev != file->dev ||
		    of.ino != file->ino)
			continue;
		list = grown(locks, n, sizeof(*list));
		if (!list) {
			err = -ENOMEM;
			break;
		}
		locks = list;
		locks[n++] = lock;
	}
	free(line);
	if (f)
		fclose(f);
	if (err) {
		free(locks);
		return err;
	}
	*ret_locks = locks;
	*ret_n = n;
	return 0;
}

/* ------------------------------------------------------------------------- */
/* Guards */

#define PRE_ACCESS 0x00100000 /* FAN_PRE_ACCESS */

/* "fanotify ino:4f969 sdev:800013 mflags:0 mask:110000 ...", in the kernel's own dev_t */
bool proc_parse_mark(const char *line, struct file_id *ret_file)
{
	unsigned long long ino;
	unsigned int sdev, mask;

	if (sscanf(line, "fanotify ino:%llx sdev:%x mflags:%*x mask:%x", &ino, &sdev, &mask) != 3 ||
	    !(mask & PRE_ACCESS))
		return false;
	*ret_file = (struct file_id){ .dev = makedev(sdev >> 20, sdev & 0xfffff), .ino = ino };
	return true;
}

static bool has_mark(const char *fdinfo, const struct file_id *file)
{
	FILE *f = fopen(fdinfo, "re");
	char *line = NULL;
	bool found = false;
	size_t size = 0;
	struct file_id of;

	while (f && !found && getline(&line, &size, f) > 0)
		found = proc_parse_mark(line, &of) && of.dev == file->dev && of.ino == file->ino;
	free(line);
	if (f)
		fclose(f);
	return found;
}

/* The library's guard has a table of descriptors of its own, that of one thread. */
static int task_guards(pid_t pid, const char *tid, const struct file_id *file, bool *guards)
{
	char path[80], link[64];
	struct dirent *entry;
	DIR *dir;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/task/%.12s/fd", (int)pid, tid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while (!*guards && (entry = readdir(dir))) {
		if (!is_number(entry->d_name))
			continue;
		n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
		link[n < 0 ? 0 : n] = '\0';
		if (strcmp(link, "anon_inode:[fanotify]") != 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%.12s/fdinfo/%.12s", (int)pid, tid,
			 entry->d_name);
		*guards = has_mark(path, file);
	}
	closedir(dir);
	return 0;
}

static int process_guards(pid_t pid, const struct file_id *file, bool *guards)
{
	struct dirent *entry;
	char path[40];
	int err = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	while (dir && !*guards && (entry = readdir(dir))) {
		if (is_number(entry->d_name) &&
		    task_guards(pid, entry->d_name, file, guards) == -EACCES)
			err = -EACCES;
	}
	if (dir)
		closedir(dir);
	return err;
}

int proc_guards(const struct file_id *file, struct users *ret_guards)
{
	struct users guards = { 0 };
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	int err = dir ? 0 : -errno;

	while (!err && (entry = readdir(dir))) {
		pid_t pid = (pid_t)atoi(entry->d_name);
		bool found = false;

		if (pid <= 0)
			continue;
		guards.hidden += process_guards(pid, file, &found) == -EACCES;
		if (found)
			err = add_user(&guards, pid, 0);
	}
	if (dir)
		closedir(dir);
	if (err)
		proc_users_free(&guards);
	else
		*ret_guards = guards;
	return err;
}

/* ------------------------------------------------------------------------- */
/* Who waits */

struct call {
	long nr;
	const char *name;
	int path_arg, dir_arg; /* -1: none */
	int fd_arg;
};

static const struct call calls[] = {
#ifdef SYS_open
	{ SYS_open, "open", 0, -1, -1 },
	{ SYS_creat, "creat", 0, -1, -1 },
#endif
	{ SYS_openat, "openat", 1, 0, -1 },
	{ SYS_openat2, "openat2", 1, 0, -1 },
	{ SYS_truncate, "truncate", 0, -1, -1 },
	{ SYS_ftruncate, "ftruncate", -1, -1, 0 },
	{ SYS_fallocate, "fallocate", -1, -1, 0 },
	{ SYS_ioctl, "ioctl", -1, -1, 0 },
	{ SYS_copy_file_range, "copy_file_range", -1, -1, 2 },
	{ SYS_write, "write", -1, -1, 0 },
	{ SYS_pwrite64, "pwrite64", -1, -1, 0 },
	{ SYS_read, "read", -1, -1, 0 },
	{ SYS_pread64, "pread64", -1, -1, 0 },
};

static const struct call *find_call(long nr)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		if (calls[i].nr == nr)
			return &calls[i];
	}
	return NULL;
}

/* The string of another process; false if it may not be read. */
static bool read_path(pid_t tid, unsigned long addr, char *ret_path, size_t size)
{
	char mem[40];
	ssize_t n;
	int fd;

	snprintf(mem, sizeof(mem), "/proc/%d/mem", (int)tid);
	fd = open(mem, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = pread(fd, ret_path, size - 1, (off_t)addr);
	close(fd);
	if (n <= 0)
		return false;
	ret_path[n] = '\0';
	return memchr(ret_path, '\0', (size_t)n);
}

/* 1: it is this file, 0: another one, -1: it cannot be told. */
static int is_path_of(pid_t tid, const struct call *c, const unsigned long *arg,
		      const struct file_id *file)
{
	char path[4096], base[64];
	struct stat st;
	int dir, ret;

	if (!read_path(tid, arg[c->path_arg], path, sizeof(path)))
		return -1;
	if (c->dir_arg < 0 || (int)arg[c->dir_arg] == AT_FDCWD)
		snprintf(base, sizeof(base), "/proc/%d/cwd", (int)tid);
	else
		snprintf(base, sizeof(base), "/proc/%d/fd/%d", (int)tid, (int)arg[c->dir_arg]);
	dir = open(base, O_PATH | O_CLOEXEC);
	if (dir < 0 && path[0] != '/')
		return -1;
	ret = fstatat(dir, path, &st, 0) ? -1 : is_file(&st, file);
	if (dir >= 0)
		close(dir);
	return ret;
}

static int is_fd_of(pid_t tid, int fd, const struct file_id *file)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)tid, fd);
	return stat(path, &st) ? -1 : is_file(&st, file);
}

/* Functions of the kernel that wait for a lease or a guard, and what is on the way to them. */
static bool waits_there(const char *where)
{
	static const char *const names[] = { "break_lease",  "break_layout", "fanotify",
					     "fsnotify",     "break_deleg",  "dax_break",
					     "wait_on_break" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strstr(where, names[i]))
			return true;
	}
	return false;
}

static void check_task(struct waiters *w, pid_t pid, pid_t tid, const struct file_id *file,
		       int *err)
{
	unsigned long arg[6];
	char path[64], text[256];
	struct waiter one = { .pid = pid, .tid = tid };
	const struct call *c;
	struct waiter *list;
	long nr;
	int which;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", (int)pid, (int)tid);
	which = read_text(path, text, sizeof(text));
	if (which == -EACCES || which == -EPERM)
		w->hidden++;
	if (which || sscanf(text, "%ld %lx %lx %lx %lx %lx %lx", &nr, &arg[0], &arg[1], &arg[2],
			    &arg[3], &arg[4], &arg[5]) != 7)
		return;
	c = find_call(nr);
	if (!c)
		return;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/wchan", (int)pid, (int)tid);
	read_text(path, one.where, sizeof(one.where));
	if (!waits_there(one.where))
		return;
	/* Last, for a path may lead to a filesystem that lets us wait. */
	which = c->path_arg >= 0 ? is_path_of(tid, c, arg, file) :
				   is_fd_of(tid, (int)arg[c->fd_arg], file);
	if (which == 0)
		return;
	snprintf(one.call, sizeof(one.call), "%s", c->name);
	proc_comm(pid, one.comm, sizeof(one.comm));
	list = grown(w->list, w->n, sizeof(*list));
	if (!list) {
		*err = -ENOMEM;
		return;
	}
	w->list = list;
	list[w->n++] = one;
}

static void check_process(struct waiters *w, pid_t pid, const struct file_id *file, int *err)
{
	struct dirent *entry;
	char path[40];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	while (dir && !*err && (entry = readdir(dir))) {
		if (is_number(entry->d_name))
			check_task(w, pid, (pid_t)atoi(entry->d_name), file, err);
	}
	if (dir)
		closedir(dir);
}

int proc_waiters(const struct file_id *file, struct waiters *ret_waiters)
{
	struct waiters waiters = { 0 };
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	int err = dir ? 0 : -errno;

	while (!err && (entry = readdir(dir))) {
		if (is_number(entry->d_name) && atoi(entry->d_name) != getpid())
			check_process(&waiters, (pid_t)atoi(entry->d_name), file, &err);
	}
	if (dir)
		closedir(dir);
	if (err)
		proc_waiters_free(&waiters);
	else
		*ret_waiters = waiters;
	return err;
}

void proc_waiters_free(struct waiters *waiters)
{
	free(waiters->list);
	waiters->list = NULL;
	waiters->n = 0;
}

/* ------------------------------------------------------------------------- */

long proc_number(const char *path)
{
	char text[32], *end;
	long n;

	if (read_text(path, text, sizeof(text)))
		return -1;
	n = strtol(text, &end, 10);
	return end == text ? -1 : n;
}

bool proc_capable(unsigned int capability)
{
	char text[4096];
	const char *line;

	if (read_text("/proc/self/status", text, sizeof(text)))
		return false;
	line = strstr(text, "\nCapEff:");
	return line && (strtoull(line + strlen("\nCapEff:"), NULL, 16) >> capability & 1);
}

/* The mount's number, as /proc/self/fdinfo tells it. */
static long mount_id(int fd)
{
	char path[40], text[512];
	const char *line;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	if (read_text(path, text, sizeof(text)))
		return -1;
	line = strstr(text, "mnt_id:");
	return line ? atol(line + strlen("mnt_id:")) : -1;
}

/* Spaces and the like are octal there. */
static void unescape(char *text)
{
	char *to = text;

	for (const char *from = text; *from; to++) {
		/* All of it: the end of a long name may be cut off. */
		if (from[0] == '\\' && strspn(from + 1, "01234567") >= 3) {
			*to = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

/* The next word, or what there is room for, and where the one after it begins. */
static const char *take_word(const char *line, char *ret_word, size_t size)
{
	size_t len = strcspn(line, " \n");

	snprintf(ret_word, size, "%.*s", (int)len, line);
	return line + len + strspn(line + len, " \n");
}

/* "36 35 98:0 /root /mnt rw,noatime master:1 - ext4 /dev/pmem0 rw,dax=always" */
bool proc_parse_mount(const char *line, long id, struct mount *ret_mount)
{
	char own[256], fs_options[256];
	const char *rest;
	int at = 0;

	if (strtol(line, NULL, 10) != id || sscanf(line, "%*d %*d %*s %*s %n", &at) < 0 || !at)
		return false;
	rest = take_word(line + at, ret_mount->dir, sizeof(ret_mount->dir));
	rest = take_word(rest, own, sizeof(own));
	rest = strstr(rest, "- ");
	if (!rest)
		return false;
	rest = take_word(rest + 2, ret_mount->fs, sizeof(ret_mount->fs));
	rest = take_word(rest, ret_mount->source, sizeof(ret_mount->source));
	take_word(rest, fs_options, sizeof(fs_options));
	if (!fs_options[0])
		return false;
	unescape(ret_mount->dir);
	snprintf(ret_mount->options, sizeof(ret_mount->options), "%s,%s", own, fs_options);
	return true;
}

int proc_mount(int fd, const char *path, struct mount *ret_mount)
{
	int own = fd >= 0 ? fd : open(path, O_PATH | O_CLOEXEC);
	FILE *f = own >= 0 ? fopen("/proc/self/mountinfo", "re") : NULL;
	int err = f ? -ENOENT : -errno;
	char *line = NULL;
	size_t size = 0;
	long id;

	id = own >= 0 ? mount_id(own) : -1;
	while (err == -ENOENT && f && getline(&line, &size, f) > 0) {
		if (proc_parse_mount(line, id, ret_mount))
			err = 0;
	}
	free(line);
	if (f)
		fclose(f);
	if (own >= 0 && own != fd)
		close(own);
	return err;
}

bool proc_has_option(const char *options, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = options; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
		if (!strncmp(p, word, len) && (p[len] == ',' || !p[len]))
			return true;
	}
	return false;
}
