// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Several regions, files and devices; recalling and regaining; other memory; probing. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "region.h"

#define DRAIN_MS 150

/* ------------------------------------------------------------------------- */
/* Several of everything */

static int pending(struct region *r)
{
	(void)r;
	return DAXLEASE_PENDING;
}

enum {
	REGIONS = 4
};

static void register_parts(struct stage *s, struct region *r)
{
	for (unsigned int i = 0; i < REGIONS; i++) {
		/* Overlapping, and none of them the whole. The second one takes its time. */
		const struct how how = { .offset = i * PAGE,
					 .length = 3 * PAGE,
					 .on_drain = i == 1 ? pending : NULL,
					 .drain_ms = i * DRAIN_MS };

		CHECK_EQ(region_try(&r[i], s->ctx, s->dev.pd, &s->file, s->w, &how), 0);
		CHECK_EQ(link_write(&s->link, r[i].addr, region_rkey(&r[i]), PAGE, 3), 0);
	}
	region_check_leased(&r[0], 1);
	CHECK_EQ(ctx_stats(s->ctx).leases, 1);
}

/* All of a file drain at the same time; the other side waits for the last of them. */
static void one_file_many_regions(const struct world *w, const void *arg)
{
	struct region r[REGIONS];
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	register_parts(&s, r);
	other_begin(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1);
	for (unsigned int i = 0; i < REGIONS; i++)
		WAIT_FOR(&r[i], drains, 1);
	sleep_ms(REGIONS * DRAIN_MS + 200);
	CHECK(other_waits(&s.other));
	region_check_leased(&r[1], 1);
	CHECK_EQ(daxlease_mr_drained(r[1].mr), 0);
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	CHECK(s.other.end_ns >= dereg_end_ns());
	for (unsigned int i = 0; i < REGIONS; i++) {
		region_check_released(&r[i], 0);
		region_end(&r[i]);
	}
	region_check_released(&s.region, 0);
	CHECK_EQ(ctx_stats(s.ctx).breaks, 1);
	stage_close(&s);
}

/* The lease stays until the last region is gone. */
static void lease_outlives_first(const struct world *w, const void *arg)
{
	struct region second;
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	region_make(&second, s.ctx, s.dev.pd, &s.file, w, NULL);
	CHECK(region_rkey(&second) != region_rkey(&s.region));
	region_end(&s.region);
	region_check_leased(&second, 1);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), 0);
	region_check_released(&second, 0);
	region_end(&second);
	stage_close(&s);
}

/* A range of the range, its own key: what is outside of it is not writable. */
static void sub_range(const struct world *w, const void *arg)
{
	const struct how how = { .offset = 4 * PAGE, .length = 2 * PAGE };
	struct stage s;
	uint32_t rkey;

	(void)arg;
	stage_open(&s, w, O_RDWR, &how);
	rkey = region_rkey(&s.region);
	stage_access(&s, 0, rkey, IBV_WC_SUCCESS);
	stage_access(&s, 1, rkey, IBV_WC_SUCCESS);
	stage_access(&s, 2, rkey, IBV_WC_REM_ACCESS_ERR);
	stage_close(&s);
}

static void files_are_independent(const struct world *w, const void *arg)
{
	const struct how slow = { .drain_ms = 1500 };
	struct other other2;
	struct region second;
	struct file file2;
	struct stage s;

	(void)arg;
	other_start(&other2);
	stage_open(&s, w, O_RDWR, &slow);
	file_make(&file2, w, "second", FILE_SIZE, O_RDWR);
	region_make(&second, s.ctx, s.dev.pd, &file2, w, NULL);
	other_begin(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1);
	WAIT_FOR(&s.region, drains, 1);
	CHECK_EQ(other_do(&other2, OP_TRUNCATE, file2.path, PAGE, -1), 0);
	CHECK(other_waits(&s.other));
	region_check_released(&second, 0);
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	region_check_released(&s.region, 0);
	region_end(&second);
	file_close(&file2);
	stage_close(&s);
	other_stop(&other2);
}

