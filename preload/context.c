// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "context.h"
#include "say.h"
#include "shim.h"

/* Protects both; taken before all other locks. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct daxlease_ctx *ctx;
static pid_t ctx_pid;

void context_lock(void)
{
	pthread_mutex_lock(&lock);
}

void context_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

void context_forget(void)
{
	ctx = NULL;
}

/*
 * The signal goes to the library's thread alone, so handlers do not matter. But that thread
 * waits by sigtimedwait(2), which takes those for the whole process as well: of a program that
 * waits for signals itself, and for that blocks them. So one is taken that is not blocked, and
 * if there is a choice, one without a handler.
 */
static int choose_signal(void)
{
	int top = SIGRTMAX, second = 0;
	sigset_t blocked;

	pthread_sigmask(SIG_BLOCK, NULL, &blocked);
	for (int i = 0; i <= top - SIGRTMIN; i++) {
		/* From SIGRTMAX-2 down, and then the two above that. */
		int signo = top - 2 - i < SIGRTMIN ? top - (top - SIGRTMIN - i) : top - 2 - i;
		struct sigaction action;

		if (sigismember(&blocked, signo))
			continue;
		if (!sigaction(signo, NULL, &action) && action.sa_handler == SIG_DFL)
			return signo;
		second = second ? second : signo;
	}
	if (second)
		return second;
	say(DAXLEASE_LOG_WARNING,
	    "the program blocks all real-time signals: if it waits for signal %d that is sent to the "
	    "process, it may miss one",
	    top - 2);
	return top - 2;
}

static int make(void)
{
	struct daxlease_ctx_opts opts = {
		.size = sizeof(opts),
		.kind = shim_settings.kind,
		.signo = choose_signal(),
		.log_fn = say_line,
		.log_level = DAXLEASE_LOG_DEBUG,
		.guard_socket = shim_settings.guard_socket,
		.flags = DAXLEASE_CTX_PUBLISH,
	};
	int err = daxlease_ctx_new(&opts, &ctx);

	if (err) {
		ctx = NULL;
		say(DAXLEASE_LOG_ERR, "no context of libdaxlease: %s", strerror(-err));
		return err;
	}
	ctx_pid = getpid();
	return 0;
}

int context_get(struct daxlease_ctx **ret_ctx)
{
	int err = 0;

	context_lock();
	if (!ctx)
		err = make();
	/* A child of vfork(2) or a bare clone(2), of which no handler of ours has heard. */
	else if (ctx_pid != getpid())
		err = -ECHILD;
	if (!err)
		*ret_ctx = ctx;
	context_unlock();
	return err;
}
