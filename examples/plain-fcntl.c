/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * plain-fcntl: RDMA under a layout lease, with fcntl(2) and libibverbs alone.
 *
 * No library of this project: for kernels that have layout leases. There a lease
 * allows ibv_reg_mr() to pin pages of a file on FS-DAX. When somebody wants to free
 * or move blocks of the file, the kernel sends SIGIO and lets the other side wait
 * until the program has deregistered and has given the lease back.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <infiniband/verbs.h>

/* In case the headers of the C library are older than the kernel. */
#ifndef F_LAYOUT
#define F_LAYOUT 16
#define F_EXCLUSIVE 32
#endif
#ifndef F_SETLAYOUT
#define F_GETLAYOUT (1024 + 17)
#define F_SETLAYOUT (1024 + 18)
#define LAYOUT_UNBREAKABLE 1
#define LAYOUT_BREAKING 2
#define LAYOUT_NO_DEADLINE 0xffffffff

struct layout_lease {
	uint32_t l_flags;
	uint16_t l_type;
	uint16_t __pad;
	uint32_t l_break_ms;
	uint32_t l_pins;
};
#endif

/* The command line. */
static bool use_setlayout;
static bool unbreakable;

static void usage(FILE *out)
{
	fputs("usage: plain-fcntl [OPTION...] FILE DEVICE\n"
	      "\n"
	      "Take a layout lease on FILE, which has to be on a FS-DAX filesystem, map it and\n"
	      "register the mapping with the RDMA device DEVICE. Ends at Enter, at the end of\n"
	      "the input, or when somebody wants to free or move blocks of FILE: then it\n"
	      "deregisters and gives the lease back, and the other side goes on.\n"
	      "\n"
	      "  --setlayout    use F_SETLAYOUT instead of F_SETLEASE with F_LAYOUT\n"
	      "  --unbreakable  let those who want to free or move blocks fail (ETXTBSY)\n"
	      "                 instead of telling this program\n"
	      "  --help         show this text\n"
	      "\n"
	      "Exit status: 0 if the lease was held to the end or given back in time, 1 if\n"
	      "something failed, 2 for wrong usage.\n",
	      out);
}

/* What failed, why, and what to do about it. */
static int fail(const char *what, int err, const char *cure)
{
	fprintf(stderr, "plain-fcntl: %s: %s%s%s\n", what, strerror(err), cure ? "; " : "",
		cure ? cure : "");
	return -err;
}

