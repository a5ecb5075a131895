// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fault.h"
#include "support.h"
#include "sys.h"
#include "util.h"

#define BAD_FD 12345

static bool readable(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, 0) == 1;
}

static void sys_calls__bad_descriptor(void **state)
{
	struct sys_owner owner = { .type = F_OWNER_PID, .id = getpid() };
	struct sys_file file;
	unsigned int flags;
	uint64_t size;

	(void)state;
	assert_int_equal(sys_dup(BAD_FD), -EBADF);
	assert_int_equal(sys_close(BAD_FD), -EBADF);
	assert_int_equal(sys_access_mode(BAD_FD), -EBADF);
	assert_int_equal(sys_file_info(BAD_FD, &file), -EBADF);
	assert_int_equal(sys_file_size(BAD_FD, &size), -EBADF);
	assert_int_equal(sys_event_set(BAD_FD), -EBADF);
	assert_int_equal(sys_event_clear(BAD_FD), -EBADF);
	assert_int_equal(sys_timer_arm(BAD_FD, 1), -EBADF);
	assert_int_equal(sys_set_owner(BAD_FD, owner), -EBADF);
	assert_int_equal(sys_set_signal(BAD_FD, SIGIO), -EBADF);
	assert_int_equal(sys_set_lease(BAD_FD, F_RDLCK), -EBADF);
	assert_int_equal(sys_get_lease(BAD_FD), -EBADF);
	assert_int_equal(sys_set_deleg(BAD_FD, F_RDLCK), -EBADF);
	assert_int_equal(sys_get_deleg(BAD_FD), -EBADF);
	assert_int_equal(sys_set_layout(BAD_FD, F_RDLCK, 0), -EBADF);
	assert_int_equal(sys_get_layout(BAD_FD, &flags), -EBADF);
	assert_int_equal(sys_same_description(BAD_FD, BAD_FD), -EBADF);
	assert_int_equal(sys_read_break_time(BAD_FD), -EBADF);
	assert_int_equal(sys_set_async(BAD_FD), -EBADF);
	assert_int_equal(sys_path_info("/nonexistent", &file), -ENOENT);
}

static void sys_dup__close_on_exec(void **state)
{
	int fd = sys_dup(STDERR_FILENO);

	(void)state;
	assert_true(fd >= 3);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(sys_close(fd), 0);
}

static void sys_access_mode__each(void **state)
{
	static const int modes[] = { O_RDONLY, O_WRONLY, O_RDWR };
	struct file f;

	(void)state;
	file_make(&f, 1, false);
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		int fd = open(f.path, modes[i] | O_APPEND);

		assert_int_equal(sys_access_mode(fd), modes[i]);
		close(fd);
	}
	file_end(&f);
}

static void sys_file_info__as_stat(void **state)
{
	struct sys_file by_fd, by_path;
	struct file f;
	struct stat st;
	uint64_t size;

	(void)state;
	file_make(&f, 3, true);
	assert_int_equal(fstat(f.fd, &st), 0);
	assert_int_equal(sys_file_info(f.fd, &by_fd), 0);
	assert_int_equal(sys_path_info(f.path, &by_path), 0);
	assert_int_equal(by_fd.ino, st.st_ino);
	assert_int_equal(by_fd.dev, st.st_dev);
	assert_int_equal(by_fd.mode, st.st_mode);
	assert_int_equal(by_fd.size, 3 * PAGE);
	assert_int_equal(by_path.ino, st.st_ino);
	assert_true(by_fd.dax && by_path.dax); /* pretended */
	assert_int_equal(sys_file_size(f.fd, &size), 0);
	assert_int_equal(size, 3 * PAGE);
	file_end(&f);
}

static void sys_eventfd__set_and_clear(void **state)
{
	int fd = sys_eventfd();

	(void)state;
	assert_false(readable(fd));
	assert_int_equal(sys_event_clear(fd), 0);
	assert_int_equal(sys_event_set(fd), 0);
	assert_int_equal(sys_event_set(fd), 0);
	assert_true(readable(fd));
	assert_int_equal(sys_event_clear(fd), 0);
	assert_false(readable(fd));
	sys_close(fd);
}

