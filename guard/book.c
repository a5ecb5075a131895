// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "book.h"

#define BUCKETS 1024
#define MSEC 1000000ull
/*
 * A call that was let through may take its time. While it is seen to be at it, nobody
 * takes the file; if that cannot be seen, for so long.
 */
#define SETTLE_NS (250 * MSEC)
#define FORGET_TRIES 8
#define MAX_WAITING 256

enum hold_state {
	HOLD_IDLE,
	HOLD_HELD,
	HOLD_BREAKING
};

struct book_hold {
	LIST_ENTRY(book_hold) client_link;
	LIST_ENTRY(book_hold) file_link;
	struct book_client *client;
	struct book_file *file;
	uint32_t id;
	int fd;
	enum hold_state state;
	bool exclusive;
};

/* A call that waits for holders, or was let through and may run. */
struct book_call {
	TAILQ_ENTRY(book_call) link;
	struct call call;
	uint64_t until_ns; /* after it was let through: taken for ended then, if unknown */
};

TAILQ_HEAD(calls, book_call);

struct book_file {
	LIST_ENTRY(book_file) link;
	struct fan_file file;
	LIST_HEAD(, book_hold) holds;
	struct calls waiting;
	struct calls through;
	unsigned int nwaiting, nthrough;
	uint64_t deadline_ns; /* of the holds that are BREAKING; NEVER: none, or no deadline */
	uint64_t forget_ns;   /* without holds: when the calls in through are forgotten */
	unsigned int forget_tries;
	enum fan_moves moves;
	bool shared; /* another file may have got its blocks as well */
};

struct book {
	struct book_ops ops;
	struct guard_counters counters;
	uint64_t next_ns; /* no later than anything that time makes due */
	uint64_t serial;  /* of the last call that was not harmless */
	/* One that was forgotten, for the next: who waits does not wait for the allocator. */
	struct book_call *spare;
	LIST_HEAD(, book_file) buckets[BUCKETS];
};

struct book *book_new(const struct book_ops *ops)
{
	struct book *book = calloc(1, sizeof(*book));

	if (!book)
		return NULL;
	book->ops = *ops;
	book->next_ns = BOOK_NEVER;
	return book;
}

static unsigned int bucket_of(const struct fan_file *file)
{
	return (unsigned int)(file->ino ^ (file->ino >> 10) ^ file->dev) % BUCKETS;
}

static struct book_file *find_file(struct book *book, const struct fan_file *file)
{
	struct book_file *f;

	LIST_FOREACH(f, &book->buckets[bucket_of(file)], link) {
		if (f->file.dev == file->dev && f->file.ino == file->ino)
			return f;
	}
	return NULL;
}

static struct book_hold *find_hold(const struct book_client *client, uint32_t id)
{
	struct book_hold *h;

	LIST_FOREACH(h, &client->list, client_link) {
		if (h->id == id)
			return h;
	}
	return NULL;
}

static void set_due(struct book *book, uint64_t at_ns)
{
	if (at_ns < book->next_ns)
		book->next_ns = at_ns;
}

/* ------------------------------------------------------------------------- */
/* Calls */

static struct book_call *new_call(struct book *book)
{
	struct book_call *c = book->spare;

	book->spare = NULL;
	return c ? c : malloc(sizeof(*c));
}

static void free_call(struct book *book, struct book_call *c)
{
	free(book->spare);
	book->spare = c;
}

static void forget_calls(struct book *book, struct calls *calls)
{
	struct book_call *c;

	while ((c = TAILQ_FIRST(calls))) {
		TAILQ_REMOVE(calls, c, link);
		free_call(book, c);
	}
}

static bool is_breaking(const struct book_file *f)
{
	const struct book_hold *h;

	LIST_FOREACH(h, &f->holds, file_link) {
		if (h->state == HOLD_BREAKING)
			return true;
	}
	return false;
}

static void forget_first(struct book *book, struct book_file *f)
{
	struct book_call *c = TAILQ_FIRST(&f->through);

	TAILQ_REMOVE(&f->through, c, link);
	f->nthrough--;
	free_call(book, c);
}

/* Nobody holds them up any more: they go on, and are remembered. */
static void let_through(struct book *book, struct book_file *f, uint64_t now_ns)
{
	struct book_call *c;

	f->deadline_ns = BOOK_NEVER;
	/* Reflinks may be among them; the next holder has to look. */
	if (!TAILQ_EMPTY(&f->waiting) && f->moves == FAN_MOVES_NOT)
		f->moves = FAN_MOVES;
	while ((c = TAILQ_FIRST(&f->waiting))) {
		TAILQ_REMOVE(&f->waiting, c, link);
		book->ops.answer(book->ops.arg, c->call.fd, 0);
		c->until_ns = now_ns + SETTLE_NS;
		TAILQ_INSERT_TAIL(&f->through, c, link);
		f->nwaiting--;
		if (++f->nthrough > BOOK_THROUGH)
			forget_first(book, f);
	}
}

