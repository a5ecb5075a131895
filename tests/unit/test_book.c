// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The rules of the guard, without a kernel: each call and each wish is looked at. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "book.h"
#include "support.h"

#define SEC 1000000000ull
#define SETTLE (SEC / 4)
#define CLIENTS 2
#define WAITS 1
#define MAX_CALLS 64
#define ME 1000

/* What the book wanted done. */
struct stage {
	struct book *book;
	struct book_client clients[CLIENTS];
	int names[CLIENTS]; /* what tell() gets */
	uint64_t now, break_time;
	int answers[MAX_CALLS]; /* by event fd */
	unsigned int breaks[CLIENTS], losts[CLIENTS];
	uint32_t last_id;
	uint64_t last_deadline;
	unsigned int watches, unwatches, closes;
	int closed; /* the last one */
	int watch_error;
	enum call_state state[MAX_CALLS]; /* by tid */
};

static unsigned int fail_alloc; /* the nth from now on */

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);

void *__wrap_calloc(size_t n, size_t size)
{
	return fail_alloc && !--fail_alloc ? NULL : __real_calloc(n, size);
}

void *__wrap_malloc(size_t size)
{
	return fail_alloc && !--fail_alloc ? NULL : __real_malloc(size);
}

static void op_answer(void *arg, int event_fd, int err)
{
	struct stage *s = arg;

	assert_int_equal(s->answers[event_fd], WAITS); /* once each */
	s->answers[event_fd] = err;
}

static void op_tell(void *arg, void *client, enum guard_type type, uint32_t id,
		    uint64_t deadline_ns)
{
	struct stage *s = arg;
	int *name = client;

	assert_true(type == GUARD_BREAK || type == GUARD_LOST);
	s->breaks[*name] += type == GUARD_BREAK;
	s->losts[*name] += type == GUARD_LOST;
	s->last_id = id;
	s->last_deadline = deadline_ns;
}

static int op_watch(void *arg, int fd, bool watch)
{
	struct stage *s = arg;

	assert_true(fd > 0);
	if (watch && s->watch_error)
		return s->watch_error;
	s->watches += watch;
	s->unwatches += !watch;
	return 0;
}

static void op_close(void *arg, int fd)
{
	struct stage *s = arg;

	s->closes++;
	s->closed = fd;
}

static uint64_t op_break_time(void *arg)
{
	return ((struct stage *)arg)->break_time;
}

static enum call_state op_call_state(void *arg, const struct call *call)
{
	return ((struct stage *)arg)->state[call->tid];
}

static int setup(void **state)
{
	struct stage *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	s->book = book_new(&(struct book_ops){ .answer = op_answer,
					       .tell = op_tell,
					       .watch = op_watch,
					       .close = op_close,
					       .break_time = op_break_time,
					       .call_state = op_call_state,
					       .arg = s });
	assert_non_null(s->book);
	s->now = 100 * SEC;
	s->break_time = 45 * SEC;
	for (int i = 0; i < CLIENTS; i++) {
		s->names[i] = i;
		s->clients[i].arg = &s->names[i];
		s->clients[i].uid = ME;
		LIST_INIT(&s->clients[i].list);
	}
	*state = s;
	return 0;
}

static struct guard_counters counters(const struct stage *s)
{
	struct guard_counters c = { .clients = 7, .turned_away = 8 };

	book_count(s->book, &c);
	assert_int_equal(c.clients, 7);
	assert_int_equal(c.turned_away, 8);
	return c;
}

/* Each descriptor that the book has taken was given back, and each watch has ended. */
static int teardown(void **state)
{
	struct stage *s = *state;

	for (int i = 0; i < CLIENTS; i++) {
		book_client_gone(s->book, &s->clients[i], s->now);
		assert_int_equal(s->clients[i].holds, 0);
	}
	assert_int_equal(counters(s).holds, 0);
	for (int i = 0; i < MAX_CALLS; i++)
		assert_int_not_equal(s->answers[i], WAITS);
	for (int i = 0; i < MAX_CALLS; i++)
		s->state[i] = CALL_ENDED;
	s->now += SETTLE;
	book_expire(s->book, s->now);
	assert_int_equal(counters(s).files, 0);
	book_free(s->book);
	free(s);
	return 0;
}