static void sys_event_set__counter_full(void **state)
{
	const uint64_t full = UINT64_MAX - 1;
	int fd = sys_eventfd();

	(void)state;
	assert_int_equal(write(fd, &full, sizeof(full)), sizeof(full));
	assert_int_equal(sys_event_set(fd), 0);
	assert_true(readable(fd));
	sys_close(fd);
}

static void sys_timer_arm__past_future_never(void **state)
{
	int fd = sys_timerfd();

	(void)state;
	assert_int_equal(sys_timer_arm(fd, 0), 0);
	sleep_ms(2);
	assert_true(readable(fd));
	assert_int_equal(sys_event_clear(fd), 0);
	assert_int_equal(sys_timer_arm(fd, sys_now_ns() + 5 * NSEC_PER_MSEC), 0);
	assert_false(readable(fd));
	sleep_ms(8);
	assert_true(readable(fd));
	assert_int_equal(sys_timer_arm(fd, NEVER), 0);
	assert_false(readable(fd));
	sys_close(fd);
}

static void sys_epoll__either(void **state)
{
	int fds[] = { sys_eventfd(), sys_eventfd() };
	int ep = sys_epoll(fds, 2);
	unsigned int before = count_fds();

	(void)state;
	assert_false(readable(ep));
	sys_event_set(fds[1]);
	assert_true(readable(ep));
	assert_int_equal(sys_epoll((int[]){ fds[0], BAD_FD }, 2), -EBADF);
	assert_int_equal(count_fds(), before);
	sys_close(ep);
	sys_close(fds[0]);
	sys_close(fds[1]);
}

