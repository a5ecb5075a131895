// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/io_uring.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "mask.h"
#include "sys.h"
#include "util.h"

/* <linux/fcntl.h> of Linux 6.19; older headers are what most machines have. */
#ifndef F_LINUX_SPECIFIC_BASE
#define F_LINUX_SPECIFIC_BASE 1024
#endif
#ifndef F_GETDELEG
#define F_GETDELEG (F_LINUX_SPECIFIC_BASE + 15)
#define F_SETDELEG (F_LINUX_SPECIFIC_BASE + 16)
struct delegation {
	uint32_t d_flags;
	uint16_t d_type;
	uint16_t __pad;
};
#endif

/* In no released header yet. */
#ifndef F_GETLAYOUT
#define F_GETLAYOUT (F_LINUX_SPECIFIC_BASE + 17)
#define F_SETLAYOUT (F_LINUX_SPECIFIC_BASE + 18)
struct layout_lease {
	uint32_t l_flags;
	uint16_t l_type;
	uint16_t __pad;
	uint32_t l_break_ms;
	uint32_t l_pins;
};
#endif

/* <linux/fcntl.h> of Linux 6.10. */
#ifndef F_DUPFD_QUERY
#define F_DUPFD_QUERY (F_LINUX_SPECIFIC_BASE + 3)
#endif

/* <linux/fs.h> of Linux 6.11. */
#ifndef PROCMAP_QUERY
struct procmap_query {
	uint64_t size;
	uint64_t query_flags;
	uint64_t query_addr;
	uint64_t vma_start;
	uint64_t vma_end;
	uint64_t vma_flags;
	uint64_t vma_page_size;
	uint64_t vma_offset;
	uint64_t inode;
	uint32_t dev_major;
	uint32_t dev_minor;
	uint32_t vma_name_size;
	uint32_t build_id_size;
	uint64_t vma_name_addr;
	uint64_t build_id_addr;
};
#define PROCMAP_QUERY _IOWR('f', 17, struct procmap_query)
#define PROCMAP_QUERY_VMA_READABLE 0x01
#define PROCMAP_QUERY_VMA_WRITABLE 0x02
#define PROCMAP_QUERY_VMA_SHARED 0x08
#endif

/* <linux/io_uring.h> of Linux 6.6, and operations of Linux 6.15 and 6.19. */
#define CANCEL_ALL (1u << 0)
#define CANCEL_FD (1u << 1)
#define CANCEL_ANY (1u << 2)
#define CANCEL_OP (1u << 5)
#define REGISTER_SYNC_CANCEL 24
#define OP_URING_CMD 46
#define OP_SEND_ZC 47
#define OP_SENDMSG_ZC 48
#define OP_READV_FIXED 60
#define OP_WRITEV_FIXED 61
#define OP_URING_CMD128 64
struct uring_sync_cancel {
	uint64_t addr;
	int32_t fd;
	uint32_t flags;
	int64_t timeout_s, timeout_ns;
	uint8_t opcode;
	uint8_t pad[7];
	uint64_t pad2[3];
};

#ifndef STATX_ATTR_DAX
#define STATX_ATTR_DAX 0x00200000
#endif

/* Enough for the callbacks; the rest is never touched. */
#define THREAD_STACK (1024 * 1024)

static int result(int ret)
{
	return ret < 0 ? -errno : ret;
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){ .tv_sec = (time_t)(ns / NSEC_PER_SEC),
				  .tv_nsec = (long)(ns % NSEC_PER_SEC) };
}

int sys_dup(int fd)
{
	return result(fcntl(fd, F_DUPFD_CLOEXEC, 3));
}

int sys_close(int fd)
{
	return result(close(fd));
}

int sys_access_mode(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	if (flags & O_PATH)
		return -EBADF;
	return flags & O_ACCMODE;
}

static int file_info(int fd, const char *path, int flags, struct sys_file *ret_file)
{
	struct statx stx;

	if (statx(fd, path, flags, STATX_BASIC_STATS, &stx) < 0)
		return -errno;
	ret_file->dev = makedev(stx.stx_dev_major, stx.stx_dev_minor);
	ret_file->ino = stx.stx_ino;
	ret_file->mode = stx.stx_mode;
	ret_file->size = stx.stx_size;
	ret_file->dax = stx.stx_attributes_mask & stx.stx_attributes & STATX_ATTR_DAX;
	return 0;
}

int sys_file_info(int fd, struct sys_file *ret_file)
{
	return file_info(fd, "", AT_EMPTY_PATH, ret_file);
}

