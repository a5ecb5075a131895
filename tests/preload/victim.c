// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * A program that knows nothing of leases, in all the orders of events that hooks of memory and
 * of verbs are known to get wrong. Run with the shim before it, by run.sh: one scene for each
 * process.
 */
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "victim.h"

static struct ibv_pd *pd;
static char path[4096]; /* of a file of SIZE bytes on "FS-DAX" */

static int open_file(void)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	return fd;
}

/* And closes the descriptor. */
static uint8_t *map_file(void)
{
	int fd = open_file();
	uint8_t *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	CHECK(map != MAP_FAILED);
	close(fd);
	return map;
}

static struct ibv_mr *reg(void *addr, size_t length)
{
	return ibv_reg_mr(pd, addr, length, READ_WRITE);
}

/* Asks the kernel, and opens nothing that is leased. */
static bool is_leased(void)
{
	FILE *f = fopen("/proc/locks", "re");
	char line[256], inode[32];
	bool found = false;
	struct stat st;

	CHECK(f && !stat(path, &st));
	snprintf(inode, sizeof(inode), ":%lu ", (unsigned long)st.st_ino);
	while (fgets(line, sizeof(line), f))
		found |= strstr(line, "LEASE") && strstr(line, inode);
	fclose(f);
	return found;
}

static void wait_child(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
}

/* Somebody who has none of our descriptors: he is there before the first is opened. */
static int to_other[2], from_other[2];

static void start_other(const char *file)
{
	char byte;

	CHECK(!pipe2(to_other, O_CLOEXEC) && !pipe2(from_other, O_CLOEXEC));
	if (fork())
		return;
	close(to_other[1]);
	while (read(to_other[0], &byte, 1) == 1) {
		CHECK(!syscall(SYS_truncate, file, PAGE));
		CHECK(write(from_other[1], &byte, 1) == 1);
	}
	_exit(0);
}

static void change_by_other(void)
{
	char byte = 0;

	CHECK(write(to_other[1], &byte, 1) == 1);
	CHECK(read(from_other[0], &byte, 1) == 1);
}

static void dereg(struct ibv_mr *mr)
{
	CHECK(ibv_dereg_mr(mr) == 0);
}

/* ------------------------------------------------------------------------- */
/* Registering */

static void check_life(uint8_t *map)
{
	unsigned int before = fake_regs();
	struct ibv_mr *mr = reg(map, SIZE);

	CHECK(mr && mr->addr == map && mr->length == SIZE && mr->pd == pd && mr->lkey);
	CHECK(fake_regs() == before + 1 && fake_live() == 1);
	CHECK(fake_last_access() == (READ_WRITE | IBV_ACCESS_ON_DEMAND));
	CHECK(is_leased());
	dereg(mr);
	CHECK(!is_leased() && fake_live() == 0);
}

static void scene_basic(void)
{
	check_life(map_file());
}

static void scene_every_verb(void)
{
	uint8_t *map = map_file();
	unsigned int before = fake_regs();
	/* Each in the spelling that a compiler may choose. */
	struct ibv_mr *mrs[] = {
		(ibv_reg_mr)(pd, map, SIZE, READ_WRITE),
		(ibv_reg_mr_iova)(pd, map, SIZE, 0x10000, READ_WRITE),
		ibv_reg_mr_iova2(pd, map, SIZE, 0x20000, READ_WRITE),
	};

	CHECK(fake_last_iova() == 0x20000);
	CHECK(fake_regs() == before + 3 && is_leased());
	for (int i = 0; i < 3; i++) {
		CHECK(mrs[i]);
		CHECK(is_leased());
		dereg(mrs[i]);
	}
	CHECK(!is_leased() && fake_live() == 0);
}

static unsigned int count_threads(void)
{
	char line[256];
	unsigned int n = 0;
	FILE *f = fopen("/proc/self/status", "re");

	while (fgets(line, sizeof(line), f))
		sscanf(line, "Threads: %u", &n);
	fclose(f);
	return n;
}

static void scene_plain(void)
{
	void *memory = malloc(SIZE);
	struct ibv_mr *mr = reg(memory, SIZE);

	CHECK(mr && fake_regs() == 1 && fake_last_access() == READ_WRITE);
	CHECK(count_threads() == 1);
	CHECK(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_TRANSLATION, NULL, memory, PAGE, 0) == 0);
	dereg(mr);
	CHECK(fake_live() == 0);
	free(memory);
}

static void scene_fd_reused(void)
{
	uint8_t *map;
	int fd = open_file(), other;

	map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(map != MAP_FAILED);
	close(fd);
	other = open("/dev/null", O_RDWR);
	CHECK(other == fd);
	check_life(map);
	CHECK(close(other) == 0);
}

static void *register_in_thread(void *map)
{
	check_life(map);
	return NULL;
}

static void scene_thread(void)
{
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, register_in_thread, map_file()));
	CHECK(!pthread_join(thread, NULL));
}

