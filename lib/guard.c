// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "guard.h"
#include "inproc.h"
#include "proto.h"
#include "sock.h"
#include "sys.h"
#include "util.h"

#define PATIENCE_NS (10 * NSEC_PER_SEC)
/* How long taking waits for a change that is under way, and between two attempts. */
#define CHANGE_NS (300 * NSEC_PER_MSEC)
#define PAUSE_NS (NSEC_PER_MSEC / 2)

/* One file, as the guard knows it. */
struct hold {
	TAILQ_ENTRY(hold) link; /* guard->broken, if is_broken_listed */
	enum {
		GONE, /* the guard does not know it */
		TAKING,
		REFUSED, /* error says why */
		HELD,
		BREAKING,
		LOST,
		KEPT, /* given back, to be taken again */
	} state;
	bool is_listed;
	bool early_break, early_loss; /* told before the answer to taking it */
	unsigned int unanswered;      /* questions that nobody waits for any more */
	int fd;
	int error;
	uint64_t asked_ns;
	uint64_t deadline_ns; /* of a break, by the guard's clock; 0: none */
	int openers;
	pid_t opener;
};

struct guard {
	char *path; /* constant from here */
	struct log *log;
	void (*notify)(void *arg);
	void *arg; /* to here */

	pthread_mutex_t lock; /* all below */
	pthread_cond_t changed;
	bool asking; /* somebody waits for an answer: one at a time */
	int sock;    /* -1: not connected */
	int wake;    /* eventfd: the answer is there, whoever received it */
	/* In the process, instead of sock; they stay once they are there. */
	struct guard_server *server;
	struct guard_client *client;
	atomic_uint listeners; /* asked for without the lock */
	int inproc_error;      /* why there is none: that will not change */
	bool deaf;	       /* it could not tell us something */
	bool same_clock;       /* a daemon may be in another time namespace */
	struct hold **by_fd;
	size_t nfds;
	TAILQ_HEAD(, hold) broken;
	char reason[192];
};

struct guard *guard_new(const char *socket_path, struct log *log, void (*notify)(void *arg),
			void *arg)
{
	struct guard *g = sys_calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	if (socket_path) {
		g->path = strdup(socket_path);
		if (!g->path) {
			free(g);
			return NULL;
		}
	}
	g->log = log;
	g->notify = notify;
	g->arg = arg;
	g->sock = g->wake = -1;
	TAILQ_INIT(&g->broken);
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->changed, NULL);
	return g;
}

/* ------------------------------------------------------------------------- */
/* Holds */

static struct hold *find_hold(const struct guard *g, int fd)
{
	return fd >= 0 && (size_t)fd < g->nfds ? g->by_fd[fd] : NULL;
}

static int reserve(struct guard *g, int fd)
{
	size_t n = g->nfds ? g->nfds : 64;
	struct hold **by_fd;

	if ((size_t)fd < g->nfds)
		return 0;
	while (n <= (size_t)fd)
		n *= 2;
	by_fd = sys_realloc(g->by_fd, n * sizeof(struct hold *));
	if (!by_fd)
		return -ENOMEM;
	memset(by_fd + g->nfds, 0, (n - g->nfds) * sizeof(struct hold *));
	g->by_fd = by_fd;
	g->nfds = n;
	return 0;
}

static struct hold *make_hold(struct guard *g, int fd)
{
	struct hold *h = find_hold(g, fd);

	if (h || reserve(g, fd))
		return h;
	h = sys_calloc(1, sizeof(*h));
	if (h) {
		h->fd = fd;
		g->by_fd[fd] = h;
	}
	return h;
}

static void list_broken(struct guard *g, struct hold *h)
{
	if (h->is_listed)
		return;
	h->is_listed = true;
	TAILQ_INSERT_TAIL(&g->broken, h, link);
}

static void unlist(struct guard *g, struct hold *h)
{
	if (h->is_listed)
		TAILQ_REMOVE(&g->broken, h, link);
	h->is_listed = false;
}

static void free_hold(struct guard *g, struct hold *h)
{
	unlist(g, h);
	g->by_fd[h->fd] = NULL;
	free(h);
}

static void set_reason(struct guard *g, const char *text)
{
	snprintf(g->reason, sizeof(g->reason), "%s", text);
}

/* ------------------------------------------------------------------------- */
/* What the guard says */

static void lose(struct guard *g, struct hold *h)
{
	switch (h->state) {
	case TAKING:
		h->state = REFUSED;
		h->error = -ECONNRESET;
		break;
	case HELD:
	case BREAKING:
		h->state = LOST;
		list_broken(g, h);
		break;
	case KEPT:
		h->state = GONE;
		break;
	default:
		break;
	}
}

static bool is_connected(const struct guard *g)
{
	return g->sock >= 0 || (g->client && !g->deaf);
}

