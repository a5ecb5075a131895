/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the demo's programs share: the timeline, the record format, the ledger
 * of what was written, the control messages and one RC queue pair.
 */
#ifndef DEMO_COMMON_H
#define DEMO_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <infiniband/verbs.h>

#define MIB (1024ul * 1024ul)

/* Exit statuses other than 0 and EXIT_FAILURE. */
enum {
	EXIT_USAGE = 2,
	EXIT_BROKEN = 3,  /* writer: the connection broke under it */
	EXIT_REFUSED = 4, /* holder: the kernel refused the registration */
};

/* ------------------------------------------------------------------------- */
/* Timeline */

/*
 * One line on stdout, written at once so that processes can share a file:
 * milliseconds TAB who TAB tag TAB text. The tag is for scripts. Milliseconds
 * are CLOCK_MONOTONIC, counted from $DEMO_EPOCH_NS or else from event_init().
 */
void event_init(const char *who);
void event(const char *tag, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void event_as(const char *who, const char *tag, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

uint64_t now_ns(void);
double ms_between(uint64_t from_ns, uint64_t to_ns);

/* "holder: MESSAGE" on stderr, then exit(EXIT_FAILURE). */
_Noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A decimal option value within [min, max]; exits with EXIT_USAGE otherwise. */
unsigned long parse_number(const char *option, const char *text, unsigned long min,
			   unsigned long max);

/* ------------------------------------------------------------------------- */
/* Records */

#define RECORD_SIZE 4096u
#define RECORD_MAGIC 0x6465636f72786164ull /* "daxrecod" */

/*
 * Fletcher-64 instead of zlib's CRC: it spares the demo a dependency, and the
 * verifier compares every byte with what the sequence number generates anyway.
 */
struct record {
	uint64_t magic;
	uint64_t seq;	     /* from 1, never used twice */
	uint64_t generation; /* of the registration that it was written under */
	uint32_t slot;	     /* offset in the file / RECORD_SIZE */
	uint32_t length;     /* of the payload */
	uint64_t checksum;   /* of the record with this member 0 */
	uint8_t payload[RECORD_SIZE - 40];
};
_Static_assert(sizeof(struct record) == RECORD_SIZE, "a record fills its slot");

/* Two calls with the same arguments make the same bytes. */
void record_make(struct record *rec, uint64_t seq, uint32_t slot, uint64_t generation);

/* Whether it is some record, undamaged and in its place; says nothing of which one. */
bool record_intact(const struct record *rec, uint32_t slot);

/* ------------------------------------------------------------------------- */
/* Ledger: the writer's word on what has to be in the file */

#define LEDGER_MAGIC 0x7265676465786164ull /* "daxedger" */

/* seq 0: nothing. posted_seq > acked_seq: in flight when the writer ended. */
struct ledger_slot {
	uint64_t acked_seq;
	uint64_t acked_generation;
	uint64_t posted_seq;
	uint64_t posted_generation;
};

struct ledger {
	uint64_t magic;
	uint64_t slots;	   /* size of slot[] */
	uint64_t length;   /* bytes registered when the writer ended */
	uint64_t shortest; /* least that were registered at any time */
	uint64_t mtu;	   /* of the path: a write lands in pieces of this size */
	uint64_t posted;   /* records, in all */
	uint64_t acked;
	uint64_t gone; /* slots acknowledged, then cut off with the file's end */
	struct ledger_slot slot[];
};

struct ledger *ledger_new(uint64_t slots);
void ledger_save(const struct ledger *ledger, const char *path);
struct ledger *ledger_load(const char *path);

/* ------------------------------------------------------------------------- */
/* Control messages, one per SOCK_SEQPACKET datagram */

enum msg_type {
	MSG_HELLO = 1, /* both ways: how to reach my queue pair */
	MSG_KEYS,      /* holder: write here */
	MSG_STOP,      /* holder: stop, and say when nothing is outstanding */
	MSG_DRAINED,   /* writer: nothing is outstanding */
};

struct hello {
	uint32_t qpn;
	uint32_t psn;
	uint32_t mtu; /* enum ibv_mtu */
	uint8_t gid[16];
};

struct keys {
	uint64_t addr;
	uint64_t length;
	uint64_t generation;
	uint32_t rkey;
};

struct msg {
	uint32_t type;
	union {
		struct hello hello;
		struct keys keys;
	};
};

int control_listen(const char *path);
int control_connect(const char *path);
void control_send(int fd, const struct msg *msg);
/* False: the other side is gone. */
bool control_recv(int fd, struct msg *ret_msg);

/* A descriptor that reads the signals of list (ended by 0), which are blocked. */
int signals_open(const int *list);
/* The signal that is pending, 0 if none. */
int signals_next(int fd);

/* ------------------------------------------------------------------------- */
/* One RC queue pair with a completion channel */

struct endpoint {
	struct ibv_context *device;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	struct hello local;
	uint8_t port;
	uint8_t gid_index;
};

/* device NULL: the first one. All of these die() if they cannot. */
void endpoint_open(struct endpoint *ep, const char *device, uint32_t depth);
void endpoint_connect(struct endpoint *ep, const struct hello *peer);
void endpoint_close(struct endpoint *ep);

#endif
