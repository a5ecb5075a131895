// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fake_fan.h"
#include "fault.h"
#include "support.h"

#define MAX_GROUPS 8
#define MAX_MARKS 256
#define MAX_TASKS 64
#define MAX_EVENTS 4096

struct mark {
	bool used, marked[MAX_GROUPS];
	dev_t dev;
	ino_t ino;
	unsigned int watches, unwatches;
};

struct task {
	pid_t tid;
	char text[160];
	int err, threads, fd;
	unsigned int runs;
	bool hangs;
	struct fan_file file;
};

/* An event for one group. */
struct copy {
	enum {
		NONE,
		QUEUED,
		READ,
		ANSWERED
	} state;
	int fd, err;
};

struct event {
	char path[64];
	bool open;
	pid_t tid;
	int fd_error;
	uint64_t answered_ns;
	struct copy copies[MAX_GROUPS];
};

static struct {
	bool on, frozen, shut, remote;
	int pipes[MAX_GROUPS]; /* the ends to write to; the groups have the others */
	ino_t inodes[MAX_GROUPS];
	int owner, openers_pid, break_time, fail_err;
	unsigned int openers, scans, slow_ms, shut_out, fail_watch, strays;
	enum fan_moves moves;
	struct mark marks[MAX_MARKS];
	struct task tasks[MAX_TASKS];
	struct event events[MAX_EVENTS];
	unsigned int nevents, first; /* those before first are answered */
} fake;

static int init_error = -EPERM;

/* Innermost of all locks. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

void fake_fan_on(void)
{
	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; fake.on && i < MAX_GROUPS; i++) /* a test failed */
		close(fake.pipes[i]);
	memset(&fake, 0, sizeof(fake));
	fake.owner = -1;
	fake.break_time = 45;
	for (unsigned int i = 0; i < MAX_GROUPS; i++) {
		struct stat st;
		int fds[2];

		assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
		assert_int_equal(fstat(fds[1], &st), 0);
		fake.inodes[i] = st.st_ino;
		close(fds[0]);
		fake.pipes[i] = fds[1];
	}
	signal(SIGPIPE, SIG_IGN);
	fake.on = true;
	pthread_mutex_unlock(&lock);
}

/* Somebody has the other end. */
static bool is_open(unsigned int group)
{
	struct pollfd pfd = { .fd = fake.pipes[group] };
	int n;

	do /* a signal that is pending ends it even if it does not wait */
		n = poll(&pfd, 1, 0);
	while (n < 0 && errno == EINTR);
	return fake.on && n == 0;
}

static unsigned int count_groups(void)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < MAX_GROUPS; i++)
		n += is_open(i);
	return n;
}

unsigned int fake_fan_groups(void)
{
	unsigned int n;

	pthread_mutex_lock(&lock);
	n = count_groups();
	pthread_mutex_unlock(&lock);
	return n;
}

/* A thread can be joined a moment before the kernel closes what is in its own table. */
void fake_fan_gone(void)
{
	for (unsigned int i = 0; fake_fan_groups() && i < 1000; i++)
		usleep(1000);
	assert_int_equal(fake_fan_groups(), 0);
}

void fake_fan_off(void)
{
	fake_fan_gone();
	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; fake.on && i < MAX_GROUPS; i++)
		close(fake.pipes[i]);
	fake.on = false;
	pthread_mutex_unlock(&lock);
}

void fake_fan_fail_init(int err)
{
	pthread_mutex_lock(&lock);
	init_error = err;
	pthread_mutex_unlock(&lock);
}

void fake_fan_after_fork(void)
{
	pthread_mutex_init(&lock, NULL);
	pthread_cond_init(&changed, NULL);
}

/* ------------------------------------------------------------------------- */
/* Groups */

static void wake_all(void)
{
	for (unsigned int i = 0; i < MAX_GROUPS; i++) {
		if (is_open(i) && write(fake.pipes[i], "", 1) < 0)
			assert_true(errno == EAGAIN || errno == EPIPE);
	}
}

void fake_fan_freeze(bool yes)
{
	pthread_mutex_lock(&lock);
	fake.frozen = yes;
	if (!yes)
		wake_all();
	pthread_mutex_unlock(&lock);
}

