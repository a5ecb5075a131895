// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * daxleased: a guard for programs that may not have one of their own. The main thread
 * accepts; each client has a thread, which is in guard_server_serve() as long as the
 * client is there.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harden.h"
#include "journal.h"
#include "listen.h"
#include "options.h"
#include "peer.h"
#include "status.h"

#define THREAD_STACK (256 * 1024)
#define SPARE_THREADS 16 /* for clients that the guard itself turns away, and counts */
#define PAUSE_MS 100	 /* without descriptors or memory, before the next accept() */
#define STOP_SECONDS 5
#define CHECK_MS 1000	    /* whether a listener is stuck */
#define STUCK_NS 3000000000 /* so long */
#define FDS_OF_OUR_OWN 64

enum status {
	STATUS_OK,
	STATUS_FAILED,
	STATUS_USAGE,
	STATUS_NOBODY
};

struct daemon {
	struct options options; /* constant from here */
	struct listener listener;
	struct guard_server *server;
	pthread_attr_t attr;
	int signals;	    /* to here */
	bool harden_failed; /* the main thread's */
	bool pause;	    /* likewise */

	pthread_mutex_t lock; /* all below; nothing else is taken under it */
	pthread_cond_t ended;
	unsigned int threads;
};

struct client {
	struct daemon *daemon;
	int sock;
};

/* ------------------------------------------------------------------------- */
/* Clients */

static bool enter(struct daemon *d)
{
	bool ok;

	pthread_mutex_lock(&d->lock);
	ok = d->threads < d->options.guard.max_clients + SPARE_THREADS;
	d->threads += ok;
	pthread_mutex_unlock(&d->lock);
	return ok;
}

static void leave(struct daemon *d)
{
	pthread_mutex_lock(&d->lock);
	d->threads--;
	pthread_cond_signal(&d->ended);
	pthread_mutex_unlock(&d->lock);
}

static void complain_of_peer(int err)
{
	char line[128];

	if (err == -ESRCH || err == -EINVAL) /* it is dead already */
		return;
	snprintf(line, sizeof(line), "a client was turned away: who it is cannot be told: %s%s",
		 strerror(-err), err == -EMFILE ? ": raise RLIMIT_NOFILE" : "");
	journal_limited(GUARD_LOG_WARNING, line);
}

static void *client_main(void *arg)
{
	const struct client c = *(struct client *)arg;
	struct guard_peer peer;
	int err;

	free(arg);
	err = peer_of(c.sock, &peer);
	if (!err) {
		guard_server_serve(c.daemon->server, c.sock, &peer);
	} else {
		close(c.sock);
		complain_of_peer(err);
	}
	leave(c.daemon);
	return NULL;
}

static int start_client(struct daemon *d, int sock)
{
	struct client *c = malloc(sizeof(*c));
	pthread_t thread;
	int err;

	if (!c)
		return -ENOMEM;
	*c = (struct client){ .daemon = d, .sock = sock };
	err = -pthread_create(&thread, &d->attr, client_main, c);
	if (err)
		free(c);
	return err;
}

static void handle_client(struct daemon *d, int sock)
{
	int err = -EUSERS;

	if (enter(d)) {
		err = start_client(d, sock);
		if (err)
			leave(d);
	}
	if (!err)
		return;
	close(sock);
	journal_limited(GUARD_LOG_WARNING, err == -EUSERS ?
						   "a client was turned away: too many" :
						   "a client was turned away: no thread for it");
}

/* Those that come and go must not keep us from signals: a few at once. */
static void accept_clients(struct daemon *d)
{
	for (int i = 0; i < 64; i++) {
		int sock = accept4(d->listener.fd, NULL, NULL, SOCK_CLOEXEC);

		if (sock >= 0) {
			handle_client(d, sock);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno == EAGAIN)
			return;
		d->pause = true;
		journal_limited(GUARD_LOG_ERR,
				errno == EMFILE ? "no client can be accepted: raise RLIMIT_NOFILE" :
						  "no client can be accepted");
		return;
	}
}

/* ------------------------------------------------------------------------- */
/* Running */

static void log_counters(struct daemon *d)
{
	struct guard_counters counters;

	guard_server_count(d->server, &counters);
	status_log(&counters);
}

/* Whether to go on. */
static bool handle_signal(struct daemon *d)
{
	struct signalfd_siginfo info;

	if (read(d->signals, &info, sizeof(info)) != sizeof(info))
		return true;
	if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
		return false;
	log_counters(d);
	return true;
}

/*
 * Better no guard than one that answers nobody: when this process ends, the kernel lets all
 * go on, and their holders are told by the end of the connection.
 */
static void end_if_stuck(struct daemon *d)
{
	if (guard_server_stuck(d->server) < STUCK_NS)
		return;
	journal_say(GUARD_LOG_ERR,
		    "somebody's task cannot be looked at, as it has been executing "
		    "another program for %d s: ending, so that others go on",
		    (int)(STUCK_NS / 1000000000u));
	_exit(STATUS_FAILED);
}

static void run(struct daemon *d)
{
	for (;;) {
		struct pollfd fds[] = {
			{ .fd = d->signals, .events = POLLIN },
			{ .fd = d->pause ? -1 : d->listener.fd, .events = POLLIN },
		};
		int n = poll(fds, 2, d->pause ? PAUSE_MS : CHECK_MS);

		d->pause = false;
		end_if_stuck(d);
		if (n < 1)
			continue;
		if (fds[0].revents && !handle_signal(d))
			return;
		if (fds[1].revents)
			accept_clients(d);
	}
}

