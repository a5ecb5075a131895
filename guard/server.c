// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Threads: listeners answer events, each client is talked to by a thread of its own (what
 * its file's filesystem makes us wait for holds up nobody else), and one lock is around
 * the book. Nobody waits for anything while holding it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "book.h"
#include "keeper.h"
#include "server.h"
#include "sock.h"

#define NSEC 1000000000ull
#define THREAD_STACK (1024 * 1024) /* in the library they run callbacks */
/* Looking for other openers reads all of /proc: at most this share of the time. */
#define SCAN_SHARE 10
/* Who is not asleep yet has to be, before it can be told what it does; it costs nobody else. */
#define LOOK_AGAIN_NS 1000000ull
#define UNDECIDED_NS (10 * NSEC)
#define READ_AGAIN_NS (10 * 1000000ull)
#define SEND_AGAIN_NS (10 * 1000000ull)
#define MAX_ANSWERS 16 /* that a client has not read: nothing is read of it then */
#define MAX_BATCHES 16 /* of events that are read before a client is told something */
#define LEFT_AFTER_S 1 /* a listener that does not end */
#define AT_ONCE 1      /* long ago, and not 0, which would disarm the timer */

/* What a client has yet to be told. */
struct told {
	STAILQ_ENTRY(told) link;
	struct guard_msg msg;
};

struct guard_client {
	LIST_ENTRY(guard_client) link;
	struct guard_server *server;
	struct guard_peer peer;
	struct book_client book;
	int sock;     /* -1: it is in this process */
	bool hearing; /* a message of it may have been received and not been handled */
	bool deaf;    /* it is gone, or could not be told something: nothing may be left out */
	STAILQ_HEAD(, told) told;
	unsigned int answers; /* of these, to what it asked */
	bool is_due;	      /* in server->due */
	TAILQ_ENTRY(guard_client) due_link;
	unsigned int telling; /* threads that are at it, without the lock */
	/* With a socket */
	bool sending;		/* somebody is, one at a time: in order */
	bool is_full, was_full; /* it does not read */
	/* In this process */
	void (*notify)(void *arg);
	void *arg;
};

/* Somebody of whom it cannot be told yet what they do: not asleep, but about to be. */
struct undecided {
	STAILQ_ENTRY(undecided) link;
	struct fan_event event;
	uint64_t until_ns; /* then it counts as a change */
	uint64_t looked_ns;
};

struct listener {
	struct guard_server *server;
	pthread_t thread;
	struct call_files files; /* the thread's */
};

/* What a listener waits for. */
enum {
	WAIT_EVENT,
	WAIT_TIMER,
	WAIT_STOP
};

struct guard_server {
	struct guard_opts opts; /* constant from here */
	int fan;		/* -1: keeper has it */
	struct keeper *keeper;
	int break_time; /* to here */
	/* Made anew should the program close them. */
	atomic_int epoll, timer, stop_event;

	pthread_mutex_t lock; /* all below, but for what is atomic */
	pthread_cond_t gone;
	struct book *book;
	LIST_HEAD(, guard_client) clients;
	TAILQ_HEAD(, guard_client) due; /* to be told something */
	STAILQ_HEAD(, undecided) undecided;
	unsigned int nclients;
	uint64_t timer_ns; /* what the timer is set to */
	uint64_t scan_from_ns;
	uint64_t look_again_ns; /* at those that are undecided */
	uint64_t read_at_ns;	/* events, though epoll says nothing */
	uint64_t send_at_ns;	/* to those who did not read */
	bool stop;
	bool healed;	     /* a listener may wait at what the program has closed, for ever */
	atomic_bool any_due; /* changed under the lock */
	unsigned int nlisteners;
	struct listener listeners[GUARD_MAX_LISTENERS];
	atomic_ulong reads; /* events that the book need not know of */
	atomic_ulong turned_away;
	atomic_bool blind, full; /* it was said that calls cannot be told, and why */
};

__attribute__((format(printf, 3, 4))) static void say(struct guard_server *s, enum guard_log level,
						      const char *fmt, ...)
{
	char line[256];
	va_list args;

	if (!s->opts.log)
		return;
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	s->opts.log(s->opts.arg, level, line);
}

/*
 * For a few system calls; nothing is waited for meanwhile, least of all a lock, for a fork
 * waits for it.
 */
static int borrow_fan(struct guard_server *s)
{
	return s->keeper ? keeper_borrow(s->keeper) : s->fan;
}

