// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Threads: listeners answer events, each client is talked to by a thread of its own
 * (client.c), and one lock is around the book. Nobody waits for anything while holding it.
 */
#include <errno.h>
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

#include "serving.h"

#define NSEC 1000000000ull
#define THREAD_STACK (1024 * 1024) /* in the library they run callbacks */
/* Who is not asleep yet has to be, before it can be told what it does; it costs nobody else. */
#define LOOK_AGAIN_NS 1000000ull
#define UNDECIDED_NS (10 * NSEC)
#define READ_AGAIN_NS (10 * 1000000ull)
#define MAX_BATCHES 16 /* of events that are read before a client is told something */
#define LEFT_AFTER_S 1 /* a listener that does not end */
#define AT_ONCE 1      /* long ago, and not 0, which would disarm the timer */

void server_say(struct guard_server *s, enum guard_log level, const char *fmt, ...)
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

static void op_tell(void *arg, void *client, enum guard_type type, uint32_t id,
		    uint64_t deadline_ns)
{
	struct guard_msg msg = { .type = (uint16_t)type, .id = id, .time_ns = deadline_ns };
	struct guard_client *c = client;

	(void)arg;
	if (type == GUARD_LOST)
		server_say(c->server, GUARD_LOG_WARNING, "pid %d did not give a file back in time",
			   (int)c->peer.pid);
	client_tell(c, &msg);
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

void server_unlock(struct guard_server *s)
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
	server_say(s, GUARD_LOG_WARNING,
		   "/proc/%d/syscall cannot be read, so that %s counts as a change: %s: %s",
		   (int)call->tid, full ? "this access" : "every access", strerror(-call->err),
		   call->err == -EMFILE ? "raise RLIMIT_NOFILE" :
		   call->err == -ENFILE ? "raise /proc/sys/fs/file-max" :
					  "have CAP_SYS_PTRACE");
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
	server_lock(s);
	done = book_call(s->book, &file, kind, call, fan_now_ns(), last);
	server_unlock(s);
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
	server_lock(s);
	if (STAILQ_EMPTY(&s->undecided))
		s->look_again_ns = u->looked_ns + LOOK_AGAIN_NS;
	STAILQ_INSERT_TAIL(&s->undecided, u, link);
	server_unlock(s);
}

static void handle_new_event(struct guard_server *s, struct call_files *files,
			     const struct fan_event *event)
{
	struct undecided *u;

	if (event->fd < 0) {
		server_say(s, GUARD_LOG_ERR, "tid %d was refused, its file cannot be told: %s%s",
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
	server_say(s, GUARD_LOG_ERR, "events cannot be read: %s%s", strerror(-err),
		   err == -EMFILE ? ": raise RLIMIT_NOFILE" : "");
	server_lock(s);
	s->read_at_ns = fan_now_ns() + READ_AGAIN_NS;
	server_unlock(s);
}

/*
 * Those that are queued already wake nobody else, and this thread may be away for long: the
 * timer has another one read them.
 */
static void pass_on_events(struct guard_server *s)
{
	server_lock(s);
	s->read_at_ns = AT_ONCE;
	server_unlock(s);
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
		clients_tell(s);
		batches = 0;
	}
	clients_tell(s);
	if (n < 0 && n != -EAGAIN)
		read_later(s, n);
}

static struct undecided *next_undecided(struct guard_server *s)
{
	struct undecided *u;

	server_lock(s);
	u = STAILQ_FIRST(&s->undecided);
	if (u)
		STAILQ_REMOVE_HEAD(&s->undecided, link);
	server_unlock(s);
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
	server_lock(s);
	s->timer_ns = BOOK_NEVER;
	again = s->read_at_ns <= fan_now_ns();
	if (again)
		s->read_at_ns = BOOK_NEVER;
	if (s->send_at_ns <= fan_now_ns())
		clients_send_again(s);
	/* What is put off from now on is looked at the next time. */
	s->look_again_ns = fan_now_ns() + LOOK_AGAIN_NS;
	book_expire(s->book, fan_now_ns());
	server_unlock(s);
	look_again(s, files);
	if (again)
		handle_events(s, files);
	clients_tell(s); /* last, for it may take long */
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
		client_set_due(c);
	}
	server_say(s, GUARD_LOG_ERR,
		   "the program closed the guard's descriptors: files are not guarded any more");
}

/* The program has closed what it does not know. False: that's the end. */
static bool heal(struct guard_server *s, int epoll)
{
	bool ok = true; /* if another listener was faster */

	server_lock(s);
	if (s->epoll == epoll) {
		s->timer_ns = BOOK_NEVER;
		ok = s->keeper && !open_waiting(s);
		s->healed = true;
		if (!ok && s->keeper)
			give_up(s);
	}
	server_unlock(s);
	clients_tell(s);
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
					       .call_state = client_call_state,
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

	server_lock(s);
	s->stop = true;
	LIST_FOREACH(c, &s->clients, link) {
		if (c->sock >= 0)
			shutdown(c->sock, SHUT_RDWR);
	}
	while (s->nclients)
		pthread_cond_wait(&s->gone, &s->lock);
	server_unlock(s);
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

	server_lock(s);
	book_count(s->book, ret_counters);
	ret_counters->clients = s->nclients;
	ret_counters->turned_away = atomic_load(&s->turned_away);
	ret_counters->events += reads;
	ret_counters->harmless += reads;
	server_unlock(s);
}
