/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A client's word on what has to be in the file: for each slot of its ring the last record
 * that was acknowledged, and when. A mapped file, so that it is there if the client is
 * killed. Also the times in which nothing could be acknowledged.
 */
#ifndef DAX_LOG_LEDGER_H
#define DAX_LOG_LEDGER_H

#include <stdint.h>

#include "record.h"

#define MAX_OUTAGES 16384u

struct ledger_slot {
	uint64_t acked_seq; /* 0: none */
	uint64_t acked_ns;  /* when it was durable, by the server's clock */
	uint64_t posted_seq;
};

enum outage_kind {
	OUTAGE_REVOKED = 1,  /* of these the client was told */
	OUTAGE_DISCONNECTED, /* the connection broke, or was never there */
};

/* From the last acknowledgement before to the first one after, by the client's clock. */
struct outage {
	uint64_t from_ns;
	uint64_t to_ns;
	uint64_t kind;
};

struct ledger {
	uint64_t magic;
	struct layout layout;
	uint64_t session;
	uint64_t id;
	uint64_t posted; /* records, in all; one that is sent again counts once */
	uint64_t acked;
	uint64_t disconnects;
	uint64_t outages;
	struct outage outage[MAX_OUTAGES]; /* the first ones */
	struct ledger_slot slot[];	   /* layout.ring of them */
};

/* path NULL: in memory only. -errno is told. */
int ledger_create(const char *path, const struct layout *layout, uint64_t session, uint32_t id,
		  struct ledger **ret_ledger);
/* For reading. */
int ledger_open(const char *path, struct ledger **ret_ledger);
void ledger_close(struct ledger *ledger);

void ledger_posted(struct ledger *ledger, uint64_t seq);
void ledger_acked(struct ledger *ledger, uint64_t seq, uint64_t time_ns);
void ledger_outage(struct ledger *ledger, const struct outage *outage);

/* "N outages: median ... ms, ...", of all of these ledgers together. */
void ledgers_print_outages(struct ledger *const *ledgers, unsigned int count, enum outage_kind kind,
			   const char *name);

#endif
