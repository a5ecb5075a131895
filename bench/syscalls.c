// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * daxlease-bench-syscalls: how many instructions the system calls take that the kernel
 * series touches, for programs that know nothing of layout leases. It compares nothing:
 * bench/series-cost runs it on two kernels.
 *
 * The time stamp counter has to count instructions, as scripts/vm --count-instructions
 * makes it; on others this program gives up.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/io_uring.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <x86intrin.h>

#include <infiniband/verbs.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define KIB (1024L)
#define MIB (1024 * KIB)

#define BUFFER (16 * MIB)
#define FULL (2 * MIB) /* the length of a file that has one */
#define HOLE (1 * MIB) /* where in there something is done to a page */

#define ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)

static const char *where; /* for messages and for the report */
static char path[4096];	  /* of the file */
static int fd = -1, direct_fd = -1, lease_fd = -1, ring_fd = -1;
static off_t end;    /* of the file, while it grows */
static char *buffer; /* anonymous memory, all of it there */
static struct ibv_context *device;
static struct ibv_pd *pd;

static void die(int err, const char *fmt, ...) __attribute__((noreturn, format(printf, 2, 3)));

static void die(int err, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "daxlease-bench-syscalls: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	if (err)
		fprintf(stderr, ": %s", strerror(err));
	fputc('\n', stderr);
	exit(2);
}

static void must(long result, long wanted, const char *what)
{
	if (result != wanted)
		die(result < 0 ? errno : 0, "%s: %s returned %ld", where, what, result);
}

/* ------------------------------------------------------------------------- */
/* What an operation finds. Not measured. */

static void empty(void)
{
	must(ftruncate(fd, 0), 0, "ftruncate");
	end = 0;
}

static void sparse(void)
{
	empty();
	must(ftruncate(fd, FULL), 0, "ftruncate");
}

static void preallocated(void)
{
	empty();
	must(fallocate(fd, 0, 0, FULL), 0, "fallocate");
}

static void full(void)
{
	empty();
	must(pwrite(fd, buffer, FULL, 0), FULL, "pwrite");
}

static void filled_again(void)
{
	must(pwrite(fd, buffer, 4 * KIB, HOLE), 4 * KIB, "pwrite");
}

/* ------------------------------------------------------------------------- */
/* The operations */

static void open_close(void)
{
	int new_fd = open(path, O_RDWR | O_CLOEXEC);

	if (new_fd < 0 || close(new_fd))
		die(errno, "%s: open or close", where);
}

static void read_page(void)
{
	must(pread(fd, buffer, 4 * KIB, HOLE), 4 * KIB, "pread");
}

static void write_page(void)
{
	must(pwrite(fd, buffer, 4 * KIB, HOLE), 4 * KIB, "pwrite");
}

static void write_much(void)
{
	must(pwrite(fd, buffer, 1 * MIB, 0), 1 * MIB, "pwrite");
}

static void append_page(void)
{
	must(pwrite(fd, buffer, 4 * KIB, end), 4 * KIB, "pwrite");
	end += 4 * KIB;
}

static void read_direct(void)
{
	must(pread(direct_fd, buffer, 4 * KIB, HOLE), 4 * KIB, "pread with O_DIRECT");
}

static void write_direct(void)
{
	must(pwrite(direct_fd, buffer, 4 * KIB, HOLE), 4 * KIB, "pwrite with O_DIRECT");
}

static void truncate_up(void)
{
	must(ftruncate(fd, FULL), 0, "ftruncate");
}

static void truncate_down(void)
{
	must(ftruncate(fd, 0), 0, "ftruncate");
}

static void preallocate(void)
{
	must(fallocate(fd, 0, 0, FULL), 0, "fallocate");
}

static void punch_page(void)
{
	must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, HOLE, 4 * KIB), 0,
	     "fallocate to punch a hole");
}

static void punch_all(void)
{
	must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, FULL), 0,
	     "fallocate to punch a hole");
}

static void zero_page(void)
{
	must(fallocate(fd, FALLOC_FL_ZERO_RANGE, HOLE, 4 * KIB), 0, "fallocate to zero a range");
}

static void map_fault_unmap(void)
{
	char *p = mmap(NULL, 4 * KIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, HOLE);

	if (p == MAP_FAILED)
		die(errno, "%s: mmap", where);
	*(volatile char *)p = 1;
	must(munmap(p, 4 * KIB), 0, "munmap");
}

static void lease_unlease(void)
{
	must(fcntl(lease_fd, F_SETLEASE, F_RDLCK), 0, "F_SETLEASE");
	must(fcntl(lease_fd, F_SETLEASE, F_UNLCK), 0, "F_SETLEASE, F_UNLCK");
}

static void register_mr(size_t length)
{
	struct ibv_mr *mr = ibv_reg_mr(pd, buffer, length, ACCESS);

	if (!mr)
		die(errno, "ibv_reg_mr of %zu bytes", length);
	must(ibv_dereg_mr(mr), 0, "ibv_dereg_mr");
}