/* ------------------------------------------------------------------------- */

static const struct fan_file file_a = { .dev = 1, .ino = 7, .mode = S_IFREG | 0600, .uid = ME };
static const struct fan_file file_b = { .dev = 1, .ino = 8, .mode = S_IFREG | 0600, .uid = ME };

static int next_fd = 1000;

static int take_file(struct stage *s, int client, uint32_t id, const struct fan_file *file,
		     bool exclusive)
{
	struct book_want want = {
		.id = id, .exclusive = exclusive, .writable = true, .fd = next_fd++, .file = *file
	};
	bool is_new;

	return book_take(s->book, &s->clients[client], &want, s->now, &is_new);
}

static void take(struct stage *s, int client, uint32_t id)
{
	assert_int_equal(take_file(s, client, id, &file_a, false), 0);
}

static void give_back(struct stage *s, int client, uint32_t id, bool keep)
{
	book_give_back(s->book, &s->clients[client], id, keep, s->now);
}

/* Task tid does this to the file; its event has the same number. */
static int call_file(struct stage *s, int tid, enum call_kind kind, const struct fan_file *file)
{
	const struct call call = { .fd = tid, .tid = tid };

	s->answers[tid] = WAITS;
	assert_true(book_call(s->book, file, kind, &call, s->now, false));
	return s->answers[tid];
}

static int change(struct stage *s, int tid)
{
	return call_file(s, tid, CALL_CHANGE, &file_a);
}

static void pass(struct stage *s, uint64_t ns)
{
	s->now += ns;
	book_expire(s->book, s->now);
}

/* ------------------------------------------------------------------------- */
/* Taking and giving back */

static void take__and_give_back(void **state)
{
	struct stage *s = *state;

	take(s, 0, 1);
	assert_int_equal(s->clients[0].holds, 1);
	assert_int_equal(counters(s).files, 1);
	assert_int_equal(counters(s).holds, 1);
	assert_int_equal(s->watches, 1);
	assert_int_equal(s->closes, 0);
	give_back(s, 0, 1, false);
	assert_int_equal(s->clients[0].holds, 0);
	assert_int_equal(counters(s).files, 0);
	assert_int_equal(s->unwatches, 1);
	assert_int_equal(s->closes, 1);
	give_back(s, 0, 1, false); /* not known any more */
	assert_int_equal(s->closes, 1);
	assert_int_equal(change(s, 1), 0);
	assert_int_equal(counters(s).harmless, 1);
}

static void take__keep_and_take_again(void **state)
{
	struct stage *s = *state;
	struct book_want want = { .id = 1, .writable = true, .fd = next_fd++, .file = file_a };
	bool is_new = false;

	assert_int_equal(book_take(s->book, &s->clients[0], &want, s->now, &is_new), 0);
	assert_true(is_new);
	give_back(s, 0, 1, true);
	assert_int_equal(counters(s).holds, 0);
	assert_int_equal(counters(s).files, 1);
	assert_int_equal(s->unwatches + s->closes, 0);
	assert_int_equal(s->clients[0].holds, 1); /* it counts for limits */
	want.fd = next_fd++;
	assert_int_equal(book_take(s->book, &s->clients[0], &want, s->now, &is_new), 0);
	assert_false(is_new);
	assert_int_equal(s->closed, want.fd - 1); /* one descriptor for each */
	assert_int_equal(s->watches, 1);
	assert_int_equal(counters(s).holds, 1);
	give_back(s, 0, 1, true);
	give_back(s, 0, 1, false); /* forgotten after all */
	assert_int_equal(s->unwatches, 1);
	assert_int_equal(s->closes, 2);
}

