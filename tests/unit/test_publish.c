// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* What a context lets others read, as another process reads it: from /proc. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_verbs.h"
#include "fault.h"
#include "publish.h"
#include "support.h"

/* NULL: there is none. */
static struct publish_table *read_table(pid_t pid)
{
	static struct publish_table table;
	char path[40], line[512];
	bool found = false;
	FILE *maps;
	int mem;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	maps = fopen(path, "re");
	assert_non_null(maps);
	while (!found && fgets(line, sizeof(line), maps))
		found = strstr(line, "/memfd:daxlease (deleted)");
	fclose(maps);
	if (!found)
		return NULL;
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	mem = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(mem >= 0);
	assert_int_equal(pread(mem, &table, sizeof(table), (off_t)strtoull(line, NULL, 16)),
			 sizeof(table));
	close(mem);
	assert_true(table.magic == PUBLISH_MAGIC);
	assert_int_equal(table.version, PUBLISH_VERSION);
	assert_int_equal(table.size, sizeof(table));
	assert_int_equal(table.pid, pid);
	assert_int_equal(table.seq & 1, 0);
	return &table;
}

static unsigned int used(const struct publish_table *t)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < PUBLISH_REGIONS; i++)
		n += t->region[i].used;
	return n;
}

static struct publish_region *region(void)
{
	struct publish_table *t = read_table(getpid());

	assert_int_equal(used(t), 1);
	for (unsigned int i = 0; i < PUBLISH_REGIONS; i++) {
		if (t->region[i].used)
			return &t->region[i];
	}
	return NULL;
}

static int setup_publish(void **state)
{
	struct fix *fx = calloc(1, sizeof(*fx));

	if (!fx)
		return -1;
	fix_begin(fx, &mode_thread);
	fx->flags = DAXLEASE_CTX_PUBLISH;
	assert_int_equal(fix_open(fx), 0);
	*state = fx;
	return 0;
}

static void publish__not_unasked(void **state)
{
	(void)state;
	assert_null(read_table(getpid()));
}

static void publish__life_of_a_region(void **state)
{
	struct fix *fx = *state;
	struct daxlease_mr_info info = { .size = sizeof(info) };
	struct user u = { 0 };
	const struct publish_region *r;
	const struct publish_table *t;
	struct stat st;

	assert_int_equal(used(read_table(getpid())), 0);
	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	r = region();
	assert_int_equal(r->state, DAXLEASE_STATE_ACTIVE);
	assert_int_equal(r->kind, DAXLEASE_KIND_LEASE);
	assert_int_equal(r->length, fx->file.size);
	assert_int_equal(fstat(fx->file.fd, &st), 0);
	assert_true(r->dev == st.st_dev && r->ino == st.st_ino);
	assert_int_equal(daxlease_mr_get_info(u.mr, &info), 0);
	assert_int_equal(r->on_demand, info.on_demand);
	assert_int_equal(r->breaks, 0);
	assert_true(r->since_ns && r->since_ns <= now_ns());

	assert_int_equal(daxlease_mr_recall(u.mr), 0);
	r = region();
	assert_int_equal(r->state, DAXLEASE_STATE_RELEASED);
	assert_int_equal(r->breaks, 1);
	t = read_table(getpid());
	assert_int_equal(t->regions, 1);
	assert_int_equal(t->released, 1);
	assert_int_equal(daxlease_mr_regain(u.mr), 0);
	assert_int_equal(region()->state, DAXLEASE_STATE_ACTIVE);
	user_dereg(&u);
	t = read_table(getpid());
	assert_int_equal(used(t), 0);
	assert_int_equal(t->regained, 1);
}

/* It is another's, and the child has nothing. */
static void publish__fork(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	int status;
	pid_t pid;

	user_reg(fx, &u, 0, 0);
	pid = fork();
	if (!pid)
		_exit(read_table(getpid()) ? 1 : 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	user_dereg(&u);
}

/* More regions than places: all are counted, and all work. */
static void publish__too_many(void **state)
{
	const unsigned int n = PUBLISH_REGIONS + 10;
	struct user *users = calloc(n, sizeof(*users));
	struct fix *fx = *state;
	const struct publish_table *t;

	assert_non_null(users);
	for (unsigned int i = 0; i < n; i++)
		user_reg(fx, &users[i], 0, 0);
	t = read_table(getpid());
	assert_int_equal(used(t), PUBLISH_REGIONS);
	assert_int_equal(t->regions, n);
	for (unsigned int i = 0; i < n; i++)
		user_dereg(&users[i]);
	assert_int_equal(used(read_table(getpid())), 0);
	free(users);
}

static void publish__goes_with_the_context(void **state)
{
	struct fix *fx = *state;
	unsigned int fds = count_fds();

	assert_non_null(read_table(getpid()));
	assert_int_equal(count_fds(), fds); /* none is kept */
	assert_int_equal(daxlease_ctx_free(fx->ctx), 0);
	assert_null(read_table(getpid()));
	assert_int_equal(fix_open(fx), 0);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup_publish, fix_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(publish__not_unasked, fix_setup, fix_teardown),
		CASE(publish__life_of_a_region),
		CASE(publish__fork),
		CASE(publish__too_many),
		CASE(publish__goes_with_the_context),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