static void return_fan(struct guard_server *s, int fan)
{
	if (s->keeper && fan >= 0)
		keeper_return(s->keeper, fan);
}

struct response {
	int event_fd, err;
};

static int respond(int fan, void *arg)
{
	const struct response *r = arg;

	return fan_answer(fan, r->event_fd, r->err); /* -ENOENT: it was killed meanwhile */
}

static void answer(struct guard_server *s, int event_fd, int err)
{
	struct response r = { .event_fd = event_fd, .err = err };
	int fan = borrow_fan(s);

	if (fan >= 0) {
		respond(fan, &r);
		return_fan(s, fan);
	} else { /* no descriptor is left for it here */
		keeper_call(s->keeper, respond, &r);
	}
	close(event_fd);
}

/* ------------------------------------------------------------------------- */
/* What the book wants done; the lock is held */

static void op_answer(void *arg, int event_fd, int err)
{
	answer(arg, event_fd, err);
}

static void set_due(struct guard_client *c)
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
 * Sent by tell_clients(), without the lock. It does not become long: at most two for each
 * hold, and some answers.
 */
static void tell(struct guard_client *c, const struct guard_msg *msg)
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
		set_due(c);
}

static void op_tell(void *arg, void *client, enum guard_type type, uint32_t id,
		    uint64_t deadline_ns)
{
	struct guard_msg msg = { .type = (uint16_t)type, .id = id, .time_ns = deadline_ns };
	struct guard_client *c = client;

	(void)arg;
	if (type == GUARD_LOST)
		say(c->server, GUARD_LOG_WARNING, "pid %d did not give a file back in time",
		    (int)c->peer.pid);
	tell(c, &msg);
}

static int op_watch(void *arg, int fd, bool watch)
{
	struct guard_server *s = arg;
	int fan = borrow_fan(s);
	int err = fan < 0 ? fan : watch ? fan_watch(fan, fd) : fan_unwatch(fan, fd);

	return_fan(s, fan);
	return err;
}

static void op_close(void *arg, int fd)
{
	(void)arg;
	close(fd);
}

static bool op_has_more(void *arg, void *client)
{
	const struct guard_client *c = client;
	struct pollfd pfd = { .fd = c->sock, .events = POLLIN };

	(void)arg;
	return c->sock >= 0 && (c->hearing || poll(&pfd, 1, 0) > 0);
}