static void take__refused(void **state)
{
	struct stage *s = *state;
	struct fan_file dir = file_a, foreign = file_a;
	struct book_want want = { .id = 2, .exclusive = true, .fd = 5, .file = file_a };
	bool is_new;

	dir.mode = S_IFDIR | 0700;
	foreign.uid = ME + 1;
	take(s, 0, 1);
	assert_int_equal(take_file(s, 0, 1, &file_a, false), -EEXIST);
	assert_int_equal(take_file(s, 0, 2, &dir, false), -EINVAL);
	assert_int_equal(take_file(s, 0, 2, &foreign, false), -EACCES);
	assert_int_equal(book_take(s->book, &s->clients[0], &want, s->now, &is_new), -EBADF);
	s->watch_error = -EOPNOTSUPP;
	assert_int_equal(take_file(s, 0, 2, &file_a, false), -EOPNOTSUPP);
	assert_int_equal(take_file(s, 0, 2, &file_b, false), -EOPNOTSUPP);
	s->watch_error = 0;
	assert_int_equal(s->clients[0].holds, 1);
	assert_int_equal(counters(s).files, 1);
	assert_int_equal(s->closes, 0); /* the descriptors stay the caller's */
	s->clients[1].privileged = true;
	assert_int_equal(take_file(s, 1, 2, &foreign, false), 0);
}

/* Files of the same number on two devices, and of the same bucket, are different ones. */
static void take__told_apart(void **state)
{
	struct stage *s = *state;
	struct fan_file other = file_a;

	other.dev = 2;
	other.ino ^= 3; /* the same bucket */
	take(s, 0, 1);
	assert_int_equal(take_file(s, 0, 2, &other, false), 0);
	assert_int_equal(counters(s).files, 2);
	assert_int_equal(call_file(s, 1, CALL_CHANGE, &other), WAITS);
	assert_int_equal(s->last_id, 2);
	assert_int_equal(s->breaks[0], 1);
	give_back(s, 0, 1, false);
	assert_int_equal(s->answers[1], WAITS);
	give_back(s, 0, 2, false);
	assert_int_equal(s->answers[1], 0);
}

static void take__id_for_another_file(void **state)
{
	struct stage *s = *state;

	take(s, 0, 1);
	give_back(s, 0, 1, true);
	assert_int_equal(take_file(s, 0, 1, &file_b, false), 0);
	assert_int_equal(s->watches, 2);
	assert_int_equal(s->unwatches, 1); /* of the one before */
	assert_int_equal(s->closes, 1);
	assert_int_equal(counters(s).files, 1);
	assert_int_equal(change(s, 1), 0);
	assert_int_equal(call_file(s, 2, CALL_CHANGE, &file_b), WAITS);
	give_back(s, 0, 1, false);
}

static void take__last_one_ends_the_watch(void **state)
{
	struct stage *s = *state;

	take(s, 0, 1);
	take(s, 1, 1); /* ids are the clients' own */
	assert_int_equal(counters(s).files, 1);
	assert_int_equal(counters(s).holds, 2);
	give_back(s, 0, 1, true);
	give_back(s, 1, 1, false);
	assert_int_equal(s->unwatches, 0);
	assert_int_equal(change(s, 1), 0); /* nobody has it, but it is known to run */
	s->state[1] = CALL_RUNS;
	assert_int_equal(take_file(s, 0, 1, &file_a, false), -EINPROGRESS);
	give_back(s, 0, 1, false);
	assert_int_equal(s->unwatches, 1);
	/* And still is, for a moment, after the last one has gone. */
	assert_int_equal(counters(s).files, 1);
	assert_int_equal(take_file(s, 1, 1, &file_a, false), -EINPROGRESS);
	assert_true(book_next(s->book) == s->now + SETTLE);
	pass(s, SETTLE);
	assert_int_equal(take_file(s, 1, 1, &file_a, false), -EINPROGRESS);
	s->state[1] = CALL_ENDED;
	pass(s, SETTLE);
	assert_int_equal(counters(s).files, 0);
	take(s, 1, 1);
}

