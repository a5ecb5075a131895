// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* What cannot be registered: the errno, one line that says why, and nothing changed. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "region.h"

#define STRANGER 12345 /* a user that owns nothing */
#define GUARD_SOCKET "/run/daxleased/socket"
#define ALL_ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)

/* What is passed to daxlease_reg_mr(). A case changes something about it. */
struct attempt {
	struct stage *s;
	int fd;
	uint8_t *addr;
	size_t length;
	int access;
	/* Larger than the library's own, as from a later version. */
	struct {
		struct daxlease_mr_opts known;
		uint64_t unknown[2];
	} opts;
};

struct refusal {
	const char *name;
	void (*prepare)(struct attempt *a);
	int err;
	const char *says;
	unsigned int kinds; /* one, if it makes no difference */
};

/* ------------------------------------------------------------------------- */
/* The range */

static void not_mapped(struct attempt *a)
{
	CALL(munmap(a->addr, FILE_SIZE));
	a->s->file.map = NULL;
}

static void partly_mapped(struct attempt *a)
{
	CALL(munmap(a->addr + PAGE, PAGE));
}

static void *map(int fd, int prot, int flags)
{
	void *addr = mmap(NULL, FILE_SIZE, prot, flags, fd, 0);

	CHECK(addr != MAP_FAILED);
	return addr;
}

