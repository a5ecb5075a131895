// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Clients: each is talked to by a thread of its own (what its file's filesystem makes us
 * wait for holds up nobody else); what it is told is sent by whoever has something to say.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serving.h"
#include "sock.h"

/* Looking for other openers reads all of /proc: at most this share of the time. */
#define SCAN_SHARE 10
#define SEND_AGAIN_NS (10 * 1000000ull)
#define MAX_ANSWERS 16 /* that a client has not read: nothing is read of it then */

/* ------------------------------------------------------------------------- */
/* What they are told */

void client_set_due(struct guard_client *c)
{
	if (c->is_due)
		return;
	c->is_due = true;
	TAILQ_INSERT_TAIL(&c->server->due, c, due_link);
	c->server->any_due = true;
}

static void set_not_due(struct guard_client *c)
{
	if (!c->is_due)
		return;
	c->is_due = false;
	TAILQ_REMOVE(&c->server->due, c, due_link);
}

static bool is_answer(const struct guard_msg *msg)
{
	return msg->type == GUARD_TAKEN || msg->type == GUARD_STATUS;
}

/*
 * Sent by clients_tell(), without the lock. It does not become long: at most two for each
 * hold, and some answers.
 */
void client_tell(struct guard_client *c, const struct guard_msg *msg)
{
	struct told *t = malloc(sizeof(*t));

	if (t) {
		t->msg = *msg;
		STAILQ_INSERT_TAIL(&c->told, t, link);
		c->answers += is_answer(msg);
	} else {
		c->deaf = true;
		if (c->sock >= 0)
			shutdown(c->sock, SHUT_RDWR);
	}
	if (c->sock >= 0 || msg->type != GUARD_TAKEN) /* somebody in this process waits for that */
		client_set_due(c);
}

static void forget_first(struct guard_client *c)
{
	struct told *t = STAILQ_FIRST(&c->told);

	STAILQ_REMOVE_HEAD(&c->told, link);
	c->answers -= is_answer(&t->msg);
	free(t);
}

static void send_later(struct guard_client *c)
{
	struct guard_server *s = c->server;

	c->is_full = true;
	if (s->send_at_ns == BOOK_NEVER)
		s->send_at_ns = fan_now_ns() + SEND_AGAIN_NS;
	if (c->was_full)
		return;
	c->was_full = true;
	server_say(s, GUARD_LOG_WARNING, "pid %d does not read what it is told", (int)c->peer.pid);
}

/* With the lock, which is dropped meanwhile. */
static void send_told(struct guard_client *c)
{
	struct told *t;

	if (c->sending) /* what was added since goes as well */
		return;
	c->sending = true;
	c->is_full = false;
	while (!c->is_full && (t = STAILQ_FIRST(&c->told))) {
		int err = -ECONNRESET;

		if (!c->deaf) {
			server_unlock(c->server);
			err = sock_send(c->sock, &t->msg, -1);
			server_lock(c->server);
		}
		if (err == -EAGAIN)
			send_later(c);
		else
			forget_first(c); /* sent, or it is gone, as its thread will find out */
	}
	c->sending = false;
}

static void notify_client(struct guard_client *c)
{
	server_unlock(c->server);
	c->notify(c->arg);
	server_lock(c->server);
}

/* No lock is held. In this process this may take long. */
void clients_tell(struct guard_server *s)
{
	struct guard_client *c;

	if (!atomic_load_explicit(&s->any_due, memory_order_relaxed))
		return;
	server_lock(s);
	while ((c = TAILQ_FIRST(&s->due))) {
		set_not_due(c);
		c->telling++;
		if (c->sock < 0)
			notify_client(c);
		else
			send_told(c);
		c->telling--;
		pthread_cond_broadcast(&s->gone);
	}
	s->any_due = false;
	server_unlock(s);
}

void clients_send_again(struct guard_server *s)
{
	struct guard_client *c;

	s->send_at_ns = BOOK_NEVER;
	LIST_FOREACH(c, &s->clients, link) {
		if (c->is_full)
			client_set_due(c);
	}
}

/* ------------------------------------------------------------------------- */
/* What they ask for */

/* Under the lock; a limit of 0 is none. */
static bool over(unsigned int limit, unsigned int is)
{
	return limit && is >= limit;
}

static unsigned int clients_of(const struct guard_server *s, uid_t uid)
{
	const struct guard_client *c;
	unsigned int n = 0;

	LIST_FOREACH(c, &s->clients, link)
		n += c->peer.uid == uid;
	return n;
}

