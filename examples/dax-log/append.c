// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * The client. Records go out in batches, each followed by a request to flush it, and stay
 * in memory until that is answered. What is not acknowledged when a grant comes is written
 * again, be it after a revoke or after a broken connection.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "commands.h"
#include "ledger.h"
#include "link.h"
#include "util.h"

#define COMPLETIONS 32
#define GRACE_NS (5 * NS_PER_S) /* for what is under way at the end */
#define RETRY_MS 200
#define MAX_BAD 1000 /* in a row */

struct options {
	const char *host;
	const char *ledger;
	uint64_t records; /* 0: no end */
	uint32_t seconds; /* likewise */
	uint32_t depth;
	uint32_t batch;
	uint32_t rate; /* records a second, 0: as fast as it goes */
	uint32_t reconnect_s;
	uint16_t port;
	bool hold;
	bool boast;
	bool quiet;
};

/* Records with numbers that follow each other. */
struct batch {
	uint64_t first;
	uint32_t count;
	bool posted; /* under the present grant */
	bool acked;
	uint8_t *records;
};

struct client {
	const struct options *opts;
	struct link link;
	struct welcome welcome;
	struct ledger *ledger;
	int signal_fd;

	/* Those in use, oldest first: `used` of them from `oldest`, in a circle. */
	struct batch batch[MAX_FLUSHES];
	uint32_t batches;
	uint32_t oldest;
	uint32_t used;
	uint8_t *memory;
	size_t memory_size;
	struct ibv_mr *mr; /* of memory */
	uint64_t next;	   /* sequence number */

	bool granted;
	struct daxlease_grant grant;
	uint64_t places; /* of our ring that the grant reaches */
	uint32_t bad;	 /* answers in a row */

	bool stopping;
	uint64_t stop_ns; /* when to stop; then: when to end in any case */
	uint64_t next_fill_ns;
	bool broken; /* the connection is */
	int error;

	struct outage outage; /* the present one, if kind is not 0 */
	uint64_t last_ack_ns;
	uint64_t acked_before;
	uint64_t progress_ns;
};

static void stop_with(struct client *c, int err)
{
	c->error = err;
	c->broken = true;
}

static const struct layout *layout(const struct client *c)
{
	return &c->ledger->layout;
}

static struct batch *batch_at(struct client *c, uint32_t i)
{
	return &c->batch[(c->oldest + i) % c->batches];
}

static unsigned int number_of(const struct client *c, const struct batch *b)
{
	return (unsigned int)(b - c->batch);
}

/* ------------------------------------------------------------------------- */
/* Outages */

/* One that begins while another lasts is part of it. */
static void outage_begin(struct client *c, enum outage_kind kind)
{
	if (!c->outage.kind)
		c->outage.from_ns = c->last_ack_ns ? c->last_ack_ns : now_ns();
	if (c->outage.kind < kind)
		c->outage.kind = kind;
}

static void outage_end(struct client *c)
{
	c->last_ack_ns = now_ns();
	if (!c->outage.kind)
		return;
	c->outage.to_ns = c->last_ack_ns;
	ledger_outage(c->ledger, &c->outage);
	c->outage.kind = 0;
}

/* ------------------------------------------------------------------------- */
/* Filling and posting batches */

/* How many places of our ring are inside of this many bytes. */
static uint64_t places_in(const struct client *c, uint64_t length)
{
	uint64_t slots = length / layout(c)->record_size, first = 1 + c->ledger->id;
	uint64_t places = slots > first ? (slots - first - 1) / layout(c)->stride + 1 : 0;

	return places < layout(c)->ring ? places : layout(c)->ring;
}

static uint64_t in_flight(struct client *c)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < c->used; i++)
		n += batch_at(c, i)->count;
	return n;
}

/* How many records the next batch may have: up to the end of the ring, or of the grant. */
static uint32_t room(struct client *c)
{
	uint64_t flying = in_flight(c), place = c->next % layout(c)->ring, n = c->opts->batch;

	if (!c->places)
		return 0;
	if (place >= c->places) { /* round again early */
		c->next += layout(c)->ring - place;
		place = 0;
	}
	if (n > c->places - place)
		n = c->places - place;
	if (c->opts->records && n > c->opts->records - c->ledger->acked - flying)
		n = c->opts->records - c->ledger->acked - flying;
	return flying + n <= c->places ? (uint32_t)n : 0;
}

