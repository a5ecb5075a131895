// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Who a client of daxleased is: what can be known of him, and when that is not enough. */
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "peer.h"
#include "support.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

static int cred_err, pidfd_err; /* positive; 0: it works */
static uid_t as_uid;

int __real_getsockopt(int sock, int level, int option, void *value, socklen_t *size);
int __wrap_getsockopt(int sock, int level, int option, void *value, socklen_t *size);

/* The machine's kernel may be too old for the one, and the test may not choose the other. */
int __wrap_getsockopt(int sock, int level, int option, void *value, socklen_t *size)
{
	int ret;

	if (level == SOL_SOCKET && option == SO_PEERPIDFD) {
		ret = pidfd_err ? -1 : (int)syscall(SYS_pidfd_open, getpid(), 0);
		if (pidfd_err)
			errno = pidfd_err;
		if (ret < 0)
			return -1;
		*(int *)value = ret;
		return 0;
	}
	if (cred_err) {
		errno = cred_err;
		return -1;
	}
	ret = __real_getsockopt(sock, level, option, value, size);
	((struct ucred *)value)->uid = as_uid;
	return ret;
}

struct pair {
	int socks[2];
	unsigned int fds;
};

static int setup(void **state)
{
	static struct pair p;

	p.fds = count_fds();
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p.socks), 0);
	cred_err = pidfd_err = 0;
	as_uid = getuid();
	*state = &p;
	return 0;
}

static int teardown(void **state)
{
	struct pair *p = *state;

	close(p->socks[0]);
	close(p->socks[1]);
	assert_int_equal(count_fds(), p->fds);
	return 0;
}

static void peer__is_known(void **state)
{
	const struct pair *p = *state;
	struct guard_peer peer;

	as_uid = 12345;
	assert_int_equal(peer_of(p->socks[0], &peer), 0);
	assert_int_equal(peer.pid, getpid());
	assert_int_equal(peer.uid, 12345);
	assert_true(peer.pidfd >= 0);
	close(peer.pidfd);
	as_uid = 0;
	assert_int_equal(peer_of(p->socks[0], &peer), 0);
	assert_true(peer.privileged);
	close(peer.pidfd);
}

/* Nobody would notice when he dies. */
static void peer__without_pidfd(void **state)
{
	static const int errors[] = { ENOPROTOOPT, EMFILE, ESRCH };
	struct guard_peer peer = { .pid = 1, .uid = 2, .pidfd = 3 };
	const struct pair *p = *state;

	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		pidfd_err = errors[i];
		assert_int_equal(peer_of(p->socks[0], &peer), -errors[i]);
	}
	assert_int_equal(peer.pid, 1);
	assert_int_equal(peer.uid, 2);
	assert_int_equal(peer.pidfd, 3);
}

static void peer__without_credentials(void **state)
{
	const struct pair *p = *state;
	struct guard_peer peer;

	cred_err = EBADF;
	assert_int_equal(peer_of(p->socks[0], &peer), -EBADF);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(peer__is_known),
		CASE(peer__without_pidfd),
		CASE(peer__without_credentials),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