static uint64_t op_break_time(void *arg)
{
	struct guard_server *s = arg;
	int seconds = fan_break_time(s->break_time);

	return seconds < 0 ? 0 : (uint64_t)seconds * NSEC;
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

static enum call_state op_call_state(void *arg, const struct call *call)
{
	(void)arg;
	for (unsigned int i = 0; i < looked.n; i++) {
		if (looked.calls[i].serial == call->serial)
			return looked.states[i];
	}
	return CALL_RUNS;
}

static void set_timer(struct guard_server *s)
{
	uint64_t at = book_next(s->book);
	struct itimerspec its = { 0 };

	if (!STAILQ_EMPTY(&s->undecided) && at > s->look_again_ns)
		at = s->look_again_ns;
	if (at > s->read_at_ns)
		at = s->read_at_ns;
	if (at > s->send_at_ns)
		at = s->send_at_ns;
	if (at == s->timer_ns)
		return;
	s->timer_ns = at;
	if (at != BOOK_NEVER) {
		its.it_value.tv_sec = (time_t)(at / NSEC);
		its.it_value.tv_nsec = (long)(at % NSEC);
	}
	timerfd_settime(s->timer, TFD_TIMER_ABSTIME, &its, NULL);
}

static void lock(struct guard_server *s)
{
	pthread_mutex_lock(&s->lock);
}

static void unlock(struct guard_server *s)
{
	set_timer(s);
	pthread_mutex_unlock(&s->lock);
}

/* ------------------------------------------------------------------------- */
/* Listeners */

static void warn_if_blind(struct guard_server *s, const struct call *call)
{
	const bool full = call->err == -EMFILE || call->err == -ENFILE;

	if (!call->err || call->err == -ESRCH) /* it has ended meanwhile */
		return;
	if (atomic_exchange(full ? &s->full : &s->blind, true))
		return;
	say(s, GUARD_LOG_WARNING,
	    "/proc/%d/syscall cannot be read, so that %s counts as a change: %s: %s",
	    (int)call->tid, full ? "this access" : "every access", strerror(-call->err),
	    call->err == -EMFILE ? "raise RLIMIT_NOFILE" :
	    call->err == -ENFILE ? "raise /proc/sys/fs/file-max" :
				   "have CAP_SYS_PTRACE");
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
	say(s, GUARD_LOG_WARNING, "pid %d does not read what it is told", (int)c->peer.pid);
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
			unlock(c->server);
			err = sock_send(c->sock, &t->msg, -1);
			lock(c->server);
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
	unlock(c->server);
	c->notify(c->arg);
	lock(c->server);
}

/* No lock is held. In this process this may take long. */
static void tell_clients(struct guard_server *s)
{
	struct guard_client *c;

	if (!atomic_load_explicit(&s->any_due, memory_order_relaxed))
		return;
	lock(s);
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
	unlock(s);
}

static void send_again(struct guard_server *s)
{
	struct guard_client *c;

	s->send_at_ns = BOOK_NEVER;
	LIST_FOREACH(c, &s->clients, link) {
		if (c->is_full)
			set_due(c);
	}
}

/* False: not now, for a holder has said something that was not heard yet. */
static bool tell_book(struct guard_server *s, const struct call *call, enum call_kind kind,
		      bool last)
{
	struct fan_file file;
	bool done;

	if (fan_event_file(call->fd, &file) < 0) { /* a file of no filesystem that we know */
		answer(s, call->fd, 0);
		return true;
	}
	if (kind == CALL_REMAP)
		kind = call_direction(call, &file);
	warn_if_blind(s, call);
	lock(s);
	done = book_call(s->book, &file, kind, call, fan_now_ns(), last);
	unlock(s);
	return done;
}

/* False: it has to be looked at again. */
static bool handle_event(struct guard_server *s, struct call_files *files,
			 const struct fan_event *event, bool last)
{
	struct call call = { .fd = event->fd, .tid = event->tid };
	enum call_kind kind = call_look(files, &call, event->open);

	if (kind == CALL_UNDECIDED && !last)
		return false;
	if (kind != CALL_READ)
		return tell_book(s, &call, kind, last);
	atomic_fetch_add_explicit(&s->reads, 1, memory_order_relaxed);
	answer(s, event->fd, 0);
	return true;
}

static void put_off(struct guard_server *s, struct undecided *u)
{
	u->looked_ns = fan_now_ns();
	lock(s);
	if (STAILQ_EMPTY(&s->undecided))
		s->look_again_ns = u->looked_ns + LOOK_AGAIN_NS;
	STAILQ_INSERT_TAIL(&s->undecided, u, link);
	unlock(s);
}

static void handle_new_event(struct guard_server *s, struct call_files *files,
			     const struct fan_event *event)
{
	struct undecided *u;

	if (event->fd < 0) {
		say(s, GUARD_LOG_ERR, "tid %d was refused, its file cannot be told: %s%s",
		    (int)event->tid, strerror(-event->fd),
		    event->fd == -EMFILE ? ": raise RLIMIT_NOFILE" : "");
		return;
	}
	if (handle_event(s, files, event, false))
		return;
	u = malloc(sizeof(*u));
	if (!u) {
		handle_event(s, files, event, true);
		return;
	}
	u->event = *event;
	u->until_ns = fan_now_ns() + UNDECIDED_NS;
	put_off(s, u);
}

static int read_events(struct guard_server *s, struct fan_event *ret_events, bool *ret_more)
{
	int fan = borrow_fan(s);
	int n = fan < 0 ? fan : fan_read(fan, ret_events, ret_more);

	return_fan(s, fan);
	return n;
}

/* There are more, but they could not be read: epoll tells of each only once. */
static void read_later(struct guard_server *s, int err)
{
	say(s, GUARD_LOG_ERR, "events cannot be read: %s%s", strerror(-err),
	    err == -EMFILE ? ": raise RLIMIT_NOFILE" : "");
	lock(s);
	s->read_at_ns = fan_now_ns() + READ_AGAIN_NS;
	unlock(s);
}

/*
 * Those that are queued already wake nobody else, and this thread may be away for long: the
 * timer has another one read them.
 */
static void pass_on_events(struct guard_server *s)
{
	lock(s);
	s->read_at_ns = AT_ONCE;
	unlock(s);
}

/* Until there are none: what comes after that wakes another listener. */
static void handle_events(struct guard_server *s, struct call_files *files)
{
	struct fan_event events[FAN_EVENTS];
	unsigned int batches = 0;
	bool more = true;
	int n = 0;

	while (more && (n = read_events(s, events, &more)) >= 0) {
		for (int i = 0; i < n; i++)
			handle_new_event(s, files, &events[i]);
		if (!s->any_due || ++batches < MAX_BATCHES)
			continue;
		pass_on_events(s);
		tell_clients(s);
		batches = 0;
	}
	tell_clients(s);
	if (n < 0 && n != -EAGAIN)
		read_later(s, n);
}

static struct undecided *next_undecided(struct guard_server *s)
{
	struct undecided *u;

	lock(s);
	u = STAILQ_FIRST(&s->undecided);
	if (u)
		STAILQ_REMOVE_HEAD(&s->undecided, link);
	unlock(s);
	return u;
}

/* Each once; looking at one may take long, and then others can be looked at by others. */
static void look_again(struct guard_server *s, struct call_files *files)
{
	const uint64_t begin = fan_now_ns();
	struct undecided *u;

	while ((u = next_undecided(s))) {
		bool seen = u->looked_ns >= begin;

		if (seen || !handle_event(s, files, &u->event, fan_now_ns() >= u->until_ns))
			put_off(s, u);
		else
			free(u);
		if (seen)
			break;
	}
}

static void handle_timer(struct guard_server *s, struct call_files *files)
{
	uint64_t count;
	bool again;

	if (read(s->timer, &count, sizeof(count)) < 0)
		return; /* another listener was faster */
	lock(s);
	s->timer_ns = BOOK_NEVER;
	again = s->read_at_ns <= fan_now_ns();
	if (again)
		s->read_at_ns = BOOK_NEVER;
	if (s->send_at_ns <= fan_now_ns())
		send_again(s);
	/* What is put off from now on is looked at the next time. */
	s->look_again_ns = fan_now_ns() + LOOK_AGAIN_NS;
	book_expire(s->book, fan_now_ns());
	unlock(s);
	look_again(s, files);
	if (again)
		handle_events(s, files);
	tell_clients(s); /* last, for it may take long */
}

static int open_waiting(struct guard_server *s);

/*
 * Nobody would be answered for ever: that is worse than a guard that is gone. The kernel
 * lets go on all that wait.
 */
static void give_up(struct guard_server *s)
{
	struct guard_client *c;

	keeper_end(s->keeper);
	LIST_FOREACH(c, &s->clients, link) {
		c->deaf = true;
		set_due(c);
	}
	say(s, GUARD_LOG_ERR,
	    "the program closed the guard's descriptors: files are not guarded any more");
}

/* The program has closed what it does not know. False: that's the end. */
static bool heal(struct guard_server *s, int epoll)
{
	bool ok = true; /* if another listener was faster */

	lock(s);
	if (s->epoll == epoll) {
		s->timer_ns = BOOK_NEVER;
		ok = s->keeper && !open_waiting(s);
		s->healed = true;
		if (!ok && s->keeper)
			give_up(s);
	}
	unlock(s);
	tell_clients(s);
	return ok;
}

/* False: it was the last time. */
static bool listen_once(struct guard_server *s, struct call_files *files)
{
	struct epoll_event ev;
	int epoll = s->epoll;
	int n = epoll_wait(epoll, &ev, 1, -1);

	if (n < 0 && errno != EINTR)
		return heal(s, epoll);
	if (n < 1)
		return true;
	switch (ev.data.u32) {
	case WAIT_STOP:
		return false;
	case WAIT_TIMER:
		handle_timer(s, files);
		return true;
	default:
		handle_events(s, files);
		return true;
	}
}

static void *listen_main(void *arg)
{
	struct listener *l = arg;

	while (listen_once(l->server, &l->files))
		;
	return NULL;
}

/* ------------------------------------------------------------------------- */
/* Clients */

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

	lock(s);
	known = book_knows_moves(s->book, &want->file);
	unlock(s);
	if (known)
		return;
	moves = fan_writes_move(want->fd);
	lock(s);
	book_set_moves(s->book, &want->file, moves);
	unlock(s);
}

