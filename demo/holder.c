// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Holds a file that somebody else writes to with RDMA.
 *
 * The interesting part is the four callbacks: drain asks the writer to stop,
 * regain sends it the new key, release and guard only tell. The context is in
 * DAXLEASE_MODE_LOOP, so they run in this program's own poll loop and nothing
 * here needs a lock.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <daxlease/daxlease.h>

#include "common.h"

#define ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)

enum mode {
	MODE_LIBRARY, /* daxlease_reg_mr() */
	MODE_PINNED,  /* ibv_reg_mr() */
	MODE_ODP,     /* ibv_reg_mr(), on demand */
};

struct options {
	const char *file;
	const char *socket;
	const char *device;
	enum mode mode;
	enum daxlease_kind kind;
	bool exclusive;
	int fd; /* the file, open already; -1: not */
	size_t size;
	uint32_t budget_ms;
};

struct holder {
	const struct options *opts;
	struct endpoint ep;
	void *map;
	int listener;
	int conn; /* the writer, -1 as long as there is none */
	struct daxlease_ctx *ctx;
	struct daxlease_mr *mr;
	struct ibv_mr *plain; /* without the library */
	struct keys keys;     /* where to write; length 0: nowhere at the moment */
};

/* ------------------------------------------------------------------------- */
/* Callbacks */

static void send_keys(struct holder *h)
{
	struct msg msg = { .type = MSG_KEYS, .keys = h->keys };

	if (h->conn >= 0 && h->keys.length)
		control_send(h->conn, &msg);
}

static int on_drain(struct daxlease_mr *mr, const struct daxlease_break *brk, void *userdata)
{
	struct holder *h = userdata;
	struct msg msg = { .type = MSG_STOP };

	(void)mr;
	event("stop", "asks the writer to stop; it has %.0f ms",
	      ms_between(now_ns(), brk->deadline_ns));
	h->keys.length = 0;
	if (h->conn < 0)
		return 0;
	control_send(h->conn, &msg);
	return DAXLEASE_PENDING;
}

static void on_release(struct daxlease_mr *mr, int result, void *userdata)
{
	(void)mr;
	(void)userdata;
	if (result)
		event("forced", "registration ended by force: %s", strerror(-result));
	else
		event("released", "registration ended in order, nothing outstanding");
}

static void take_keys(struct holder *h, const struct ibv_mr *mr, size_t length)
{
	h->keys.addr = (uintptr_t)h->map;
	h->keys.length = length;
	h->keys.rkey = mr->rkey;
	h->keys.generation++;
}

static void on_regain(struct daxlease_mr *mr, const struct daxlease_regain *regain, void *userdata)
{
	struct holder *h = userdata;

	(void)mr;
	if (regain->error)
		die("not registered again: %s", strerror(-regain->error));
	take_keys(h, regain->ibv_mr, regain->length);
	event("regained", "sends the writer the new key: rkey 0x%08" PRIx32 ", %zu MiB",
	      regain->rkey, regain->length / MIB);
	send_keys(h);
}

static void on_guard(struct daxlease_mr *mr, bool guarded, void *userdata)
{
	(void)mr;
	(void)userdata;
	if (guarded)
		event("guarded", "the reader is gone, the file is leased again");
	else
		event("unguarded", "a reader is let in; the registration stays, writes go on");
}

static void on_log(enum daxlease_log_level level, const char *line, void *userdata)
{
	(void)userdata;
	event_as("library", level <= DAXLEASE_LOG_WARNING ? "warning" : "log", "%s", line);
}

/* ------------------------------------------------------------------------- */
/* Registration */

static void register_leased(struct holder *h, int fd)
{
	struct daxlease_ctx_opts ctx_opts = {
		.size = sizeof(ctx_opts),
		.mode = DAXLEASE_MODE_LOOP,
		.kind = h->opts->kind,
		.log_fn = on_log,
		.log_level = DAXLEASE_LOG_INFO,
	};
	struct daxlease_mr_opts mr_opts = {
		.size = sizeof(mr_opts),
		.flags = h->opts->exclusive ? DAXLEASE_MR_EXCLUSIVE : DAXLEASE_MR_REGAIN,
		.drain_budget_ms = h->opts->budget_ms,
		.drain = on_drain,
		.release = on_release,
		.regain = on_regain,
		.guard = on_guard,
		.userdata = h,
	};
	struct daxlease_mr_info info = { .size = sizeof(info) };
	int ret;

	ret = daxlease_ctx_new(&ctx_opts, &h->ctx);
	if (ret)
		die("daxlease_ctx_new: %s", strerror(-ret));
	ret = daxlease_reg_mr(h->ctx, h->ep.pd, fd, h->map, h->opts->size, ACCESS, &mr_opts,
			      &h->mr);
	if (ret)
		die("daxlease_reg_mr: %s", strerror(-ret));
	ret = daxlease_mr_add_qp(h->mr, h->ep.qp);
	if (!ret)
		ret = daxlease_mr_get_info(h->mr, &info);
	if (ret)
		die("daxlease_mr_add_qp or _get_info: %s", strerror(-ret));
	take_keys(h, daxlease_mr_get_ibv_mr(h->mr), info.registered);
	event("registered",
	      "daxlease_reg_mr: %zu MiB of %s, rkey 0x%08" PRIx32 ", %s%s, lease kind %s",
	      info.registered / MIB, h->opts->file, h->keys.rkey,
	      info.on_demand ? "on demand" : "pinned", h->opts->exclusive ? ", exclusive" : "",
	      daxlease_kind_str(info.kind));
}

