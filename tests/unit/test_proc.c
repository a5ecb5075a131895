// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Lines of /proc as the tool reads them, and such as no kernel writes. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <fcntl.h>
#include <unistd.h>

#include <cmocka.h>

#include "proc.h"

static void lock__of_the_kernel(void **state)
{
	static const struct {
		const char *line, *state, *type;
		enum lock_kind kind;
		pid_t pid;
	} rows[] = {
		{ "7: LEASE  ACTIVE    WRITE 1234 103:02:5678 0 EOF\n", "ACTIVE", "WRITE",
		  LOCK_LEASE, 1234 },
		{ "1: DELEG  BREAKING  READ 1 103:02:5678 0 EOF\n", "BREAKING", "READ", LOCK_DELEG,
		  1 },
		{ "12: LAYOUT ACTIVE    READ 77 103:02:5678 0 EOF\n", "ACTIVE", "READ", LOCK_LAYOUT,
		  77 },
		{ "7: LEASE  BREAKER   READ -1 103:02:5678 0 EOF\n", "BREAKER", "READ", LOCK_LEASE,
		  0 },
		{ "7: -> LEASE  BREAKER   READ 99 103:02:5678 0 EOF\n", "BREAKER", "READ",
		  LOCK_WAITER, 99 },
	};
	struct file_id file;
	struct lock lock;

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_true(proc_parse_lock(rows[i].line, &lock, &file));
		assert_int_equal(lock.kind, rows[i].kind);
		assert_int_equal(lock.pid, rows[i].pid);
		assert_string_equal(lock.state, rows[i].state);
		assert_string_equal(lock.type, rows[i].type);
		assert_true(file.dev == makedev(0x103, 2) && file.ino == 5678);
	}
}

static void lock__no_lease(void **state)
{
	static const char *const lines[] = {
		"",
		"\n",
		"7:",
		"7: ",
		"7: POSIX  ADVISORY  WRITE 1234 103:02:5678 0 EOF\n",
		"7: FLOCK  ADVISORY  WRITE 1234 103:02:5678 0 EOF\n",
		"LEASE  ACTIVE    WRITE 1234 103:02:5678 0 EOF\n",
		"7: LEASE  ACTIVE    WRITE\n",
		"7: LEASE  ACTIVE    WRITE pid 103:02:5678 0 EOF\n",
		"7: LEASE  ACTIVE    WRITE 1234 103:02 0 EOF\n",
		"7: LEASE  ACTIVE    WRITE 1234 <none>:0 0 EOF\n",
		"7: LEASEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA ACTIVE WRITE 1 1:2:3 0 EOF\n",
		"%n%n%n: %s %s",
		"7: ->",
	};
	struct file_id file = { 0 };
	struct lock lock = { 0 };

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		assert_false(proc_parse_lock(lines[i], &lock, &file));
	assert_int_equal(lock.pid, 0); /* untouched */
	assert_int_equal(file.ino, 0);
}

/* The kernel's own dev_t has 20 bits for the minor number. */
static void mark__of_the_kernel(void **state)
{
	struct file_id file;

	(void)state;
	assert_true(proc_parse_mark("fanotify ino:4f969 sdev:10300002 mflags:0 mask:110000 "
				    "ignored_mask:0 fhandle-bytes:8\n",
				    &file));
	assert_true(file.dev == makedev(0x103, 2) && file.ino == 0x4f969);
	/* Others only watch. */
	assert_false(proc_parse_mark("fanotify ino:1 sdev:1 mflags:0 mask:10000\n", &file));
	assert_false(proc_parse_mark("fanotify flags:2e event-flags:88800\n", &file));
	assert_false(proc_parse_mark("inotify wd:1 ino:1 sdev:1 mask:110000\n", &file));
	assert_false(proc_parse_mark("fanotify ino: sdev: mflags: mask:", &file));
	assert_false(proc_parse_mark("", &file));
}

static void options__words(void **state)
{
	(void)state;
	assert_true(proc_has_option("rw,dax=always", "dax=always"));
	assert_true(proc_has_option("dax=always,rw", "dax=always"));
	assert_true(proc_has_option("rw", "rw"));
	assert_false(proc_has_option("rw,nodax=always", "dax=always"));
	assert_false(proc_has_option("rw,dax=always2", "dax=always"));
	assert_false(proc_has_option("", "rw"));
}

static void users__of_a_file(void **state)
{
	char path[] = "test-proc-XXXXXX";
	int fd = mkstemp(path);
	struct users users;
	struct file_id id;
	struct stat st;
	void *map;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_int_equal(fstat(fd, &st), 0);
	id = (struct file_id){ st.st_dev, st.st_ino };
	assert_int_equal(proc_users(&id, 0, &users), 0);
	assert_int_equal(users.n, 1);
	assert_int_equal(users.list[0].pid, getpid());
	assert_string_equal(users.list[0].comm, "test_proc");
	assert_int_equal(users.list[0].uses, USES_READ | USES_WRITE);
	proc_users_free(&users);

	map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	close(fd);
	assert_int_equal(proc_users(&id, 0, &users), 0);
	assert_int_equal(users.n, 1);
	assert_int_equal(users.list[0].uses, USES_MAPPED | USES_SHARED);
	proc_users_free(&users);
	assert_int_equal(proc_users(&id, getpid(), &users), 0);
	assert_int_equal(users.n, 0);
	proc_users_free(&users);
	munmap(map, 4096);
	unlink(path);
}