static void mapped_private(struct attempt *a)
{
	a->addr = map(a->fd, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static void mapped_read_only(struct attempt *a)
{
	a->addr = map(a->fd, PROT_READ, MAP_SHARED);
}

/* The half behind the end of the file cannot be accessed at all. */
static void beyond_end(struct attempt *a)
{
	CALL(ftruncate(a->fd, FILE_SIZE / 2));
}

static void length_0(struct attempt *a)
{
	a->length = 0;
}

static void wraps(struct attempt *a)
{
	a->length = SIZE_MAX - PAGE;
}

static int open_second(struct attempt *a, struct file *f)
{
	file_make(f, a->s->w, "second", FILE_SIZE, O_RDWR);
	return f->fd;
}

static void mapping_of_another_file(struct attempt *a)
{
	struct file f;

	open_second(a, &f);
	a->addr = f.map;
}

static void fd_of_another_file(struct attempt *a)
{
	struct file f;

	a->fd = open_second(a, &f);
}

static void mapping_of_memory(struct attempt *a)
{
	a->addr = map(-1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
}

/* ------------------------------------------------------------------------- */
/* The descriptor */

static void closed_fd(struct attempt *a)
{
	CALL(close(a->fd));
	a->s->file.fd = -1;
}

static void no_fd(struct attempt *a)
{
	a->fd = -1;
}

static void o_path(struct attempt *a)
{
	a->fd = (int)CALL(open(a->s->file.path, O_PATH | O_CLOEXEC));
}

static void directory(struct attempt *a)
{
	a->fd = (int)CALL(open(a->s->w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

static void open_twice(struct attempt *a)
{
	CALL(open(a->s->file.path, O_RDONLY | O_CLOEXEC));
}

/* ------------------------------------------------------------------------- */
/* The options */

static void unknown_option(struct attempt *a)
{
	a->opts.known.size = sizeof(a->opts);
	a->opts.unknown[1] = 1;
}

static void no_size(struct attempt *a)
{
	a->opts.known.size = 0;
}

static void unknown_flag(struct attempt *a)
{
	a->opts.known.flags = 1u << 30;
}

static void exclusive(struct attempt *a)
{
	a->opts.known.flags = DAXLEASE_MR_EXCLUSIVE;
}

static void kind_layout(struct attempt *a)
{
	a->opts.known.kind = DAXLEASE_KIND_LAYOUT;
}

/* ------------------------------------------------------------------------- */
/* The surroundings */

/* From here on without any capability. */
static void become_stranger(void)
{
	CALL(setgroups(0, NULL));
	CALL(setresgid(STRANGER, STRANGER, STRANGER));
	CALL(setresuid(STRANGER, STRANGER, STRANGER));
}

static void not_owner(struct attempt *a)
{
	(void)a;
	become_stranger();
}

static void owner_without_privilege(struct attempt *a)
{
	CALL(fchown(a->fd, STRANGER, STRANGER));
	become_stranger();
}

static void leases_disabled(struct attempt *a)
{
	(void)a;
	sysctl_set("leases-enable", 0);
}

static void over_memlock(struct attempt *a)
{
	const struct rlimit limit = { .rlim_cur = 2 * PAGE, .rlim_max = 2 * PAGE };

	a->fd = -1;
	a->addr = map(-1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
	CALL(setrlimit(RLIMIT_MEMLOCK, &limit));
	become_stranger();
}

/* An ext4 without DAX, on a RAM disk; see run.sh. */
static void page_cache(struct attempt *a)
{
	struct stat st;

	CHECK(!stat("/dax/pagecache/lost+found", &st));
	a->fd = (int)CALL(
		open("/dax/pagecache/file", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	CALL(ftruncate(a->fd, FILE_SIZE));
	a->addr = map(a->fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	memset(a->addr, 1, FILE_SIZE);
}

static void page_cache_without_fd(struct attempt *a)
{
	page_cache(a);
	a->fd = -1;
}

/*
 * Drivers of this kernel that need no hardware all have on-demand paging: what
 * libibverbs would say of another one is put in its place.
 */
static void no_odp(struct attempt *a)
{
	device_hide_odp(&a->s->dev);
}

/* The lease would be one of another description than the mapping. */
static void another_open_no_odp(struct attempt *a)
{
	no_odp(a);
	a->fd = (int)CALL(open(a->s->file.path, O_RDWR | O_CLOEXEC));
}

/* It could be registered on demand, but that is not what is wrong. */
static void over_memlock_pinned(struct attempt *a)
{
	const struct rlimit limit = { .rlim_cur = 2 * PAGE, .rlim_max = 2 * PAGE };

	CALL(fchown(a->fd, STRANGER, STRANGER));
	CALL(setrlimit(RLIMIT_MEMLOCK, &limit));
	become_stranger();
}

static void exclusive_read_only(struct attempt *a)
{
	exclusive(a);
	a->fd = (int)CALL(open(a->s->file.path, O_RDONLY | O_CLOEXEC));
	a->addr = map(a->fd, PROT_READ, MAP_SHARED);
	a->access = IBV_ACCESS_REMOTE_READ;
}

static void exclusive_memory(struct attempt *a)
{
	exclusive(a);
	a->fd = -1;
	a->addr = map(-1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
}

static const struct refusal refusals[] = {
	{ "not-mapped", not_mapped, -EFAULT, "not mapped", KIND_DELEG },
	{ "partly-mapped", partly_mapped, -EFAULT, "partly mapped", KIND_DELEG },
	{ "private", mapped_private, -EOPNOTSUPP, "MAP_SHARED", KIND_DELEG },
	{ "read-only-mapping", mapped_read_only, -EOPNOTSUPP, "PROT_WRITE", KIND_ALL },
	{ "beyond-end", beyond_end, -EINVAL, "end of the file", KIND_ALL },
	{ "length-0", length_0, -EINVAL, "length is 0", KIND_DELEG },
	{ "wraps", wraps, -EINVAL, "wraps", KIND_DELEG },
	{ "mapping-of-another-file", mapping_of_another_file, -EINVAL, "something else",
	  KIND_DELEG },
	{ "fd-of-another-file", fd_of_another_file, -EINVAL, "something else", KIND_DELEG },
	{ "mapping-of-memory", mapping_of_memory, -EINVAL, "something else", KIND_DELEG },
	{ "closed-fd", closed_fd, -EBADF, "not open", KIND_DELEG },
	{ "no-fd", no_fd, -EBADF, "FS-DAX", KIND_DELEG },
	{ "o-path", o_path, -EBADF, "O_PATH", KIND_DELEG },
	{ "directory", directory, -EINVAL, "no regular file", KIND_DELEG },
	{ "open-twice", open_twice, -EAGAIN, "open elsewhere", KIND_BOTH },
	{ "unknown-option", unknown_option, -E2BIG, "newer", KIND_DELEG },
	{ "no-size", no_size, -EINVAL, "size", KIND_DELEG },
	{ "unknown-flag", unknown_flag, -EINVAL, "flags", KIND_DELEG },
	{ "exclusive", exclusive, -EOPNOTSUPP, "EXCLUSIVE", KIND_BOTH },
	{ "exclusive-read-only", exclusive_read_only, -EBADF, "O_RDWR", KIND_QUIET },
	{ "exclusive-memory", exclusive_memory, -EOPNOTSUPP, "exclusive", KIND_QUIET },
	{ "kind-layout", kind_layout, -EOPNOTSUPP, "layout", KIND_DELEG },
	{ "guard-without-privilege", owner_without_privilege, -EOPNOTSUPP,
	  "no CAP_SYS_ADMIN (a container's own does not count), and no daxleased at " GUARD_SOCKET,
	  KIND_GUARD },
	{ "not-owner", not_owner, -EACCES, "CAP_LEASE", KIND_BOTH | KIND_LAYOUTS },
	{ "leases-disabled", leases_disabled, -EOPNOTSUPP, "leases-enable",
	  KIND_BOTH | KIND_LAYOUTS },
	{ "memlock", over_memlock, -ENOMEM, "RLIMIT_MEMLOCK", KIND_DELEG },
	{ "page-cache", page_cache, -EOPNOTSUPP, "page cache", KIND_DELEG },
	{ "page-cache-without-fd", page_cache_without_fd, -EOPNOTSUPP, "page cache", KIND_DELEG },
	{ "no-odp", no_odp, -EOPNOTSUPP, "on-demand paging", KIND_BOTH | KIND_GUARD },
	{ "another-open-no-odp", another_open_no_odp, -EOPNOTSUPP, "very descriptor",
	  KIND_LAYOUTS },
	{ "memlock-pinned", over_memlock_pinned, -ENOMEM, "RLIMIT_MEMLOCK", KIND_LAYOUTS },
};

static void check_refused(struct attempt *a, const struct refusal *refusal)
{
	struct stage *s = a->s;
	struct daxlease_mr *mr = NULL;

	log_forget();
	CHECK_EQ(daxlease_reg_mr(s->ctx, s->dev.pd, a->fd, a->addr, a->length, a->access,
				 &a->opts.known, &mr),
		 refusal->err);
	CHECK(!mr);
	/* A thread that has something else to say may say it for us. */
	for (unsigned int i = 0; i < 200 && !log_errors(); i++)
		sleep_ms(5);
	CHECK_EQ(log_errors(), 1);
	CHECK(log_has(refusal->says));
}

static void refuse(const struct world *w, const void *arg)
{
	const struct refusal *refusal = arg;
	struct attempt a;
	unsigned int fds;
	struct stage s;

	stage_begin(&s, w, DAXLEASE_MODE_THREAD);
	file_make(&s.file, w, "file", FILE_SIZE, O_RDWR);
	memset(&a, 0, sizeof(a));
	a.s = &s;
	a.fd = s.file.fd;
	a.addr = s.file.map;
	a.length = FILE_SIZE;
	a.access = ALL_ACCESS;
	a.opts.known.size = sizeof(a.opts.known);
	a.opts.known.kind = w->kind;
	refusal->prepare(&a);
	if (w->kind == DAXLEASE_KIND_GUARD) /* its connection stays */
		check_refused(&a, refusal);
	fds = count_fds();
	check_refused(&a, refusal);
	CHECK_EQ(count_fds(), fds);
	CHECK_EQ(leases_in_kernel(0), 0);
	CHECK_EQ(ctx_stats(s.ctx).regions + ctx_stats(s.ctx).leases, 0);
	CHECK_EQ(daxlease_ctx_free(s.ctx), 0);
	device_close(&s.dev);
}

/* After a refusal all can go well. */
static void refused_then_taken(const struct world *w, const void *arg)
{
	struct region r;
	struct stage s;
	int second;

	(void)arg;
	stage_begin(&s, w, DAXLEASE_MODE_THREAD);
	file_make(&s.file, w, "file", FILE_SIZE, O_RDWR);
	second = (int)CALL(open(s.file.path, O_RDONLY | O_CLOEXEC));
	CHECK_EQ(region_try(&r, s.ctx, s.dev.pd, &s.file, w, NULL), -EAGAIN);
	CALL(close(second));
	region_make(&r, s.ctx, s.dev.pd, &s.file, w, NULL);
	CHECK_EQ(daxlease_ctx_free(s.ctx), -EBUSY);
	region_end(&r);
	file_close(&s.file);
	stage_end(&s);
}

void add_refuse_cases(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(refusals); i++) {
		if (refusals[i].prepare == kind_layout && layouts_found & KIND_LAYOUT)
			continue; /* nothing to refuse */
		add_case(refuse, &refusals[i], refusals[i].kinds, 0, "refuse/%s", refusals[i].name);
	}
	add_case(refused_then_taken, NULL, KIND_BOTH, 0, "refuse/then-taken");
}
