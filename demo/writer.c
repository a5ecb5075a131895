// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Writes numbered, checksummed records into the holder's file with RDMA WRITE,
 * and keeps a ledger of those that were acknowledged by a completion. Plain
 * verbs: nothing in here knows of leases.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"

/* Coprime to every sensible number of slots: writes are spread over all of the file. */
#define STRIDE 10007u

/* So many acknowledged under one key count as "running". */
#define RUNNING 1000u

#define BATCH 16

struct options {
	const char *socket;
	const char *device;
	const char *ledger;
	uint32_t depth;
	uint32_t rate; /* writes a second, 0 = as many as possible */
	bool deaf;
	bool boast;
};

/* One work request and the record that it sends. */
struct work {
	struct record *rec;
	uint32_t slot;
};

struct writer {
	const struct options *opts;
	struct endpoint ep;
	int conn;
	struct record *records; /* one for each of opts->depth work requests */
	struct ibv_mr *mr;
	struct work *work;
	uint32_t *idle; /* stack of unused work[] */
	uint32_t idle_count;
	struct ledger *ledger;
	struct keys keys;
	uint64_t seq;
	uint64_t next_burst_ns;
	bool halving;  /* once stopped: what is in the second half will be gone */
	bool running;  /* may post */
	bool stopping; /* the holder waits for our MSG_DRAINED */
	bool ending;
	enum ibv_wc_status error; /* first one */
	uint64_t acked_here;	  /* under this key */
	uint64_t last_ack_ns;
	uint64_t longest_pause_ns; /* between acknowledgements, since the last count */
	uint64_t acked_at_count;
};

static uint32_t outstanding(const struct writer *w)
{
	return w->opts->depth - w->idle_count;
}

/* ------------------------------------------------------------------------- */
/* Posting and completions */

static void post_one(struct writer *w)
{
	uint32_t index = w->idle[--w->idle_count];
	struct work *work = &w->work[index];
	uint64_t seq = ++w->seq;
	struct ledger_slot *entry;
	struct ibv_send_wr *bad, wr;
	struct ibv_sge sge;
	int ret;

	work->slot = (uint32_t)(seq * STRIDE % (w->keys.length / RECORD_SIZE));
	record_make(work->rec, seq, work->slot, w->keys.generation);
	entry = &w->ledger->slot[work->slot];
	entry->posted_seq = seq;
	entry->posted_generation = w->keys.generation;
	w->ledger->posted++;

	sge = (struct ibv_sge){
		.addr = (uintptr_t)work->rec,
		.length = RECORD_SIZE,
		.lkey = w->mr->lkey,
	};
	wr = (struct ibv_send_wr){
		.wr_id = index,
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma = { .remote_addr = w->keys.addr + (uint64_t)work->slot * RECORD_SIZE,
			     .rkey = w->keys.rkey },
	};
	ret = ibv_post_send(w->ep.qp, &wr, &bad);
	if (ret)
		die("ibv_post_send: %s", strerror(ret));
}

static bool may_post(const struct writer *w)
{
	return w->running && w->idle_count;
}

/* In bursts, so that many are outstanding for part of the time at any rate. */
static void post_burst(struct writer *w)
{
	uint64_t now = now_ns();

	if (now < w->next_burst_ns)
		return;
	if (w->opts->rate)
		w->next_burst_ns = now + w->opts->depth * 1000000000ull / w->opts->rate;
	while (may_post(w))
		post_one(w);
}

/* Milliseconds for poll(2) until there may be something to post. */
static int until_burst(const struct writer *w)
{
	uint64_t now = now_ns();

	if (!may_post(w))
		return -1;
	return now < w->next_burst_ns ? (int)((w->next_burst_ns - now) / 1000000) + 1 : 0;
}