/* One file, registered with two protection domains of one device, and with another one. */
static void two_devices(const struct world *w, const void *arg)
{
	struct region second, third;
	struct link link2, link3;
	struct device dev2;
	struct ibv_pd *pd2;
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	device_open(&dev2, "rxe1");
	pd2 = ibv_alloc_pd(s.dev.ctx);
	CHECK(pd2);
	link_open(&link2, &s.dev, pd2);
	link_open(&link3, &dev2, dev2.pd);
	region_make(&second, s.ctx, pd2, &s.file, w, NULL);
	region_make(&third, s.ctx, dev2.pd, &s.file, w, NULL);
	stage_access(&s, 0, region_rkey(&s.region), IBV_WC_SUCCESS);
	CHECK_EQ(link_write(&link2, second.addr, region_rkey(&second), PAGE, 2), 0);
	CHECK_EQ(link_write(&link3, third.addr, region_rkey(&third), PAGE, 3), 0);
	CHECK_EQ(s.file.map[0], 3);
	/* A key is worth nothing in another domain. */
	CHECK(link_write(&link2, s.region.addr, region_rkey(&s.region), PAGE, 4) != IBV_WC_SUCCESS);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), 0);
	region_check_released(&s.region, 0);
	region_check_released(&second, 0);
	region_check_released(&third, 0);
	region_end(&second);
	region_end(&third);
	link_close(&link2);
	link_close(&link3);
	CHECK_EQ(ibv_dealloc_pd(pd2), 0);
	device_close(&dev2);
	stage_close(&s);
}

/* ------------------------------------------------------------------------- */
/* Regaining */

static const struct how with_regain = { .flags = DAXLEASE_MR_REGAIN };

static void check_regained(struct stage *s, unsigned int times, size_t length, uint32_t old_rkey)
{
	struct region *r = &s->region;
	struct daxlease_mr_info info;

	WAIT_FOR(r, regains, times);
	info = region_info(r);
	CHECK_EQ(r->regain.error, 0);
	CHECK_EQ(r->regain.length, length);
	CHECK_EQ(r->regain.rkey, info.rkey);
	CHECK_EQ(info.registered, length);
	CHECK_EQ(info.length, FILE_SIZE);
	CHECK_EQ(info.generation, times + 1);
	CHECK_EQ(info.state, DAXLEASE_STATE_ACTIVE);
	region_check_leased(r, 1);
	CHECK(info.rkey != old_rkey);
	stage_access(s, (unsigned int)(length / PAGE) - 1, info.rkey, IBV_WC_SUCCESS);
	stage_no_access(s, old_rkey);
}

/* Shrunk, grown again, and grown further than it was. */
static void regains(const struct world *w, const void *arg)
{
	static const size_t sizes[] = { 3 * PAGE, 5 * PAGE, 2 * FILE_SIZE, PAGE };
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, &with_regain);
	for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint32_t old = region_rkey(&s.region);
		size_t length = sizes[i] < FILE_SIZE ? sizes[i] : FILE_SIZE;

		CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, (long)sizes[i], -1), 0);
		check_regained(&s, i + 1, length, old);
		CHECK_EQ(s.region.releases, i + 1);
	}
	CHECK_EQ(ctx_stats(s.ctx).regained, ARRAY_SIZE(sizes));
	stage_close(&s);
}

/* Nothing is left to register: it waits for the file to grow. */
static void regains_from_nothing(const struct world *w, const void *arg)
{
	struct stage s;
	uint32_t old;

	(void)arg;
	stage_open(&s, w, O_RDWR, &with_regain);
	old = region_rkey(&s.region);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, 0, -1), 0);
	WAIT_FOR(&s.region, releases, 1);
	sleep_ms(300);
	CHECK_EQ(s.region.regains, 0);
	CHECK_EQ(daxlease_mr_get_state(s.region.mr), DAXLEASE_STATE_RELEASED);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, 4 * PAGE, -1), 0);
	check_regained(&s, 1, 4 * PAGE, old);
	stage_close(&s);
}

