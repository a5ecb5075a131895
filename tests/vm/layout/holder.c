// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "holder.h"

struct holder *holder_new(const char *path, const struct holder_how *how)
{
	struct holder *h =
		mmap(NULL, sizeof(*h), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(h != MAP_FAILED);
	h->how = *how;
	h->give_result = 1;
	snprintf(h->path, sizeof(h->path), "%s", path);
	snprintf(h->file.path, sizeof(h->file.path), "%s", path);
	return h;
}

static int take(struct holder *h)
{
	bool unbreakable = h->how.flags & LAYOUT_UNBREAKABLE;

	if (h->how.old_spelling)
		return layout_old(h->file.fd, unbreakable ? OLD_UNBREAKABLE : OLD_LAYOUT);
	return layout_take(h->file.fd, h->how.flags);
}

static void set_up(struct holder *h)
{
	/* The device first: its descriptor then outlives that of the file at exit. */
	pinner_open(&h->pinner, h->how.pins);
	file_open(&h->file, FILE_SIZE, O_RDWR);
	layout_signal(h->file.fd);
	CHECK_EQ(take(h), 0);
	if (h->how.pins)
		CHECK_EQ(pin_try(&h->pin, &h->pinner, h->file.map, h->how.pinned), 0);
	snapshot_take(&h->before, h->file.fd);
	atomic_store(&h->ready, true);
}

static void note_problem(struct holder *h, const char *problem)
{
	if (!h->problem[0])
		snprintf(h->problem, sizeof(h->problem), "%s", problem);
}

/* Nothing may have changed as long as there is a pin: blocks, size, contents. */
static void compare(struct holder *h)
{
	const char *differs;

	snapshot_take(&h->during, h->file.fd);
	differs = snapshot_differs(&h->before, &h->during);
	if (differs) {
		char text[128];

		snprintf(text, sizeof(text), "%s changed before the lease was given back", differs);
		note_problem(h, text);
	}
}

static void give(struct holder *h)
{
	pin_drop(&h->pin);
	atomic_store(&h->unpin_ns, now_ns());
	atomic_store(&h->gave_ns, now_ns());
	atomic_store(&h->give_result, layout_give(h->file.fd));
}

static void on_signal(struct holder *h, const siginfo_t *info)
{
	struct layout_lease l = layout_get(h->file.fd);

	if (atomic_fetch_add(&h->signals, 1) == 0)
		atomic_store(&h->signal_ns, now_ns());
	if (info->si_fd != h->file.fd)
		note_problem(h, "si_fd is another descriptor");
	if (info->si_code != POLL_MSG)
		note_problem(h, "si_code is not POLL_MSG");
	if (l.l_type != F_RDLCK || !(l.l_flags & LAYOUT_BREAKING))
		note_problem(h, "F_GETLAYOUT says nothing of the break");
	if (h->how.answer_ms && atomic_load(&h->give_result) == 1) {
		sleep_ms(h->how.answer_ms);
		compare(h);
		give(h);
	}
}

static void obey(struct holder *h, enum holder_order order)
{
	if (order == ORDER_DROP) {
		pin_drop(&h->pin);
		atomic_store(&h->unpin_ns, now_ns());
	}
	if (order == ORDER_GIVE)
		give(h);
	/* Not if there was none: one may have come meanwhile. */
	if (order != ORDER_NONE)
		atomic_store(&h->order, ORDER_NONE);
}

static void serve(struct holder *h)
{
	siginfo_t info;
	int order;

	set_up(h);
	while ((order = atomic_load(&h->order)) != ORDER_END) {
		if (layout_wait_signal(5, &info))
			on_signal(h, &info);
		obey(h, order);
	}
	while (layout_wait_signal(20, &info))
		on_signal(h, &info);
	pin_drop(&h->pin);
	pinner_close(&h->pinner);
	file_close(&h->file);
}

/* ------------------------------------------------------------------------- */
/* Seen from the case */

static void wait_ready(struct holder *h)
{
	uint64_t end = now_ns() + SOON_MS * MSEC;
	int status;

	while (!atomic_load(&h->ready)) {
		if (!h->is_thread && waitpid(h->pid, &status, WNOHANG) == h->pid)
			fail_at(__FILE__, __LINE__, "the holder ended with status %#x",
				(unsigned int)status);
		if (now_ns() > end)
			fail_at(__FILE__, __LINE__, "the holder does not get its lease");
		sleep_ms(1);
	}
}

void holder_start_process(struct holder *h)
{
	pid_t pid;

	fflush(NULL);
	pid = (pid_t)CALL(fork());
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		serve(h);
		_exit(EXIT_SUCCESS);
	}
	h->pid = pid;
	wait_ready(h);
}

static void *serve_thread(void *arg)
{
	serve(arg);
	return NULL;
}

void holder_start_thread(struct holder *h)
{
	sigset_t set;

	/* Or another thread dies of it. */
	sigemptyset(&set);
	sigaddset(&set, LAYOUT_SIGNAL);
	CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
	h->is_thread = true;
	CHECK_EQ(pthread_create(&h->thread, NULL, serve_thread, h), 0);
	wait_ready(h);
}

void holder_order(struct holder *h, enum holder_order order)
{
	uint64_t end = now_ns() + SOON_MS * MSEC;

	atomic_store(&h->order, (int)order);
	while (order != ORDER_END && atomic_load(&h->order) != ORDER_NONE) {
		CHECK(now_ns() < end);
		sleep_ms(1);
	}
}

void holder_end(struct holder *h, unsigned int signals)
{
	holder_order(h, ORDER_END);
	if (h->is_thread)
		CHECK_EQ(pthread_join(h->thread, NULL), 0);
	else
		expect_child_ok(h->pid, SOON_MS);
	if (h->problem[0])
		fail_at(__FILE__, __LINE__, "holder: %s", h->problem);
	CHECK_EQ(atomic_load(&h->signals), signals);
}
