/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A guard: answers those who are about to change files, and talks with the clients that
 * hold them. Used by daxleased(8), and by a thread of the library (inproc.h).
 */
#ifndef GUARD_SERVER_H
#define GUARD_SERVER_H

#include <stdbool.h>
#include <sys/types.h>

#include "proto.h"

enum guard_log {
	GUARD_LOG_ERR,
	GUARD_LOG_WARNING,
	GUARD_LOG_INFO,
	GUARD_LOG_DEBUG
};

struct guard_opts {
	unsigned int listeners; /* threads that answer, 1 to GUARD_MAX_LISTENERS */
	bool in_library;	/* the process is somebody else's; see keeper.h */
	/* Limits: 0 = none. Those for a user do not hold for the privileged. */
	unsigned int max_clients, max_clients_of_user;
	unsigned int max_holds, max_holds_of_user;
	/* A line without newline, from any thread, with a lock held: must not block. */
	void (*log)(void *arg, enum guard_log level, const char *line);
	/*
	 * May be NULL. All that needs more rights than the work itself is open, and no thread
	 * is started: the caller may give up rights. 0, or -errno, and there is no guard.
	 */
	int (*opened)(void *arg);
	void *arg;
};

#define GUARD_MAX_LISTENERS 16

/* Who is at the other end of a socket. */
struct guard_peer {
	pid_t pid;
	uid_t uid;
	bool privileged; /* may guard what others own; limits for users do not hold */
	int pidfd;	 /* the socket is let go when it ends; -1: tests */
};

struct guard_server;

/*
 * Makes it, and starts its listeners, which inherit the caller's signal mask. The errors of
 * fan_init() and opened(); -ENOMEM, -EMFILE; -EAGAIN: no threads.
 */
int guard_server_new(const struct guard_opts *opts, struct guard_server **ret_server);

/*
 * Serves a client until it goes, breaks the rules or guard_server_stop() is called; then
 * closes the socket. The caller's thread is away for as long. 0, or why it was turned
 * away.
 */
int guard_server_serve(struct guard_server *server, int sock, const struct guard_peer *peer);

/* All clients are let go; returns when they are. Calls that wait go on. */
void guard_server_stop(struct guard_server *server);

/* After guard_server_stop(), when no thread is in guard_server_serve(). */
void guard_server_free(struct guard_server *server);

/*
 * A client in the same process, without a socket; it is privileged. notify is called by a
 * listener, without a lock, when there is something for guard_client_receive(). It may be
 * away for long; the caller sees to it that not all listeners are at once.
 */
struct guard_client;

struct guard_client *guard_client_new(struct guard_server *server, void (*notify)(void *arg),
				      void *arg);
/* Waits for notify to return; not from there. */
void guard_client_free(struct guard_client *client);

/*
 * As a message over the socket. fd stays the caller's.
 * -ECONNRESET: out of memory, and what was held is lost.
 */
int guard_client_send(struct guard_client *client, struct guard_msg *msg, int fd);
/* At most max; returns how many. *ret_err: 0, there may be more; -EAGAIN: none; -ECONNRESET. */
unsigned int guard_client_receive(struct guard_client *client, struct guard_msg *ret_msgs,
				  unsigned int max, int *ret_err);

/*
 * How long a listener has been looking at the same task, in nanoseconds. The kernel lets that
 * take as long as the task is executing another program, and somebody can make that very
 * long; if all listeners are caught, nobody is answered.
 */
uint64_t guard_server_stuck(const struct guard_server *server);

/* How many of the threads asked for there are. */
unsigned int guard_server_listeners(const struct guard_server *server);

void guard_server_count(struct guard_server *server, struct guard_counters *ret_counters);

#endif