static void note_ack(struct writer *w)
{
	uint64_t now = now_ns();

	if (w->last_ack_ns && now - w->last_ack_ns > w->longest_pause_ns)
		w->longest_pause_ns = now - w->last_ack_ns;
	w->last_ack_ns = now;
	w->ledger->acked++;
	w->acked_here++;
	if (w->acked_here == 1)
		event("resumed", "first write under rkey 0x%08" PRIx32 " complete", w->keys.rkey);
	else if (w->acked_here == RUNNING)
		event("running",
		      "writes running: %u complete under rkey 0x%08" PRIx32 ", %" PRIu64 " in all",
		      RUNNING, w->keys.rkey, w->ledger->acked);
}

static void complete(struct writer *w, const struct ibv_wc *wc)
{
	const struct work *work = &w->work[wc->wr_id];
	struct ledger_slot *entry = &w->ledger->slot[work->slot];

	w->idle[w->idle_count++] = (uint32_t)wc->wr_id;
	if (wc->status == IBV_WC_SUCCESS) {
		entry->acked_seq = work->rec->seq;
		entry->acked_generation = work->rec->generation;
		note_ack(w);
		return;
	}
	if (w->error == IBV_WC_SUCCESS) {
		w->error = wc->status;
		event("broken", "record %" PRIu64 " failed: %s", work->rec->seq,
		      ibv_wc_status_str(wc->status));
	}
	w->running = false;
}

/* Returns whether there was anything. */
static bool reap(struct writer *w)
{
	struct ibv_wc wc[BATCH];
	int n = ibv_poll_cq(w->ep.cq, BATCH, wc);

	if (n < 0)
		die("ibv_poll_cq failed");
	for (int i = 0; i < n; i++)
		complete(w, &wc[i]);
	return n > 0;
}

static void clear_channel(struct writer *w)
{
	struct ibv_cq *cq;
	void *context;

	if (ibv_get_cq_event(w->ep.channel, &cq, &context))
		die("ibv_get_cq_event: %s", strerror(errno));
	ibv_ack_cq_events(cq, 1);
}

/* ------------------------------------------------------------------------- */
/* What the holder and the user ask for */

/* What is there from this place on goes with the blocks: that is what truncate means. */
static void forget_from(struct writer *w, uint64_t from, const char *where)
{
	uint64_t gone = 0;

	for (uint64_t i = from / RECORD_SIZE; i < w->ledger->slots; i++) {
		gone += w->ledger->slot[i].acked_seq != 0;
		w->ledger->slot[i] = (struct ledger_slot){ 0 };
	}
	w->ledger->gone += gone;
	if (from < w->ledger->shortest)
		w->ledger->shortest = from;
	if (gone)
		event("gone", "drops %" PRIu64 " records %s", gone, where);
}

static void start(struct writer *w, const struct keys *keys)
{
	if (keys->length / RECORD_SIZE > w->ledger->slots)
		die("the holder registered more than it had at first");
	if (keys->length / RECORD_SIZE < w->opts->depth)
		die("the region has fewer slots than there are writes outstanding");
	w->keys = *keys;
	w->acked_here = 0;
	w->running = !w->ending && !w->error;
	w->ledger->length = keys->length;
	forget_from(w, keys->length, "behind the file's new end");
}

static void stop(struct writer *w)
{
	if (w->opts->deaf)
		return;
	event("stopping", "stops posting, %u outstanding", outstanding(w));
	w->running = false;
	w->stopping = true;
}

/* False: the holder is gone. */
static bool handle_message(struct writer *w)
{
	struct msg msg;

	if (!control_recv(w->conn, &msg))
		return false;
	switch (msg.type) {
	case MSG_KEYS:
		start(w, &msg.keys);
		break;
	case MSG_STOP:
		stop(w);
		break;
	default:
		die("message of unknown type %" PRIu32 " from the holder", msg.type);
	}
	return true;
}

static void say_drained(struct writer *w)
{
	struct msg msg = { .type = MSG_DRAINED };

	event("drained", "last work request complete, %" PRIu64 " in all", w->ledger->acked);
	if (w->halving)
		forget_from(w, w->ledger->length / 2, "where the hole will be");
	w->halving = false;
	control_send(w->conn, &msg);
	w->stopping = false;
}

