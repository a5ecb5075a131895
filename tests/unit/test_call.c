// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* What a text of /proc/TID/syscall is taken for. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "call.h"
#include "fake_fan.h"
#include "support.h"

#define TID 4711
#define SP 0x7ffc0badcafeul
#define PC 0x7f0012345678ul

static int setup(void **state)
{
	(void)state;
	fake_fan_on();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fake_fan_off();
	return 0;
}

static const char *text_of(long nr, unsigned long a0, unsigned long a1, unsigned long a2,
			   unsigned long sp, unsigned long pc)
{
	static char text[160];

	snprintf(text, sizeof(text), "%ld 0x%lx 0x%lx 0x%lx 0x0 0x0 0xdead 0x%lx 0x%lx\n", nr, a0,
		 a1, a2, sp, pc);
	return text;
}

static enum call_kind kind_of(bool opens, long nr, unsigned long a0, unsigned long a1,
			      unsigned long a2)
{
	return call_parse(text_of(nr, a0, a1, a2, SP, PC), opens).kind;
}

static void parse__accesses(void **state)
{
	static const struct {
		long nr;
		unsigned long a1;
		enum call_kind kind;
	} rows[] = {
		{ SYS_read, 0, CALL_READ },
		{ SYS_pread64, 0, CALL_READ },
		{ SYS_readv, 0, CALL_READ },
		{ SYS_preadv, 0, CALL_READ },
		{ SYS_preadv2, 0, CALL_READ },
		{ SYS_readahead, 0, CALL_WRITE }, /* a 32-bit sendfile, maybe */
		{ SYS_fadvise64, 0, CALL_READ },
		{ SYS_madvise, 0, CALL_READ },
		{ SYS_mmap, 0, CALL_READ },
		{ SYS_mremap, 0, CALL_READ },
		{ SYS_execve, 0, CALL_READ },
		{ SYS_execveat, 0, CALL_READ },
		{ SYS_write, 0, CALL_WRITE },
		{ SYS_pwrite64, 0, CALL_WRITE },
		{ SYS_writev, 0, CALL_WRITE },
		{ SYS_pwritev, 0, CALL_WRITE },
		{ SYS_pwritev2, 0, CALL_WRITE },
		{ SYS_sendfile, 0, CALL_WRITE },
		{ SYS_splice, 0, CALL_WRITE },
		{ SYS_io_submit, 0, CALL_WRITE },
		{ SYS_copy_file_range, 0, CALL_REMAP },
		{ SYS_ioctl, FICLONE, CALL_REMAP },
		{ SYS_ioctl, FICLONERANGE, CALL_REMAP },
		{ SYS_ioctl, FIDEDUPERANGE, CALL_CHANGE },
		{ SYS_ioctl, 0, CALL_CHANGE },
		{ SYS_fallocate, 0, CALL_READ },
		{ SYS_fallocate, FALLOC_FL_KEEP_SIZE, CALL_READ },
		{ SYS_fallocate, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, CALL_CHANGE },
		{ SYS_fallocate, FALLOC_FL_COLLAPSE_RANGE, CALL_CHANGE },
		{ SYS_fallocate, FALLOC_FL_INSERT_RANGE, CALL_CHANGE },
		{ SYS_fallocate, FALLOC_FL_ZERO_RANGE, CALL_CHANGE },
		{ SYS_fallocate, FALLOC_FL_UNSHARE_RANGE, CALL_CHANGE },
		{ SYS_fallocate, 1ul << 31, CALL_CHANGE },
		{ SYS_truncate, 0, CALL_CHANGE },
		{ SYS_ftruncate, 0, CALL_CHANGE },
		{ SYS_openat, 0, CALL_CHANGE },
		{ SYS_io_uring_enter, 0, CALL_CHANGE },
		{ SYS_exit_group, 0, CALL_CHANGE },
		{ 9999, 0, CALL_CHANGE },
		{ 0x40000000 | SYS_read, 0, CALL_CHANGE }, /* x32 */
		{ -1, 0, CALL_CHANGE },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_int_equal(kind_of(false, rows[i].nr, 3, rows[i].a1, 0), rows[i].kind);
	/* It punches; the kernel does not look at the upper half either. */
	assert_int_equal(kind_of(false, SYS_madvise, 0x7f00, 4096, MADV_REMOVE), CALL_CHANGE);
	assert_int_equal(kind_of(false, SYS_madvise, 0x7f00, 4096, 1ul << 32 | MADV_REMOVE),
			 CALL_CHANGE);
	assert_int_equal(kind_of(false, SYS_madvise, 0x7f00, 4096, MADV_WILLNEED), CALL_READ);
}

static void parse__opens(void **state)
{
	static const unsigned long flags[] = { O_RDONLY, O_WRONLY | O_CLOEXEC, O_RDWR | O_APPEND };
	static const long three_args[] = { SYS_openat, SYS_open_by_handle_at };

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		for (size_t j = 0; j < 2; j++) {
			assert_int_equal(kind_of(true, three_args[j], 1, 2, flags[i]), CALL_READ);
			assert_int_equal(kind_of(true, three_args[j], 1, 2, flags[i] | O_TRUNC),
					 CALL_CHANGE);
		}
#ifdef SYS_open
		assert_int_equal(kind_of(true, SYS_open, 1, flags[i], O_TRUNC), CALL_READ);
		assert_int_equal(kind_of(true, SYS_open, 1, flags[i] | O_TRUNC, 0), CALL_CHANGE);
#endif
	}
#ifdef SYS_creat
	assert_int_equal(kind_of(true, SYS_creat, 1, 0600, 0), CALL_CHANGE);
#endif
	assert_int_equal(kind_of(true, SYS_openat2, 1, 2, 0), CALL_CHANGE);
	assert_int_equal(kind_of(true, SYS_execve, O_TRUNC, O_TRUNC, O_TRUNC), CALL_READ);
	assert_int_equal(kind_of(true, SYS_execveat, 1, 2, O_TRUNC), CALL_READ);
	assert_int_equal(kind_of(true, SYS_io_uring_enter, 1, 2, 0), CALL_CHANGE);
	assert_int_equal(kind_of(true, SYS_read, 1, 2, 0), CALL_CHANGE);
	assert_int_equal(kind_of(true, -1, 1, 2, 0), CALL_CHANGE);
}

