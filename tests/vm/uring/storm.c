// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * What all of this is for: requests without pause into and out of a file whose blocks are taken
 * away again and again, and given to a neighbour. The filesystem has no others. Were one request
 * to use a page that is no longer the file's, the neighbour's data would show it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "../region.h"
#include "ring.h"

#define RINGS 4u
#define SLICES 4u /* buffers of each ring */
#define DEPTH 32u
#define SLICE (4 * PAGE)
#define SIZE (RINGS * SLICES * SLICE)
#define LEFT_FREE SIZE
#define NEIGHBOUR (4u * SIZE) /* it gets less: all that is free, which it gives back */
#define ROUNDS 250	      /* of each manner: 500 together */
#define CHUNK 4096u
#define REQUEST_BYTE 0xee /* what requests bring; the neighbour has something else */
#define SECONDS 600

struct storm;

/* A ring and what it works on. */
struct worker {
	struct storm *storm;
	struct ring ring;
	struct buffer buffers[SLICES];
	/* Descriptors to read from and to write to, each with somebody at the other end. */
	int pipe[2], socket[2];
	int source; /* a file full of it, in memory */
	unsigned int inflight, next;
	unsigned long done, refused, cancelled;
	pthread_t thread, feeder, eater;
};

struct manner {
	const char *name;
	enum daxlease_mode mode;
	unsigned int flags[RINGS];
};

static const struct manner manners[] = {
	{ "threads",
	  DAXLEASE_MODE_THREAD,
	  { 0, IORING_SETUP_SQPOLL, IORING_SETUP_COOP_TASKRUN, 0 } },
	{ "loop",
	  DAXLEASE_MODE_LOOP,
	  { IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, IORING_SETUP_SINGLE_ISSUER, 0,
	    IORING_SETUP_SQPOLL } },
};

struct storm {
	const struct manner *m;
	struct daxlease_ctx *ctx;
	struct file file;
	struct worker workers[RINGS];
	atomic_bool stop, fed;
};

/* ------------------------------------------------------------------------- */
/* The neighbour, and who takes the blocks away: in another process */

static int fill(int fd, uint8_t byte, size_t size)
{
	uint8_t block[CHUNK];
	size_t at = 0;
	ssize_t n;

	memset(block, byte, sizeof(block));
	while (at < size && (n = pwrite(fd, block, sizeof(block), (off_t)at)) > 0)
		at += (size_t)n;
	return (int)at;
}

static bool is_all(int fd, uint8_t byte, size_t size)
{
	uint8_t block[CHUNK];

	for (size_t at = 0; at < size; at += sizeof(block)) {
		if (pread(fd, block, sizeof(block), (off_t)at) != sizeof(block))
			return false;
		for (size_t i = 0; i < sizeof(block); i++) {
			if (block[i] != byte)
				return false;
		}
	}
	return true;
}

static int take_blocks(const char *path, long round)
{
	int fd, ret;

	if (round % 2)
		return truncate(path, (round / 2) % 2 ? SIZE / 2 : 0);
	fd = open(path, O_RDWR | O_CLOEXEC);
	ret = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE / 4 * 3);
	if (ret)
		return ret;
	return close(fd);
}

#define EXTENTS 64

/* Where the file has its blocks. */
union blocks {
	struct fiemap map;
	char room[sizeof(struct fiemap) + EXTENTS * sizeof(struct fiemap_extent)];
};

static int get_blocks(const char *path, union blocks *b)
{
	int ret, fd = open(path, O_RDONLY | O_CLOEXEC);

	memset(b, 0, sizeof(*b));
	b->map.fm_length = FIEMAP_MAX_OFFSET;
	b->map.fm_flags = FIEMAP_FLAG_SYNC;
	b->map.fm_extent_count = EXTENTS;
	ret = ioctl(fd, FS_IOC_FIEMAP, &b->map);
	close(fd);
	return ret;
}

static bool overlap(const struct fiemap_extent *a, const struct fiemap_extent *b)
{
	return a->fe_physical < b->fe_physical + b->fe_length &&
	       b->fe_physical < a->fe_physical + a->fe_length;
}

static bool any_in_common(const union blocks *a, const union blocks *b)
{
	for (unsigned int i = 0; i < a->map.fm_mapped_extents; i++) {
		for (unsigned int j = 0; j < b->map.fm_mapped_extents; j++) {
			if (overlap(&a->map.fm_extents[i], &b->map.fm_extents[j]))
				return true;
		}
	}
	return false;
}

