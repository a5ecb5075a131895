// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The kind guard from end to end: regions under it, in this process and with a
 * daemon. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon.h"
#include "fake_fan.h"
#include "fake_layout.h"
#include "fake_verbs.h"
#include "fault.h"
#include "guard.h"
#include "lease.h"
#include "sock.h"
#include "support.h"

/* And the process: several may run in one directory. */
#define SOCKET "test-guard-"

static char socket_path[32];

static const char truncates[] = "76 0x7f00 0x1000 0x0 0x0 0x0 0x0 0x7ffc12345678 0x7f0012345678\n";
static const char reads[] = "0 0x3 0x7f00 0x1000 0x0 0x0 0x0 0x7ffc12345678 0x7f0012345678\n";
static const char sleeps[] = "35 0x3 0x7f00 0x0 0x0 0x0 0x0 0x7ffc12345678 0x7f0012345678\n";

/* ------------------------------------------------------------------------- */
/* The stage */

static struct daemon *guard_daemon;

static int setup_with(void **state, enum daxlease_kind kind, const char *path, bool on)
{
	struct fix *fx = calloc(1, sizeof(*fx));

	assert_non_null(fx);
	if (on)
		fake_fan_on();
	fix_begin(fx, *state ? *state : &mode_thread);
	fx->kind = kind;
	fx->guard_socket = path;
	assert_int_equal(fix_open(fx), 0);
	*state = fx;
	return 0;
}

/* In this process. */
static int setup(void **state)
{
	return setup_with(state, DAXLEASE_KIND_GUARD, "", true);
}

static void start_daemon(bool foreign)
{
	const struct guard_opts opts = { .listeners = 2, .max_holds_of_user = 64 };

	guard_daemon = daemon_start(socket_path, &opts, foreign);
}

static void stop_daemon(void)
{
	daemon_stop(guard_daemon);
	guard_daemon = NULL;
}

static int setup_daemon(void **state)
{
	setup_with(state, DAXLEASE_KIND_GUARD, socket_path, true);
	start_daemon(false);
	return 0;
}

static int setup_without(void **state)
{
	return setup_with(state, DAXLEASE_KIND_GUARD, socket_path, true);
}

static int teardown(void **state)
{
	int ret;

	fake_fan_shut(false);
	stop_daemon();
	assert_int_equal(fake_fan_strays(), 0);
	ret = fix_teardown(state);
	fake_fan_gone();
	fake_fan_off();
	return ret;
}

static int event_on(const struct file *f, pid_t tid, const char *text)
{
	fake_fan_task(tid, text);
	return fake_fan_event(f->path, false, tid);
}

static int change(struct fix *fx, pid_t tid)
{
	return event_on(&fx->file, tid, truncates);
}

static void ended(pid_t tid)
{
	fake_fan_task(tid, sleeps);
}

static struct daxlease_mr_info info_of(const struct user *u)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };

	assert_int_equal(daxlease_mr_get_info(u->mr, &info), 0);
	return info;
}

static int reg(struct fix *fx, struct user *u, struct file *f, unsigned int flags)
{
	struct daxlease_mr_opts opts = user_opts(u, flags, 0);

	return user_try(fx, u, f, 0, f->size / PAGE, &opts);
}

/* The answer came after the last region was gone, which is all that it is
 * about. */
static void let_go_on(struct fix *fx, int event)
{
	EVENTUALLY(fx, fake_fan_answer(event) != FAKE_WAITS);
	assert_int_equal(fake_fan_answer(event), 0);
	assert_true(fake_fan_answered_ns(event) >= fake_last_dereg_ns());
}

static bool waits(int event)
{
	return fake_fan_answer(event) == FAKE_WAITS;
}

static bool answered(int event)
{
	return fake_fan_answer(event) == 0;
}

/* ------------------------------------------------------------------------- */
/* Breaks */

static void break__drained_then_answered(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	struct daxlease_stats stats;
	int event, read;

	user_reg(fx, &u, 0, 0);
	assert_int_equal(info_of(&u).kind, DAXLEASE_KIND_GUARD);
	assert_int_equal(info_of(&u).unseen, DAXLEASE_UNSEEN_FALLOCATE | LEASE_UNSEEN_LAYOUT);
	assert_true(info_of(&u).on_demand);
	assert_int_equal(fake_fan_marks(fx->file.fd).marked, 1);
	assert_int_equal(file_lease(&fx->file), F_UNLCK);
	event = change(fx, 50);
	EVENTUALLY(fx, atomic_load(&u.drains) == 1);
	assert_int_equal(atomic_load(&u.cause), DAXLEASE_CAUSE_BREAK);
	/* Others read meanwhile; whoever wants to change it waits. */
	read = event_on(&fx->file, 51, reads);
	EVENTUALLY(fx, answered(read));
	NOT_FOR_MS(fx, 30, !waits(event));
	assert_int_equal(fake_live(), 1);
	assert_int_equal(daxlease_mr_drained(u.mr), 0);
	let_go_on(fx, event);
	assert_int_equal(fake_live(), 0);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_int_equal(atomic_load(&u.result), 0);
	fix_stats(fx, &stats);
	assert_int_equal(stats.breaks, 1);
	assert_int_equal(stats.released, 1);
	assert_int_equal(stats.lost, 0);
	assert_int_equal(stats.leases, 0);
	user_dereg(&u);
	assert_int_equal(atomic_load(&u.drains), 1);
}

static void break__several_regions(void **state)
{
	struct fix *fx = *state;
	struct user u[2] = { { .drain_answer = 0 }, { .drain_answer = DAXLEASE_PENDING } };
	struct daxlease_mr_opts opts;
	int event;

	for (unsigned int i = 0; i < 2; i++) {
		opts = user_opts(&u[i], 0, 0);
		assert_int_equal(user_try(fx, &u[i], &fx->file, 2 * i, 2, &opts), 0);
	}
	assert_int_equal(fake_fan_marks(fx->file.fd).watches, 1);
	event = change(fx, 50);
	EVENTUALLY(fx, fake_live() == 1);
	NOT_FOR_MS(fx, 30, !waits(event));
	assert_int_equal(daxlease_mr_drained(u[1].mr), 0);
	let_go_on(fx, event);
	for (unsigned int i = 0; i < 2; i++) {
		EVENTUALLY(fx, atomic_load(&u[i].releases) == 1);
		user_dereg(&u[i]);
	}
}