/* ------------------------------------------------------------------------- */
/* Start and stop */

/* Whatever is opened later must not become standard error. */
static void fill_standard_fds(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

/* All are blocked, also in the threads: a guard that is stopped stops others. */
static int open_signals(int *ret_fd)
{
	sigset_t all, ours;
	int fd;

	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGSEGV);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	sigemptyset(&ours);
	sigaddset(&ours, SIGTERM);
	sigaddset(&ours, SIGINT);
	sigaddset(&ours, SIGHUP);
	sigaddset(&ours, SIGUSR1);
	fd = signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static rlim_t more(rlim_t a, rlim_t b)
{
	return a > b ? a : b;
}

/* Each file that is held, and each call that waits, has a descriptor. */
static void raise_limit(const struct guard_opts *guard)
{
	const rlim_t want =
		(rlim_t)guard->max_holds + 2 * (rlim_t)guard->max_clients + FDS_OF_OUR_OWN;
	struct rlimit limit, raised;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	raised.rlim_cur = raised.rlim_max = more(limit.rlim_max, want);
	if (!setrlimit(RLIMIT_NOFILE, &raised)) /* it takes CAP_SYS_RESOURCE to raise that one */
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < want)
		journal_say(GUARD_LOG_WARNING,
			    "%llu descriptors are too few for the limits, which want %llu: raise "
			    "RLIMIT_NOFILE, or lower --max-files",
			    (unsigned long long)limit.rlim_cur, (unsigned long long)want);
}

static int on_opened(void *arg)
{
	struct daemon *d = arg;
	int err;

	listen_notify();
	err = harden(d->listener.path);
	d->harden_failed = err;
	return err;
}

static void on_log(void *arg, enum guard_log level, const char *line)
{
	(void)arg;
	journal_limited(level, line);
}

static const char *why_no_guard(int err)
{
	switch (err) {
	case -EINVAL:
	case -ENOSYS:
		return "the kernel has no pre-content events: Linux >= 6.14 with "
		       "CONFIG_FANOTIFY_ACCESS_PERMISSIONS has";
	case -EPERM:
		return "fanotify_init(2) is forbidden although CAP_SYS_ADMIN is there: by a filter "
		       "of system calls, or as this is a user namespace: start it outside of the "
		       "container";
	case -EMFILE:
		return "too many fanotify groups, or descriptors: raise "
		       "/proc/sys/fs/fanotify/max_user_groups or RLIMIT_NOFILE";
	default:
		return strerror(-err);
	}
}

static int start_guard(struct daemon *d)
{
	struct guard_opts opts = d->options.guard;
	int err;

	opts.log = on_log;
	opts.opened = on_opened;
	opts.arg = d;
	err = guard_server_new(&opts, &d->server);
	if (err && !d->harden_failed)
		journal_say(GUARD_LOG_ERR, "files cannot be guarded: %s", why_no_guard(err));
	return err;
}

static int start(struct daemon *d)
{
	int err;

	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->ended, NULL);
	pthread_attr_init(&d->attr);
	pthread_attr_setdetachstate(&d->attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&d->attr, THREAD_STACK);
	err = open_signals(&d->signals);
	if (err) {
		journal_say(GUARD_LOG_ERR, "signals: %s", strerror(-err));
		return err;
	}
	raise_limit(&d->options.guard);
	err = listen_open(d->options.socket, &d->listener);
	if (err)
		return err;
	err = start_guard(d);
	if (err)
		listen_close(&d->listener);
	return err;
}

/* A client's thread may be waiting for a filesystem that does not answer. */
static void limit_stop(void)
{
	sigset_t set;

	alarm(STOP_SECONDS);
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* New clients are told at once that nobody is there; then those that are here go. */
static void stop(struct daemon *d)
{
	listen_close(&d->listener);
	limit_stop();
	guard_server_stop(d->server);
	pthread_mutex_lock(&d->lock);
	while (d->threads)
		pthread_cond_wait(&d->ended, &d->lock);
	pthread_mutex_unlock(&d->lock);
	guard_server_free(d->server);
}

static enum status serve(const struct options *options)
{
	static struct daemon d; /* threads that end may still be in leave() */

	d.options = *options;
	fill_standard_fds();
	journal_open(options->level);
	if (chdir("/") < 0 || harden_check() || start(&d))
		return STATUS_FAILED;
	journal_say(GUARD_LOG_INFO, "version %s, at %s, %u listeners", DAXLEASED_VERSION,
		    d.listener.path ? d.listener.path : "a socket of systemd",
		    options->guard.listeners);
	run(&d);
	stop(&d);
	journal_say(GUARD_LOG_INFO, "stopped");
	return STATUS_OK;
}

/* Whoever watches the counters would take the part that arrived for the whole. */
static int written(void)
{
	if (!fflush(stdout) && !ferror(stdout))
		return STATUS_OK;
	fprintf(stderr, "daxleased: standard output cannot be written to\n");
	return STATUS_FAILED;
}

int main(int argc, char **argv)
{
	struct options options;
	int err;

	if (options_parse(argc, argv, &options))
		return STATUS_USAGE;
	switch (options.action) {
	case ACTION_RUN:
		return serve(&options);
	case ACTION_STATUS:
		err = status_ask(options.socket);
		return err ? STATUS_NOBODY : written();
	default:
		return written();
	}
}