static void say_count(struct writer *w)
{
	event("count", "%" PRIu64 " complete since the last count, longest pause %.1f ms",
	      w->ledger->acked - w->acked_at_count, (double)w->longest_pause_ns / 1e6);
	w->acked_at_count = w->ledger->acked;
	w->longest_pause_ns = 0;
}

static void handle_signal(struct writer *w, int signo)
{
	if (signo == SIGUSR1) {
		say_count(w);
		return;
	}
	if (signo == SIGUSR2) {
		w->halving = true;
		return;
	}
	w->running = false;
	w->ending = true;
}

/* ------------------------------------------------------------------------- */
/* Main loop */

/*
 * Sleeps until there is a message, a signal or a completion. The second look at
 * the queue closes the gap between it being empty and the notification armed.
 */
static void wait_for_something(struct writer *w, struct pollfd *fds)
{
	if (ibv_req_notify_cq(w->ep.cq, 0))
		die("ibv_req_notify_cq failed");
	if (reap(w))
		return;
	if (poll(fds, 3, until_burst(w)) < 0)
		die("poll: %s", strerror(errno));
	if (fds[2].revents)
		clear_channel(w);
}

static void run(struct writer *w, int signals)
{
	struct pollfd fds[3] = {
		{ .fd = signals, .events = POLLIN },
		{ .fd = w->conn, .events = POLLIN },
		{ .fd = w->ep.channel->fd, .events = POLLIN },
	};
	int signo;

	while (outstanding(w) || !(w->ending || w->error)) {
		if (may_post(w))
			post_burst(w);
		if (!reap(w))
			wait_for_something(w, fds);
		else if (poll(fds, 2, 0) < 0)
			die("poll: %s", strerror(errno));
		if (fds[1].revents && !handle_message(w)) {
			event("alone", "the holder is gone");
			w->running = false;
			w->ending = true;
			fds[1].fd = -1;
		}
		while (fds[0].revents && (signo = signals_next(signals)))
			handle_signal(w, signo);
		fds[0].revents = fds[1].revents = fds[2].revents = 0;
		if (w->stopping && !outstanding(w))
			say_drained(w);
	}
}

static void prepare_work(struct writer *w)
{
	uint32_t depth = w->opts->depth;

	w->records = aligned_alloc(RECORD_SIZE, (size_t)depth * RECORD_SIZE);
	w->work = calloc(depth, sizeof(*w->work));
	w->idle = calloc(depth, sizeof(*w->idle));
	if (!w->records || !w->work || !w->idle)
		die("no memory for %u records", depth);
	w->mr = ibv_reg_mr(w->ep.pd, w->records, (size_t)depth * RECORD_SIZE, 0);
	if (!w->mr)
		die("ibv_reg_mr of the writer's own buffers: %s", strerror(errno));
	for (uint32_t i = 0; i < depth; i++) {
		w->work[i].rec = &w->records[i];
		w->idle[w->idle_count++] = i;
	}
}

static void connect_holder(struct writer *w)
{
	struct msg msg;

	w->conn = control_connect(w->opts->socket);
	msg = (struct msg){ .type = MSG_HELLO, .hello = w->ep.local };
	control_send(w->conn, &msg);
	if (!control_recv(w->conn, &msg) || msg.type != MSG_HELLO)
		die("the holder did not introduce itself");
	endpoint_connect(&w->ep, &msg.hello);
	if (!control_recv(w->conn, &msg) || msg.type != MSG_KEYS)
		die("the holder sent no key");
	w->ledger = ledger_new(msg.keys.length / RECORD_SIZE);
	w->ledger->shortest = msg.keys.length;
	w->ledger->mtu =
		128u << (msg.hello.mtu < w->ep.local.mtu ? msg.hello.mtu : w->ep.local.mtu);
	event("connected", "connected; RDMA WRITE of %u byte records, %u outstanding", RECORD_SIZE,
	      w->opts->depth);
	start(w, &msg.keys);
}

