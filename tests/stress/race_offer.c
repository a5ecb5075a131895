// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * race_offer [SECONDS] [thread|loop] [windows|keys]: peers come, answer, answer late, not at
 * all or from another thread, break off and go, in two offers of a file that others change
 * and the holder recalls all the time. Nobody may be able to reach a region that is
 * deregistered, no drain may be stuck, and nothing may be left.
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

#include <daxlease/rdmacm.h>

#include "fake_edge.h"
#include "fake_verbs.h"
#include "support.h"

#define OFFERS 2
#define PEERS 4
#define BUDGET_MS 100
#define BOTH (IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE)
/* Long for a machine that is busy, short for a lease-break-time of 45 s. */
#define STUCK_MS 15000

#define REQUIRE(cond) require(cond, #cond, __LINE__)

static void require(bool ok, const char *what, int line)
{
	if (ok)
		return;
	fprintf(stderr, "race_offer.c:%d: not so: %s\n", line, what);
	abort();
}

static struct daxlease_ctx *ctx;
static struct daxlease_offer *offers[OFFERS];
static struct file file;
static atomic_bool stop, stop_dispatch;
static atomic_uint grants, revokes, lates, releases, own_answers_due[OFFERS];

static bool chance(unsigned int *seed, unsigned int percent)
{
	return (unsigned int)rand_r(seed) % 100 < percent;
}

/* ------------------------------------------------------------------------- */
/* The holder's own part */

static int on_drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	static _Thread_local unsigned int seed = 1;
	atomic_uint *due = userdata;

	(void)mr, (void)brk;
	if (!chance(&seed, 30))
		return 0;
	atomic_store(due, 1);
	return DAXLEASE_PENDING;
}

static void on_release(struct daxlease_mr *mr, int result, void *userdata)
{
	(void)mr, (void)userdata;
	REQUIRE(result == 0 || result == -ETIMEDOUT);
	atomic_fetch_add(&releases, 1);
}

static void on_late(struct daxlease_offer *offer, struct daxlease_peer *peer,
		    enum daxlease_late how, void *userdata)
{
	(void)how, (void)userdata;
	REQUIRE(daxlease_peer_get_id(peer) != NULL); /* it is there still */
	REQUIRE(daxlease_offer_remove(offer, peer) == -EDEADLK);
	atomic_fetch_add(&lates, 1);
}

static void make_offer(unsigned int i)
{
	const struct daxlease_mr_opts mr = {
		.size = sizeof(mr),
		.flags = DAXLEASE_MR_REGAIN,
		.drain_budget_ms = BUDGET_MS,
		.drain = on_drain,
		.release = on_release,
		.userdata = &own_answers_due[i],
	};
	const struct daxlease_offer_opts opts = {
		.size = sizeof(opts),
		.number = i,
		.mr = &mr,
		.late = on_late,
	};

	REQUIRE(!daxlease_offer_new(ctx, &fake_pd, file.fd, file.map, file.size, BOTH, &opts,
				    &offers[i]));
}

/* ------------------------------------------------------------------------- */
/* Peers: each has a thread that carries what both ends say */

struct end {
	struct rdma_cm_id id;
	struct ibv_qp qp;
	struct daxlease_peer *peer;
	bool failed;
};

struct conn {
	struct end holder, taker;
	unsigned int seed;
	atomic_uint answers_due; /* a bit for each offer */
};

static void on_grant(struct daxlease_peer *peer, const struct daxlease_grant *grant, void *userdata)
{
	(void)peer, (void)userdata;
	REQUIRE(grant->length && grant->offer < OFFERS);
	atomic_fetch_add(&grants, 1);
}

static int on_revoke(struct daxlease_peer *peer, uint32_t offer, uint64_t deadline_ns,
		     void *userdata)
{
	struct conn *c = userdata;

	(void)peer;
	atomic_fetch_add(&revokes, 1);
	if (!deadline_ns || !chance(&c->seed, 30))
		return 0;
	atomic_fetch_or(&c->answers_due, 1u << offer);
	return DAXLEASE_PENDING;
}

