// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * The server: one loop over the library's descriptor, connections, completions, signals and
 * a clock.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "clients.h"
#include "commands.h"
#include "rotate.h"
#include "util.h"

#define TICK_NS (NS_PER_S / 4)
#define BATCH 32

struct options {
	const char *path;
	const char *bind;
	const char *cuts;
	uint64_t size;
	uint64_t head; /* bytes that rotating leaves; 0: half */
	uint32_t record_size;
	uint32_t clients;
	uint32_t rotate_s; /* 0: on SIGUSR1 only */
	uint32_t budget_ms;
	uint16_t port;
	enum daxlease_kind kind;
	bool no_windows;
	bool verbose;
	bool quiet;
	bool rude;
};

/* What the loop waits for. */
enum source {
	SOURCE_LEASE = 0, /* first: what it says is to be known before requests are served */
	SOURCE_CM,
	SOURCE_COMPLETIONS,
	SOURCE_SIGNALS,
	SOURCE_CLOCK,
	SOURCES,
};

struct server {
	const struct options *opts;
	struct store store;
	struct clients clients;
	struct rotator rotator;

	struct daxlease_ctx *ctx;
	struct daxlease_offer *offer;

	struct rdma_event_channel *channel;
	struct rdma_cm_id *listener;
	struct ibv_pd *pd;
	struct ibv_comp_channel *completions;
	struct ibv_cq *cq;
	bool cq_busy; /* there may be more to poll */

	int epoll_fd;
	int signal_fd;
	int clock_fd;

	bool stop;
	int error;
	uint64_t next_rotation_ns;
	uint64_t breaks; /* of others */
	uint64_t flushed_before;
	uint64_t progress_ns;
};

static void stop_with(struct server *s, int err)
{
	s->stop = true;
	if (!s->error)
		s->error = err;
}

/* ------------------------------------------------------------------------- */
/* Breaks: callbacks, which run in the loop */

static void on_log(enum daxlease_log_level level, const char *line, void *userdata)
{
	(void)level;
	(void)userdata;
	say("%s", line);
}

/* Clients are asked by the library. Requests of theirs that come now are put off. */
static int on_drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	struct server *s = userdata;

	(void)mr;
	if (brk->cause != DAXLEASE_CAUSE_RECALL)
		s->breaks++;
	store_shut(&s->store);
	return 0;
}

/* Without a drain before, if the loop was stuck for the whole budget. */
static void on_release(struct daxlease_mr *mr, int result, void *userdata)
{
	struct server *s = userdata;

	(void)mr;
	(void)result;
	store_shut(&s->store);
}

static void on_regain(struct daxlease_mr *mr, const struct daxlease_regain *regain, void *userdata)
{
	struct server *s = userdata;

	(void)mr;
	if (regain->error)
		fail(regain->error, "%s: cannot be registered again; clients wait for ever",
		     s->store.path);
	store_open_for(&s->store, regain->error ? 0 : regain->length);
}

static void on_late(struct daxlease_offer *offer, struct daxlease_peer *peer,
		    enum daxlease_late how, void *userdata)
{
	(void)offer;
	(void)userdata;
	clients_late(peer, how);
}

/* ------------------------------------------------------------------------- */
/* Events */

static void on_lease(struct server *s)
{
	int n = daxlease_ctx_dispatch(s->ctx);

	if (n < 0)
		stop_with(s, fail(n, "daxlease_ctx_dispatch"));
}

static void on_cm(struct server *s)
{
	struct rdma_cm_event *event;

	while (conn_next_event(s->channel, &event)) {
		if (event->event == RDMA_CM_EVENT_DEVICE_REMOVAL)
			stop_with(s, fail(-ENODEV, "the RDMA device was removed"));
		clients_event(&s->clients, event);
	}
}

/* Armed before it is polled empty, so none can be missed. */
static void on_completions(struct server *s)
{
	struct ibv_cq *cq;
	void *userdata;

	if (ibv_get_cq_event(s->completions, &cq, &userdata))
		return;
	ibv_ack_cq_events(cq, 1);
	if (ibv_req_notify_cq(s->cq, 0))
		stop_with(s, fail(-EIO, "ibv_req_notify_cq"));
	s->cq_busy = true;
}

/* Some at a time, as there are others that wait. */
static void poll_completions(struct server *s)
{
	struct ibv_wc wc[BATCH];
	int n = ibv_poll_cq(s->cq, BATCH, wc);

	if (n < 0)
		stop_with(s, fail(-EIO, "ibv_poll_cq"));
	for (int i = 0; i < n; i++)
		clients_completed(&s->clients, &wc[i]);
	s->cq_busy = n > 0;
}

