// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <libpmem.h>

#include "store.h"
#include "util.h"

static int open_file(struct store *store)
{
	struct stat st;

	store->fd = open(store->path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (store->fd < 0)
		return fail(-errno, "%s: cannot open it", store->path);
	/* Two servers would give the same slots to different clients. It breaks no lease. */
	if (flock(store->fd, LOCK_EX | LOCK_NB))
		return fail(-errno, "%s: cannot lock it (another dax-log serve?)", store->path);
	if (fstat(store->fd, &st))
		return fail(-errno, "%s", store->path);
	if ((uint64_t)st.st_size < store->size && ftruncate(store->fd, (off_t)store->size))
		return fail(-errno, "%s: cannot make it %" PRIu64 " bytes long", store->path,
			    store->size);
	return 0;
}

/* MAP_SYNC: flushing the CPU's caches is enough, no fsync(2) is needed. */
static int map_file(struct store *store)
{
	void *addr = mmap(NULL, store->size, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC,
			  store->fd, 0);

	if (addr == MAP_FAILED && errno == EOPNOTSUPP)
		return fail(-errno,
			    "%s: not on FS-DAX with synchronous page faults; take a file on ext4 "
			    "or XFS on persistent memory that is mounted with -o dax",
			    store->path);
	if (addr == MAP_FAILED)
		return fail(-errno, "%s: cannot map it", store->path);
	store->addr = addr;
	return 0;
}

static int check_head(const struct store *store)
{
	const struct head *head = (const struct head *)store->addr;

	if (!head_intact(head))
		return 0;
	if (head->record_size == store->layout.record_size &&
	    head->stride == store->layout.stride && head->file_size == store->size)
		return 0;
	say("%s: was made with --size %" PRIu64 " --record-size %u --clients %u; say the same, or "
	    "take another file",
	    store->path, head->file_size, head->record_size, head->stride);
	return -EINVAL;
}

/* Whoever wrote the highest number goes on; the number is what a new one must not use. */
static void find_owner(const struct store *store, uint32_t id, struct owner *owner)
{
	const struct layout *layout = &store->layout;
	const struct record *rec;

	*owner = (struct owner){ 0 };
	for (uint64_t place = 0; place < layout->ring; place++) {
		rec = (const struct record *)(store->addr + record_offset(layout, id, place));
		if (rec->seq <= owner->last || rec->id != id ||
		    !record_intact(rec, layout->record_size))
			continue;
		owner->last = rec->seq;
		owner->session = rec->session;
	}
}

int store_map(struct store *store, const char *path, uint64_t size, uint32_t record_size,
	      uint32_t stride, struct owner *ret_owners)
{
	int err;

	*store = (struct store){
		.path = path,
		.fd = -1,
		.size = size,
		.layout = layout_of(size, record_size, stride),
	};
	if (!store->layout.ring) {
		say("--size %" PRIu64 " has no room for one record of %u bytes for each of %u "
		    "clients",
		    size, record_size, stride);
		return -EINVAL;
	}
	err = open_file(store);
	if (!err)
		err = map_file(store);
	if (!err)
		err = check_head(store);
	for (uint32_t id = 0; id < stride && !err; id++)
		find_owner(store, id, &ret_owners[id]);
	return err;
}

void store_unmap(struct store *store)
{
	if (store->addr)
		munmap(store->addr, store->size);
	if (store->fd >= 0)
		close(store->fd);
}

static void write_head(struct store *store)
{
	struct head head;

	if (store->open < sizeof(head) || head_intact((struct head *)store->addr))
		return;
	head_make(&head, &store->layout, store->size);
	pmem_memcpy_persist(store->addr, &head, sizeof(head));
}

void store_open_for(struct store *store, uint64_t length)
{
	store->open = length;
	write_head(store);
}

void store_shut(struct store *store)
{
	store->open = 0;
}

/*
 * The record is looked at, and not only flushed: a client that was late may ask for one
 * that went with the end of the file.
 */
static bool flush_record(struct store *store, uint64_t session, uint32_t id, uint64_t seq)
{
	const uint32_t size = store->layout.record_size;
	uint64_t offset = record_offset(&store->layout, id, seq);
	const struct record *rec = (const struct record *)(store->addr + offset);

	if (offset + size > store->open || rec->session != session || rec->id != id ||
	    rec->seq != seq || !record_intact(rec, size))
		return false;
	pmem_flush(rec, size);
	return true;
}

enum flush_status store_flush(struct store *store, uint64_t session, uint32_t id,
			      const struct message *flush, uint64_t *ret_time_ns)
{
	if (!store->open)
		return FLUSH_LATER;
	for (uint32_t i = 0; i < flush->count; i++) {
		if (!flush_record(store, session, id, flush->first + i))
			return FLUSH_BAD;
	}
	pmem_drain();
	store->flushed += flush->count;
	*ret_time_ns = now_ns();
	return FLUSH_DONE;
}