static void break__by_deregistering(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	int event;

	user_reg(fx, &u, 0, 0);
	event = change(fx, 50);
	EVENTUALLY(fx, atomic_load(&u.drains) == 1);
	fix_serve(fx);
	user_dereg(&u);
	let_go_on(fx, event);
	assert_int_equal(atomic_load(&u.releases), 0);
}

/* A region that cannot be deregistered keeps the others waiting. */
static void break__deregistering_fails(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	int event;

	user_reg(fx, &u, 0, 0);
	fake_fail_dereg(UINT_MAX, EBUSY);
	event = change(fx, 50);
	EVENTUALLY(fx, fake_deregs() >= 3);
	assert_true(waits(event));
	fake_fail_dereg(0, 0);
	let_go_on(fx, event);
	assert_int_equal(fake_live(), 0);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	user_dereg(&u);
}

static void break__over_budget(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	uint64_t begin = now_ms();
	int event;

	user_reg(fx, &u, 0, 100);
	event = change(fx, 50);
	let_go_on(fx, event);
	assert_true(now_ms() - begin >= 100);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_int_equal(atomic_load(&u.result), -ETIMEDOUT);
	user_dereg(&u);
}

/* The guard says when it lets the others go on; fs.lease-break-time is not asked. */
static void break__deadline_of_the_guard(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	uint64_t begin = now_ms();
	int event;

	fake_fan_break_time(1);
	user_reg(fx, &u, 0, 0);
	event = change(fx, 50);
	let_go_on(fx, event);
	assert_true(now_ms() - begin >= 740);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_int_equal(atomic_load(&u.result), -ETIMEDOUT);
	user_dereg(&u);
}

static void break__too_late(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	struct daxlease_stats stats;
	int event;

	fake_fan_break_time(1);
	user_reg(fx, &u, 0, 0);
	fake_fail_dereg(1000, EBUSY);
	event = change(fx, 50);
	EVENTUALLY(fx, answered(event));
	assert_int_equal(fake_live(), 1);
	fake_fail_dereg(0, 0);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_int_equal(atomic_load(&u.result), -ESTALE);
	fix_stats(fx, &stats);
	assert_int_equal(stats.lost, 1);
	user_dereg(&u);
	EVENTUALLY(fx, fake_fan_marks(fx->file.fd).marked == 0);
}

static void exclusive__refuses(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 }, other = { 0 };
	int event, read;

	user_reg(fx, &u, DAXLEASE_MR_EXCLUSIVE, 0);
	event = change(fx, 50);
	read = event_on(&fx->file, 51, reads);
	EVENTUALLY(fx, !waits(event) && answered(read));
	assert_int_equal(fake_fan_answer(event), -ETXTBSY);
	NOT_FOR_MS(fx, 20, atomic_load(&u.drains));
	assert_int_equal(reg(fx, &other, &fx->file, 0), -EINVAL);
	assert_int_equal(fake_live(), 1);
	user_dereg(&u);
	assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
	event = change(fx, 50);
	let_go_on(fx, event);
	user_dereg(&u);
}

/* ------------------------------------------------------------------------- */
/* Coming back */

static void regain__after_the_call(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	int event, second;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	for (unsigned int i = 1; i <= 3; i++) {
		event = change(fx, 50);
		let_go_on(fx, event);
		EVENTUALLY(fx, atomic_load(&u.releases) == i);
		/* It runs, and so may others, who are not held up. */
		NOT_FOR_MS(fx, 30, fake_live());
		second = change(fx, 51);
		EVENTUALLY(fx, answered(second));
		ended(50);
		NOT_FOR_MS(fx, 30, fake_live());
		ended(51);
		EVENTUALLY(fx, atomic_load(&u.regains) == i);
		assert_int_equal(fake_fan_marks(fx->file.fd).watches, 1);
	}
	user_dereg(&u);
	EVENTUALLY(fx, fake_fan_marks(fx->file.fd).marked == 0);
	assert_int_equal(fake_fan_marks(fx->file.fd).unwatches, 1);
}

/* A new one is refused as long as a call that was let through runs. */
static void regain__registered_meanwhile(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 }, other = { 0 };
	int event;

	user_reg(fx, &u, 0, 0);
	event = change(fx, 50);
	let_go_on(fx, event);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	user_dereg(&u);
	assert_int_equal(reg(fx, &other, &fx->file, 0), -EAGAIN);
	assert_true(fix_said(fx, "is being changed"));
	ended(50);
	assert_int_equal(reg(fx, &other, &fx->file, 0), 0);
	user_dereg(&other);
}

static void recall__others_are_let_through(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	int event;

	fix_serve(fx);
	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	assert_int_equal(daxlease_mr_recall(u.mr), 0);
	assert_int_equal(fake_live(), 0);
	event = change(fx, 50);
	EVENTUALLY(fx, answered(event));
	assert_int_equal(daxlease_mr_regain(u.mr), -EAGAIN);
	ended(50);
	EVENTUALLY(fx, daxlease_mr_regain(u.mr) != -EAGAIN);
	EVENTUALLY(fx, user_state(&u) == DAXLEASE_STATE_ACTIVE);
	event = change(fx, 51);
	EVENTUALLY(fx, answered(event));
	EVENTUALLY(fx, atomic_load(&u.releases) == 2);
	fix_serve_stop(fx);
	user_dereg(&u);
}

/* ------------------------------------------------------------------------- */
/* Several */

#define FILES 40