static void on_signal(struct server *s)
{
	int signo;

	while ((signo = signals_next(s->signal_fd))) {
		if (signo == SIGUSR1)
			rotator_start(&s->rotator);
		else
			s->stop = true;
	}
}

static void show(struct server *s)
{
	uint64_t now = now_ns(), flushed = s->store.flushed;
	double seconds = (double)(now - s->progress_ns) / (double)NS_PER_S;

	if (s->opts->quiet || !progress_due())
		return;
	progress("%u clients, %" PRIu64 " records durable, %.0f/s, %" PRIu64 " rotations, %" PRIu64
		 " breaks by others",
		 s->clients.connected, flushed, (double)(flushed - s->flushed_before) / seconds,
		 s->rotator.count, s->breaks);
	s->flushed_before = flushed;
	s->progress_ns = now;
}

static void on_clock(struct server *s)
{
	uint64_t ticks;

	if (read(s->clock_fd, &ticks, sizeof(ticks)) != sizeof(ticks))
		return;
	show(s);
	if (!s->opts->rotate_s || now_ns() < s->next_rotation_ns)
		return;
	rotator_start(&s->rotator);
	s->next_rotation_ns = now_ns() + s->opts->rotate_s * NS_PER_S;
}

static void handle(struct server *s, enum source source)
{
	static void (*const handlers[SOURCES])(struct server *) = {
		[SOURCE_LEASE] = on_lease,
		[SOURCE_CM] = on_cm,
		[SOURCE_COMPLETIONS] = on_completions,
		[SOURCE_SIGNALS] = on_signal,
		[SOURCE_CLOCK] = on_clock,
	};

	handlers[source](s);
}

static void wait_for_events(struct server *s)
{
	struct epoll_event ev[SOURCES];
	bool ready[SOURCES] = { false };
	int n = epoll_wait(s->epoll_fd, ev, SOURCES, s->cq_busy ? 0 : -1);

	if (n < 0 && errno != EINTR)
		stop_with(s, fail(-errno, "epoll_wait"));
	for (int i = 0; i < n; i++)
		ready[ev[i].data.u32] = true;
	for (int i = 0; i < SOURCES; i++) {
		if (ready[i])
			handle(s, (enum source)i);
	}
}

static void step_rotation(struct server *s)
{
	uint64_t before = s->rotator.count;

	rotator_step(&s->rotator);
	if (s->opts->verbose && s->rotator.count != before)
		say("rotated in %.1f ms", (double)s->rotator.last_ns / NS_PER_MS);
}

/* A rotation that is under way needs the loop. */
static int run(struct server *s)
{
	while (!s->stop || s->rotator.running) {
		wait_for_events(s);
		poll_completions(s);
		step_rotation(s);
		clients_close_late(&s->clients);
	}
	return s->error;
}

/* ------------------------------------------------------------------------- */
/* Setting up */

static int watch(struct server *s, enum source source, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.u32 = source };

	if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &ev))
		return fail(-errno, "epoll_ctl");
	return 0;
}

static int open_clock(struct server *s)
{
	const struct itimerspec tick = {
		.it_interval.tv_nsec = TICK_NS,
		.it_value.tv_nsec = TICK_NS,
	};

	s->clock_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (s->clock_fd < 0 || timerfd_settime(s->clock_fd, 0, &tick, NULL))
		return fail(-errno, "timerfd");
	s->next_rotation_ns = now_ns() + s->opts->rotate_s * NS_PER_S;
	s->progress_ns = now_ns();
	return 0;
}

static int open_events(struct server *s)
{
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (s->epoll_fd < 0)
		return fail(-errno, "epoll_create1");
	s->signal_fd = signals_open();
	if (s->signal_fd < 0)
		return s->signal_fd;
	return open_clock(s);
}

/* Without an address any will do, if there is only one device that it can be. */
static int choose_device(struct server *s, struct ibv_context **ret_device)
{
	struct ibv_context **list;
	int n, err = 0;

	*ret_device = s->listener->verbs;
	if (*ret_device)
		return 0;
	list = rdma_get_devices(&n);
	if (!list)
		return fail(-errno, "no RDMA device ('rdma link' shows what there is)");
	*ret_device = list[0];
	rdma_free_devices(list);
	if (n != 1) {
		say("there are %d RDMA devices: choose one with --bind and the address of its "
		    "network device",
		    n);
		err = -EINVAL;
	}
	return err;
}