/* Shared with the other process: rounds in which the neighbour got blocks that were the file's. */
static atomic_uint *inherited;

static bool neighbour_is_left_alone(int fd, uint8_t byte, size_t size)
{
	bool good = is_all(fd, byte, size);

	sleep_ms(5);
	return good && is_all(fd, byte, size);
}

/* EILSEQ: somebody else wrote into the neighbour. */
static int one_round(const char *path, long round, int unused)
{
	const uint8_t byte = (uint8_t)(round % 0x80);
	union blocks before, after;
	char name[300];
	int fd, size;
	bool good;

	(void)unused;
	if (get_blocks(path, &before) || take_blocks(path, round))
		return -1;
	snprintf(name, sizeof(name), "%s.neighbour", path);
	fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || syncfs(fd)) /* XFS gives blocks to others only when it is on record */
		return -1;
	size = fill(fd, byte, NEIGHBOUR);
	good = neighbour_is_left_alone(fd, byte, (size_t)size);
	if (get_blocks(name, &after))
		return -1;
	atomic_fetch_add(inherited, any_in_common(&before, &after));
	/* Truncated, as XFS takes its time for what is unlinked. */
	if (ftruncate(fd, 0) || syncfs(fd) || close(fd) || unlink(name))
		return -1;
	if (!good) {
		errno = EILSEQ;
		return -1;
	}
	return truncate(path, SIZE);
}

/*
 * What the filesystems keep for themselves, from all the blocks that there are: others would get
 * those instead of the file's.
 */
static void no_reserve(const struct world *w)
{
	struct {
		uint64_t blocks, available;
	} few = { .blocks = 64 };
	int fd;

	if (strcmp(w->fs, "xfs")) {
		fd = (int)CALL(open("/sys/fs/ext4/pmem0/reserved_clusters", O_WRONLY | O_CLOEXEC));
		CHECK_EQ(write(fd, "0", 1), 1);
	} else {
		fd = (int)CALL(open(w->dir, O_RDONLY | O_CLOEXEC));
		CALL(ioctl(fd, _IOWR('X', 114, few), &few)); /* XFS_IOC_SET_RESBLKS */
	}
	CALL(close(fd));
}