static void sys_epoll__no_descriptors(void **state)
{
	struct rlimit old, none;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = old;
	none.rlim_cur = 0;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(sys_epoll(NULL, 0), -EMFILE);
	assert_int_equal(sys_eventfd(), -EMFILE);
	assert_int_equal(sys_timerfd(), -EMFILE);
	assert_int_equal(sys_open_maps(), -EMFILE);
	assert_int_equal(sys_open_break_time(), -EMFILE);
	assert_int_equal(sys_leases_enabled(), -EMFILE);
	assert_int_equal(sys_parse_vma(0, NULL), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
}

static void sys_set_lease__take_and_give_back(void **state)
{
	struct file f;

	(void)state;
	file_make(&f, 1, false);
	assert_int_equal(sys_get_lease(f.fd), F_UNLCK);
	assert_int_equal(sys_set_lease(f.fd, F_WRLCK), 0);
	assert_int_equal(sys_get_lease(f.fd), F_WRLCK);
	assert_int_equal(sys_set_lease(f.fd, F_UNLCK), 0);
	assert_int_equal(sys_set_lease(f.fd, F_UNLCK), -EAGAIN);
	file_end(&f);
}

/* Where the kernel has no F_SETDELEG both say so, else they agree. */
static void sys_set_deleg__supported_or_not(void **state)
{
	struct file f;
	int err;

	(void)state;
	file_make(&f, 1, false);
	err = sys_set_deleg(f.fd, F_WRLCK);
	if (err) {
		assert_int_equal(err, -EINVAL);
		assert_int_equal(sys_get_deleg(f.fd), -EINVAL);
	} else {
		assert_int_equal(sys_get_deleg(f.fd), F_WRLCK);
		assert_int_equal(sys_set_deleg(f.fd, F_UNLCK), 0);
		assert_int_equal(sys_get_deleg(f.fd), F_UNLCK);
	}
	file_end(&f);
}

/* The same for F_SETLAYOUT, which these files may well be not capable of. */
static void sys_set_layout__supported_or_not(void **state)
{
	unsigned int flags = 0;
	struct file f;
	int err;

	(void)state;
	file_make(&f, 1, false);
	err = sys_set_layout(f.fd, F_RDLCK, 0);
	if (err == -EINVAL) {
		assert_int_equal(sys_get_layout(f.fd, &flags), -EINVAL);
		assert_int_equal(sys_set_lease(f.fd, SYS_LEASE_LAYOUT), -EINVAL);
	} else if (err) {
		assert_int_equal(err, -EOPNOTSUPP);
		assert_int_equal(sys_get_layout(f.fd, &flags), F_UNLCK);
	} else {
		assert_int_equal(sys_get_layout(f.fd, &flags), F_RDLCK);
		assert_int_equal(flags, 0);
		assert_int_equal(sys_set_layout(f.fd, F_UNLCK, 0), 0);
	}
	file_end(&f);
}

static void sys_same_description__dup_and_open(void **state)
{
	struct file f;
	int dup, other;

	(void)state;
	file_make(&f, 1, false);
	dup = sys_dup(f.fd);
	other = open(f.path, O_RDWR);
	assert_int_equal(sys_same_description(f.fd, f.fd), 1);
	assert_int_equal(sys_same_description(f.fd, dup), 1);
	assert_int_equal(sys_same_description(f.fd, other), 0);
	close(dup);
	close(other);
	file_end(&f);
}

static void sys_break_time__read_twice(void **state)
{
	int fd = sys_open_break_time();
	int first = sys_read_break_time(fd);

	(void)state;
	assert_true(first >= 0);
	assert_int_equal(sys_read_break_time(fd), first);
	assert_true(sys_leases_enabled() >= 0);
	sys_close(fd);
}

static void check_vma(const struct sys_vma *vma, const struct file *f, const struct stat *st)
{
	assert_int_equal(vma->start, (uintptr_t)f->map + PAGE);
	assert_int_equal(vma->end, (uintptr_t)f->map + 2 * PAGE);
	assert_int_equal(vma->offset, PAGE);
	assert_int_equal(vma->ino, st->st_ino);
	assert_int_equal(vma->dev, st->st_dev);
	assert_true(vma->readable && !vma->writable && vma->shared);
}

static void sys_query_vma__both_ways_agree(void **state)
{
	int maps = sys_open_maps();
	struct sys_vma vma;
	struct file f;
	struct stat st;

	(void)state;
	file_make(&f, 4, false);
	assert_int_equal(fstat(f.fd, &st), 0);
	assert_int_equal(mprotect(f.map + PAGE, PAGE, PROT_READ), 0);
	assert_int_equal(sys_query_vma(maps, (uintptr_t)f.map + PAGE + 7, &vma), 0);
	check_vma(&vma, &f, &st);
	assert_int_equal(sys_parse_vma((uintptr_t)f.map + PAGE + 7, &vma), 0);
	check_vma(&vma, &f, &st);
	/* A descriptor that knows no such question: as an old kernel. */
	assert_int_equal(sys_query_vma(f.fd, (uintptr_t)f.map + PAGE, &vma), 0);
	check_vma(&vma, &f, &st);
	file_end(&f);
	sys_close(maps);
}

static void sys_vma_name__both_ways_agree(void **state)
{
	int maps = sys_open_maps();
	char name[PATH_MAX], on_stack;
	struct file f;

	(void)state;
	file_make(&f, 1, false);
	assert_int_equal(sys_vma_name(maps, (uintptr_t)f.map, name, sizeof(name)), 0);
	assert_non_null(strstr(name, f.path));
	/* A descriptor that knows no such question: as an old kernel. */
	assert_int_equal(sys_vma_name(f.fd, (uintptr_t)f.map, name, sizeof(name)), 0);
	assert_non_null(strstr(name, f.path));
	assert_int_equal(sys_vma_name(maps, (uintptr_t)&on_stack, name, sizeof(name)), 0);
	assert_string_equal(name, "[stack]");
	assert_int_equal(sys_vma_name(maps, 0, name, sizeof(name)), -ENOENT);
	file_end(&f);
	sys_close(maps);
}

static void sys_query_vma__hole(void **state)
{
	int maps = sys_open_maps();
	struct sys_vma vma;

	(void)state;
	assert_int_equal(sys_query_vma(maps, 0, &vma), -ENOENT);
	assert_int_equal(sys_parse_vma(0, &vma), -ENOENT);
	sys_close(maps);
}

static void sys_memlock_limit__with_and_without(void **state)
{
	struct rlimit old, lim;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &old), 0);
	lim = old;
	lim.rlim_cur = PAGE;
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &lim), 0);
	assert_int_equal(sys_memlock_limit(), PAGE);
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &old), 0);
	if (old.rlim_cur == RLIM_INFINITY)
		assert_true(sys_memlock_limit() == UINT64_MAX);
}

