// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Who may not have a lease, and what is no request for one. */
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../other.h"
#include "../runner.h"
#include "layout.h"

#define STRANGER 12345 /* a user that owns nothing */

/* From here on without any capability. */
static void become(uid_t uid)
{
	CALL(setgroups(0, NULL));
	CALL(setresgid(uid, uid, uid));
	CALL(setresuid(uid, uid, uid));
}

static void stranger(const struct world *w, const void *arg)
{
	struct file f;

	(void)arg;
	pattern_make(&f, w, "file", O_RDWR);
	become(STRANGER);
	CHECK_EQ(layout_take(f.fd, 0), -EACCES);
	CHECK_EQ(layout_take(f.fd, LAYOUT_UNBREAKABLE), -EACCES);
	CHECK_EQ(layout_old(f.fd, OLD_LAYOUT), -EACCES);
	CHECK_EQ(leases_in_kernel(f.ino), 0);
	/* Asking is free. */
	CHECK(!layout_held(f.fd));
}

static void owner(const struct world *w, const void *arg)
{
	struct file f;

	(void)arg;
	pattern_make(&f, w, "file", O_RDWR);
	CALL(fchown(f.fd, STRANGER, STRANGER));
	become(STRANGER);
	CHECK_EQ(layout_take(f.fd, 0), 0);
	CHECK_EQ(layout_give(f.fd), 0);
	CHECK_EQ(layout_take(f.fd, LAYOUT_UNBREAKABLE), 0);
	CHECK_EQ(layout_give(f.fd), 0);
}

/* A stranger who has just CAP_LEASE. */
static void capable(const struct world *w, const void *arg)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { .effective = 1u << CAP_LEASE,
						    .permitted = 1u << CAP_LEASE } };
	struct file f;

	(void)arg;
	pattern_make(&f, w, "file", O_RDWR);
	CALL(fchown(f.fd, STRANGER, STRANGER));
	CALL(syscall(SYS_capset, &head, data));
	CHECK_EQ(layout_take(f.fd, 0), 0);
	CHECK_EQ(layout_give(f.fd), 0);
	memset(data, 0, sizeof(data));
	CALL(syscall(SYS_capset, &head, data));
	CHECK_EQ(layout_take(f.fd, 0), -EACCES);
}

/* Who may only read cannot keep others from writing. */
static void read_only(const struct world *w, const void *arg)
{
	struct file f;

	(void)arg;
	pattern_make(&f, w, "file", O_RDONLY);
	CHECK_EQ(layout_take(f.fd, LAYOUT_UNBREAKABLE), -EBADF);
	CHECK_EQ(layout_old(f.fd, OLD_UNBREAKABLE), -EBADF);
	CHECK_EQ(layout_take(f.fd, 0), 0);
	CHECK_EQ(layout_give(f.fd), 0);
}

static void write_only(const struct world *w, const void *arg)
{
	struct file f;
	int fd;

	(void)arg;
	pattern_make(&f, w, "file", O_RDWR);
	fd = (int)CALL(open(f.path, O_WRONLY | O_CLOEXEC));
	CHECK_EQ(layout_take(fd, LAYOUT_UNBREAKABLE), 0);
	CHECK_EQ(layout_give(fd), 0);
}

static void o_path(const struct world *w, const void *arg)
{
	struct layout_lease l;
	struct file f;
	int fd;

	(void)arg;
	pattern_make(&f, w, "file", O_RDWR);
	fd = (int)CALL(open(f.path, O_PATH | O_CLOEXEC));
	CHECK_EQ(layout_take(fd, 0), -EBADF);
	CHECK_EQ(fcntl(fd, F_GETLAYOUT, &l), -1);
	CHECK_EQ(errno, EBADF);
}

static int take_at(int fd)
{
	int err = layout_take(fd, 0);

	CALL(close(fd));
	return err;
}

static void no_file(const struct world *w, const void *arg)
{
	int fds[2];

	(void)arg;
	CHECK_EQ(take_at((int)CALL(open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC))), -EINVAL);
	CHECK_EQ(take_at((int)CALL(open("/dev/null", O_RDWR | O_CLOEXEC))), -EINVAL);
	CALL(pipe(fds));
	CHECK_EQ(take_at(fds[0]), -EINVAL);
	CHECK_EQ(take_at(fds[1]), -EINVAL);
}

static void no_dax(const struct world *w, const void *arg)
{
	(void)w;
	(void)arg;
	CHECK_EQ(take_at((int)CALL(open("/tmp/file", O_RDWR | O_CREAT | O_CLOEXEC, 0600))),
		 -EOPNOTSUPP);
	CHECK_EQ(take_at((int)CALL(memfd_create("file", MFD_CLOEXEC))), -EOPNOTSUPP);
	CHECK_EQ(
		take_at((int)CALL(open("/dax/pagecache/file", O_RDWR | O_CREAT | O_CLOEXEC, 0600))),
		-EOPNOTSUPP);
}

static void leases_disabled(const struct world *w, const void *arg)
{
	struct file f;

	(void)arg;
	pattern_make(&f, w, "file", O_RDWR);
	CHECK_EQ(layout_take(f.fd, 0), 0);
	sysctl_set("leases-enable", 0);
	CHECK_EQ(layout_give(f.fd), 0);
	CHECK_EQ(layout_take(f.fd, 0), -EINVAL);
	sysctl_set("leases-enable", 1);
}