static int open_group(unsigned int group)
{
	char path[48];
	int fd;

	for (unsigned int i = 0; i < MAX_MARKS; i++)
		fake.marks[i].marked[group] = false;
	for (unsigned int i = 0; i < fake.nevents; i++)
		fake.events[i].copies[group].state = NONE;
	/* By the table of the test, which is the first thread's. */
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getpid(), fake.pipes[group]);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int fan_init(void)
{
	int ret;

	pthread_mutex_lock(&lock);
	ret = fake.on ? 0 : init_error;
	pthread_mutex_unlock(&lock);
	if (!ret)
		ret = fault_check("fan_init", -EMFILE);
	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; !ret && i < MAX_GROUPS; i++) {
		if (!is_open(i))
			ret = open_group(i);
	}
	pthread_mutex_unlock(&lock);
	return ret ? ret : -EMFILE;
}

bool fake_fan_is_group(int fd)
{
	struct stat st;
	bool is = false;

	if (fstat(fd, &st) < 0 || !S_ISFIFO(st.st_mode) ||
	    (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY)
		return false;
	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < MAX_GROUPS; i++)
		is |= fake.inodes[i] == st.st_ino;
	pthread_mutex_unlock(&lock);
	return is;
}

/* Whatever number it has here: it may be a borrowed one. */
static unsigned int group_of(int fan)
{
	struct stat st;
	unsigned int i = 0;

	assert_int_equal(fstat(fan, &st), 0);
	while (i < MAX_GROUPS && fake.inodes[i] != st.st_ino)
		i++;
	assert_true(i < MAX_GROUPS);
	return i;
}

static struct mark *find_mark(const struct stat *st, bool make)
{
	for (struct mark *m = fake.marks; m < fake.marks + MAX_MARKS; m++) {
		if (m->used && m->dev == st->st_dev && m->ino == st->st_ino)
			return m;
	}
	for (struct mark *m = fake.marks; make && m < fake.marks + MAX_MARKS; m++) {
		if (m->used)
			continue;
		*m = (struct mark){ .used = true, .dev = st->st_dev, .ino = st->st_ino };
		return m;
	}
	assert_false(make);
	return NULL;
}

struct fake_marks fake_fan_marks(int fd)
{
	struct fake_marks ret = { 0 };
	const struct mark *m;
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	pthread_mutex_lock(&lock);
	m = find_mark(&st, false);
	for (unsigned int i = 0; m && i < MAX_GROUPS; i++)
		ret.marked += m->marked[i] && is_open(i);
	if (m) {
		ret.watches = m->watches;
		ret.unwatches = m->unwatches;
	}
	pthread_mutex_unlock(&lock);
	return ret;
}

void fake_fan_fail_watch(unsigned int n, int err)
{
	pthread_mutex_lock(&lock);
	fake.fail_watch = n;
	fake.fail_err = err;
	pthread_mutex_unlock(&lock);
}

static int watch(unsigned int group, int fd)
{
	struct stat st;
	struct mark *m;

	if (fake.fail_watch) {
		fake.fail_watch--;
		return fake.fail_err;
	}
	if (fstat(fd, &st) < 0)
		return -errno;
	m = find_mark(&st, true);
	m->watches++;
	m->marked[group] = true;
	return 0;
}

int fan_watch(int fan, int fd)
{
	unsigned int group = group_of(fan);
	int err = fault_check("fan_watch", -ENOSPC);

	pthread_mutex_lock(&lock);
	if (!err)
		err = watch(group, fd);
	pthread_mutex_unlock(&lock);
	return err;
}

int fan_unwatch(int fan, int fd)
{
	unsigned int group = group_of(fan);
	struct stat st;
	struct mark *m;
	int err = 0;

	if (fstat(fd, &st) < 0)
		return -errno;
	pthread_mutex_lock(&lock);
	m = find_mark(&st, false);
	if (m && m->marked[group]) {
		m->marked[group] = false;
		m->unwatches++;
	} else {
		err = -ENOENT;
		fake.strays++;
	}
	pthread_mutex_unlock(&lock);
	return err;
}

/* ------------------------------------------------------------------------- */
/* Events */