int sys_path_info(const char *path, struct sys_file *ret_file)
{
	return file_info(AT_FDCWD, path, AT_NO_AUTOMOUNT, ret_file);
}

int sys_file_size(int fd, uint64_t *ret_size)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	*ret_size = (uint64_t)st.st_size;
	return 0;
}

int sys_eventfd(void)
{
	return result(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

int sys_event_set(int fd)
{
	const uint64_t one = 1;

	/* Fails only when the counter is full, and then the descriptor is readable. */
	return write(fd, &one, sizeof(one)) < 0 && errno != EAGAIN ? -errno : 0;
}

int sys_event_clear(int fd)
{
	uint64_t count;

	return read(fd, &count, sizeof(count)) < 0 && errno != EAGAIN ? -errno : 0;
}

int sys_timerfd(void)
{
	return result(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
}

int sys_timer_arm(int fd, uint64_t at_ns)
{
	struct itimerspec its = { 0 };

	if (at_ns != NEVER) {
		its.it_value.tv_sec = (time_t)(at_ns / NSEC_PER_SEC);
		its.it_value.tv_nsec = (long)(at_ns % NSEC_PER_SEC);
		if (!at_ns)
			its.it_value.tv_nsec = 1; /* all zero would disarm */
	}
	return result(timerfd_settime(fd, TFD_TIMER_ABSTIME, &its, NULL));
}

int sys_epoll(const int *fds, size_t nfds)
{
	int ep = epoll_create1(EPOLL_CLOEXEC);

	if (ep < 0)
		return -errno;
	for (size_t i = 0; i < nfds; i++) {
		struct epoll_event ev = { .events = EPOLLIN, .data.fd = fds[i] };

		if (epoll_ctl(ep, EPOLL_CTL_ADD, fds[i], &ev) < 0) {
			int err = -errno;

			close(ep);
			return err;
		}
	}
	return ep;
}

int sys_set_async(int fd)
{
	return result(fcntl(fd, F_SETFL, O_ASYNC | O_NONBLOCK));
}

int sys_wait_readable(const int *fds, size_t nfds, uint64_t until_ns)
{
	struct pollfd polls[2];
	uint64_t now = sys_now_ns();
	struct timespec ts = timespec_of(until_ns > now ? until_ns - now : 0);

	assert(nfds <= ARRAY_SIZE(polls));
	for (size_t i = 0; i < nfds; i++)
		polls[i] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
	return result(ppoll(polls, nfds, &ts, NULL));
}

int sys_set_owner(int fd, struct sys_owner owner)
{
	struct f_owner_ex ex = { .type = owner.type, .pid = owner.id };

	return result(fcntl(fd, F_SETOWN_EX, &ex));
}

int sys_set_signal(int fd, int signo)
{
	return result(fcntl(fd, F_SETSIG, signo));
}

int sys_set_lease(int fd, int type)
{
	return result(fcntl(fd, F_SETLEASE, type));
}

int sys_get_lease(int fd)
{
	return result(fcntl(fd, F_GETLEASE));
}

int sys_set_deleg(int fd, int type)
{
	struct delegation deleg = { .d_type = (uint16_t)type };

	return result(fcntl(fd, F_SETDELEG, &deleg));
}

int sys_get_deleg(int fd)
{
	struct delegation deleg = { 0 };

	if (fcntl(fd, F_GETDELEG, &deleg) < 0)
		return -errno;
	return deleg.d_type;
}

int sys_set_layout(int fd, int type, unsigned int flags)
{
	struct layout_lease lease = { .l_type = (uint16_t)type, .l_flags = flags };

	return result(fcntl(fd, F_SETLAYOUT, &lease));
}

int sys_get_layout(int fd, unsigned int *ret_flags)
{
	struct layout_lease lease = { 0 };

	if (fcntl(fd, F_GETLAYOUT, &lease) < 0)
		return -errno;
	*ret_flags = lease.l_flags;
	return lease.l_type;
}

int sys_same_description(int fd, int other)
{
	int ret = result(fcntl(fd, F_DUPFD_QUERY, other));

	if (ret != -EINVAL)
		return ret;
	ret = result((int)syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, fd, other));
	return ret < 0 ? ret : ret == 0;
}

static int read_int(int fd)
{
	char buf[16];
	ssize_t n = pread(fd, buf, sizeof(buf) - 1, 0);

	if (n < 0)
		return -errno;
	buf[n] = '\0';
	return atoi(buf);
}

int sys_open_break_time(void)
{
	return result(open("/proc/sys/fs/lease-break-time", O_RDONLY | O_CLOEXEC));
}

int sys_read_break_time(int fd)
{
	return read_int(fd);
}

int sys_leases_enabled(void)
{
	int fd = open("/proc/sys/fs/leases-enable", O_RDONLY | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -errno;
	ret = read_int(fd);
	close(fd);
	return ret;
}

int sys_open_maps(void)
{
	return result(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
}

static int procmap_query(int maps_fd, uintptr_t addr, struct procmap_query *q)
{
	q->size = sizeof(*q);
	q->query_addr = addr;
	return result(ioctl(maps_fd, PROCMAP_QUERY, q));
}

int sys_query_vma(int maps_fd, uintptr_t addr, struct sys_vma *ret_vma)
{
	struct procmap_query q = { 0 };
	int err = procmap_query(maps_fd, addr, &q);

	if (err == -ENOENT)
		return err;
	if (err) /* unknown before Linux 6.11 */
		return sys_parse_vma(addr, ret_vma);
	*ret_vma = (struct sys_vma){
		.start = q.vma_start,
		.end = q.vma_end,
		.offset = q.vma_offset,
		.dev = makedev(q.dev_major, q.dev_minor),
		.ino = q.inode,
		.readable = q.vma_flags & PROCMAP_QUERY_VMA_READABLE,
		.writable = q.vma_flags & PROCMAP_QUERY_VMA_WRITABLE,
		.shared = q.vma_flags & PROCMAP_QUERY_VMA_SHARED,
	};
	return 0;
}

/* A line of proc_pid_maps(5); *ret_name is its last field. */
static bool parse_vma_line(char *line, struct sys_vma *ret_vma, char **ret_name)
{
	unsigned int maj, min;
	uintmax_t ino;
	char perms[5];
	int path = 0;

	if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %" SCNx64 " %x:%x %ju %n", &ret_vma->start,
		   &ret_vma->end, perms, &ret_vma->offset, &maj, &min, &ino, &path) < 7)
		return false;
	ret_vma->dev = makedev(maj, min);
	ret_vma->ino = (ino_t)ino;
	ret_vma->readable = perms[0] == 'r';
	ret_vma->writable = perms[1] == 'w';
	ret_vma->shared = perms[3] == 's';
	*ret_name = line + path;
	(*ret_name)[strcspn(*ret_name, "\n")] = '\0';
	return true;
}

static int parse_maps(uintptr_t addr, struct sys_vma *ret_vma, char *ret_name, size_t size)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char *line = NULL, *name;
	size_t linesize = 0;
	int ret = -ENOENT;

	if (!maps)
		return -errno;
	while (ret == -ENOENT && getline(&line, &linesize, maps) > 0) {
		struct sys_vma vma = { 0 };

		if (!parse_vma_line(line, &vma, &name) || addr < vma.start || addr >= vma.end)
			continue;
		*ret_vma = vma;
		snprintf(ret_name, size, "%s", name);
		ret = 0;
	}
	free(line);
	fclose(maps);
	return ret;
}

int sys_parse_vma(uintptr_t addr, struct sys_vma *ret_vma)
{
	char name[1];

	return parse_maps(addr, ret_vma, name, sizeof(name));
}

int sys_vma_name(int maps_fd, uintptr_t addr, char *ret_name, size_t size)
{
	struct procmap_query q = {
		.vma_name_addr = (uintptr_t)ret_name,
		.vma_name_size = (uint32_t)size,
	};
	struct sys_vma vma;
	int err = procmap_query(maps_fd, addr, &q);

	if (err && err != -ENOENT)
		return parse_maps(addr, &vma, ret_name, size);
	if (!err && !q.vma_name_size)
		ret_name[0] = '\0';
	return err;
}

int sys_map_named(const char *name, size_t size, void **ret_addr)
{
	int fd = memfd_create(name, MFD_CLOEXEC);
	void *addr = MAP_FAILED;
	int err = 0;

	if (fd >= 0 && !ftruncate(fd, (off_t)size))
		addr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (addr == MAP_FAILED || madvise(addr, size, MADV_DONTFORK))
		err = -errno;
	if (fd >= 0)
		close(fd);
	if (err && addr != MAP_FAILED)
		munmap(addr, size);
	if (!err)
		*ret_addr = addr;
	return err;
}

void sys_unmap(void *addr, size_t size)
{
	munmap(addr, size);
}

uint64_t sys_memlock_limit(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_MEMLOCK, &lim) < 0 || lim.rlim_cur == RLIM_INFINITY)
		return UINT64_MAX;
	return lim.rlim_cur;
}

