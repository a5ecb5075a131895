// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common.h"

/* ------------------------------------------------------------------------- */
/* Timeline */

static const char *me = "demo";
static uint64_t epoch_ns;

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

double ms_between(uint64_t from_ns, uint64_t to_ns)
{
	return ((double)to_ns - (double)from_ns) / 1e6;
}

void event_init(const char *who)
{
	const char *epoch = getenv("DEMO_EPOCH_NS");

	me = who;
	epoch_ns = epoch ? strtoull(epoch, NULL, 10) : now_ns();
}

static void vevent(const char *who, const char *tag, const char *fmt, va_list args)
{
	uint64_t now = now_ns();
	char line[1024];
	int head, n;

	head = snprintf(line, sizeof(line), "%10.3f\t%s\t%s\t", ms_between(epoch_ns, now), who,
			tag);
	n = vsnprintf(line + head, sizeof(line) - (size_t)head - 1, fmt, args);
	n += head;
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	if (write(STDOUT_FILENO, line, (size_t)n) != n)
		exit(EXIT_FAILURE);
}

void event_as(const char *who, const char *tag, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vevent(who, tag, fmt, args);
	va_end(args);
}

void event(const char *tag, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vevent(me, tag, fmt, args);
	va_end(args);
}

void die(const char *fmt, ...)
{
	va_list args;

	fprintf(stderr, "%s: ", me);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	exit(EXIT_FAILURE);
}

unsigned long parse_number(const char *option, const char *text, unsigned long min,
			   unsigned long max)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || value < min || value > max) {
		fprintf(stderr, "%s: --%s takes a number from %lu to %lu, not '%s'\n", me, option,
			min, max, text);
		exit(EXIT_USAGE);
	}
	return value;
}

/* ------------------------------------------------------------------------- */
/* Records */

/* splitmix64: passes through all 2^64 states, one multiplication chain per word. */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* Fletcher-64 over 32-bit words; the sums are reduced once, they cannot overflow. */
static uint64_t fletcher64(const void *data, size_t length)
{
	const uint8_t *p = data;
	uint64_t low = 0, high = 0;
	uint32_t word;

	for (size_t i = 0; i < length; i += sizeof(word)) {
		memcpy(&word, p + i, sizeof(word));
		low += word;
		high += low;
	}
	return (high % UINT32_MAX) << 32 | low % UINT32_MAX;
}

static uint64_t record_checksum(const struct record *rec)
{
	struct record copy = *rec;

	copy.checksum = 0;
	return fletcher64(&copy, sizeof(copy));
}

void record_make(struct record *rec, uint64_t seq, uint32_t slot, uint64_t generation)
{
	uint64_t state = seq, word;

	rec->magic = RECORD_MAGIC;
	rec->seq = seq;
	rec->generation = generation;
	rec->slot = slot;
	rec->length = sizeof(rec->payload);
	rec->checksum = 0;
	for (size_t i = 0; i < sizeof(rec->payload); i += sizeof(word)) {
		word = next_random(&state);
		memcpy(rec->payload + i, &word, sizeof(word));
	}
	rec->checksum = fletcher64(rec, sizeof(*rec));
}

bool record_intact(const struct record *rec, uint32_t slot)
{
	return rec->magic == RECORD_MAGIC && rec->slot == slot &&
	       rec->length == sizeof(rec->payload) && rec->checksum == record_checksum(rec);
}

/* ------------------------------------------------------------------------- */
/* Ledger */

static size_t ledger_bytes(uint64_t slots)
{
	return sizeof(struct ledger) + slots * sizeof(struct ledger_slot);
}

struct ledger *ledger_new(uint64_t slots)
{
	struct ledger *ledger = calloc(1, ledger_bytes(slots));

	if (!ledger)
		die("no memory for a ledger of %" PRIu64 " slots", slots);
	ledger->magic = LEDGER_MAGIC;
	ledger->slots = slots;
	return ledger;
}