/* ------------------------------------------------------------------------- */
/* Breaks */

static void break__answered_when_given_back(void **state)
{
	struct stage *s = *state;

	take(s, 0, 1);
	assert_int_equal(change(s, 1), WAITS);
	assert_int_equal(s->breaks[0], 1);
	assert_int_equal(s->last_id, 1);
	assert_true(s->last_deadline == s->now + 45 * SEC);
	assert_true(book_next(s->book) == s->last_deadline);
	assert_int_equal(call_file(s, 2, CALL_READ, &file_a), 0); /* meanwhile */
	pass(s, 44 * SEC);
	assert_int_equal(s->answers[1], WAITS);
	give_back(s, 0, 1, true);
	assert_int_equal(s->answers[1], 0);
	assert_int_equal(s->losts[0], 0);
	pass(s, 10 * SEC);
	assert_int_equal(s->losts[0], 0);
	assert_int_equal(counters(s).breaks, 1);
	assert_int_equal(counters(s).waited, 1);
}

static void break__two_clients(void **state)
{
	struct stage *s = *state;

	take(s, 0, 1);
	take(s, 1, 2);
	take(s, 1, 3);
	give_back(s, 1, 3, true); /* not asked */
	assert_int_equal(change(s, 1), WAITS);
	assert_int_equal(s->breaks[0], 1);
	assert_int_equal(s->breaks[1], 1);
	give_back(s, 0, 1, true);
	assert_int_equal(s->answers[1], WAITS);
	/* Nobody takes it as long as somebody waits, not even who has given it back. */
	assert_int_equal(take_file(s, 0, 1, &file_a, false), -EAGAIN);
	assert_int_equal(take_file(s, 0, 9, &file_a, false), -EAGAIN);
	give_back(s, 1, 2, true);
	assert_int_equal(s->answers[1], 0);
}

static void break__others_join(void **state)
{
	struct stage *s = *state;
	uint64_t deadline;

	take(s, 0, 1);
	assert_int_equal(change(s, 1), WAITS);
	deadline = s->last_deadline;
	pass(s, SEC);
	assert_int_equal(change(s, 2), WAITS);
	assert_int_equal(s->breaks[0], 1); /* told once */
	assert_int_equal(counters(s).breaks, 1);
	assert_int_equal(counters(s).waited, 2);
	assert_true(book_next(s->book) == deadline);
	give_back(s, 0, 1, false);
	assert_int_equal(s->answers[1], 0);
	assert_int_equal(s->answers[2], 0);
}

static void break__too_late(void **state)
{
	struct stage *s = *state;

	take(s, 0, 1);
	take(s, 1, 1);
	assert_int_equal(change(s, 1), WAITS);
	give_back(s, 1, 1, true);
	pass(s, 45 * SEC - 1);
	assert_int_equal(s->answers[1], WAITS);
	assert_int_equal(s->losts[0], 0);
	pass(s, 1);
	assert_int_equal(s->answers[1], 0);
	assert_int_equal(s->losts[0], 1);
	assert_int_equal(s->losts[1], 0);
	assert_int_equal(counters(s).lost, 1);
	assert_int_equal(counters(s).holds, 0);
	s->state[1] = CALL_ENDED;
	/* It can be had again, by the one who lost it as well. */
	take(s, 0, 1);
	assert_int_equal(change(s, 2), WAITS);
	assert_int_equal(s->breaks[0], 2);
	assert_true(s->last_deadline == s->now + 45 * SEC);
}

static void break__no_deadline(void **state)
{
	struct stage *s = *state;

	s->break_time = 0;
	take(s, 0, 1);
	assert_int_equal(change(s, 1), WAITS);
	assert_true(s->last_deadline == 0);
	assert_true(book_next(s->book) == BOOK_NEVER);
	pass(s, 100000 * SEC);
	assert_int_equal(s->answers[1], WAITS);
	give_back(s, 0, 1, false);
	assert_int_equal(s->answers[1], 0);
}

