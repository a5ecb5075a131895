// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * daxleased(8) with made-up events: all of it but its rights, which it neither needs here
 * nor gives up. It is its own client.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_fan.h"
#include "harden.h"
#include "peer.h"
#include "sock.h"
#include "support.h"

int daxleased_main(int argc, char **argv); /* its main() */

static const char truncates[] = "76 0x7f00 0x1000 0x0 0x0 0x0 0x0 0x7ffc12345678 0x7f0012345678\n";

int harden_check(void)
{
	return 0;
}

int harden(bool unlinks)
{
	(void)unlinks;
	return 0;
}

int peer_of(int sock, struct guard_peer *ret_peer)
{
	(void)sock;
	*ret_peer = (struct guard_peer){ .pid = getpid(), .privileged = true, .pidfd = -1 };
	return 0;
}

/* One run of it, in a process of its own. */
struct daemon {
	char folder[32], path[48]; /* of its socket */
	struct file file;
	char *file_path;       /* absolute: the daemon goes to another folder */
	unsigned int hangs_ms; /* somebody's task cannot be looked at for so long */
	pid_t pid;
	int log;
};

static int connect_to(const char *path)
{
	int sock;

	while ((sock = sock_connect(path)) < 0)
		usleep(10000);
	return sock;
}

static void hear(int sock, enum guard_type type)
{
	struct pollfd pfd = { .fd = sock, .events = POLLIN };
	struct guard_msg msg;
	int fd;

	if (poll(&pfd, 1, -1) != 1 || sock_receive(sock, false, &msg, &fd) || msg.type != type ||
	    msg.error)
		_exit(99);
}

/* Its client, and the one that wants to change the file; then it is told to end. */
static void *others_main(void *arg)
{
	struct guard_msg msg = { .type = GUARD_TAKE, .id = 1 };
	const struct daemon *d = arg;
	int sock = connect_to(d->path);

	sock_send(sock, &msg, d->file.fd);
	hear(sock, GUARD_TAKEN);
	fake_fan_task(51, truncates);
	fake_fan_task_hangs(51, true);
	fake_fan_event(d->file_path, false, 51);
	usleep(d->hangs_ms * 1000);
	fake_fan_task_hangs(51, false);
	hear(sock, GUARD_BREAK);
	kill(getpid(), SIGTERM);
	return NULL;
}

static void daemon_run(struct daemon *d)
{
	char name[] = "daxleased", option[] = "--socket";
	char *argv[] = { name, option, d->path, NULL };
	pthread_t others;
	sigset_t all;

	dup2(d->log, STDERR_FILENO);
	sigfillset(&all); /* as in all of its threads */
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	fake_fan_on();
	if (pthread_create(&others, NULL, others_main, d))
		_exit(98);
	_exit(daxleased_main(3, argv));
}

static void daemon_start(struct daemon *d, unsigned int hangs_ms)
{
	int log[2];

	d->hangs_ms = hangs_ms;
	strcpy(d->folder, "/tmp/daxleased.XXXXXX");
	assert_non_null(mkdtemp(d->folder));
	snprintf(d->path, sizeof(d->path), "%s/socket", d->folder);
	file_make(&d->file, 1, false);
	d->file_path = realpath(d->file.path, NULL);
	assert_non_null(d->file_path);
	assert_int_equal(pipe2(log, O_CLOEXEC), 0);
	d->log = log[1];
	d->pid = fork();
	if (!d->pid)
		daemon_run(d);
	assert_true(d->pid > 0);
	close(log[1]);
	d->log = log[0];
}

/* Its exit status, and what it said. */
static int daemon_end(struct daemon *d, char *ret_said, size_t size)
{
	size_t length = 0;
	ssize_t n;
	int status;

	while ((n = read(d->log, ret_said + length, size - 1 - length)) > 0)
		length += (size_t)n;
	ret_said[length] = '\0';
	close(d->log);
	assert_int_equal(waitpid(d->pid, &status, 0), d->pid);
	free(d->file_path);
	file_end(&d->file);
	unlink(d->path);
	rmdir(d->folder);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* It ends by itself, and so lets all go that wait. */
static void daxleased__stuck(void **state)
{
	const uint64_t begin = now_ms();
	struct daemon d;
	char said[4096];

	(void)state;
	daemon_start(&d, 60000);
	assert_int_equal(daemon_end(&d, said, sizeof(said)), 1);
	assert_non_null(strstr(said, "for 3 s: ending, so that others go on"));
	assert_true(now_ms() - begin >= 3000);
}

static void daxleased__held_up(void **state)
{
	struct daemon d;
	char said[4096];

	(void)state;
	daemon_start(&d, 1500);
	assert_int_equal(daemon_end(&d, said, sizeof(said)), 0);
	assert_null(strstr(said, "ending, so that"));
	assert_non_null(strstr(said, "stopped"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(daxleased__stuck),
		cmocka_unit_test(daxleased__held_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
