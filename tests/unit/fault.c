// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake_layout.h"
#include "fake_uring.h"
#include "fault.h"
#include "sys.h"

static struct {
	pthread_mutex_t lock;
	unsigned int countdown;
	const char *hit;
	const char *name;
	unsigned int name_countdown;
	unsigned int name_times;
	const char *before;
	void (*before_fn)(void *arg);
	void *before_arg;
} armed = { .lock = PTHREAD_MUTEX_INITIALIZER };

static atomic_int break_time = INT_MIN;
static atomic_int leases_enabled = INT_MIN;
static atomic_uint slow_ms;
static atomic_int pretended_pid;
static atomic_ullong memlock;
static atomic_bool deleg;
static atomic_int refuse_leases;
static atomic_uint takes;

void fault_arm(unsigned int nth)
{
	pthread_mutex_lock(&armed.lock);
	armed.countdown = nth;
	armed.hit = NULL;
	pthread_mutex_unlock(&armed.lock);
}

void fault_arm_name(const char *name, unsigned int nth, unsigned int times)
{
	pthread_mutex_lock(&armed.lock);
	armed.name = name;
	armed.name_countdown = nth;
	armed.name_times = times;
	pthread_mutex_unlock(&armed.lock);
}

void fault_before(const char *name, void (*fn)(void *arg), void *arg)
{
	pthread_mutex_lock(&armed.lock);
	armed.before = name;
	armed.before_fn = fn;
	armed.before_arg = arg;
	pthread_mutex_unlock(&armed.lock);
}

void fault_reset(void)
{
	fault_before(NULL, NULL, NULL);
	fault_arm(0);
	fault_arm_name(NULL, 0, 0);
	fault_break_time(INT_MIN);
	fault_leases_enabled(INT_MIN);
	fault_slow_watch(0);
	fault_pid(0);
	fault_memlock(0);
	fault_deleg(false);
	fault_refuse_leases(0);
	fake_layout_reset();
	fake_rings_reset();
}

void fault_after_fork(void)
{
	pthread_mutex_init(&armed.lock, NULL);
	fake_layout_after_fork();
	fake_rings_after_fork();
}

const char *fault_hit(void)
{
	const char *hit;

	pthread_mutex_lock(&armed.lock);
	hit = armed.hit;
	pthread_mutex_unlock(&armed.lock);
	return hit;
}

static bool named_is_due(const char *name)
{
	if (!armed.name || strcmp(name, armed.name) != 0)
		return false;
	if (armed.name_countdown > 1) {
		armed.name_countdown--;
		return false;
	}
	if (!armed.name_times)
		return false;
	armed.name_times--;
	return true;
}

int fault_check(const char *name, int err)
{
	void (*fn)(void *arg) = NULL;
	bool due;

	pthread_mutex_lock(&armed.lock);
	if (armed.before && !strcmp(name, armed.before)) {
		armed.before = NULL;
		fn = armed.before_fn;
	}
	due = armed.countdown && !--armed.countdown;
	if (due)
		armed.hit = name;
	due |= named_is_due(name);
	pthread_mutex_unlock(&armed.lock);
	if (fn)
		fn(armed.before_arg);
	return due ? err : 0;
}

void fault_break_time(int seconds)
{
	atomic_store(&break_time, seconds);
}

void fault_leases_enabled(int enabled)
{
	atomic_store(&leases_enabled, enabled);
}

void fault_slow_watch(unsigned int ms)
{
	atomic_store(&slow_ms, ms);
}

void fault_pid(pid_t pid)
{
	atomic_store(&pretended_pid, pid);
}

void fault_memlock(uint64_t limit)
{
	atomic_store(&memlock, limit);
}

void fault_deleg(bool emulate)
{
	atomic_store(&deleg, emulate);
}

void fault_refuse_leases(int err)
{
	atomic_store(&refuse_leases, err);
}

unsigned int fault_takes(void)
{
	return atomic_load(&takes);
}

/* Declares the real function and the one that the library calls in its place. */
#define DECLARE(type, name, params) \
	type __real_##name params;  \
	type __wrap_##name params