static void break__client_gone(void **state)
{
	struct stage *s = *state;

	take(s, 0, 1);
	assert_int_equal(take_file(s, 0, 2, &file_b, false), 0);
	take(s, 1, 1);
	assert_int_equal(change(s, 1), WAITS);
	assert_int_equal(call_file(s, 2, CALL_CHANGE, &file_b), WAITS);
	book_client_gone(s->book, &s->clients[0], s->now);
	assert_int_equal(s->clients[0].holds, 0);
	assert_int_equal(s->answers[1], WAITS);
	assert_int_equal(s->answers[2], 0);
	assert_int_equal(s->unwatches, 1);
	book_client_gone(s->book, &s->clients[1], s->now);
	assert_int_equal(s->answers[1], 0);
	assert_int_equal(s->unwatches, 2);
	assert_int_equal(s->closes, 3);
	assert_int_equal(s->losts[0] + s->losts[1], 0);
}

/* ------------------------------------------------------------------------- */
/* Exclusive */

static void exclusive__refuses(void **state)
{
	struct stage *s = *state;

	assert_int_equal(take_file(s, 0, 1, &file_a, true), 0);
	take(s, 1, 1);
	assert_int_equal(change(s, 1), -ETXTBSY);
	assert_int_equal(call_file(s, 2, CALL_READ, &file_a), 0);
	assert_int_equal(s->breaks[0] + s->breaks[1], 0);
	assert_int_equal(counters(s).refused, 1);
	give_back(s, 0, 1, true);
	/* Kept, it refuses nobody; the other is asked. */
	assert_int_equal(change(s, 3), WAITS);
	assert_int_equal(s->breaks[1], 1);
	give_back(s, 1, 1, true);
	assert_int_equal(s->answers[3], 0);
	s->state[3] = CALL_ENDED;
	/* How it is taken again is what counts. */
	assert_int_equal(take_file(s, 0, 1, &file_a, false), 0);
	assert_int_equal(change(s, 4), WAITS);
}

/* Who does not own the file any more is asked, as all others. */
static void exclusive__owner_changed(void **state)
{
	struct stage *s = *state;
	struct fan_file given_away = file_a;

	given_away.uid = ME + 1;
	assert_int_equal(take_file(s, 0, 1, &file_a, true), 0);
	assert_int_equal(call_file(s, 1, CALL_CHANGE, &given_away), WAITS);
	assert_int_equal(s->breaks[0], 1);
	give_back(s, 0, 1, false);
	s->state[1] = CALL_ENDED;
	s->clients[1].privileged = true;
	assert_int_equal(take_file(s, 1, 1, &given_away, true), 0);
	assert_int_equal(call_file(s, 2, CALL_CHANGE, &given_away), -ETXTBSY);
}

/* ------------------------------------------------------------------------- */
/* After a call was let through */

static void settle__while_it_runs(void **state)
{
	struct stage *s = *state;

	take(s, 0, 1);
	assert_int_equal(change(s, 1), WAITS);
	give_back(s, 0, 1, true);
	s->state[1] = CALL_RUNS;
	pass(s, 3600 * SEC); /* however long it takes */
	assert_int_equal(take_file(s, 0, 1, &file_a, false), -EINPROGRESS);
	assert_int_equal(take_file(s, 1, 1, &file_a, false), -EINPROGRESS);
	assert_int_equal(s->clients[1].holds, 0);
	s->state[1] = CALL_ENDED;
	take(s, 0, 1);
}

static void settle__cannot_be_known(void **state)
{
	struct stage *s = *state;

	take(s, 0, 1);
	assert_int_equal(change(s, 1), WAITS);
	give_back(s, 0, 1, true);
	s->state[1] = CALL_UNKNOWN;
	s->now += SETTLE - 1;
	assert_int_equal(take_file(s, 0, 1, &file_a, false), -EINPROGRESS);
	s->now++;
	take(s, 0, 1);
}