/* The other side keeps the file open for a while: it is taken again after that. */
static void regains_after_reader(const struct world *w, const void *arg)
{
	const struct how how = { .flags = DAXLEASE_MR_REGAIN | DAXLEASE_MR_DRAIN_FOR_READERS };
	struct stage s;
	uint32_t old;

	(void)arg;
	stage_open(&s, w, O_RDWR, &how);
	old = region_rkey(&s.region);
	other_begin(&s.other, OP_OPEN_READ, s.file.path, 700, -1);
	WAIT_FOR(&s.region, releases, 1);
	CHECK_EQ(daxlease_mr_regain(s.region.mr), -EAGAIN);
	CHECK(other_waits(&s.other));
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	check_regained(&s, 1, FILE_SIZE, old);
	CHECK(ctx_stats(s.ctx).lease_retries > 0);
	stage_close(&s);
}

/* chmod and its kin break a delegation and look again: that must come to an end. */
static void regains_beside(const struct world *w, const void *arg)
{
	static const enum op ops[] = { OP_CHMOD, OP_LINK, OP_RENAME };
	struct stage s;
	uint32_t old;

	(void)arg;
	stage_open(&s, w, O_RDWR, &with_regain);
	old = region_rkey(&s.region);
	for (unsigned int i = 0; i < ARRAY_SIZE(ops); i++)
		CHECK_EQ(other_do(&s.other, ops[i], s.file.path, 0, -1), 0);
	if (w->kind != DAXLEASE_KIND_DELEG) {
		region_check_untouched(&s.region);
	} else {
		WAIT_FOR(&s.region, regains, 1);
		sleep_ms(500);
		CHECK_EQ(s.region.regains, s.region.releases);
		stage_no_access(&s, old);
		stage_access(&s, 0, region_rkey(&s.region), IBV_WC_SUCCESS);
	}
	stage_close(&s);
}

/* ------------------------------------------------------------------------- */
/* Recall */

static void recall(struct stage *s)
{
	CHECK_EQ(daxlease_mr_recall(s->region.mr), 0);
	CHECK_EQ(s->region.releases, s->region.drains);
	CHECK_EQ(s->region.release_result, 0);
	CHECK_EQ(s->region.brk.cause, DAXLEASE_CAUSE_RECALL);
	CHECK_EQ(leases_in_kernel(s->file.ino), 0);
	CHECK_EQ(daxlease_mr_recall(s->region.mr), -EALREADY);
}

/* The holder changes its own file in between, in all ways that would break the lease. */
static void recalls_and_changes(const struct world *w, const void *arg)
{
	uint64_t begin;
	struct stage s;
	uint32_t old;
	int fd;

	(void)arg;
	stage_open(&s, w, O_RDWR, &with_regain);
	CHECK_EQ(daxlease_mr_regain(s.region.mr), -EALREADY);
	begin = now_ns();
	old = region_rkey(&s.region);
	recall(&s);
	CALL(ftruncate(s.file.fd, 4 * PAGE));
	CALL(truncate(s.file.path, 5 * PAGE));
	fd = (int)CALL(open(s.file.path, O_RDWR | O_CLOEXEC));
	CALL(chmod(s.file.path, 0600));
	sleep_ms(200);
	CHECK_EQ(s.region.regains, 0); /* left alone, in spite of DAXLEASE_MR_REGAIN */
	CHECK_EQ(daxlease_mr_regain(s.region.mr), is_quiet(w->kind) ? 0 : -EAGAIN);
	CALL(close(fd));
	WAIT_FOR(&s.region, regains, 1); /* by itself, from then on */
	check_regained(&s, 1, 5 * PAGE, old);
	CHECK((now_ns() - begin) / MSEC < SOON_MS);
	stage_close(&s);
}

