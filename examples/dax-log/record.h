/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Records, and where they are in the file.
 *
 * The file is divided into slots of one record each. Slot 0 is the server's own page. The
 * others go round to the clients in turn: client id of `stride` has slots 1 + id,
 * 1 + id + stride, ... That is its ring, which it fills again and again; the record with
 * sequence number seq is in place seq modulo the ring's length.
 */
#ifndef DAX_LOG_RECORD_H
#define DAX_LOG_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MIN_RECORD 512u
#define MAX_RECORD (1u << 20)
#define MAX_CLIENTS 64u

struct layout {
	uint32_t record_size;
	uint32_t stride;
	uint64_t ring; /* slots of each client */
};

/* Ring 0: the file is too short. */
struct layout layout_of(uint64_t file_size, uint32_t record_size, uint32_t stride);

/* Offset in the file. */
uint64_t record_offset(const struct layout *layout, uint32_t id, uint64_t seq);

struct record {
	uint64_t magic;
	uint64_t session; /* of the client; no two have the same */
	uint64_t seq;	  /* from 1, never used twice in a session */
	uint32_t id;
	uint32_t size;	   /* of all of it */
	uint64_t checksum; /* of all of it, with this member 0 */
	uint8_t payload[];
};

/* Made of the session and the number alone: two calls make the same bytes. */
void record_make(struct record *rec, uint32_t size, uint64_t session, uint32_t id, uint64_t seq);

/* Whether it is a record, undamaged. */
bool record_intact(const struct record *rec, uint32_t size);

/* The server's page in slot 0. */
struct head {
	uint64_t magic;
	uint32_t record_size;
	uint32_t stride;
	uint64_t file_size;
	uint64_t checksum;
};

void head_make(struct head *head, const struct layout *layout, uint64_t file_size);
bool head_intact(const struct head *head);

#endif
