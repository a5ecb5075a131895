// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Compares a file with ledgers, slot by slot and byte by byte.
 *
 * What has to be in a slot is the last record that was acknowledged for it, or a later one
 * that was under way. It may be gone, though: a cut that left less than the slot's end takes
 * what was durable before it was called. What became durable while the call lasted may have
 * been written before or (where the caller had not looked at the lease yet) not be cut: that
 * is counted by itself. What became durable after the call returned has to be there, unless
 * there was another cut. The times are those of the server's clock, and of who cut, on the
 * same machine. A slot whose record is gone holds zeros.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "commands.h"
#include "cuts.h"
#include "ledger.h"
#include "util.h"

#define COMPLAINTS 5

enum fate {
	FATE_NONE,  /* nothing was acknowledged for the slot */
	FATE_STAYS, /* the record has to be there */
	FATE_MAYBE, /* it became durable while the file was being cut */
	FATE_GONE,  /* cut off */
};

enum verdict {
	VERDICT_GOOD,	    /* the last acknowledged record */
	VERDICT_NEWER,	    /* one that was under way after it */
	VERDICT_EMPTY,	    /* never acknowledged, zeros */
	VERDICT_CUT_OFF,    /* acknowledged, and cut off */
	VERDICT_CUT_DURING, /* the same, durable only while the cut was under way */
	VERDICT_LOST,	    /* has to be there, and is not */
	VERDICT_CORRUPT,    /* something that should never have been there */
	VERDICTS,
};

struct verify {
	const char *path;
	int fd;
	uint64_t size;
	struct cuts cuts;
	struct record *found;
	struct record *want;
	uint64_t count[VERDICTS];
	uint64_t complaints;
};

static enum fate fate_of(const struct verify *v, const struct ledger_slot *slot, uint64_t end)
{
	enum fate fate = FATE_STAYS;

	if (!slot->acked_seq)
		return FATE_NONE;
	for (size_t i = 0; i < v->cuts.count; i++) {
		const struct cut *cut = &v->cuts.cut[i];

		if (cut->size >= end || slot->acked_ns > cut->return_ns)
			continue;
		if (slot->acked_ns < cut->begin_ns)
			return FATE_GONE;
		fate = FATE_MAYBE;
	}
	return fate;
}

static bool is_zero(const void *data, size_t size)
{
	const uint8_t *p = data;

	return !p[0] && !memcmp(p, p + 1, size - 1);
}

static bool is_record(struct verify *v, const struct ledger *ledger, uint64_t seq)
{
	uint32_t size = ledger->layout.record_size;

	record_make(v->want, size, ledger->session, (uint32_t)ledger->id, seq);
	return !memcmp(v->found, v->want, size);
}

/* Whole: a record is one packet, or the last packet brings what is checked last. */
static bool is_newer(struct verify *v, const struct ledger *ledger, const struct ledger_slot *slot,
		     uint64_t place)
{
	uint64_t seq = v->found->seq;

	return seq > slot->acked_seq && seq <= slot->posted_seq &&
	       seq % ledger->layout.ring == place && is_record(v, ledger, seq);
}

static enum verdict judge(struct verify *v, const struct ledger *ledger, uint64_t place,
			  enum fate fate)
{
	const struct ledger_slot *slot = &ledger->slot[place];
	bool zero = is_zero(v->found, ledger->layout.record_size);

	if (is_newer(v, ledger, slot, place))
		return VERDICT_NEWER;
	if (fate == FATE_NONE && zero)
		return VERDICT_EMPTY;
	if (fate == FATE_GONE && zero)
		return VERDICT_CUT_OFF;
	if (fate == FATE_MAYBE && zero)
		return VERDICT_CUT_DURING;
	if ((fate == FATE_STAYS || fate == FATE_MAYBE) && is_record(v, ledger, slot->acked_seq))
		return VERDICT_GOOD;
	if (fate == FATE_STAYS && (zero || record_intact(v->found, ledger->layout.record_size)))
		return VERDICT_LOST;
	return VERDICT_CORRUPT;
}

static void complain(struct verify *v, const struct ledger *ledger, uint64_t place,
		     enum verdict verdict)
{
	static const char *const fates[] = { "nothing", "it", "it or nothing", "nothing any more" };
	const struct ledger_slot *slot = &ledger->slot[place];
	uint32_t size = ledger->layout.record_size;
	uint64_t offset = record_offset(&ledger->layout, (uint32_t)ledger->id, place);

	if (v->complaints++ >= COMPLAINTS)
		return;
	say("%s: client %" PRIu64 ", offset %" PRIu64 ": record %" PRIu64
	    " was acknowledged last; %s should be there, but is %s",
	    verdict == VERDICT_LOST ? "lost" : "corrupt", ledger->id, offset, slot->acked_seq,
	    fates[fate_of(v, slot, offset + size)],
	    is_zero(v->found, size)	  ? "zeros" :
	    record_intact(v->found, size) ? "another record" :
					    "no record");
}

/* What is behind the end of the file reads as zeros. */
static int read_slot(const struct verify *v, uint64_t offset, uint32_t size)
{
	ssize_t n;

	memset(v->found, 0, size);
	n = pread(v->fd, v->found, size, (off_t)offset);
	return n < 0 ? fail(-errno, "%s: cannot read it", v->path) : 0;
}

