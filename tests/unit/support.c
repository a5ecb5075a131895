// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fake_layout.h"
#include "fake_verbs.h"
#include "fault.h"
#include "support.h"

/* ------------------------------------------------------------------------- */
/* Time and the process itself */

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t now_ms(void)
{
	return now_ns() / 1000000;
}

void sleep_ms(unsigned int ms)
{
	uint64_t until = now_ms() + ms;

	/* Signals may shorten a sleep. */
	while (now_ms() < until)
		usleep(500);
}

static unsigned int count_entries(const char *path)
{
	DIR *dir = opendir(path);
	unsigned int n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 2; /* . and .. */
}

unsigned int count_fds(void)
{
	return count_entries("/proc/self/fd") - 1; /* that of the directory */
}

unsigned int count_threads(void)
{
	return count_entries("/proc/self/task");
}

/* ------------------------------------------------------------------------- */
/* Files */

static void map_file(struct file *f)
{
	f->map = mmap(NULL, f->size, f->prot, MAP_SHARED, f->fd, 0);
	assert_ptr_not_equal(f->map, MAP_FAILED);
}

void file_make(struct file *f, size_t pages, bool dax)
{
	*f = (struct file){ .path = "test-XXXXXX",
			    .prot = PROT_READ | PROT_WRITE,
			    .size = pages * PAGE };
	f->fd = mkostemp(f->path, O_CLOEXEC);
	assert_true(f->fd >= 0);
	assert_int_equal(ftruncate(f->fd, (off_t)f->size), 0);
	assert_int_equal(fchmod(f->fd, 0600 | (dax ? FAULT_DAX_BIT : 0)), 0);
	map_file(f);
}

void file_make_readonly(struct file *f, size_t pages)
{
	file_make(f, pages, true);
	munmap(f->map, f->size);
	close(f->fd);
	f->fd = open(f->path, O_RDONLY | O_CLOEXEC);
	assert_true(f->fd >= 0);
	f->prot = PROT_READ;
	map_file(f);
}

void file_end(struct file *f)
{
	if (f->map)
		munmap(f->map, f->size);
	if (f->fd >= 0)
		close(f->fd);
	if (f->path[0])
		unlink(f->path);
	*f = (struct file){ .fd = -1 };
}

int file_lease(const struct file *f)
{
	return fcntl(f->fd, F_GETLEASE);
}

void not_the_owner(bool yes)
{
	static uid_t owner;

	if (yes)
		owner = geteuid();
	if (owner)
		fault_refuse_leases(yes ? -EACCES : 0);
	else
		assert_int_equal(seteuid(yes ? 65534 : 0), 0);
}

/* ------------------------------------------------------------------------- */
/* Another process that wants the file */

struct answer {
	int err;
	uint64_t done_ns;
};

struct order {
	const struct file *files;
	unsigned int n;
	int flags;
	bool truncate;
	off_t size;
};

static int carry_out(const struct order *o)
{
	int err = 0;

	for (unsigned int i = 0; i < o->n; i++) {
		int ret = o->truncate ? truncate(o->files[i].path, o->size) :
					open(o->files[i].path, o->flags);

		if (ret < 0)
			err = errno;
	}
	return err;
}