static void settle__each_of_several(void **state)
{
	struct stage *s = *state;

	take(s, 0, 1);
	for (int tid = 1; tid <= 3; tid++)
		assert_int_equal(change(s, tid), WAITS);
	give_back(s, 0, 1, true);
	s->state[1] = s->state[3] = CALL_ENDED;
	s->state[2] = CALL_RUNS;
	assert_int_equal(take_file(s, 0, 1, &file_a, false), -EINPROGRESS);
	s->state[2] = CALL_ENDED;
	s->state[3] = CALL_RUNS;
	assert_int_equal(take_file(s, 0, 1, &file_a, false), -EINPROGRESS);
	s->state[3] = CALL_ENDED;
	take(s, 0, 1);
}

static void settle__lost_ones_as_well(void **state)
{
	struct stage *s = *state;

	take(s, 0, 1);
	assert_int_equal(change(s, 1), WAITS);
	s->state[1] = CALL_RUNS;
	pass(s, 45 * SEC);
	assert_int_equal(s->losts[0], 1);
	assert_int_equal(take_file(s, 0, 1, &file_a, false), -EINPROGRESS);
}

/* ------------------------------------------------------------------------- */
/* What writes and shared blocks do */

static int do_kind(struct stage *s, enum call_kind kind)
{
	static int tid = 1;
	int answer = call_file(s, tid, kind, &file_a);

	if (answer == WAITS) {
		give_back(s, 0, 1, true);
		s->state[tid] = CALL_ENDED;
		take(s, 0, 1);
	}
	tid = tid % (MAX_CALLS - 1) + 1;
	return answer;
}

static void kinds__by_what_writes_do(void **state)
{
	static const struct {
		enum fan_moves moves;
		int write, share, write_then, remap;
	} rows[] = {
		{ FAN_MOVES_NEVER, 0, 0, 0, 0 },
		{ FAN_MOVES_NOT, 0, 0, WAITS, WAITS },
		{ FAN_MOVES, WAITS, 0, WAITS, WAITS },
	};
	struct stage *s = *state;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		take(s, 0, 1);
		/* Until that is known, the worst. */
		assert_int_equal(do_kind(s, CALL_WRITE), WAITS);
		assert_int_equal(do_kind(s, CALL_REMAP), WAITS);
		book_set_moves(s->book, &file_a, rows[i].moves);
		assert_int_equal(do_kind(s, CALL_READ), 0);
		assert_int_equal(do_kind(s, CALL_WRITE), rows[i].write);
		assert_int_equal(do_kind(s, CALL_REMAP), rows[i].remap);
		assert_int_equal(do_kind(s, CALL_SHARE), rows[i].share);
		assert_int_equal(do_kind(s, CALL_WRITE), rows[i].write_then);
		assert_int_equal(do_kind(s, CALL_CHANGE), WAITS);
		give_back(s, 0, 1, false);
		pass(s, SETTLE);
		assert_int_equal(counters(s).files, 0);
	}
	book_set_moves(s->book, &file_b, FAN_MOVES_NOT); /* nobody has it */
	assert_int_equal(counters(s).files, 0);
}

/* Blocks that were shared before somebody looked at them are not forgotten by it. */
static void kinds__shared_before_it_was_known(void **state)
{
	struct stage *s = *state;

	take(s, 0, 1);
	assert_int_equal(do_kind(s, CALL_SHARE), 0);
	book_set_moves(s->book, &file_a, FAN_MOVES_NOT);
	assert_int_equal(do_kind(s, CALL_WRITE), WAITS);
}