static int listen_at(struct server *s)
{
	struct rdma_addrinfo hints = { .ai_flags = RAI_PASSIVE, .ai_port_space = RDMA_PS_TCP };
	struct rdma_addrinfo *info;
	char port[8];

	s->channel = rdma_create_event_channel();
	if (!s->channel)
		return fail(-errno, "no RDMA event channel (modprobe rdma_ucm)");
	if (rdma_create_id(s->channel, &s->listener, NULL, RDMA_PS_TCP))
		return fail(-errno, "rdma_create_id");
	snprintf(port, sizeof(port), "%u", s->opts->port);
	if (rdma_getaddrinfo(s->opts->bind, port, &hints, &info))
		return fail(-errno, "%s: no such address", s->opts->bind);
	if (rdma_bind_addr(s->listener, info->ai_src_addr)) {
		rdma_freeaddrinfo(info);
		return fail(-errno,
			    "cannot bind to %s port %u (another server? 'rdma link' shows which "
			    "network devices can do RDMA)",
			    s->opts->bind ? s->opts->bind : "any address", s->opts->port);
	}
	rdma_freeaddrinfo(info);
	return set_nonblocking(s->channel->fd);
}

static int open_verbs(struct server *s)
{
	struct ibv_context *device;
	int err = choose_device(s, &device);

	if (err)
		return err;
	s->pd = ibv_alloc_pd(device);
	if (!s->pd)
		return fail(-errno, "ibv_alloc_pd");
	s->completions = ibv_create_comp_channel(device);
	if (!s->completions)
		return fail(-errno, "ibv_create_comp_channel");
	s->cq = ibv_create_cq(device, (int)s->opts->clients * CONN_COMPLETIONS(0), NULL,
			      s->completions, 0);
	if (!s->cq)
		return fail(-errno, "no completion queue for %u clients (try fewer)",
			    s->opts->clients);
	if (ibv_req_notify_cq(s->cq, 0))
		return fail(-EIO, "ibv_req_notify_cq");
	s->clients.device = device;
	return set_nonblocking(s->completions->fd);
}

static int open_context(struct server *s)
{
	const struct daxlease_ctx_opts opts = {
		.size = sizeof(opts),
		.mode = DAXLEASE_MODE_LOOP,
		.kind = s->opts->kind,
		.log_fn = on_log,
		.log_level = s->opts->verbose ? DAXLEASE_LOG_INFO : DAXLEASE_LOG_WARNING,
		.flags = DAXLEASE_CTX_PUBLISH,
	};
	int err = daxlease_ctx_new(&opts, &s->ctx);

	return err ? fail(err, "daxlease_ctx_new") : 0;
}

static int open_offer(struct server *s)
{
	const struct daxlease_mr_opts mr = {
		.size = sizeof(mr),
		.flags = DAXLEASE_MR_REGAIN,
		.drain_budget_ms = s->opts->budget_ms,
		.drain = on_drain,
		.release = on_release,
		.regain = on_regain,
		.userdata = s,
	};
	const struct daxlease_offer_opts opts = {
		.size = sizeof(opts),
		.flags = s->opts->no_windows ? DAXLEASE_OFFER_NO_WINDOWS : 0,
		.mr = &mr,
		.late = on_late,
		.userdata = s,
	};
	struct daxlease_mr_info info = { .size = sizeof(info) };
	int access = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
	int err = daxlease_offer_new(s->ctx, s->pd, s->store.fd, s->store.addr, s->store.size,
				     access, &opts, &s->offer);

	if (!err)
		err = daxlease_mr_get_info(daxlease_offer_get_mr(s->offer), &info);
	if (err)
		return fail(err, "%s: cannot be offered", s->store.path);
	store_open_for(&s->store, info.registered);
	s->clients.access = access;
	say("%s: %zu bytes are offered, lease kind %s, %s", s->store.path, info.registered,
	    daxlease_kind_str(info.kind), info.on_demand ? "paged on demand" : "pinned");
	return 0;
}

static int watch_all(struct server *s)
{
	const int fds[SOURCES] = {
		[SOURCE_LEASE] = daxlease_ctx_get_fd(s->ctx),
		[SOURCE_CM] = s->channel->fd,
		[SOURCE_COMPLETIONS] = s->completions->fd,
		[SOURCE_SIGNALS] = s->signal_fd,
		[SOURCE_CLOCK] = s->clock_fd,
	};
	int err = 0;

	for (int i = 0; i < SOURCES && !err; i++)
		err = watch(s, (enum source)i, fds[i]);
	return err;
}

static int open_rotator(struct server *s)
{
	s->rotator = (struct rotator){
		.mr = daxlease_offer_get_mr(s->offer),
		.path = s->store.path,
		.fd = s->store.fd,
		.head = s->opts->head ? s->opts->head : s->store.size / 2,
		.size = s->store.size,
		.log = s->opts->cuts,
		.without_recall = s->opts->rude,
	};
	return 0;
}

