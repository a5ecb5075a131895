// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "say.h"
#include "shim.h"

static int log_fd = STDERR_FILENO;
static enum daxlease_log_level log_level = DAXLEASE_LOG_ERR;
/* What the descriptor was at the start: a program may close it, and get it anew for a file. */
static dev_t log_dev;
static ino_t log_ino;

static int identify(int fd, dev_t *dev, ino_t *ino)
{
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	*dev = st.st_dev;
	*ino = st.st_ino;
	return 0;
}

int say_open(const char *path, enum daxlease_log_level level)
{
	int fd = STDERR_FILENO, err = 0;

	log_level = level;
	if (path) {
		/* Far up, so that the program gets the numbers that it would get without us. */
		fd = (int)syscall(SYS_openat, AT_FDCWD, path,
				  O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0644);
		if (fd >= 0) {
			int high = fcntl(fd, F_DUPFD_CLOEXEC, 200);

			if (high >= 0) {
				close(fd);
				fd = high;
			}
		} else {
			err = -errno;
			fd = STDERR_FILENO;
		}
	}
	if (identify(fd, &log_dev, &log_ino))
		fd = -1;
	log_fd = fd;
	return err;
}

int say_wants(enum daxlease_log_level level)
{
	return level <= log_level;
}

/* A program that writes nothing does not die of it when nobody reads any more. */
static void write_line(const char *line, size_t length)
{
	const struct timespec now = { 0 };
	sigset_t set, pending, old;
	ssize_t n;

	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	sigpending(&pending);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	do
		n = write(log_fd, line, length);
	while (n < 0 && errno == EINTR);
	/* Ours, if it was not there before. */
	if (n < 0 && errno == EPIPE && !sigismember(&pending, SIGPIPE)) {
		while (sigtimedwait(&set, NULL, &now) < 0 && errno == EINTR)
			;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void put(const char *line, size_t length)
{
	dev_t dev = 0;
	ino_t ino = 0;

	if (log_fd < 0)
		return;
	if (log_ino && (identify(log_fd, &dev, &ino) || dev != log_dev || ino != log_ino))
		return;
	write_line(line, length);
}

void say(enum daxlease_log_level level, const char *fmt, ...)
{
	int saved = errno, n, m, cancel;
	char line[1024];
	va_list args;

	if (!say_wants(level))
		return;
	cancel = shim_uncancelable();
	n = snprintf(line, sizeof(line), "daxlease-preload[%d]: ", (int)getpid());
	va_start(args, fmt);
	m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, args);
	va_end(args);
	n += m < 0 ? 0 : m;
	if ((size_t)n > sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	put(line, (size_t)n);
	shim_cancelable(cancel);
	errno = saved;
}

void say_line(enum daxlease_log_level level, const char *line, void *userdata)
{
	(void)userdata;
	say(level, "%s", line);
}