static void let_through_if_free(struct book *book, struct book_file *f, uint64_t now_ns)
{
	if (!is_breaking(f))
		let_through(book, f, now_ns);
}

static bool has_ended(struct book *book, const struct book_call *c, uint64_t now_ns)
{
	switch (book->ops.call_state(book->ops.arg, &c->call)) {
	case CALL_RUNS:
		return false;
	case CALL_ENDED:
		return true;
	default:
		return now_ns >= c->until_ns;
	}
}

/* No call that was let through is still at it. */
static bool has_settled(struct book *book, struct book_file *f, uint64_t now_ns)
{
	struct book_call *c;

	while ((c = TAILQ_FIRST(&f->through))) {
		if (!has_ended(book, c, now_ns))
			return false;
		forget_first(book, f);
	}
	return true;
}

/* ------------------------------------------------------------------------- */
/* Files and holds */

static struct book_file *new_file(struct book *book, const struct book_want *want)
{
	struct book_file *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->file = want->file;
	f->moves = FAN_MOVES;
	f->deadline_ns = BOOK_NEVER;
	f->forget_ns = BOOK_NEVER;
	TAILQ_INIT(&f->waiting);
	TAILQ_INIT(&f->through);
	LIST_INSERT_HEAD(&book->buckets[bucket_of(&want->file)], f, link);
	book->counters.files++;
	return f;
}

static void free_file(struct book *book, struct book_file *f)
{
	forget_calls(book, &f->waiting);
	forget_calls(book, &f->through);
	LIST_REMOVE(f, link);
	book->counters.files--;
	free(f);
}

static void set_state(struct book *book, struct book_hold *h, enum hold_state state)
{
	if (h->state == HOLD_IDLE && state != HOLD_IDLE)
		book->counters.holds++;
	if (h->state != HOLD_IDLE && state == HOLD_IDLE)
		book->counters.holds--;
	h->state = state;
}

/* The last one ends the watch, and what is known of calls is kept a little longer. */
static void free_hold(struct book *book, struct book_hold *h, uint64_t now_ns)
{
	struct book_file *f = h->file;

	set_state(book, h, HOLD_IDLE);
	LIST_REMOVE(h, client_link);
	LIST_REMOVE(h, file_link);
	h->client->holds--;
	let_through_if_free(book, f, now_ns);
	if (LIST_EMPTY(&f->holds)) {
		book->ops.watch(book->ops.arg, h->fd, false);
		f->forget_ns = TAILQ_EMPTY(&f->through) ? 0 : now_ns + SETTLE_NS;
		if (!f->forget_ns)
			free_file(book, f);
		else
			set_due(book, f->forget_ns);
	}
	book->ops.close(book->ops.arg, h->fd);
	free(h);
}

static int check_want(const struct book_client *client, const struct book_want *want)
{
	if (!S_ISREG(want->file.mode))
		return -EINVAL;
	if (want->file.uid != client->uid && !client->privileged)
		return -EACCES;
	return want->exclusive && !want->writable ? -EBADF : 0;
}

static int new_hold(struct book *book, struct book_client *client, struct book_file *f,
		    const struct book_want *want, struct book_hold **ret_hold)
{
	struct book_hold *h = calloc(1, sizeof(*h));
	int err;

	if (!h)
		return -ENOMEM;
	/* For each hold: it does no harm, and whether the first one did need not be known. */
	err = book->ops.watch(book->ops.arg, want->fd, true);
	if (err) {
		free(h);
		return err;
	}
	h->client = client;
	h->file = f;
	h->id = want->id;
	h->fd = want->fd;
	LIST_INSERT_HEAD(&client->list, h, client_link);
	LIST_INSERT_HEAD(&f->holds, h, file_link);
	client->holds++;
	f->forget_ns = BOOK_NEVER;
	f->forget_tries = 0;
	*ret_hold = h;
	return 0;
}

/* The file may be another one than the last time, and the descriptor is. */
static struct book_hold *kept_hold(struct book *book, struct book_client *client,
				   const struct book_want *want, uint64_t now_ns)
{
	struct book_hold *h = find_hold(client, want->id);

	if (!h)
		return NULL;
	if (h->file->file.dev == want->file.dev && h->file->file.ino == want->file.ino)
		return h;
	free_hold(book, h, now_ns);
	return NULL;
}