static void fill_batch(struct client *c, struct batch *b, uint32_t count)
{
	uint32_t size = layout(c)->record_size;

	b->first = c->next;
	b->count = count;
	b->posted = false;
	b->acked = false;
	for (uint32_t i = 0; i < count; i++) {
		record_make((struct record *)(b->records + (size_t)i * size), size,
			    c->ledger->session, (uint32_t)c->ledger->id, b->first + i);
		ledger_posted(c->ledger, b->first + i);
	}
	c->next += count;
	c->used++;
}

static bool fill_due(struct client *c)
{
	uint64_t now = now_ns();

	if (now < c->next_fill_ns)
		return false;
	if (c->opts->rate)
		c->next_fill_ns = now + c->opts->batch * NS_PER_S / c->opts->rate;
	return true;
}

static bool may_fill(struct client *c)
{
	return c->granted && !c->stopping && c->used < c->batches &&
	       !conn_is_sending(&c->link.conn, number_of(c, batch_at(c, c->used)));
}

static void fill(struct client *c)
{
	uint32_t count;

	while (may_fill(c) && (count = room(c)) && fill_due(c))
		fill_batch(c, batch_at(c, c->used), count);
}

static int post_record(struct client *c, const struct batch *b, uint32_t i)
{
	uint32_t size = layout(c)->record_size;
	uint64_t offset = record_offset(layout(c), (uint32_t)c->ledger->id, b->first + i);
	struct ibv_sge sge = {
		.addr = (uintptr_t)(b->records + (size_t)i * size),
		.length = size,
		.lkey = c->mr->lkey,
	};
	struct ibv_send_wr *bad, wr = {
		.wr_id = WORK_ID(WORK_WRITE, i),
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE, /* not signaled: the request behind it is */
		.wr.rdma = { .remote_addr = c->grant.addr + offset, .rkey = c->grant.rkey },
	};

	return -ibv_post_send(c->link.cm_id->qp, &wr, &bad);
}

static int post_batch(struct client *c, struct batch *b)
{
	struct message flush = {
		.magic = MESSAGE_MAGIC,
		.type = MESSAGE_FLUSH,
		.first = b->first,
		.count = b->count,
	};
	int err = 0;

	for (uint32_t i = 0; i < b->count && !err; i++)
		err = post_record(c, b, i);
	if (!err)
		err = conn_send(&c->link.conn, number_of(c, b), &flush);
	b->posted = !err;
	return err;
}

/* In their order: one that has to wait holds up those behind it. */
static void post(struct client *c)
{
	int err = 0;

	for (uint32_t i = 0; i < c->used && c->granted && !err; i++) {
		struct batch *b = batch_at(c, i);

		if (b->posted)
			continue;
		if (conn_is_sending(&c->link.conn, number_of(c, b)))
			break;
		err = post_batch(c, b);
	}
	if (err) { /* the queue pair is in the error state, which completions will tell */
		c->granted = false;
		c->broken = true;
	}
}

/* ------------------------------------------------------------------------- */
/* What the server says */

/*
 * What the file has no room for any more is forgotten, with all behind it, and made anew
 * elsewhere. A program whose records come from somebody else would number those again.
 */
static void forget_beyond(struct client *c)
{
	for (uint32_t i = 0; i < c->used; i++) {
		const struct batch *b = batch_at(c, i);

		if (b->first % layout(c)->ring + b->count <= c->places)
			continue;
		c->used = i;
		return;
	}
}

static void on_grant(struct daxlease_peer *peer, const struct daxlease_grant *grant, void *userdata)
{
	struct client *c = userdata;

	(void)peer;
	c->grant = *grant;
	c->granted = true;
	c->places = places_in(c, grant->length);
	forget_beyond(c);
	for (uint32_t i = 0; i < c->used; i++)
		batch_at(c, i)->posted = false;
}

