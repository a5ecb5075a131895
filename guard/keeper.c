// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "keeper.h"
#include "mask.h"

#define THREAD_STACK (256 * 1024)

/* <linux/pidfd.h> of Linux 6.9, and numbers that old headers lack. */
#ifndef PIDFD_THREAD
#define PIDFD_THREAD 0x80 /* O_EXCL */
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

struct keeper {
	int fd;		  /* in the thread's table; constant from here */
	pthread_t thread; /* to here */
	atomic_int thread_fd;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool started, end;
	int (*fn)(int fd, void *arg); /* to be called, NULL: nothing */
	void *arg;
	bool calling; /* somebody waits for its result */
	int result;
	int err;
	pid_t tid;
};

/* ------------------------------------------------------------------------- */
/* Nobody has a borrowed descriptor while a child is made */

static pthread_rwlock_t borrowed = PTHREAD_RWLOCK_INITIALIZER;

static void before_fork(void)
{
	pthread_rwlock_wrlock(&borrowed);
}

static void after_fork(void)
{
	pthread_rwlock_unlock(&borrowed);
}

static void make_lock(void)
{
	pthread_rwlockattr_t attr;

	/* By default those who borrow could keep a fork waiting for ever. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&borrowed, &attr);
	pthread_rwlockattr_destroy(&attr);
}

/* The child's thread has another number, and is not who locked it. */
static void watch_forks(void)
{
	make_lock();
	pthread_atfork(before_fork, after_fork, make_lock);
}

/* ------------------------------------------------------------------------- */
/* The thread */

static int own_table(int keep)
{
	if (unshare(CLONE_FILES) < 0)
		return -errno;
		/*
	 * With them the program could not close anything for good. The sanitizers, though,
	 * report to standard error.
	 */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	if (keep > 0)
		syscall(SYS_close_range, 0, keep - 1, 0);
#endif
	return syscall(SYS_close_range, keep + 1, ~0u, 0) < 0 ? -errno : 0;
}

static void *keep_main(void *arg)
{
	struct keeper *k = arg;
	int err = own_table(k->fd);

	pthread_mutex_lock(&k->lock);
	k->err = err;
	k->tid = (pid_t)syscall(SYS_gettid);
	k->started = true;
	pthread_cond_signal(&k->changed);
	while (!err && !k->end) {
		if (k->fn) {
			k->result = k->fn(k->fd, k->arg);
			k->fn = NULL;
			pthread_cond_broadcast(&k->changed);
		}
		pthread_cond_wait(&k->changed, &k->lock);
	}
	pthread_mutex_unlock(&k->lock);
	return NULL; /* the table goes with the thread */
}

static int start_thread(struct keeper *k)
{
	pthread_attr_t attr;
	sigset_t old;
	int err;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	mask_signals(&old);
	err = pthread_create(&k->thread, &attr, keep_main, k);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return -err;
}

static int open_thread(struct keeper *k)
{
	int fd = (int)syscall(SYS_pidfd_open, k->tid, PIDFD_THREAD);

	if (fd < 0)
		return errno == EINVAL ? -ENOSYS : -errno; /* a flag that it does not know */
	atomic_store(&k->thread_fd, fd);
	return 0;
}

static int wait_started(struct keeper *k)
{
	int err;

	pthread_mutex_lock(&k->lock);
	while (!k->started)
		pthread_cond_wait(&k->changed, &k->lock);
	err = k->err;
	pthread_mutex_unlock(&k->lock);
	if (err) {
		pthread_join(k->thread, NULL);
		return err;
	}
	return open_thread(k);
}

static int start(struct keeper *k)
{
	int err = start_thread(k);

	return err ? err : wait_started(k);
}

static int make_and_move(struct keeper *k, int (*make)(void))
{
	int err;

	k->fd = make();
	if (k->fd < 0)
		return k->fd;
	err = start(k);
	close(k->fd);
	return err;
}

int keeper_new(int (*make)(void), struct keeper **ret_keeper)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct keeper *k = calloc(1, sizeof(*k));
	int err;

	if (!k)
		return -ENOMEM;
	k->thread_fd = -1;
	pthread_mutex_init(&k->lock, NULL);
	pthread_cond_init(&k->changed, NULL);
	pthread_once(&once, watch_forks);
	pthread_rwlock_rdlock(&borrowed);
	err = make_and_move(k, make);
	pthread_rwlock_unlock(&borrowed);
	if (err)
		keeper_free(k);
	else
		*ret_keeper = k;
	return err;
}

void keeper_end(struct keeper *k)
{
	pthread_mutex_lock(&k->lock);
	k->end = true;
	pthread_cond_broadcast(&k->changed);
	pthread_mutex_unlock(&k->lock);
}

void keeper_free(struct keeper *k)
{
	keeper_end(k);
	if (k->started && !k->err)
		pthread_join(k->thread, NULL);
	if (k->thread_fd >= 0)
		close(k->thread_fd);
	pthread_cond_destroy(&k->changed);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

int keeper_call(struct keeper *k, int (*fn)(int fd, void *arg), void *arg)
{
	int ret;

	pthread_mutex_lock(&k->lock);
	while (k->calling)
		pthread_cond_wait(&k->changed, &k->lock);
	k->calling = true;
	k->fn = fn;
	k->arg = arg;
	pthread_cond_broadcast(&k->changed);
	while (k->fn && !k->end)
		pthread_cond_wait(&k->changed, &k->lock);
	ret = k->fn ? -ESRCH : k->result;
	k->calling = false;
	pthread_cond_broadcast(&k->changed);
	pthread_mutex_unlock(&k->lock);
	return ret;
}

static int get(const struct keeper *k)
{
	int fd = (int)syscall(SYS_pidfd_getfd, atomic_load(&k->thread_fd), k->fd, 0);

	return fd < 0 ? -errno : fd;
}

int keeper_borrow(struct keeper *k)
{
	int fd;

	pthread_rwlock_rdlock(&borrowed);
	fd = get(k);
	/* The program has closed it, or even put something else there. */
	if ((fd == -EBADF || fd == -EINVAL) && !open_thread(k))
		fd = get(k);
	if (fd < 0)
		pthread_rwlock_unlock(&borrowed);
	return fd;
}

void keeper_return(struct keeper *k, int fd)
{
	(void)k;
	close(fd);
	pthread_rwlock_unlock(&borrowed);
}