static void *note_mask(void *arg)
{
	pthread_sigmask(SIG_SETMASK, NULL, arg);
	return NULL;
}

static void sys_thread_create__all_signals_blocked(void **state)
{
	sigset_t mask, mine;
	pthread_t thread;

	(void)state;
	sigemptyset(&mask);
	assert_int_equal(sys_thread_create(&thread, note_mask, &mask), 0);
	pthread_join(thread, NULL);
	assert_true(sigismember(&mask, SIGINT) && sigismember(&mask, SIGRTMAX));
	pthread_sigmask(SIG_SETMASK, NULL, &mine);
	assert_false(sigismember(&mine, SIGINT));
}

static void sys_wait_signal__comes_or_not(void **state)
{
	siginfo_t info;
	sigset_t set;
	int err;

	(void)state;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	assert_int_equal(sys_wait_signal(&set, 0, &info), -EAGAIN);
	do /* a stopped and continued process is interrupted */
		err = sys_wait_signal(&set, sys_now_ns() + NSEC_PER_MSEC, &info);
	while (err == -EINTR);
	assert_int_equal(err, -EAGAIN);
	assert_int_equal(sys_tgkill(sys_gettid(), SIGRTMIN), 0);
	assert_int_equal(sys_wait_signal(&set, NEVER, &info), SIGRTMIN);
	/* The kernel says SI_TKILL, of which glibc makes SI_USER. */
	assert_true(info.si_code == SI_TKILL || info.si_code == SI_USER);
	assert_int_equal(info.si_pid, getpid());
	assert_int_equal(sys_tgkill(sys_gettid(), 1000), -EINVAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* The signal says which descriptor, and that it is readable. */
static void sys_set_async__signal_when_readable(void **state)
{
	const uint64_t soon = sys_now_ns() + 5 * NSEC_PER_SEC;
	struct sys_owner owner = { .type = F_OWNER_TID, .id = sys_gettid() };
	int socks[2];
	siginfo_t info;
	sigset_t set;

	(void)state;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks), 0);
	assert_int_equal(sys_set_owner(socks[0], owner), 0);
	assert_int_equal(sys_set_signal(socks[0], SIGRTMIN), 0);
	assert_int_equal(sys_set_async(socks[0]), 0);
	assert_int_equal(send(socks[1], "", 1, 0), 1);
	assert_int_equal(sys_wait_signal(&set, soon, &info), SIGRTMIN);
	assert_int_equal(info.si_fd, socks[0]);
	assert_true(info.si_code > 0 && info.si_code != SI_KERNEL);
	sys_close(socks[1]); /* and when nobody will say anything any more */
	assert_int_equal(sys_wait_signal(&set, soon, &info), SIGRTMIN);
	assert_int_equal(info.si_fd, socks[0]);
	sys_close(socks[0]);
	while (sys_wait_signal(&set, 0, &info) > 0)
		;
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void sys_wait_readable__one_of_them_or_not(void **state)
{
	int fds[] = { sys_eventfd(), sys_eventfd() };
	uint64_t until = sys_now_ns() + 5 * NSEC_PER_MSEC;

	(void)state;
	assert_int_equal(sys_wait_readable(fds, 2, 0), 0);
	assert_int_equal(sys_wait_readable(fds, 2, until), 0);
	assert_true(sys_now_ns() >= until);
	sys_event_set(fds[1]);
	assert_int_equal(sys_wait_readable(fds, 2, until + 5 * NSEC_PER_SEC), 1);
	assert_int_equal(sys_wait_readable(fds, 1, 0), 0);
	assert_int_equal(sys_wait_readable((int[]){ -1, fds[1] }, 2, 0), 1);
	sys_close(fds[0]);
	sys_close(fds[1]);
}

static void sys_memory__zeroed_and_grown(void **state)
{
	unsigned char *p = sys_calloc(3, 4);

	(void)state;
	assert_non_null(p);
	assert_int_equal(p[11], 0);
	p[11] = 7;
	p = sys_realloc(p, 4096);
	assert_non_null(p);
	assert_int_equal(p[11], 7);
	free(p);
}

static void sys_uring__no_ring(void **state)
{
	int fd = sys_eventfd();

	(void)state;
	/* Of another kind, or forbidden: that is asked first. */
	assert_true(sys_uring_probe(fd) < 0);
	assert_true(sys_uring_set_slot(fd, 0, &fd, 1, 1) < 0);
	assert_true(sys_uring_set_slot(fd, 0, NULL, 0, 0) < 0);
	assert_true(sys_uring_flush(fd) < 0);
	for (int what = SYS_CANCEL_FIXED; what <= SYS_CANCEL_ANY; what++)
		assert_true(sys_uring_cancel(fd, (enum sys_cancel)what, fd, 0) < 0);
	sys_close(fd);
}

static int make_ring(void)
{
	struct io_uring_rsrc_register table = { .nr = 2, .flags = IORING_RSRC_REGISTER_SPARSE };
	struct io_uring_params params;
	int fd;

	memset(&params, 0, sizeof(params));
	fd = (int)syscall(SYS_io_uring_setup, 4, &params);
	if (fd >= 0 &&
	    syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS2, &table, sizeof(table))) {
		close(fd);
		return -1;
	}
	return fd;
}