/* The answer follows what was posted, so it is given at once. */
static int on_revoke(struct daxlease_peer *peer, uint32_t offer, uint64_t deadline_ns,
		     void *userdata)
{
	struct client *c = userdata;

	(void)peer;
	(void)offer;
	(void)deadline_ns;
	outage_begin(c, OUTAGE_REVOKED);
	c->granted = false;
	if (!c->opts->hold)
		return 0;
	say("the answer is held back");
	return DAXLEASE_PENDING;
}

static struct batch *find(struct client *c, const struct message *msg)
{
	for (uint32_t i = 0; i < c->used; i++) {
		struct batch *b = batch_at(c, i);

		if (b->first == msg->first && b->count == msg->count && b->posted && !b->acked)
			return b;
	}
	return NULL;
}

static void acknowledged(struct client *c, struct batch *b, uint64_t time_ns)
{
	outage_end(c);
	c->bad = 0;
	b->acked = true;
	for (uint32_t i = 0; i < b->count; i++)
		ledger_acked(c->ledger, b->first + i, time_ns);
	while (c->used && batch_at(c, 0)->acked) {
		c->oldest = (c->oldest + 1) % c->batches;
		c->used--;
	}
}

/* FLUSH_LATER: a grant follows, and then all of it is written again. */
static void flushed(struct client *c, const struct message *msg)
{
	struct batch *b = find(c, msg);

	if (!b)
		return;
	if (msg->status == FLUSH_DONE)
		acknowledged(c, b, msg->time_ns);
	if (msg->status != FLUSH_BAD)
		return;
	b->posted = false;
	if (++c->bad < MAX_BAD)
		return;
	say("the server does not find what was written; does somebody else write there, too?");
	stop_with(c, -EIO);
}

/* Returns whether there was anything. */
static bool take_completions(struct client *c)
{
	struct ibv_wc wc[COMPLETIONS];
	struct message msg;
	int n = ibv_poll_cq(c->link.cq, COMPLETIONS, wc);

	if (n < 0)
		stop_with(c, fail(-EIO, "ibv_poll_cq"));
	for (int i = 0; i < n; i++) {
		switch (conn_completed(&c->link.conn, &wc[i], &msg)) {
		case CONN_NOTHING:
			break;
		case CONN_MESSAGE:
			if (msg.type == MESSAGE_FLUSHED)
				flushed(c, &msg);
			break;
		case CONN_BROKEN:
			if (!c->broken)
				say("the connection is broken: %s",
				    ibv_wc_status_str(wc[i].status));
			c->broken = true;
			break;
		}
	}
	return n > 0;
}

/* ------------------------------------------------------------------------- */
/* The loop, while there is a connection */

static void begin_to_stop(struct client *c)
{
	if (c->stopping)
		return;
	c->stopping = true;
	c->stop_ns = now_ns() + GRACE_NS;
}

/* A second signal does not wait for what is under way. */
static void on_signals(struct client *c)
{
	int signo;

	while ((signo = signals_next(c->signal_fd))) {
		if (signo == SIGUSR1)
			continue;
		if (c->stopping)
			c->stop_ns = 0;
		begin_to_stop(c);
	}
}

static bool finished(struct client *c)
{
	if (!c->stopping &&
	    (now_ns() >= c->stop_ns || (c->opts->records && c->ledger->acked >= c->opts->records)))
		begin_to_stop(c);
	return c->stopping && (!c->used || now_ns() >= c->stop_ns);
}

static void show(struct client *c)
{
	uint64_t now = now_ns(), acked = c->ledger->acked;
	double seconds = (double)(now - c->progress_ns) / (double)NS_PER_S;

	if (c->opts->quiet || !progress_due())
		return;
	progress("client %" PRIu64 ": %" PRIu64 " records acknowledged, %.0f/s, %" PRIu64
		 " outages%s",
		 c->ledger->id, acked, (double)(acked - c->acked_before) / seconds,
		 c->ledger->outages, c->granted ? "" : ", waiting for the server");
	c->acked_before = acked;
	c->progress_ns = now;
}