static unsigned int holds_of(const struct guard_server *s, uid_t uid)
{
	const struct guard_client *c;
	unsigned int n = 0;

	LIST_FOREACH(c, &s->clients, link)
		n += c->peer.uid == uid ? c->book.holds : 0;
	return n;
}

static unsigned int all_holds(const struct guard_server *s)
{
	const struct guard_client *c;
	unsigned int n = 0;

	LIST_FOREACH(c, &s->clients, link)
		n += c->book.holds;
	return n;
}

static int check_hold_limits(const struct guard_client *c)
{
	const struct guard_server *s = c->server;
	bool of_user = !c->peer.privileged && s->opts.max_holds_of_user;

	if (of_user && over(s->opts.max_holds_of_user, holds_of(s, c->peer.uid)))
		return -EUSERS;
	return s->opts.max_holds && over(s->opts.max_holds, all_holds(s)) ? -ENFILE : 0;
}

static const char *why_not_taken(int err)
{
	switch (err) {
	case -EINVAL:
		return "no regular file";
	case -EACCES:
		return "only the owner of the file may guard it: run as the owner or as root";
	case -EBADF:
		return "exclusive, but open read-only: open it O_RDWR";
	case -EEXIST:
		return "this id is held already";
	case -EAGAIN:
		return "somebody waits to change the file";
	case -EINPROGRESS:
		return "somebody is changing the file";
	case -EOPNOTSUPP:
		return "the filesystem has no pre-content events: ext4, XFS and btrfs have, from "
		       "Linux 6.14";
	case -EUSERS:
		return "the limit for files of one user is reached";
	case -ENFILE:
		return "the limit for files is reached";
	default:
		return strerror(-err);
	}
}

/* May take long: without the lock. */
static int look_at_file(int fd, struct guard_msg *msg, struct book_want *want)
{
	int mode = fan_access_mode(fd);
	int err = mode < 0 ? mode : fan_file_info(fd, &want->file);

	if (err)
		return err == -EBADF ? -EINVAL : err; /* O_PATH */
	if (fan_is_remote(fd))
		return -EOPNOTSUPP;
	want->id = msg->id;
	want->exclusive = msg->flags & GUARD_EXCLUSIVE;
	want->writable = mode != O_RDONLY;
	want->fd = fd;
	return 0;
}

/* Asked once the watch is on, for until then it may change unseen. */
static void look_at_blocks(struct guard_server *s, const struct book_want *want)
{
	enum fan_moves moves;
	bool known;

	server_lock(s);
	known = book_knows_moves(s->book, &want->file);
	server_unlock(s);
	if (known)
		return;
	moves = fan_writes_move(want->fd);
	server_lock(s);
	book_set_moves(s->book, &want->file, moves);
	server_unlock(s);
}

static void look_for_openers(struct guard_client *c, const struct book_want *want,
			     struct guard_msg *msg)
{
	struct guard_server *s = c->server;
	uint64_t begin = fan_now_ns();
	bool due;
	pid_t pid = 0;

	msg->openers = GUARD_UNKNOWN;
	server_lock(s);
	due = begin >= s->scan_from_ns;
	if (due)
		s->scan_from_ns = BOOK_NEVER; /* one at a time */
	server_unlock(s);
	if (!due)
		return;
	msg->openers = fan_openers(&want->file, c->peer.pid, &pid);
	msg->opener = pid;
	server_lock(s);
	s->scan_from_ns = fan_now_ns() + (fan_now_ns() - begin) * (SCAN_SHARE - 1);
	server_unlock(s);
}

/*
 * Looking at a task may take as long as that task likes (while it executes another program),
 * so it is done before, without the lock: what this thread has found out.
 */
static __thread struct {
	const struct call *calls;
	const enum call_state *states;
	unsigned int n;
} looked;

enum call_state client_call_state(void *arg, const struct call *call)
{
	(void)arg;
	for (unsigned int i = 0; i < looked.n; i++) {
		if (looked.calls[i].serial == call->serial)
			return looked.states[i];
	}
	return CALL_RUNS;
}

static int take_from_book(struct guard_client *c, const struct book_want *want, bool *ret_new)
{
	struct guard_server *s = c->server;
	int err;

	server_lock(s);
	/* One that is known counts already. */
	err = book_knows(&c->book, want->id) ? 0 : check_hold_limits(c);
	if (!err)
		err = book_take(s->book, &c->book, want, fan_now_ns(), ret_new);
	server_unlock(s);
	return err;
}