static void many__files_at_once(void **state)
{
	struct fix *fx = *state;
	static struct file files[FILES];
	static struct user users[FILES];
	int events[FILES];

	memset(users, 0, sizeof(users));
	for (unsigned int i = 0; i < FILES; i++) {
		file_make(&files[i], 1, true);
		assert_int_equal(reg(fx, &users[i], &files[i], DAXLEASE_MR_REGAIN), 0);
	}
	for (unsigned int round = 1; round <= 3; round++) {
		for (unsigned int i = 0; i < FILES; i++)
			events[i] = event_on(&files[i], (pid_t)(100 + i % 20), truncates);
		for (unsigned int i = 0; i < FILES; i++)
			EVENTUALLY(fx, answered(events[i]));
		for (unsigned int i = 0; i < 20; i++)
			ended((pid_t)(100 + i));
		for (unsigned int i = 0; i < FILES; i++) {
			EVENTUALLY(fx, atomic_load(&users[i].regains) == round);
			assert_int_equal(atomic_load(&users[i].releases), round);
			assert_int_equal(atomic_load(&users[i].result), 0);
		}
	}
	for (unsigned int i = 0; i < FILES; i++) {
		user_dereg(&users[i]);
		file_end(&files[i]);
	}
}

/* Each with a guard of its own: whoever wants to change it waits for both. */
static void many__contexts(void **state)
{
	struct fix *fx = *state, second = { .guard_socket = "", .kind = DAXLEASE_KIND_GUARD };
	struct user u[2] = { { .drain_answer = DAXLEASE_PENDING },
			     { .drain_answer = DAXLEASE_PENDING } };
	int event;

	second.mode = &mode_thread;
	assert_int_equal(fix_open(&second), 0);
	user_reg(fx, &u[0], 0, 0);
	assert_int_equal(reg(&second, &u[1], &fx->file, 0), 0);
	assert_int_equal(fake_fan_marks(fx->file.fd).marked, 2);
	event = change(fx, 50);
	EVENTUALLY(fx, atomic_load(&u[0].drains) == 1 && atomic_load(&u[1].drains) == 1);
	assert_int_equal(daxlease_mr_drained(u[0].mr), 0);
	EVENTUALLY(fx, fake_live() == 1);
	NOT_FOR_MS(fx, 30, !waits(event));
	assert_int_equal(daxlease_mr_drained(u[1].mr), 0);
	let_go_on(fx, event);
	EVENTUALLY(fx, atomic_load(&u[0].releases) == 1);
	EVENTUALLY(fx, atomic_load(&u[1].releases) == 1);
	user_dereg(&u[0]);
	user_dereg(&u[1]);
	assert_int_equal(daxlease_ctx_free(second.ctx), 0);
}

/* Other descriptions, opened for writing, do not matter, and neither do leases.
 */
static void many__open_elsewhere(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };
	int other = open(fx->file.path, O_RDWR | O_CLOEXEC);

	fake_fan_set_openers(2, 4711);
	assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
	assert_true(info_of(&u).unseen & DAXLEASE_UNSEEN_EARLIER);
	assert_true(fix_said(fx, "2 other processes had the file open"));
	assert_true(fix_said(fx, "4711 among them"));
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_WARNING), 1);
	user_dereg(&u);
	fake_fan_set_openers(1, 4712);
	EVENTUALLY(fx, reg(fx, &u, &fx->file, 0) == 0 && ({
			       bool told = fix_said(fx, "1 other process had");

			       /* Nobody looks so often: it may have been. */
			       assert_true(info_of(&u).unseen & DAXLEASE_UNSEEN_EARLIER);
			       user_dereg(&u);
			       told;
		       }));
	close(other);
}

/* daxlease_reg_mr() in another thread. */
struct late {
	struct fix *fx;
	struct user u;
	struct file *f;
	unsigned int flags;
	int ret;
	pthread_t thread;
};

static void *reg_late(void *arg)
{
	struct late *l = arg;

	l->ret = reg(l->fx, &l->u, l->f, l->flags);
	return NULL;
}

static void late_begin(struct late *l)
{
	assert_int_equal(pthread_create(&l->thread, NULL, reg_late, l), 0);
}

static int late_end(struct late *l)
{
	pthread_join(l->thread, NULL);
	return l->ret;
}

/* A look takes 50 ms, so that there is none for nine times as long. */
static void openers__nobody_knows(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 }, v = { 0 };
	struct file second;

	file_make(&second, 1, true);
	fake_fan_slow_scan(50);
	assert_int_equal(reg(fx, &v, &fx->file, 0), 0);
	assert_int_equal(reg(fx, &u, &second, 0), 0);
	assert_false(info_of(&v).unseen & DAXLEASE_UNSEEN_EARLIER);
	assert_true(info_of(&u).unseen & DAXLEASE_UNSEEN_EARLIER);
	assert_false(fix_said(fx, "had the file open"));
	user_dereg(&v);
	user_dereg(&u);
	file_end(&second);
}

/* A break while it is being registered is not forgotten. */
static void break__while_it_is_taken(void **state)
{
	struct fix *fx = *state;
	struct late l = { .fx = fx, .f = &fx->file };
	int event;

	fake_fan_shut(true);
	late_begin(&l);
	EVENTUALLY(fx, fake_fan_shut_out() == 1);
	event = change(fx, 50);
	NOT_FOR_MS(fx, 20, !waits(event));
	fake_fan_shut(false);
	assert_int_equal(late_end(&l), 0);
	let_go_on(fx, event);
	EVENTUALLY(fx, atomic_load(&l.u.releases) == 1);
	user_dereg(&l.u);
}

/* Who registers another file meanwhile waits; who has one has breaks handled in
 * time. */
static void break__while_another_is_taken(void **state)
{
	struct fix *fx = *state;
	struct file second;
	struct late l = { .fx = fx, .f = &second };
	struct user u = { 0 };
	int event;

	file_make(&second, 1, true);
	user_reg(fx, &u, 0, 0);
	fake_fan_shut(true);
	late_begin(&l);
	EVENTUALLY(fx, fake_fan_shut_out() == 1);
	event = change(fx, 50);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	fake_fan_shut(false);
	let_go_on(fx, event);
	assert_int_equal(late_end(&l), 0);
	user_dereg(&l.u);
	user_dereg(&u);
	file_end(&second);
}

/* ------------------------------------------------------------------------- */
/* Refused, and what comes instead */