/* Free blocks are rare from now on. */
static void hoard(const struct world *w)
{
	off_t size = 0, step = 64 << 20;
	char path[256];
	int fd;

	world_path(w, "hoard", path, sizeof(path));
	fd = (int)CALL(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	while (step >= PAGE) {
		if (!fallocate(fd, 0, size, step)) {
			size += step;
			continue;
		}
		CHECK_EQ(errno, ENOSPC);
		step /= 2;
	}
	CALL(ftruncate(fd, size - (off_t)LEFT_FREE));
	CALL(syncfs(fd));
	CALL(close(fd));
}

/* ------------------------------------------------------------------------- */
/* The other ends of pipes and sockets */

static void *feed(void *arg)
{
	struct worker *k = arg;
	uint8_t chunk[CHUNK];

	memset(chunk, REQUEST_BYTE, sizeof(chunk));
	while (!atomic_load(&k->storm->fed)) {
		if (write(k->pipe[1], chunk, sizeof(chunk)) < 0)
			sleep_ms(1);
		/* So that requests wait for it, rather than it for them. */
		sleep_ms(1);
	}
	return NULL;
}

static void *eat(void *arg)
{
	struct worker *k = arg;
	uint8_t chunk[CHUNK];

	while (read(k->socket[1], chunk, sizeof(chunk)) > 0)
		;
	return NULL;
}

/* ------------------------------------------------------------------------- */
/* A worker keeps DEPTH requests under way, of all kinds that there are, in each open buffer */

static void submit(struct worker *k)
{
	struct buffer *b = &k->buffers[k->next % SLICES];
	uint8_t *at = b->addr + k->next * CHUNK % (SLICE - CHUNK + 1) / CHUNK * CHUNK;

	k->next++;
	if (!atomic_load(&b->open))
		return;
	k->inflight++;
	switch (k->next % 4) {
	case 0:
		ring_read(&k->ring, b->slot, k->pipe[0], at, CHUNK, k->next);
		break;
	case 1:
		ring_write(&k->ring, b->slot, k->socket[0], at, CHUNK, k->next);
		break;
	default:
		ring_read(&k->ring, b->slot, k->source, at, CHUNK, k->next);
	}
}

static void count(struct worker *k, int res)
{
	k->inflight--;
	if (res == -EFAULT) /* submitted too late: the slot was empty */
		k->refused++;
	else if (res == -ECANCELED || res == -EINTR)
		k->cancelled++;
	else if (res >= 0)
		k->done++;
	else
		fail_at(__FILE__, __LINE__, "a request ended with %s", strerror(-res));
}

/* False: nothing came. */
static bool reap(struct worker *k)
{
	struct io_uring_cqe *cqe;
	bool any = false;

	if (k->ring.flags & IORING_SETUP_DEFER_TASKRUN)
		io_uring_get_events(&k->ring.uring);
	while (!io_uring_peek_cqe(&k->ring.uring, &cqe)) {
		struct io_uring_cqe got = *cqe;

		io_uring_cqe_seen(&k->ring.uring, cqe);
		any = true;
		if (daxlease_is_cqe(got.user_data))
			CHECK_EQ(daxlease_ring_cqe(k->ring.lib, got.user_data), 1);
		else
			count(k, got.res);
	}
	return any;
}

static void work_a_little(struct worker *k)
{
	bool stop = atomic_load(&k->storm->stop);

	for (unsigned int i = 0; i < DEPTH && k->inflight < DEPTH && !stop; i++)
		submit(k);
	reap(k);
}

static bool is_done(const struct worker *k)
{
	return atomic_load(&k->storm->stop) && !k->inflight;
}

static void *work(void *arg)
{
	struct worker *k = arg;

	while (!is_done(k)) {
		work_a_little(k);
		sched_yield();
	}
	return NULL;
}

/* All rings in one thread, which dispatches as well. */
static void *loop(void *arg)
{
	struct storm *st = arg;
	bool done = false;

	while (!done) {
		done = true;
		for (unsigned int i = 0; i < RINGS; i++) {
			work_a_little(&st->workers[i]);
			done = done && is_done(&st->workers[i]);
		}
		CHECK(daxlease_ctx_dispatch(st->ctx) >= 0);
		sched_yield();
	}
	return NULL;
}

/* ------------------------------------------------------------------------- */

static void worker_begin(struct worker *k, struct storm *st, unsigned int i, const struct world *w)
{
	char path[64];

	k->storm = st;
	ring_open(&k->ring, st->ctx, st->m->flags[i]);
	CALL(pipe2(k->pipe, O_CLOEXEC));
	CALL(fcntl(k->pipe[1], F_SETFL, O_NONBLOCK));
	CALL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, k->socket));
	snprintf(path, sizeof(path), "/run/uring-source-%u", i);
	k->source = (int)CALL(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	CHECK_EQ(fill(k->source, REQUEST_BYTE, SLICE), SLICE);
	for (unsigned int s = 0; s < SLICES; s++)
		buffer_make(&k->buffers[s], &k->ring, 1 + s, &st->file,
			    (i * SLICES + s) * (size_t)SLICE, SLICE, w, NULL);
	CHECK_EQ(pthread_create(&k->feeder, NULL, feed, k), 0);
	CHECK_EQ(pthread_create(&k->eater, NULL, eat, k), 0);
}

static void worker_end(struct worker *k)
{
	for (unsigned int s = 0; s < SLICES; s++) {
		CHECK_EQ(atomic_load(&k->buffers[s].regain_error), 0);
		CHECK(atomic_load(&k->buffers[s].result) == 0);
		CHECK_EQ(atomic_load(&k->buffers[s].drains), atomic_load(&k->buffers[s].releases));
		buffer_end(&k->buffers[s]);
	}
	ring_close(&k->ring);
	CALL(shutdown(k->socket[0], SHUT_RDWR));
	CHECK_EQ(pthread_join(k->eater, NULL), 0);
	CHECK_EQ(k->cancelled, 0);
	printf("ring %x: %lu done, %lu refused\n", k->ring.flags, k->done, k->refused);
}

