// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * (d) Pinned under a layout lease, and with on-demand paging: the same file, device and
 * kernel. With plain verbs; what the library adds to either is in (a).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../tests/launcher/fcntl_layout.h"
#include "bench.h"

#define LENGTH ((size_t)256 << 20)
#define GIB ((double)(1 << 30))

enum way {
	PINNED,
	ODP,
	WAYS
};

/* -errno */
static int set_layout(int fd, int type)
{
	struct layout_lease l = { .l_type = (uint16_t)type };

	return fcntl(fd, F_SETLAYOUT, &l) ? -errno : 0;
}

static struct ibv_mr *register_it(const struct env *env, const struct region *r, enum way way)
{
	int access = ACCESS | (way == ODP ? IBV_ACCESS_ON_DEMAND : 0);
	struct ibv_mr *mr = ibv_reg_mr(env->pd, r->addr, r->length, access);

	if (!mr)
		die(errno, "ibv_reg_mr of %zu bytes, %s", r->length,
		    way == ODP ? "on demand" : "pinned");
	return mr;
}

/* Another mapping of the same file, with no page in it yet. */
static void map_anew(struct region *r)
{
	munmap(r->addr, r->length);
	r->addr = mmap(NULL, r->length, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);
	if (r->addr == MAP_FAILED)
		die(errno, "mmap of %zu bytes", r->length);
}

/* ------------------------------------------------------------------------- */
/* Registering */

struct reg_samples {
	struct samples reg, dereg;
};

static double per_gib(uint64_t ns, size_t length)
{
	return (double)ns / 1e6 * GIB / (double)length;
}

static void register_once(const struct env *env, struct region *r, enum way way,
			  struct reg_samples *s)
{
	uint64_t begin = now_ns(), middle;
	struct ibv_mr *mr = register_it(env, r, way);

	middle = now_ns();
	dereg_by_hand(mr);
	if (!s)
		return;
	samples_add(&s->dereg, per_gib(now_ns() - middle, r->length));
	samples_add(&s->reg, per_gib(middle - begin, r->length));
}

static void registering(const struct env *env, struct region *r, bool fresh, const char *name)
{
	unsigned int rounds = env->quick ? 10 : 40;
	struct reg_samples s[WAYS] = { 0 };

	for (unsigned int i = 0; i < WAYS * (rounds + 1); i++) {
		/* Changing order; the first of each is not counted. */
		enum way way = (i + i / WAYS) % WAYS;

		if (fresh)
			map_anew(r);
		register_once(env, r, way, i < WAYS ? NULL : &s[way]);
	}
	report_pair(name, "ms", &s[PINNED].reg, &s[ODP].reg, 0);
	report_pair("  deregistering", "ms", &s[PINNED].dereg, &s[ODP].dereg, 0);
	for (enum way way = 0; way < WAYS; way++) {
		samples_free(&s[way].reg);
		samples_free(&s[way].dereg);
	}
}

/* ------------------------------------------------------------------------- */
/* Touching */

static void write_pages(struct link *l, struct ibv_mr *mr, size_t pages, struct samples *s)
{
	for (size_t i = 0; i < pages; i++) {
		uint64_t begin = now_ns();

		link_write_page(l, (char *)mr->addr + i * PAGE, mr->rkey);
		samples_add(s, (double)(now_ns() - begin) / 1e3);
	}
}

static void touching(const struct env *env, struct region *r, const struct port *port)
{
	struct samples first[WAYS] = { 0 }, again[WAYS] = { 0 };
	unsigned int rounds = env->quick ? 4 : 8;
	struct link l;

	link_open(env, port, &l);
	for (unsigned int i = 0; i < WAYS * rounds; i++) {
		enum way way = (i + i / WAYS) % WAYS;
		struct ibv_mr *mr;

		map_anew(r);
		mr = register_it(env, r, way);
		write_pages(&l, mr, 256, &first[way]);
		write_pages(&l, mr, 256, &again[way]);
		dereg_by_hand(mr);
	}
	link_close(&l);
	report_pair("write to a page, just mapped, the first time", "us", &first[PINNED],
		    &first[ODP], 0);
	report_pair("  the second time", "us", &again[PINNED], &again[ODP], 0);
	for (enum way way = 0; way < WAYS; way++) {
		samples_free(&first[way]);
		samples_free(&again[way]);
	}
}

/* ------------------------------------------------------------------------- */
/* perftest */