static void sys_uring__real_ring_or_none(void **state)
{
	static char memory[PAGE] __attribute__((aligned(PAGE)));
	int ret, fd = make_ring();

	(void)state;
	if (fd < 0)
		return; /* forbidden: this machine has none to try */
	assert_int_equal(sys_uring_probe(fd), 0);
	assert_int_equal(sys_uring_flush(fd), 0);
	assert_int_equal(sys_uring_set_slot(fd, 1, memory, sizeof(memory), 0x1234), 0);
	assert_int_equal(sys_uring_set_slot(fd, 2, memory, sizeof(memory), 0), -EINVAL);
	assert_int_equal(sys_uring_set_slot(fd, 1, NULL, 0, 0), 0);
	/* Nothing is there to cancel; older kernels know less of it. */
	for (int what = SYS_CANCEL_FIXED; what <= SYS_CANCEL_ANY; what++) {
		ret = sys_uring_cancel(fd, (enum sys_cancel)what, fd, 0);
		assert_true(ret == 0 || ret == -EINVAL);
	}
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sys_uring__no_ring),
		cmocka_unit_test(sys_uring__real_ring_or_none),
		cmocka_unit_test(sys_calls__bad_descriptor),
		cmocka_unit_test(sys_dup__close_on_exec),
		cmocka_unit_test(sys_access_mode__each),
		cmocka_unit_test(sys_file_info__as_stat),
		cmocka_unit_test(sys_eventfd__set_and_clear),
		cmocka_unit_test(sys_event_set__counter_full),
		cmocka_unit_test(sys_timer_arm__past_future_never),
		cmocka_unit_test(sys_epoll__either),
		cmocka_unit_test(sys_epoll__no_descriptors),
		cmocka_unit_test(sys_set_lease__take_and_give_back),
		cmocka_unit_test(sys_set_deleg__supported_or_not),
		cmocka_unit_test(sys_set_layout__supported_or_not),
		cmocka_unit_test(sys_same_description__dup_and_open),
		cmocka_unit_test(sys_break_time__read_twice),
		cmocka_unit_test(sys_query_vma__both_ways_agree),
		cmocka_unit_test(sys_vma_name__both_ways_agree),
		cmocka_unit_test(sys_query_vma__hole),
		cmocka_unit_test(sys_memlock_limit__with_and_without),
		cmocka_unit_test(sys_thread_create__all_signals_blocked),
		cmocka_unit_test(sys_wait_signal__comes_or_not),
		cmocka_unit_test(sys_set_async__signal_when_readable),
		cmocka_unit_test(sys_wait_readable__one_of_them_or_not),
		cmocka_unit_test(sys_memory__zeroed_and_grown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
