/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * sigio: DAXLEASE_MODE_SIGNAL: the program's own SIGIO handler, no thread.
 *
 * The handler passes what it got to daxlease_ctx_notify(), which makes the context's
 * descriptor readable, and the loop below does the rest.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <daxlease/daxlease.h>

/* Written before the first lease is taken, so before the handler can run for one. */
static struct daxlease_ctx *sigio_ctx;

static void on_sigio(int signo, siginfo_t *info, void *ucontext)
{
	(void)signo;
	(void)ucontext;
	if (sigio_ctx)
		(void)daxlease_ctx_notify(sigio_ctx, info);
}

static int fail(const char *what, int err)
{
	fprintf(stderr, "sigio: %s: %s\n", what, strerror(-err));
	return err;
}

static void say(enum daxlease_log_level level, const char *line, void *userdata)
{
	(void)level;
	(void)userdata;
	fprintf(stderr, "daxlease: %s\n", line);
}

/* Runs inside daxlease_ctx_dispatch(), never inside the signal handler. */
static int on_drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	(void)mr;
	(void)brk;
	(void)userdata;
	puts("drain: nothing is outstanding");
	return 0;
}

static void on_release(struct daxlease_mr *mr, int result, void *userdata)
{
	bool *released = userdata;

	(void)mr;
	printf("released: %s\n", result ? strerror(-result) : "drained in time");
	*released = true;
}

/* Until the region is released, or Enter. */
static int loop(struct daxlease_ctx *ctx, const bool *released)
{
	struct pollfd fds[2] = {
		{ .fd = daxlease_ctx_get_fd(ctx), .events = POLLIN },
		{ .fd = STDIN_FILENO, .events = POLLIN },
	};

	if (fds[0].fd < 0)
		return fail("daxlease_ctx_get_fd", fds[0].fd);
	while (!*released) {
		if (poll(fds, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			return fail("poll", -errno);
		}
		if (fds[0].revents) {
			int n = daxlease_ctx_dispatch(ctx);

			if (n < 0)
				return fail("daxlease_ctx_dispatch", n);
		}
		if (fds[1].revents)
			break;
	}
	return 0;
}

static int serve(struct ibv_pd *pd, int fd, void *addr, size_t length)
{
	bool released = false;
	const struct daxlease_ctx_opts ctx_opts = {
		.size = sizeof(ctx_opts),
		.mode = DAXLEASE_MODE_SIGNAL, /* signo 0: SIGIO */
		.log_fn = say,
		.log_level = DAXLEASE_LOG_INFO,
	};
	const struct daxlease_mr_opts mr_opts = {
		.size = sizeof(mr_opts),
		.drain = on_drain,
		.release = on_release,
		.userdata = &released,
	};
	struct sigaction action = { .sa_sigaction = on_sigio, .sa_flags = SA_SIGINFO | SA_RESTART };
	int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct daxlease_ctx *ctx;
	struct daxlease_mr *mr;
	int err, dereg_err;

	/* The handler comes first: SIGIO without one ends the program. */
	if (sigaction(SIGIO, &action, NULL))
		return fail("sigaction", -errno);

	err = daxlease_ctx_new(&ctx_opts, &ctx);
	if (err)
		return fail("daxlease_ctx_new", err);
	sigio_ctx = ctx;

	err = daxlease_reg_mr(ctx, pd, fd, addr, length, access, &mr_opts, &mr);
	if (err) {
		fail("daxlease_reg_mr", err);
		goto free_ctx;
	}
	err = daxlease_mr_get_info(mr, &info);
	if (!err) {
		printf("rkey 0x%08x; press Enter to end\n", info.rkey);
		err = loop(ctx, &released);
	}
	dereg_err = daxlease_dereg_mr(mr);
	if (dereg_err)
		err = fail("daxlease_dereg_mr", dereg_err);
free_ctx:
	/* Without a lease the kernel sends no more signals. */
	signal(SIGIO, SIG_IGN);
	sigio_ctx = NULL;
	dereg_err = daxlease_ctx_free(ctx);
	if (!err && dereg_err)
		err = fail("daxlease_ctx_free", dereg_err);
	return err;
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

int main(int argc, char **argv)
{
	struct ibv_context *device;
	struct ibv_pd *pd = NULL;
	struct stat st;
	void *addr;
	int err;
	int fd;

	if (argc != 3) {
		fputs("usage: sigio FILE DEVICE\n", stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st)) {
		fail(argv[1], -errno);
		return 1;
	}
	if (!st.st_size) {
		fputs("sigio: FILE is empty\n", stderr);
		err = -EINVAL;
		goto close_fd;
	}
	addr = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (addr == MAP_FAILED) {
		err = fail("mmap", -errno);
		goto close_fd;
	}
	device = open_device(argv[2]);
	if (!device) {
		err = -ENODEV;
		goto unmap;
	}
	pd = ibv_alloc_pd(device);
	if (!pd) {
		err = fail("ibv_alloc_pd", -errno);
		goto close_device;
	}
	err = serve(pd, fd, addr, (size_t)st.st_size);
	ibv_dealloc_pd(pd);
close_device:
	ibv_close_device(device);
unmap:
	munmap(addr, (size_t)st.st_size);
close_fd:
	close(fd);
	return err ? 1 : 0;
}
