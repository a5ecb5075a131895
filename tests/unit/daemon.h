/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What daxleased(8) does, by threads of the test, over the fake of guard/fan.h. */
#ifndef TEST_DAEMON_H
#define TEST_DAEMON_H

#include "server.h"

struct daemon;

/* Listens at path. Those who connect are this user; foreign: another one. */
struct daemon *daemon_start(const char *path, const struct guard_opts *opts, bool foreign);
/* All clients are let go, threads and descriptors are gone. */
void daemon_stop(struct daemon *d);
struct guard_counters daemon_count(struct daemon *d);

/* A listening socket by itself, for tests that play the guard. */
int daemon_listen(const char *path);

#endif