/* Log rotation: the old file goes away under another name, a new one takes its place. */
static void rotates(const struct world *w, const void *arg)
{
	struct file next;
	struct region second;
	char old_path[300];
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	recall(&s);
	snprintf(old_path, sizeof(old_path), "%s.1", s.file.path);
	CALL(rename(s.file.path, old_path));
	file_make(&next, w, "file", FILE_SIZE, O_RDWR);
	region_make(&second, s.ctx, s.dev.pd, &next, w, NULL);
	CHECK_EQ(link_write(&s.link, second.addr, region_rkey(&second), PAGE, 9), 0);
	CHECK_EQ(daxlease_mr_regain(s.region.mr), 0);
	CHECK_EQ(s.region.regains, 1);
	stage_access(&s, 0, region_rkey(&s.region), IBV_WC_SUCCESS);
	CHECK_EQ(next.map[0], 9);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, next.path, 0, -1), 0);
	region_check_released(&second, 0);
	CHECK_EQ(s.region.releases, 1);
	region_end(&second);
	file_close(&next);
	stage_close(&s);
}

/* ------------------------------------------------------------------------- */
/* Memory that passes through */

struct memory {
	const char *name;
	const char *path; /* NULL: anonymous */
	size_t size;
	int flags;
};

static const struct memory memories[] = {
	{ "anonymous", NULL, FILE_SIZE, MAP_PRIVATE | MAP_ANONYMOUS },
	{ "tmpfs", "/dev/shm/memory", FILE_SIZE, MAP_SHARED },
	{ "hugetlbfs", "/dax/huge/memory", 2u << 20, MAP_SHARED },
};