static int read_event(struct event *ev, struct copy *copy, struct fan_event *ret_event)
{
	*ret_event = (struct fan_event){ .fd = ev->fd_error, .tid = ev->tid, .open = ev->open };
	copy->state = ANSWERED;
	if (ev->fd_error)
		return 1;
	copy->state = READ;
	/* In the table of whoever reads. */
	copy->fd = ret_event->fd = open(ev->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	assert_true(copy->fd >= 0);
	return 1;
}

int fan_read(int fan, struct fan_event *ret_events, bool *ret_more)
{
	unsigned int group = group_of(fan);
	char drain[64];
	int n = 0;

	pthread_mutex_lock(&lock);
	for (unsigned int i = fake.first; i < fake.nevents && n < FAN_EVENTS && !fake.frozen; i++) {
		struct event *ev = &fake.events[i];

		if (ev->copies[group].state == QUEUED)
			n += read_event(ev, &ev->copies[group], &ret_events[n]);
	}
	*ret_more = n == FAN_EVENTS;
	while (!*ret_more && read(fan, drain, sizeof(drain)) > 0)
		;
	pthread_mutex_unlock(&lock);
	return n ? n : -EAGAIN;
}

int fan_answer(int fan, int fd, int err)
{
	unsigned int group = group_of(fan);
	int ret = -ENOENT;

	pthread_mutex_lock(&lock);
	for (unsigned int i = fake.first; i < fake.nevents; i++) {
		struct copy *copy = &fake.events[i].copies[group];

		if (copy->state != READ || copy->fd != fd)
			continue;
		*copy = (struct copy){ .state = ANSWERED, .err = err };
		fake.events[i].answered_ns = now_ns();
		ret = 0;
		break;
	}
	if (ret)
		fake.strays++;
	pthread_mutex_unlock(&lock);
	return ret;
}

static int answer_of(const struct event *ev)
{
	int ret = 0;

	for (unsigned int i = 0; i < MAX_GROUPS; i++) {
		const struct copy *copy = &ev->copies[i];

		if ((copy->state == QUEUED || copy->state == READ) && is_open(i))
			return FAKE_WAITS;
		if (copy->state == ANSWERED && copy->err)
			ret = copy->err;
	}
	return ret;
}

int fake_fan_answer(int event)
{
	int ret;

	pthread_mutex_lock(&lock);
	assert_true(event >= 0 && (unsigned int)event < fake.nevents);
	ret = answer_of(&fake.events[event]);
	pthread_mutex_unlock(&lock);
	return ret;
}

bool fake_fan_waiting(void)
{
	bool waiting = false;

	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < fake.nevents && !waiting; i++)
		waiting = answer_of(&fake.events[i]) == FAKE_WAITS;
	if (!waiting)
		fake.nevents = fake.first = 0;
	pthread_mutex_unlock(&lock);
	return waiting;
}

uint64_t fake_fan_answered_ns(int event)
{
	uint64_t ns;

	pthread_mutex_lock(&lock);
	ns = fake.events[event].answered_ns;
	pthread_mutex_unlock(&lock);
	return ns;
}

unsigned int fake_fan_strays(void)
{
	unsigned int n;

	pthread_mutex_lock(&lock);
	n = fake.strays;
	pthread_mutex_unlock(&lock);
	return n;
}

static int put_event(const struct event *new, bool anyway)
{
	const struct mark *m = NULL;
	struct event *ev;
	struct stat st;
	int ret;

	if (new->path[0])
		assert_int_equal(stat(new->path, &st), 0);
	pthread_mutex_lock(&lock);
	assert_true(fake.nevents < MAX_EVENTS);
	if (new->path[0])
		m = find_mark(&st, false);
	ret = (int)fake.nevents;
	ev = &fake.events[fake.nevents++];
	*ev = *new;
	for (unsigned int i = 0; i < MAX_GROUPS; i++) {
		if (is_open(i) && (anyway || (m && m->marked[i])))
			ev->copies[i].state = QUEUED;
	}
	while (fake.first < fake.nevents && answer_of(&fake.events[fake.first]) != FAKE_WAITS)
		fake.first++;
	wake_all();
	pthread_mutex_unlock(&lock);
	return ret;
}