/* The clients' part of what there is; then they may come. */
static int open_doors(struct server *s)
{
	s->clients.pd = s->pd;
	s->clients.cq = s->cq;
	s->clients.ctx = s->ctx;
	s->clients.offer = s->offer;
	if (rdma_listen(s->listener, (int)s->opts->clients))
		return fail(-errno, "rdma_listen");
	say("listening at %s port %u", s->opts->bind ? s->opts->bind : "any address",
	    s->opts->port);
	return 0;
}

static int start(struct server *s)
{
	static int (*const steps[])(struct server *) = {
		open_events, listen_at,	   open_verbs, open_context,
		open_offer,  open_rotator, watch_all,  open_doors,
	};
	struct owner owners[MAX_CLIENTS];
	int err = store_map(&s->store, s->opts->path, s->opts->size, s->opts->record_size,
			    s->opts->clients, owners);

	for (uint32_t id = 0; id < s->opts->clients && !err; id++)
		s->clients.client[id].owner = owners[id];
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]) && !err; i++)
		err = steps[i](s);
	return err;
}

/* ------------------------------------------------------------------------- */
/* Tearing down; what is absent is NULL or -1. */

static void print_summary(const struct server *s)
{
	struct daxlease_offer_stats stats = { .size = sizeof(stats) };

	if (!s->offer || daxlease_offer_get_stats(s->offer, &stats))
		return;
	printf("server: %" PRIu64 " records durable, %" PRIu64 " rotations, %" PRIu64
	       " breaks by others; revokes %" PRIu64 ", answers %" PRIu64 ", fenced %" PRIu64
	       ", windows revoked %" PRIu64 ", protocol %" PRIu64 ", disconnected %" PRIu64
	       "; windows %s\n",
	       s->store.flushed, s->rotator.count, s->breaks, stats.revokes, stats.answers,
	       stats.late, stats.revoked, stats.protocol, s->clients.disconnects,
	       stats.windows ? "yes" : "no");
}

static int close_library(struct server *s)
{
	int err = daxlease_offer_free(s->offer);

	if (err)
		return fail(err, "daxlease_offer_free");
	err = daxlease_ctx_free(s->ctx);
	return err ? fail(err, "daxlease_ctx_free") : 0;
}

static void close_verbs(struct server *s)
{
	if (s->cq)
		ibv_destroy_cq(s->cq);
	if (s->completions)
		ibv_destroy_comp_channel(s->completions);
	if (s->pd)
		ibv_dealloc_pd(s->pd);
	if (s->listener)
		rdma_destroy_id(s->listener);
	if (s->channel)
		rdma_destroy_event_channel(s->channel);
}

static int finish(struct server *s)
{
	int err;

	s->clients.closing = true;
	progress_end();
	print_summary(s);
	clients_close_all(&s->clients);
	err = close_library(s);
	close_verbs(s);
	store_unmap(&s->store);
	close(s->epoll_fd);
	close(s->signal_fd);
	close(s->clock_fd);
	return err;
}

/* ------------------------------------------------------------------------- */

static void usage(FILE *out)
{
	fputs("Usage: dax-log serve [OPTION...] FILE\n"
	      "Offers FILE, which has to be on FS-DAX, to clients that append to it by RDMA. It is\n"
	      "created or made longer as needed; what is in it stays. FILE may be truncated by\n"
	      "anybody meanwhile: clients are told to stop, and go on when it is long enough.\n"
	      "\n"
	      "  --size N           bytes of the log; K, M or G may follow (64M)\n"
	      "  --record-size N    bytes of a record (4096). Soft-RoCE up to Linux 7.3 at least\n"
	      "                     wants whole pages, and a network MTU of 4200 or more\n"
	      "  --clients N        how many there can be at a time (16)\n"
	      "  --bind ADDR        where to listen (anywhere, if there is one RDMA device)\n"
	      "  --port P           (7471)\n"
	      "  --kind KIND        lease kind: auto, layout, layout-rfc, guard, deleg, lease (auto)\n"
	      "  --budget MS        time for clients to stop, before they lose access (10000)\n"
	      "  --no-windows       one key for all clients, and no memory windows\n"
	      "  --rotate SECONDS   cut the log down to its head so often; SIGUSR1 does it at once\n"
	      "  --head N           bytes of the head (half of the log)\n"
	      "  --cuts FILE        append a line for each rotation, for 'dax-log verify'\n"
	      "  --rude             for tests: rotate without asking anybody\n"
	      "  --verbose          say what the library does\n"
	      "  --quiet            no line that shows progress\n"
	      "  --help             this text\n"
	      "\n"
	      "SIGINT or SIGTERM ends it. Records are durable when they have been flushed out of\n"
	      "the processor's caches, as clients ask for; the server looks at each of them then.\n",
	      out);
}