/* The child; only what is safe after fork in a program with threads. */
static void __attribute__((noreturn)) serve_order(const struct order *o, int ctl)
{
	struct answer answer;
	char c;

	if (dup2(ctl, 3) < 0)
		_exit(1);
	close_range(4, ~0u, 0);
	answer.err = carry_out(o);
	answer.done_ns = now_ns();
	if (write(3, &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
		_exit(1);
	while (read(3, &c, 1) < 0 && errno == EINTR)
		;
	_exit(0);
}

static void breaker_start(struct breaker *b, const struct order *o)
{
	int pair[2];

	*b = (struct breaker){ .pid = -1 };
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	b->pid = fork();
	assert_true(b->pid >= 0);
	if (!b->pid)
		serve_order(o, pair[1]);
	close(pair[1]);
	b->ctl = pair[0];
}

void breaker_open_all(struct breaker *b, const struct file *files, unsigned int n, int flags)
{
	breaker_start(b, &(struct order){ .files = files, .n = n, .flags = flags });
}

void breaker_open(struct breaker *b, const struct file *f, int flags)
{
	breaker_open_all(b, f, 1, flags);
}

void breaker_truncate(struct breaker *b, const struct file *f, size_t size)
{
	breaker_start(b,
		      &(struct order){ .files = f, .n = 1, .truncate = true, .size = (off_t)size });
}

bool breaker_done(struct breaker *b)
{
	struct answer answer;
	ssize_t n;

	if (b->answered)
		return true;
	n = recv(b->ctl, &answer, sizeof(answer), MSG_DONTWAIT);
	if (n != (ssize_t)sizeof(answer))
		return false;
	b->answered = true;
	b->err = answer.err;
	b->done_ns = answer.done_ns;
	return true;
}

void breaker_end(struct breaker *b)
{
	if (b->pid <= 0)
		return;
	if (!breaker_done(b))
		kill(b->pid, SIGKILL);
	close(b->ctl);
	while (waitpid(b->pid, NULL, 0) < 0 && errno == EINTR)
		;
	b->pid = 0;
}

/* ------------------------------------------------------------------------- */
/* A context */

const struct mode mode_thread = { DAXLEASE_MODE_THREAD, 0 };
const struct mode mode_loop = { DAXLEASE_MODE_LOOP, 0 };
const struct mode mode_signal = { DAXLEASE_MODE_SIGNAL, 0 };
const struct mode mode_signal_rt = { DAXLEASE_MODE_SIGNAL, 40 };

static struct daxlease_ctx *_Atomic signal_ctx;

static void on_signal(int signo, siginfo_t *info, void *uctx)
{
	struct daxlease_ctx *ctx = atomic_load(&signal_ctx);

	(void)signo;
	(void)uctx;
	if (ctx)
		daxlease_ctx_notify(ctx, info);
}

static void handle(int signo)
{
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };

	assert_int_equal(sigaction(signo, &sa, NULL), 0);
}

static void on_log(enum daxlease_log_level level, const char *line, void *userdata)
{
	struct fix *fx = userdata;
	unsigned int i = atomic_fetch_add(&fx->nlines, 1);

	if (getenv("TEST_LOG"))
		fprintf(stderr, "%d %s\n", level, line);
	if (i >= LOG_LINES)
		return;
	fx->levels[i] = level;
	snprintf(fx->lines[i], sizeof(fx->lines[i]), "%s", line);
}

int fix_open(struct fix *fx)
{
	const struct daxlease_ctx_opts opts = {
		.size = sizeof(opts),
		.mode = fx->mode->mode,
		.kind = fx->kind,
		.signo = fx->mode->signo,
		.guard_socket = fx->guard_socket,
		.flags = fx->flags,
		.log_fn = on_log,
		.log_level = DAXLEASE_LOG_DEBUG,
		.log_userdata = fx,
	};
	int err;

	if (fx->mode->mode == DAXLEASE_MODE_SIGNAL) {
		handle(SIGIO);
		if (fx->mode->signo)
			handle(fx->mode->signo);
	}
	err = daxlease_ctx_new(&opts, &fx->ctx);
	if (!err && fx->mode->mode == DAXLEASE_MODE_SIGNAL)
		atomic_store(&signal_ctx, fx->ctx);
	return err;
}

void fix_begin(struct fix *fx, const struct mode *mode)
{
	fx->mode = mode;
	fake_reset();
	fault_reset();
	atomic_store(&signal_ctx, NULL);
	fx->fds = count_fds();
	fx->threads = count_threads();
	file_make(&fx->file, 4, true);
}

bool fix_threads_gone(const struct fix *fx)
{
	for (int i = 0; i < 1000 && count_threads() > fx->threads; i++)
		sleep_ms(1);
	return count_threads() == fx->threads;
}

int fix_setup(void **state)
{
	struct fix *fx = calloc(1, sizeof(*fx));

	if (!fx)
		return -1;
	fix_begin(fx, *state ? *state : &mode_thread);
	assert_int_equal(fix_open(fx), 0);
	*state = fx;
	return 0;
}

int fix_teardown(void **state)
{
	struct fix *fx = *state;

	fake_open_reg();
	fake_open_dereg();
	fix_serve_stop(fx);
	if (fx->ctx)
		assert_int_equal(daxlease_ctx_free(fx->ctx), 0);
	atomic_store(&signal_ctx, NULL);
	assert_int_equal(file_lease(&fx->file), F_UNLCK);
	assert_int_equal(fake_layout_leases(NULL), 0);
	file_end(&fx->file);
	assert_int_equal(fake_live(), 0);
	assert_int_equal(count_fds(), fx->fds);
	assert_true(fix_threads_gone(fx));
	free(fx);
	return 0;
}

static void dispatch(struct fix *fx)
{
	struct pollfd pfd = { .fd = daxlease_ctx_get_fd(fx->ctx), .events = POLLIN };

	if (poll(&pfd, 1, 1) > 0)
		daxlease_ctx_dispatch(fx->ctx);
}

void fix_turn(struct fix *fx)
{
	if (fx->mode->mode == DAXLEASE_MODE_THREAD || fx->idle || atomic_load(&fx->served))
		usleep(500);
	else
		dispatch(fx);
}

static void *serve(void *arg)
{
	struct fix *fx = arg;

	while (atomic_load(&fx->served))
		dispatch(fx);
	return NULL;
}

void fix_serve(struct fix *fx)
{
	if (fx->mode->mode == DAXLEASE_MODE_THREAD)
		return;
	atomic_store(&fx->served, true);
	assert_int_equal(pthread_create(&fx->server, NULL, serve, fx), 0);
}

void fix_serve_stop(struct fix *fx)
{
	if (!atomic_exchange(&fx->served, false))
		return;
	pthread_join(fx->server, NULL);
}

void fix_stats(struct fix *fx, struct daxlease_stats *stats)
{
	stats->size = sizeof(*stats);
	assert_int_equal(daxlease_ctx_get_stats(fx->ctx, stats), 0);
}

void fix_forget_log(struct fix *fx)
{
	atomic_store(&fx->nlines, 0);
}

bool fix_said(struct fix *fx, const char *text)
{
	for (unsigned int i = 0; i < atomic_load(&fx->nlines) && i < LOG_LINES; i++) {
		if (strstr(fx->lines[i], text))
			return true;
	}
	return false;
}

unsigned int fix_lines(struct fix *fx, enum daxlease_log_level level)
{
	unsigned int all = atomic_load(&fx->nlines);
	unsigned int n = 0;

	for (unsigned int i = 0; i < all && i < LOG_LINES; i++)
		n += fx->levels[i] == level;
	return n;
}

/* ------------------------------------------------------------------------- */
/* The user of a region */

static void enter(struct user *u)
{
	if (atomic_fetch_add(&u->running, 1))
		atomic_fetch_add(&u->overlaps, 1);
}

static void leave(struct user *u)
{
	atomic_fetch_sub(&u->running, 1);
}

static int on_drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	struct user *u = userdata;

	(void)mr;
	enter(u);
	u->brk = *brk;
	atomic_store(&u->cause, (int)brk->cause);
	atomic_store(&u->in_drain, true);
	atomic_fetch_add(&u->drains, 1);
	if (u->on_drain)
		u->on_drain(u);
	while (atomic_load(&u->block_drain))
		usleep(500);
	atomic_store(&u->in_drain, false);
	leave(u);
	return atomic_load(&u->drain_answer);
}