static void register_mr_page(void)
{
	register_mr(4 * KIB);
}

static void register_mr_much(void)
{
	register_mr(1 * MIB);
}

static void register_mr_more(void)
{
	register_mr(16 * MIB);
}

static void register_buffer(size_t length)
{
	struct iovec iov = { buffer, length };

	must(syscall(SYS_io_uring_register, ring_fd, IORING_REGISTER_BUFFERS, &iov, 1), 0,
	     "IORING_REGISTER_BUFFERS");
	must(syscall(SYS_io_uring_register, ring_fd, IORING_UNREGISTER_BUFFERS, NULL, 0), 0,
	     "IORING_UNREGISTER_BUFFERS");
}

static void register_buffer_page(void)
{
	register_buffer(4 * KIB);
}

static void register_buffer_much(void)
{
	register_buffer(1 * MIB);
}

struct op {
	const char *name;
	void (*once)(void);   /* before all of them, or NULL */
	void (*before)(void); /* before each, or NULL */
	void (*run)(void);
};

static const struct op file_ops[] = {
	{ "truncate up to 2 MiB", NULL, empty, truncate_up },
	{ "truncate down, 2 MiB of blocks", NULL, full, truncate_down },
	{ "truncate down, 2 MiB without blocks", NULL, sparse, truncate_down },
	{ "punch a hole, 2 MiB of blocks", NULL, full, punch_all },
	{ "punch a hole, 4 KiB", full, filled_again, punch_page },
	{ "punch a hole where there is one", sparse, NULL, punch_all },
	{ "zero a range, 4 KiB", full, filled_again, zero_page },
	{ "preallocate 2 MiB", NULL, empty, preallocate },
	{ "preallocate what is allocated", preallocated, NULL, preallocate },
	{ "write in place, 4 KiB", full, NULL, write_page },
	{ "write in place, 1 MiB", full, NULL, write_much },
	{ "write to the end, 4 KiB", empty, NULL, append_page },
	{ "write to the end, 1 MiB", NULL, empty, write_much },
	{ "write with O_DIRECT, 4 KiB", full, NULL, write_direct },
	{ "read with O_DIRECT, 4 KiB", full, NULL, read_direct },
	{ "read, 4 KiB", full, NULL, read_page },
	{ "mmap, write fault, munmap", full, NULL, map_fault_unmap },
	{ "open and close", full, NULL, open_close },
	{ "F_SETLEASE, taken and given back", NULL, NULL, lease_unlease },
};

static const struct op memory_ops[] = {
	{ "ibv_reg_mr and _dereg_mr, 4 KiB", NULL, NULL, register_mr_page },
	{ "ibv_reg_mr and _dereg_mr, 1 MiB", NULL, NULL, register_mr_much },
	{ "ibv_reg_mr and _dereg_mr, 16 MiB", NULL, NULL, register_mr_more },
	{ "io_uring buffer and back, 4 KiB", NULL, NULL, register_buffer_page },
	{ "io_uring buffer and back, 1 MiB", NULL, NULL, register_buffer_much },
};

/* ------------------------------------------------------------------------- */
/* Counting */

static int compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* The median of so many. Timer ticks and work in the background are outliers then. */
static uint64_t median(const struct op *op, size_t repetitions)
{
	uint64_t *n = calloc(repetitions, sizeof(*n)), middle;

	if (!n)
		die(errno, "calloc");
	if (op->once)
		op->once();
	for (size_t i = 0; i < repetitions; i++) {
		if (op->before)
			op->before();
		n[i] = __rdtsc();
		op->run();
		n[i] = __rdtsc() - n[i];
	}
	qsort(n, repetitions, sizeof(*n), compare);
	middle = n[repetitions / 2];
	free(n);
	return middle;
}

/* The lowest of the rounds' medians: allocations that go the slow way add, none subtracts. */
static void measure(const struct op *ops, size_t n_ops, size_t rounds, size_t repetitions)
{
	uint64_t best[32], m;

	for (size_t r = 0; r < rounds; r++) {
		for (size_t i = 0; i < n_ops; i++) {
			m = median(&ops[i], repetitions);
			if (!r || m < best[i])
				best[i] = m;
		}
	}
	for (size_t i = 0; i < n_ops; i++)
		printf("%s\t%s\t%" PRIu64 "\n", where, ops[i].name, best[i]);
}

_Static_assert(ARRAY_LEN(file_ops) <= 32 && ARRAY_LEN(memory_ops) <= 32, "best[] is too short");

/* A loop of two instructions tells. Unless a timer tick comes between, hence several tries. */
static void check_counter(void)
{
	const uint64_t turns = 100000;
	uint64_t n, left, best = UINT64_MAX;

	for (int i = 0; i < 20; i++) {
		left = turns;
		n = __rdtsc();
		__asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(left) : : "cc");
		n = __rdtsc() - n;
		if (n < best)
			best = n;
	}
	if (best < 2 * turns || best > 2 * turns + 100)
		die(0,
		    "%" PRIu64 " instructions look like %" PRIu64 " to the time stamp counter; "
		    "is this scripts/vm --count-instructions?",
		    2 * turns, best);
}

