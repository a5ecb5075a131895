// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Compares a file with the writer's ledger, slot by slot and byte by byte, by
 * reading it like anybody else would.
 *
 * A slot has to hold the newest acknowledged record, and where there was none,
 * zeros. Only where a newer record was posted and never acknowledged may that
 * one be there instead, or, as a write arrives in packets, a beginning of it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"

enum verdict {
	VERDICT_EMPTY,	   /* never written, zeros */
	VERDICT_GOOD,	   /* the newest acknowledged record */
	VERDICT_IN_FLIGHT, /* acknowledged by nobody, all or a beginning of it */
	VERDICT_LOST,	   /* acknowledged, but zeros or an older record is there */
	VERDICT_CORRUPT,   /* something that should never have been there */
	VERDICT_COUNT,
};

static bool is_zero(const struct record *rec)
{
	static const struct record zero;

	return !memcmp(rec, &zero, sizeof(zero));
}

static bool is_record(const struct record *found, uint32_t slot, uint64_t seq, uint64_t generation)
{
	struct record want;

	record_make(&want, seq, slot, generation);
	return record_intact(found, slot) && !memcmp(found, &want, sizeof(want));
}

/* What was there before the record in flight: the acknowledged one, or zeros. */
static void make_before(struct record *rec, uint32_t slot, const struct ledger_slot *entry)
{
	if (entry->acked_seq)
		record_make(rec, entry->acked_seq, slot, entry->acked_generation);
	else
		memset(rec, 0, sizeof(*rec));
}

/* Whether the first packets of the record in flight lie over what was there before. */
static bool is_in_flight(const struct record *found, uint32_t slot, const struct ledger_slot *entry,
			 uint64_t mtu)
{
	struct record mix, new;

	make_before(&mix, slot, entry);
	record_make(&new, entry->posted_seq, slot, entry->posted_generation);
	for (uint64_t landed = mtu; landed <= sizeof(new); landed += mtu) {
		memcpy(&mix, &new, landed);
		if (!memcmp(found, &mix, sizeof(mix)))
			return true;
	}
	return false;
}

static enum verdict judge(const struct record *found, uint32_t slot,
			  const struct ledger_slot *entry, uint64_t mtu)
{
	if (!entry->acked_seq && is_zero(found))
		return VERDICT_EMPTY;
	if (entry->acked_seq && is_record(found, slot, entry->acked_seq, entry->acked_generation))
		return VERDICT_GOOD;
	if (entry->posted_seq > entry->acked_seq && is_in_flight(found, slot, entry, mtu))
		return VERDICT_IN_FLIGHT;
	if (is_zero(found) || (record_intact(found, slot) && found->seq < entry->acked_seq))
		return VERDICT_LOST;
	return VERDICT_CORRUPT;
}

static void complain(const struct record *found, uint32_t slot, const struct ledger_slot *entry,
		     enum verdict verdict)
{
	char have[64] = "what is no record", want[64] = "zeros";

	if (record_intact(found, slot))
		snprintf(have, sizeof(have), "record %" PRIu64, found->seq);
	else if (is_zero(found))
		strcpy(have, "zeros");
	if (entry->acked_seq)
		snprintf(want, sizeof(want), "record %" PRIu64, entry->acked_seq);
	event("bad", "slot %u: %s: holds %s instead of %s", slot,
	      verdict == VERDICT_LOST ? "lost" : "corrupt", have, want);
}

/* Returns how many good records are where the file had been cut off meanwhile. */
static uint64_t judge_file(int fd, uint64_t slots, const struct ledger *ledger,
			   uint64_t count[VERDICT_COUNT])
{
	const struct ledger_slot *entry = ledger->slot;
	uint64_t grown = 0;
	struct record found;
	enum verdict verdict;

	for (uint32_t slot = 0; slot < slots; slot++, entry++) {
		if (pread(fd, &found, sizeof(found), (off_t)slot * RECORD_SIZE) != sizeof(found))
			die("cannot read slot %u: %s", slot, strerror(errno));
		verdict = judge(&found, slot, entry, ledger->mtu);
		count[verdict]++;
		if (verdict == VERDICT_GOOD && slot >= ledger->shortest / RECORD_SIZE)
			grown++;
		if (verdict >= VERDICT_LOST && count[verdict] <= 5)
			complain(&found, slot, entry, verdict);
	}
	return grown;
}

static uint64_t count_cut_off(const struct ledger *ledger, uint64_t slots)
{
	uint64_t n = 0;

	for (uint64_t i = slots; i < ledger->slots; i++)
		n += ledger->slot[i].acked_seq != 0;
	return n;
}

static void usage(FILE *out)
{
	fputs("usage: verify [OPTION...] FILE LEDGER\n"
	      "Checks that FILE holds what LEDGER, written by 'writer --ledger', says.\n"
	      "\n"
	      "  --cut-off          FILE may be shorter than the writer knew\n"
	      "  --help             this text\n"
	      "\n"
	      "Prints lines of a timeline: milliseconds, who, tag, what. Status 1: a record is\n"
	      "lost or corrupt.\n",
	      out);
}

static bool parse_options(int argc, char **argv)
{
	static const struct option table[] = {
		{ "cut-off", no_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	bool cut_off = false;
	int c;

	while ((c = getopt_long(argc, argv, "h", table, NULL)) != -1) {
		switch (c) {
		case 'c':
			cut_off = true;
			break;
		case 'h':
			usage(stdout);
			exit(EXIT_SUCCESS);
		default:
			usage(stderr);
			exit(EXIT_USAGE);
		}
	}
	if (argc - optind != 2) {
		usage(stderr);
		exit(EXIT_USAGE);
	}
	return cut_off;
}

int main(int argc, char **argv)
{
	uint64_t count[VERDICT_COUNT] = { 0 };
	struct ledger *ledger;
	uint64_t slots, grown;
	struct stat st;
	bool cut_off;
	int fd;

	event_init("verify");
	cut_off = parse_options(argc, argv);
	fd = open(argv[optind], O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		die("%s: %s", argv[optind], strerror(errno));
	ledger = ledger_load(argv[optind + 1]);
	if ((uint64_t)st.st_size != ledger->length && !cut_off)
		die("the file has %" PRIu64 " bytes, but the writer last had %" PRIu64
		    " to write to",
		    (uint64_t)st.st_size, ledger->length);
	slots = (uint64_t)st.st_size / RECORD_SIZE;
	if (slots > ledger->slots)
		die("the file is longer than the ledger");
	grown = judge_file(fd, slots, ledger, count);
	event("verified",
	      "%" PRIu64 " slots: %" PRIu64 " records verified, %" PRIu64
	      " of them where the file had been cut off; %" PRIu64 " never written, %" PRIu64
	      " half done; %" PRIu64 " gone with the file's end",
	      slots, count[VERDICT_GOOD], grown, count[VERDICT_EMPTY], count[VERDICT_IN_FLIGHT],
	      ledger->gone + count_cut_off(ledger, slots));
	event("verdict", "%" PRIu64 " lost, %" PRIu64 " corrupt", count[VERDICT_LOST],
	      count[VERDICT_CORRUPT]);
	free(ledger);
	close(fd);
	return count[VERDICT_LOST] || count[VERDICT_CORRUPT] ? EXIT_FAILURE : EXIT_SUCCESS;
}