void ledger_save(const struct ledger *ledger, const char *path)
{
	FILE *file = fopen(path, "wb");

	if (!file || fwrite(ledger, ledger_bytes(ledger->slots), 1, file) != 1 || fclose(file))
		die("%s: cannot write the ledger: %s", path, strerror(errno));
}

struct ledger *ledger_load(const char *path)
{
	FILE *file = fopen(path, "rb");
	struct ledger head, *ledger;

	if (!file)
		die("%s: cannot open the ledger: %s", path, strerror(errno));
	if (fread(&head, sizeof(head), 1, file) != 1 || head.magic != LEDGER_MAGIC || !head.mtu)
		die("%s: not a ledger", path);
	ledger = ledger_new(head.slots);
	*ledger = head;
	if (fread(ledger->slot, sizeof(ledger->slot[0]), head.slots, file) != head.slots)
		die("%s: the ledger is cut short", path);
	fclose(file);
	return ledger;
}

/* ------------------------------------------------------------------------- */
/* Control messages */

static struct sockaddr_un control_address(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(addr.sun_path))
		die("%s: longer than a socket's name may be", path);
	strcpy(addr.sun_path, path);
	return addr;
}

static int control_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket: %s", strerror(errno));
	return fd;
}

int control_listen(const char *path)
{
	struct sockaddr_un addr = control_address(path);
	int fd = control_socket();

	unlink(path);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 1))
		die("%s: cannot listen: %s", path, strerror(errno));
	return fd;
}

int control_connect(const char *path)
{
	struct sockaddr_un addr = control_address(path);
	int fd = control_socket();

	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		die("%s: no holder listens there: %s", path, strerror(errno));
	return fd;
}

void control_send(int fd, const struct msg *msg)
{
	/* A peer that is gone is noticed where messages are read. */
	if (send(fd, msg, sizeof(*msg), MSG_NOSIGNAL) < 0 && errno != EPIPE)
		die("control socket: %s", strerror(errno));
}

bool control_recv(int fd, struct msg *ret_msg)
{
	ssize_t n = recv(fd, ret_msg, sizeof(*ret_msg), 0);

	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return false;
	if (n != sizeof(*ret_msg))
		die("control socket: %s", n < 0 ? strerror(errno) : "message of the wrong size");
	return true;
}

int signals_open(const int *list)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	for (; *list; list++)
		sigaddset(&set, *list);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (fd < 0)
		die("signalfd: %s", strerror(errno));
	return fd;
}

int signals_next(int fd)
{
	struct signalfd_siginfo info;

	return read(fd, &info, sizeof(info)) == sizeof(info) ? (int)info.ssi_signo : 0;
}

/* ------------------------------------------------------------------------- */
/* Endpoint */

static struct ibv_context *open_device(const char *name)
{
	struct ibv_context *context = NULL;
	struct ibv_device **list;
	int i, n;

	list = ibv_get_device_list(&n);
	if (!list)
		die("ibv_get_device_list: %s", strerror(errno));
	for (i = 0; i < n; i++) {
		if (!name || !strcmp(ibv_get_device_name(list[i]), name))
			break;
	}
	if (i == n)
		die("no RDMA device%s%s; 'rdma link' shows what there is", name ? " " : "",
		    name ? name : "");
	context = ibv_open_device(list[i]);
	if (!context)
		die("ibv_open_device: %s", strerror(errno));
	ibv_free_device_list(list);
	return context;
}

/* RoCE over IPv4 if there is such an address, else whatever comes first. */
static void choose_gid(struct endpoint *ep)
{
	static const uint8_t mapped_ipv4[12] = { [10] = 0xff, [11] = 0xff };
	struct ibv_gid_entry entry;
	union ibv_gid gid;

	for (uint32_t i = 0; !ibv_query_gid_ex(ep->device, ep->port, i, &entry, 0); i++) {
		if (entry.gid_type == IBV_GID_TYPE_ROCE_V2 &&
		    !memcmp(entry.gid.raw, mapped_ipv4, sizeof(mapped_ipv4))) {
			ep->gid_index = (uint8_t)i;
			memcpy(ep->local.gid, entry.gid.raw, sizeof(ep->local.gid));
			return;
		}
	}
	if (ibv_query_gid(ep->device, ep->port, 0, &gid))
		die("the RDMA port has no GID");
	memcpy(ep->local.gid, gid.raw, sizeof(ep->local.gid));
}