/* A guard in the process is kept: we may be one of its threads. */
static void disconnect(struct guard *g)
{
	if (!is_connected(g))
		return;
	if (g->sock >= 0)
		sys_close(g->sock);
	g->sock = -1;
	g->deaf = g->client;
	for (size_t i = 0; i < g->nfds; i++) {
		if (!g->by_fd[i])
			continue;
		g->by_fd[i]->unanswered = 0;
		lose(g, g->by_fd[i]);
	}
	if (g->wake >= 0)
		sys_event_set(g->wake);
}

static int send_give_back(struct guard *g, int fd, bool keep)
{
	struct guard_msg msg = { .type = GUARD_GIVE_BACK,
				 .id = (uint32_t)fd,
				 .flags = keep ? GUARD_KEEP : 0 };
	int err = g->client    ? guard_client_send(g->client, &msg, -1) :
		  g->sock >= 0 ? sock_send(g->sock, &msg, -1) :
				 -ECONNRESET;

	if (err == -ECONNRESET)
		disconnect(g);
	return err;
}

static void taken(struct guard *g, struct hold *h, const struct guard_msg *msg)
{
	const bool late = h && h->unanswered;

	if (late)
		h->unanswered--;
	if (!h || late || h->state != TAKING) { /* nobody waits for it any more */
		if (!msg->error)
			send_give_back(g, (int)msg->id, false);
		return;
	}
	h->error = msg->error;
	g->same_clock = msg->time_ns >= h->asked_ns && msg->time_ns <= sys_now_ns();
	h->state = msg->error ? REFUSED : h->early_loss ? LOST : h->early_break ? BREAKING : HELD;
	h->openers = msg->openers == GUARD_UNKNOWN ? -1 : (int)msg->openers;
	h->opener = msg->opener;
	if (msg->error)
		set_reason(g, msg->text);
	else if (h->state != HELD)
		list_broken(g, h);
	sys_event_set(g->wake);
}

static void handle(struct guard *g, const struct guard_msg *msg)
{
	struct hold *h = msg->id <= INT_MAX ? find_hold(g, (int)msg->id) : NULL;

	switch (msg->type) {
	case GUARD_TAKEN:
		taken(g, h, msg);
		break;
	case GUARD_BREAK:
		if (h)
			h->deadline_ns = msg->time_ns;
		if (h && h->state == TAKING)
			h->early_break = true;
		if (h && h->state == HELD) {
			h->state = BREAKING;
			list_broken(g, h);
		}
		break;
	case GUARD_LOST:
		if (h && h->state == TAKING)
			h->early_loss = true;
		if (h && (h->state == HELD || h->state == BREAKING))
			lose(g, h);
		break;
	default:
		break;
	}
}

static unsigned int receive(struct guard *g, struct guard_msg *ret_msgs, int *ret_err)
{
	if (!g->client)
		return sock_receive_all(g->sock, ret_msgs, ret_err);
	return guard_client_receive(g->client, ret_msgs, SOCK_AT_ONCE, ret_err);
}

/* All that it has said so far. */
static void hear(struct guard *g)
{
	struct guard_msg msgs[SOCK_AT_ONCE];
	int err = 0;

	while (is_connected(g) && !err) {
		unsigned int n = receive(g, msgs, &err);

		for (unsigned int i = 0; i < n; i++)
			handle(g, &msgs[i]);
		if (err == -EINTR)
			err = 0;
	}
	if (err && err != -EAGAIN)
		disconnect(g);
}

/* ------------------------------------------------------------------------- */
/* Connecting */

static void log_of_guard(void *arg, enum guard_log level, const char *line)
{
	static const enum daxlease_log_level levels[] = {
		[GUARD_LOG_ERR] = DAXLEASE_LOG_ERR,
		[GUARD_LOG_WARNING] = DAXLEASE_LOG_WARNING,
		[GUARD_LOG_INFO] = DAXLEASE_LOG_INFO,
		[GUARD_LOG_DEBUG] = DAXLEASE_LOG_DEBUG,
	};

	if (arg)
		log_add(arg, levels[level], "guard: %s", line);
}

static const char *why_not_here(int err)
{
	switch (err) {
	case -EPERM:
		return "no CAP_SYS_ADMIN (a container's own does not count)";
	case -EINVAL:
	case -ENOSYS:
		return "the kernel has no pre-content events (Linux >= 6.14 with "
		       "CONFIG_FANOTIFY_ACCESS_PERMISSIONS has)";
	default:
		return strerror(-err);
	}
}

static int connect_inproc(struct guard *g)
{
	unsigned int listeners = 0;

	if (g->client)
		return g->deaf ? -ENOMEM : 0;
	if (!g->inproc_error)
		g->inproc_error = guard_inproc_start(log_of_guard, g->log, g->notify, g->arg,
						     &g->server, &g->client, &listeners);
	g->listeners = listeners;
	return g->inproc_error;
}

