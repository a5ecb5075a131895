/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * register: the smallest complete use of libdaxlease.
 *
 * Maps FILE, leases it, registers it with DEVICE and prints the key. Then it
 * waits for Enter, SIGINT or SIGTERM. If somebody changes the file meanwhile,
 * the callbacks tell.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <daxlease/daxlease.h>

static void say(enum daxlease_log_level level, const char *line, void *userdata)
{
	(void)level;
	(void)userdata;
	fprintf(stderr, "daxlease: %s\n", line);
}

static int fail(const char *what, int err)
{
	fprintf(stderr, "register: %s: %s\n", what, strerror(-err));
	return err;
}

static void ignore(int signo)
{
	(void)signo;
}

/* The mask that the program was started with. */
static sigset_t wait_mask;

/* Returns at Enter, at the end of the input, or at a signal. */
static void wait_for_user(void)
{
	struct pollfd pfd = { .fd = STDIN_FILENO, .events = POLLIN };

	fputs("press Enter to end\n", stderr);
	(void)ppoll(&pfd, 1, NULL, &wait_mask);
}

/*
 * Somebody wants to change the file: stop using the key, and wait for what is
 * outstanding. The library deregisters when this has returned 0. Here nobody was
 * told the key, so there is nothing to wait for.
 */
static int on_drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	(void)mr;
	(void)brk;
	(void)userdata;
	puts("drain: nothing is outstanding");
	return 0;
}

static void print_key(uint32_t rkey)
{
	printf("rkey 0x%08x\n", rkey);
}

static int serve(struct daxlease_ctx *ctx, struct ibv_pd *pd, int fd, void *addr, size_t length)
{
	const int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
	/* quickstart: begin */
	struct daxlease_mr_opts opts = { .size = sizeof(opts), .drain = on_drain };
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct daxlease_mr *mr;
	int err = daxlease_reg_mr(ctx, pd, fd, addr, length, access, &opts, &mr);

	if (err)
		return err;
	if (!daxlease_mr_get_info(mr, &info) && info.registered)
		print_key(info.rkey);
	wait_for_user();
	return daxlease_dereg_mr(mr);
	/* quickstart: end */
}

static struct ibv_context *open_device(const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_context *device = NULL;

	if (!list) {
		fail("ibv_get_device_list (is ib_uverbs loaded?)", -errno);
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
		fail(name, -errno);
	ibv_free_device_list(list);
	return device;
}

static int run(struct ibv_pd *pd, int fd)
{
	const struct daxlease_ctx_opts opts = {
		.size = sizeof(opts),
		.log_fn = say,
		.log_level = DAXLEASE_LOG_INFO,
	};
	struct daxlease_ctx *ctx;
	struct stat st;
	void *addr;
	int err, free_err;

	if (fstat(fd, &st))
		return fail("fstat", -errno);
	if (!st.st_size) {
		fputs("register: FILE is empty\n", stderr);
		return -EINVAL;
	}
	addr = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (addr == MAP_FAILED)
		return fail("mmap", -errno);

	err = daxlease_ctx_new(&opts, &ctx);
	if (err) {
		fail("daxlease_ctx_new", err);
		goto unmap;
	}
	err = serve(ctx, pd, fd, addr, (size_t)st.st_size);
	if (err)
		fail("daxlease", err);
	/* -EBUSY if deregistering failed above; the exit takes care of the rest. */
	free_err = daxlease_ctx_free(ctx);
	if (!err && free_err)
		err = fail("daxlease_ctx_free", free_err);
unmap:
	munmap(addr, (size_t)st.st_size);
	return err;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = ignore };
	struct ibv_context *device;
	sigset_t mask;
	struct ibv_pd *pd;
	int err = 0;
	int fd;

	if (argc != 3) {
		fputs("usage: register FILE DEVICE\n", stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);

	/* SIGINT and SIGTERM are let in only by wait_for_user(). */
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigemptyset(&mask);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &mask, &wait_mask);

	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		fail(argv[1], -errno);
		return 1;
	}
	device = open_device(argv[2]);
	if (!device) {
		err = -ENODEV;
		goto close_fd;
	}
	pd = ibv_alloc_pd(device);
	if (!pd) {
		err = fail("ibv_alloc_pd", -errno);
		goto close_device;
	}
	err = run(pd, fd);
	ibv_dealloc_pd(pd);
close_device:
	ibv_close_device(device);
close_fd:
	close(fd);
	return err ? 1 : 0;
}