/* A lie for testing the verifier: the next record would have been there as well. */
static void boast(struct writer *w)
{
	uint64_t seq = w->seq + 1;
	struct ledger_slot *entry;

	entry = &w->ledger->slot[seq * STRIDE % (w->ledger->length / RECORD_SIZE)];
	entry->acked_seq = entry->posted_seq = seq;
	entry->acked_generation = entry->posted_generation = w->keys.generation;
}

static void finish(struct writer *w)
{
	event("ended",
	      "ended: %" PRIu64 " records posted, %" PRIu64 " complete, %" PRIu64
	      " of unknown fate",
	      w->ledger->posted, w->ledger->acked, w->ledger->posted - w->ledger->acked);
	if (w->opts->boast)
		boast(w);
	if (w->opts->ledger)
		ledger_save(w->ledger, w->opts->ledger);
	ibv_dereg_mr(w->mr);
	endpoint_close(&w->ep);
	free(w->ledger);
	free(w->idle);
	free(w->work);
	free(w->records);
}

/* ------------------------------------------------------------------------- */

static void usage(FILE *out)
{
	fputs("usage: writer [OPTION...]\n"
	      "Connects to a holder and writes records into its file with RDMA WRITE until\n"
	      "SIGINT, SIGTERM or an error. SIGUSR1: say how many since last asked. SIGUSR2:\n"
	      "when it is stopped next, a hole will be made of the second half of the file.\n"
	      "\n"
	      "  --socket PATH      where the holder listens (/tmp/daxlease-demo.sock)\n"
	      "  --device NAME      RDMA device, RoCE (the first one)\n"
	      "  --depth N          writes outstanding at a time (16)\n"
	      "  --rate N           writes a second, 0: as fast as it goes (4000)\n"
	      "  --ledger FILE      at the end, write down what has to be in the file\n"
	      "  --deaf             for tests: do not listen when told to stop\n"
	      "  --boast            for tests: claim in the ledger a record that was not written\n"
	      "  --help             this text\n"
	      "\n"
	      "Prints a timeline: milliseconds, who, tag, what. They count from $DEMO_EPOCH_NS\n"
	      "(CLOCK_MONOTONIC) if that is set. Status 3: a write failed.\n",
	      out);
}

static void parse_options(int argc, char **argv, struct options *opts)
{
	static const struct option table[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "device", required_argument, NULL, 'd' },
		{ "depth", required_argument, NULL, 'n' },
		{ "rate", required_argument, NULL, 'r' },
		{ "ledger", required_argument, NULL, 'l' },
		{ "deaf", no_argument, NULL, 'D' },
		{ "boast", no_argument, NULL, 'B' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", table, NULL)) != -1) {
		switch (c) {
		case 's':
			opts->socket = optarg;
			break;
		case 'd':
			opts->device = optarg;
			break;
		case 'n':
			opts->depth = (uint32_t)parse_number("depth", optarg, 1, 1024);
			break;
		case 'r':
			opts->rate = (uint32_t)parse_number("rate", optarg, 0, 10000000);
			break;
		case 'l':
			opts->ledger = optarg;
			break;
		case 'D':
			opts->deaf = true;
			break;
		case 'B':
			opts->boast = true;
			break;
		case 'h':
			usage(stdout);
			exit(EXIT_SUCCESS);
		default:
			usage(stderr);
			exit(EXIT_USAGE);
		}
	}
	if (optind < argc) {
		usage(stderr);
		exit(EXIT_USAGE);
	}
}

int main(int argc, char **argv)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGUSR1, SIGUSR2, 0 };
	struct options opts = { .socket = "/tmp/daxlease-demo.sock", .depth = 16, .rate = 4000 };
	struct writer w = { .opts = &opts, .error = IBV_WC_SUCCESS };
	int signal_fd;

	event_init("writer");
	parse_options(argc, argv, &opts);
	signal_fd = signals_open(signals);
	endpoint_open(&w.ep, opts.device, opts.depth);
	prepare_work(&w);
	connect_holder(&w);
	run(&w, signal_fd);
	finish(&w);
	return w.error ? EXIT_BROKEN : EXIT_SUCCESS;
}