/* Columns of its tables after the size and the iterations. */
struct column {
	const char *name, *unit;
	unsigned int at;
};

static void perftest(const struct env *env, const struct region *r, const struct port *port,
		     const struct perftest *p, const struct column *columns, size_t n)
{
	struct samples s[WAYS][PERFTEST_FIGURES] = { 0 };
	unsigned int rounds = env->quick ? 3 : 7;

	if (!perftest_is_there(p)) {
		report_note("not measured: there is no %s (Debian: perftest)", p->program);
		return;
	}
	for (unsigned int i = 0; i < WAYS * (rounds + 1); i++) {
		enum way way = (i + i / WAYS) % WAYS;
		double figures[PERFTEST_FIGURES];

		if (!perftest_run(env, port, p, r->fd, way == PINNED, figures))
			die(0, "%s failed", p->program);
		for (size_t j = 0; j < n && i >= WAYS; j++)
			samples_add(&s[way][j], figures[columns[j].at]);
	}
	for (size_t j = 0; j < n; j++) {
		report_pair(columns[j].name, columns[j].unit, &s[PINNED][j], &s[ODP][j], 0);
		samples_free(&s[PINNED][j]);
		samples_free(&s[ODP][j]);
	}
}

static void perftests(const struct env *env, const struct region *r, const struct port *port)
{
	static const struct perftest bw = { "ib_write_bw", 4000 }, lat = { "ib_write_lat", 1000 };
	static const struct column bw_columns[] = {
		{ "ib_write_bw, 4 KiB, average", "MiB/s", 1 },
	};
	static const struct column lat_columns[] = {
		{ "ib_write_lat, 4 KiB, typical", "us", 2 },
		{ "  average", "us", 3 },
		{ "  99 %", "us", 5 },
	};

	perftest(env, r, port, &bw, bw_columns, ARRAY_LEN(bw_columns));
	perftest(env, r, port, &lat, lat_columns, ARRAY_LEN(lat_columns));
}

/* ------------------------------------------------------------------------- */

static bool file_has(const char *path, const char *text)
{
	char buf[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	buf[n > 0 ? n : 0] = '\0';
	return strstr(buf, text);
}

/* So that nobody takes the figures for those of a device. */
static void say_what_is_emulated(const struct env *env)
{
	const char *device = ibv_get_device_name(env->device->device);
	char path[256];

	snprintf(path, sizeof(path), "/sys/class/infiniband/%s/node_desc", device);
	if (file_has(path, "rxe"))
		report_note("%s is soft-RoCE: processors copy what a device would", device);
	if (file_has("/proc/cpuinfo", "QEMU TCG"))
		report_note("the processors are emulated (QEMU without KVM)");
	if (file_has("/proc/cmdline", "memmap="))
		report_note("the persistent memory is ordinary memory (memmap=)");
}

static const char *why_not(const struct env *env)
{
	static char why[256];
	int fd, err;

	if (!env->regions)
		return env->why;
	fd = make_file(env, PAGE, NULL);
	err = set_layout(fd, F_RDLCK);
	close(fd);
	if (!err)
		return NULL;
	if (err == -EINVAL)
		return "this kernel has no layout leases (F_SETLAYOUT), or fs.leases-enable is 0, "
		       "so nothing is pinned";
	snprintf(why, sizeof(why), "F_SETLAYOUT: %s", strerror(-err));
	return why;
}

void bench_pinned(const struct env *env)
{
	struct region r;
	struct port port;
	const char *why;

	report_part("d", "pinned under a layout lease, and with on-demand paging (odp)");
	report_columns("pinned", "odp");
	why = why_not(env);
	if (why) {
		report_note("not measured: %s", why);
		return;
	}
	say_what_is_emulated(env);
	report_note("times for 1 GiB are four times what %zu MiB take", LENGTH >> 20);
	/* It populates the mapping, which gets all blocks written. */
	region_make(env, LENGTH, NULL, &r);
	if (set_layout(r.fd, F_RDLCK))
		die(errno, "F_SETLAYOUT");
	registering(env, &r, false, "registering 1 GiB, mapped and touched before");
	registering(env, &r, true, "registering 1 GiB, just mapped");
	why = port_find(env, &port);
	if (!why) {
		touching(env, &r, &port);
		perftests(env, &r, &port);
	} else {
		report_note("writes and perftest not measured: %s", why);
	}
	region_end(&r);
}
