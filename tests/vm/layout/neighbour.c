// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * What all of this is for: a peer writes to a file without pause, others try to take the
 * file's blocks away, and somebody waits for free blocks. Had the peer one write to
 * blocks that are no longer the file's, that somebody's data would show it.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../runner.h"
#include "../rdma.h"
#include "layout.h"

#define SIZE (8u << 20)
#define LEFT_FREE (48u << 20)
#define CHUNK 65536u
#define QUEUED 4u
#define CHUNK_AT(i) ((uint64_t)((i) % (SIZE / CHUNK)) * CHUNK)
#define TRY_MS 3000u
#define PEER_BYTE 0xee

/* In memory that all see. */
struct common {
	char file[256], hoard[256];
	/* The connection. */
	atomic_uint near_qp, far_qp, rkey;
	atomic_ullong addr;
	atomic_bool connected;
	/* The peer: */
	atomic_uint writes;
	atomic_int failed; /* enum ibv_wc_status, 0: it goes on */
	/* The holder is to drop its region and to give back. */
	atomic_bool give, given;
	/* The neighbour: bytes it has, whether it is to end. */
	atomic_ullong hoarded;
	atomic_bool stop;
};

static unsigned int wait_for(atomic_uint *value)
{
	uint64_t end = now_ns() + SOON_MS * MSEC;

	while (!atomic_load(value)) {
		CHECK(now_ns() < end);
		sleep_ms(1);
	}
	return atomic_load(value);
}

/* ------------------------------------------------------------------------- */
/* The holder. It never answers by itself. */

static void holder(struct common *c)
{
	struct ibv_qp *qp;
	struct device dev;
	struct ibv_mr *mr;
	struct file f;

	device_open(&dev, "rxe0");
	snprintf(f.path, sizeof(f.path), "%s", c->file);
	file_open(&f, SIZE, O_RDWR);
	layout_signal(f.fd);
	CHECK_EQ(layout_take(f.fd, 0), 0);
	mr = ibv_reg_mr(dev.pd, f.map, SIZE, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	CHECK(mr);
	qp = qp_make(dev.pd, ibv_create_cq(dev.ctx, 8, NULL, NULL, 0));
	atomic_store(&c->addr, (uintptr_t)f.map);
	atomic_store(&c->rkey, mr->rkey);
	atomic_store(&c->far_qp, qp->qp_num);
	qp_connect(&dev, qp, wait_for(&c->near_qp));
	atomic_store(&c->connected, true);
	while (!atomic_load(&c->give))
		sleep_ms(2);
	CHECK_EQ(ibv_dereg_mr(mr), 0);
	CHECK_EQ(layout_give(f.fd), 0);
	atomic_store(&c->given, true);
	pause();
}

/* ------------------------------------------------------------------------- */
/* The peer */

static void post(struct common *c, struct ibv_qp *qp, struct ibv_mr *mr, unsigned int i)
{
	struct ibv_sge sge = { .addr = (uintptr_t)mr->addr, .length = CHUNK, .lkey = mr->lkey };
	struct ibv_send_wr wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma = { .remote_addr = atomic_load(&c->addr) + CHUNK_AT(i),
			     .rkey = atomic_load(&c->rkey) },
	};
	struct ibv_send_wr *bad;

	CHECK_EQ(ibv_post_send(qp, &wr, &bad), 0);
}

/* As fast as it can, until the first that fails. */
static void peer(struct common *c)
{
	unsigned int posted = 0;
	struct ibv_wc wc = { 0 };
	struct device dev;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	struct ibv_mr *mr;
	void *buf;

	device_open(&dev, "rxe0");
	CHECK(!posix_memalign(&buf, PAGE, CHUNK));
	memset(buf, PEER_BYTE, CHUNK);
	mr = ibv_reg_mr(dev.pd, buf, CHUNK, IBV_ACCESS_LOCAL_WRITE);
	cq = ibv_create_cq(dev.ctx, 2 * QUEUED, NULL, NULL, 0);
	CHECK(mr && cq);
	qp = qp_make(dev.pd, cq);
	atomic_store(&c->near_qp, qp->qp_num);
	qp_connect(&dev, qp, wait_for(&c->far_qp));
	while (!atomic_load(&c->connected))
		sleep_ms(1);
	while (posted < QUEUED)
		post(c, qp, mr, posted++);
	for (;;) {
		if (ibv_poll_cq(cq, 1, &wc) != 1)
			continue;
		if (wc.status)
			break;
		atomic_fetch_add(&c->writes, 1);
		post(c, qp, mr, posted++);
	}
	atomic_store(&c->failed, wc.status);
	pause();
}

/* ------------------------------------------------------------------------- */
/* The neighbour */

static void hoard_page(uint8_t *page, off_t at)
{
	memset(page, 0x11, PAGE);
	memcpy(page, &at, sizeof(at));
}

static void fill(int fd, off_t from, off_t to)
{
	uint8_t page[PAGE];

	for (; from < to; from += PAGE) {
		hoard_page(page, from);
		CHECK_EQ(pwrite(fd, page, PAGE, from), PAGE);
	}
}

/* Takes what it can get at the moment. */
static off_t grab(int fd, off_t size)
{
	off_t chunk = 1 << 20;

	while (chunk >= PAGE) {
		if (fallocate(fd, 0, size, chunk)) {
			CHECK_EQ(errno, ENOSPC);
			chunk /= 2;
			continue;
		}
		fill(fd, size, size + chunk);
		size += chunk;
	}
	return size;
}

