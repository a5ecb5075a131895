// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

/* <linux/fcntl.h> of Linux 6.19; older headers are what most machines have. */
#ifndef F_SETDELEG
#define F_SETDELEG (1024 + 16)
struct delegation {
	uint32_t d_flags;
	uint16_t d_type;
	uint16_t __pad;
};
#endif

/* ------------------------------------------------------------------------- */
/* Small things */

void die(int err, const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fprintf(stderr, "daxlease-bench: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	if (err)
		fprintf(stderr, ": %s", strerror(err < 0 ? -err : err));
	fprintf(stderr, "\n");
	exit(2);
}

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void sleep_ms(unsigned int ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

	nanosleep(&ts, NULL);
}

size_t raise_descriptors(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim))
		die(errno, "RLIMIT_NOFILE");
	if (lim.rlim_max < 1 << 16) /* root may */
		setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 1 << 16, 1 << 16 });
	getrlimit(RLIMIT_NOFILE, &lim);
	lim.rlim_cur = lim.rlim_max;
	setrlimit(RLIMIT_NOFILE, &lim);
	getrlimit(RLIMIT_NOFILE, &lim);
	return lim.rlim_cur;
}

void block_signal(int signo)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, signo);
	sigaddset(&set, SIGIO);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* ------------------------------------------------------------------------- */
/* Files and memory */

int make_file(const struct env *env, size_t length, const char *name)
{
	char path[sizeof(env->work) + 64];
	int fd, err;

	snprintf(path, sizeof(path), "%s/%s", env->work, name ? name : "unnamed");
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		die(errno, "%s", path);
	if (!name && unlink(path))
		die(errno, "unlink %s", path);
	err = posix_fallocate(fd, 0, (off_t)length);
	if (err)
		die(err, "%s: %zu bytes", path, length);
	return fd;
}

void region_make(const struct env *env, size_t length, const char *name, struct region *r)
{
	r->fd = make_file(env, length, name);
	r->length = length;
	r->addr = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, 0);
	if (r->addr == MAP_FAILED)
		die(errno, "mmap of %zu bytes in %s", length, env->dir);
}

void region_end(struct region *r)
{
	munmap(r->addr, r->length);
	if (r->fd >= 0)
		close(r->fd);
}

/* ------------------------------------------------------------------------- */
/* By hand */

static int set_lease(int fd, enum daxlease_kind kind, int type)
{
	struct delegation deleg = { .d_type = (uint16_t)type };

	if (kind == DAXLEASE_KIND_DELEG)
		return fcntl(fd, F_SETDELEG, &deleg) < 0 ? -errno : 0;
	return fcntl(fd, F_SETLEASE, type) < 0 ? -errno : 0;
}

int lease_by_hand(int fd, enum daxlease_kind kind, pid_t tid, int signo)
{
	struct f_owner_ex owner = { .type = F_OWNER_TID, .pid = tid };

	if (fcntl(fd, F_SETOWN_EX, &owner) < 0 || fcntl(fd, F_SETSIG, signo) < 0)
		return -errno;
	return set_lease(fd, kind, F_WRLCK);
}

int unlease_by_hand(int fd, enum daxlease_kind kind)
{
	return set_lease(fd, kind, F_UNLCK);
}

struct ibv_mr *reg_by_hand(const struct env *env, const struct region *r)
{
	struct ibv_mr *mr = ibv_reg_mr(env->pd, r->addr, r->length, ACCESS | IBV_ACCESS_ON_DEMAND);

	if (!mr)
		die(errno, "ibv_reg_mr of %zu bytes", r->length);
	return mr;
}

void dereg_by_hand(struct ibv_mr *mr)
{
	int err = ibv_dereg_mr(mr);

	if (err)
		die(err, "ibv_dereg_mr");
}

/* ------------------------------------------------------------------------- */
/* What there is */

static bool has_odp(struct ibv_context *device)
{
	struct ibv_device_attr_ex attr = { .comp_mask = 0 };

	return !ibv_query_device_ex(device, NULL, &attr) &&
	       attr.odp_caps.general_caps & IBV_ODP_SUPPORT;
}