static void parse__no_call_of_its_own(void **state)
{
	(void)state;
	/* A worker of io_uring, or a thread of the kernel. */
	assert_int_equal(call_parse(text_of(SYS_read, 3, 0, 0, 0, 0), false).kind, CALL_CHANGE);
	assert_int_equal(call_parse(text_of(SYS_read, 3, 0, 0, SP, 0), false).kind, CALL_CHANGE);
	assert_int_equal(call_parse(text_of(SYS_openat, 3, 0, 0, SP, 0), true).kind, CALL_CHANGE);
}

/* A 32-bit task: its sendfile has the number that readahead has here. */
static void parse__another_architecture(void **state)
{
	static const long numbers[] = {
		0, 1, 3, 4, 5, 8, 54, 92, 93, 187, 193, 194, 295, 324, 377
	};

	(void)state;
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		const char *text = text_of(numbers[i], 3, 0, 0, 0xffe4c0d0ul, 0xf7f4d579ul);

		assert_int_equal(call_parse(text, false).kind, CALL_CHANGE);
		assert_int_equal(call_parse(text, true).kind, CALL_CHANGE);
	}
	/* But a program that is linked to low addresses is an ordinary one. */
	assert_int_equal(call_parse(text_of(SYS_read, 3, 0, 0, SP, 0x401234), false).kind,
			 CALL_READ);
}

