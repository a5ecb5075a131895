// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "inspect.h"
#include "sock.h"

#define PAGE 4096
#define HUGE_PAGE (2ull << 20)
#define EXTENTS 64 /* asked for at once */

#ifndef STATX_ATTR_DAX
#define STATX_ATTR_DAX 0x00200000
#endif

/* ------------------------------------------------------------------------- */
/* The machine */

void inspect_machine(struct machine *m)
{
	struct rlimit limit;
	struct utsname name;
	int sock = sock_connect(GUARD_SOCKET);

	memset(m, 0, sizeof(*m));
	if (!uname(&name))
		snprintf(m->release, sizeof(m->release), "%s", name.release);
	m->leases_enable = proc_number("/proc/sys/fs/leases-enable");
	m->break_time = proc_number("/proc/sys/fs/lease-break-time");
	m->memlock = getrlimit(RLIMIT_MEMLOCK, &limit) ? 0 :
		     limit.rlim_cur == RLIM_INFINITY   ? UINT64_MAX :
							 limit.rlim_cur;
	m->can_guard = proc_capable(CAP_SYS_ADMIN);
	m->daemon = sock < 0 ? sock : 0;
	if (sock >= 0)
		close(sock);
}

/* ------------------------------------------------------------------------- */
/* Devices */

static void open_device(struct ibv_device *device, struct device *d)
{
	struct ibv_device_attr_ex attr = { 0 };
	struct ibv_port_attr port;

	snprintf(d->name, sizeof(d->name), "%s", ibv_get_device_name(device));
	d->ctx = ibv_open_device(device);
	d->pd = d->ctx ? ibv_alloc_pd(d->ctx) : NULL;
	if (!d->pd) {
		d->err = -errno;
		return;
	}
	if (!ibv_query_device_ex(d->ctx, NULL, &attr)) {
		d->odp_general = attr.odp_caps.general_caps & IBV_ODP_SUPPORT;
		d->odp_rc = attr.odp_caps.per_transport_caps.rc_odp_caps;
		d->odp_uc = attr.odp_caps.per_transport_caps.uc_odp_caps;
		d->odp_ud = attr.odp_caps.per_transport_caps.ud_odp_caps;
	}
	if (!ibv_query_port(d->ctx, 1, &port)) {
		d->active = port.state == IBV_PORT_ACTIVE;
		d->mtu = 128u << port.active_mtu;
	}
}

int inspect_devices(const char *only, struct device **ret_devices, size_t *ret_n)
{
	int count = 0;
	struct ibv_device **all = ibv_get_device_list(&count);
	struct device *devices = calloc((size_t)count + 1, sizeof(*devices));
	size_t n = 0;

	for (int i = 0; devices && i < count; i++) {
		if (!only || !strcmp(only, ibv_get_device_name(all[i])))
			open_device(all[i], &devices[n++]);
	}
	if (all)
		ibv_free_device_list(all);
	if (!devices)
		return -ENOMEM;
	if (only && !n) {
		free(devices);
		return -ENODEV;
	}
	*ret_devices = devices;
	*ret_n = n;
	return 0;
}

void inspect_devices_free(struct device *devices, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (devices[i].pd)
			ibv_dealloc_pd(devices[i].pd);
		if (devices[i].ctx)
			ibv_close_device(devices[i].ctx);
	}
	free(devices);
}

/* ------------------------------------------------------------------------- */
/* A file */

static bool can_have_dax(const char *fs)
{
	return !strcmp(fs, "ext4") || !strcmp(fs, "xfs");
}

/* 1 or 0; -1: nobody says. A partition's queue is that of its disk. */
static long device_has_dax(dev_t dev)
{
	char path[64];
	long dax;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/queue/dax", major(dev), minor(dev));
	dax = proc_number(path);
	if (dax >= 0)
		return dax;
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/../queue/dax", major(dev), minor(dev));
	return proc_number(path);
}

