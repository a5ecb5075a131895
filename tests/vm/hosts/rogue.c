// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * A client of dax-log that does not keep to the rules. It has none of libdaxlease-rdmacm,
 * which would not let it: it speaks docs/offer-protocol.md itself, as another
 * implementation would, and is a second reading of it.
 *
 *   rogue HOW HOST PORT
 *
 * It writes into slots of its own until it is revoked, and then does HOW, each time. Says
 * what happens, one line each: granted, revoked, broken. Status 3: the connection broke; 0:
 * SIGTERM.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rdma/rdma_cma.h>

#include "message.h"

#define MAGIC 0x4441584cu
#define SIZE 48u
#define RECEIVES 16
#define PAGE 4096u
#define WRITES 8 /* outstanding */

enum {
	STATUS_BROKEN = 3
};

enum type {
	GRANT = 1,
	REVOKE,
	DRAINED,
	WITHDRAW
};

/* All big-endian. */
struct wire {
	uint32_t magic;
	uint8_t version;
	uint8_t type;
	uint16_t size;
	uint32_t offer;
	uint32_t rkey;
	uint64_t generation;
	uint64_t addr;
	uint64_t length;
	uint32_t rights;
	uint32_t budget_ms;
};
_Static_assert(sizeof(struct wire) == SIZE, "no holes");

struct memory {
	struct wire receive[RECEIVES];
	struct wire send[2];
	uint8_t page[PAGE];
};

struct rogue {
	struct rdma_cm_id *id;
	struct ibv_cq *cq;
	struct ibv_mr *mr;
	struct memory *memory;
	struct welcome welcome;
	struct wire grant; /* the last one */
	bool writing;
	uint32_t outstanding;
	uint64_t place;
	void (*misbehave)(struct rogue *r);
};

static volatile sig_atomic_t stopped;

static void on_signal(int signo)
{
	(void)signo;
	stopped = 1;
}

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "rogue: %s: %s\n", what, strerror(errno));
	exit(EXIT_FAILURE);
}

/* ------------------------------------------------------------------------- */
/* Sending */

static void post(struct rogue *r, struct ibv_send_wr *wr, const void *buf, uint32_t length)
{
	struct ibv_sge sge = { .addr = (uintptr_t)buf, .length = length, .lkey = r->mr->lkey };
	struct ibv_send_wr *bad;

	wr->sg_list = &sge;
	wr->num_sge = 1;
	wr->send_flags = IBV_SEND_SIGNALED;
	if (ibv_post_send(r->id->qp, wr, &bad))
		die("ibv_post_send");
}

/* number: of the two places that messages are sent from. */
static void answer(struct rogue *r, unsigned int number, uint64_t generation, uint32_t nonsense)
{
	struct ibv_send_wr wr = { .wr_id = 0, .opcode = IBV_WR_SEND };

	r->memory->send[number] = (struct wire){
		.magic = htobe32(MAGIC),
		.version = 1,
		.type = DRAINED,
		.size = htobe16(SIZE),
		.offer = r->grant.offer,
		.generation = htobe64(generation),
		.rkey = nonsense,
	};
	post(r, &wr, &r->memory->send[number], SIZE);
}

static void write_page(struct rogue *r)
{
	uint64_t size = r->welcome.record_size, stride = r->welcome.stride;
	uint64_t ring = (be64toh(r->grant.length) / size - 1) / stride;
	uint64_t slot = 1 + r->place++ % ring * stride + r->welcome.id;
	struct ibv_send_wr wr = {
		.wr_id = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.wr.rdma = { .remote_addr = be64toh(r->grant.addr) + slot * size,
			     .rkey = be32toh(r->grant.rkey) },
	};

	post(r, &wr, r->memory->page, PAGE);
	r->outstanding++;
}

/* ------------------------------------------------------------------------- */
/* What it does when it is revoked */

static uint64_t generation(const struct rogue *r)
{
	return be64toh(r->grant.generation);
}

static void behave(struct rogue *r)
{
	r->writing = false;
	answer(r, 0, generation(r), 0);
}

static void never_answer(struct rogue *r)
{
	r->writing = false;
}

static void answer_twice(struct rogue *r)
{
	r->writing = false;
	answer(r, 0, generation(r), 0);
	answer(r, 1, generation(r), 0);
}

/* Right the first time; then that answer again, as the first grant was of generation 1. */
static void answer_old(struct rogue *r)
{
	r->writing = false;
	answer(r, 0, 1, 0);
}

static void answer_garbage(struct rogue *r)
{
	r->writing = false;
	answer(r, 0, generation(r), 0xdeadbeef);
}

static void keep_writing(struct rogue *r)
{
	answer(r, 0, generation(r), 0);
}

static const struct {
	const char *name;
	void (*misbehave)(struct rogue *r);
} ways[] = {
	{ "behave", behave },  { "silent", never_answer },    { "twice", answer_twice },
	{ "old", answer_old }, { "garbage", answer_garbage }, { "writes", keep_writing },
};

/* ------------------------------------------------------------------------- */
/* Receiving */

