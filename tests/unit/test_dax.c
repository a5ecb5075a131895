// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dax.h"
#include "fault.h"
#include "log.h"
#include "support.h"
#include "sys.h"

struct world {
	struct log log;
	int maps_fd;
	unsigned int lines;
	enum daxlease_log_level level; /* of each */
	struct file file;
	struct dax_range range;
};

static void count_line(enum daxlease_log_level level, const char *line, void *userdata)
{
	struct world *w = userdata;

	(void)line;
	assert_int_equal(level, w->level);
	w->lines++;
}

static int setup_with(void **state, bool dax)
{
	static struct world world;

	world = (struct world){ 0 };
	log_init(&world.log);
	log_set(&world.log, count_line, DAXLEASE_LOG_DEBUG, &world);
	fault_reset();
	world.maps_fd = sys_open_maps();
	file_make(&world.file, 4, dax);
	*state = &world;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, true);
}

static int setup_page_cache(void **state)
{
	return setup_with(state, false);
}

static int teardown(void **state)
{
	struct world *w = *state;

	file_end(&w->file);
	sys_close(w->maps_fd);
	log_end(&w->log);
	fault_reset();
	return 0;
}

static int inspect(struct world *w, int fd, const void *addr, size_t length)
{
	int err = dax_inspect(w->maps_fd, fd, addr, length, &w->log, &w->range);

	log_flush(&w->log);
	return err;
}

/* It fails so, says so once, and leaves the range alone. */
static void refused(struct world *w, int fd, const void *addr, size_t length, int err)
{
	w->range = (struct dax_range){ .ino = 4711 };
	assert_int_equal(inspect(w, fd, addr, length), err);
	assert_int_equal(w->lines, 1);
	assert_int_equal(w->range.ino, 4711);
	w->lines = 0;
}

static void dax_inspect__whole_file(void **state)
{
	struct world *w = *state;
	struct stat st;

	assert_int_equal(inspect(w, w->file.fd, w->file.map, w->file.size), 0);
	assert_int_equal(fstat(w->file.fd, &st), 0);
	assert_true(w->range.fs_dax && w->range.writable && !w->range.page_cache);
	assert_int_equal(w->range.ino, st.st_ino);
	assert_int_equal(w->range.offset, 0);
	assert_int_equal(w->lines, 0);
}

static void dax_inspect__sub_range(void **state)
{
	struct world *w = *state;

	assert_int_equal(inspect(w, w->file.fd, w->file.map + PAGE + 5, 100), 0);
	assert_int_equal(w->range.offset, PAGE + 5);
}

static void dax_inspect__split_mapping_is_one(void **state)
{
	struct world *w = *state;

	/* Three VMAs of one mapping: still one range, but not all of it writable. */
	assert_int_equal(mprotect(w->file.map + PAGE, PAGE, PROT_READ), 0);
	assert_int_equal(inspect(w, w->file.fd, w->file.map, w->file.size), 0);
	assert_true(w->range.fs_dax);
	assert_false(w->range.writable);
}

static void dax_inspect__private_mapping(void **state)
{
	struct world *w = *state;
	void *map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, w->file.fd, 0);

	assert_ptr_not_equal(map, MAP_FAILED);
	refused(w, w->file.fd, map, PAGE, -EOPNOTSUPP);
	munmap(map, PAGE);
}

static void dax_inspect__not_mapped(void **state)
{
	struct world *w = *state;
	char *map = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(map, PAGE);
	refused(w, w->file.fd, map, PAGE, -EFAULT);
	refused(w, -1, map, PAGE, -EFAULT);
}

static void dax_inspect__partly_mapped(void **state)
{
	struct world *w = *state;

	munmap(w->file.map + 2 * PAGE, PAGE);
	refused(w, w->file.fd, w->file.map, w->file.size, -EFAULT);
}

static void dax_inspect__two_mappings_of_the_file(void **state)
{
	struct world *w = *state;

	/* Page 0 again where page 2 was: no longer one piece of the file. */
	assert_ptr_not_equal(mmap(w->file.map + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_FIXED, w->file.fd, 0),
			     MAP_FAILED);
	refused(w, w->file.fd, w->file.map, w->file.size, -EINVAL);
}

static void dax_inspect__bad_descriptors(void **state)
{
	struct world *w = *state;
	int path_fd = open(w->file.path, O_PATH);
	int dir_fd = open(".", O_RDONLY | O_DIRECTORY);

	refused(w, 1000, w->file.map, PAGE, -EBADF);
	refused(w, -2, w->file.map, PAGE, -EBADF);
	refused(w, path_fd, w->file.map, PAGE, -EBADF);
	refused(w, dir_fd, w->file.map, PAGE, -EINVAL);
	close(path_fd);
	close(dir_fd);
}

static void dax_inspect__descriptor_of_another_file(void **state)
{
	struct world *w = *state;
	struct file other;

	file_make(&other, 1, true);
	refused(w, other.fd, w->file.map, PAGE, -EINVAL);
	file_end(&other);
}

static void dax_inspect__descriptor_but_anonymous(void **state)
{
	struct world *w = *state;
	void *map = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	refused(w, w->file.fd, map, PAGE, -EINVAL);
	munmap(map, PAGE);
}

static void dax_inspect__dax_without_descriptor(void **state)
{
	struct world *w = *state;

	refused(w, -1, w->file.map, PAGE, -EBADF);
}