static void parse__no_text_of_a_call(void **state)
{
	static const char *const texts[] = {
		"",
		"\n",
		"running\n",
		"-1 0x7ffd2a31b1c8 0x7f63c1a2d4e7\n",
		"-1 0x0 0x0 0x0 0x0 0x0 0x0 0x7ffd2a31b1c8 0x7f63c1a2d4e7\n",
		"0",
		"0 ",
		"0 0x3 0x7ffd 0x1000 0x0 0x0 0x0 0x7ffd2a31b1c8", /* cut off */
		"0 0x3 0x7ffd 0x1000 0x0 0x0 0x0 0x7ffd2a31b1c8 ",
		"0 0x3 0x7ffd 0x1000 0x0 0x0 0x0 0x7ffd2a31b1c8 0x",
		"0 0x3 0x7ffd 0x1000 0x0 0x0 zero 0x7ffd2a31b1c8 0x7f63c1a2d4e7\n",
		"read 0x3 0x7ffd 0x1000 0x0 0x0 0x0 0x7ffd2a31b1c8 0x7f63c1a2d4e7\n",
		"99999999999999999999999 0x3 0x1 0x1 0x0 0x0 0x0 0x7ffd2a31b1c8 0x7f63c1a2d4e7\n",
		"-99999999999999999999999 0x3 0x1 0x1 0x0 0x0 0x0 0x7ffd2a31b1c8 0x7f63c1a2d4e7\n",
		"%n%n%n%n",
		"\xff\xfe\xfd",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		for (int opens = 0; opens < 2; opens++) {
			struct call_facts facts = call_parse(texts[i], opens);

			assert_int_equal(facts.kind, CALL_CHANGE);
			assert_int_equal(facts.target_fd, -1);
		}
	}
}

static void parse__target(void **state)
{
	(void)state;
	assert_int_equal(call_parse(text_of(SYS_ioctl, 5, FICLONE, 6, SP, PC), false).target_fd, 5);
	assert_int_equal(
		call_parse(text_of(SYS_ioctl, 5, FICLONERANGE, 6, SP, PC), false).target_fd, 5);
	assert_int_equal(call_parse(text_of(SYS_copy_file_range, 5, 0, 6, SP, PC), false).target_fd,
			 6);
	assert_int_equal(call_parse(text_of(SYS_read, 5, 0, 6, SP, PC), false).target_fd, -1);
	assert_int_equal(call_parse(text_of(SYS_ioctl, ~0ul, FICLONE, 6, SP, PC), false).target_fd,
			 -1);
	/* The kernel looks at 32 bits of it; then it is a change, whatever it is. */
	assert_int_equal(
		call_parse(text_of(SYS_ioctl, 5, FICLONE | 1ul << 32, 6, SP, PC), false).kind,
		CALL_CHANGE);
}

/* ------------------------------------------------------------------------- */
/* Looking */

static const struct fan_file guarded = { .dev = 1, .ino = 2 }, other = { .dev = 1, .ino = 3 },
			     other_dev = { .dev = 2, .ino = 2 };

/* As the server does it. */
static enum call_kind look_at(struct call *call, bool opens)
{
	struct call_files files = { 0 };
	enum call_kind kind = call_look(&files, call, opens);

	call_files_close(&files);
	return kind == CALL_REMAP ? call_direction(call, &guarded) : kind;
}

static enum call_kind look(const char *text, bool opens)
{
	struct call call = { .tid = TID };

	fake_fan_task(TID, text);
	return look_at(&call, opens);
}

static void look__text_is_kept(void **state)
{
	struct call call = { .tid = TID };
	char text[160];

	(void)state;
	snprintf(text, sizeof(text), "%s", text_of(SYS_read, 3, 0, 0, SP, PC));
	fake_fan_task(TID, text);
	assert_int_equal(look_at(&call, false), CALL_READ);
	assert_string_equal(call.text, text);
}

static void look__direction(void **state)
{
	const char *clone = text_of(SYS_ioctl, 5, FICLONE, 6, SP, PC);

	(void)state;
	fake_fan_task(TID, clone);
	fake_fan_task_fd(TID, 5, &other);
	assert_int_equal(look(clone, false), CALL_SHARE);
	fake_fan_task_fd(TID, 5, &other_dev);
	assert_int_equal(look(clone, false), CALL_SHARE);
	fake_fan_task_fd(TID, 5, &guarded);
	assert_int_equal(look(clone, false), CALL_REMAP);
	fake_fan_task_fd(TID, 6, &other); /* not the target's */
	assert_int_equal(look(clone, false), CALL_REMAP);
	/* Another thread could have put another file there since. */
	fake_fan_task_fd(TID, 5, &other);
	fake_fan_task_threads(TID, 2);
	assert_int_equal(look(clone, false), CALL_REMAP);
	fake_fan_task_threads(TID, -ESRCH);
	assert_int_equal(look(clone, false), CALL_REMAP);
	fake_fan_task_threads(TID, 1);
	fake_fan_task_fd(TID, 6, &other);
	assert_int_equal(look(text_of(SYS_copy_file_range, 5, 0, 6, SP, PC), false), CALL_SHARE);
}