static void bad_input(const struct world *w, const void *arg)
{
	static const struct layout_lease bad[] = {
		{ .l_type = F_WRLCK },
		{ .l_type = 16 },
		{ .l_type = 0xffff },
		{ .l_type = F_RDLCK, .l_flags = LAYOUT_BREAKING },
		{ .l_type = F_RDLCK, .l_flags = 4 },
		{ .l_type = F_RDLCK, .l_flags = 0x80000000 },
		{ .l_type = F_RDLCK, .l_break_ms = 1 },
		{ .l_type = F_RDLCK, .l_pins = 1 },
		{ .l_type = F_UNLCK, .l_flags = 4 },
		{ .l_type = F_UNLCK, .l_break_ms = 1 },
		{ .l_type = F_UNLCK, .l_pins = 1 },
	};
	struct layout_lease padded = { .l_type = F_RDLCK };
	struct file f;

	(void)arg;
	pattern_make(&f, w, "file", O_RDWR);
	/* By its place, for headers differ in what they call it. */
	((uint8_t *)&padded)[6] = 1;
	CHECK_EQ(layout_set(f.fd, &padded), -EINVAL);
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		if (layout_set(f.fd, &bad[i]) != -EINVAL)
			fail_at(__FILE__, __LINE__, "number %u is not refused with EINVAL", i);
		CHECK_EQ(leases_in_kernel(f.ino), 0);
	}
	CHECK_EQ(layout_set(f.fd, NULL), -EFAULT);
	CHECK_EQ(fcntl(f.fd, F_GETLAYOUT, NULL), -1);
	CHECK_EQ(errno, EFAULT);
	CHECK_EQ(layout_old(f.fd, 17), -EINVAL);
	CHECK_EQ(layout_old(f.fd, 32), -EINVAL);
	CHECK_EQ(layout_old(f.fd, 18), -EINVAL);
	CHECK_EQ(layout_give(f.fd), -EAGAIN);
}

static void other_flags(const struct world *w, const void *arg)
{
	struct file f;

	(void)arg;
	pattern_make(&f, w, "file", O_RDWR);
	CHECK_EQ(layout_take(f.fd, 0), 0);
	CHECK_EQ(layout_take(f.fd, LAYOUT_UNBREAKABLE), -EBUSY);
	CHECK_EQ(layout_get(f.fd).l_flags, 0);
	/* The same again is what there is already. */
	CHECK_EQ(layout_take(f.fd, 0), 0);
	CHECK_EQ(leases_in_kernel(f.ino), 1);
	CHECK_EQ(layout_give(f.fd), 0);
	CHECK_EQ(layout_give(f.fd), -EAGAIN);
}

/* While a break is going on nobody gets a new lease on the inode. */
static void during_break(const struct world *w, const void *arg)
{
	struct other other;
	siginfo_t info;
	struct file f;
	int second;

	(void)arg;
	other_start(&other);
	pattern_make(&f, w, "file", O_RDWR);
	second = (int)CALL(open(f.path, O_RDWR | O_CLOEXEC));
	layout_signal(f.fd);
	CHECK_EQ(layout_take(f.fd, 0), 0);
	other_begin(&other, OP_TRUNCATE, f.path, PAGE, -1);
	CHECK(layout_wait_signal(SOON_MS, &info));
	CHECK_EQ(layout_take(second, 0), -EAGAIN);
	CHECK_EQ(layout_take(f.fd, 0), -EAGAIN);
	CHECK_EQ(layout_take(second, LAYOUT_UNBREAKABLE), -EAGAIN);
	CHECK_EQ(layout_old(second, OLD_LAYOUT), -EAGAIN);
	CHECK_EQ(layout_give(f.fd), 0);
	CHECK_EQ(other_end(&other, SOON_MS), 0);
	CHECK_EQ(layout_take(second, 0), 0);
	CHECK_EQ(layout_give(second), 0);
	other_stop(&other);
}

/* Any number, whoever else has it open, however. */
static void many_holders(const struct world *w, const void *arg)
{
	struct file f;
	int fds[20];

	(void)arg;
	pattern_make(&f, w, "file", O_RDWR);
	for (unsigned int i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = (int)CALL(open(f.path, (i % 2 ? O_RDWR : O_RDONLY) | O_CLOEXEC));
		CHECK_EQ(layout_take(fds[i], i % 4 == 1 ? LAYOUT_UNBREAKABLE : 0), 0);
	}
	CHECK_EQ(leases_in_kernel(f.ino), ARRAY_SIZE(fds));
	/* The end of a descriptor is that of its lease. */
	for (unsigned int i = 0; i < ARRAY_SIZE(fds); i++)
		CALL(close(fds[i]));
	CHECK_EQ(leases_in_kernel(f.ino), 0);
}

void add_refusal_cases(void)
{
	static const struct {
		const char *name;
		case_fn fn;
	} refusals[] = {
		{ "stranger", stranger },
		{ "owner", owner },
		{ "capable", capable },
		{ "read-only", read_only },
		{ "write-only", write_only },
		{ "o-path", o_path },
		{ "no-file", no_file },
		{ "no-dax", no_dax },
		{ "leases-disabled", leases_disabled },
		{ "bad-input", bad_input },
		{ "other-flags", other_flags },
		{ "during-break", during_break },
		{ "many-holders", many_holders },
	};
	char name[64];

	for (unsigned int i = 0; i < ARRAY_SIZE(refusals); i++) {
		snprintf(name, sizeof(name), "take/%s", refusals[i].name);
		runner_add(NULL, name, refusals[i].fn, NULL, 0, 0);
	}
}