static void dax_inspect__dax_without_descriptor_and_name(void **state)
{
	struct world *w = *state;

	/* Nothing tells any more what it is: passed on as it is, with a warning. */
	w->level = DAXLEASE_LOG_WARNING;
	unlink(w->file.path);
	w->file.path[0] = '\0';
	assert_int_equal(inspect(w, -1, w->file.map, PAGE), 0);
	assert_false(w->range.fs_dax);
	assert_int_equal(w->lines, 1);
}

static void dax_inspect__dax_behind_plain_memory(void **state)
{
	struct world *w = *state;
	char *two = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(two, MAP_FAILED);
	assert_ptr_equal(mmap(two + PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, w->file.fd, 0),
			 two + PAGE);
	assert_int_equal(inspect(w, -1, two, 2 * PAGE), -EBADF);
	assert_int_equal(w->lines, 1);
	munmap(two, 2 * PAGE);
}

static void dax_inspect__anonymous(void **state)
{
	struct world *w = *state;
	static char heap[3 * PAGE];

	assert_int_equal(inspect(w, -1, heap, sizeof(heap)), 0);
	assert_false(w->range.fs_dax || w->range.page_cache);
}

static void dax_inspect__plain_memory_of_several_mappings(void **state)
{
	struct world *w = *state;
	char *map = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(
		mmap(map + PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
		MAP_FAILED);
	assert_int_equal(inspect(w, -1, map, 2 * PAGE), 0);
	munmap(map, 2 * PAGE);
}

static void dax_inspect__page_cache_file(void **state)
{
	struct world *w = *state;

	assert_int_equal(inspect(w, w->file.fd, w->file.map, w->file.size), 0);
	assert_true(w->range.page_cache && !w->range.fs_dax);
	assert_int_equal(inspect(w, -1, w->file.map, w->file.size), 0);
	assert_true(w->range.page_cache && !w->range.fs_dax);
}

static void dax_inspect__maps_cannot_be_read(void **state)
{
	struct world *w = *state;

	fault_arm_name("sys_query_vma", 1, 1);
	refused(w, w->file.fd, w->file.map, PAGE, -ENOMEM);
	mprotect(w->file.map + PAGE, PAGE, PROT_READ);
	fault_arm_name("sys_query_vma", 2, 1);
	refused(w, w->file.fd, w->file.map, 2 * PAGE, -ENOMEM);
	fault_arm_name("sys_file_info", 1, 1);
	refused(w, w->file.fd, w->file.map, PAGE, -ENOMEM);
}

static void dax_check__unchanged(void **state)
{
	struct world *w = *state;

	assert_int_equal(inspect(w, w->file.fd, w->file.map, w->file.size), 0);
	assert_int_equal(dax_check(w->maps_fd, w->file.map, w->file.size, &w->range), 0);
	assert_int_equal(dax_check(w->maps_fd, w->file.map, PAGE, &w->range), 0);
}

static void dax_check__changed(void **state)
{
	struct world *w = *state;

	assert_int_equal(inspect(w, w->file.fd, w->file.map, w->file.size), 0);
	fault_arm_name("sys_query_vma", 1, 1);
	assert_int_equal(dax_check(w->maps_fd, w->file.map, PAGE, &w->range), -ENOMEM);
	munmap(w->file.map + 3 * PAGE, PAGE);
	assert_int_equal(dax_check(w->maps_fd, w->file.map, w->file.size, &w->range), -EFAULT);
	assert_int_equal(dax_check(w->maps_fd, w->file.map, 3 * PAGE, &w->range), 0);
	assert_ptr_not_equal(mmap(w->file.map + 2 * PAGE, 2 * PAGE, PROT_READ,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			     MAP_FAILED);
	assert_int_equal(dax_check(w->maps_fd, w->file.map, w->file.size, &w->range), -EFAULT);
	munmap(w->file.map, w->file.size);
	assert_int_equal(dax_check(w->maps_fd, w->file.map, PAGE, &w->range), -EFAULT);
	w->file.map = NULL;
}

static void dax_check__other_offset(void **state)
{
	struct world *w = *state;

	assert_int_equal(inspect(w, w->file.fd, w->file.map, w->file.size), 0);
	assert_ptr_not_equal(
		mmap(w->file.map, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, w->file.fd, PAGE),
		MAP_FAILED);
	assert_int_equal(dax_check(w->maps_fd, w->file.map, PAGE, &w->range), -EFAULT);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(dax_inspect__whole_file),
		CASE(dax_inspect__sub_range),
		CASE(dax_inspect__split_mapping_is_one),
		CASE(dax_inspect__private_mapping),
		CASE(dax_inspect__not_mapped),
		CASE(dax_inspect__partly_mapped),
		CASE(dax_inspect__two_mappings_of_the_file),
		CASE(dax_inspect__bad_descriptors),
		CASE(dax_inspect__descriptor_of_another_file),
		CASE(dax_inspect__descriptor_but_anonymous),
		CASE(dax_inspect__dax_without_descriptor),
		CASE(dax_inspect__dax_without_descriptor_and_name),
		CASE(dax_inspect__dax_behind_plain_memory),
		CASE(dax_inspect__anonymous),
		CASE(dax_inspect__plain_memory_of_several_mappings),
		cmocka_unit_test_setup_teardown(dax_inspect__page_cache_file, setup_page_cache,
						teardown),
		CASE(dax_inspect__maps_cannot_be_read),
		CASE(dax_check__unchanged),
		CASE(dax_check__changed),
		CASE(dax_check__other_offset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