static void post_receive(struct rogue *r, uint32_t number)
{
	struct ibv_sge sge = {
		.addr = (uintptr_t)&r->memory->receive[number],
		.length = SIZE,
		.lkey = r->mr->lkey,
	};
	struct ibv_recv_wr *bad, wr = { .wr_id = number, .sg_list = &sge, .num_sge = 1 };

	if (ibv_post_recv(r->id->qp, &wr, &bad))
		die("ibv_post_recv");
}

static void received(struct rogue *r, const struct ibv_wc *wc)
{
	const struct wire *msg = &r->memory->receive[wc->wr_id];

	if (wc->byte_len != SIZE || be32toh(msg->magic) != MAGIC) {
		errno = EPROTO;
		die("a message that is none of the protocol");
	}
	if (msg->type == GRANT) {
		puts("granted");
		r->grant = *msg;
		r->writing = true;
	} else if (msg->type == REVOKE) {
		puts("revoked");
		r->misbehave(r);
	}
	post_receive(r, (uint32_t)wc->wr_id);
}

static void completed(struct rogue *r, const struct ibv_wc *wc)
{
	if (wc->status != IBV_WC_SUCCESS) {
		printf("broken: %s\n", ibv_wc_status_str(wc->status));
		exit(STATUS_BROKEN);
	}
	if (wc->opcode == IBV_WC_RECV)
		received(r, wc);
	else if (wc->wr_id == 1)
		r->outstanding--;
}

static void check_connection(struct rogue *r)
{
	struct rdma_cm_event *event;

	if (rdma_get_cm_event(r->id->channel, &event))
		return;
	printf("broken: %s\n", rdma_event_str(event->event));
	exit(STATUS_BROKEN);
}

static void run(struct rogue *r)
{
	struct ibv_wc wc;

	while (!stopped) {
		while (r->writing && r->outstanding < WRITES)
			write_page(r);
		while (ibv_poll_cq(r->cq, 1, &wc) > 0)
			completed(r, &wc);
		check_connection(r);
		usleep(2000);
	}
}

/* ------------------------------------------------------------------------- */

static void resolve(struct rogue *r, const char *host, const char *port)
{
	struct rdma_addrinfo hints = { .ai_port_space = RDMA_PS_TCP }, *info;

	if (rdma_getaddrinfo(host, port, &hints, &info))
		die(host);
	/* Without a channel each call waits until it is done. */
	if (rdma_create_id(NULL, &r->id, NULL, RDMA_PS_TCP))
		die("rdma_create_id");
	if (rdma_resolve_addr(r->id, NULL, info->ai_dst_addr, 10000) ||
	    rdma_resolve_route(r->id, 10000))
		die("rdma_resolve");
	rdma_freeaddrinfo(info);
}

static void make_qp(struct rogue *r)
{
	struct ibv_qp_init_attr init = {
		.cap = { .max_send_wr = WRITES + 4,
			 .max_recv_wr = RECEIVES,
			 .max_send_sge = 1,
			 .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
	};

	r->cq = ibv_create_cq(r->id->verbs, WRITES + 4 + RECEIVES, NULL, NULL, 0);
	if (!r->cq)
		die("ibv_create_cq");
	init.send_cq = init.recv_cq = r->cq;
	if (rdma_create_qp(r->id, NULL, &init))
		die("rdma_create_qp");
	r->memory = aligned_alloc(PAGE, (sizeof(*r->memory) + PAGE - 1) / PAGE * PAGE);
	if (!r->memory)
		die("memory");
	memset(r->memory, 0xaa, sizeof(*r->memory));
	r->mr = ibv_reg_mr(r->id->qp->pd, r->memory, sizeof(*r->memory), IBV_ACCESS_LOCAL_WRITE);
	if (!r->mr)
		die("ibv_reg_mr");
	for (uint32_t i = 0; i < RECEIVES; i++)
		post_receive(r, i);
}

static void greet(struct rogue *r)
{
	const struct hello hello = {
		.magic = MESSAGE_MAGIC,
		.protocol = PROTOCOL,
		.session = (uint64_t)getpid() << 32 | 0x726f677565,
		.id = NO_ID,
	};
	struct rdma_conn_param param = {
		.private_data = &hello,
		.private_data_len = sizeof(hello),
		.retry_count = 6,
		.rnr_retry_count = 7,
	};
	const struct rdma_conn_param *got;

	if (rdma_connect(r->id, &param))
		die("rdma_connect");
	got = &r->id->event->param.conn;
	if (got->private_data_len < sizeof(r->welcome)) {
		errno = EPROTO;
		die("no welcome");
	}
	memcpy(&r->welcome, got->private_data, sizeof(r->welcome));
}

static bool choose(struct rogue *r, const char *how)
{
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		if (!strcmp(ways[i].name, how))
			r->misbehave = ways[i].misbehave;
	}
	return r->misbehave;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct rogue r = { 0 };

	if (argc != 4 || !choose(&r, argv[1])) {
		fputs("usage: rogue behave|silent|twice|old|garbage|writes HOST PORT\n", stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGTERM, &action, NULL);
	resolve(&r, argv[2], argv[3]);
	make_qp(&r);
	greet(&r);
	fcntl(r.id->channel->fd, F_SETFL, O_NONBLOCK);
	run(&r);
	rdma_disconnect(r.id);
	return 0;
}
