// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "other.h"
#include "support.h"

struct request {
	enum op op;
	other_fn fn;
	long amount;
	char path[512];
};

struct reply {
	int result;
	uint64_t begin_ns, got_ns, end_ns;
};

union control {
	struct cmsghdr header;
	char room[CMSG_SPACE(sizeof(int))];
};

/* ------------------------------------------------------------------------- */
/* What it can do. -1 and errno, as the calls themselves. */

static int open_and_close(const struct request *req, int flags, struct reply *reply)
{
	int fd = open(req->path, flags | O_CLOEXEC);

	if (fd < 0)
		return -1;
	reply->got_ns = now_ns();
	if (req->op == OP_OPEN_READ)
		sleep_ms((unsigned int)req->amount);
	return close(fd);
}

static int with_new_name(const char *path, int (*call)(const char *from, const char *to))
{
	char to[sizeof(((struct request *)NULL)->path) + 4];

	snprintf(to, sizeof(to), "%s.new", path);
	return call(path, to);
}

static int shell(const char *command)
{
	int status = system(command);

	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* How many of them went otherwise than they should. */
static int storm(const struct request *req, bool nonblocking)
{
	int failures = 0;

	for (long i = 0; i < req->amount; i++) {
		char path[sizeof(req->path) + 24];
		int ret;

		snprintf(path, sizeof(path), "%s%ld", req->path, i);
		ret = nonblocking ? open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC) :
				    truncate(path, 0);
		failures += nonblocking ? ret >= 0 || errno != EAGAIN : ret != 0;
		if (nonblocking && ret >= 0)
			close(ret);
	}
	return failures;
}

static int stop_and_storm(const struct request *req)
{
	pid_t holder = getppid();
	int failures;

	if (kill(holder, SIGSTOP))
		return -1;
	failures = storm(req, true);
	return kill(holder, SIGCONT) ? -1 : failures;
}

static int perform(const struct request *req, int fd, struct reply *reply)
{
	switch (req->op) {
	case OP_OPEN_READ:
		return open_and_close(req, O_RDONLY, reply);
	case OP_OPEN_WRITE:
		return open_and_close(req, O_WRONLY, reply);
	case OP_OPEN_WRITE_NONBLOCK:
		return open_and_close(req, O_WRONLY | O_NONBLOCK, reply);
	case OP_TRUNCATE:
		return truncate(req->path, req->amount);
	case OP_FTRUNCATE:
		return ftruncate(fd, req->amount);
	case OP_PUNCH:
		return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, req->amount, PAGE);
	case OP_PWRITE:
		return pwrite(fd, "x", 1, req->amount) == 1 ? 0 : -1;
	case OP_UNLINK:
		return unlink(req->path);
	case OP_RENAME:
		return with_new_name(req->path, rename);
	case OP_LINK:
		return with_new_name(req->path, link);
	case OP_CHMOD:
		return chmod(req->path, 0640);
	case OP_SHELL:
		return shell(req->path);
	case OP_STORM_OPENS:
		return storm(req, true);
	case OP_STORM_TRUNCATES:
		return storm(req, false);
	case OP_STOP_AND_STORM:
		return stop_and_storm(req);
	case OP_FUNCTION:
		return req->fn(req->path, req->amount, fd);
	}
	errno = EINVAL;
	return -1;
}

/* ------------------------------------------------------------------------- */
/* The process */

static ssize_t receive(int sock, struct request *req, int *ret_fd)
{
	struct iovec iov = { .iov_base = req, .iov_len = sizeof(*req) };
	union control control;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	struct cmsghdr *cmsg = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;

	*ret_fd = -1;
	if (cmsg)
		memcpy(ret_fd, CMSG_DATA(cmsg), sizeof(*ret_fd));
	return n;
}

static _Noreturn void serve(int sock)
{
	struct request req;
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (receive(sock, &req, &fd) == sizeof(req)) {
		struct reply reply = { .begin_ns = now_ns() };

		reply.result = perform(&req, fd, &reply);
		if (reply.result < 0)
			reply.result = -errno;
		reply.end_ns = now_ns();
		if (!reply.got_ns)
			reply.got_ns = reply.end_ns;
		if (fd >= 0)
			close(fd);
		if (write(sock, &reply, sizeof(reply)) != sizeof(reply))
			break;
	}
	_exit(EXIT_SUCCESS);
}

void other_start(struct other *o)
{
	int socks[2];

	CALL(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks));
	fflush(NULL);
	o->pid = (pid_t)CALL(fork());
	if (!o->pid) {
		close(socks[0]);
		serve(socks[1]);
	}
	close(socks[1]);
	o->sock = socks[0];
	o->busy = false;
}

void other_stop(struct other *o)
{
	CHECK(!o->busy);
	/* Others may have inherited our end. */
	CALL(shutdown(o->sock, SHUT_RDWR));
	CALL(close(o->sock));
	expect_child_ok(o->pid, SOON_MS);
}

static void ask(struct other *o, struct request *req, const char *path, int fd)
{
	struct iovec iov = { .iov_base = req, .iov_len = sizeof(*req) };
	union control control = { .header = { .cmsg_level = SOL_SOCKET,
					      .cmsg_type = SCM_RIGHTS,
					      .cmsg_len = CMSG_LEN(sizeof(int)) } };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	CHECK(!o->busy);
	CHECK((size_t)snprintf(req->path, sizeof(req->path), "%s", path) < sizeof(req->path));
	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
	}
	CALL(sendmsg(o->sock, &msg, 0));
	o->busy = true;
}

void other_begin(struct other *o, enum op op, const char *path, long amount, int fd)
{
	struct request req = { .op = op, .amount = amount };

	ask(o, &req, path, fd);
}

void other_begin_fn(struct other *o, other_fn fn, const char *path, long amount, int fd)
{
	struct request req = { .op = OP_FUNCTION, .fn = fn, .amount = amount };

	ask(o, &req, path, fd);
}

static bool has_reply(const struct other *o, int ms)
{
	struct pollfd pfd = { .fd = o->sock, .events = POLLIN };
	int n;

	while ((n = poll(&pfd, 1, ms)) < 0 && errno == EINTR)
		;
	return n > 0;
}

bool other_waits(const struct other *o)
{
	return o->busy && !has_reply(o, 0);
}

int other_end(struct other *o, unsigned int ms)
{
	struct reply reply;

	CHECK(o->busy);
	if (!has_reply(o, (int)ms))
		fail_at(__FILE__, __LINE__, "the other side is still waiting after %u ms", ms);
	CHECK_EQ(read(o->sock, &reply, sizeof(reply)), sizeof(reply));
	o->busy = false;
	o->begin_ns = reply.begin_ns;
	o->got_ns = reply.got_ns;
	o->end_ns = reply.end_ns;
	return reply.result;
}

int other_do(struct other *o, enum op op, const char *path, long amount, int fd)
{
	other_begin(o, op, path, amount, fd);
	return other_end(o, SOON_MS);
}

unsigned int other_took_ms(const struct other *o)
{
	return (unsigned int)((o->end_ns - o->begin_ns) / MSEC);
}