static void refused(struct fix *fx, struct file *f, unsigned int flags, int err, const char *text)
{
	struct user u = { 0 };
	unsigned int fds = count_fds();

	fix_forget_log(fx);
	assert_int_equal(reg(fx, &u, f, flags), err);
	assert_null(u.mr);
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 1);
	assert_true(fix_said(fx, text));
	assert_int_equal(fake_fan_marks(fx->file.fd).marked, 0);
	assert_int_equal(count_fds(), fds);
}

static void refused__by_the_guard(void **state)
{
	struct fix *fx = *state;
	struct file ro = fx->file;
	struct user u = { 0 };

	user_reg(fx, &u, 0, 0); /* so that there is a connection */
	user_dereg(&u);
	EVENTUALLY(fx, fake_fan_marks(fx->file.fd).marked == 0);
	fake_fan_fail_watch(1, -EOPNOTSUPP);
	refused(fx, &fx->file, 0, -EOPNOTSUPP, "no guard: the filesystem has no pre-content");
	fake_fan_fail_watch(1, -ENOSPC);
	refused(fx, &fx->file, 0, -EOPNOTSUPP, "no guard: No space left");
	fake_fan_fail_watch(1, -EAGAIN);
	refused(fx, &fx->file, 0, -EAGAIN, "is being changed");
	ro.fd = open(fx->file.path, O_RDONLY | O_CLOEXEC);
	refused(fx, &ro, DAXLEASE_MR_EXCLUSIVE, -EBADF, "O_RDWR");
	ro.prot = PROT_READ;
	ro.map = mmap(NULL, ro.size, PROT_READ, MAP_SHARED, ro.fd, 0);
	assert_int_equal(reg(fx, &u, &ro, 0), 0); /* that is enough without */
	user_dereg(&u);
	munmap(ro.map, ro.size);
	close(ro.fd);
}

static void refused__by_the_daemon(void **state)
{
	struct fix *fx = *state;
	static struct file files[65];
	static struct user users[65];

	memset(users, 0, sizeof(users));
	for (unsigned int i = 0; i < 65; i++) {
		file_make(&files[i], 1, true);
		if (i < 64)
			assert_int_equal(reg(fx, &users[i], &files[i], 0), 0);
	}
	refused(fx, &files[64], 0, -EOPNOTSUPP, "the limit for files of one user");
	user_dereg(&users[0]);
	EVENTUALLY(fx, daemon_count(guard_daemon).holds == 63);
	assert_int_equal(reg(fx, &users[0], &files[64], 0), 0);
	for (unsigned int i = 0; i < 65; i++) {
		if (users[i].mr)
			user_dereg(&users[i]);
		file_end(&files[i]);
	}
}

static void refused__not_the_owner(void **state)
{
	struct fix *fx = *state;

	struct user u = { 0 };

	start_daemon(true);
	assert_int_equal(reg(fx, &u, &fx->file, 0), -EACCES); /* connected from here on */
	refused(fx, &fx->file, 0, -EACCES, "only the owner");
}

static void refused__no_daemon(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	refused(fx, &fx->file, 0, -EOPNOTSUPP, "no guard: no daxleased at " SOCKET);
	start_daemon(false); /* asked each time */
	assert_int_equal(reg(fx, &u, &fx->file, 0), 0);
	user_dereg(&u);
}

static void refused__no_memory(void **state)
{
	struct fix *fx = *state;
	struct daxlease_ctx *ctx = NULL;
	struct user u = { 0 };
	unsigned int n = 0;
	int err;

	for (unsigned int nth = 1; nth < 20; nth++) {
		fault_arm_name("sys_calloc", nth, 1);
		err = reg(fx, &u, &fx->file, 0);
		n += err == -ENOMEM;
		if (!err)
			user_dereg(&u);
	}
	fault_arm_name("sys_realloc", 2, 1);
	n += reg(fx, &u, &fx->file, 0) == -ENOMEM;
	fault_arm_name(NULL, 0, 0);
	if (u.mr)
		user_dereg(&u);
	assert_true(n >= 3);
	for (unsigned int nth = 1; nth <= 2; nth++) {
		fault_arm_name("sys_calloc", nth, 1);
		assert_int_equal(daxlease_ctx_new(NULL, &ctx), -ENOMEM);
	}
}

static void auto__takes_it(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	user_reg(fx, &u, 0, 0);
	assert_int_equal(info_of(&u).kind, DAXLEASE_KIND_GUARD);
	assert_false(fix_said(fx, "no guard"));
	user_dereg(&u);
}

static int setup_auto(void **state)
{
	return setup_with(state, DAXLEASE_KIND_AUTO, "", true);
}

static void falls_back(void **state, bool on, const char *path, const char *reason)
{
	const struct mode *mode = *state;
	void *fixture = (void *)mode;
	struct user u = { 0 };
	struct fix *fx;

	setup_with(&fixture, DAXLEASE_KIND_AUTO, path, on);
	fx = fixture;
	user_reg(fx, &u, 0, 0);
	assert_true(info_of(&u).kind == DAXLEASE_KIND_LEASE ||
		    info_of(&u).kind == DAXLEASE_KIND_DELEG);
	assert_true(fix_said(fx, reason));
	assert_true(fix_said(fx, "lease kind"));
	assert_int_equal(fix_lines(fx, DAXLEASE_LOG_ERR), 0);
	user_dereg(&u);
	assert_int_equal(reg(fx, &u, &fx->file, DAXLEASE_MR_EXCLUSIVE), -EOPNOTSUPP);
	assert_true(fix_said(fx, "leave DAXLEASE_MR_EXCLUSIVE out"));
	fix_teardown(&fixture);
	if (on)
		fake_fan_off();
}

static void auto__falls_back(void **state)
{
	falls_back(
		state, false, "",
		"no guard: no CAP_SYS_ADMIN (a container's own does not count), and no daxleased at any socket (No "
		"such file");
	falls_back(state, false, socket_path, "no guard: no daxleased at " SOCKET);
	falls_back(state, true, socket_path, "no guard: no daxleased at " SOCKET);
}

