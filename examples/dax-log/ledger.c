// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ledger.h"
#include "util.h"

#define LEDGER_MAGIC 0x314c474c58414444ull /* "DDAXLGL1" */

static size_t ledger_size(const struct layout *layout)
{
	return sizeof(struct ledger) + layout->ring * sizeof(struct ledger_slot);
}

static int map(int fd, size_t size, int prot, const char *path, struct ledger **ret_ledger)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	void *addr = mmap(NULL, size, prot, flags, fd, 0);

	if (addr == MAP_FAILED)
		return fail(-errno, "%s: cannot map the ledger", path ? path : "memory");
	*ret_ledger = addr;
	return 0;
}

static int create(const char *path, size_t size, int *ret_fd)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0)
		return fail(-errno, "%s: cannot make the ledger", path);
	if (ftruncate(fd, (off_t)size)) {
		close(fd);
		return fail(-errno, "%s: no room for the ledger", path);
	}
	*ret_fd = fd;
	return 0;
}

int ledger_create(const char *path, const struct layout *layout, uint64_t session, uint32_t id,
		  struct ledger **ret_ledger)
{
	size_t size = ledger_size(layout);
	struct ledger *ledger = NULL;
	int fd = -1, err = 0;

	if (path)
		err = create(path, size, &fd);
	if (!err)
		err = map(fd, size, PROT_READ | PROT_WRITE, path, &ledger);
	if (fd >= 0)
		close(fd);
	if (err)
		return err;
	ledger->layout = *layout;
	ledger->session = session;
	ledger->id = id;
	ledger->magic = LEDGER_MAGIC;
	*ret_ledger = ledger;
	return 0;
}

int ledger_open(const char *path, struct ledger **ret_ledger)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct ledger *ledger = NULL;
	struct stat st;
	int err;

	if (fd < 0 || fstat(fd, &st))
		return fail(-errno, "%s: cannot open the ledger", path);
	if ((size_t)st.st_size < sizeof(*ledger)) {
		say("%s: no ledger, or of a client that never got a connection", path);
		return -EINVAL;
	}
	err = map(fd, (size_t)st.st_size, PROT_READ, path, &ledger);
	close(fd);
	if (err)
		return err;
	if (ledger->magic != LEDGER_MAGIC || ledger_size(&ledger->layout) != (size_t)st.st_size) {
		say("%s: no ledger, or a damaged one", path);
		return -EINVAL;
	}
	*ret_ledger = ledger;
	return 0;
}

void ledger_close(struct ledger *ledger)
{
	if (ledger)
		munmap(ledger, ledger_size(&ledger->layout));
}

void ledger_posted(struct ledger *ledger, uint64_t seq)
{
	ledger->slot[seq % ledger->layout.ring].posted_seq = seq;
	ledger->posted++;
}

void ledger_acked(struct ledger *ledger, uint64_t seq, uint64_t time_ns)
{
	struct ledger_slot *slot = &ledger->slot[seq % ledger->layout.ring];

	slot->acked_ns = time_ns;
	slot->acked_seq = seq;
	ledger->acked++;
}

void ledger_outage(struct ledger *ledger, const struct outage *outage)
{
	if (ledger->outages < MAX_OUTAGES)
		ledger->outage[ledger->outages++] = *outage;
}

/* ------------------------------------------------------------------------- */
/* Distribution */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static size_t collect(struct ledger *const *ledgers, unsigned int count, enum outage_kind kind,
		      double *ms)
{
	size_t n = 0;

	for (unsigned int i = 0; i < count; i++) {
		for (uint64_t j = 0; j < ledgers[i]->outages; j++) {
			const struct outage *o = &ledgers[i]->outage[j];

			if (o->kind == kind)
				ms[n++] = (double)(o->to_ns - o->from_ns) / NS_PER_MS;
		}
	}
	return n;
}

/* The smallest value that is not exceeded by this many per cent of them. */
static double percentile(const double *sorted, size_t n, unsigned int percent)
{
	return sorted[(n * percent + 99) / 100 - 1];
}

void ledgers_print_outages(struct ledger *const *ledgers, unsigned int count, enum outage_kind kind,
			   const char *name)
{
	double *ms = calloc((size_t)count * MAX_OUTAGES, sizeof(*ms));
	size_t n;

	if (!ms)
		return;
	n = collect(ledgers, count, kind, ms);
	qsort(ms, n, sizeof(*ms), compare);
	if (n)
		printf("%s: %zu, median %.1f ms, p90 %.1f, p99 %.1f, max %.1f\n", name, n,
		       percentile(ms, n, 50), percentile(ms, n, 90), percentile(ms, n, 99),
		       ms[n - 1]);
	else
		printf("%s: 0\n", name);
	free(ms);
}