static int wait_ms(struct client *c)
{
	if (c->opts->rate && may_fill(c))
		return ms_until(c->next_fill_ns) < 100 ? ms_until(c->next_fill_ns) : 100;
	return 100; /* for the progress line and the end */
}

/* Armed, and looked at once more: none can be missed. */
static void wait_for_something(struct client *c)
{
	struct pollfd fds[3] = {
		{ .fd = c->link.completions->fd, .events = POLLIN },
		{ .fd = c->link.channel->fd, .events = POLLIN },
		{ .fd = c->signal_fd, .events = POLLIN },
	};
	struct ibv_cq *cq;
	void *userdata;

	if (ibv_req_notify_cq(c->link.cq, 0))
		stop_with(c, fail(-EIO, "ibv_req_notify_cq"));
	if (take_completions(c))
		return;
	if (poll(fds, 3, wait_ms(c)) < 0 && errno != EINTR)
		stop_with(c, fail(-errno, "poll"));
	while (!ibv_get_cq_event(c->link.completions, &cq, &userdata))
		ibv_ack_cq_events(cq, 1);
}

static void run(struct client *c)
{
	while (!c->broken && !finished(c)) {
		fill(c);
		post(c);
		if (!take_completions(c))
			wait_for_something(c);
		on_signals(c);
		if (link_is_over(&c->link)) {
			say("the server ended the connection");
			c->broken = true;
		}
		show(c);
	}
}

/* ------------------------------------------------------------------------- */
/* Connecting, again and again */

/* Once what the server wants is known. */
static int prepare(struct client *c)
{
	struct layout l =
		layout_of(c->welcome.file_size, c->welcome.record_size, c->welcome.stride);
	size_t batch_size = (size_t)c->opts->batch * l.record_size;
	int err = ledger_create(c->opts->ledger, &l, c->link.session, c->welcome.id, &c->ledger);

	if (err)
		return err;
	c->memory_size = c->batches * batch_size;
	c->memory_size = (c->memory_size + 4095) & ~(size_t)4095;
	c->memory = aligned_alloc(4096, c->memory_size);
	if (!c->memory)
		return fail(-ENOMEM, "%u records", c->opts->depth);
	for (uint32_t i = 0; i < c->batches; i++)
		c->batch[i].records = c->memory + i * batch_size;
	c->next = c->welcome.next;
	c->link.id = c->welcome.id;
	say("client %u of %u, records of %u bytes", c->welcome.id, c->welcome.stride,
	    c->welcome.record_size);
	return 0;
}

/* It may be another server by now, or somebody else has our slots. */
static int check_same(const struct client *c)
{
	if (c->welcome.id == c->ledger->id && c->welcome.stride == layout(c)->stride &&
	    c->welcome.record_size == layout(c)->record_size)
		return 0;
	say("the server has another log now, or gave our slots to somebody else");
	return -ESTALE;
}

static int connected(struct client *c)
{
	int err = c->ledger ? check_same(c) : prepare(c);

	if (err)
		return err;
	c->mr = ibv_reg_mr(c->link.pd, c->memory, c->memory_size, 0);
	if (!c->mr)
		return fail(-errno, "cannot register %zu bytes (is ulimit -l too low?)",
			    c->memory_size);
	c->broken = false;
	return 0;
}

static void disconnected(struct client *c)
{
	c->granted = false;
	if (c->mr)
		ibv_dereg_mr(c->mr);
	c->mr = NULL;
	link_close(&c->link);
}

/* 0: it is time to end. -EAGAIN: there is no connection, or it broke. */
static int session(struct client *c, bool first)
{
	int err = link_open(&c->link, first, &c->welcome);

	if (err == -EINTR) {
		on_signals(c);
		return c->stopping ? 0 : -EAGAIN;
	}
	if (err)
		return first ? err : -EAGAIN;
	err = connected(c);
	if (!err)
		run(c);
	disconnected(c);
	if (err || c->error)
		return err ? err : c->error;
	return c->broken ? -EAGAIN : 0;
}