/* ------------------------------------------------------------------------- */
/* Files, memory, devices */

static int open_file(const char *name, int flags)
{
	int new_fd = open(name, flags | O_CLOEXEC, 0600);

	if (new_fd < 0)
		die(errno, "%s", name);
	return new_fd;
}

static void measure_files(const char *dir, size_t rounds, size_t repetitions)
{
	char lease_path[sizeof(path)];
	struct statx st;

	where = dir;
	if ((size_t)snprintf(path, sizeof(path), "%s/bench-syscalls", dir) >= sizeof(path) ||
	    (size_t)snprintf(lease_path, sizeof(lease_path), "%s/bench-leased", dir) >=
		    sizeof(lease_path))
		die(ENAMETOOLONG, "%s", dir);
	fd = open_file(path, O_RDWR | O_CREAT | O_TRUNC);
	direct_fd = open_file(path, O_RDWR | O_DIRECT);
	/* Nobody may have it open for writing. */
	lease_fd = open_file(lease_path, O_RDONLY | O_CREAT);
	if (statx(fd, "", AT_EMPTY_PATH, 0, &st))
		die(errno, "statx of %s", path);
	if (!(st.stx_attributes & STATX_ATTR_DAX))
		die(0, "%s: files there are no DAX files", dir);
	measure(file_ops, ARRAY_LEN(file_ops), rounds, repetitions);
	unlink(path);
	unlink(lease_path);
	close(fd);
	close(direct_fd);
	close(lease_fd);
}

static void open_device(const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);

	if (!list)
		die(errno, "ibv_get_device_list");
	for (size_t i = 0; list[i] && !device; i++) {
		if (!name || !strcmp(ibv_get_device_name(list[i]), name))
			device = ibv_open_device(list[i]);
	}
	ibv_free_device_list(list);
	if (!device)
		die(0, "no RDMA device %s", name ? name : "");
	pd = ibv_alloc_pd(device);
	if (!pd)
		die(errno, "ibv_alloc_pd");
}

static void measure_memory(const char *device_name, size_t rounds, size_t repetitions)
{
	struct io_uring_params params = { 0 };

	where = "memory";
	open_device(device_name);
	ring_fd = (int)syscall(SYS_io_uring_setup, 1, &params);
	if (ring_fd < 0)
		die(errno, "io_uring_setup");
	measure(memory_ops, ARRAY_LEN(memory_ops), rounds, repetitions);
	close(ring_fd);
	ibv_dealloc_pd(pd);
	ibv_close_device(device);
}

/* Small pages: as many to pin as there can be. */
static void get_buffer(void)
{
	buffer = mmap(NULL, BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffer == MAP_FAILED)
		die(errno, "mmap");
	madvise(buffer, BUFFER, MADV_NOHUGEPAGE);
	memset(buffer, 'd', BUFFER);
}

/* ------------------------------------------------------------------------- */

static void usage(FILE *to)
{
	fprintf(to,
		"Usage: daxlease-bench-syscalls [OPTION...] DIR...\n"
		"\n"
		"Count the instructions of system calls on files in each DIR, which has to be\n"
		"on FS-DAX, and of registering anonymous memory with an RDMA device and with\n"
		"io_uring. For scripts/vm --count-instructions; see bench/series-cost.\n"
		"\n"
		"Prints lines of DIR (or \"memory\"), operation and instructions, separated by\n"
		"tabs: the lowest of the medians of all rounds.\n"
		"\n"
		"  --rounds N       rounds (5)\n"
		"  --repetitions N  of each operation in each round (41)\n"
		"  --device NAME    RDMA device; default: the first\n"
		"  --help           show this text\n");
}

static size_t number(const char *text)
{
	char *rest;
	unsigned long n = strtoul(text, &rest, 10);

	if (*rest || !n || n > 100000)
		die(0, "%s: not a number from 1 to 100000", text);
	return n;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "rounds", required_argument, NULL, 'r' },
		{ "repetitions", required_argument, NULL, 'n' },
		{ "device", required_argument, NULL, 'd' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	size_t rounds = 5, repetitions = 41;
	const char *device_name = NULL;
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'r':
			rounds = number(optarg);
			break;
		case 'n':
			repetitions = number(optarg);
			break;
		case 'd':
			device_name = optarg;
			break;
		case 'h':
			usage(stdout);
			return EXIT_SUCCESS;
		default:
			usage(stderr);
			return 2;
		}
	}
	if (optind == argc) {
		usage(stderr);
		return 2;
	}
	check_counter();
	get_buffer();
	for (int i = optind; i < argc; i++)
		measure_files(argv[i], rounds, repetitions);
	measure_memory(device_name, rounds, repetitions);
	return EXIT_SUCCESS;
}