/* Now that there are blocks again: all buffers into their slots. */
static void regain_all(struct storm *st)
{
	uint64_t end = now_ns() + SOON_MS * MSEC;
	int err;

	/* The lease may be refused while what was changed last is on its way out. */
	while ((err = daxlease_buf_regain(st->workers[0].buffers[0].buf)) == -EAGAIN) {
		CHECK(now_ns() < end);
		sleep_ms(1);
	}
	CHECK_EQ(err, 0);
	for (unsigned int i = 0; i < RINGS * SLICES; i++) {
		const struct buffer *b = &st->workers[i / SLICES].buffers[i % SLICES];

		while (!atomic_load(&b->open)) {
			CHECK(now_ns() < end);
			sleep_ms(1);
		}
	}
}

struct driver {
	struct storm *st;
	struct other other;
	unsigned int slowest_ms;
};

static void *drive(void *arg)
{
	struct driver *d = arg;

	for (long round = 0; round < ROUNDS; round++) {
		int err;

		sleep_ms((unsigned int)(round % 5));
		other_begin_fn(&d->other, one_round, d->st->file.path, round, -1);
		err = other_end(&d->other, 20000);
		if (err)
			fail_at(__FILE__, __LINE__, "round %ld: %s", round, strerror(-err));
		if (other_took_ms(&d->other) > d->slowest_ms)
			d->slowest_ms = other_took_ms(&d->other);
		regain_all(d->st);
	}
	atomic_store(&d->st->stop, true);
	return NULL;
}

static void begin(struct storm *st, const struct world *w)
{
	st->ctx = ctx_make(st->m->mode);
	file_make(&st->file, w, "file", SIZE, O_RDWR);
	no_reserve(w);
	hoard(w);
	for (unsigned int i = 0; i < RINGS; i++)
		worker_begin(&st->workers[i], st, i, w);
	CHECK_EQ(leases_in_kernel(st->file.ino), 1);
}

static void run(struct storm *st, struct driver *d)
{
	pthread_t driver;

	CHECK_EQ(pthread_create(&driver, NULL, drive, d), 0);
	if (st->m->mode == DAXLEASE_MODE_LOOP) {
		loop(st); /* here, where the rings were made */
	} else {
		for (unsigned int i = 0; i < RINGS; i++)
			CHECK_EQ(
				pthread_create(&st->workers[i].thread, NULL, work, &st->workers[i]),
				0);
		for (unsigned int i = 0; i < RINGS; i++)
			CHECK_EQ(pthread_join(st->workers[i].thread, NULL), 0);
	}
	CHECK_EQ(pthread_join(driver, NULL), 0);
	atomic_store(&st->fed, true);
	for (unsigned int i = 0; i < RINGS; i++)
		CHECK_EQ(pthread_join(st->workers[i].feeder, NULL), 0);
}

static void storm(const struct world *w, const void *arg)
{
	static struct storm st;
	struct driver d = { .st = &st };
	struct daxlease_stats stats;

	st.m = arg;
	inherited = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(inherited != MAP_FAILED);
	other_start(&d.other);
	begin(&st, w);
	run(&st, &d);
	other_stop(&d.other);
	stats = ctx_stats(st.ctx);
	printf("%u of %d times the neighbour got blocks of the file\n", atomic_load(inherited),
	       ROUNDS);
	fflush(stdout);
	CHECK_BETWEEN(atomic_load(inherited), ROUNDS / 4 * 3, ROUNDS);
	printf("%ju breaks, slowest round %u ms, longest drain %ju us, %ju overruns\n",
	       (uintmax_t)stats.breaks, d.slowest_ms, (uintmax_t)stats.drain_max_ns / 1000,
	       (uintmax_t)stats.overruns);
	CHECK(stats.breaks >= ROUNDS);
	CHECK_EQ(stats.overruns, 0);
	CHECK_EQ(stats.lost, 0);
	CHECK_EQ(stats.dereg_failures, 0);
	CHECK_EQ(log_errors(), 0);
	for (unsigned int i = 0; i < RINGS; i++)
		worker_end(&st.workers[i]);
	CHECK_EQ(ctx_stats(st.ctx).regions, 0);
	CHECK_EQ(daxlease_ctx_free(st.ctx), 0);
	file_close(&st.file);
	CHECK_EQ(leases_in_kernel(st.file.ino), 0);
	CHECK_EQ(pinned_kib(), 0);
}

void add_storm_cases(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(manners); i++)
		add_case(storm, &manners[i], KIND_LAYOUTS, SECONDS, "storm/%s", manners[i].name);
}
