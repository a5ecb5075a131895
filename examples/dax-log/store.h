/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The file, mapped, and the rule when the server may touch it: between store_open_for()
 * and store_shut(), up to the length that was said. There are no threads: the callbacks
 * that call these run in the loop, between two requests.
 */
#ifndef DAX_LOG_STORE_H
#define DAX_LOG_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "message.h"
#include "record.h"

struct store {
	const char *path;
	int fd;
	uint8_t *addr;
	uint64_t size; /* that is mapped, and that the layout is for */
	struct layout layout;
	uint64_t open;	  /* bytes that may be touched, 0: none */
	uint64_t flushed; /* records, in all */
};

/* Who used a client's slots last. */
struct owner {
	uint64_t session; /* 0: nobody */
	uint64_t last;	  /* highest sequence number */
};

/*
 * Opens and maps the file, which is created or made longer as needed, and finds out who
 * wrote in it before. -errno is told.
 */
int store_map(struct store *store, const char *path, uint64_t size, uint32_t record_size,
	      uint32_t stride, struct owner *ret_owners);
void store_unmap(struct store *store);

/* The file may be touched again, up to length. Puts the server's page back if it is gone. */
void store_open_for(struct store *store, uint64_t length);
/* Nothing is touched any more. */
void store_shut(struct store *store);

/*
 * Makes records of a client durable, if they are there. *ret_time_ns is when they were,
 * with FLUSH_DONE.
 */
enum flush_status store_flush(struct store *store, uint64_t session, uint32_t id,
			      const struct message *flush, uint64_t *ret_time_ns);

#endif