static int make_event(const char *path, bool open, pid_t tid, bool anyway)
{
	struct event ev = { .open = open, .tid = tid };

	snprintf(ev.path, sizeof(ev.path), "%s", path);
	return put_event(&ev, anyway);
}

int fake_fan_event(const char *path, bool open, pid_t tid)
{
	return make_event(path, open, tid, false);
}

int fake_fan_event_anyway(const char *path, bool open, pid_t tid)
{
	return make_event(path, open, tid, true);
}

void fake_fan_event_without_fd(pid_t tid, int err)
{
	put_event(&(struct event){ .tid = tid, .fd_error = err }, true);
}

/* ------------------------------------------------------------------------- */
/* Files */

void fake_fan_owner(uid_t uid)
{
	pthread_mutex_lock(&lock);
	fake.owner = (int)uid;
	pthread_mutex_unlock(&lock);
}

int fan_file_info(int fd, struct fan_file *ret_file)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	pthread_mutex_lock(&lock);
	*ret_file = (struct fan_file){ .dev = st.st_dev,
				       .ino = st.st_ino,
				       .mode = st.st_mode,
				       .uid = fake.owner < 0 ? st.st_uid : (uid_t)fake.owner };
	pthread_mutex_unlock(&lock);
	return 0;
}

int fan_event_file(int fd, struct fan_file *ret_file)
{
	return fan_file_info(fd, ret_file);
}

int fan_access_mode(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	return flags & O_PATH ? -EBADF : flags & O_ACCMODE;
}

