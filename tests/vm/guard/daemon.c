// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* A guard in a daemon: what becomes of callers and holders when one of the three dies. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "holder.h"

/* A daemon, somebody whose file it guards, and another one who wants to change it. */
struct play {
	const struct world *w;
	struct daemon daemon;
	struct other other, other2;
	struct holder holder;
};

static void play_begin(struct play *p, const struct world *w, const struct holder_how *opts)
{
	struct holder_how how = *opts;

	*p = (struct play){ .w = w };
	other_start(&p->other);
	other_start(&p->other2);
	daemon_start(&p->daemon);
	how.daemon = &p->daemon;
	holder_start(&p->holder, w, "file", &how);
	holder_expect(&p->holder, NEWS_READY);
}

static void play_end(struct play *p)
{
	other_stop(&p->other);
	other_stop(&p->other2);
}

static void begin_truncate(struct play *p)
{
	other_begin(&p->other, OP_TRUNCATE, p->holder.file.path, PAGE, -1);
}

/* Waits, in the middle of a drain. */
static void begin_break(struct play *p)
{
	size_t size = file_size_now(&p->holder.file);

	begin_truncate(p);
	holder_expect(&p->holder, NEWS_DRAIN);
	sleep_ms(50);
	CHECK(other_waits(&p->other));
	CHECK_EQ(file_size_now(&p->holder.file), size);
}

/* At once after what happened at that time. */
static void expect_goes_on(struct play *p, uint64_t since_ns)
{
	CHECK_EQ(other_end(&p->other, SOON_MS), 0);
	CHECK((int64_t)(p->other.end_ns - since_ns) < (int64_t)(2 * SEC));
	CHECK_EQ(file_size_now(&p->holder.file), PAGE);
}

static void check_guards(struct play *p)
{
	begin_break(p);
	holder_order(&p->holder, ORDER_ANSWER);
	CHECK_EQ(other_end(&p->other, SOON_MS), 0);
	CHECK_EQ(holder_expect(&p->holder, NEWS_RELEASED), 0);
}

static const struct holder_how breakable, regaining = { .flags = DAXLEASE_MR_REGAIN },
					  exclusive = { .flags = DAXLEASE_MR_EXCLUSIVE },
					  forking = { .forks = true };

/* ------------------------------------------------------------------------- */
/* The daemon */

/* In the middle of a drain: the caller goes on, and the holder has lost it. */
static void killed_draining(const struct world *w, const void *arg)
{
	struct play p;
	uint64_t ns;

	(void)arg;
	play_begin(&p, w, &breakable);
	begin_break(&p);
	ns = now_ns();
	daemon_kill(&p.daemon);
	expect_goes_on(&p, ns);
	holder_order(&p.holder, ORDER_ANSWER);
	CHECK_EQ(holder_expect(&p.holder, NEWS_RELEASED), -ESTALE);
	holder_end(&p.holder);
	play_end(&p);
}

/* It comes back with the daemon, and guards again. */
static void killed_and_back(const struct world *w, const void *arg)
{
	struct play p;

	(void)arg;
	play_begin(&p, w, &regaining);
	begin_break(&p);
	daemon_kill(&p.daemon);
	CHECK_EQ(other_end(&p.other, SOON_MS), 0);
	holder_order(&p.holder, ORDER_ANSWER);
	CHECK_EQ(holder_expect(&p.holder, NEWS_RELEASED), -ESTALE);
	sleep_ms(1500); /* several attempts */
	CHECK(holder_is_quiet(&p.holder));
	holder_order(&p.holder, ORDER_TELL_WARNINGS);
	/* Lost, and not leased again: said once each. The third is of who had it open. */
	CHECK_BETWEEN(holder_expect(&p.holder, NEWS_WARNINGS), 2, 3);
	daemon_start(&p.daemon);
	CHECK_EQ(holder_expect(&p.holder, NEWS_REGAINED), PAGE);
	check_guards(&p);
	CHECK_EQ(holder_expect(&p.holder, NEWS_REGAINED), PAGE);
	holder_end(&p.holder);
	daemon_stop(&p.daemon);
	play_end(&p);
}

