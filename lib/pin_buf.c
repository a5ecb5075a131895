// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * A registered buffer: a slot of a ring's buffer table. Emptying the slot lets go of the pages
 * once no request uses them any more. Then the kernel posts a completion with the slot's tag,
 * which reaches us through the program (daxlease_ring_cqe()).
 */
#include <errno.h>
#include <string.h>

#include "objects.h"

/* io_buffer_validate() of Linux. */
#define BUF_MAX (1ul << 30)

static int refuse(struct daxlease_buf *buf, int err, const char *why)
{
	struct region *r = &buf->region;
	/* Regaining tries again. */
	bool goes_on = err == -EAGAIN && r->generation;

	log_add(&r->ctx->log, goes_on ? DAXLEASE_LOG_DEBUG : DAXLEASE_LOG_ERR,
		"slot %u, %p+%zu: %s: %s", buf->slot, r->addr, r->length, strerror(-err), why);
	return err;
}

static const char *why_refused(const struct region *r, int err)
{
	switch (err) {
	case -ENXIO:
		return "the ring has no buffer table: io_uring_register_buffers_sparse() first";
	case -EINVAL:
		return "beyond the ring's buffer table: have more slots";
	case -ENOMEM:
		return sys_memlock_limit() == UINT64_MAX ?
			       "out of memory" :
			       "more than RLIMIT_MEMLOCK, with what is pinned already: raise it "
			       "(ulimit -l)";
	case -EOPNOTSUPP:
		return r->lease ? "register a mapping of this very descriptor, not of another "
				  "open(2) of the file" :
				  "this memory cannot be pinned";
	case -EPERM:
	case -ENOSYS:
		return "io_uring_register(2) is forbidden (seccomp)";
	default:
		return r->lease ? "FS-DAX, under a layout lease" :
				  "plain memory, passed on as it is";
	}
}

static int explain(struct daxlease_buf *buf, int err)
{
	struct region *r = &buf->region;
	const struct lease *l = r->lease; /* held as long as it is in_pin */

	if (l && l->ops->query(l->fd, l->want) != LEASE_HELD)
		return refuse(buf, -EAGAIN, "somebody is about to change the file: try again");
	if (r->range.page_cache && (err == -EFAULT || err == -EOPNOTSUPP))
		return refuse(buf, -EOPNOTSUPP,
			      "a file mapping in the page cache, which Linux >= 6.5 does not pin: "
			      "put the file on FS-DAX (mount -o dax), tmpfs or hugetlbfs");
	if (err == -EFAULT && r->length > BUF_MAX)
		return refuse(
			buf, -EINVAL,
			"longer than 1 GiB, the most that io_uring takes for one slot: use several");
	if (err == -EACCES)
		return refuse(buf, -EPERM,
			      "the ring is restricted (IORING_REGISTER_RESTRICTIONS): allow "
			      "IORING_REGISTER_BUFFERS_UPDATE");
	return refuse(buf, err, why_refused(r, err));
}

/* Never again the same: what was posted for an earlier one may not have been reaped yet. */
static uint64_t new_tag(void)
{
	static atomic_uint_least64_t serial;

	return DAXLEASE_CQE_TAG | (atomic_fetch_add(&serial, 1) & ~DAXLEASE_CQE_MASK);
}

int pin_buf_attach(struct region *r, size_t length, bool *ret_on_demand)
{
	struct daxlease_buf *buf = buf_of(r);
	int err;

	if (r->lease && !r->range.writable)
		return refuse(buf, -EOPNOTSUPP,
			      "a read-only mapping, and io_uring pins for reading and writing: map "
			      "it PROT_WRITE from a descriptor opened O_RDWR");
	/* What is not leased is not waited for, and nobody wants to hear of its end. */
	buf->tag = r->lease ? new_tag() : 0;
	buf->emptied = false;
	atomic_store(&r->gone, false);
	err = sys_uring_set_slot(buf->ring->fd, buf->slot, r->addr, length, buf->tag);
	if (err)
		return explain(buf, err);
	*ret_on_demand = false;
	return 0;
}

static int empty(struct daxlease_buf *buf)
{
	int err = 0;

	/* If it is gone by itself, the program has put something else there. */
	if (!buf->emptied && !atomic_load(&buf->region.gone))
		err = sys_uring_set_slot(buf->ring->fd, buf->slot, NULL, 0, 0);
	/* Likewise without a table, or with one that ends before the slot. */
	if (err && err != -ENXIO && err != -EINVAL)
		return err;
	buf->emptied = true;
	return 0;
}

int pin_buf_detach(struct region *r)
{
	struct daxlease_buf *buf = buf_of(r);
	int err = empty(buf);

	if (err || !r->lease)
		return err;
	/* Requests of such a ring may have ended, but let go only in this thread. */
	if (buf->ring->tid)
		sys_uring_flush(buf->ring->fd);
	if (!atomic_load(&r->gone))
		return -EINPROGRESS;
	/*
	 * The tag is posted right before the pages are let go of, under the ring's lock: this
	 * takes it.
	 */
	sys_uring_probe(buf->ring->fd);
	return 0;
}

void pin_buf_fence(struct region *r)
{
	struct daxlease_buf *buf = buf_of(r);
	const struct daxlease_buf_opts *opts = &buf->opts;
	const bool was_emptied = buf->emptied;
	int ret;

	/* First, so that nothing new begins. Whether something uses it is seen then. */
	if (empty(buf) || atomic_load(&r->gone) || !was_emptied)
		return;
	ret = sys_uring_cancel(buf->ring->fd, (enum sys_cancel)opts->cancel, opts->cancel_fd,
			       opts->cancel_user_data);
	if (ret < 0)
		log_add(&r->ctx->log, DAXLEASE_LOG_ERR,
			"slot %u: requests could not be cancelled: %s", buf->slot, strerror(-ret));
	else
		log_add(&r->ctx->log, DAXLEASE_LOG_DEBUG, "slot %u: %d requests cancelled",
			buf->slot, ret);
}

bool pin_buf_is_here(const struct region *r)
{
	pid_t tid = buf_of((struct region *)r)->ring->tid;

	return !tid || tid == sys_gettid();
}