static int connect_daemon(struct guard *g, const char *path)
{
	g->sock = sock_connect(path);
	return g->sock < 0 ? g->sock : 0;
}

/* In the process if it may, else to the daemon. */
static int connect_somehow(struct guard *g)
{
	const char *path = g->path ? g->path : GUARD_SOCKET;
	int here = g->path && *g->path ? 0 : connect_inproc(g);
	int there;

	if (is_connected(g))
		return 0;
	there = *path ? connect_daemon(g, path) : -ENOENT;
	if (!there)
		return 0;
	snprintf(g->reason, sizeof(g->reason), "%s%sno daxleased at %s (%s)",
		 here ? why_not_here(here) : "", here ? ", and " : "", *path ? path : "any socket",
		 strerror(-there));
	return -EOPNOTSUPP;
}

/* Signals come as those of a lease do. */
static int set_up(struct guard *g, const struct lease_notice *notice)
{
	int err = g->client ? 0 : sys_set_owner(g->sock, notice->owner);

	if (g->client)
		return 0;
	if (!err)
		err = sys_set_signal(g->sock, notice->signo);
	if (!err)
		err = sys_set_async(g->sock);
	/* Not closed before the end, for some thread may be waiting for it. */
	if (!err && g->wake < 0)
		g->wake = sys_eventfd();
	return err ? err : g->wake < 0 ? g->wake : 0;
}

static int connect_if_needed(struct guard *g, const struct lease_notice *notice)
{
	int err;

	hear(g);
	if (is_connected(g))
		return 0;
	err = connect_somehow(g);
	if (err)
		return err;
	err = set_up(g, notice);
	if (err)
		disconnect(g);
	return err;
}

/* ------------------------------------------------------------------------- */
/* Taking */

static void begin_asking(struct guard *g)
{
	while (g->asking)
		pthread_cond_wait(&g->changed, &g->lock);
	g->asking = true;
}

static void end_asking(struct guard *g)
{
	g->asking = false;
	pthread_cond_broadcast(&g->changed);
}

/* The lock is dropped meanwhile; another thread may receive the answer. */
static void wait_for_answer(struct guard *g, struct hold *h)
{
	const uint64_t until = sys_now_ns() + PATIENCE_NS;

	hear(g);
	while (h->state == TAKING && sys_now_ns() < until) {
		const int fds[] = { g->sock, g->wake };

		pthread_mutex_unlock(&g->lock);
		sys_wait_readable(fds, 2, until);
		pthread_mutex_lock(&g->lock);
		sys_event_clear(g->wake);
		hear(g);
	}
}

static int answer(struct guard *g, struct hold *h)
{
	switch (h->state) {
	case TAKING:
		h->state = GONE;
		h->unanswered++;
		set_reason(g, "the guard does not answer");
		return -EOPNOTSUPP;
	case REFUSED:
		h->state = GONE;
		if (h->error == -ECONNRESET || h->error == -EPROTONOSUPPORT)
			set_reason(g, h->error == -ECONNRESET ? "the guard went away" :
								"the guard speaks another version");
		switch (h->error) {
		case -EAGAIN:
		case -EINPROGRESS:
		case -EACCES:
		case -EBADF:
			return h->error;
		default:
			return -EOPNOTSUPP;
		}
	default:
		return 0;
	}
}

/* In the process it may wait a little: not with the lock. */
static int send_take(struct guard *g, struct guard_msg *msg, int fd)
{
	int err;

	if (!g->client)
		return sock_send(g->sock, msg, fd);
	pthread_mutex_unlock(&g->lock);
	err = guard_client_send(g->client, msg, fd);
	pthread_mutex_lock(&g->lock);
	return err;
}

static int ask(struct guard *g, int fd, bool exclusive)
{
	struct guard_msg msg = { .type = GUARD_TAKE,
				 .id = (uint32_t)fd,
				 .flags = exclusive ? GUARD_EXCLUSIVE : 0 };
	struct hold *h = make_hold(g, fd);
	int err;

	if (!h)
		return -ENOMEM;
	h->state = TAKING;
	h->early_break = h->early_loss = false;
	h->asked_ns = sys_now_ns();
	err = send_take(g, &msg, fd);
	if (err) {
		h->state = GONE;
		set_reason(g, err == -EAGAIN ? "the guard does not read" : strerror(-err));
		return err == -EMFILE ? err : -EOPNOTSUPP;
	}
	wait_for_answer(g, h);
	return answer(g, h);
}

static int take(struct guard *g, int fd, bool exclusive, const struct lease_notice *notice)
{
	int err;

	pthread_mutex_lock(&g->lock);
	begin_asking(g);
	g->reason[0] = '\0';
	err = connect_if_needed(g, notice);
	if (!err)
		err = ask(g, fd, exclusive);
	end_asking(g);
	pthread_mutex_unlock(&g->lock);
	return err;
}