static bool leases_enabled(void)
{
	char c = '1';
	int fd = open("/proc/sys/fs/leases-enable", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return true;
	if (read(fd, &c, 1) != 1)
		c = '1';
	close(fd);
	return c != '0';
}

static const char *lease_cure(int err)
{
	switch (err) {
	case EINVAL:
		if (!leases_enabled())
			return "leases are switched off: set /proc/sys/fs/leases-enable to 1";
		if (use_setlayout)
			return "this kernel has no F_SETLAYOUT: try without --setlayout, or use "
			       "the example register, which needs no layout lease";
		return "this kernel has no F_LAYOUT: try --setlayout, or use the example "
		       "register, which needs no layout lease";
	case EOPNOTSUPP:
		return "FILE is not on FS-DAX, or its filesystem has no layout leases: use ext4 "
		       "or XFS on persistent memory, mounted with -o dax=always";
	case EACCES:
		return "FILE belongs to somebody else: run as its owner, or with CAP_LEASE";
	case EAGAIN:
		return "somebody is changing FILE just now: try again";
	default:
		return NULL;
	}
}

/* Returns 0 or an errno. */
static int take_lease(int fd)
{
	struct layout_lease lease = {
		.l_type = F_RDLCK,
		.l_flags = unbreakable ? LAYOUT_UNBREAKABLE : 0,
	};
	int ret;

	if (use_setlayout)
		ret = fcntl(fd, F_SETLAYOUT, &lease);
	else
		ret = fcntl(fd, F_SETLEASE, unbreakable ? F_LAYOUT | F_EXCLUSIVE : F_LAYOUT);
	return ret ? errno : 0;
}

static int give_back(int fd)
{
	struct layout_lease lease = { .l_type = F_UNLCK };
	int ret;

	if (use_setlayout)
		ret = fcntl(fd, F_SETLAYOUT, &lease);
	else
		ret = fcntl(fd, F_SETLEASE, F_UNLCK);
	if (!ret)
		return 0;
	switch (errno) {
	case EAGAIN:
		return fail("F_UNLCK", errno,
			    "too late, the kernel has taken the lease: finish within "
			    "/proc/sys/fs/lease-break-time seconds");
	case EBUSY:
		return fail("F_UNLCK", errno,
			    "pages of FILE are still pinned: deregister all of it first");
	default:
		return fail("F_UNLCK", errno, NULL);
	}
}

static const char *reg_mr_cure(int err)
{
	switch (err) {
	case EOPNOTSUPP:
		return "the kernel does not pin these pages: the lease is being broken, or the "
		       "kernel takes the lease but has no pins for RDMA";
	case ENOMEM:
		return "the limit on locked memory may be too low: raise ulimit -l";
	case EFAULT:
		return "a page of the mapping cannot be had: is FILE shorter than it was, or is "
		       "the filesystem full?";
	default:
		return NULL;
	}
}

/* With F_SETLEASE nobody can ask for the time that is left. */
static void say_deadline(int fd)
{
	struct layout_lease lease = { 0 };

	if (!use_setlayout || fcntl(fd, F_GETLAYOUT, &lease))
		puts("break: somebody wants to change the file");
	else if (lease.l_break_ms == LAYOUT_NO_DEADLINE)
		puts("break: somebody wants to change the file, and waits as long as it takes");
	else
		printf("break: somebody wants to change the file, and waits %u ms\n",
		       (unsigned int)lease.l_break_ms);
}

/* Until SIGIO, Enter, or the end of the input. Returns whether it was SIGIO. */
static bool wait_for_break(int sigfd)
{
	struct pollfd fds[2] = {
		{ .fd = sigfd, .events = POLLIN },
		{ .fd = STDIN_FILENO, .events = POLLIN },
	};
	struct signalfd_siginfo info;

	while (poll(fds, 2, -1) < 0)
		;
	return fds[0].revents && read(sigfd, &info, sizeof(info)) == sizeof(info);
}

static int serve(struct ibv_pd *pd, int fd, size_t length, int sigfd)
{
	int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
	struct ibv_mr *mr;
	void *addr;
	int err;

	/*
	 * Before the lease, so that no break goes unnoticed between them. A signal that
	 * is set has a siginfo with the descriptor; the kernel resets it with the lease.
	 */
	if (fcntl(fd, F_SETSIG, SIGIO))
		return fail("F_SETSIG", errno, NULL);
	err = take_lease(fd);
	if (err)
		return fail(use_setlayout ? "F_SETLAYOUT" : "F_SETLEASE", err, lease_cure(err));

	addr = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (addr == MAP_FAILED) {
		err = fail("mmap", errno, NULL);
		goto unlock;
	}
	mr = ibv_reg_mr(pd, addr, length, access);
	if (!mr) {
		err = fail("ibv_reg_mr", errno, reg_mr_cure(errno));
		goto unmap;
	}
	printf("rkey 0x%08x; press Enter to end\n", mr->rkey);

	if (wait_for_break(sigfd)) {
		say_deadline(fd);
		/*
		 * Here a program tells its peers to stop, and waits for what is outstanding.
		 * Nobody was told this key.
		 */
		puts("finished: nothing is outstanding");
	}

	/* This order: while something is pinned, the lease cannot be given back. */
	err = ibv_dereg_mr(mr);
	if (err) {
		err = fail("ibv_dereg_mr", err, "the lease ends with this process");
		goto unmap;
	}
	puts("deregistered");
	err = give_back(fd);
	if (!err)
		puts("lease given back");
	munmap(addr, length);
	return err;
unmap:
	munmap(addr, length);
unlock:
	/* The end of the process gives it back, too; this is for those who copy the code. */
	(void)give_back(fd);
	return err;
}

static struct ibv_context *open_device(const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_context *device = NULL;

	if (!list) {
		fail("ibv_get_device_list", errno, "load the kernel module ib_uverbs");
		return NULL;
	}
	errno = ENODEV;
	for (int i = 0; list[i]; i++) {
		if (!strcmp(ibv_get_device_name(list[i]), name)) {
			device = ibv_open_device(list[i]);
			break;
		}
	}
	if (!device)
		fail(name, errno, errno == ENODEV ? "see ibv_devices for those there are" : NULL);
	ibv_free_device_list(list);
	return device;
}

/* SIGIO is blocked and read from a descriptor: by default it ends the program. */
static int open_signalfd(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return -1;
	return signalfd(-1, &set, SFD_CLOEXEC);
}

static int run(const char *file, const char *device_name)
{
	struct ibv_context *device;
	struct ibv_pd *pd;
	struct stat st;
	int sigfd;
	int err;
	int fd;

	sigfd = open_signalfd();
	if (sigfd < 0)
		return fail("signalfd", errno, NULL);
	fd = open(file, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		err = fail(file, errno, NULL);
		goto close_sigfd;
	}
	if (fstat(fd, &st)) {
		err = fail(file, errno, NULL);
		goto close_fd;
	}
	if (!S_ISREG(st.st_mode) || !st.st_size) {
		err = fail(
			file, EINVAL,
			"has to be a regular file that is not empty: make one with fallocate -l");
		goto close_fd;
	}
	device = open_device(device_name);
	if (!device) {
		err = -ENODEV;
		goto close_fd;
	}
	pd = ibv_alloc_pd(device);
	if (!pd) {
		err = fail("ibv_alloc_pd", errno, NULL);
		goto close_device;
	}
	err = serve(pd, fd, (size_t)st.st_size, sigfd);
	ibv_dealloc_pd(pd);
close_device:
	ibv_close_device(device);
close_fd:
	close(fd);
close_sigfd:
	close(sigfd);
	return err;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "setlayout", no_argument, NULL, 's' },
		{ "unbreakable", no_argument, NULL, 'u' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 's':
			use_setlayout = true;
			break;
		case 'u':
			unbreakable = true;
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			fputs("plain-fcntl: see --help\n", stderr);
			return 2;
		}
	}
	if (argc - optind != 2) {
		usage(stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	return run(argv[optind], argv[optind + 1]) ? 1 : 0;
}