static void open_end(struct end *e, const struct daxlease_peer_opts *opts)
{
	memset(e, 0, sizeof(*e));
	e->qp.pd = &fake_pd;
	e->qp.qp_type = IBV_QPT_RC;
	e->id.qp = &e->qp;
	REQUIRE(!daxlease_peer_new(ctx, &e->id, opts, &e->peer));
}

static void close_end(struct end *e)
{
	REQUIRE(!daxlease_peer_free(e->peer));
	while (edge_count(&e->qp))
		edge_take(&e->qp);
}

static void carry(struct conn *c, struct end *from, struct end *to)
{
	struct ibv_wc wc = { .opcode = IBV_WC_SEND };
	struct posted p;

	if (!edge_count(&from->qp))
		return;
	p = edge_take(&from->qp);
	wc.wr_id = p.wr_id;
	/* After one that failed the others are flushed. */
	if (from->failed || chance(&c->seed, 2))
		wc.status = from->failed ? IBV_WC_WR_FLUSH_ERR : IBV_WC_RETRY_EXC_ERR;
	from->failed = wc.status;
	REQUIRE(daxlease_peer_wc(from->peer, &wc, NULL) == 1);
	if (wc.status)
		return;
	wc = (struct ibv_wc){ .opcode = IBV_WC_RECV, .byte_len = sizeof(p.bytes) };
	REQUIRE(daxlease_peer_wc(to->peer, &wc, p.bytes) == 1);
}

static void join(struct conn *c)
{
	static const int rights[] = { BOTH, IBV_ACCESS_REMOTE_READ };
	int access, ret;

	for (unsigned int i = 0; i < OFFERS; i++) {
		if (chance(&c->seed, 20))
			continue;
		access = rights[chance(&c->seed, 30)];
		ret = daxlease_offer_add(offers[i], c->holder.peer, access);
		REQUIRE(!ret || ret == -EOPNOTSUPP || ret == -ENOTCONN);
	}
}

static void answer_late(struct conn *c)
{
	unsigned int due = atomic_exchange(&c->answers_due, 0);
	int ret;

	for (unsigned int i = 0; i < OFFERS; i++) {
		if (!(due >> i & 1))
			continue;
		ret = daxlease_peer_drained(c->taker.peer, i);
		/* It may have been withdrawn, or granted again and revoked, meanwhile. */
		REQUIRE(!ret || ret == -ENOTCONN || ret == -EINVAL);
	}
}

static void live(struct conn *c)
{
	unsigned int steps = (unsigned int)rand_r(&c->seed) % 400;
	const bool silent = chance(&c->seed, 10);

	for (unsigned int i = 0; i < steps && !atomic_load(&stop); i++) {
		carry(c, &c->holder, &c->taker);
		if (!silent)
			carry(c, &c->taker, &c->holder);
		if (chance(&c->seed, 50))
			answer_late(c);
		if (chance(&c->seed, 2))
			daxlease_offer_remove(offers[0], c->holder.peer);
		usleep(100);
	}
}

static void *peer_thread(void *arg)
{
	struct conn *c = arg;
	const struct daxlease_peer_opts opts = {
		.size = sizeof(opts),
		.grant = on_grant,
		.revoke = on_revoke,
		.userdata = c,
	};

	while (!atomic_load(&stop)) {
		atomic_store(&c->answers_due, 0);
		open_end(&c->holder, NULL);
		open_end(&c->taker, &opts);
		join(c);
		live(c);
		close_end(&c->holder);
		close_end(&c->taker);
	}
	return NULL;
}

/* ------------------------------------------------------------------------- */
/* Everybody else */

static void *answer_thread(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop_dispatch)) {
		for (unsigned int i = 0; i < OFFERS; i++) {
			if (atomic_exchange(&own_answers_due[i], 0))
				daxlease_offer_drained(offers[i]); /* or too late */
		}
		usleep(500);
	}
	return NULL;
}

static void *recall_thread(void *arg)
{
	struct daxlease_mr *mr = daxlease_offer_get_mr(offers[0]);
	unsigned int seed = 77;

	(void)arg;
	while (!atomic_load(&stop)) {
		usleep(20000);
		if (chance(&seed, 50))
			daxlease_mr_recall_start(mr);
		else
			daxlease_mr_recall(mr);
		usleep(2000);
		daxlease_mr_regain(mr);
	}
	return NULL;
}