static void look__cannot_be_read(void **state)
{
	struct call call = { .tid = TID, .text = "old" };

	(void)state;
	fake_fan_task_error(TID, -EACCES);
	assert_int_equal(look_at(&call, true), CALL_CHANGE);
	assert_string_equal(call.text, "");
	assert_int_equal(look(NULL, true), CALL_CHANGE);
	assert_int_equal(look("", true), CALL_CHANGE);
	call = (struct call){ .tid = 0, .text = "old" }; /* of another PID namespace */
	assert_int_equal(look_at(&call, true), CALL_CHANGE);
	assert_string_equal(call.text, "");
}

/* It is seen before it sleeps: it is looked at again, but not without a pause. */
static void look__runs_still(void **state)
{
	const char *text = text_of(SYS_read, 3, 0, 0, SP, PC);
	enum call_kind kind;

	(void)state;
	fake_fan_task(TID, text);
	fake_fan_task_runs(TID, 4);
	do /* we may have been off the processor for longer than a caller is waited for */
		kind = look(text, false);
	while (kind == CALL_UNDECIDED);
	assert_int_equal(kind, CALL_READ);
	assert_int_equal(look("running\n", false), CALL_UNDECIDED);
}

static void state__of_a_call(void **state)
{
	static const struct {
		const char *before, *now;
		int err;
		enum call_state state;
	} rows[] = {
		{ "4 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc00000000 0x7f00\n", NULL, 0, CALL_RUNS },
		{ "4 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc00000000 0x7f00\n",
		  "4 0x1 0x2 0x3 0x4 0x5 0x7 0x7ffc00000000 0x7f00\n", 0, CALL_ENDED },
		{ "4 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc00000000 0x7f00\n", "-1 0x7ffc 0x7f00\n", 0,
		  CALL_ENDED },
		{ "4 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc00000000 0x7f00\n", "running\n", 0,
		  CALL_UNKNOWN },
		{ "4 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc00000000 0x7f00\n", "", 0, CALL_UNKNOWN },
		{ "running\n", "4 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc00000000 0x7f00\n", 0,
		  CALL_UNKNOWN },
		{ "", "4 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc00000000 0x7f00\n", 0, CALL_UNKNOWN },
		/* A worker shows the same whatever it does. */
		{ "4 0x1 0x2 0x3 0x4 0x5 0x6 0x0 0x0\n", NULL, 0, CALL_UNKNOWN },
		{ "-1 0x0 0x0\n", NULL, 0, CALL_UNKNOWN },
		{ "garbage", NULL, 0, CALL_UNKNOWN },
		{ "4 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc00000000 0x7f00\n", NULL, -ENOENT, CALL_ENDED },
		{ "4 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc00000000 0x7f00\n", NULL, -ESRCH, CALL_ENDED },
		{ "4 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc00000000 0x7f00\n", NULL, -EACCES,
		  CALL_UNKNOWN },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct call call = { .tid = TID };

		snprintf(call.text, sizeof(call.text), "%s", rows[i].before);
		fake_fan_task(TID, rows[i].now ? rows[i].now : rows[i].before);
		fake_fan_task_error(TID, rows[i].err);
		assert_int_equal(call_state(&call), rows[i].state);
	}
	assert_int_equal(call_state(&(struct call){ .tid = 0, .text = "4" }), CALL_UNKNOWN);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(parse__accesses),		 CASE(parse__opens),
		CASE(parse__no_call_of_its_own), CASE(parse__another_architecture),
		CASE(parse__no_text_of_a_call),	 CASE(parse__target),
		CASE(look__text_is_kept),	 CASE(look__direction),
		CASE(look__cannot_be_read),	 CASE(look__runs_still),
		CASE(state__of_a_call),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