static int try_to_take(struct guard_client *c, const struct book_want *want, bool *ret_new)
{
	struct guard_server *s = c->server;
	struct call calls[BOOK_THROUGH];
	enum call_state states[BOOK_THROUGH];
	unsigned int n;
	int err;

	server_lock(s);
	n = book_through(s->book, &want->file, calls);
	server_unlock(s);
	for (unsigned int i = 0; i < n; i++)
		states[i] = call_state(&calls[i]);
	looked.calls = calls;
	looked.states = states;
	looked.n = n;
	err = take_from_book(c, want, ret_new);
	looked.n = 0;
	return err;
}

static int take(struct guard_client *c, struct guard_msg *msg, int fd)
{
	struct guard_server *s = c->server;
	struct book_want want = { .fd = -1 };
	bool is_new = false;
	int err = fd < 0 ? -EPROTO : look_at_file(fd, msg, &want);

	if (!err)
		err = try_to_take(c, &want, &is_new);
	msg->openers = 0;
	msg->opener = 0;
	if (!err)
		look_at_blocks(s, &want);
	if (!err && is_new)
		look_for_openers(c, &want, msg);
	return err;
}

/* By the client's thread. */
static void tell_own(struct guard_client *c, const struct guard_msg *msg)
{
	server_lock(c->server);
	client_tell(c, msg);
	if (c->sock >= 0)
		send_told(c);
	server_unlock(c->server);
}

static void answer_take(struct guard_client *c, struct guard_msg *msg, int fd)
{
	struct guard_server *s = c->server;
	int err = take(c, msg, fd);

	if (err && fd >= 0)
		close(fd);
	if (err && err != -EAGAIN && err != -EINPROGRESS) {
		atomic_fetch_add(&s->turned_away, 1);
		server_say(s, GUARD_LOG_INFO, "pid %d, uid %u: no guard: %s", (int)c->peer.pid,
			   (unsigned int)c->peer.uid, why_not_taken(err));
	}
	msg->type = GUARD_TAKEN;
	msg->error = err;
	msg->time_ns = fan_now_ns();
	memset(msg->text, 0, sizeof(msg->text));
	if (err)
		snprintf(msg->text, sizeof(msg->text), "%s", why_not_taken(err));
	tell_own(c, msg);
}

static void answer_status(struct guard_client *c, struct guard_msg *msg)
{
	struct guard_counters counters;

	guard_server_count(c->server, &counters);
	*msg = (struct guard_msg){ .type = GUARD_STATUS };
	memcpy(msg->text, &counters, sizeof(counters));
	tell_own(c, msg);
}

static void give_back(struct guard_client *c, const struct guard_msg *msg)
{
	struct guard_server *s = c->server;

	server_lock(s);
	book_give_back(s->book, &c->book, msg->id, msg->flags & GUARD_KEEP, fan_now_ns());
	server_unlock(s);
}

static int handle_message(struct guard_client *c, struct guard_msg *msg, int fd)
{
	if (msg->type != GUARD_TAKE && fd >= 0) {
		close(fd);
		return -EPROTO;
	}
	switch (msg->type) {
	case GUARD_TAKE:
		answer_take(c, msg, fd);
		return 0;
	case GUARD_GIVE_BACK:
		give_back(c, msg);
		return 0;
	case GUARD_STATUS:
		answer_status(c, msg);
		return 0;
	default:
		return -EPROTO;
	}
}

/* ------------------------------------------------------------------------- */
/* Clients with a socket */