static void open_device(struct env *env)
{
	struct ibv_device **list = ibv_get_device_list(NULL);

	for (size_t i = 0; list && list[i] && !env->device; i++) {
		if (env->device_name && strcmp(env->device_name, ibv_get_device_name(list[i])))
			continue;
		env->device = ibv_open_device(list[i]);
		if (env->device && !env->device_name && !has_odp(env->device)) {
			ibv_close_device(env->device);
			env->device = NULL;
		}
	}
	if (list)
		ibv_free_device_list(list);
	if (!env->device && env->device_name)
		die(0, "no RDMA device %s (ibv_devices lists them)", env->device_name);
	if (!env->device)
		return;
	env->pd = ibv_alloc_pd(env->device);
	if (!env->pd)
		die(errno, "protection domain of %s", ibv_get_device_name(env->device->device));
}

/* The strongest kind that this filesystem gives, or the one asked for. */
static void find_kind(struct env *env)
{
	struct daxlease_caps caps = { .size = sizeof(caps) };
	int fd = make_file(env, 4096, NULL);
	int err = daxlease_probe(fd, env->device, &caps);

	close(fd);
	if (err)
		die(err, "probing %s", env->dir);
	if (caps.kinds[DAXLEASE_KIND_GUARD].error)
		snprintf(env->no_guard, sizeof(env->no_guard), "%s", caps.reason);
	/* The guard has a part of its own: (a) to (c) are about leases of the kernel. */
	if (env->asked == DAXLEASE_KIND_AUTO && caps.best == DAXLEASE_KIND_GUARD)
		env->asked = caps.kinds[DAXLEASE_KIND_DELEG].error ? DAXLEASE_KIND_LEASE :
								     DAXLEASE_KIND_DELEG;
	env->kind = env->asked == DAXLEASE_KIND_AUTO ? caps.best : env->asked;
	if (env->kind == DAXLEASE_KIND_NONE)
		die(0, "no leases on %s: %s", env->dir, caps.reason);
	if (env->kind < DAXLEASE_KIND_MAX && caps.kinds[env->kind].error)
		die(caps.kinds[env->kind].error, "no lease of kind %s on %s",
		    daxlease_kind_str(env->kind), env->dir);
	if (!env->device)
		snprintf(env->why, sizeof(env->why), "no RDMA device with on-demand paging");
	else if (!caps.fs_dax)
		snprintf(env->why, sizeof(env->why), "%s is not on FS-DAX", env->dir);
	else if (caps.odp_error)
		snprintf(env->why, sizeof(env->why), "%s", caps.reason);
	else
		env->regions = true;
}

void env_open(struct env *env)
{
	snprintf(env->work, sizeof(env->work), "%s/daxlease-bench.XXXXXX", env->dir);
	if (!mkdtemp(env->work)) {
		int err = errno;

		env->work[0] = '\0';
		die(err, "a folder in %s", env->dir);
	}
	open_device(env);
	find_kind(env);
}

void env_close(struct env *env)
{
	if (env->pd)
		ibv_dealloc_pd(env->pd);
	if (env->device)
		ibv_close_device(env->device);
}

static void print_log(enum daxlease_log_level level, const char *line, void *userdata)
{
	(void)level;
	(void)userdata;
	fprintf(stderr, "daxlease-bench: library: %s\n", line);
}

static struct daxlease_ctx *make_ctx(const struct daxlease_ctx_opts *opts)
{
	struct daxlease_ctx *ctx;
	int err = daxlease_ctx_new(opts, &ctx);

	if (err)
		die(err, "daxlease_ctx_new");
	return ctx;
}

struct daxlease_ctx *new_ctx(const struct env *env, enum daxlease_mode mode)
{
	return make_ctx(&(struct daxlease_ctx_opts){
		.size = sizeof(struct daxlease_ctx_opts),
		.mode = mode,
		.kind = env->asked,
		.log_fn = print_log,
		.log_level = DAXLEASE_LOG_WARNING,
	});
}

struct daxlease_ctx *new_guard_ctx(const char *socket)
{
	return make_ctx(&(struct daxlease_ctx_opts){
		.size = sizeof(struct daxlease_ctx_opts),
		.kind = DAXLEASE_KIND_GUARD,
		.log_fn = print_log,
		/* That the breaker has the file open is what it is for. */
		.log_level = DAXLEASE_LOG_ERR,
		.guard_socket = socket,
	});
}
