/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Threads of ours inherit the mask they are made with: no handler of the program runs there. */
#ifndef GUARD_MASK_H
#define GUARD_MASK_H

#include <pthread.h>
#include <signal.h>

/* To be undone by pthread_sigmask(SIG_SETMASK, ret_old, NULL). */
static inline void mask_signals(sigset_t *ret_old)
{
	sigset_t all;

	sigfillset(&all);
	/* But these are about what the thread itself does: blocked, they kill. */
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGSEGV);
	pthread_sigmask(SIG_SETMASK, &all, ret_old);
}

#endif