static bool time_is_up(const struct client *c)
{
	return c->stopping || now_ns() >= c->stop_ns;
}

static void count_disconnect(struct client *c)
{
	if (c->outage.kind != OUTAGE_DISCONNECTED)
		c->ledger->disconnects++;
	outage_begin(c, OUTAGE_DISCONNECTED);
}

static void pause_before_retry(struct client *c)
{
	struct pollfd fd = { .fd = c->signal_fd, .events = POLLIN };

	poll(&fd, 1, RETRY_MS);
	on_signals(c);
}

/* Until it is time to end, or there was no connection for so long. */
static int run_sessions(struct client *c)
{
	uint64_t patience = c->opts->reconnect_s * NS_PER_S, since = now_ns();
	int err = session(c, true);

	while (err == -EAGAIN && !time_is_up(c)) {
		if (c->ledger)
			count_disconnect(c);
		if (c->last_ack_ns > since)
			since = c->last_ack_ns;
		if (now_ns() >= since + patience) {
			say("no connection for %u s; given up", c->opts->reconnect_s);
			return -ECONNRESET;
		}
		pause_before_retry(c);
		if (!time_is_up(c))
			err = session(c, false);
	}
	return err == -EAGAIN ? 0 : err;
}

/* ------------------------------------------------------------------------- */

static void report(struct client *c)
{
	struct ledger *ledger = c->ledger;

	progress_end();
	printf("client %" PRIu64 ": %" PRIu64 " records acknowledged, %" PRIu64
	       " of unknown fate, %" PRIu64 " disconnects\n",
	       ledger->id, ledger->acked, ledger->posted - ledger->acked, ledger->disconnects);
	ledgers_print_outages(&ledger, 1, OUTAGE_REVOKED, "outages by revokes");
	ledgers_print_outages(&ledger, 1, OUTAGE_DISCONNECTED, "outages by disconnects");
}

/* A lie for testing the verifier: the next record would have been there as well. */
static void boast(struct client *c)
{
	ledger_posted(c->ledger, c->next);
	ledger_acked(c->ledger, c->next, now_ns());
}

static void usage(FILE *out)
{
	fputs("Usage: dax-log append [OPTION...] HOST\n"
	      "Appends checksummed records to the log that 'dax-log serve' offers at HOST, and goes\n"
	      "on by itself when somebody truncates the file, or the connection breaks.\n"
	      "\n"
	      "  --port P           (7471)\n"
	      "  --ledger FILE      write down what was acknowledged, for 'dax-log verify'\n"
	      "  --records N        end after so many (no end)\n"
	      "  --seconds S        end after so long (no end)\n"
	      "  --depth D          records that may be unacknowledged at a time (64)\n"
	      "  --batch N          records for each request to flush them (8)\n"
	      "  --rate N           records a second (0: as fast as it goes)\n"
	      "  --reconnect S      try so long to connect again; 0: end instead (30)\n"
	      "  --misbehave hold   for tests: never answer a revoke\n"
	      "  --boast            for tests: claim a record that was not written\n"
	      "  --quiet            no line that shows progress\n"
	      "  --help             this text\n"
	      "\n"
	      "A record is acknowledged when the server has looked at it, and flushed it out of the\n"
	      "processor's caches. SIGINT or SIGTERM ends it when the rest is acknowledged, a second\n"
	      "one at once. At the end it says how long its outages were: from the last\n"
	      "acknowledgement before a revoke or a broken connection to the first one after.\n",
	      out);
}

enum {
	OPT_PORT = 1,
	OPT_LEDGER,
	OPT_RECORDS,
	OPT_SECONDS,
	OPT_DEPTH,
	OPT_BATCH,
	OPT_RATE,
	OPT_RECONNECT,
	OPT_MISBEHAVE,
	OPT_BOAST,
	OPT_QUIET,
};