/* Neither a terminal nor a reader of JSON shall stumble over it. */
static void comm__hostile(void **state)
{
	char comm[32];

	(void)state;
	assert_int_equal(prctl(PR_SET_NAME, "a\033[2Jb\xff\n\"c"), 0);
	proc_comm(getpid(), comm, sizeof(comm));
	assert_int_equal(prctl(PR_SET_NAME, "test_proc"), 0);
	assert_null(strpbrk(comm, "\033\n\xff"));
	assert_int_equal(strncmp(comm, "a?[2Jb?", 7), 0);
	proc_comm(0, comm, sizeof(comm));
	assert_string_equal(comm, "?");
}

static void locks__of_a_file(void **state)
{
	char path[] = "test-proc-XXXXXX";
	int fd = mkstemp(path);
	struct lock *locks;
	struct file_id id;
	struct stat st;
	size_t n;

	(void)state;
	assert_int_equal(fstat(fd, &st), 0);
	id = (struct file_id){ st.st_dev, st.st_ino };
	assert_int_equal(proc_locks(&id, &locks, &n), 0);
	assert_int_equal(n, 0);
	free(locks);
	assert_int_equal(fcntl(fd, F_SETLEASE, F_WRLCK), 0);
	assert_int_equal(proc_locks(&id, &locks, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(locks[0].kind, LOCK_LEASE);
	assert_int_equal(locks[0].pid, getpid());
	assert_string_equal(locks[0].state, "ACTIVE");
	free(locks);
	close(fd);
	unlink(path);
}

static void mount__of_a_file(void **state)
{
	struct mount mount;

	(void)state;
	assert_int_equal(proc_mount(-1, "/proc/self/status", &mount), 0);
	assert_string_equal(mount.fs, "proc");
	assert_string_equal(mount.dir, "/proc");
	assert_true(proc_has_option(mount.options, "rw") || proc_has_option(mount.options, "ro"));
	assert_true(proc_mount(-1, "/nonexistent", &mount) < 0);
}

static void mount__of_the_kernel(void **state)
{
	struct mount m;

	(void)state;
	assert_true(proc_parse_mount(
		"36 35 98:0 /a\\040b /mnt\\0402\\134 rw,noatime master:1 - ext4 /dev/pmem0 rw,dax=always\n",
		36, &m));
	assert_string_equal(m.dir, "/mnt 2\\");
	assert_string_equal(m.fs, "ext4");
	assert_string_equal(m.source, "/dev/pmem0");
	assert_string_equal(m.options, "rw,noatime,rw,dax=always");
	assert_false(proc_parse_mount("3 35 98:0 / /mnt rw - ext4 /dev/pmem0 rw\n", 36, &m));
	assert_false(proc_parse_mount("36 35 98:0 / /mnt rw - ext4\n", 36, &m));
	assert_false(proc_parse_mount("36 35 98:0 / /mnt rw\n", 36, &m));
	assert_false(proc_parse_mount("36 35 98:0\n", 36, &m));
	assert_false(proc_parse_mount("36", 36, &m));
}

/* A path may be longer than what is kept of it, and be cut off in the middle of an escape. */
static void mount__with_a_long_path(void **state)
{
	struct mount m;
	char line[512];

	(void)state;
	for (int len = 250; len < 260; len++) {
		snprintf(line, sizeof(line),
			 "36 35 98:0 / /%0*d\\040name rw - ext4 /dev/pmem0 dax=always\n", len - 1,
			 0);
		assert_true(proc_parse_mount(line, 36, &m));
		assert_true(strlen(m.dir) >= 250 && strlen(m.dir) < sizeof(m.dir));
		assert_string_equal(m.fs, "ext4");
		assert_string_equal(m.source, "/dev/pmem0");
		assert_string_equal(m.options, "rw,dax=always");
	}
}

static void numbers(void **state)
{
	(void)state;
	assert_true(proc_number("/proc/sys/fs/lease-break-time") >= 0);
	assert_int_equal(proc_number("/nonexistent"), -1);
	assert_int_equal(proc_number("/proc/self/comm"), -1); /* no number */
	assert_int_equal(proc_capable(63), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lock__of_the_kernel),
		cmocka_unit_test(lock__no_lease),
		cmocka_unit_test(mark__of_the_kernel),
		cmocka_unit_test(options__words),
		cmocka_unit_test(users__of_a_file),
		cmocka_unit_test(locks__of_a_file),
		cmocka_unit_test(comm__hostile),
		cmocka_unit_test(mount__of_a_file),
		cmocka_unit_test(mount__of_the_kernel),
		cmocka_unit_test(mount__with_a_long_path),
		cmocka_unit_test(numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
