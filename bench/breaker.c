// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static int break_it(const char *path, off_t length, enum breaker_way way, struct breaker_times *s)
{
	int ret;

	s->called = now_ns();
	ret = way == BY_OPEN ? open(path, O_RDWR | O_CLOEXEC) : truncate(path, length);
	s->returned = now_ns();
	if (ret < 0)
		return errno;
	if (way == BY_OPEN)
		close(ret);
	return 0;
}

static void breaker_main(const char *path, off_t length, bool at_once, int in, int out,
			 struct breaker_times *s)
{
	const struct sched_param first = { .sched_priority = 1 };
	char way;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (at_once)
		sched_setscheduler(0, SCHED_FIFO, &first);
	while (read(in, &way, 1) == 1) {
		if (at_once)
			usleep(1000); /* until the one who told us is asleep */
		s->err = break_it(path, length, (enum breaker_way)way, s);
		if (write(out, &way, 1) != 1)
			break;
	}
	_exit(0);
}

void breaker_start(struct breaker *b, const struct env *env, const char *name, size_t length,
		   bool at_once)
{
	char path[sizeof(env->work) + 64];
	int to[2], from[2];

	snprintf(path, sizeof(path), "%s/%s", env->work, name);
	b->shared = mmap(NULL, sizeof(*b->shared), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (b->shared == MAP_FAILED || pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		die(errno, "starting the breaker");
	fflush(stdout);
	b->pid = fork();
	if (b->pid < 0)
		die(errno, "fork");
	if (!b->pid) {
		close(to[1]);
		breaker_main(path, (off_t)length, at_once, to[0], from[1], b->shared);
	}
	close(to[0]);
	close(from[1]);
	b->to = to[1];
	b->from = from[0];
}

void breaker_end(struct breaker *b)
{
	close(b->to);
	close(b->from);
	waitpid(b->pid, NULL, 0);
	munmap(b->shared, sizeof(*b->shared));
}

void breaker_run(struct breaker *b, enum breaker_way way)
{
	char c = (char)way;

	if (write(b->to, &c, 1) != 1 || read(b->from, &c, 1) != 1)
		die(errno, "the breaker is gone");
	if (b->shared->err)
		die(b->shared->err, "the breaker");
}