static const struct option option_table[] = {
	{ "port", required_argument, NULL, OPT_PORT },
	{ "ledger", required_argument, NULL, OPT_LEDGER },
	{ "records", required_argument, NULL, OPT_RECORDS },
	{ "seconds", required_argument, NULL, OPT_SECONDS },
	{ "depth", required_argument, NULL, OPT_DEPTH },
	{ "batch", required_argument, NULL, OPT_BATCH },
	{ "rate", required_argument, NULL, OPT_RATE },
	{ "reconnect", required_argument, NULL, OPT_RECONNECT },
	{ "misbehave", required_argument, NULL, OPT_MISBEHAVE },
	{ "boast", no_argument, NULL, OPT_BOAST },
	{ "quiet", no_argument, NULL, OPT_QUIET },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

static void set_option(struct options *opts, int c)
{
	switch (c) {
	case OPT_PORT:
		opts->port = (uint16_t)parse_number("port", optarg, 1, UINT16_MAX);
		break;
	case OPT_LEDGER:
		opts->ledger = optarg;
		break;
	case OPT_RECORDS:
		opts->records = parse_number("records", optarg, 1, UINT64_MAX);
		break;
	case OPT_SECONDS:
		opts->seconds = (uint32_t)parse_number("seconds", optarg, 1, 100000000);
		break;
	case OPT_DEPTH:
		opts->depth = (uint32_t)parse_number("depth", optarg, 1, 8192);
		break;
	case OPT_BATCH:
		opts->batch = (uint32_t)parse_number("batch", optarg, 1, 256);
		break;
	case OPT_RATE:
		opts->rate = (uint32_t)parse_number("rate", optarg, 0, 10000000);
		break;
	case OPT_RECONNECT:
		opts->reconnect_s = (uint32_t)parse_number("reconnect", optarg, 0, 1000000);
		break;
	case OPT_MISBEHAVE:
		opts->hold = !strcmp(optarg, "hold");
		if (opts->hold)
			break;
		say("--misbehave takes hold, not '%s'", optarg);
		exit(EXIT_USAGE);
	case OPT_BOAST:
		opts->boast = true;
		break;
	case OPT_QUIET:
		opts->quiet = true;
		break;
	case 'h':
		usage(stdout);
		exit(EXIT_SUCCESS);
	default:
		exit(EXIT_USAGE);
	}
}

static void parse_options(int argc, char **argv, struct options *opts)
{
	int c;

	while ((c = getopt_long(argc, argv, "h", option_table, NULL)) != -1)
		set_option(opts, c);
	if (argc - optind != 1) {
		say("append takes one HOST; see --help");
		exit(EXIT_USAGE);
	}
	opts->host = argv[optind];
	if (opts->batch > opts->depth)
		opts->batch = opts->depth;
	if (opts->depth / opts->batch <= MAX_FLUSHES)
		return;
	say("--depth can be %u times --batch at most", MAX_FLUSHES);
	exit(EXIT_USAGE);
}

static int open_client(struct client *c)
{
	const struct options *opts = c->opts;

	c->batches = opts->depth / opts->batch;
	c->signal_fd = signals_open();
	if (c->signal_fd < 0)
		return c->signal_fd;
	c->link = (struct link){
		.host = opts->host,
		.port = opts->port,
		.writes = opts->depth,
		.id = NO_ID,
		.peer = { .size = sizeof(c->link.peer),
			  .grant = on_grant,
			  .revoke = on_revoke,
			  .userdata = c },
		.signal_fd = c->signal_fd,
	};
	if (getrandom(&c->link.session, sizeof(c->link.session), 0) < 0)
		return fail(-errno, "getrandom");
	c->stop_ns = opts->seconds ? now_ns() + opts->seconds * NS_PER_S : UINT64_MAX;
	c->progress_ns = now_ns();
	return 0;
}

int append_main(int argc, char **argv)
{
	struct options opts = {
		.port = DEFAULT_PORT,
		.depth = 64,
		.batch = 8,
		.reconnect_s = 30,
	};
	struct client c = { .opts = &opts };
	int err;

	parse_options(argc, argv, &opts);
	err = open_client(&c);
	if (!err)
		err = run_sessions(&c);
	if (c.ledger && opts.boast)
		boast(&c);
	if (c.ledger)
		report(&c);
	ledger_close(c.ledger);
	free(c.memory);
	close(c.signal_fd);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