static struct ibv_qp *make_qp(struct ibv_pd *in, bool extended);

/* None of these is a place where a thread can be cancelled, and it would leave locks behind. */
static void *register_cancelled(void *arg)
{
	const int fd = *(const int *)arg;
	struct ibv_qp *qp = make_qp(pd, true);
	struct ibv_mr *mr;
	uint8_t *map;

	CHECK(!pthread_cancel(pthread_self()));
	map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	mr = reg(map, SIZE);
	CHECK(mr && !ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, READ_WRITE));
	CHECK(!ftruncate(fd, PAGE) && ibv_destroy_qp(qp) == 0);
	dereg(mr);
	CHECK(!munmap(map, SIZE));
	pthread_testcancel();
	return NULL;
}

static void scene_cancelled(void)
{
	int fd = open_file();
	pthread_t thread;
	void *result;

	alarm(20);
	CHECK(!pthread_create(&thread, NULL, register_cancelled, &fd));
	CHECK(!pthread_join(thread, &result) && result == PTHREAD_CANCELED);
	CHECK(fake_live() == 0 && fake_regs() == 2 && fake_fenced() == 1);
	CHECK(ftruncate(fd, SIZE) == 0 && !close(fd));
	check_life(map_file());
}

static void scene_forked_child(void)
{
	uint8_t *map = map_file();
	pid_t pid;

	check_life(map);
	pid = fork();
	if (!pid) {
		check_life(map);
		_exit(0);
	}
	wait_child(pid);
	check_life(map);
}

/* What a child does with the parent's is none of the parent's business. */
static void scene_child_of_holder(void)
{
	uint8_t *map = map_file();
	struct ibv_mr *mr = reg(map, SIZE);
	pid_t pid;

	CHECK(mr);
	pid = fork();
	if (!pid) {
		dereg(mr);
		CHECK(reg(malloc(PAGE), PAGE));
		_exit(0);
	}
	wait_child(pid);
	CHECK(is_leased() && mr->length == SIZE);
	change_by_other();
	CHECK(fake_live() == 0);
	dereg(mr);
}

static void scene_vfork(void)
{
	uint8_t *map = map_file();
	struct ibv_mr *mr = reg(map, SIZE);
	pid_t pid = vfork();

	if (!pid) {
		execlp("true", "true", NULL);
		_exit(1);
	}
	wait_child(pid);
	CHECK(is_leased());
	dereg(mr);
	CHECK(!is_leased());
}

static atomic_bool stop;

static void *register_on_and_on(void *map)
{
	while (!stop) {
		struct ibv_mr *mr = reg(map, SIZE);

		/* EAGAIN: a child still has the lease of the last one. */
		CHECK(mr || errno == EAGAIN);
		if (mr)
			dereg(mr);
	}
	return NULL;
}

/* No child finds a lock that a thread of the parent held. */
static void scene_fork_beside(void)
{
	uint8_t *map = map_file();
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, register_on_and_on, map));
	for (unsigned int i = 0; i < 200; i++) {
		pid_t pid = fork();

		if (!pid) {
			struct ibv_mr *mr = reg(malloc(PAGE), PAGE);

			alarm(20);
			munmap(map, PAGE);
			dereg(mr);
			CHECK(map_file());
			_exit(0);
		}
		wait_child(pid);
	}
	stop = true;
	CHECK(!pthread_join(thread, NULL));
}

static void scene_sub_ranges(void)
{
	uint8_t *map = map_file();
	struct ibv_mr *a = reg(map, PAGE), *b = reg(map + 3 * PAGE, 2 * PAGE);

	CHECK(a && b && a->lkey != b->lkey);
	dereg(a);
	CHECK(is_leased());
	dereg(b);
	CHECK(!is_leased());
}

