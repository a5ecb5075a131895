/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Messages over the socket between a guard and its clients; -errno on failure. */
#ifndef GUARD_SOCK_H
#define GUARD_SOCK_H

#include <stdbool.h>

#include "proto.h"

/* To a guard at this path; never waits. -EAGAIN: too many others do. -ENAMETOOLONG. */
int sock_connect(const char *path);

/* Never waits: -EAGAIN if the other side does not read. fd -1: none goes along. */
int sock_send(int sock, struct guard_msg *msg, int fd);

/*
 * The next message, and the descriptor that came along (-1: none), which is the
 * caller's. -EAGAIN: none there (or it waits for one, if wait). -ECONNRESET: the other
 * side is gone. -EPROTO: not a message; -EPROTONOSUPPORT: of another version.
 */
int sock_receive(int sock, bool wait, struct guard_msg *ret_msg, int *ret_fd);

/*
 * All messages that are there, or the first SOCK_AT_ONCE; descriptors that come along are
 * closed. Returns how many; *ret_err is what came after them: 0 there may be others, -EAGAIN
 * nothing, or as above.
 */
#define SOCK_AT_ONCE 4
unsigned int sock_receive_all(int sock, struct guard_msg ret_msgs[SOCK_AT_ONCE], int *ret_err);

#endif