static void say_why_no_dax(const struct file_report *r, char *ret_why, size_t size)
{
	const struct mount *m = &r->mount;

	if (!can_have_dax(m->fs))
		snprintf(ret_why, size, "%s has no DAX: ext4 and XFS have", m->fs);
	else if (device_has_dax(r->id.dev) == 0)
		snprintf(ret_why, size, "%.64s is no persistent memory (its queue/dax is 0)",
			 m->source);
	else if (proc_has_option(m->options, "dax=never"))
		snprintf(ret_why, size, "mounted with dax=never: mount with dax=always");
	else if (proc_has_option(m->options, "dax=inode"))
		snprintf(
			ret_why, size,
			"mounted with dax=inode, and the file has no x attribute: xfs_io -c 'chattr +x' "
			"before it is filled, or mount with dax=always");
	else
		snprintf(ret_why, size, "mounted without dax=always");
}

/* Whether opening it would break somebody's lease. A layout lease does not mind. */
static bool is_leased(const struct file_report *r)
{
	for (size_t i = 0; i < r->nlocks; i++) {
		if (r->locks[i].kind == LOCK_LEASE || r->locks[i].kind == LOCK_DELEG)
			return true;
	}
	return false;
}

static int open_file(struct file_report *r)
{
	int fd = open(r->path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);

	r->writable = fd >= 0;
	if (fd < 0)
		fd = open(r->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}

static uint64_t huge_in(const struct fiemap_extent *e)
{
	uint64_t start = (e->fe_logical + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	uint64_t end = (e->fe_logical + e->fe_length) & ~(HUGE_PAGE - 1);

	if (e->fe_flags & (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_UNWRITTEN) ||
	    (e->fe_logical ^ e->fe_physical) & (HUGE_PAGE - 1))
		return 0;
	return end > start ? end - start : 0;
}

/* Where file and medium are both at a multiple of 2 MiB, without a partition's offset. */
static uint64_t huge_bytes(int fd)
{
	struct fiemap *map = calloc(1, sizeof(*map) + EXTENTS * sizeof(map->fm_extents[0]));
	uint64_t bytes = map ? 0 : UINT64_MAX;
	bool more = map;

	while (more) {
		map->fm_length = FIEMAP_MAX_OFFSET - map->fm_start;
		map->fm_extent_count = EXTENTS;
		if (ioctl(fd, FS_IOC_FIEMAP, map) < 0) {
			bytes = UINT64_MAX;
			break;
		}
		more = map->fm_mapped_extents;
		for (unsigned int i = 0; more && i < map->fm_mapped_extents; i++) {
			const struct fiemap_extent *e = &map->fm_extents[i];

			bytes += huge_in(e);
			more = !(e->fe_flags & FIEMAP_EXTENT_LAST);
			map->fm_start = e->fe_logical + e->fe_length;
		}
	}
	free(map);
	return bytes;
}

/* The library's last word on an error names the cause and the cure. */
static void keep_line(enum daxlease_log_level level, const char *line, void *userdata)
{
	struct attempt *a = userdata;

	if (level == DAXLEASE_LOG_ERR)
		snprintf(a->why, sizeof(a->why), "%s", line);
}

static int on_drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	(void)mr;
	(void)brk;
	(void)userdata;
	return 0; /* nothing is under way but one write, which may fail */
}

static void try_device(const struct file_report *r, int fd, void *addr, size_t length,
		       const struct device *d, bool traffic, struct attempt *a)
{
	const struct daxlease_ctx_opts ctx_opts = {
		.size = sizeof(ctx_opts),
		.log_fn = keep_line,
		.log_level = DAXLEASE_LOG_ERR,
		.log_userdata = a,
	};
	const struct daxlease_mr_opts mr_opts = { .size = sizeof(mr_opts), .drain = on_drain };
	struct daxlease_mr_info info = { .size = sizeof(info) };
	int access = r->writable ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE :
				   IBV_ACCESS_REMOTE_READ;
	struct daxlease_ctx *ctx;
	struct daxlease_mr *mr;

	a->err = d->err ? d->err : daxlease_ctx_new(&ctx_opts, &ctx);
	if (a->err)
		return;
	a->err = daxlease_reg_mr(ctx, d->pd, r->caps.fs_dax ? fd : -1, addr, length, access,
				 &mr_opts, &mr);
	if (!a->err) {
		daxlease_mr_get_info(mr, &info);
		a->kind = info.kind;
		a->on_demand = info.on_demand;
		a->traffic_tried = traffic && r->writable && length >= PAGE;
		if (a->traffic_tried)
			traffic_try(d, addr, info.rkey, a->traffic, sizeof(a->traffic));
		daxlease_dereg_mr(mr);
	}
	daxlease_ctx_free(ctx);
}

/* A page is enough: what holds for it holds for the file. */
static void try_devices(struct file_report *r, int fd, const struct device *devices,
			size_t ndevices, bool traffic)
{
	size_t length = r->size < PAGE ? r->size : PAGE;
	void *addr = MAP_FAILED;
	int err = -ENODATA;

	if (length) {
		addr = mmap(NULL, length, PROT_READ | (r->writable ? PROT_WRITE : 0), MAP_SHARED,
			    fd, 0);
		err = addr == MAP_FAILED ? -errno : 0;
	}
	for (size_t i = 0; i < ndevices; i++) {
		struct attempt *a = &r->attempts[i];

		a->err = err;
		if (!err)
			try_device(r, fd, addr, length, &devices[i], traffic, a);
		else
			snprintf(a->why, sizeof(a->why), "%s",
				 length ? strerror(-err) :
					  "the file is empty: nothing to register");
	}
	if (addr != MAP_FAILED)
		munmap(addr, length);
}

static int look(struct file_report *r)
{
	struct statx stx;
	int err;

	if (statx(AT_FDCWD, r->path, 0, STATX_BASIC_STATS, &stx) < 0)
		return -errno;
	r->id = (struct file_id){ makedev(stx.stx_dev_major, stx.stx_dev_minor), stx.stx_ino };
	r->owner = stx.stx_uid;
	r->size = stx.stx_size;
	r->may_lease = stx.stx_uid == geteuid() || proc_capable(CAP_LEASE);
	if (!S_ISREG(stx.stx_mode))
		return -EINVAL;
	err = proc_mount(-1, r->path, &r->mount);
	if (err)
		return err;
	if (!(stx.stx_attributes & STATX_ATTR_DAX))
		say_why_no_dax(r, r->why, sizeof(r->why));
	err = proc_locks(&r->id, &r->locks, &r->nlocks);
	return err ? err : proc_users(&r->id, getpid(), &r->users);
}

static void look_inside(struct file_report *r, const struct device *devices, size_t ndevices,
			bool traffic)
{
	int fd = open_file(r);

	if (fd < 0) {
		r->err = fd;
		snprintf(r->why, sizeof(r->why), "it cannot be opened: %s", strerror(-fd));
		return;
	}
	r->opened = true;
	r->caps.size = sizeof(r->caps);
	r->err = daxlease_probe(fd, ndevices ? devices[0].ctx : NULL, &r->caps);
	r->huge = r->caps.fs_dax ? huge_bytes(fd) : UINT64_MAX;
	if (!r->err)
		try_devices(r, fd, devices, ndevices, traffic);
	close(fd);
}

int inspect_file(const char *path, const struct device *devices, size_t ndevices, bool traffic,
		 struct file_report *r)
{
	memset(r, 0, sizeof(*r));
	r->path = path;
	r->huge = UINT64_MAX;
	r->attempts = calloc(ndevices + 1, sizeof(*r->attempts));
	if (!r->attempts)
		return -ENOMEM;
	r->err = look(r);
	if (r->err == -ENOMEM)
		return r->err;
	if (r->err)
		snprintf(r->why, sizeof(r->why), "%s",
			 r->err == -EINVAL ? "no regular file" : strerror(-r->err));
	else if (is_leased(r))
		snprintf(r->why, sizeof(r->why),
			 "somebody leases it, and opening it would break that: see daxlease who");
	else
		look_inside(r, devices, ndevices, traffic);
	return 0;
}

void inspect_file_free(struct file_report *r)
{
	proc_users_free(&r->users);
	free(r->locks);
	free(r->attempts);
}
