/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What server.c and client.c share, and nobody else has: a server, its clients, and the
 * lock that is around both.
 */
#ifndef GUARD_SERVING_H
#define GUARD_SERVING_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "book.h"
#include "keeper.h"
#include "server.h"

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

/* ------------------------------------------------------------------------- */
/* server.c */

void server_say(struct guard_server *s, enum guard_log level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static inline void server_lock(struct guard_server *s)
{
	pthread_mutex_lock(&s->lock);
}

/* And the timer is set to what is due next. */
void server_unlock(struct guard_server *s);

/* ------------------------------------------------------------------------- */
/* client.c */

/* With the lock: there is something to be told. */
void client_set_due(struct guard_client *c);
void client_tell(struct guard_client *c, const struct guard_msg *msg);
/* With the lock: those who did not read are due again. */
void clients_send_again(struct guard_server *s);
/* No lock is held. In this process this may take long. */
void clients_tell(struct guard_server *s);
/* book_ops.call_state(), of a client that takes a file. */
enum call_state client_call_state(void *arg, const struct call *call);

#endif
