// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <string.h>

#include "record.h"

#define RECORD_MAGIC 0x3147434552584144ull /* "DAXRECG1" */
#define HEAD_MAGIC 0x31474f4c58414448ull   /* "HDAXLOG1" */

struct layout layout_of(uint64_t file_size, uint32_t record_size, uint32_t stride)
{
	uint64_t slots = file_size / record_size;

	return (struct layout){
		.record_size = record_size,
		.stride = stride,
		.ring = slots ? (slots - 1) / stride : 0,
	};
}

uint64_t record_offset(const struct layout *layout, uint32_t id, uint64_t seq)
{
	return (1 + (seq % layout->ring) * layout->stride + id) * layout->record_size;
}

/* splitmix64: passes through all 2^64 states. */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* Fletcher-64 over 32-bit words; the sums are reduced once, up to 1 MiB cannot overflow. */
static uint64_t fletcher64(const void *data, size_t length, uint64_t *low, uint64_t *high)
{
	const uint8_t *p = data;
	uint32_t word;

	for (size_t i = 0; i + sizeof(word) <= length; i += sizeof(word)) {
		memcpy(&word, p + i, sizeof(word));
		*low += word;
		*high += *low;
	}
	return (*high % UINT32_MAX) << 32 | *low % UINT32_MAX;
}

/* The member checksum comes last in the header, and is left out. */
static uint64_t record_checksum(const struct record *rec, uint32_t size)
{
	uint64_t low = 0, high = 0;

	fletcher64(rec, offsetof(struct record, checksum), &low, &high);
	return fletcher64(rec->payload, size - sizeof(*rec), &low, &high);
}

void record_make(struct record *rec, uint32_t size, uint64_t session, uint32_t id, uint64_t seq)
{
	uint64_t state = session ^ seq, word;

	*rec = (struct record){
		.magic = RECORD_MAGIC,
		.session = session,
		.seq = seq,
		.id = id,
		.size = size,
	};
	for (size_t i = 0; i + sizeof(word) <= size - sizeof(*rec); i += sizeof(word)) {
		word = next_random(&state);
		memcpy(rec->payload + i, &word, sizeof(word));
	}
	rec->checksum = record_checksum(rec, size);
}

bool record_intact(const struct record *rec, uint32_t size)
{
	return rec->magic == RECORD_MAGIC && rec->size == size &&
	       rec->checksum == record_checksum(rec, size);
}

static uint64_t head_checksum(const struct head *head)
{
	uint64_t low = 0, high = 0;

	return fletcher64(head, offsetof(struct head, checksum), &low, &high);
}

void head_make(struct head *head, const struct layout *layout, uint64_t file_size)
{
	*head = (struct head){
		.magic = HEAD_MAGIC,
		.record_size = layout->record_size,
		.stride = layout->stride,
		.file_size = file_size,
	};
	head->checksum = head_checksum(head);
}

bool head_intact(const struct head *head)
{
	return head->magic == HEAD_MAGIC && head->checksum == head_checksum(head);
}
