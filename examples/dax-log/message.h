/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What client and server say to each other; little-endian hosts only, for the records are
 * not swapped either. HELLO and WELCOME are the private data of rdma_connect(3) and
 * rdma_accept(3), the others are SENDs. A program of another vendor could take part.
 */
#ifndef DAX_LOG_MESSAGE_H
#define DAX_LOG_MESSAGE_H

#include <stdint.h>

#define MESSAGE_MAGIC 0x676f6c78u /* "xlog"; not "DAXL", which is the library's */
#define PROTOCOL 1

/* Requests of a client that may be unanswered at a time. */
#define MAX_FLUSHES 32

#define NO_ID UINT32_MAX

/* Client, to connect. */
struct hello {
	uint32_t magic;
	uint32_t protocol;
	uint64_t session;
	uint32_t id; /* that it had before, or NO_ID */
	uint32_t zero;
};

/* Server, when it accepts. */
struct welcome {
	uint32_t magic;
	uint32_t id;
	uint32_t stride;
	uint32_t record_size;
	uint64_t file_size; /* of which the layout is made, however long the file is now */
	uint64_t next;	    /* no record of this id has a number as high */
};

enum refusal {
	REFUSED_PROTOCOL = 1, /* another version, or no client of dax-log */
	REFUSED_FULL,	      /* as many clients as the log has room for */
	REFUSED_BUSY,	      /* the server is about to end, or out of resources */
};

/* Server, when it rejects. */
struct refused {
	uint32_t magic;
	uint32_t why;
};

enum message_type {
	MESSAGE_FLUSH = 1, /* client: make these records durable */
	MESSAGE_FLUSHED,   /* server: the answer */
};

enum flush_status {
	FLUSH_DONE = 0, /* they are durable, and as they should be */
	FLUSH_LATER,	/* the region is not to be touched now; a grant will follow */
	FLUSH_BAD,	/* at least one is not there */
};

struct message {
	uint32_t magic;
	uint32_t type;
	uint64_t first; /* sequence number */
	uint32_t count;
	uint32_t status;  /* of MESSAGE_FLUSHED */
	uint64_t time_ns; /* likewise: when it was done, CLOCK_MONOTONIC of the server */
};

#endif
