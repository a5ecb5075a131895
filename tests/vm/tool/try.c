// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * What is true, for tool.sh to compare with what the tool says.
 *
 *   tool-try DEVICE FILE          with plain verbs and fcntl(2): one line for each
 *   tool-try --hold KIND DEVICE FILE ANSWER
 *                                 with the library: holds it, and answers a break when there
 *                                 is a file ANSWER
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <daxlease/daxlease.h>

#define PAGE 4096
#define ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)

static struct ibv_pd *open_device(const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);

	for (int i = 0; list && list[i]; i++) {
		if (!strcmp(ibv_get_device_name(list[i]), name)) {
			struct ibv_context *ctx = ibv_open_device(list[i]);

			return ctx ? ibv_alloc_pd(ctx) : NULL;
		}
	}
	return NULL;
}

static void print(const char *what, int err)
{
	printf("%s: %s\n", what, err ? strerrorname_np(err) : "ok");
}

static void try_register(struct ibv_pd *pd, void *addr, const char *what, int access)
{
	struct ibv_mr *mr = ibv_reg_mr(pd, addr, PAGE, access);

	print(what, mr ? 0 : errno);
	if (mr)
		ibv_dereg_mr(mr);
}

static void try_lease(int fd)
{
	int err = fcntl(fd, F_SETLEASE, F_WRLCK) ? errno : 0;

	print("lease", err);
	if (!err)
		fcntl(fd, F_SETLEASE, F_UNLCK);
}

static int try_all(struct ibv_pd *pd, int fd, void *addr)
{
	try_register(pd, addr, "pinned", ACCESS);
	try_register(pd, addr, "odp", ACCESS | IBV_ACCESS_ON_DEMAND);
	try_lease(fd);
	return 0;
}

static const char *answer;

static int on_drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	(void)mr;
	(void)brk;
	(void)userdata;
	while (access(answer, F_OK))
		usleep(20000);
	return 0;
}

static void on_log(enum daxlease_log_level level, const char *line, void *userdata)
{
	(void)level;
	(void)userdata;
	fprintf(stderr, "%s\n", line);
}

static int hold(const char *kind, struct ibv_pd *pd, int fd, void *addr)
{
	struct daxlease_ctx_opts ctx_opts = { .size = sizeof(ctx_opts),
					      .log_fn = on_log,
					      .guard_socket = getenv("GUARD_SOCKET"),
					      .flags = DAXLEASE_CTX_PUBLISH };
	struct daxlease_mr_opts opts = { .size = sizeof(opts),
					 .drain = on_drain,
					 .drain_budget_ms = 30000 };
	struct daxlease_ctx *ctx;
	struct daxlease_mr *mr;

	if (daxlease_kind_from_str(kind, &opts.kind) || daxlease_ctx_new(&ctx_opts, &ctx) ||
	    daxlease_reg_mr(ctx, pd, fd, addr, PAGE, ACCESS, &opts, &mr))
		return EXIT_FAILURE;
	puts("holds");
	fflush(stdout);
	pause();
	return 0;
}

int main(int argc, char **argv)
{
	bool holds = argc == 6 && !strcmp(argv[1], "--hold");
	const char *device = holds ? argv[3] : argv[1], *path = holds ? argv[4] : argv[2];
	struct ibv_pd *pd;
	void *addr;
	int fd;

	if (!holds && argc != 3)
		return 2;
	pd = open_device(device);
	fd = open(path, O_RDWR | O_CLOEXEC);
	addr = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (!pd || fd < 0 || addr == MAP_FAILED) {
		fprintf(stderr, "%s, %s: %s\n", device, path, strerror(errno));
		return 2;
	}
	if (!holds)
		return try_all(pd, fd, addr);
	answer = argv[5];
	return hold(argv[2], pd, fd, addr);
}