static int take_new(struct book *book, struct book_client *client, struct book_file *f,
		    const struct book_want *want, struct book_hold **ret_hold)
{
	const bool known = f;
	int err;

	if (!f)
		f = new_file(book, want);
	if (!f)
		return -ENOMEM;
	err = new_hold(book, client, f, want, ret_hold);
	if (err && !known)
		free_file(book, f);
	return err;
}

int book_take(struct book *book, struct book_client *client, const struct book_want *want,
	      uint64_t now_ns, bool *ret_new)
{
	struct book_hold *h = find_hold(client, want->id);
	struct book_file *f;
	int err = check_want(client, want);

	if (!err && h && h->state != HOLD_IDLE)
		err = -EEXIST;
	if (err)
		return err;
	h = kept_hold(book, client, want, now_ns);
	f = find_file(book, &want->file);
	if (f && !TAILQ_EMPTY(&f->waiting))
		return -EAGAIN;
	if (f && !has_settled(book, f, now_ns))
		return -EINPROGRESS;
	*ret_new = !h;
	if (h) {
		book->ops.close(book->ops.arg, h->fd);
		h->fd = want->fd;
	} else {
		err = take_new(book, client, f, want, &h);
		if (err)
			return err;
	}
	h->exclusive = want->exclusive;
	if (h->file->moves == FAN_MOVES) /* to be looked at after this */
		h->file->shared = false;
	set_state(book, h, HOLD_HELD);
	return 0;
}

bool book_knows(const struct book_client *client, uint32_t id)
{
	return find_hold(client, id);
}

void book_set_moves(struct book *book, const struct fan_file *file, enum fan_moves moves)
{
	struct book_file *f = find_file(book, file);

	if (f)
		f->moves = moves;
}

bool book_knows_moves(struct book *book, const struct fan_file *file)
{
	struct book_file *f = find_file(book, file);

	return f && f->moves != FAN_MOVES;
}

unsigned int book_through(struct book *book, const struct fan_file *file, struct call *ret_calls)
{
	struct book_file *f = find_file(book, file);
	const struct book_call *c;
	unsigned int n = 0;

	if (!f)
		return 0;
	TAILQ_FOREACH(c, &f->through, link)
		ret_calls[n++] = c->call;
	return n;
}

void book_give_back(struct book *book, struct book_client *client, uint32_t id, bool keep,
		    uint64_t now_ns)
{
	struct book_hold *h = find_hold(client, id);

	if (!h)
		return;
	set_state(book, h, HOLD_IDLE);
	if (keep)
		let_through_if_free(book, h->file, now_ns);
	else
		free_hold(book, h, now_ns);
}

void book_client_gone(struct book *book, struct book_client *client, uint64_t now_ns)
{
	while (!LIST_EMPTY(&client->list))
		free_hold(book, LIST_FIRST(&client->list), now_ns);
}

/* ------------------------------------------------------------------------- */
/* Breaks */

static bool changes(struct book_file *f, enum call_kind kind)
{
	switch (kind) {
	case CALL_READ:
		return false;
	case CALL_WRITE:
		return f->moves == FAN_MOVES || (f->moves == FAN_MOVES_NOT && f->shared);
	case CALL_SHARE:
		f->shared = true;
		return false;
	case CALL_REMAP:
		return f->moves != FAN_MOVES_NEVER;
	default:
		return true;
	}
}

/* Who has lost the right to hold it can be asked, but refuses nobody. */
static bool refuses(const struct book_hold *h, const struct fan_file *file)
{
	return h->state == HOLD_HELD && h->exclusive &&
	       (h->client->privileged || h->client->uid == file->uid);
}

static bool is_refused(const struct book_file *f, const struct fan_file *file)
{
	const struct book_hold *h;

	LIST_FOREACH(h, &f->holds, file_link) {
		if (refuses(h, file))
			return true;
	}
	return false;
}

/* Of a call that is refused now. */
static bool may_differ(const struct book *book, const struct book_file *f,
		       const struct fan_file *file)
{
	const struct book_hold *h;

	if (!book->ops.has_more)
		return false;
	LIST_FOREACH(h, &f->holds, file_link) {
		if (refuses(h, file) && book->ops.has_more(book->ops.arg, h->client->arg))
			return true;
	}
	return false;
}

static bool is_held(const struct book_file *f)
{
	const struct book_hold *h;

	LIST_FOREACH(h, &f->holds, file_link) {
		if (h->state != HOLD_IDLE)
			return true;
	}
	return false;
}