static void passes_through(const struct world *w, const void *arg)
{
	const struct memory *m = arg;
	struct daxlease_mr *mr;
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct stage s;
	uint8_t *addr;
	int fd = -1;

	stage_begin(&s, w, DAXLEASE_MODE_THREAD);
	link_open(&s.link, &s.dev, s.dev.pd);
	if (m->path) {
		fd = (int)CALL(open(m->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
		CALL(ftruncate(fd, (off_t)m->size));
	}
	addr = mmap(NULL, m->size, PROT_READ | PROT_WRITE, m->flags, fd, 0);
	CHECK(addr != MAP_FAILED);
	CHECK_EQ(daxlease_reg_mr(s.ctx, s.dev.pd, fd, addr, m->size,
				 IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE, NULL, &mr),
		 0);
	CHECK_EQ(daxlease_mr_get_info(mr, &info), 0);
	CHECK_EQ(info.kind, DAXLEASE_KIND_NONE);
	CHECK(!info.on_demand);
	CHECK_EQ(info.lease_fd, -1);
	CHECK_EQ(leases_in_kernel(0), 0);
	CHECK_EQ(link_write(&s.link, addr + m->size - PAGE, info.rkey, PAGE, 0x42), 0);
	CHECK_EQ(addr[m->size - 1], 0x42);
	CHECK_EQ(daxlease_mr_recall(mr), -EOPNOTSUPP);
	CHECK_EQ(daxlease_mr_regain(mr), -EOPNOTSUPP);
	CHECK_EQ(daxlease_dereg_mr(mr), 0);
	link_close(&s.link);
	stage_end(&s);
}

/* ------------------------------------------------------------------------- */
/* Probing */

static void probes(const struct world *w, const void *arg)
{
	const struct daxlease_mr_opts deleg = { .size = sizeof(deleg),
						.kind = DAXLEASE_KIND_DELEG };
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct daxlease_caps caps = { .size = sizeof(caps) };
	struct daxlease_mr *mr;
	struct stage s;

	(void)arg;
	stage_begin(&s, w, DAXLEASE_MODE_THREAD);
	file_make(&s.file, w, "file", FILE_SIZE, O_RDWR);
	CHECK_EQ(daxlease_probe(s.file.fd, s.dev.ctx, &caps), 0);
	CHECK(caps.fs_dax && caps.leases_enabled);
	CHECK_EQ(caps.lease_break_time, 45);
	CHECK_EQ(caps.best, layouts_found & KIND_LAYOUT	    ? DAXLEASE_KIND_LAYOUT :
			    layouts_found & KIND_LAYOUT_RFC ? DAXLEASE_KIND_LAYOUT_RFC :
			    guard_found			    ? DAXLEASE_KIND_GUARD :
							      DAXLEASE_KIND_DELEG);
	CHECK_EQ(caps.kinds[DAXLEASE_KIND_DELEG].error, 0);
	CHECK_EQ(caps.kinds[DAXLEASE_KIND_LEASE].error, 0);
	CHECK_EQ(caps.kinds[DAXLEASE_KIND_LAYOUT].error,
		 layouts_found & KIND_LAYOUT ? 0 : -EOPNOTSUPP);
	CHECK_EQ(caps.kinds[DAXLEASE_KIND_GUARD].error, guard_found ? 0 : -EOPNOTSUPP);
	CHECK(caps.kinds[DAXLEASE_KIND_LEASE].write);
	CHECK_EQ(caps.odp_error, 0);
	CHECK(caps.odp_rc_caps & IBV_ODP_SUPPORT_WRITE);
	CHECK_EQ(leases_in_kernel(0), 0);
	/* What it promises is what one gets. */
	CHECK_EQ(daxlease_reg_mr(s.ctx, s.dev.pd, s.file.fd, s.file.map, FILE_SIZE,
				 IBV_ACCESS_LOCAL_WRITE, NULL, &mr),
		 0);
	CHECK_EQ(daxlease_mr_get_info(mr, &info), 0);
	CHECK_EQ(info.kind, caps.best);
	CHECK_EQ(daxlease_dereg_mr(mr), 0);
	/* And it leaves alone what is leased already. */
	CHECK_EQ(daxlease_reg_mr(s.ctx, s.dev.pd, s.file.fd, s.file.map, FILE_SIZE,
				 IBV_ACCESS_LOCAL_WRITE, &deleg, &mr),
		 0);
	CHECK_EQ(leases_in_kernel(0), 1);
	CHECK_EQ(daxlease_probe(s.file.fd, s.dev.ctx, &caps), 0);
	CHECK_EQ(caps.kinds[DAXLEASE_KIND_LEASE].error, -EAGAIN);
	CHECK_EQ(caps.kinds[DAXLEASE_KIND_DELEG].error, -EAGAIN);
	CHECK_EQ(leases_in_kernel(0), 1);
	CHECK_EQ(daxlease_dereg_mr(mr), 0);
	sysctl_set("leases-enable", 0);
	CHECK_EQ(daxlease_probe(s.file.fd, s.dev.ctx, &caps), 0);
	CHECK(!caps.leases_enabled);
	CHECK_EQ(caps.best, guard_found ? DAXLEASE_KIND_GUARD : DAXLEASE_KIND_NONE);
	CHECK_EQ(!strstr(caps.reason, "leases-enable"), guard_found);
	file_close(&s.file);
	stage_end(&s);
}

void add_region_cases(void)
{
	add_case(one_file_many_regions, NULL, KIND_ALL, 0, "many/regions-of-a-file");
	add_case(lease_outlives_first, NULL, KIND_ALL, 0, "many/lease-outlives-first");
	add_case(sub_range, NULL, KIND_DELEG, 0, "many/sub-range");
	add_case(files_are_independent, NULL, KIND_ALL, 0, "many/files");
	add_case(two_devices, NULL, KIND_ALL, 0, "many/devices");
	add_case(regains, NULL, KIND_ALL, 0, "regain/shrunk-and-grown");
	add_case(regains_from_nothing, NULL, KIND_ALL, 0, "regain/from-nothing");
	add_case(regains_after_reader, NULL, KIND_BOTH, 0, "regain/after-reader");
	add_case(regains_beside, NULL, KIND_ALL, 0, "regain/beside-chmod");
	add_case(recalls_and_changes, NULL, KIND_ALL, 0, "recall/changes");
	add_case(rotates, NULL, KIND_ALL, 0, "recall/rotates");
	for (unsigned int i = 0; i < ARRAY_SIZE(memories); i++)
		add_case(passes_through, &memories[i], KIND_DELEG, 0, "memory/%s",
			 memories[i].name);
	add_case(probes, NULL, KIND_DELEG, 0, "probe");
}