/* Nobody breaks anything: the holder is told, for it is not guarded any more. */
static void killed_idle(const struct world *w, const void *arg)
{
	struct play p;

	(void)arg;
	play_begin(&p, w, &regaining);
	daemon_kill(&p.daemon);
	holder_expect(&p.holder, NEWS_DRAIN);
	holder_order(&p.holder, ORDER_ANSWER);
	CHECK_EQ(holder_expect(&p.holder, NEWS_RELEASED), -ESTALE);
	daemon_start(&p.daemon);
	CHECK_EQ(holder_expect(&p.holder, NEWS_REGAINED), FILE_SIZE);
	check_guards(&p);
	CHECK_EQ(holder_expect(&p.holder, NEWS_REGAINED), PAGE);
	holder_end(&p.holder);
	daemon_stop(&p.daemon);
	play_end(&p);
}

/* As before, by a clean end. */
static void stopped(const struct world *w, const void *arg)
{
	struct play p;

	(void)arg;
	play_begin(&p, w, &breakable);
	begin_break(&p);
	daemon_stop(&p.daemon);
	expect_goes_on(&p, now_ns());
	holder_order(&p.holder, ORDER_ANSWER);
	CHECK_EQ(holder_expect(&p.holder, NEWS_RELEASED), -ESTALE);
	holder_end(&p.holder);
	play_end(&p);
}

static void killed_exclusive(const struct world *w, const void *arg)
{
	struct play p;

	(void)arg;
	play_begin(&p, w, &exclusive);
	CHECK_EQ(other_do(&p.other, OP_TRUNCATE, p.holder.file.path, PAGE, -1), -ETXTBSY);
	CHECK_EQ(file_size_now(&p.holder.file), FILE_SIZE);
	CHECK(holder_is_quiet(&p.holder));
	daemon_kill(&p.daemon);
	begin_truncate(&p);
	expect_goes_on(&p, now_ns());
	holder_expect(&p.holder, NEWS_DRAIN);
	holder_order(&p.holder, ORDER_ANSWER);
	CHECK_EQ(holder_expect(&p.holder, NEWS_RELEASED), -ESTALE);
	holder_end(&p.holder);
	play_end(&p);
}

/* ------------------------------------------------------------------------- */
/* The holder */

static void holder_killed(const struct world *w, const void *arg)
{
	struct play p;
	uint64_t ns;

	play_begin(&p, w, arg);
	begin_break(&p);
	ns = now_ns();
	holder_kill(&p.holder);
	expect_goes_on(&p, ns);
	EVENTUALLY(daemon_count(&p.daemon).files == 0);
	daemon_stop(&p.daemon);
	play_end(&p);
}

/* Before anybody wants anything. */
static void holder_killed_idle(const struct world *w, const void *arg)
{
	struct play p;

	play_begin(&p, w, arg);
	CHECK_EQ(daemon_count(&p.daemon).holds, 1);
	holder_kill(&p.holder);
	EVENTUALLY(daemon_count(&p.daemon).files == 0);
	begin_truncate(&p);
	expect_goes_on(&p, now_ns());
	daemon_stop(&p.daemon);
	play_end(&p);
}

/* Others wait for the break time, and only for that file. */
static void stands_still(const struct world *w, const void *arg)
{
	struct holder_how how = { 0 };
	struct holder second;
	struct play p;

	(void)arg;
	sysctl_set("lease-break-time", BREAK_S);
	play_begin(&p, w, &breakable);
	how.daemon = &p.daemon;
	holder_start(&second, w, "second", &how);
	holder_expect(&second, NEWS_READY);
	CALL(kill(p.holder.pid, SIGSTOP));
	begin_truncate(&p);
	sleep_ms(200);
	CHECK(other_waits(&p.other));
	other_begin(&p.other2, OP_TRUNCATE, second.file.path, PAGE, -1);
	holder_expect(&second, NEWS_DRAIN);
	holder_order(&second, ORDER_ANSWER);
	CHECK_EQ(other_end(&p.other2, SOON_MS), 0);
	CHECK_BETWEEN(other_took_ms(&p.other2), 0, AT_ONCE_MS);
	CHECK_EQ(holder_expect(&second, NEWS_RELEASED), 0);
	CHECK(other_waits(&p.other));
	CHECK_EQ(file_size_now(&p.holder.file), FILE_SIZE);
	CHECK_EQ(other_end(&p.other, SOON_MS), 0);
	CHECK_BETWEEN(other_took_ms(&p.other), BREAK_S * 1000 - 100, BREAK_S * 1000 + 1500);
	CHECK_EQ(daemon_count(&p.daemon).lost, 1);
	CALL(kill(p.holder.pid, SIGCONT));
	holder_expect(&p.holder, NEWS_DRAIN);
	holder_order(&p.holder, ORDER_ANSWER);
	CHECK_EQ(holder_expect(&p.holder, NEWS_RELEASED), -ESTALE);
	holder_end(&p.holder);
	holder_end(&second);
	daemon_stop(&p.daemon);
	play_end(&p);
}