static void kinds__exclusive(void **state)
{
	struct stage *s = *state;

	assert_int_equal(take_file(s, 0, 1, &file_a, true), 0);
	book_set_moves(s->book, &file_a, FAN_MOVES_NOT);
	assert_int_equal(do_kind(s, CALL_WRITE), 0);
	assert_int_equal(do_kind(s, CALL_REMAP), -ETXTBSY);
	assert_int_equal(do_kind(s, CALL_SHARE), 0);
	assert_int_equal(do_kind(s, CALL_WRITE), -ETXTBSY);
}

/* ------------------------------------------------------------------------- */
/* Memory, and many */

static void memory__none(void **state)
{
	struct stage *s = *state;

	fail_alloc = 1;
	assert_null(book_new(&(struct book_ops){ 0 }));
	for (unsigned int nth = 1; nth <= 2; nth++) {
		fail_alloc = nth;
		assert_int_equal(take_file(s, 0, 1, &file_a, false), -ENOMEM);
		assert_int_equal(counters(s).files, 0);
		assert_int_equal(s->clients[0].holds, 0);
	}
	take(s, 0, 1);
	fail_alloc = 1;
	/* It must not go on, and nobody could let it go on later. */
	assert_int_equal(change(s, 1), -EAGAIN);
	assert_int_equal(s->breaks[0], 0);
	fail_alloc = 0;
}

static void many__each_told_of_its_own(void **state)
{
	struct stage *s = *state;
	struct fan_file file = file_a;

	for (uint32_t i = 1; i <= 5000; i++) {
		file.ino = 1000 * i;
		assert_int_equal(take_file(s, i % 2, i, &file, false), 0);
	}
	assert_int_equal(counters(s).files, 5000);
	for (uint32_t i = 1; i <= 5000; i += 500) {
		file.ino = 1000 * i;
		assert_int_equal(call_file(s, 1, CALL_CHANGE, &file), WAITS);
		assert_int_equal(s->last_id, i);
		give_back(s, i % 2, i, true);
		assert_int_equal(s->answers[1], 0);
	}
	assert_int_equal(s->breaks[0] + s->breaks[1], 10);
}

/* The list of those that passed does not grow as long as nobody takes it. */
static void many__passed_while_kept(void **state)
{
	struct stage *s = *state;

	take(s, 0, 1);
	give_back(s, 0, 1, true);
	for (int i = 0; i < 100000; i++) {
		s->state[1] = CALL_ENDED;
		assert_int_equal(change(s, 1), 0);
	}
	assert_int_equal(counters(s).breaks, 0);
	take(s, 0, 1);
}

/* Left by clients that are gone. */
static void free__with_files_left(void **state)
{
	struct stage *s = *state;
	struct book *book = s->book;

	take(s, 0, 1);
	assert_int_equal(change(s, 1), WAITS);
	book_client_gone(book, &s->clients[0], s->now);
	assert_int_equal(counters(s).files, 1);
	book_expire(book, s->now); /* not yet */
	assert_int_equal(counters(s).files, 1);
	book_free(NULL);
	s->book = book_new(&(struct book_ops){ .arg = s });
	book_free(book);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(take__and_give_back),
		CASE(take__keep_and_take_again),
		CASE(take__refused),
		CASE(take__told_apart),
		CASE(take__id_for_another_file),
		CASE(take__last_one_ends_the_watch),
		CASE(break__answered_when_given_back),
		CASE(break__two_clients),
		CASE(break__others_join),
		CASE(break__too_late),
		CASE(break__no_deadline),
		CASE(break__client_gone),
		CASE(exclusive__refuses),
		CASE(exclusive__owner_changed),
		CASE(settle__while_it_runs),
		CASE(settle__cannot_be_known),
		CASE(settle__each_of_several),
		CASE(settle__lost_ones_as_well),
		CASE(kinds__by_what_writes_do),
		CASE(kinds__shared_before_it_was_known),
		CASE(kinds__exclusive),
		CASE(memory__none),
		CASE(many__each_told_of_its_own),
		CASE(many__passed_while_kept),
		CASE(free__with_files_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