static void auto__old_kernel(void **state)
{
	fake_fan_fail_init(-EINVAL);
	falls_back(state, false, "", "no guard: the kernel has no pre-content events");
	fake_fan_fail_init(-EMFILE);
	falls_back(state, false, "", "no guard: Too many open files");
	fake_fan_fail_init(-EPERM);
}

static void auto__filesystem_without(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	fake_fan_fail_watch(1, -EOPNOTSUPP);
	user_reg(fx, &u, 0, 0);
	assert_int_not_equal(info_of(&u).kind, DAXLEASE_KIND_GUARD);
	assert_true(fix_said(fx, "no guard: the filesystem has no pre-content events"));
	user_dereg(&u);
}

static void probe__guard(void **state)
{
	struct daxlease_caps caps = { .size = sizeof(caps) };
	struct fix *fx = *state;
	unsigned int fds = count_fds();
	int event;

	assert_int_equal(daxlease_probe(fx->file.fd, fake_pd.context, &caps), 0);
	assert_int_equal(caps.best, DAXLEASE_KIND_GUARD);
	assert_int_equal(caps.kinds[DAXLEASE_KIND_GUARD].error, 0);
	assert_true(caps.kinds[DAXLEASE_KIND_GUARD].exclusive);
	assert_false(caps.kinds[DAXLEASE_KIND_GUARD].pins);
	assert_null(strstr(caps.reason, "no guard"));
	fake_fan_gone();
	assert_int_equal(count_fds(), fds);
	event = change(fx, 50);
	assert_int_equal(fake_fan_answer(event), 0);
	fake_fan_fail_watch(1, -EOPNOTSUPP);
	assert_int_equal(daxlease_probe(fx->file.fd, fake_pd.context, &caps), 0);
	assert_int_not_equal(caps.best, DAXLEASE_KIND_GUARD);
	assert_int_equal(caps.kinds[DAXLEASE_KIND_GUARD].error, -EOPNOTSUPP);
	assert_non_null(strstr(caps.reason, "no guard: the filesystem"));
	assert_int_equal(count_fds(), fds);
	fault_arm_name("sys_calloc", 1, 1);
	assert_int_equal(daxlease_probe(fx->file.fd, NULL, &caps), -ENOMEM);
}

/* ------------------------------------------------------------------------- */
/* The guard goes away */

static void daemon__goes_and_comes(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = DAXLEASE_PENDING };
	struct daxlease_stats stats;
	int event;

	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	event = change(fx, 50);
	EVENTUALLY(fx, atomic_load(&u.drains) == 1);
	stop_daemon();
	assert_true(answered(event));
	assert_int_equal(daxlease_mr_drained(u.mr), 0);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_int_equal(atomic_load(&u.result), -ESTALE);
	ended(50);
	NOT_FOR_MS(fx, 20, fake_live());
	start_daemon(false);
	EVENTUALLY(fx, atomic_load(&u.regains) == 1);
	/* In silence this time. */
	atomic_store(&u.drain_answer, 0);
	stop_daemon();
	EVENTUALLY(fx, atomic_load(&u.releases) == 2);
	assert_int_equal(atomic_load(&u.result), -ESTALE);
	fix_stats(fx, &stats);
	assert_int_equal(stats.lost, 2);
	start_daemon(false);
	EVENTUALLY(fx, atomic_load(&u.regains) == 2);
	event = change(fx, 50);
	let_go_on(fx, event);
	EVENTUALLY(fx, atomic_load(&u.releases) == 3);
	assert_int_equal(atomic_load(&u.result), 0);
	user_dereg(&u);
}

/* All files of it are lost; those of a description stay. */
static void daemon__goes_with_many_files(void **state)
{
	struct fix *fx = *state;
	struct file files[5];
	struct user users[5];

	memset(users, 0, sizeof(users));
	for (unsigned int i = 0; i < 5; i++) {
		struct daxlease_mr_opts opts = user_opts(&users[i], 0, 0);

		opts.kind = i < 4 ? DAXLEASE_KIND_GUARD : DAXLEASE_KIND_LEASE;
		file_make(&files[i], 1, true);
		assert_int_equal(user_try(fx, &users[i], &files[i], 0, 1, &opts), 0);
	}
	stop_daemon();
	for (unsigned int i = 0; i < 4; i++)
		EVENTUALLY(fx, atomic_load(&users[i].releases) == 1);
	NOT_FOR_MS(fx, 20, atomic_load(&users[4].drains));
	for (unsigned int i = 0; i < 5; i++) {
		user_dereg(&users[i]);
		file_end(&files[i]);
	}
}

/* Whoever finds out first that it is gone, the others are told. */
static void daemon__gone_is_found_by_another(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 }, v = { 0 };
	struct file second;

	file_make(&second, 1, true);
	user_reg(fx, &u, 0, 0);
	fault_slow_watch(100);
	stop_daemon();
	assert_int_equal(reg(fx, &v, &second, 0), -EOPNOTSUPP);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	fault_slow_watch(0);
	user_dereg(&u);
	file_end(&second);
}

/* The same, and there is a new one already. */
static void daemon__comes_before_that_is_known(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 }, v = { 0 };
	struct file second;
	int event;

	file_make(&second, 1, true);
	user_reg(fx, &u, 0, 0);
	fault_slow_watch(100);
	stop_daemon();
	start_daemon(false);
	assert_int_equal(reg(fx, &v, &second, 0), 0);
	EVENTUALLY(fx, atomic_load(&u.releases) == 1);
	assert_int_equal(atomic_load(&u.result), -ESTALE);
	fault_slow_watch(0);
	event = event_on(&second, 50, truncates);
	EVENTUALLY(fx, answered(event));
	EVENTUALLY(fx, atomic_load(&v.releases) == 1);
	user_dereg(&u);
	user_dereg(&v);
	file_end(&second);
}