static int verify_ledger(struct verify *v, const struct ledger *ledger)
{
	const struct layout *layout = &ledger->layout;

	for (uint64_t place = 0; place < layout->ring; place++) {
		uint64_t offset = record_offset(layout, (uint32_t)ledger->id, place);
		enum verdict verdict;
		int err = read_slot(v, offset, layout->record_size);

		if (err)
			return err;
		verdict = judge(v, ledger, place,
				fate_of(v, &ledger->slot[place], offset + layout->record_size));
		v->count[verdict]++;
		if (verdict >= VERDICT_LOST)
			complain(v, ledger, place, verdict);
	}
	return 0;
}

static int verify_all(struct verify *v, struct ledger *const *ledgers, unsigned int count)
{
	int err = 0;

	v->found = malloc(MAX_RECORD);
	v->want = malloc(MAX_RECORD);
	if (!v->found || !v->want)
		err = fail(-ENOMEM, "verify");
	for (unsigned int i = 0; i < count && !err; i++)
		err = verify_ledger(v, ledgers[i]);
	free(v->found);
	free(v->want);
	return err;
}

static void print_result(const struct verify *v, struct ledger *const *ledgers, unsigned int count)
{
	uint64_t acked = 0, disconnects = 0;

	for (unsigned int i = 0; i < count; i++) {
		acked += ledgers[i]->acked;
		disconnects += ledgers[i]->disconnects;
	}
	printf("acknowledged: %" PRIu64 " records by %u clients, %" PRIu64 " disconnects\n", acked,
	       count, disconnects);
	printf("cut off: %" PRIu64 ", and %" PRIu64 " durable only while the cut was under way\n",
	       v->count[VERDICT_CUT_OFF], v->count[VERDICT_CUT_DURING]);
	ledgers_print_outages(ledgers, count, OUTAGE_REVOKED, "outages by revokes");
	ledgers_print_outages(ledgers, count, OUTAGE_DISCONNECTED, "outages by disconnects");
	printf("%" PRIu64 " acknowledged records verified, %" PRIu64 " newer ones, %" PRIu64
	       " lost, %" PRIu64 " corrupt\n",
	       v->count[VERDICT_GOOD], v->count[VERDICT_NEWER], v->count[VERDICT_LOST],
	       v->count[VERDICT_CORRUPT]);
}

/* ------------------------------------------------------------------------- */

static void usage(FILE *out)
{
	fputs("Usage: dax-log verify [OPTION...] FILE LEDGER...\n"
	      "Looks whether FILE has what the clients that wrote the LEDGERs count as acknowledged\n"
	      "and nobody cut off or wrote over. The server should have ended.\n"
	      "\n"
	      "  --cuts LIST        who cut the file down and when, of 'dax-log serve' and\n"
	      "                     'dax-log cut'; may be repeated\n"
	      "  --help             this text\n"
	      "\n"
	      "Without LIST every acknowledged record has to be there. Status 1: one is lost or\n"
	      "corrupt, or nothing was verified.\n",
	      out);
}

static int parse_options(struct verify *v, int argc, char **argv)
{
	static const struct option table[] = {
		{ "cuts", required_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c, err = 0;

	while (!err && (c = getopt_long(argc, argv, "h", table, NULL)) != -1) {
		if (c == 'h') {
			usage(stdout);
			exit(EXIT_SUCCESS);
		}
		if (c != 'c')
			exit(EXIT_USAGE);
		err = cuts_read(optarg, &v->cuts);
	}
	if (!err && argc - optind < 2) {
		say("verify takes a FILE and at least one LEDGER; see --help");
		exit(EXIT_USAGE);
	}
	return err;
}

static int open_all(struct verify *v, char **paths, struct ledger **ledgers, unsigned int count)
{
	int err = 0;

	v->path = paths[0];
	v->fd = open(v->path, O_RDONLY | O_CLOEXEC);
	if (v->fd < 0)
		return fail(-errno, "%s: cannot open it", v->path);
	for (unsigned int i = 0; i < count && !err; i++)
		err = ledger_open(paths[1 + i], &ledgers[i]);
	return err;
}

int verify_main(int argc, char **argv)
{
	struct verify v = { .fd = -1 };
	struct ledger **ledgers = calloc((size_t)argc, sizeof(struct ledger *));
	unsigned int count;
	bool good;
	int err;

	if (!ledgers)
		return EXIT_FAILURE;
	err = parse_options(&v, argc, argv);
	count = (unsigned int)(argc - optind - 1);
	if (!err)
		err = open_all(&v, argv + optind, ledgers, count);
	if (!err)
		err = verify_all(&v, ledgers, count);
	if (!err)
		print_result(&v, ledgers, count);
	good = !err && v.count[VERDICT_GOOD] && !v.count[VERDICT_LOST] && !v.count[VERDICT_CORRUPT];
	for (int i = 0; i < argc; i++)
		ledger_close(ledgers[i]);
	free(ledgers);
	cuts_free(&v.cuts);
	if (v.fd >= 0)
		close(v.fd);
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