void fake_fan_shut(bool shut)
{
	pthread_mutex_lock(&lock);
	fake.shut = shut;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

unsigned int fake_fan_shut_out(void)
{
	unsigned int n;

	pthread_mutex_lock(&lock);
	n = fake.shut_out;
	pthread_mutex_unlock(&lock);
	return n;
}

static void wait_open(void)
{
	fake.shut_out++;
	while (fake.shut)
		pthread_cond_wait(&changed, &lock);
	fake.shut_out--;
}

void fake_fan_moves(enum fan_moves moves)
{
	pthread_mutex_lock(&lock);
	fake.moves = moves;
	pthread_mutex_unlock(&lock);
}

void fake_fan_remote(bool remote)
{
	pthread_mutex_lock(&lock);
	fake.remote = remote;
	pthread_mutex_unlock(&lock);
}

bool fan_is_remote(int fd)
{
	bool remote;

	(void)fd;
	pthread_mutex_lock(&lock);
	remote = fake.remote;
	pthread_mutex_unlock(&lock);
	return remote;
}

enum fan_moves fan_writes_move(int fd)
{
	enum fan_moves moves;

	(void)fd;
	pthread_mutex_lock(&lock);
	wait_open();
	moves = fake.moves;
	pthread_mutex_unlock(&lock);
	return moves;
}

void fake_fan_set_openers(unsigned int n, pid_t pid)
{
	pthread_mutex_lock(&lock);
	fake.openers = n;
	fake.openers_pid = pid;
	pthread_mutex_unlock(&lock);
}

void fake_fan_slow_scan(unsigned int ms)
{
	pthread_mutex_lock(&lock);
	fake.slow_ms = ms;
	pthread_mutex_unlock(&lock);
}

unsigned int fake_fan_scans(void)
{
	unsigned int n;

	pthread_mutex_lock(&lock);
	n = fake.scans;
	pthread_mutex_unlock(&lock);
	return n;
}

unsigned int fan_openers(const struct fan_file *file, pid_t except, pid_t *ret_pid)
{
	unsigned int n;

	(void)file;
	(void)except;
	pthread_mutex_lock(&lock);
	n = fake.slow_ms;
	pthread_mutex_unlock(&lock);
	sleep_ms(n);
	pthread_mutex_lock(&lock);
	wait_open();
	fake.scans++;
	n = fake.openers;
	if (n)
		*ret_pid = fake.openers_pid;
	pthread_mutex_unlock(&lock);
	return n;
}

/* ------------------------------------------------------------------------- */
/* Tasks */

static struct task *find_task(pid_t tid, bool make)
{
	for (struct task *t = fake.tasks; t < fake.tasks + MAX_TASKS; t++) {
		if (t->tid == tid)
			return t;
	}
	for (struct task *t = fake.tasks; make && t < fake.tasks + MAX_TASKS; t++) {
		if (t->tid)
			continue;
		*t = (struct task){ .tid = tid, .threads = 1, .fd = -1 };
		return t;
	}
	assert_false(make);
	return NULL;
}

void fake_fan_task(pid_t tid, const char *text)
{
	struct task *t;

	pthread_mutex_lock(&lock);
	t = find_task(tid, true);
	t->err = text ? 0 : -ENOENT;
	snprintf(t->text, sizeof(t->text), "%s", text ? text : "");
	pthread_mutex_unlock(&lock);
}

void fake_fan_task_error(pid_t tid, int err)
{
	pthread_mutex_lock(&lock);
	find_task(tid, true)->err = err;
	pthread_mutex_unlock(&lock);
}

void fake_fan_task_runs(pid_t tid, unsigned int n)
{
	pthread_mutex_lock(&lock);
	find_task(tid, true)->runs = n;
	pthread_mutex_unlock(&lock);
}

void fake_fan_task_hangs(pid_t tid, bool hangs)
{
	pthread_mutex_lock(&lock);
	find_task(tid, true)->hangs = hangs;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

void fake_fan_task_threads(pid_t tid, int n)
{
	pthread_mutex_lock(&lock);
	find_task(tid, true)->threads = n;
	pthread_mutex_unlock(&lock);
}

void fake_fan_task_fd(pid_t tid, int fd, const struct fan_file *file)
{
	struct task *t;

	pthread_mutex_lock(&lock);
	t = find_task(tid, true);
	t->fd = fd;
	t->file = *file;
	pthread_mutex_unlock(&lock);
}

/* A file as long as the task's number. */
int fan_open_call(pid_t tid)
{
	int fd;

	pthread_mutex_lock(&lock);
	fd = fake.on && find_task(tid, false) ? memfd_create("syscall", MFD_CLOEXEC) : -1;
	pthread_mutex_unlock(&lock);
	if (fd < 0)
		return -ENOENT;
	assert_int_equal(ftruncate(fd, tid), 0);
	return fd;
}

static int task_call(pid_t tid, char *ret_text, size_t size)
{
	struct task *t;
	int err;

	pthread_mutex_lock(&lock);
	fake.shut_out++;
	while ((t = fake.on ? find_task(tid, false) : NULL) && t->hangs)
		pthread_cond_wait(&changed, &lock);
	fake.shut_out--;
	err = t ? t->err : -ENOENT;
	if (!err)
		snprintf(ret_text, size, "%s", t->runs ? "running\n" : t->text);
	if (t && t->runs)
		t->runs--;
	pthread_mutex_unlock(&lock);
	return err;
}

int fan_read_call(int fd, char *ret_text, size_t size)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return task_call((pid_t)st.st_size, ret_text, size);
}

int fan_task_threads(pid_t tid)
{
	const struct task *t;
	int n;

	pthread_mutex_lock(&lock);
	t = find_task(tid, false);
	n = t ? t->threads : -ENOENT;
	pthread_mutex_unlock(&lock);
	return n;
}

int fan_task_fd(pid_t tid, int fd, struct fan_file *ret_file)
{
	const struct task *t;
	int err = -ENOENT;

	pthread_mutex_lock(&lock);
	t = find_task(tid, false);
	if (t && t->fd == fd) {
		*ret_file = t->file;
		err = 0;
	}
	pthread_mutex_unlock(&lock);
	return err;
}

/* ------------------------------------------------------------------------- */
/* Time */

void fake_fan_break_time(int seconds)
{
	pthread_mutex_lock(&lock);
	fake.break_time = seconds;
	pthread_mutex_unlock(&lock);
}

int fan_open_break_time(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int fan_break_time(int fd)
{
	int seconds;

	(void)fd;
	pthread_mutex_lock(&lock);
	seconds = fake.break_time;
	pthread_mutex_unlock(&lock);
	return seconds;
}

uint64_t fan_now_ns(void)
{
	return now_ns();
}