static void daemon__goes_while_it_is_asked(void **state)
{
	struct fix *fx = *state;
	struct late l = { .fx = fx, .f = &fx->file };

	fake_fan_shut(true);
	late_begin(&l);
	EVENTUALLY(fx, fake_fan_shut_out() == 1);
	fake_fan_freeze(true);
	/* It does not answer before it has gone: the socket is shut down first. */
	fake_fan_shut(false);
	stop_daemon();
	if (late_end(&l)) {
		assert_int_equal(l.ret, -EOPNOTSUPP);
		assert_true(fix_said(fx, "the guard went away"));
		return;
	}
	EVENTUALLY(fx, atomic_load(&l.u.releases) == 1);
	user_dereg(&l.u);
}

/* ------------------------------------------------------------------------- */
/* Fork */

static void fork__child_owns_nothing(void **state)
{
	struct fix *fx = *state;
	struct user u = { .drain_answer = 0 };
	int event, status, ctl[2];
	pid_t pid;

	assert_int_equal(pipe2(ctl, O_CLOEXEC), 0);
	user_reg(fx, &u, DAXLEASE_MR_REGAIN, 0);
	pid = fork();
	if (!pid) {
		char c;
		int err;

		close(ctl[1]);
		fake_fan_after_fork();
		fault_after_fork();
		err = daxlease_dereg_mr(u.mr) != -ECHILD || daxlease_ctx_free(fx->ctx) != -ECHILD;
		while (read(ctl[0], &c, 1) < 0)
			;
		_exit(err);
	}
	event = change(fx, 50);
	let_go_on(fx, event);
	ended(50);
	EVENTUALLY(fx, atomic_load(&u.regains) == 1);
	user_dereg(&u);
	fix_serve_stop(fx);
	/* The child has nothing that would keep the guard's group open. */
	assert_int_equal(daxlease_ctx_free(fx->ctx), 0);
	fx->ctx = NULL;
	fake_fan_gone();
	close(ctl[0]);
	close(ctl[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* A program that closes all that it does not know does not end its guard. */
static void table__is_its_own(void **state)
{
	struct fix *fx = *state;
	struct user u = { 0 };

	user_reg(fx, &u, 0, 0);
	assert_int_equal(fake_fan_groups(), 1);
	for (int fd = 0; fd < 256; fd++)
		assert_false(fake_fan_is_group(fd));
	user_dereg(&u);
}

/* ------------------------------------------------------------------------- */
/* lib/guard.c by itself, with a guard that the test plays */

struct play {
	struct guard *g;
	int listener, sock, fd;
	struct file file;
	unsigned int fds;
	/* A take under way */
	pthread_t thread;
	bool exclusive;
	int ret;
};

static int setup_play(void **state)
{
	struct play *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	fault_reset();
	p->fds = count_fds();
	p->g = guard_new(socket_path, NULL, NULL, NULL);
	p->listener = daemon_listen(socket_path);
	p->sock = -1;
	file_make(&p->file, 1, false);
	p->fd = p->file.fd;
	*state = p;
	return 0;
}

static int teardown_play(void **state)
{
	struct play *p = *state;

	guard_free(p->g);
	if (p->sock >= 0)
		close(p->sock);
	close(p->listener);
	unlink(socket_path);
	file_end(&p->file);
	assert_int_equal(count_fds(), p->fds);
	free(p);
	return 0;
}

static void *take_main(void *arg)
{
	/* A signal that is ignored. */
	const struct lease_notice notice = { .signo = SIGURG,
					     .owner = { .type = F_OWNER_PID, .id = getpid() } };
	struct play *p = arg;

	p->ret = guard_take(p->g, p->fd, p->exclusive, false, &notice);
	return NULL;
}

static struct guard_msg hears(struct play *p, enum guard_type type)
{
	struct pollfd pfd = { .fd = p->sock, .events = POLLIN };
	struct guard_msg msg = { 0 };
	int fd = -1;

	assert_int_equal(poll(&pfd, 1, 5000), 1);
	assert_int_equal(sock_receive(p->sock, false, &msg, &fd), 0);
	assert_int_equal(msg.type, type);
	assert_int_equal(fd >= 0, type == GUARD_TAKE);
	if (fd >= 0)
		close(fd);
	return msg;
}

static void says(struct play *p, enum guard_type type, uint32_t id, int error)
{
	struct guard_msg msg = { .type = (uint16_t)type, .id = id, .error = error, .text = "why" };

	assert_int_equal(sock_send(p->sock, &msg, -1), 0);
}

/* Up to the question. */
static struct guard_msg take_begin(struct play *p)
{
	assert_int_equal(pthread_create(&p->thread, NULL, take_main, p), 0);
	if (p->sock < 0)
		p->sock = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
	return hears(p, GUARD_TAKE);
}

static int take_end(struct play *p)
{
	pthread_join(p->thread, NULL);
	return p->ret;
}

static void take(struct play *p)
{
	struct guard_msg msg = take_begin(p);

	says(p, GUARD_TAKEN, msg.id, 0);
	assert_int_equal(take_end(p), 0);
	assert_int_equal(guard_query(p->g, p->fd), LEASE_HELD);
}

static int next_broken(struct play *p)
{
	int fd;

	return guard_broken(p->g, true, &fd, 1) ? fd : -1;
}

static void play__errors(void **state)
{
	static const struct {
		int said, got;
	} rows[] = {
		{ -EAGAIN, -EAGAIN },	  { -EACCES, -EACCES },		{ -EBADF, -EBADF },
		{ -EINVAL, -EOPNOTSUPP }, { -EUSERS, -EOPNOTSUPP },	{ -ENFILE, -EOPNOTSUPP },
		{ -EEXIST, -EOPNOTSUPP }, { -EOPNOTSUPP, -EOPNOTSUPP }, { -ENOMEM, -EOPNOTSUPP },
		{ 12345, -EOPNOTSUPP },
	};
	struct play *p = *state;
	char reason[64];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct guard_msg msg = take_begin(p);

		says(p, GUARD_TAKEN, msg.id, rows[i].said);
		assert_int_equal(take_end(p), rows[i].got);
		guard_reason(p->g, reason, sizeof(reason));
		assert_string_equal(reason, "why");
		assert_int_equal(guard_query(p->g, p->fd), LEASE_BREAKING);
		assert_int_equal(guard_give_back(p->g, p->fd, false), -ESTALE);
	}
	take(p);
	guard_reason(p->g, reason, sizeof(reason));
	assert_string_equal(reason, "");
	p->exclusive = true;
	assert_int_equal(guard_give_back(p->g, p->fd, true), 0);
	assert_int_equal(hears(p, GUARD_GIVE_BACK).flags, GUARD_KEEP);
	assert_int_equal(take_begin(p).flags, GUARD_EXCLUSIVE);
	says(p, GUARD_TAKEN, (uint32_t)p->fd, 0);
	assert_int_equal(take_end(p), 0);
	assert_int_equal(guard_give_back(p->g, p->fd, false), 0);
	assert_int_equal(hears(p, GUARD_GIVE_BACK).flags, 0);
}

static void play__broken_and_lost(void **state)
{
	struct play *p = *state;
	uint32_t id = (uint32_t)p->fd;

	take(p);
	assert_int_equal(next_broken(p), -1);
	says(p, GUARD_BREAK, id, 0);
	assert_int_equal(next_broken(p), p->fd);
	assert_int_equal(next_broken(p), -1); /* once */
	assert_int_equal(guard_query(p->g, p->fd), LEASE_BREAKING);
	says(p, GUARD_LOST, id, 0);
	assert_int_equal(next_broken(p), p->fd);
	assert_int_equal(guard_give_back(p->g, p->fd, true), -ESTALE);
	hears(p, GUARD_GIVE_BACK);
	take(p);
	/* Lost, but nobody has heard it before it is given back. */
	says(p, GUARD_BREAK, id, 0);
	says(p, GUARD_LOST, id, 0);
	assert_int_equal(guard_give_back(p->g, p->fd, false), -ESTALE);
	hears(p, GUARD_GIVE_BACK);
	guard_forget(p->g, p->fd);
	assert_int_equal(next_broken(p), -1);
}

/* Deadlines are by the guard's clock, which need not be ours. */
static void play__another_clock(void **state)
{
	struct play *p = *state;
	uint32_t id = (uint32_t)p->fd;

	for (int other = 0; other < 2; other++) {
		struct guard_msg msg = { .type = GUARD_TAKEN };

		msg.id = take_begin(p).id;
		msg.time_ns = now_ns() + (other ? 3600000000000u : 0);
		assert_int_equal(sock_send(p->sock, &msg, -1), 0);
		assert_int_equal(take_end(p), 0);
		assert_true(guard_deadline(p->g, p->fd) == LEASE_NO_DEADLINE); /* no break */
		msg = (struct guard_msg){ .type = GUARD_BREAK, .id = id, .time_ns = 4711 };
		assert_int_equal(sock_send(p->sock, &msg, -1), 0);
		assert_int_equal(next_broken(p), p->fd);
		assert_true(guard_deadline(p->g, p->fd) == (other ? LEASE_NO_DEADLINE : 4711));
		assert_int_equal(guard_give_back(p->g, p->fd, true), 0);
		hears(p, GUARD_GIVE_BACK);
	}
}

static void play__before_the_answer(void **state)
{
	struct play *p = *state;
	uint32_t id = (uint32_t)p->fd;

	for (int lost = 0; lost < 2; lost++) {
		take_begin(p);
		says(p, GUARD_BREAK, id, 0);
		if (lost)
			says(p, GUARD_LOST, id, 0);
		says(p, GUARD_TAKEN, id, 0);
		assert_int_equal(take_end(p), 0);
		assert_int_equal(guard_query(p->g, p->fd), LEASE_BREAKING);
		assert_int_equal(next_broken(p), p->fd);
		assert_int_equal(guard_give_back(p->g, p->fd, true), lost ? -ESTALE : 0);
		hears(p, GUARD_GIVE_BACK);
	}
}

static void play__of_no_concern(void **state)
{
	struct play *p = *state;

	take(p);
	says(p, GUARD_BREAK, UINT32_MAX, 0);
	says(p, GUARD_LOST, UINT32_MAX, 0);
	says(p, GUARD_BREAK, (uint32_t)p->fd + 1, 0);
	says(p, GUARD_LOST, 1000000, 0);
	says(p, GUARD_TAKEN, 1000000, -EINVAL);
	says(p, 4711, (uint32_t)p->fd, 0);
	says(p, GUARD_TAKEN, (uint32_t)p->fd + 1, 0); /* that it did not ask for */
	assert_int_equal(next_broken(p), -1);
	assert_int_equal(guard_query(p->g, p->fd), LEASE_HELD);
	assert_int_equal(hears(p, GUARD_GIVE_BACK).id, p->fd + 1);
	assert_int_equal(guard_query(p->g, -1), LEASE_BREAKING);
	assert_int_equal(guard_give_back(p->g, p->fd + 1, false), -ESTALE);
	guard_forget(p->g, p->fd + 1);
	guard_forget(p->g, -1);
}

/* Garbage: as if it were gone. */
static void play__no_messages(void **state)
{
	struct play *p = *state;
	struct guard_msg msg = { .version = GUARD_VERSION + 1 };
	unsigned int fds;

	for (int i = 0; i < 3; i++) {
		take(p);
		fds = count_fds();
		if (i == 0)
			assert_int_equal(send(p->sock, "x", 1, 0), 1);
		else if (i == 1)
			assert_int_equal(send(p->sock, &msg, sizeof(msg), 0), sizeof(msg));
		else /* descriptors are none of its business */
			assert_int_equal(sock_send(p->sock, &msg, STDERR_FILENO), 0);
		assert_int_equal(next_broken(p), i < 2 ? p->fd : -1);
		assert_int_equal(guard_query(p->g, p->fd), i < 2 ? LEASE_BREAKING : LEASE_HELD);
		assert_int_equal(count_fds(), i < 2 ? fds - 1 : fds);
		if (i < 2) {
			assert_int_equal(guard_give_back(p->g, p->fd, true), -ESTALE);
			close(p->sock);
			p->sock = -1;
		}
	}
}

static void play__gone_while_asked(void **state)
{
	struct play *p = *state;
	char reason[64];

	take_begin(p);
	close(p->sock);
	p->sock = -1;
	assert_int_equal(take_end(p), -EOPNOTSUPP);
	guard_reason(p->g, reason, sizeof(reason));
	assert_string_equal(reason, "the guard went away");
	take(p); /* connects again */
	close(p->sock);
	p->sock = -1;
	guard_forget(p->g, p->fd);
	take_begin(p);
	says(p, GUARD_TAKEN, (uint32_t)p->fd, -EPROTONOSUPPORT);
	assert_int_equal(take_end(p), -EOPNOTSUPP);
	guard_reason(p->g, reason, sizeof(reason));
	assert_string_equal(reason, "the guard speaks another version");
}

static void play__does_not_read(void **state)
{
	struct play *p = *state;
	char reason[64];
	int err, n = 0;

	take(p);
	do {
		err = guard_give_back(p->g, p->fd, true);
		if (!err)
			n++;
	} while (!err && n < 10000);
	assert_int_equal(err, -EAGAIN);
	take_main(p);
	assert_int_equal(p->ret, -EOPNOTSUPP);
	guard_reason(p->g, reason, sizeof(reason));
	assert_string_equal(reason, "the guard does not read");
	while (n--)
		hears(p, GUARD_GIVE_BACK);
	take(p);
}

/*
 * It answers when nobody waits any more; by then the number is that of another
 * file. The answer must not be taken for the one about that.
 */
static void play__late_answer(void **state)
{
	struct play *p = *state;
	uint32_t id = (uint32_t)p->fd;
	char reason[64];

	take_begin(p);
	assert_int_equal(take_end(p), -EOPNOTSUPP); /* 10 s later */
	guard_reason(p->g, reason, sizeof(reason));
	assert_string_equal(reason, "the guard does not answer");
	guard_forget(p->g, p->fd);
	take_begin(p);
	says(p, GUARD_TAKEN, id, 0);
	says(p, GUARD_TAKEN, id, -EEXIST);
	assert_int_equal(take_end(p), -EOPNOTSUPP);
	assert_int_equal(guard_query(p->g, p->fd), LEASE_BREAKING);
	assert_int_equal(hears(p, GUARD_GIVE_BACK).id, id);
	take(p);
}

static void play__set_up_fails(void **state)
{
	static const char *const calls[] = { "sys_set_owner", "sys_set_signal", "sys_set_async",
					     "sys_eventfd" };
	struct play *p = *state;
	unsigned int fds = count_fds();

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		fault_arm_name(calls[i], 1, 1);
		take_main(p);
		assert_true(p->ret < 0);
		assert_int_equal(count_fds(), fds);
		close(accept4(p->listener, NULL, NULL, SOCK_CLOEXEC));
	}
	fault_arm_name("sys_wait_readable", 1, 3);
	take(p);
}

#define IN_DAEMON(fn, m)                                                               \
	{                                                                              \
#fn " [daemon, " #m "]", fn, setup_daemon, teardown, (void *)&mode_##m \
	}
#define IN_PROC(fn, m)                                                  \
	{                                                               \
#fn " [" #m "]", fn, setup, teardown, (void *)&mode_##m \
	}
#define PROC(fn) IN_PROC(fn, thread), IN_PROC(fn, loop), IN_PROC(fn, signal), IN_PROC(fn, signal_rt)
#define DAEMON(fn) IN_DAEMON(fn, thread), IN_DAEMON(fn, loop), IN_DAEMON(fn, signal)
#define BOTH(fn) PROC(fn), DAEMON(fn)
#define WITH(fn, setup) cmocka_unit_test_setup_teardown(fn, setup, teardown)
#define PLAY(fn) cmocka_unit_test_setup_teardown(fn, setup_play, teardown_play)

int main(void)
{
	snprintf(socket_path, sizeof(socket_path), SOCKET "%d", (int)getpid());

	const struct CMUnitTest tests[] = {
		BOTH(break__drained_then_answered),
		BOTH(break__several_regions),
		BOTH(break__by_deregistering),
		PROC(break__deregistering_fails),
		PROC(break__over_budget),
		BOTH(break__deadline_of_the_guard),
		BOTH(break__too_late),
		BOTH(exclusive__refuses),
		BOTH(regain__after_the_call),
		PROC(regain__registered_meanwhile),
		PROC(recall__others_are_let_through),
		BOTH(many__files_at_once),
		PROC(many__contexts),
		PROC(many__open_elsewhere),
		PROC(openers__nobody_knows),
		BOTH(break__while_it_is_taken),
		IN_DAEMON(break__while_another_is_taken, thread),
		PROC(refused__by_the_guard),
		IN_DAEMON(refused__by_the_daemon, thread),
		WITH(refused__not_the_owner, setup_without),
		WITH(refused__no_daemon, setup_without),
		IN_PROC(refused__no_memory, thread),
		WITH(auto__takes_it, setup_auto),
		WITH(auto__filesystem_without, setup_auto),
		cmocka_unit_test_prestate(auto__falls_back, (void *)&mode_thread),
		cmocka_unit_test_prestate(auto__old_kernel, (void *)&mode_thread),
		IN_PROC(probe__guard, thread),
		DAEMON(daemon__goes_and_comes),
		DAEMON(daemon__goes_with_many_files),
		DAEMON(daemon__gone_is_found_by_another),
		DAEMON(daemon__comes_before_that_is_known),
		DAEMON(daemon__goes_while_it_is_asked),
		PROC(fork__child_owns_nothing),
		IN_PROC(table__is_its_own, thread),
		PLAY(play__errors),
		PLAY(play__broken_and_lost),
		PLAY(play__another_clock),
		PLAY(play__before_the_answer),
		PLAY(play__of_no_concern),
		PLAY(play__no_messages),
		PLAY(play__gone_while_asked),
		PLAY(play__does_not_read),
		PLAY(play__late_answer),
		PLAY(play__set_up_fails),
	};

	if (getenv("TEST_FILTER"))
		cmocka_set_test_filter(getenv("TEST_FILTER"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