static void scene_two_mappings(void)
{
	int fd = open_file();
	uint8_t *a = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint8_t *b = mmap64(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct ibv_mr *mr_a, *mr_b;

	close(fd);
	mr_a = reg(a, SIZE);
	mr_b = reg(b, SIZE);
	CHECK(mr_a && mr_b);
	munmap(a, SIZE);
	dereg(mr_a);
	CHECK(is_leased());
	dereg(mr_b);
	CHECK(!is_leased());
	check_life(b);
}

/* Each is found, in whatever order they go, and whatever has become of them. */
static void scene_many(void)
{
	static struct ibv_mr *mrs[3000];
	const unsigned int n = sizeof(mrs) / sizeof(mrs[0]);
	uint8_t *map = map_file();
	unsigned int i;

	for (i = 0; i < n; i++) {
		mrs[i] = reg(map + i % 8 * PAGE, PAGE);
		CHECK(mrs[i]);
	}
	CHECK(fake_live() == n);
	for (i = 0; i < n; i += 3)
		dereg(mrs[i]);
	CHECK(fake_live() == n - n / 3 && is_leased());
	for (i = 1; i < n; i += 3)
		CHECK(!ibv_rereg_mr(mrs[i], IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, READ_WRITE));
	CHECK(fake_live() == n - n / 3);
	change_by_other();
	CHECK(fake_live() == 0);
	for (i = n; i-- > 0;) {
		if (i % 3) {
			CHECK(mrs[i]->addr == map + i % 8 * PAGE && mrs[i]->length == PAGE);
			dereg(mrs[i]);
		}
	}
	CHECK(!is_leased());
}

/* Two descriptions cannot both be leased by this kind; the refusal is an ordinary one. */
static void scene_two_descriptions(void)
{
	uint8_t *a = map_file(), *b = map_file();

	errno = 0;
	CHECK(!reg(a, SIZE) && errno == EAGAIN);
	munmap(b, SIZE);
	check_life(a);
}

/* ------------------------------------------------------------------------- */
/* Mappings that change */

static void scene_fixed_over_all(void)
{
	uint8_t *map = map_file();
	struct ibv_mr *mr;

	CHECK(mmap(map, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		   0) == map);
	mr = reg(map, SIZE);
	CHECK(mr && fake_last_access() == READ_WRITE && !is_leased());
	dereg(mr);
}

static void scene_fixed_over_part(void)
{
	uint8_t *map = map_file();
	struct ibv_mr *mr;

	CHECK(mmap(map + 2 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		   0) == map + 2 * PAGE);
	mr = reg(map + 3 * PAGE, PAGE);
	CHECK(mr && is_leased());
	dereg(mr);
	mr = reg(map, 2 * PAGE);
	CHECK(mr && is_leased());
	dereg(mr);
	mr = reg(map + 2 * PAGE, PAGE);
	CHECK(mr && !is_leased());
	dereg(mr);
}

/* The kernel maps whole pages, so nothing of the file is left. */
static void scene_fixed_over_last_page(void)
{
	uint8_t *map = map_file();

	CHECK(mmap(map, SIZE - 1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	      map);
	/* Nobody has the file open. */
	CHECK(fcntl(open_file(), F_SETLEASE, F_WRLCK) == 0);
}

static void scene_fixed_file_over_memory(void)
{
	uint8_t *memory = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = open_file();

	CHECK(mmap(memory, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == memory);
	close(fd);
	check_life(memory);
}

static void scene_partial_unmap(void)
{
	uint8_t *map = map_file();
	struct ibv_mr *mr = reg(map, SIZE), *half;

	CHECK(munmap(map + SIZE / 2, SIZE / 2) == 0);
	CHECK(is_leased());
	half = reg(map, SIZE / 2);
	CHECK(half);
	dereg(mr);
	CHECK(is_leased());
	dereg(half);
	CHECK(!is_leased());
	CHECK(munmap(map, SIZE / 2) == 0);
	/* With the last mapping its duplicate is gone: nobody has the file open. */
	CHECK(fcntl(open_file(), F_SETLEASE, F_WRLCK) == 0);
}

static void scene_unmap_under_break(void)
{
	uint8_t *map = map_file();
	struct ibv_mr *mr = reg(map, SIZE);

	CHECK(mr && munmap(map, SIZE) == 0);
	change_by_other();
	CHECK(fake_live() == 0);
	dereg(mr);
}

static void *map_plain_at(void *addr)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;

	return mmap(addr, SIZE, PROT_READ, flags, -1, 0);
}

/* Neither pinned nor, without a word, on demand: what is in front does not hide the file. */
static void scene_begins_before(void)
{
	uint8_t *memory =
		mmap(NULL, 2 * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = open_file();
	struct ibv_mr *mr;

	CHECK(mmap(memory + SIZE, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
	      memory + SIZE);
	close(fd);
	CHECK(!reg(memory, 2 * SIZE) && fake_live() == 0 && !is_leased());
	mr = ibv_reg_mr(pd, memory, 2 * SIZE, READ_WRITE | IBV_ACCESS_ON_DEMAND);
	CHECK(mr && !is_leased());
	dereg(mr);
	check_life(memory + SIZE);
}

static void scene_address_reused(void)
{
	uint8_t *map = map_file();
	struct ibv_mr *mr;

	munmap(map, SIZE);
	CHECK(map_plain_at(map) == map);
	mr = reg(map, SIZE);
	CHECK(mr && fake_last_access() == READ_WRITE && !is_leased());
	dereg(mr);
}

static void scene_mremap(void)
{
	uint8_t *map = map_file();
	uint8_t *to = mmap(NULL, 2 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct ibv_mr *mr;

	check_life(map); /* what the library itself maps has its place now */
	CHECK(mremap(map, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	check_life(to);
	/* Where it was is free. */
	CHECK(map_plain_at(map) == map);
	mr = reg(map, SIZE);
	CHECK(mr && !is_leased());
	dereg(mr);
	CHECK(mremap(to, SIZE, SIZE / 2, 0) == to);
	mr = reg(to, SIZE / 2);
	CHECK(mr && is_leased());
	dereg(mr);
}

/* Of a file, unlike of anonymous memory, both are its mappings then. */
static void scene_mremap_dontunmap(void)
{
	uint8_t *map = map_file();
	uint8_t *to = mremap(map, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);

	CHECK(to != MAP_FAILED && to != map);
	*to = 7;
	CHECK(*map == 7);
	check_life(map);
	check_life(to);
}

/* What the kernel refuses to unmap or to move is still there. */
static void scene_refused(void)
{
	uint8_t *map = map_file();

	errno = 0;
	CHECK(munmap(map, 1ul << 62) == -1 && errno == EINVAL);
	check_life(map);
	CHECK(munmap(map, SIZE_MAX) == -1 && errno == EINVAL);
	check_life(map);
	CHECK(munmap(map + 1, SIZE) == -1 && munmap(map, 0) == -1);
	check_life(map);
	CHECK(mremap(map, SIZE, 1ul << 62, MREMAP_MAYMOVE) == MAP_FAILED);
	check_life(map);
	CHECK(mremap(map + 1, SIZE, 2 * SIZE, MREMAP_MAYMOVE) == MAP_FAILED);
	check_life(map);
}

/* An allocator gives memory back that lies between mappings, however many there are. */
static void scene_memory_between(void)
{
	const size_t size = 4u << 20;
	uint8_t *below, *hole;

	hole = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (unsigned int i = 0; i < 100; i++) {
		int fd = open_file();
		/* Now at the one end, now at the other; each a mapping of its own. */
		uint8_t *at = hole + (i % 2 ? 2 * size - (i + 1) * PAGE : i * PAGE);
		int flags = MAP_SHARED | MAP_FIXED;
		uint8_t *volatile memory;

		CHECK(mmap(at, PAGE, PROT_READ | PROT_WRITE, flags, fd, 0) == at && !close(fd));
		if (i == 1)
			CHECK(munmap(hole + size / 2, size) == 0);
		memory = malloc(size / 2);
		CHECK(memory);
		free(memory);
	}
	below = map_file();
	CHECK(munmap(hole, size / 2) == 0 && munmap(hole + size + size / 2, size / 2) == 0);
	check_life(below);
}

/* A bare system call: no hook has seen it, and the description is out of reach. */
static void scene_unseen(void)
{
	int fd = open_file();
	uint8_t *map =
		(uint8_t *)syscall(SYS_mmap, NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	close(fd);
	errno = 0;
	CHECK(!reg(map, SIZE) && errno == EAGAIN && !is_leased());
	/* What would have worked without us still does. */
	CHECK(ibv_reg_mr(pd, map, SIZE, READ_WRITE | IBV_ACCESS_ON_DEMAND));
}

static bool is_file(int fd)
{
	struct stat a, b;

	return !fstat(fd, &a) && !stat(path, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* A program that closes what it does not know, and gets the numbers for something else. */
static void scene_numbers_reused(void)
{
	uint8_t *map = map_file();
	int pipes[2], number = 3;

	while (!is_file(number))
		CHECK(++number < 1 << 20);
	CHECK(!close_range(3, ~0u, 0) && !pipe(pipes) && dup2(pipes[1], number) == number);
	errno = 0;
	CHECK(!reg(map, SIZE) && errno);
	CHECK(munmap(map, SIZE) == 0);
	CHECK(write(number, "", 1) == 1);
	check_life(map_file());
}

static void scene_private(void)
{
	int fd = open_file();
	uint8_t *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	/* As without us: refused, and on demand it works. */
	CHECK(ibv_reg_mr(pd, map, SIZE, READ_WRITE | IBV_ACCESS_ON_DEMAND) && !is_leased());
	close(fd);
}

/* ------------------------------------------------------------------------- */
/* Breaks */

static struct ibv_qp *make_qp(struct ibv_pd *in, bool extended)
{
	struct ibv_qp_init_attr_ex attr = { .pd = in, .comp_mask = IBV_QP_INIT_ATTR_PD };
	struct ibv_qp *qp;

	if (extended)
		attr.comp_mask |= IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
	qp = ibv_create_qp_ex(in->context, &attr);
	CHECK(qp);
	return qp;
}

static void scene_break(void)
{
	struct ibv_qp *gone = make_qp(pd, false), *plain = make_qp(pd, false);
	struct ibv_qp *extended = make_qp(pd, true), *fresh = make_qp(pd, true);
	struct ibv_pd *other_pd = ibv_alloc_pd(pd->context);
	struct ibv_qp *other = make_qp(other_pd, true);
	uint8_t *map = map_file();
	struct ibv_mr *mr = reg(map, SIZE);
	uint32_t rkey = mr->rkey;

	CHECK(ibv_destroy_qp(gone) == 0);
	fresh->state = IBV_QPS_RESET;
	change_by_other();
	CHECK(fake_fenced() == 2 && fake_live() == 0 && !is_leased());
	CHECK(plain->state == IBV_QPS_ERR && extended->state == IBV_QPS_ERR);
	CHECK(other->state == IBV_QPS_INIT && fresh->state == IBV_QPS_RESET);
	CHECK(mr->rkey == rkey && mr->addr == map && mr->context == pd->context);
	dereg(mr);
	CHECK(ibv_destroy_qp(plain) == 0 && ibv_destroy_qp(extended) == 0);
}

/* Posting and polling go where they always went. */
static void *change_once(void *arg)
{
	change_by_other();
	return arg;
}

/* The library goes on to give it back, and tells us when the program is long done with it. */
static void scene_kept_lease(void)
{
	void (*keep)(bool) = (void (*)(bool))(uintptr_t)dlsym(RTLD_DEFAULT, "fake_keep_leases");
	struct ibv_mr *mr = reg(map_file(), SIZE);
	pthread_t thread;

	CHECK(mr && keep);
	keep(true);
	CHECK(!pthread_create(&thread, NULL, change_once, NULL));
	while (fake_live())
		usleep(1000);
	dereg(mr);
	CHECK(is_leased());
	keep(false);
	CHECK(!pthread_join(thread, NULL));
	usleep(200000); /* for its line in the log */
}

static void scene_data_path(void)
{
	struct ibv_context before = *pd->context;
	struct ibv_qp *qp = make_qp(pd, true);
	struct ibv_mr *mr = reg(map_file(), SIZE);

	CHECK(qp && !memcmp(&before.ops, &pd->context->ops, sizeof(before.ops)));
	change_by_other();
	CHECK(!memcmp(&before.ops, &pd->context->ops, sizeof(before.ops)));
	dereg(mr);
}

static void scene_exit_without_dereg(void)
{
	CHECK(reg(map_file(), SIZE));
}

/* The keys of what a break has ended are nobody's, until the program has let go of them. */
static void scene_dead_key(void)
{
	uint8_t *map = map_file();
	struct ibv_mr *mr = reg(map, SIZE), *plain;
	uint32_t key = mr->rkey;
	void *memory = malloc(PAGE);

	change_by_other();
	fake_next_key(key);
	plain = reg(memory, PAGE);
	CHECK(plain && plain->rkey == key + 1 && fake_live() == 1);
	dereg(plain);
	CHECK(truncate(path, SIZE) == 0);
	fake_next_key(key);
	plain = reg(map, SIZE);
	CHECK(plain && plain->rkey == key + 1 && is_leased());
	dereg(mr);
	fake_next_key(key);
	mr = reg(memory, PAGE);
	CHECK(mr->rkey == key);
	dereg(mr);
	dereg(plain);
	CHECK(fake_live() == 0);
}

/* Too many of them: refused, with the error that says so. */
static void scene_dead_keys(void)
{
	uint8_t *map = map_file();
	struct ibv_mr *mrs[17];
	void *memory = malloc(PAGE);

	for (int i = 0; i < 17; i++)
		CHECK((mrs[i] = reg(map, SIZE)));
	change_by_other();
	fake_next_key(mrs[0]->rkey);
	CHECK(!reg(memory, PAGE) && errno == EAGAIN && fake_live() == 0);
	for (int i = 0; i < 17; i++)
		dereg(mrs[i]);
	free(memory);
}

static void *change_on_and_on(void *arg)
{
	(void)arg;
	while (!stop)
		change_by_other();
	return NULL;
}

static void *make_qps_on_and_on(void *arg)
{
	(void)arg;
	while (!stop)
		CHECK(ibv_destroy_qp(make_qp(pd, true)) == 0);
	return NULL;
}

/* Breaks at every moment of a registration's life, and queue pairs that come and go. */
static void scene_storm(void)
{
	uint8_t *map = map_file();
	unsigned int registered = 0;
	pthread_t threads[2];

	CHECK(!pthread_create(&threads[0], NULL, change_on_and_on, NULL));
	CHECK(!pthread_create(&threads[1], NULL, make_qps_on_and_on, NULL));
	for (unsigned int i = 0; i < 1000 || registered < 20; i++) {
		struct ibv_mr *mr;

		CHECK(truncate(path, SIZE) == 0);
		mr = reg(map, SIZE);
		/* The file is being changed, or shorter again. */
		CHECK(mr || errno == EAGAIN || errno == EINVAL);
		if (!mr)
			continue;
		registered++;
		usleep(i % 4 * 100);
		CHECK(mr->addr == map && mr->length == SIZE && mr->pd == pd);
		dereg(mr);
	}
	stop = true;
	CHECK(!pthread_join(threads[0], NULL) && !pthread_join(threads[1], NULL));
	CHECK(fake_live() == 0 && !is_leased());
}

static void *shorten(void *fd)
{
	CHECK(!ftruncate(*(int *)fd, PAGE));
	return NULL;
}

/* The thread that ends the registration is not in the child: nobody is waited for there. */
static void scene_fork_in_fence(void)
{
	int fd = open_file();
	uint8_t *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct ibv_qp *qp = make_qp(pd, false);
	struct ibv_mr *mr = reg(map, SIZE);
	pthread_t thread;
	pid_t pid;

	fake_slow_fences(true);
	CHECK(mr && !pthread_create(&thread, NULL, shorten, &fd));
	while (!fake_slow())
		usleep(1000);
	pid = fork();
	if (!pid) {
		alarm(10);
		dereg(mr);
		CHECK(ibv_destroy_qp(qp) == 0);
		_exit(0);
	}
	wait_child(pid);
	fake_slow_fences(false);
	CHECK(!pthread_join(thread, NULL) && qp->state == IBV_QPS_ERR);
	dereg(mr);
	CHECK(fake_live() == 0);
}

static void scene_close_device(void)
{
	struct ibv_context *context = ibv_open_device(fake_device());
	struct ibv_pd *mine = ibv_alloc_pd(context);
	struct ibv_qp *qp = make_qp(mine, true);
	struct ibv_mr *mr = ibv_reg_mr(mine, map_file(), SIZE, READ_WRITE);

	CHECK(mr && qp && is_leased());
	/* What was exchanged in it is as it was, or the device says so. */
	CHECK(ibv_close_device(context) == 0);
	CHECK(!is_leased());
	change_by_other();
	CHECK(fake_fenced() == 0);
	dereg(mr);
}

static void scene_rereg(void)
{
	uint8_t *map = map_file();
	struct ibv_mr *mr = reg(map, SIZE);
	int flags = IBV_REREG_MR_CHANGE_TRANSLATION;

	CHECK(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, READ_WRITE) == 0);
	CHECK(mr->addr == map && mr->length == SIZE && fake_live() == 1 && is_leased());
	CHECK(ibv_rereg_mr(mr, flags, NULL, map + PAGE, PAGE, 0) == 0);
	CHECK(fake_last_access() == (READ_WRITE | IBV_ACCESS_ON_DEMAND));
	CHECK(mr->addr == map + PAGE && mr->length == PAGE && fake_live() == 1 && is_leased());
	CHECK(ibv_rereg_mr(mr, flags, NULL, malloc(PAGE), PAGE, 0) == IBV_REREG_MR_ERR_INPUT);
	CHECK(mr->addr == map + PAGE && is_leased());
	change_by_other();
	dereg(mr);
	CHECK(fake_live() == 0 && !is_leased());
}

/* A peer addresses it as before, unless it moves. */
static void scene_rereg_iova(void)
{
	uint8_t *map = map_file();
	struct ibv_mr *mr = ibv_reg_mr_iova2(pd, map, SIZE, 0x20000, READ_WRITE);
	int access = IBV_REREG_MR_CHANGE_ACCESS, translation = IBV_REREG_MR_CHANGE_TRANSLATION;

	CHECK(mr && fake_last_iova() == 0x20000);
	for (int i = 0; i < 2; i++) {
		CHECK(ibv_rereg_mr(mr, access, NULL, NULL, 0, IBV_ACCESS_LOCAL_WRITE) == 0);
		CHECK(fake_last_access() == (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_ON_DEMAND));
		CHECK(fake_last_iova() == 0x20000);
	}
	CHECK(ibv_rereg_mr(mr, translation, NULL, map, PAGE, 0) == 0);
	CHECK(fake_last_iova() == (uintptr_t)map);
	dereg(mr);
	CHECK(fake_live() == 0);
}

/* As libibverbs does. */
static void scene_rereg_mistakes(void)
{
	uint8_t *map = map_file();
	struct ibv_mr *mr = reg(map, SIZE);
	int access = IBV_REREG_MR_CHANGE_ACCESS, translation = IBV_REREG_MR_CHANGE_TRANSLATION;
	unsigned int before = fake_regs();
	uint32_t key = mr->rkey;

	errno = 0;
	CHECK(ibv_rereg_mr(mr, access | 1 << 20, NULL, NULL, 0, READ_WRITE) ==
		      IBV_REREG_MR_ERR_INPUT &&
	      errno == EINVAL);
	errno = 0;
	CHECK(ibv_rereg_mr(mr, translation, NULL, map, PAGE, READ_WRITE) ==
		      IBV_REREG_MR_ERR_INPUT &&
	      errno == EINVAL);
	CHECK(ibv_rereg_mr(mr, translation, NULL, NULL, PAGE, 0) == IBV_REREG_MR_ERR_INPUT);
	CHECK(ibv_rereg_mr(mr, translation, NULL, map, 0, 0) == IBV_REREG_MR_ERR_INPUT);
	CHECK(fake_regs() == before && fake_live() == 1 && mr->rkey == key);
	dereg(mr);
}

/* All signals blocked, and one thread that waits for all of them. */
static void *wait_signals(void *arg)
{
	sigset_t all;
	int signo;

	(void)arg;
	sigfillset(&all);
	while (!sigwait(&all, &signo))
		CHECK(signo == SIGUSR1 || signo == SIGCHLD);
	return NULL;
}

static void ignore(int signo)
{
	(void)signo;
	CHECK(!"a signal of the library came to the program");
}

static void scene_all_signals(void)
{
	pthread_t thread;
	struct ibv_mr *mr;
	sigset_t all;

	for (int signo = SIGRTMIN; signo <= SIGRTMAX; signo++)
		signal(signo, ignore);
	signal(SIGIO, ignore);
	mr = reg(map_file(), SIZE);
	change_by_other();
	CHECK(mr && fake_live() == 0);
	dereg(mr);
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	CHECK(!pthread_create(&thread, NULL, wait_signals, NULL));
	CHECK(truncate(path, SIZE) == 0);
	mr = reg(map_file(), SIZE);
	if (mr) {
		change_by_other();
		dereg(mr);
	}
	CHECK(fake_live() == 0);
}

/* ------------------------------------------------------------------------- */
/* The program's own changes */

static void own_ftruncate(int fd)
{
	CHECK(ftruncate(fd, PAGE) == 0);
}

static void own_ftruncate64(int fd)
{
	CHECK(ftruncate64(fd, PAGE) == 0);
}

static void own_punch(int fd)
{
	CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE) == 0);
}

static void own_punch64(int fd)
{
	CHECK(fallocate64(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE) == 0);
}

static void own_truncate(int fd)
{
	(void)fd;
	CHECK(truncate(path, PAGE) == 0);
}

static void own_truncate64(int fd)
{
	(void)fd;
	CHECK(truncate64(path, PAGE) == 0);
}

static void own_open_trunc(int fd)
{
	(void)fd;
	CHECK(open(path, O_WRONLY | O_TRUNC) >= 0);
}

static void own_creat(int fd)
{
	(void)fd;
	CHECK(creat(path, 0600) >= 0);
}

static void own_fopen(int fd)
{
	(void)fd;
	CHECK(fopen(path, "w"));
}

static void scene_own_changes(void)
{
	static void (*const changes[])(int fd) = { own_ftruncate,  own_ftruncate64, own_punch,
						   own_punch64,	   own_truncate,    own_truncate64,
						   own_open_trunc, own_creat,	    own_fopen };

	for (unsigned int i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		/* Each in a process of its own: descriptors are left open. */
		pid_t pid = fork();

		if (!pid) {
			int fd = open_file();
			struct ibv_qp *qp = make_qp(pd, false);
			uint8_t *map;
			struct ibv_mr *mr;

			CHECK(ftruncate(fd, SIZE) == 0);
			map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			mr = reg(map, SIZE);
			CHECK(mr && is_leased());
			changes[i](fd);
			CHECK(fake_live() == 0 && qp->state == IBV_QPS_ERR);
			dereg(mr);
			_exit(0);
		}
		wait_child(pid);
	}
}

static bool refuses(int ret, int error)
{
	bool refused = ret == -1 && errno == error;

	errno = 0;
	return refused;
}

/* What the kernel refuses changes nothing, and ends nothing. */
static void scene_own_mistakes(void)
{
	const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	int fd = open_file(), reader = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct ibv_qp *qp = make_qp(pd, false);
	struct ibv_mr *mr;

	CHECK(reader >= 0 && map != MAP_FAILED && !close(reader));
	mr = reg(map, SIZE);
	reader = open(path, O_RDONLY | O_CLOEXEC); /* lends the lease */
	CHECK(mr && reader >= 0);
	CHECK(refuses(ftruncate(fd, -1), EINVAL) && refuses(ftruncate64(fd, -2), EINVAL));
	CHECK(refuses(ftruncate(reader, PAGE), EINVAL));
	CHECK(refuses(fallocate(fd, punch, 0, 0), EINVAL));
	CHECK(refuses(fallocate(fd, punch, -1, PAGE), EINVAL));
	CHECK(refuses(fallocate64(fd, punch, 0, -1), EINVAL));
	CHECK(refuses(fallocate(reader, punch, 0, PAGE), EBADF));
	CHECK(fake_live() == 1 && fake_fenced() == 0 && qp->state == IBV_QPS_INIT);
	CHECK(ftruncate(fd, PAGE) == 0 && fake_live() == 0);
	dereg(mr);
}

/* Nothing that frees a block: nothing is ended. */
static void scene_own_growth(void)
{
	int fd = open_file();
	uint8_t *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct ibv_mr *mr = reg(map, SIZE);

	CHECK(ftruncate(fd, 2 * SIZE) == 0 && posix_fallocate(fd, 0, 2 * SIZE) == 0);
	CHECK(fake_live() == 1 && is_leased());
	dereg(mr);
}

static void scene_own_open(void)
{
	struct ibv_mr *mr = reg(map_file(), SIZE);
	int fd = open(path, O_RDONLY);

	/* A reader: it is let in, and the registration stays. */
	CHECK(fd >= 0 && fake_live() == 1);
	close(fd);
	fd = open(path, O_RDWR);
	CHECK(fd >= 0);
	dereg(mr);
	CHECK(fake_live() == 0);
}

/* ------------------------------------------------------------------------- */

static void scene_no_stdout(void)
{
	int pipes[2];
	struct ibv_mr *mr;
	char byte;

	CHECK(!pipe(pipes) && dup2(pipes[1], 1) == 1 && !close(pipes[1]));
	mr = reg(map_file(), SIZE);
	change_by_other();
	dereg(mr);
	CHECK(!close(1) && read(pipes[0], &byte, 1) == 0);
}

/* As setproctitle(3) does: what was there at the start is something else when it is needed. */
static void scene_environment_gone(void)
{
	char *value = getenv("DAXLEASE_GUARD_SOCKET");

	CHECK(value);
	memset(value, 'x', strlen(value));
	CHECK(!reg(map_file(), SIZE) && errno == EOPNOTSUPP);
}

/* Its constructor, which may be older than ours, has registered. */
static struct ibv_mr *early;

static void open_device(void)
{
	struct ibv_context *context = ibv_open_device(fake_device());

	CHECK(context);
	pd = ibv_alloc_pd(context);
}

__attribute__((constructor)) static void register_early(void)
{
	const char *file = getenv("VICTIM_EARLY");

	if (!file)
		return;
	snprintf(path, sizeof(path), "%s", file);
	start_other(path);
	open_device();
	early = reg(map_file(), SIZE);
}

static void scene_constructor(void)
{
	CHECK(early && is_leased());
	dereg(early);
	CHECK(!is_leased());
}

/* Another library has the same hooks, before ours or after: both see each call once. */
static void scene_other_hooks(void)
{
	unsigned int (*maps)(void) =
		(unsigned int (*)(void))(uintptr_t)dlsym(RTLD_DEFAULT, "other_hooks_maps");
	unsigned int (*regs)(void) =
		(unsigned int (*)(void))(uintptr_t)dlsym(RTLD_DEFAULT, "other_hooks_regs");
	struct ibv_mr *mr;
	uint8_t *map;
	unsigned int before;

	CHECK(maps && regs);
	before = maps();
	map = map_file();
	CHECK(maps() > before);
	mr = (ibv_reg_mr)(pd, map, SIZE, READ_WRITE);
	CHECK(mr && fake_regs() == 1 && is_leased());
	CHECK(regs() == 1);
	dereg(mr);
	CHECK(!is_leased());
}

/* ------------------------------------------------------------------------- */

#define SCENE(name)                 \
	{                           \
#name, scene_##name \
	}

static const struct {
	const char *name;
	void (*play)(void);
} scenes[] = {
	SCENE(basic),
	SCENE(every_verb),
	SCENE(plain),
	SCENE(fd_reused),
	SCENE(thread),
	SCENE(cancelled),
	SCENE(forked_child),
	SCENE(child_of_holder),
	SCENE(vfork),
	SCENE(fork_beside),
	SCENE(sub_ranges),
	SCENE(two_mappings),
	SCENE(many),
	SCENE(two_descriptions),
	SCENE(fixed_over_all),
	SCENE(fixed_over_part),
	SCENE(fixed_over_last_page),
	SCENE(fixed_file_over_memory),
	SCENE(partial_unmap),
	SCENE(unmap_under_break),
	SCENE(begins_before),
	SCENE(address_reused),
	SCENE(mremap),
	SCENE(mremap_dontunmap),
	SCENE(refused),
	SCENE(memory_between),
	SCENE(unseen),
	SCENE(numbers_reused),
	SCENE(private),
	SCENE(break),
	SCENE(kept_lease),
	SCENE(data_path),
	SCENE(exit_without_dereg),
	SCENE(dead_key),
	SCENE(dead_keys),
	SCENE(storm),
	SCENE(fork_in_fence),
	SCENE(close_device),
	SCENE(rereg),
	SCENE(rereg_iova),
	SCENE(rereg_mistakes),
	SCENE(all_signals),
	SCENE(own_changes),
	SCENE(own_mistakes),
	SCENE(own_growth),
	SCENE(own_open),
	SCENE(no_stdout),
	SCENE(environment_gone),
	SCENE(constructor),
	SCENE(other_hooks),
};

#define NSCENES (sizeof(scenes) / sizeof(scenes[0]))

int main(int argc, char **argv)
{
	int fd;

	if (argc != 3) {
		for (unsigned int i = 0; i < NSCENES; i++)
			puts(scenes[i].name);
		return 0;
	}
	alarm(60);
	if (!early) {
		snprintf(path, sizeof(path), "%s", argv[2]);
		start_other(path);
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		CHECK(fd >= 0 && ftruncate(fd, SIZE) == 0);
		close(fd);
		open_device();
	}
	for (unsigned int i = 0; i < NSCENES; i++) {
		if (!strcmp(scenes[i].name, argv[1])) {
			scenes[i].play();
			return 0;
		}
	}
	return 2;
}