enum {
	OPT_SIZE = 1,
	OPT_RECORD_SIZE,
	OPT_CLIENTS,
	OPT_BIND,
	OPT_PORT,
	OPT_KIND,
	OPT_BUDGET,
	OPT_NO_WINDOWS,
	OPT_ROTATE,
	OPT_HEAD,
	OPT_CUTS,
	OPT_RUDE,
	OPT_VERBOSE,
	OPT_QUIET,
};

static const struct option option_table[] = {
	{ "size", required_argument, NULL, OPT_SIZE },
	{ "record-size", required_argument, NULL, OPT_RECORD_SIZE },
	{ "clients", required_argument, NULL, OPT_CLIENTS },
	{ "bind", required_argument, NULL, OPT_BIND },
	{ "port", required_argument, NULL, OPT_PORT },
	{ "kind", required_argument, NULL, OPT_KIND },
	{ "budget", required_argument, NULL, OPT_BUDGET },
	{ "no-windows", no_argument, NULL, OPT_NO_WINDOWS },
	{ "rotate", required_argument, NULL, OPT_ROTATE },
	{ "head", required_argument, NULL, OPT_HEAD },
	{ "cuts", required_argument, NULL, OPT_CUTS },
	{ "rude", no_argument, NULL, OPT_RUDE },
	{ "verbose", no_argument, NULL, OPT_VERBOSE },
	{ "quiet", no_argument, NULL, OPT_QUIET },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

static void parse_kind(const char *name, enum daxlease_kind *ret_kind)
{
	if (!daxlease_kind_from_str(name, ret_kind) && *ret_kind != DAXLEASE_KIND_NONE)
		return;
	say("--kind takes auto, layout, layout-rfc, guard, deleg or lease, not '%s'", name);
	exit(EXIT_USAGE);
}

static void set_option(struct options *opts, int c)
{
	switch (c) {
	case OPT_SIZE:
		opts->size = parse_size("size", optarg, MIN_RECORD, 1ull << 50);
		break;
	case OPT_RECORD_SIZE:
		opts->record_size =
			(uint32_t)parse_size("record-size", optarg, MIN_RECORD, MAX_RECORD);
		break;
	case OPT_CLIENTS:
		opts->clients = (uint32_t)parse_number("clients", optarg, 1, MAX_CLIENTS);
		break;
	case OPT_BIND:
		opts->bind = optarg;
		break;
	case OPT_PORT:
		opts->port = (uint16_t)parse_number("port", optarg, 1, UINT16_MAX);
		break;
	case OPT_KIND:
		parse_kind(optarg, &opts->kind);
		break;
	case OPT_BUDGET:
		opts->budget_ms = (uint32_t)parse_number("budget", optarg, 1, 3600000);
		break;
	case OPT_ROTATE:
		opts->rotate_s = (uint32_t)parse_number("rotate", optarg, 1, 1000000);
		break;
	case OPT_HEAD:
		opts->head = parse_size("head", optarg, 1, 1ull << 50);
		break;
	case OPT_CUTS:
		opts->cuts = optarg;
		break;
	case OPT_NO_WINDOWS:
		opts->no_windows = true;
		break;
	case OPT_RUDE:
		opts->rude = true;
		break;
	case OPT_VERBOSE:
		opts->verbose = true;
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
		say("serve takes one FILE; see --help");
		exit(EXIT_USAGE);
	}
	opts->path = argv[optind];
	if (opts->record_size % 8) {
		say("--record-size has to be a multiple of 8");
		exit(EXIT_USAGE);
	}
	if (opts->head >= opts->size) {
		say("--head has to be less than --size");
		exit(EXIT_USAGE);
	}
}

int serve_main(int argc, char **argv)
{
	struct options opts = {
		.size = 64 << 20,
		.record_size = 4096,
		.clients = 16,
		.port = DEFAULT_PORT,
		.budget_ms = 10000,
	};
	struct server *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return EXIT_FAILURE;
	parse_options(argc, argv, &opts);
	s->opts = &opts;
	s->clients.store = &s->store;
	s->epoll_fd = s->signal_fd = s->clock_fd = -1;
	err = start(s);
	if (!err)
		err = run(s);
	if (finish(s) || err)
		return EXIT_FAILURE; /* what could not be freed ends with the process */
	free(s);
	return EXIT_SUCCESS;
}
