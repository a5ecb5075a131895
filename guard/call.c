// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * fanotify says who and where, not what. /proc/TID/syscall has the number and the
 * arguments of the call that a task is blocked in, as they were when it entered the
 * kernel; nobody can change them meanwhile.
 *
 * Numbers are those of this architecture. A 32-bit task has others, which are not told
 * apart there (on x86 its sendfile is 187, as readahead is here), but by its stack.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "call.h"

/*
 * The first looks may come before it has gone to sleep. Whoever is not on a processor, as
 * there are too few, is better looked at later.
 */
#define LOOKING_NS 200000

struct regs {
	long nr;
	unsigned long arg[6];
	unsigned long sp, pc;
};

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* " 0x", digits; what comes after these, NULL: it is not that. */
static const char *parse_hex(const char *text, unsigned long *ret)
{
	const char *p = text;
	int d;

	if (!p || strncmp(p, " 0x", 3) || digit(p[3]) < 0)
		return NULL;
	*ret = 0;
	for (p += 3; (d = digit(*p)) >= 0; p++)
		*ret = *ret << 4 | (unsigned long)d;
	return p;
}

/* At each event: sscanf() takes as long as the kernel to write it, strtoul() a third of that. */
static bool parse(const char *text, struct regs *r)
{
	unsigned long *const hex[] = { &r->arg[0], &r->arg[1], &r->arg[2], &r->arg[3],
				       &r->arg[4], &r->arg[5], &r->sp,	   &r->pc };
	const char *p;
	char *end;

	r->nr = strtol(text, &end, 10);
	p = end == text ? NULL : end;
	for (unsigned int i = 0; i < sizeof(hex) / sizeof(hex[0]); i++)
		p = parse_hex(p, hex[i]);
	return p;
}

/*
 * Threads of the kernel and of io_uring have no program counter, and their registers
 * tell what somebody else once did.
 */
static bool is_own_call(const struct regs *r)
{
	return r->pc != 0;
}

/* Or may be; all that it does counts as a change. */
static bool is_32_bit(const struct regs *r)
{
	return sizeof(long) > 4 && r->sp <= UINT32_MAX;
}

static enum call_kind kind_of_open(const struct regs *r)
{
	unsigned long flags;

	switch (r->nr) {
#ifdef SYS_open
	case SYS_open:
		flags = r->arg[1];
		break;
#endif
	case SYS_openat:
	case SYS_open_by_handle_at:
		flags = r->arg[2];
		break;
	case SYS_execve:
	case SYS_execveat:
		flags = 0;
		break;
	default: /* SYS_openat2 has its flags in memory, where others can change them */
		return CALL_CHANGE;
	}
	return flags & O_TRUNC ? CALL_CHANGE : CALL_READ;
}

static enum call_kind kind_of_fallocate(unsigned long mode)
{
	return mode & ~(unsigned long)FALLOC_FL_KEEP_SIZE ? CALL_CHANGE : CALL_READ;
}

static enum call_kind kind_of_ioctl(unsigned long request)
{
	return request == FICLONE || request == FICLONERANGE ? CALL_REMAP : CALL_CHANGE;
}

static enum call_kind kind_of_access(const struct regs *r)
{
	switch (r->nr) {
	case SYS_read:
	case SYS_pread64:
	case SYS_readv:
	case SYS_preadv:
	case SYS_preadv2:
	case SYS_fadvise64:
	case SYS_mmap:
	case SYS_mremap:
	case SYS_execve:
	case SYS_execveat:
		return CALL_READ;
	case SYS_madvise: /* MADV_REMOVE is a punch */
		return (int)r->arg[2] == MADV_REMOVE ? CALL_CHANGE : CALL_READ;
	case SYS_readahead: /* 32-bit programs have sendfile there */
	case SYS_write:
	case SYS_pwrite64:
	case SYS_writev:
	case SYS_pwritev:
	case SYS_pwritev2:
	case SYS_sendfile:
	case SYS_splice:
	case SYS_io_submit:
		return CALL_WRITE;
	case SYS_copy_file_range: /* some filesystems share the blocks instead */
		return CALL_REMAP;
	case SYS_ioctl:
		return kind_of_ioctl(r->arg[1]);
	case SYS_fallocate:
		return kind_of_fallocate(r->arg[1]);
	default: /* truncate, ftruncate, io_uring_enter, and whatever comes in future */
		return CALL_CHANGE;
	}
}

struct call_facts call_parse(const char *text, bool opens)
{
	struct call_facts facts = { .kind = CALL_CHANGE, .target_fd = -1 };
	struct regs r;

