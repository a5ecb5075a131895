/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Who holds a lease: a process of its own, or a thread of this one. What it notes can be
 * read from here at any time.
 */
#ifndef VM_HOLDER_H
#define VM_HOLDER_H

#include <pthread.h>
#include <stdatomic.h>

#include "pin.h"

struct holder_how {
	unsigned int flags; /* LAYOUT_* */
	enum pin_kind pins;
	size_t pinned;		/* so many bytes from the start */
	unsigned int answer_ms; /* after so long it drops its pins and gives back; 0: never */
	bool old_spelling;
};

enum holder_order {
	ORDER_NONE,
	ORDER_DROP, /* the pins */
	ORDER_GIVE, /* drop them and give the lease back */
	ORDER_END,
};

struct holder {
	struct holder_how how;
	char path[256];
	bool is_thread;
	pid_t pid;
	pthread_t thread;

	/* Its own. */
	struct file file;
	struct pinner pinner;
	struct pin pin;
	struct snapshot before, during;

	/* What it tells: */
	atomic_bool ready;
	atomic_uint signals;
	atomic_int give_result; /* of the last F_UNLCK, 1: none yet */
	atomic_ullong signal_ns, unpin_ns, gave_ns;
	atomic_int order;
	/* What was wrong, for the case to fail with: a check here ends only this process. */
	char problem[160];
};

/* In memory that children share; for good. */
struct holder *holder_new(const char *path, const struct holder_how *how);
/* Come back when the lease is held and the pins are there. */
void holder_start_process(struct holder *h);
void holder_start_thread(struct holder *h);
void holder_order(struct holder *h, enum holder_order order);
/* Ends it; fails the case if it noted a problem or not just so many signals. */
void holder_end(struct holder *h, unsigned int signals);

#endif