/* The socket may live on in a child of the client that knows nothing of it. */
static int wait_for(const struct guard_client *c, short events)
{
	struct pollfd fds[] = {
		{ .fd = c->sock, .events = events },
		{ .fd = c->peer.pidfd, .events = POLLIN },
	};

	while (poll(fds, 2, -1) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return fds[0].revents ? 0 : -ECONNRESET;
}

/* Until it says something. Who does not read is heard, but asks nothing more. */
static int wait_for_client(struct guard_client *c)
{
	struct guard_server *s = c->server;
	bool enough;
	int err;

	do {
		server_lock(s);
		if (c->is_full)
			send_told(c);
		enough = c->answers >= MAX_ANSWERS;
		c->hearing = false;
		server_unlock(s);
		err = wait_for(c, enough ? POLLOUT : POLLIN);
	} while (enough && !err);
	server_lock(s);
	c->hearing = true;
	server_unlock(s);
	return err;
}

static void talk(struct guard_client *c)
{
	struct guard_msg msg;
	int fd, err;

	do {
		err = wait_for_client(c);
		if (!err)
			err = sock_receive(c->sock, false, &msg, &fd);
		if (!err)
			err = handle_message(c, &msg, fd);
		else if (err == -EAGAIN)
			err = 0;
	} while (!err);
	if (err == -EPROTONOSUPPORT) {
		msg = (struct guard_msg){ .type = GUARD_TAKEN, .error = err };
		snprintf(msg.text, sizeof(msg.text), "the guard speaks version %d", GUARD_VERSION);
		tell_own(c, &msg);
	}
	if (err != -ECONNRESET)
		server_say(c->server, GUARD_LOG_WARNING, "pid %d, uid %u: let go: %s",
			   (int)c->peer.pid, (unsigned int)c->peer.uid, strerror(-err));
}

static void init_client(struct guard_client *c)
{
	c->book.arg = c;
	LIST_INIT(&c->book.list);
	STAILQ_INIT(&c->told);
}

/* Somebody with many users of his own must not lock out the privileged. */
static unsigned int reserve(const struct guard_server *s, const struct guard_client *c)
{
	return c->peer.privileged ? 0 : s->opts.max_clients / 8;
}

static int enter(struct guard_client *c)
{
	struct guard_server *s = c->server;
	int err = 0;

	server_lock(s);
	if (s->stop)
		err = -ESHUTDOWN;
	else if (over(s->opts.max_clients - reserve(s, c), s->nclients))
		err = -ENFILE;
	else if (!c->peer.privileged &&
		 over(s->opts.max_clients_of_user, clients_of(s, c->peer.uid)))
		err = -EUSERS;
	if (!err) {
		LIST_INSERT_HEAD(&s->clients, c, link);
		s->nclients++;
	}
	server_unlock(s);
	return err;
}

static void leave(struct guard_client *c)
{
	struct guard_server *s = c->server;

	server_lock(s);
	book_client_gone(s->book, &c->book, fan_now_ns());
	set_not_due(c);
	while (c->telling) {
		pthread_cond_wait(&s->gone, &s->lock);
		set_not_due(c);
	}
	while (!STAILQ_EMPTY(&c->told))
		forget_first(c);
	LIST_REMOVE(c, link);
	s->nclients--;
	pthread_cond_broadcast(&s->gone);
	server_unlock(s);
}

static const char *why_turned_away(int err)
{
	switch (err) {
	case -ESHUTDOWN:
		return "the guard is ending";
	case -EUSERS:
		return "too many clients of this user";
	default:
		return "too many clients";
	}
}

int guard_server_serve(struct guard_server *s, int sock, const struct guard_peer *peer)
{
	struct guard_client c = {
		.server = s,
		.peer = *peer,
		.sock = sock,
		.book = { .uid = peer->uid, .privileged = peer->privileged },
	};
	int err;

	init_client(&c);
	err = enter(&c);
	if (err) {
		atomic_fetch_add(&s->turned_away, 1);
		server_say(s, GUARD_LOG_WARNING, "pid %d, uid %u: turned away: %s", (int)peer->pid,
			   (unsigned int)peer->uid, why_turned_away(err));
	} else {
		talk(&c);
		leave(&c);
	}
	if (peer->pidfd >= 0)
		close(peer->pidfd);
	close(sock);
	return err;
}

/* ------------------------------------------------------------------------- */
/* Clients in this process */

struct guard_client *guard_client_new(struct guard_server *s, void (*notify)(void *arg), void *arg)
{
	struct guard_client *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->server = s;
	c->peer = (struct guard_peer){ .pid = getpid(), .privileged = true, .pidfd = -1 };
	c->book.privileged = true;
	c->sock = -1;
	c->notify = notify;
	c->arg = arg;
	init_client(c);
	if (!enter(c))
		return c;
	free(c);
	return NULL;
}

void guard_client_free(struct guard_client *c)
{
	leave(c);
	free(c);
}

int guard_client_send(struct guard_client *c, struct guard_msg *msg, int fd)
{
	int own = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (fd >= 0 && own < 0)
		return -errno;
	return handle_message(c, msg, own);
}

unsigned int guard_client_receive(struct guard_client *c, struct guard_msg *ret_msgs,
				  unsigned int max, int *ret_err)
{
	struct guard_server *s = c->server;
	unsigned int n = 0;

	server_lock(s);
	while (n < max && !STAILQ_EMPTY(&c->told)) {
		ret_msgs[n++] = STAILQ_FIRST(&c->told)->msg;
		forget_first(c);
	}
	*ret_err = n == max ? 0 : c->deaf ? -ECONNRESET : -EAGAIN;
	server_unlock(s);
	return n;
}
