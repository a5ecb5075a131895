// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* What only layout leases have: pins, exclusive regions, a lease for each description. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "region.h"

#define QUIET_MS 150

/* The same file once more, with a description and a mapping of its own. */
static void open_again(struct file *to, const struct file *f)
{
	*to = *f;
	file_open(to, f->size, O_RDWR);
}

/* Others are refused at once, the holder as well; its peer does not notice. */
static void exclusive(const struct world *w, const void *arg)
{
	const struct how how = { .flags = DAXLEASE_MR_EXCLUSIVE };
	struct traffic traffic;
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, &how);
	traffic_start(&traffic, &s);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), -ETXTBSY);
	CHECK_EQ(other_do(&s.other, OP_PUNCH, s.file.path, PAGE, s.file.fd), -ETXTBSY);
	CHECK(truncate(s.file.path, PAGE) == -1 && errno == EDEADLK);
	traffic_check(&traffic);
	CHECK_EQ(traffic_stop(&traffic), 0);
	region_check_untouched(&s.region);
	CHECK_EQ(file_size_now(&s.file), FILE_SIZE);
	CHECK_EQ(daxlease_mr_recall(s.region.mr), 0);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, 4 * PAGE, -1), 0);
	CHECK_EQ(daxlease_mr_regain(s.region.mr), 0);
	CHECK_EQ(s.region.regain.length, 4 * PAGE);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), -ETXTBSY);
	stage_close(&s);
}

/* Two descriptions of a file: a lease for each, pinned both, and broken together. */
static void two_descriptions(const struct world *w, const void *arg)
{
	struct region second, third;
	struct file again;
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	open_again(&again, &s.file);
	CHECK_EQ(region_try(&second, s.ctx, s.dev.pd, &again, w, NULL), 0);
	CHECK_EQ(region_try(&third, s.ctx, s.dev.pd, &again, w, NULL), 0);
	CHECK(!region_info(&second).on_demand && !region_info(&third).on_demand);
	CHECK_EQ(leases_in_kernel(s.file.ino), 2);
	CHECK_EQ(link_write(&s.link, second.addr, region_rkey(&second), PAGE, 2), 0);
	CHECK_EQ(s.file.map[0], 2);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), 0);
	CHECK(s.other.end_ns >= dereg_end_ns());
	region_check_released(&s.region, 0);
	region_check_released(&second, 0);
	region_check_released(&third, 0);
	region_end(&second);
	region_end(&third);
	file_close(&again);
	stage_close(&s);
}

/* Mapped from one description, leased through another: not pinned, but guarded. */
static void wrong_description(const struct world *w, const void *arg)
{
	struct file again;
	struct region r;
	struct stage s;
	int fd;

	(void)arg;
	stage_begin(&s, w, DAXLEASE_MODE_THREAD);
	file_make(&s.file, w, "file", FILE_SIZE, O_RDWR);
	open_again(&again, &s.file);
	fd = s.file.fd;
	s.file.fd = again.fd;
	CHECK_EQ(region_try(&r, s.ctx, s.dev.pd, &s.file, w, NULL), 0);
	CHECK(region_info(&r).on_demand);
	CHECK(log_has("very descriptor"));
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), 0);
	region_check_released(&r, 0);
	region_end(&r);
	s.file.fd = fd;
	file_close(&again);
	file_close(&s.file);
	stage_end(&s);
}

/* The holder changes its own file: it is told, drains in the library's thread, and goes on. */
static void breaks_itself(const struct world *w, const void *arg)
{
	const struct how how = { .flags = DAXLEASE_MR_REGAIN, .drain_ms = QUIET_MS };
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, &how);
	CALL(ftruncate(s.file.fd, 4 * PAGE));
	CHECK_EQ(s.region.drains, 1);
	WAIT_FOR(&s.region, regains, 1);
	CHECK_EQ(s.region.release_result, 0);
	CHECK_EQ(s.region.regain.length, 4 * PAGE);
	CHECK(!region_info(&s.region).on_demand);
	stage_access(&s, 3, region_rkey(&s.region), IBV_WC_SUCCESS);
	stage_close(&s);
}

/* The program has registered the mapping by itself as well: the lease waits for that. */
static void others_have_pins(const struct world *w, const void *arg)
{
	struct ibv_mr *mr;
	struct stage s;

	(void)arg;
	stage_open(&s, w, O_RDWR, NULL);
	mr = ibv_reg_mr(s.dev.pd, s.file.map, PAGE, IBV_ACCESS_LOCAL_WRITE);
	CHECK(mr);
	log_forget();
	other_begin(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1);
	WAIT_FOR(&s.region, drains, 1);
	sleep_ms(QUIET_MS);
	CHECK(other_waits(&s.other));
	CHECK_EQ(s.region.releases, 0);
	CHECK_EQ(leases_in_kernel(s.file.ino), 1);
	CHECK_EQ(log_errors(), 1);
	CHECK(log_has("something else is pinned"));
	CHECK_EQ(ibv_dereg_mr(mr), 0);
	CHECK_EQ(other_end(&s.other, SOON_MS), 0);
	region_check_released(&s.region, 0);
	stage_close(&s);
}

/* Deregistering takes longer than the kernel waits: the other side is refused. */
static void late(const struct world *w, const void *arg)
{
	struct stage s;

	(void)arg;
	sysctl_set("lease-break-time", 1);
	stage_open(&s, w, O_RDWR, NULL);
	dereg_delay_ms = 3000;
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), -ETXTBSY);
	CHECK_BETWEEN(other_took_ms(&s.other), 900, 2900);
	CHECK_EQ(file_size_now(&s.file), FILE_SIZE);
	CHECK_EQ(leases_in_kernel(s.file.ino), 1);
	region_check_released(&s.region, 0);
	dereg_delay_ms = 0;
	CHECK_EQ(ctx_stats(s.ctx).lost, 0);
	CHECK_EQ(other_do(&s.other, OP_TRUNCATE, s.file.path, PAGE, -1), 0);
	stage_close(&s);
}

void add_layout_cases(void)
{
	add_case(exclusive, NULL, KIND_LAYOUTS, 0, "layout/exclusive");
	add_case(two_descriptions, NULL, KIND_LAYOUTS, 0, "layout/two-descriptions");
	add_case(wrong_description, NULL, KIND_LAYOUTS, 0, "layout/wrong-description");
	add_case(breaks_itself, NULL, KIND_LAYOUTS, 0, "layout/breaks-itself");
	add_case(others_have_pins, NULL, KIND_LAYOUTS, 0, "layout/others-have-pins");
	add_case(late, NULL, KIND_LAYOUTS, 0, "layout/late");
}