static void create_qp(struct endpoint *ep, uint32_t depth)
{
	struct ibv_qp_init_attr init = {
		.send_cq = ep->cq,
		.recv_cq = ep->cq,
		.cap = { .max_send_wr = depth,
			 .max_recv_wr = 1,
			 .max_send_sge = 1,
			 .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
	};
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = ep->port,
		.qp_access_flags = IBV_ACCESS_REMOTE_WRITE,
	};
	int ret;

	ep->qp = ibv_create_qp(ep->pd, &init);
	if (!ep->qp)
		die("ibv_create_qp: %s", strerror(errno));
	ret = ibv_modify_qp(ep->qp, &attr,
			    IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
	if (ret)
		die("queue pair to INIT: %s", strerror(ret));
}

void endpoint_open(struct endpoint *ep, const char *device, uint32_t depth)
{
	struct ibv_port_attr port;

	*ep = (struct endpoint){ .port = 1 };
	ep->device = open_device(device);
	if (ibv_query_port(ep->device, ep->port, &port))
		die("ibv_query_port: %s", strerror(errno));
	ep->pd = ibv_alloc_pd(ep->device);
	if (!ep->pd)
		die("ibv_alloc_pd: %s", strerror(errno));
	ep->channel = ibv_create_comp_channel(ep->device);
	if (!ep->channel)
		die("ibv_create_comp_channel: %s", strerror(errno));
	ep->cq = ibv_create_cq(ep->device, (int)depth + 1, NULL, ep->channel, 0);
	if (!ep->cq)
		die("ibv_create_cq: %s", strerror(errno));
	create_qp(ep, depth);
	choose_gid(ep);
	ep->local.qpn = ep->qp->qp_num;
	ep->local.psn = (uint32_t)now_ns() & 0xffffff;
	ep->local.mtu = port.active_mtu;
}

static void to_rtr(struct endpoint *ep, const struct hello *peer)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = peer->mtu < ep->local.mtu ? peer->mtu : ep->local.mtu,
		.dest_qp_num = peer->qpn,
		.rq_psn = peer->psn,
		.max_dest_rd_atomic = 1,
		.min_rnr_timer = 12,
		.ah_attr = { .is_global = 1,
			     .port_num = ep->port,
			     .grh = { .hop_limit = 64, .sgid_index = ep->gid_index } },
	};
	int ret;

	memcpy(attr.ah_attr.grh.dgid.raw, peer->gid, sizeof(peer->gid));
	ret = ibv_modify_qp(ep->qp, &attr,
			    IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
				    IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
				    IBV_QP_MIN_RNR_TIMER);
	if (ret)
		die("queue pair to RTR: %s", strerror(ret));
}

static void to_rts(struct endpoint *ep)
{
	/* Timeout 2^17 * 4 us = 0.5 s: an emulated peer may take its time. */
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTS,
		.timeout = 17,
		.retry_cnt = 6, /* soft-RoCE takes 7 for "for ever" */
		.rnr_retry = 7,
		.sq_psn = ep->local.psn,
		.max_rd_atomic = 1,
	};
	int ret;

	ret = ibv_modify_qp(ep->qp, &attr,
			    IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
				    IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
	if (ret)
		die("queue pair to RTS: %s", strerror(ret));
}

void endpoint_connect(struct endpoint *ep, const struct hello *peer)
{
	to_rtr(ep, peer);
	to_rts(ep);
}

void endpoint_close(struct endpoint *ep)
{
	int ret;

	if ((ret = ibv_destroy_qp(ep->qp)) || (ret = ibv_destroy_cq(ep->cq)) ||
	    (ret = ibv_destroy_comp_channel(ep->channel)) || (ret = ibv_dealloc_pd(ep->pd)))
		die("closing the queue pair: %s", strerror(ret));
	ibv_close_device(ep->device);
}