static void register_plain(struct holder *h)
{
	bool odp = h->opts->mode == MODE_ODP;
	const char *how = odp ? "ibv_reg_mr, on-demand paging" : "ibv_reg_mr, pinned";

	h->plain = ibv_reg_mr(h->ep.pd, h->map, h->opts->size,
			      ACCESS | (odp ? IBV_ACCESS_ON_DEMAND : 0));
	if (!h->plain) {
		event("refused", "%s: refused with %s (%s)", how, strerrorname_np(errno),
		      strerror(errno));
		exit(EXIT_REFUSED);
	}
	take_keys(h, h->plain, h->opts->size);
	event("registered", "%s: %zu MiB of %s, rkey 0x%08" PRIx32, how, h->opts->size / MIB,
	      h->opts->file, h->keys.rkey);
}

static void register_file(struct holder *h)
{
	int fd, ret;

	fd = h->opts->fd;
	if (fd < 0)
		fd = open(h->opts->file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		die("%s: %s", h->opts->file, strerror(errno));
	ret = posix_fallocate(fd, 0, (off_t)h->opts->size);
	if (ret)
		die("%s: no room for %zu MiB: %s", h->opts->file, h->opts->size / MIB,
		    strerror(ret));
	h->map = mmap(NULL, h->opts->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (h->map == MAP_FAILED)
		die("%s: mmap: %s", h->opts->file, strerror(errno));
	if (h->opts->mode == MODE_LIBRARY)
		register_leased(h, fd);
	else
		register_plain(h);
	/* The mapping keeps the file, and the library its own duplicate. */
	close(fd);
}

static void deregister(struct holder *h)
{
	struct daxlease_stats stats = { .size = sizeof(stats) };
	int ret;

	if (h->plain) {
		ret = ibv_dereg_mr(h->plain);
		if (ret)
			die("ibv_dereg_mr: %s", strerror(ret));
		return;
	}
	ret = daxlease_dereg_mr(h->mr);
	if (ret)
		die("daxlease_dereg_mr: %s", strerror(-ret));
	ret = daxlease_ctx_get_stats(h->ctx, &stats);
	if (ret)
		die("daxlease_ctx_get_stats: %s", strerror(-ret));
	event("stats",
	      "library counted: breaks %" PRIu64 ", of these by readers %" PRIu64
	      ", overruns %" PRIu64 ", lost %" PRIu64,
	      stats.breaks, stats.reader_breaks, stats.overruns, stats.lost);
	ret = daxlease_ctx_free(h->ctx);
	if (ret)
		die("daxlease_ctx_free: %s", strerror(-ret));
}

/* ------------------------------------------------------------------------- */
/* Writer's side of things */

static void accept_writer(struct holder *h)
{
	struct msg msg;

	h->conn = accept4(h->listener, NULL, NULL, SOCK_CLOEXEC);
	if (h->conn < 0)
		die("accept: %s", strerror(errno));
	if (!control_recv(h->conn, &msg) || msg.type != MSG_HELLO)
		die("the writer did not introduce itself");
	endpoint_connect(&h->ep, &msg.hello);
	msg = (struct msg){ .type = MSG_HELLO, .hello = h->ep.local };
	control_send(h->conn, &msg);
	send_keys(h);
}

static void handle_drained(struct holder *h)
{
	int ret;

	if (!h->mr)
		die("the writer says it is drained, but nobody asked");
	ret = daxlease_mr_drained(h->mr);
	if (ret)
		event("late", "daxlease_mr_drained: %s", strerror(-ret));
}

/* False: the writer is gone. */
static bool handle_message(struct holder *h)
{
	struct msg msg;

	if (!control_recv(h->conn, &msg))
		return false;
	if (msg.type != MSG_DRAINED)
		die("message of unknown type %" PRIu32 " from the writer", msg.type);
	handle_drained(h);
	return true;
}

static void dispatch(struct holder *h)
{
	int ret = daxlease_ctx_dispatch(h->ctx);

	if (ret < 0)
		die("daxlease_ctx_dispatch: %s", strerror(-ret));
}

/* Until the writer is gone or a signal comes. */
static void run(struct holder *h, int signals)
{
	struct pollfd fds[4] = {
		{ .fd = signals, .events = POLLIN },
		{ .fd = h->listener, .events = POLLIN },
		{ .fd = -1, .events = POLLIN },
		{ .fd = -1, .events = POLLIN },
	};

	if (h->ctx) {
		fds[3].fd = daxlease_ctx_get_fd(h->ctx);
		if (fds[3].fd < 0)
			die("daxlease_ctx_get_fd: %s", strerror(-fds[3].fd));
	}
	for (;;) {
		if (poll(fds, 4, -1) < 0)
			die("poll: %s", strerror(errno));
		if (fds[0].revents)
			return;
		if (fds[3].revents)
			dispatch(h);
		if (fds[2].revents && !handle_message(h))
			return;
		if (fds[1].revents) {
			accept_writer(h);
			fds[1].fd = -1;
			fds[2].fd = h->conn;
		}
	}
}

/* ------------------------------------------------------------------------- */

static void usage(FILE *out)
{
	fputs("usage: holder --file FILE [OPTION...]\n"
	      "Makes FILE, registers it for RDMA and lets one writer write to it. Ends when the\n"
	      "writer does, or with SIGINT or SIGTERM.\n"
	      "\n"
	      "  --file FILE        file on FS-DAX; it is overwritten\n"
	      "  --fd N             FILE is open already, as descriptor N, and empty; whoever\n"
	      "                     else has that one shares it\n"
	      "  --size MIB         its size (64)\n"
	      "  --socket PATH      where the writer connects (/tmp/daxlease-demo.sock)\n"
	      "  --device NAME      RDMA device, RoCE (the first one)\n"
	      "  --kind KIND        lease kind: auto, layout, layout-rfc, guard, deleg, lease\n"
	      "                     (auto)\n"
	      "  --exclusive        nobody may change the file meanwhile (layout kinds, guard)\n"
	      "  --budget MS        time that the writer is given to drain (3000)\n"
	      "  --without MODE     do without the library: 'pinned' is ibv_reg_mr(), 'odp' is\n"
	      "                     ibv_reg_mr() with on-demand paging\n"
	      "  --help             this text\n"
	      "\n"
	      "Prints a timeline: milliseconds, who, tag, what. They count from $DEMO_EPOCH_NS\n"
	      "(CLOCK_MONOTONIC) if that is set. Status 4: the kernel refused to register.\n",
	      out);
}

static enum mode parse_mode(const char *text)
{
	if (!strcmp(text, "pinned"))
		return MODE_PINNED;
	if (!strcmp(text, "odp"))
		return MODE_ODP;
	fprintf(stderr, "holder: --without takes 'pinned' or 'odp', not '%s'\n", text);
	exit(EXIT_USAGE);
}

static enum daxlease_kind parse_kind(const char *text)
{
	enum daxlease_kind kind;

	if (daxlease_kind_from_str(text, &kind)) {
		fprintf(stderr, "holder: no lease kind '%s'\n", text);
		exit(EXIT_USAGE);
	}
	return kind;
}

static uint32_t parse_ms(const char *text)
{
	return (uint32_t)parse_number("budget", text, 1, 3600000);
}

static void parse_options(int argc, char **argv, struct options *opts)
{
	static const struct option table[] = {
		{ "file", required_argument, NULL, 'f' },
		{ "fd", required_argument, NULL, 'F' },
		{ "size", required_argument, NULL, 's' },
		{ "socket", required_argument, NULL, 'S' },
		{ "device", required_argument, NULL, 'd' },
		{ "kind", required_argument, NULL, 'k' },
		{ "exclusive", no_argument, NULL, 'x' },
		{ "budget", required_argument, NULL, 'b' },
		{ "without", required_argument, NULL, 'w' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", table, NULL)) != -1) {
		switch (c) {
		case 'f':
			opts->file = optarg;
			break;
		case 'F':
			opts->fd = (int)parse_number("fd", optarg, 3, INT_MAX);
			break;
		case 's':
			opts->size = parse_number("size", optarg, 1, 1 << 20) * MIB;
			break;
		case 'S':
			opts->socket = optarg;
			break;
		case 'd':
			opts->device = optarg;
			break;
		case 'k':
			opts->kind = parse_kind(optarg);
			break;
		case 'x':
			opts->exclusive = true;
			break;
		case 'b':
			opts->budget_ms = parse_ms(optarg);
			break;
		case 'w':
			opts->mode = parse_mode(optarg);
			break;
		case 'h':
			usage(stdout);
			exit(EXIT_SUCCESS);
		default:
			usage(stderr);
			exit(EXIT_USAGE);
		}
	}
	if (!opts->file || optind < argc) {
		usage(stderr);
		exit(EXIT_USAGE);
	}
}

int main(int argc, char **argv)
{
	static const int signals[] = { SIGINT, SIGTERM, 0 };
	struct options opts = {
		.socket = "/tmp/daxlease-demo.sock",
		.kind = DAXLEASE_KIND_AUTO,
		.fd = -1,
		.size = 64 * MIB,
		.budget_ms = 3000,
	};
	struct holder h = { .opts = &opts, .conn = -1 };
	int signal_fd;

	event_init("holder");
	parse_options(argc, argv, &opts);
	signal_fd = signals_open(signals);
	endpoint_open(&h.ep, opts.device, 1);
	h.listener = control_listen(opts.socket);
	register_file(&h);
	run(&h, signal_fd);
	deregister(&h);
	endpoint_close(&h.ep);
	unlink(opts.socket);
	return EXIT_SUCCESS;
}