static void check_hoard(int fd, off_t size)
{
	uint8_t page[PAGE], wanted[PAGE];

	for (off_t at = 0; at < size; at += PAGE) {
		hoard_page(wanted, at);
		CHECK_EQ(pread(fd, page, PAGE, at), PAGE);
		if (memcmp(page, wanted, PAGE) != 0)
			fail_at(__FILE__, __LINE__, "the neighbour's data is damaged at %jd%s",
				(intmax_t)at, page[0] == PEER_BYTE ? ", by the peer" : "");
	}
}

static void neighbour(struct common *c)
{
	int fd = (int)CALL(open(c->hoard, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	off_t size = 0;

	while (!atomic_load(&c->stop)) {
		size = grab(fd, size);
		atomic_store(&c->hoarded, (unsigned long long)size);
		sleep_ms(2);
	}
	check_hoard(fd, size);
}

/* ------------------------------------------------------------------------- */
/* The case */

static pid_t start(struct common *c, void (*fn)(struct common *c))
{
	pid_t pid;

	fflush(NULL);
	pid = (pid_t)CALL(fork());
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn(c);
		_exit(EXIT_SUCCESS);
	}
	return pid;
}

/* So that there is not too much to fill. */
static void make_ballast(const struct world *w)
{
	struct statvfs fs;
	char path[256];
	off_t size;
	int fd;

	sync();
	CALL(statvfs(w->dir, &fs));
	size = (off_t)(fs.f_bavail * fs.f_frsize) - LEFT_FREE;
	CHECK(size > 0);
	world_path(w, "ballast", path, sizeof(path));
	fd = (int)CALL(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	CHECK_EQ(posix_fallocate(fd, 0, size), 0);
	CALL(close(fd));
}

static int expect_refused(int ret)
{
	CHECK_EQ(ret < 0 ? errno : 0, ETXTBSY);
	return 0;
}

/* Everything that would free blocks, again and again. */
static void attack(struct common *c, int fd)
{
	uint64_t end = now_ns() + TRY_MS * MSEC;
	unsigned int writes = atomic_load(&c->writes);
	struct snapshot before, after;

	snapshot_layout(&before, fd);
	while (now_ns() < end) {
		expect_refused(truncate(c->file, PAGE));
		expect_refused(open(c->file, O_WRONLY | O_TRUNC | O_CLOEXEC));
		expect_refused(
			fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE / 2));
		expect_refused(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, SIZE / 2));
		sleep_ms(20);
	}
	snapshot_layout(&after, fd);
	CHECK(!snapshot_differs(&before, &after));
	CHECK(atomic_load(&c->writes) > writes);
	CHECK_EQ(atomic_load(&c->failed), 0);
}

static void end_holder(struct common *c, pid_t pid, bool kills)
{
	uint64_t end = now_ns() + SOON_MS * MSEC;

	if (kills) {
		CALL(kill(pid, SIGKILL));
		CHECK(wait_child(pid, SOON_MS) >= 0);
		return;
	}
	atomic_store(&c->give, true);
	while (!atomic_load(&c->given)) {
		CHECK(now_ns() < end);
		sleep_ms(1);
	}
}

/* Now the blocks change hands, while the peer still tries. */
static void hand_over(struct common *c)
{
	unsigned long long before = atomic_load(&c->hoarded);
	uint64_t end = now_ns() + 30 * SEC;

	CALL(truncate(c->file, 0));
	while (atomic_load(&c->hoarded) < before + SIZE / 2) {
		CHECK(now_ns() < end);
		sync();
		sleep_ms(5);
	}
	while (!atomic_load(&c->failed)) {
		CHECK(now_ns() < end);
		sleep_ms(5);
	}
}

static void neighbours(const struct world *w, const void *arg)
{
	struct common *c =
		mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t holder_pid, neighbour_pid;
	struct file f;

	CHECK(c != MAP_FAILED);
	sysctl_set("lease-break-time", 1);
	world_path(w, "file", c->file, sizeof(c->file));
	world_path(w, "hoard", c->hoard, sizeof(c->hoard));
	pattern_write(c->file, SIZE, 1);
	make_ballast(w);
	holder_pid = start(c, holder);
	start(c, peer);
	wait_for(&c->writes);
	neighbour_pid = start(c, neighbour);
	snprintf(f.path, sizeof(f.path), "%s", c->file);
	file_open(&f, SIZE, O_RDWR);
	while (atomic_load(&c->hoarded) < LEFT_FREE / 2)
		sleep_ms(10);
	attack(c, f.fd);
	end_holder(c, holder_pid, *(const bool *)arg);
	hand_over(c);
	sleep_ms(500);
	atomic_store(&c->stop, true);
	expect_child_ok(neighbour_pid, 30000);
	fprintf(stderr, "%u writes, the last with status %d\n", atomic_load(&c->writes),
		atomic_load(&c->failed));
}

void add_neighbour_cases(void)
{
	static const bool kills = true, gives = false;

	runner_add(NULL, "neighbour/killed", neighbours, &kills, 0, 120);
	runner_add(NULL, "neighbour/deregistered", neighbours, &gives, 0, 120);
}