static void on_release(struct daxlease_mr *mr, int result, void *userdata)
{
	struct user *u = userdata;

	(void)mr;
	enter(u);
	atomic_store(&u->result, result);
	if (u->on_release)
		u->on_release(u);
	leave(u);
	atomic_fetch_add(&u->releases, 1);
}

static void on_regain(struct daxlease_mr *mr, const struct daxlease_regain *regain, void *userdata)
{
	struct user *u = userdata;

	(void)mr;
	enter(u);
	u->regain = *regain;
	atomic_store(&u->regain_error, regain->error);
	leave(u);
	atomic_fetch_add(regain->error ? &u->regain_errors : &u->regains, 1);
}

static void on_guard(struct daxlease_mr *mr, bool guarded, void *userdata)
{
	struct user *u = userdata;

	(void)mr;
	enter(u);
	atomic_store(&u->guarded, guarded);
	leave(u);
	atomic_fetch_add(&u->guards, 1);
}

struct daxlease_mr_opts user_opts(struct user *u, unsigned int flags, uint32_t budget_ms)
{
	return (struct daxlease_mr_opts){
		.size = sizeof(struct daxlease_mr_opts),
		.flags = flags,
		.drain_budget_ms = budget_ms,
		.drain = on_drain,
		.release = on_release,
		.regain = on_regain,
		.guard = on_guard,
		.userdata = u,
	};
}

int user_try(struct fix *fx, struct user *u, struct file *f, size_t from, size_t n,
	     const struct daxlease_mr_opts *opts)
{
	int access = f->prot & PROT_WRITE ? ACCESS : 0;

	return daxlease_reg_mr(fx->ctx, &fake_pd, f->fd, f->map + from * PAGE, n * PAGE, access,
			       opts, &u->mr);
}

void user_reg(struct fix *fx, struct user *u, unsigned int flags, uint32_t budget_ms)
{
	struct daxlease_mr_opts opts = user_opts(u, flags, budget_ms);

	assert_int_equal(user_try(fx, u, &fx->file, 0, fx->file.size / PAGE, &opts), 0);
}

void user_dereg(struct user *u)
{
	assert_int_equal(daxlease_dereg_mr(u->mr), 0);
	u->mr = NULL;
	assert_int_equal(atomic_load(&u->overlaps), 0);
}

enum daxlease_state user_state(const struct user *u)
{
	return daxlease_mr_get_state(u->mr);
}

void break_and_release(struct fix *fx, struct user *u, struct breaker *b)
{
	unsigned int releases = atomic_load(&u->releases);

	breaker_open(b, &fx->file, O_WRONLY);
	EVENTUALLY(fx, breaker_done(b));
	assert_int_equal(b->err, 0);
	EVENTUALLY(fx, atomic_load(&u->releases) == releases + 1);
	assert_true(b->done_ns >= fake_last_dereg_ns());
}
