// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fault.h"
#include "log.h"
#include "support.h"

struct seen {
	struct log log;
	unsigned int n;
	enum daxlease_log_level level;
	char line[600];
};

static void collect(enum daxlease_log_level level, const char *line, void *userdata)
{
	struct seen *seen = userdata;

	seen->n++;
	seen->level = level;
	snprintf(seen->line, sizeof(seen->line), "%s", line);
}

static void begin(struct seen *seen, enum daxlease_log_level level)
{
	memset(seen, 0, sizeof(*seen));
	log_init(&seen->log);
	log_set(&seen->log, collect, level, seen);
}

static void log_add__not_told_before_flush(void **state)
{
	struct seen seen;

	(void)state;
	begin(&seen, DAXLEASE_LOG_INFO);
	log_add(&seen.log, DAXLEASE_LOG_ERR, "%s %d", "number", 7);
	assert_int_equal(seen.n, 0);
	log_flush(&seen.log);
	assert_int_equal(seen.n, 1);
	assert_int_equal(seen.level, DAXLEASE_LOG_ERR);
	assert_string_equal(seen.line, "number 7");
	log_flush(&seen.log);
	assert_int_equal(seen.n, 1);
	log_end(&seen.log);
}

static void log_add__more_verbose_than_wanted(void **state)
{
	struct seen seen;

	(void)state;
	begin(&seen, DAXLEASE_LOG_WARNING);
	log_add(&seen.log, DAXLEASE_LOG_INFO, "info");
	log_add(&seen.log, DAXLEASE_LOG_DEBUG, "debug");
	log_flush(&seen.log);
	assert_int_equal(seen.n, 0);
	log_end(&seen.log);
}

static void log_add__long_line_is_whole(void **state)
{
	struct seen seen;
	char text[500];

	(void)state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	begin(&seen, DAXLEASE_LOG_DEBUG);
	log_add(&seen.log, DAXLEASE_LOG_DEBUG, "%s", text);
	log_flush(&seen.log);
	assert_string_equal(seen.line, text);
	log_end(&seen.log);
}

static void log_add__no_memory_drops_the_line(void **state)
{
	struct seen seen;

	(void)state;
	begin(&seen, DAXLEASE_LOG_DEBUG);
	fault_arm_name("sys_calloc", 1, 1);
	log_add(&seen.log, DAXLEASE_LOG_ERR, "lost");
	log_add(&seen.log, DAXLEASE_LOG_ERR, "kept");
	log_flush(&seen.log);
	assert_int_equal(seen.n, 1);
	assert_string_equal(seen.line, "kept");
	log_end(&seen.log);
	fault_reset();
}

static void log_set__null_is_silent(void **state)
{
	struct seen seen;

	(void)state;
	begin(&seen, DAXLEASE_LOG_DEBUG);
	log_add(&seen.log, DAXLEASE_LOG_ERR, "formatted before");
	log_set(&seen.log, NULL, DAXLEASE_LOG_DEBUG, NULL);
	log_add(&seen.log, DAXLEASE_LOG_ERR, "after");
	log_flush(&seen.log);
	assert_int_equal(seen.n, 0);
	log_end(&seen.log);
}

static void log_end__hands_out_the_rest(void **state)
{
	struct seen seen;

	(void)state;
	begin(&seen, DAXLEASE_LOG_DEBUG);
	log_add(&seen.log, DAXLEASE_LOG_ERR, "one");
	log_add(&seen.log, DAXLEASE_LOG_ERR, "two");
	log_end(&seen.log);
	assert_int_equal(seen.n, 2);
	assert_string_equal(seen.line, "two");
}

enum {
	WRITERS = 4,
	LINES = 250
};

struct crowd {
	struct log log;
	atomic_int inside;
	atomic_uint overlaps, disorder, n;
	unsigned int next[WRITERS];
};

struct writer {
	struct crowd *crowd;
	unsigned int id;
};

static void check_order(enum daxlease_log_level level, const char *line, void *userdata)
{
	struct crowd *crowd = userdata;
	unsigned int id, n;

	(void)level;
	if (atomic_fetch_add(&crowd->inside, 1))
		atomic_fetch_add(&crowd->overlaps, 1);
	if (sscanf(line, "%u %u", &id, &n) != 2 || id >= WRITERS || crowd->next[id]++ != n)
		atomic_fetch_add(&crowd->disorder, 1);
	atomic_fetch_add(&crowd->n, 1);
	usleep(1);
	atomic_fetch_sub(&crowd->inside, 1);
}

static void *write_lines(void *arg)
{
	const struct writer *writer = arg;

	for (unsigned int i = 0; i < LINES; i++) {
		log_add(&writer->crowd->log, DAXLEASE_LOG_INFO, "%u %u", writer->id, i);
		log_flush(&writer->crowd->log);
	}
	return NULL;
}

static void log_flush__one_at_a_time_and_in_order(void **state)
{
	static struct crowd crowd;
	struct writer writers[WRITERS];
	pthread_t threads[WRITERS];

	(void)state;
	log_init(&crowd.log);
	log_set(&crowd.log, check_order, DAXLEASE_LOG_INFO, &crowd);
	for (unsigned int i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){ &crowd, i };
		assert_int_equal(pthread_create(&threads[i], NULL, write_lines, &writers[i]), 0);
	}
	for (unsigned int i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	/* Nothing stays behind, whoever was at it last. */
	assert_int_equal(atomic_load(&crowd.n), WRITERS * LINES);
	assert_int_equal(atomic_load(&crowd.overlaps), 0);
	assert_int_equal(atomic_load(&crowd.disorder), 0);
	log_end(&crowd.log);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(log_add__not_told_before_flush),
		cmocka_unit_test(log_add__more_verbose_than_wanted),
		cmocka_unit_test(log_add__long_line_is_whole),
		cmocka_unit_test(log_add__no_memory_drops_the_line),
		cmocka_unit_test(log_set__null_is_silent),
		cmocka_unit_test(log_end__hands_out_the_rest),
		cmocka_unit_test(log_flush__one_at_a_time_and_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