/* It refuses nobody any more, but is asked. */
static void owner_changed(const struct world *w, const void *arg)
{
	struct play p;

	(void)arg;
	play_begin(&p, w, &exclusive);
	CHECK_EQ(other_do(&p.other, OP_TRUNCATE, p.holder.file.path, PAGE, -1), -ETXTBSY);
	CALL(chown(p.holder.file.path, 0, 0));
	check_guards(&p);
	CHECK_EQ(file_size_now(&p.holder.file), PAGE);
	holder_end(&p.holder);
	daemon_stop(&p.daemon);
	play_end(&p);
}

/* Who else has it open is looked for, and the daemon itself is nobody. */
static void openers(const struct world *w, const void *arg)
{
	struct daemon daemon = { 0 };
	const struct holder_how how = { .daemon = arg ? &daemon : NULL };
	struct holder h;
	int fd;

	if (arg)
		daemon_start(&daemon);
	holder_start(&h, w, "alone", &how);
	CHECK_EQ(holder_expect(&h, NEWS_READY), 0);
	holder_end(&h);
	sleep_ms(3000); /* it looks in one tenth of the time */
	world_path(w, "shared", h.file.path, sizeof(h.file.path));
	fd = (int)CALL(open(h.file.path, O_RDWR | O_CREAT | O_CLOEXEC, 0644));
	holder_start(&h, w, "shared", &how);
	CHECK_EQ(holder_expect(&h, NEWS_READY), 1);
	holder_end(&h);
	CALL(close(fd));
	sleep_ms(3000);
	fd = (int)CALL(open(h.file.path, O_RDONLY | O_CLOEXEC));
	holder_start(&h, w, "shared", &how);
	CHECK_EQ(holder_expect(&h, NEWS_READY), 0);
	holder_end(&h);
	CALL(close(fd));
	if (arg)
		daemon_stop(&daemon);
}

void add_daemon_cases(void)
{
	add_case(killed_draining, NULL, KIND_GUARD, 0, "daemon/killed-draining");
	add_case(killed_and_back, NULL, KIND_GUARD, 0, "daemon/killed-and-back");
	add_case(killed_idle, NULL, KIND_GUARD, 0, "daemon/killed-idle");
	add_case(killed_exclusive, NULL, KIND_GUARD, 0, "daemon/killed-exclusive");
	add_case(stopped, NULL, KIND_GUARD, 0, "daemon/stopped");
	add_case(holder_killed, &breakable, KIND_GUARD, 0, "daemon/holder-killed");
	add_case(holder_killed, &forking, KIND_GUARD, 0, "daemon/holder-killed-child-lives");
	add_case(holder_killed_idle, &exclusive, KIND_GUARD, 0, "daemon/holder-killed-exclusive");
	add_case(holder_killed_idle, &forking, KIND_GUARD, 0, "daemon/holder-killed-idle-child");
	add_case(stands_still, NULL, KIND_GUARD, 0, "daemon/holder-stands-still");
	add_case(owner_changed, NULL, KIND_GUARD, 0, "daemon/owner-changed");
	add_case(openers, "", KIND_GUARD, 0, "daemon/openers");
	add_case(openers, NULL, KIND_GUARD, 0, "inside/openers");
}
