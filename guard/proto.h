/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What a guard and its clients say to each other, over a SOCK_SEQPACKET Unix socket: one
 * struct guard_msg in each packet, in the machine's byte order. docs/guard-protocol.md
 * says it at length.
 */
#ifndef GUARD_PROTO_H
#define GUARD_PROTO_H

#include <stddef.h>
#include <stdint.h>

#define GUARD_SOCKET "/run/daxleased/socket"
#define GUARD_VERSION 1

enum guard_type {
	/* From the client */
	GUARD_TAKE = 1,	 /* id, flags, and the file as a descriptor; answered by TAKEN */
	GUARD_GIVE_BACK, /* id: it is not held any more; see GUARD_KEEP */
	GUARD_STATUS,	 /* answered by STATUS, with struct guard_counters as its text */
	/* From the guard */
	GUARD_TAKEN = 16, /* id, error, time_ns; if error is 0: openers, opener */
	GUARD_BREAK,	  /* id, time_ns, the deadline: somebody waits for it to be given back */
	GUARD_LOST,	  /* id: the deadline passed, they went on */
};

/* TAKE: nobody may change the file; they are refused with ETXTBSY. */
#define GUARD_EXCLUSIVE (1u << 0)
/*
 * GIVE_BACK: it will be taken again, so descriptors that are opened meanwhile shall be
 * seen then. Without it the guard forgets the id.
 */
#define GUARD_KEEP (1u << 1)

#define GUARD_UNKNOWN UINT32_MAX /* nobody looked: looking takes time, and was done a moment ago */

struct guard_msg {
	uint16_t version; /* GUARD_VERSION; these four bytes stay as they are */
	uint16_t type;	  /* enum guard_type */
	uint32_t id;	  /* the client's name for the hold, unique in its connection */
	uint32_t flags;
	int32_t error;	  /* 0 or -errno; text says why */
	uint64_t time_ns; /* CLOCK_MONOTONIC; BREAK: 0 = no deadline; TAKEN: now */
	uint32_t openers; /* processes that had it open for writing before; or GUARD_UNKNOWN */
	int32_t opener;	  /* the pid of one of them */
	char text[160];	  /* one line, terminated; empty if there is nothing to say */
};

struct guard_counters {
	uint64_t clients;     /* connected now */
	uint64_t files;	      /* guarded now */
	uint64_t holds;	      /* held now */
	uint64_t events;      /* calls of others that were looked at */
	uint64_t harmless;    /* of these: let through at once */
	uint64_t waited;      /* waited for holders */
	uint64_t refused;     /* refused with ETXTBSY */
	uint64_t breaks;      /* files of which the holders were asked */
	uint64_t lost;	      /* holds that were not given back in time */
	uint64_t turned_away; /* clients and holds over a limit, or not allowed */
};

_Static_assert(sizeof(struct guard_counters) <= sizeof(((struct guard_msg *)0)->text),
	       "the counters have to fit");

#endif