static void look_for_openers(struct guard_client *c, const struct book_want *want,
			     struct guard_msg *msg)
{
	struct guard_server *s = c->server;
	uint64_t begin = fan_now_ns();
	bool due;
	pid_t pid = 0;

	msg->openers = GUARD_UNKNOWN;
	lock(s);
	due = begin >= s->scan_from_ns;
	if (due)
		s->scan_from_ns = BOOK_NEVER; /* one at a time */
	unlock(s);
	if (!due)
		return;
	msg->openers = fan_openers(&want->file, c->peer.pid, &pid);
	msg->opener = pid;
	lock(s);
	s->scan_from_ns = fan_now_ns() + (fan_now_ns() - begin) * (SCAN_SHARE - 1);
	unlock(s);
}

static int take_from_book(struct guard_client *c, const struct book_want *want, bool *ret_new)
{
	struct guard_server *s = c->server;
	int err;

	lock(s);
	/* One that is known counts already. */
	err = book_knows(&c->book, want->id) ? 0 : check_hold_limits(c);
	if (!err)
		err = book_take(s->book, &c->book, want, fan_now_ns(), ret_new);
	unlock(s);
	return err;
}

static int try_to_take(struct guard_client *c, const struct book_want *want, bool *ret_new)
{
	struct guard_server *s = c->server;
	struct call calls[BOOK_THROUGH];
	enum call_state states[BOOK_THROUGH];
	unsigned int n;
	int err;

	lock(s);
	n = book_through(s->book, &want->file, calls);
	unlock(s);
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
	lock(c->server);
	tell(c, msg);
	if (c->sock >= 0)
		send_told(c);
	unlock(c->server);
}

