// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Where there is no guard, or not for this file: refused, or another kind, and it is said why. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "holder.h"
#include "sock.h"

struct place {
	const char *name;
	const char *socket; /* of the context */
	bool user;	    /* without privileges */
	bool container;	    /* root, but of its own user namespace */
	enum daxlease_kind kind;
	unsigned int flags;
	int err;	 /* of registering */
	bool other_kind; /* it gets another kind instead */
	const char *says;
};

static const struct place places[] = {
	{ "user", NULL, true, false, DAXLEASE_KIND_GUARD, 0, -EOPNOTSUPP, false,
	  "no guard: no CAP_SYS_ADMIN (a container's own does not count), and no daxleased at /run/daxleased/socket (No such file" },
	{ "user-auto", NULL, true, false, DAXLEASE_KIND_AUTO, 0, 0, true,
	  "no guard: no CAP_SYS_ADMIN (a container's own does not count), and no daxleased at /run/daxleased/socket (No such file" },
	{ "user-auto-exclusive", NULL, true, false, DAXLEASE_KIND_AUTO, DAXLEASE_MR_EXCLUSIVE,
	  -EOPNOTSUPP, false, "no guard: no CAP_SYS_ADMIN" },
	{ "user-no-daemon", "", true, false, DAXLEASE_KIND_GUARD, 0, -EOPNOTSUPP, false,
	  "no CAP_SYS_ADMIN" },
	{ "no-socket", "/tmp/nobody", false, false, DAXLEASE_KIND_GUARD, 0, -EOPNOTSUPP, false,
	  "no daxleased at /tmp/nobody (No such file" },
	{ "no-socket-auto", "/tmp/nobody", false, false, DAXLEASE_KIND_AUTO, 0, 0, true,
	  "no daxleased at /tmp/nobody (No such file" },
	{ "container", NULL, false, true, DAXLEASE_KIND_GUARD, 0, -EOPNOTSUPP, false,
	  "no guard: no CAP_SYS_ADMIN (a container's own does not count)" },
	{ "container-auto", NULL, false, true, DAXLEASE_KIND_AUTO, 0, 0, true,
	  "no guard: no CAP_SYS_ADMIN (a container's own does not count)" },
	{ "wrong-socket", "/proc/self/status", false, false, DAXLEASE_KIND_GUARD, 0, -EOPNOTSUPP,
	  false, "no daxleased at /proc/self/status (Connection refused" },
};

static void write_file(const char *path, const char *text)
{
	int fd = (int)CALL(open(path, O_WRONLY | O_CLOEXEC));

	CHECK_EQ(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	CALL(close(fd));
}

/* All capabilities, in a user namespace where the file's owner is root. */
static void become_container_root(void)
{
	char map[32];

	become_user();
	CALL(unshare(CLONE_NEWUSER));
	snprintf(map, sizeof(map), "0 %d 1", USER);
	write_file("/proc/self/setgroups", "deny");
	write_file("/proc/self/uid_map", map);
}

static void no_guard(const struct world *w, const void *arg)
{
	const struct place *p = arg;
	const struct daxlease_ctx_opts opts = {
		.size = sizeof(opts),
		.log_fn = log_line,
		.log_level = DAXLEASE_LOG_INFO,
		.guard_socket = p->socket,
	};
	const struct how how = { .flags = p->flags };
	struct world mine = *w;
	struct daxlease_ctx *ctx;
	struct device dev;
	struct region r;
	struct file f;

	device_open(&dev, "rxe0");
	file_make(&f, w, "file", FILE_SIZE, O_RDWR);
	CALL(fchown(f.fd, USER, USER));
	if (p->container) /* while there is one thread */
		become_container_root();
	CHECK_EQ(daxlease_ctx_new(&opts, &ctx), 0);
	if (p->user)
		become_user();
	mine.kind = p->kind;
	CHECK_EQ(region_try(&r, ctx, dev.pd, &f, &mine, &how), p->err);
	CHECK(log_has(p->says));
	if (p->other_kind) {
		enum daxlease_kind kind = region_info(&r).kind;

		CHECK(kind != DAXLEASE_KIND_GUARD && kind != DAXLEASE_KIND_NONE);
		region_end(&r);
	}
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
}

/* ------------------------------------------------------------------------- */
/* Files that are not on FS-DAX */

static int try_fd(struct daxlease_ctx *ctx, struct device *dev, int fd,
		  enum daxlease_kind *ret_kind)
{
	const struct daxlease_mr_opts opts = { .size = sizeof(opts), .kind = DAXLEASE_KIND_GUARD };
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct daxlease_mr *mr;
	uint8_t *map;
	int err;

	CALL(ftruncate(fd, FILE_SIZE));
	map = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(map != MAP_FAILED);
	memset(map, 1, FILE_SIZE);
	err = daxlease_reg_mr(ctx, dev->pd, fd, map, FILE_SIZE, IBV_ACCESS_LOCAL_WRITE, &opts, &mr);
	if (!err) {
		CHECK_EQ(daxlease_mr_get_info(mr, &info), 0);
		*ret_kind = info.kind;
		CHECK_EQ(daxlease_dereg_mr(mr), 0);
	}
	CALL(munmap(map, FILE_SIZE));
	return err;
}

static void no_dax(const struct world *w, const void *arg)
{
	enum daxlease_kind kind = DAXLEASE_KIND_AUTO;
	struct daxlease_ctx *ctx = ctx_make_at(NULL);
	struct device dev;
	int fd;

	(void)w;
	(void)arg;
	device_open(&dev, "rxe0");
	fd = (int)CALL(open("/dax/pagecache/guard", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	CHECK_EQ(try_fd(ctx, &dev, fd, &kind), -EOPNOTSUPP);
	CHECK(log_has("page cache"));
	CALL(close(fd));
	/* Memory passes through, whatever kind is asked for: there is nothing to guard. */
	fd = (int)CALL(open("/dev/shm/guard", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	CHECK_EQ(try_fd(ctx, &dev, fd, &kind), 0);
	CHECK_EQ(kind, DAXLEASE_KIND_NONE);
	CALL(close(fd));
	CALL(unlink("/dev/shm/guard"));
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
}

/* The guard says of which filesystems it cannot be had. */
static void no_events(const struct world *w, const void *arg)
{
	struct daxlease_caps caps = { .size = sizeof(caps) };
	struct guard_msg msg = { .type = GUARD_TAKE, .id = 1 };
	struct daemon d = { 0 };
	int fd, sock;

	(void)w;
	(void)arg;
	fd = (int)CALL(open("/dev/shm/guard", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	CHECK_EQ(daxlease_probe(fd, NULL, &caps), 0);
	CHECK_EQ(caps.kinds[DAXLEASE_KIND_GUARD].error, -EOPNOTSUPP);
	daemon_start(&d);
	sock = daemon_connect(&d);
	CHECK_EQ(sock_send(sock, &msg, fd), 0);
	CHECK(daemon_hear(sock, &msg));
	CHECK_EQ(msg.error, -EOPNOTSUPP);
	CHECK(strstr(msg.text, "no pre-content events"));
	CALL(close(sock));
	CALL(close(fd));
	CALL(unlink("/dev/shm/guard"));
	daemon_stop(&d);
}

void add_missing_cases(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(places); i++)
		add_case(no_guard, &places[i], KIND_GUARD, 0, "missing/%s", places[i].name);
	add_case(no_dax, NULL, KIND_GUARD, 0, "missing/dax");
	add_case(no_events, NULL, KIND_GUARD, 0, "missing/events");
}