uint64_t sys_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

void sys_sleep(uint64_t ns)
{
	struct timespec ts = timespec_of(ns);

	nanosleep(&ts, NULL);
}

pid_t sys_getpid(void)
{
	return getpid();
}

pid_t sys_gettid(void)
{
	return (pid_t)syscall(SYS_gettid);
}

int sys_thread_create(pthread_t *ret_thread, void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	sigset_t old;
	int err;

	err = pthread_attr_init(&attr);
	if (err)
		return -err;
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	mask_signals(&old);
	err = pthread_create(ret_thread, &attr, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return -err;
}

int sys_tgkill(pid_t tid, int signo)
{
	return result((int)syscall(SYS_tgkill, getpid(), tid, signo));
}

int sys_wait_signal(const sigset_t *set, uint64_t at_ns, siginfo_t *ret_info)
{
	struct timespec ts, *timeout = NULL;

	if (at_ns != NEVER) {
		uint64_t now = sys_now_ns();

		ts = timespec_of(at_ns > now ? at_ns - now : 0);
		timeout = &ts;
	}
	return result(sigtimedwait(set, ret_info, timeout));
}

void *sys_calloc(size_t n, size_t size)
{
	return calloc(n, size);
}

void *sys_realloc(void *p, size_t size)
{
	return realloc(p, size);
}

/* ------------------------------------------------------------------------- */
/* io_uring */

static int uring_register(int ring_fd, unsigned int opcode, void *arg, unsigned int n)
{
	return result((int)syscall(SYS_io_uring_register, ring_fd, opcode, arg, n));
}

int sys_uring_probe(int ring_fd)
{
	struct io_uring_probe probe;

	memset(&probe, 0, sizeof(probe));
	return uring_register(ring_fd, IORING_REGISTER_PROBE, &probe, 0);
}

int sys_uring_set_slot(int ring_fd, unsigned int slot, void *addr, size_t length, uint64_t tag)
{
	struct iovec iov = { .iov_base = addr, .iov_len = length };
	struct io_uring_rsrc_update2 update = {
		.offset = slot,
		.data = (uintptr_t)&iov,
		.tags = tag ? (uintptr_t)&tag : 0,
		.nr = 1,
	};
	int ret = uring_register(ring_fd, IORING_REGISTER_BUFFERS_UPDATE, &update, sizeof(update));

	return ret < 0 ? ret : 0;
}

static int cancel(int ring_fd, struct uring_sync_cancel what)
{
	/* Timeouts of 0: all that are to be found are told, and none is waited for. */
	int ret = uring_register(ring_fd, REGISTER_SYNC_CANCEL, &what, 1);

	return ret == -ENOENT || ret == -EALREADY || ret == -ETIME ? 0 : ret;
}

static int cancel_fixed(int ring_fd)
{
	static const uint8_t ops[] = {
		IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, OP_READV_FIXED, OP_WRITEV_FIXED,
		OP_SEND_ZC,	      OP_SENDMSG_ZC,	     OP_URING_CMD,   OP_URING_CMD128,
	};
	int n = 0;

	for (unsigned int i = 0; i < ARRAY_SIZE(ops); i++) {
		int ret =
			cancel(ring_fd, (struct uring_sync_cancel){ .flags = CANCEL_OP | CANCEL_ALL,
								    .opcode = ops[i] });

		if (ret < 0)
			return ret;
		n += ret;
	}
	return n;
}

int sys_uring_cancel(int ring_fd, enum sys_cancel what, int fd, uint64_t user_data)
{
	struct uring_sync_cancel sc = { .fd = fd, .addr = user_data, .flags = CANCEL_ALL };

	switch (what) {
	case SYS_CANCEL_FIXED:
		return cancel_fixed(ring_fd);
	case SYS_CANCEL_FD:
		sc.flags |= CANCEL_FD;
		break;
	case SYS_CANCEL_USER_DATA: /* unless something else is asked for */
		break;
	case SYS_CANCEL_ANY:
		sc.flags |= CANCEL_ANY;
		break;
	}
	return cancel(ring_fd, sc);
}

int sys_uring_flush(int ring_fd)
{
	return result(
		(int)syscall(SYS_io_uring_enter, ring_fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0));
}