/* A function that only has to be able to fail. */
#define PLAIN(name, params, args, err)                           \
	DECLARE(int, name, params);                              \
	int __wrap_##name params                                 \
	{                                                        \
		int injected = fault_check(#name, -(err));       \
                                                                 \
		return injected ? injected : __real_##name args; \
	}

PLAIN(sys_dup, (int fd), (fd), EMFILE)
PLAIN(sys_access_mode, (int fd), (fd), EBADF)
PLAIN(sys_file_size, (int fd, uint64_t *ret_size), (fd, ret_size), EIO)
PLAIN(sys_eventfd, (void), (), EMFILE)
PLAIN(sys_event_clear, (int fd), (fd), EINTR)
PLAIN(sys_timerfd, (void), (), ENFILE)
PLAIN(sys_epoll, (const int *fds, size_t nfds), (fds, nfds), EMFILE)
PLAIN(sys_set_owner, (int fd, struct sys_owner owner), (fd, owner), ESRCH)
PLAIN(sys_set_signal, (int fd, int signo), (fd, signo), EINVAL)
PLAIN(sys_set_async, (int fd), (fd), EINVAL)
PLAIN(sys_wait_readable, (const int *fds, size_t nfds, uint64_t until_ns), (fds, nfds, until_ns),
      EINTR)
PLAIN(sys_same_description, (int fd, int other), (fd, other), EPERM)
PLAIN(sys_open_break_time, (void), (), ENOENT)
PLAIN(sys_open_maps, (void), (), ENOENT)
PLAIN(sys_query_vma, (int maps_fd, uintptr_t addr, struct sys_vma *ret_vma),
      (maps_fd, addr, ret_vma), ENOMEM)
PLAIN(sys_thread_create, (pthread_t * ret_thread, void *(*fn)(void *), void *arg),
      (ret_thread, fn, arg), EAGAIN)
PLAIN(sys_tgkill, (pid_t tid, int signo), (tid, signo), EAGAIN)

DECLARE(int, sys_close, (int fd));
DECLARE(int, sys_file_info, (int fd, struct sys_file *ret_file));
DECLARE(int, sys_path_info, (const char *path, struct sys_file *ret_file));
DECLARE(int, sys_set_lease, (int fd, int type));
DECLARE(int, sys_get_lease, (int fd));
DECLARE(int, sys_set_layout, (int fd, int type, unsigned int flags));
DECLARE(int, sys_get_layout, (int fd, unsigned int *ret_flags));
DECLARE(int, sys_set_deleg, (int fd, int type));
DECLARE(int, sys_get_deleg, (int fd));
DECLARE(int, sys_read_break_time, (int fd));
DECLARE(int, sys_leases_enabled, (void));
DECLARE(int, sys_wait_signal, (const sigset_t *set, uint64_t at_ns, siginfo_t *ret_info));
DECLARE(pid_t, sys_getpid, (void));
DECLARE(uint64_t, sys_memlock_limit, (void));
DECLARE(void *, sys_calloc, (size_t n, size_t size));
DECLARE(void *, sys_realloc, (void *p, size_t size));

/* Linux closes the descriptor whatever it returns. */
int __wrap_sys_close(int fd)
{
	int injected = fault_check("sys_close", -EIO);
	int err;

	fake_layout_closed(fd);
	err = __real_sys_close(fd);
	return injected ? injected : err;
}

static int pretend_dax(int err, struct sys_file *file)
{
	if (!err && S_ISREG(file->mode) && (file->mode & FAULT_DAX_BIT))
		file->dax = true;
	return err;
}

int __wrap_sys_file_info(int fd, struct sys_file *ret_file)
{
	int injected = fault_check("sys_file_info", -ENOMEM);

	return injected ? injected : pretend_dax(__real_sys_file_info(fd, ret_file), ret_file);
}

int __wrap_sys_path_info(const char *path, struct sys_file *ret_file)
{
	int injected = fault_check("sys_path_info", -ENOENT);

	return injected ? injected : pretend_dax(__real_sys_path_info(path, ret_file), ret_file);
}

static int set_lease(int fd, int type)
{
	int refused = atomic_load(&refuse_leases);
	int err = refused ? refused : __real_sys_set_lease(fd, type);

	if (!err && type != F_UNLCK)
		atomic_fetch_add(&takes, 1);
	return err;
}

static int set_layout(int fd, int type, unsigned int flags)
{
	int refused = atomic_load(&refuse_leases);

	return refused ? refused : fake_layout_set(fd, type, flags);
}

/* Of the kind that was proposed in 2019. */
static int set_rfc(int fd, int type)
{
	int injected = fault_check("sys_set_lease(F_LAYOUT)", -EINVAL);

	if (injected)
		return injected;
	if (!fake_layout_emulates(FAKE_RFC))
		return set_lease(fd, type);
	return set_layout(fd, F_RDLCK, type & SYS_LEASE_EXCLUSIVE ? SYS_LAYOUT_UNBREAKABLE : 0);
}

int __wrap_sys_set_lease(int fd, int type)
{
	int injected;

	if (type & SYS_LEASE_LAYOUT)
		return set_rfc(fd, type);
	injected = type == F_UNLCK ? fault_check("sys_set_lease(F_UNLCK)", -EINTR) :
				     fault_check("sys_set_lease", -EAGAIN);
	if (injected)
		return injected;
	if (type == F_UNLCK && fake_layout_emulates(FAKE_RFC) && fake_layout_has(fd))
		return set_layout(fd, F_UNLCK, 0);
	return set_lease(fd, type);
}

static int layout_as_lease(unsigned int flags)
{
	if (flags & SYS_LAYOUT_BREAKING)
		return F_UNLCK;
	return flags & SYS_LAYOUT_UNBREAKABLE ? SYS_LEASE_LAYOUT | SYS_LEASE_EXCLUSIVE :
						SYS_LEASE_LAYOUT;
}

int __wrap_sys_get_lease(int fd)
{
	int injected = fault_check("sys_get_lease", -EBADF);
	unsigned int flags;

	if (injected)
		return injected;
	if (fake_layout_emulates(FAKE_RFC) && fake_layout_get(fd, &flags) == F_RDLCK)
		return layout_as_lease(flags);
	return __real_sys_get_lease(fd);
}

int __wrap_sys_set_layout(int fd, int type, unsigned int flags)
{
	int injected = type == F_UNLCK ? fault_check("sys_set_layout(F_UNLCK)", -EINTR) :
					 fault_check("sys_set_layout", -EAGAIN);

	if (injected)
		return injected;
	return fake_layout_emulates(FAKE_SETLAYOUT) ? set_layout(fd, type, flags) :
						      __real_sys_set_layout(fd, type, flags);
}

int __wrap_sys_get_layout(int fd, unsigned int *ret_flags)
{
	int injected = fault_check("sys_get_layout", -EBADF);

	if (injected)
		return injected;
	return fake_layout_emulates(FAKE_SETLAYOUT) ? fake_layout_get(fd, ret_flags) :
						      __real_sys_get_layout(fd, ret_flags);
}

int __wrap_sys_set_deleg(int fd, int type)
{
	int injected = fault_check("sys_set_deleg", -EINVAL);

	if (injected)
		return injected;
	return atomic_load(&deleg) ? set_lease(fd, type) : __real_sys_set_deleg(fd, type);
}

int __wrap_sys_get_deleg(int fd)
{
	int injected = fault_check("sys_get_deleg", -EBADF);

	if (injected)
		return injected;
	return atomic_load(&deleg) ? __real_sys_get_lease(fd) : __real_sys_get_deleg(fd);
}

int __wrap_sys_read_break_time(int fd)
{
	int injected = fault_check("sys_read_break_time", -EIO);
	int pretended = atomic_load(&break_time);

	if (injected)
		return injected;
	return pretended == INT_MIN ? __real_sys_read_break_time(fd) : pretended;
}

int __wrap_sys_leases_enabled(void)
{
	int injected = fault_check("sys_leases_enabled", -ENOENT);
	int pretended = atomic_load(&leases_enabled);

	if (injected)
		return injected;
	return pretended == INT_MIN ? __real_sys_leases_enabled() : pretended;
}

int __wrap_sys_wait_signal(const sigset_t *set, uint64_t at_ns, siginfo_t *ret_info)
{
	int injected = fault_check("sys_wait_signal", -EINTR);
	int ret = injected ? injected : __real_sys_wait_signal(set, at_ns, ret_info);

	usleep(atomic_load(&slow_ms) * 1000);
	return ret;
}

pid_t __wrap_sys_getpid(void)
{
	pid_t pretended = atomic_load(&pretended_pid);

	return pretended ? pretended : __real_sys_getpid();
}

uint64_t __wrap_sys_memlock_limit(void)
{
	uint64_t pretended = atomic_load(&memlock);

	return pretended ? pretended : __real_sys_memlock_limit();
}

void *__wrap_sys_calloc(size_t n, size_t size)
{
	return fault_check("sys_calloc", -ENOMEM) ? NULL : __real_sys_calloc(n, size);
}

void *__wrap_sys_realloc(void *p, size_t size)
{
	return fault_check("sys_realloc", -ENOMEM) ? NULL : __real_sys_realloc(p, size);
}