/* All that hold it are asked; those that were asked already have been. */
static void begin_break(struct book *book, struct book_file *f, uint64_t now_ns)
{
	struct book_hold *h;
	uint64_t ns;

	if (!is_breaking(f)) {
		ns = book->ops.break_time(book->ops.arg);
		f->deadline_ns = ns ? now_ns + ns : BOOK_NEVER;
		set_due(book, f->deadline_ns);
		book->counters.breaks++;
	}
	LIST_FOREACH(h, &f->holds, file_link) {
		if (h->state != HOLD_HELD)
			continue;
		set_state(book, h, HOLD_BREAKING);
		book->ops.tell(book->ops.arg, h->client->arg, GUARD_BREAK, h->id,
			       f->deadline_ns == BOOK_NEVER ? 0 : f->deadline_ns);
	}
}

/* It waits for the holders, if there are any; either way it is known to run then. */
static void wait_or_pass(struct book *book, struct book_file *f, const struct call *call,
			 uint64_t now_ns)
{
	/* Each has a descriptor of ours. Better that these fail than calls on all files. */
	struct book_call *c = f->nwaiting < MAX_WAITING ? new_call(book) : NULL;

	if (!c) {
		book->ops.answer(book->ops.arg, call->fd, -EAGAIN);
		return;
	}
	*c = (struct book_call){ .call = *call };
	c->call.serial = ++book->serial;
	f->nwaiting++;
	TAILQ_INSERT_TAIL(&f->waiting, c, link);
	if (!is_held(f)) {
		let_through(book, f, now_ns);
		return;
	}
	book->counters.waited++;
	begin_break(book, f, now_ns);
}

bool book_call(struct book *book, const struct fan_file *file, enum call_kind kind,
	       const struct call *call, uint64_t now_ns, bool last)
{
	struct book_file *f = find_file(book, file);

	if (!f || LIST_EMPTY(&f->holds) || !changes(f, kind)) {
		book->counters.harmless++;
		book->ops.answer(book->ops.arg, call->fd, 0);
	} else if (is_refused(f, file)) {
		if (!last && may_differ(book, f, file))
			return false;
		book->counters.refused++;
		book->ops.answer(book->ops.arg, call->fd, -ETXTBSY);
	} else {
		wait_or_pass(book, f, call, now_ns);
	}
	book->counters.events++;
	return true;
}

/* ------------------------------------------------------------------------- */
/* Time */

static void lose(struct book *book, struct book_file *f, uint64_t now_ns)
{
	struct book_hold *h;

	LIST_FOREACH(h, &f->holds, file_link) {
		if (h->state != HOLD_BREAKING)
			continue;
		set_state(book, h, HOLD_IDLE);
		book->counters.lost++;
		book->ops.tell(book->ops.arg, h->client->arg, GUARD_LOST, h->id, 0);
	}
	let_through(book, f, now_ns);
}

static void expire_file(struct book *book, struct book_file *f, uint64_t now_ns)
{
	if (f->deadline_ns <= now_ns)
		lose(book, f, now_ns);
	if (LIST_EMPTY(&f->holds) && f->forget_ns <= now_ns) {
		if (has_settled(book, f, now_ns) || ++f->forget_tries > FORGET_TRIES) {
			free_file(book, f);
			return;
		}
		f->forget_ns = now_ns + SETTLE_NS;
	}
	set_due(book, f->deadline_ns);
	if (LIST_EMPTY(&f->holds))
		set_due(book, f->forget_ns);
}

uint64_t book_next(const struct book *book)
{
	return book->next_ns;
}

void book_expire(struct book *book, uint64_t now_ns)
{
	struct book_file *f, *next;

	if (now_ns < book->next_ns)
		return;
	book->next_ns = BOOK_NEVER;
	for (unsigned int i = 0; i < BUCKETS; i++) {
		for (f = LIST_FIRST(&book->buckets[i]); f; f = next) {
			next = LIST_NEXT(f, link);
			expire_file(book, f, now_ns);
		}
	}
}

void book_count(const struct book *book, struct guard_counters *counters)
{
	const uint64_t clients = counters->clients, turned_away = counters->turned_away;

	*counters = book->counters;
	counters->clients = clients;
	counters->turned_away = turned_away;
}

/* Clients are gone by now: what is left are files whose calls run. */
void book_free(struct book *book)
{
	if (!book)
		return;
	for (unsigned int i = 0; i < BUCKETS; i++) {
		while (!LIST_EMPTY(&book->buckets[i]))
			free_file(book, LIST_FIRST(&book->buckets[i]));
	}
	free(book->spare);
	free(book);
}