	if (!parse(text, &r) || !is_own_call(&r) || is_32_bit(&r))
		return facts;
	facts.kind = opens ? kind_of_open(&r) : kind_of_access(&r);
	if (facts.kind == CALL_REMAP)
		facts.target_fd = (int)r.arg[r.nr == SYS_copy_file_range ? 2 : 0];
	return facts;
}

/*
 * Is another file the target, and this one the source? If the process has a second thread, that one
 * could have put another file behind the descriptor since. (So could a process that
 * shares its table of descriptors, by clone(2) with CLONE_FILES; that is not seen.)
 */
static bool goes_elsewhere(pid_t tid, int fd, const struct fan_file *file)
{
	struct fan_file target;

	return fan_task_threads(tid) == 1 && !fan_task_fd(tid, fd, &target) &&
	       (target.dev != file->dev || target.ino != file->ino);
}

static bool is_running(const char *text)
{
	return !strncmp(text, "running", 7);
}

static int file_of(struct call_files *files, pid_t tid)
{
	const unsigned int n = sizeof(files->entry) / sizeof(files->entry[0]);
	unsigned int i = files->next;
	int fd;

	for (unsigned int k = 0; k < n; k++) {
		if (files->entry[k].tid == tid)
			return files->entry[k].fd;
	}
	fd = fan_open_call(tid);
	if (fd < 0)
		return fd;
	if (files->entry[i].tid)
		close(files->entry[i].fd);
	files->entry[i].tid = tid;
	files->entry[i].fd = fd;
	files->next = (i + 1) % n;
	return fd;
}

static void forget(struct call_files *files, pid_t tid)
{
	for (unsigned int i = 0; i < sizeof(files->entry) / sizeof(files->entry[0]); i++) {
		if (files->entry[i].tid != tid)
			continue;
		close(files->entry[i].fd);
		files->entry[i].tid = 0;
	}
}

void call_files_close(struct call_files *files)
{
	for (unsigned int i = 0; i < sizeof(files->entry) / sizeof(files->entry[0]); i++) {
		if (files->entry[i].tid)
			forget(files, files->entry[i].tid);
	}
}

static int read_call(struct call_files *files, struct call *call)
{
	int fd = file_of(files, call->tid);
	int err = fd < 0 ? fd : fan_read_call(fd, call->text, sizeof(call->text));

	if (err != -ESRCH || fd < 0)
		return err;
	/* That one is gone, and the number is somebody else's. */
	forget(files, call->tid);
	fd = file_of(files, call->tid);
	return fd < 0 ? fd : fan_read_call(fd, call->text, sizeof(call->text));
}

static enum call_kind look(struct call_files *files, struct call *call, bool opens)
{
	uint64_t until = 0;

	call->text[0] = '\0';
	call->err = 0;
	if (call->tid <= 0)
		return CALL_CHANGE;
	while (!(call->err = read_call(files, call))) {
		if (!is_running(call->text))
			return call_parse(call->text, opens).kind;
		if (!until)
			until = fan_now_ns() + LOOKING_NS;
		else if (fan_now_ns() >= until)
			return CALL_UNDECIDED;
		sched_yield();
	}
	call->text[0] = '\0';
	return CALL_CHANGE;
}

enum call_kind call_look(struct call_files *files, struct call *call, bool opens)
{
	enum call_kind kind;

	files->since_ns = fan_now_ns();
	kind = look(files, call, opens);
	files->since_ns = 0;
	return kind;
}

enum call_kind call_direction(const struct call *call, const struct fan_file *file)
{
	struct call_facts facts = call_parse(call->text, false);

	return goes_elsewhere(call->tid, facts.target_fd, file) ? CALL_SHARE : CALL_REMAP;
}

static int read_once(pid_t tid, char *ret_text, size_t size)
{
	int fd = fan_open_call(tid);
	int err;

	if (fd < 0)
		return fd;
	err = fan_read_call(fd, ret_text, size);
	close(fd);
	return err;
}

enum call_state call_state(const struct call *call)
{
	char now[sizeof(call->text)];
	struct regs r;
	int err;

	if (call->tid <= 0)
		return CALL_UNKNOWN;
	err = read_once(call->tid, now, sizeof(now));
	if (err)
		return err == -ENOENT || err == -ESRCH ? CALL_ENDED : CALL_UNKNOWN;
	if (!call->text[0] || !now[0] || is_running(now) || is_running(call->text))
		return CALL_UNKNOWN;
	if (strcmp(now, call->text))
		return CALL_ENDED;
	return parse(now, &r) && is_own_call(&r) ? CALL_RUNS : CALL_UNKNOWN;
}