static void *dispatch_thread(void *arg)
{
	struct pollfd pfd = { .fd = daxlease_ctx_get_fd(ctx), .events = POLLIN };

	(void)arg;
	while (!atomic_load(&stop_dispatch)) {
		poll(&pfd, 1, 10);
		daxlease_ctx_dispatch(ctx);
	}
	return NULL;
}

/* Another process, from before there were threads. */
static pid_t start_breaker(void)
{
	pid_t pid = fork();

	REQUIRE(pid >= 0);
	if (pid)
		return pid;
	for (;;) {
		uint64_t start = now_ms();

		if (truncate(file.path, (off_t)file.size))
			_exit(1);
		if (now_ms() - start > STUCK_MS)
			_exit(2);
		usleep(5000);
	}
}

static void end_breaker(pid_t pid)
{
	int status;

	REQUIRE(waitpid(pid, &status, WNOHANG) == 0);
	kill(pid, SIGKILL);
	REQUIRE(waitpid(pid, &status, 0) == pid);
}

static void check_end(void)
{
	struct daxlease_stats stats = { .size = sizeof(stats) };

	REQUIRE(!daxlease_ctx_get_stats(ctx, &stats));
	/* The device refuses while a window is left. */
	REQUIRE(stats.dereg_failures == 0);
	REQUIRE(stats.lost == 0);
	REQUIRE(stats.breaks && stats.recalls && atomic_load(&releases));
	for (unsigned int i = 0; i < OFFERS; i++)
		REQUIRE(!daxlease_offer_free(offers[i]));
	REQUIRE(!daxlease_ctx_free(ctx));
	REQUIRE(edge_windows() == 0 && fake_live() == 0);
	printf("%llu breaks, %llu recalls, %u grants, %u revokes, %u late\n",
	       (unsigned long long)stats.breaks, (unsigned long long)stats.recalls,
	       atomic_load(&grants), atomic_load(&revokes), atomic_load(&lates));
	REQUIRE(atomic_load(&grants) > 10 && atomic_load(&revokes) > 10);
}

int main(int argc, char **argv)
{
	const unsigned int seconds = argc > 1 ? (unsigned int)atoi(argv[1]) : 5;
	const bool loop = argc > 2 && !strcmp(argv[2], "loop");
	const bool windows = argc < 4 || strcmp(argv[3], "keys");
	struct daxlease_ctx_opts opts = {
		.size = sizeof(opts),
		.mode = loop ? DAXLEASE_MODE_LOOP : DAXLEASE_MODE_THREAD,
		.kind = DAXLEASE_KIND_LEASE,
	};
	static struct conn conns[PEERS];
	pthread_t threads[PEERS], answerer, recaller, dispatcher;
	pid_t breaker;

	edge_reset(windows);
	file_make(&file, 4, true);
	breaker = start_breaker();
	REQUIRE(!daxlease_ctx_new(&opts, &ctx));
	for (unsigned int i = 0; i < OFFERS; i++)
		make_offer(i);
	if (loop)
		REQUIRE(!pthread_create(&dispatcher, NULL, dispatch_thread, NULL));
	REQUIRE(!pthread_create(&answerer, NULL, answer_thread, NULL));
	for (unsigned int i = 0; i < PEERS; i++) {
		conns[i].seed = i + 1;
		REQUIRE(!pthread_create(&threads[i], NULL, peer_thread, &conns[i]));
	}
	REQUIRE(!pthread_create(&recaller, NULL, recall_thread, NULL));
	sleep(seconds);
	atomic_store(&stop, true);
	for (unsigned int i = 0; i < PEERS; i++)
		REQUIRE(!pthread_join(threads[i], NULL));
	REQUIRE(!pthread_join(recaller, NULL));
	end_breaker(breaker);
	atomic_store(&stop_dispatch, true);
	REQUIRE(!pthread_join(answerer, NULL));
	if (loop)
		REQUIRE(!pthread_join(dispatcher, NULL));
	check_end();
	file_end(&file);
	return 0;
}