/*
 * Who was let through a moment ago is mostly about to return. Not waited for while nobody
 * else can ask: there may be many files, and breaks of others.
 */
int guard_take(struct guard *g, int fd, bool exclusive, bool patient,
	       const struct lease_notice *notice)
{
	const uint64_t until = sys_now_ns() + (patient ? CHANGE_NS : 0);
	int err;

	while ((err = take(g, fd, exclusive, notice)) == -EINPROGRESS && sys_now_ns() < until)
		sys_sleep(PAUSE_NS);
	return err == -EINPROGRESS ? -EAGAIN : err;
}

/* ------------------------------------------------------------------------- */
/* While it is held, and after */

enum lease_query guard_query(struct guard *g, int fd)
{
	const struct hold *h;
	bool held;

	pthread_mutex_lock(&g->lock);
	h = find_hold(g, fd);
	held = h && h->state == HELD;
	pthread_mutex_unlock(&g->lock);
	return held ? LEASE_HELD : LEASE_BREAKING;
}

uint64_t guard_deadline(struct guard *g, int fd)
{
	uint64_t ns = LEASE_NO_DEADLINE;
	const struct hold *h;

	pthread_mutex_lock(&g->lock);
	h = find_hold(g, fd);
	if (g->same_clock && h && h->state == BREAKING)
		ns = h->deadline_ns;
	pthread_mutex_unlock(&g->lock);
	return ns;
}

/* And we have not heard of it yet. Somebody who is gone cannot be told, which is as good. */
static bool may_be_lost(const struct guard *g, const struct hold *h)
{
	return h->state != BREAKING || !g->same_clock ||
	       (h->deadline_ns && sys_now_ns() >= h->deadline_ns);
}

static int give_back(struct guard *g, struct hold *h, bool again)
{
	int err;

	if (may_be_lost(g, h))
		hear(g);
	err = send_give_back(g, h->fd, again);
	if (err && err != -ECONNRESET)
		return -EAGAIN;
	err = h->state == LOST ? -ESTALE : 0;
	h->state = again && is_connected(g) ? KEPT : GONE;
	return err;
}

int guard_give_back(struct guard *g, int fd, bool again)
{
	struct hold *h;
	int err;

	pthread_mutex_lock(&g->lock);
	h = find_hold(g, fd);
	err = !h || h->state == GONE ? -ESTALE : give_back(g, h, again);
	pthread_mutex_unlock(&g->lock);
	return err;
}

void guard_forget(struct guard *g, int fd)
{
	struct hold *h;

	pthread_mutex_lock(&g->lock);
	h = find_hold(g, fd);
	if (h && h->state != GONE)
		send_give_back(g, fd, false);
	if (h && h->unanswered) { /* the number may be used again before the answer comes */
		unlist(g, h);
		h->state = GONE;
	} else if (h) {
		free_hold(g, h);
	}
	pthread_mutex_unlock(&g->lock);
}

unsigned int guard_broken(struct guard *g, bool all, int *ret_fds, unsigned int max)
{
	struct hold *h;
	unsigned int n = 0;

	pthread_mutex_lock(&g->lock);
	if (all)
		hear(g);
	while (n < max && (h = TAILQ_FIRST(&g->broken))) {
		unlist(g, h);
		ret_fds[n++] = h->fd;
	}
	pthread_mutex_unlock(&g->lock);
	return n;
}

int guard_openers(struct guard *g, int fd, pid_t *ret_pid)
{
	const struct hold *h;
	int openers = -1;

	pthread_mutex_lock(&g->lock);
	h = find_hold(g, fd);
	if (h) {
		openers = h->openers;
		*ret_pid = h->opener;
	}
	pthread_mutex_unlock(&g->lock);
	return openers;
}

unsigned int guard_listeners(struct guard *g)
{
	return g->listeners;
}

void guard_reason(struct guard *g, char *ret_text, size_t size)
{
	pthread_mutex_lock(&g->lock);
	snprintf(ret_text, size, "%s", g->reason);
	pthread_mutex_unlock(&g->lock);
}

void guard_free(struct guard *g)
{
	if (!g)
		return;
	pthread_mutex_lock(&g->lock);
	disconnect(g);
	pthread_mutex_unlock(&g->lock);
	if (g->client)
		guard_inproc_stop(g->server, g->client);
	for (size_t i = 0; i < g->nfds; i++) {
		if (g->by_fd[i])
			free_hold(g, g->by_fd[i]);
	}
	if (g->wake >= 0)
		sys_close(g->wake);
	pthread_cond_destroy(&g->changed);
	pthread_mutex_destroy(&g->lock);
	free(g->by_fd);
	free(g->path);
	free(g);
}