static void answer_take(struct guard_client *c, struct guard_msg *msg, int fd)
{
	struct guard_server *s = c->server;
	int err = take(c, msg, fd);

	if (err && fd >= 0)
		close(fd);
	if (err && err != -EAGAIN && err != -EINPROGRESS) {
		atomic_fetch_add(&s->turned_away, 1);
		say(s, GUARD_LOG_INFO, "pid %d, uid %u: no guard: %s", (int)c->peer.pid,
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

	lock(s);
	book_give_back(s->book, &c->book, msg->id, msg->flags & GUARD_KEEP, fan_now_ns());
	unlock(s);
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
		lock(s);
		if (c->is_full)
			send_told(c);
		enough = c->answers >= MAX_ANSWERS;
		c->hearing = false;
		unlock(s);
		err = wait_for(c, enough ? POLLOUT : POLLIN);
	} while (enough && !err);
	lock(s);
	c->hearing = true;
	unlock(s);
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
		say(c->server, GUARD_LOG_WARNING, "pid %d, uid %u: let go: %s", (int)c->peer.pid,
		    (unsigned int)c->peer.uid, strerror(-err));
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

	lock(s);
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
	unlock(s);
	return err;
}

static void leave(struct guard_client *c)
{
	struct guard_server *s = c->server;

	lock(s);
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
	unlock(s);
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
		say(s, GUARD_LOG_WARNING, "pid %d, uid %u: turned away: %s", (int)peer->pid,
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

	lock(s);
	while (n < max && !STAILQ_EMPTY(&c->told)) {
		ret_msgs[n++] = STAILQ_FIRST(&c->told)->msg;
		forget_first(c);
	}
	*ret_err = n == max ? 0 : c->deaf ? -ECONNRESET : -EAGAIN;
	unlock(s);
	return n;
}

/* ------------------------------------------------------------------------- */
/* Start and stop */

static int watch_fd(struct guard_server *s, int fd, uint32_t events, uint32_t what)
{
	struct epoll_event ev = { .events = events, .data.u32 = what };

	return epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

/*
 * Edges: each event wakes one listener, which takes all that there are. It stays watched
 * when the borrowed descriptor is closed, as long as another one is open.
 */
static int watch_fan(struct guard_server *s)
{
	int fan = borrow_fan(s);
	int err = fan < 0 ? fan : watch_fd(s, fan, EPOLLIN | EPOLLET, WAIT_EVENT);

	return_fan(s, fan);
	return err;
}

static int open_fan(struct guard_server *s)
{
	if (s->opts.in_library)
		return keeper_new(fan_init, &s->keeper);
	s->fan = fan_init();
	return s->fan < 0 ? s->fan : 0;
}

static int open_waiting(struct guard_server *s)
{
	int err;

	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	s->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	s->stop_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->epoll < 0 || s->timer < 0 || s->stop_event < 0)
		return -errno;
	err = watch_fan(s);
	if (!err)
		err = watch_fd(s, s->timer, EPOLLIN, WAIT_TIMER);
	return err ? err : watch_fd(s, s->stop_event, EPOLLIN, WAIT_STOP);
}

static int open_all(struct guard_server *s)
{
	int err;

	err = open_fan(s);
	if (err)
		return err;
	s->break_time = fan_open_break_time();
	return open_waiting(s);
}

static int start_listeners(struct guard_server *s)
{
	pthread_attr_t attr;
	int err = 0;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	while (s->nlisteners < s->opts.listeners && !err) {
		struct listener *l = &s->listeners[s->nlisteners];

		l->server = s;
		err = pthread_create(&l->thread, &attr, listen_main, l);
		s->nlisteners += !err;
	}
	pthread_attr_destroy(&attr);
	return s->nlisteners ? 0 : -EAGAIN;
}

int guard_server_new(const struct guard_opts *opts, struct guard_server **ret_server)
{
	struct guard_server *s = calloc(1, sizeof(*s));
	int err = -ENOMEM;

	if (!s)
		return err;
	s->opts = *opts;
	s->fan = s->break_time = -1;
	s->epoll = s->timer = s->stop_event = -1;
	s->timer_ns = s->read_at_ns = s->send_at_ns = BOOK_NEVER;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->gone, NULL);
	TAILQ_INIT(&s->due);
	STAILQ_INIT(&s->undecided);
	s->book = book_new(&(struct book_ops){ .answer = op_answer,
					       .tell = op_tell,
					       .watch = op_watch,
					       .close = op_close,
					       .break_time = op_break_time,
					       .has_more = op_has_more,
					       .call_state = op_call_state,
					       .arg = s });
	if (s->book)
		err = open_all(s);
	if (!err && s->opts.opened)
		err = s->opts.opened(s->opts.arg);
	if (!err)
		err = start_listeners(s);
	if (err)
		guard_server_free(s);
	else
		*ret_server = s;
	return err;
}

void guard_server_stop(struct guard_server *s)
{
	struct guard_client *c;

	lock(s);
	s->stop = true;
	LIST_FOREACH(c, &s->clients, link) {
		if (c->sock >= 0)
			shutdown(c->sock, SHUT_RDWR);
	}
	while (s->nclients)
		pthread_cond_wait(&s->gone, &s->lock);
	unlock(s);
}

static void close_if(int fd)
{
	if (fd >= 0)
		close(fd);
}

/* False: it waits at what was made anew since. */
static bool join(const struct guard_server *s, const struct listener *l)
{
	struct timespec until;

	if (!s->healed)
		return !pthread_join(l->thread, NULL);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += LEFT_AFTER_S;
	return !pthread_clockjoin_np(l->thread, NULL, CLOCK_MONOTONIC, &until);
}

/*
 * False: the program has closed what they wait for, and they wait for ever. They are left,
 * and what they use, but the group is closed.
 */
static bool stop_listeners(struct guard_server *s)
{
	const uint64_t one = 1;

	if (s->nlisteners && write(s->stop_event, &one, sizeof(one)) < 0) {
		if (s->keeper)
			keeper_end(s->keeper);
		return false;
	}
	for (unsigned int i = 0; i < s->nlisteners; i++) {
		if (!join(s, &s->listeners[i])) {
			if (s->keeper)
				keeper_end(s->keeper);
			return false;
		}
		call_files_close(&s->listeners[i].files);
	}
	return true;
}

void guard_server_free(struct guard_server *s)
{
	struct undecided *u;

	if (!stop_listeners(s))
		return;
	/* The kernel lets go on whoever waits. */
	close_if(s->fan);
	if (s->keeper)
		keeper_free(s->keeper);
	while ((u = STAILQ_FIRST(&s->undecided))) {
		STAILQ_REMOVE_HEAD(&s->undecided, link);
		close(u->event.fd);
		free(u);
	}
	close_if(s->epoll);
	close_if(s->timer);
	close_if(s->stop_event);
	close_if(s->break_time);
	book_free(s->book);
	pthread_cond_destroy(&s->gone);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

uint64_t guard_server_stuck(const struct guard_server *s)
{
	const uint64_t now = fan_now_ns();
	uint64_t longest = 0;

	for (unsigned int i = 0; i < s->nlisteners; i++) {
		uint64_t since = s->listeners[i].files.since_ns;

		if (since && since < now && now - since > longest)
			longest = now - since;
	}
	return longest;
}

unsigned int guard_server_listeners(const struct guard_server *s)
{
	return s->nlisteners;
}

void guard_server_count(struct guard_server *s, struct guard_counters *ret_counters)
{
	unsigned long reads = atomic_load(&s->reads);

	lock(s);
	book_count(s->book, ret_counters);
	ret_counters->clients = s->nclients;
	ret_counters->turned_away = atomic_load(&s->turned_away);
	ret_counters->events += reads;
	ret_counters->harmless += reads;
	unlock(s);
}
