// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "brk.h"
#include "share.h"
#include "sys.h"

static unsigned int bucket_of(dev_t dev, ino_t ino)
{
	return (unsigned int)(ino ^ (ino >> 8) ^ dev) % LEASE_BUCKETS;
}

/*
 * A file has one lease, but of the kinds that pin one for each open file description:
 * the kernel asks for that of the mapping. If it cannot be known whether that is the
 * same one, another lease is tried, which the kernel refuses if it is.
 */
static bool is_lease_of(const struct lease *l, const struct dax_range *range, int fd)
{
	if (l->dev != range->dev || l->ino != range->ino)
		return false;
	return !l->ops || !l->ops->pins || sys_same_description(fd, l->fd) == 1;
}

static struct lease *find_lease(struct daxlease_ctx *ctx, const struct dax_range *range, int fd)
{
	struct lease *l;

	LIST_FOREACH(l, &ctx->buckets[bucket_of(range->dev, range->ino)], bucket_link) {
		if (is_lease_of(l, range, fd))
			return l;
	}
	return NULL;
}

static int reserve_fd(struct daxlease_ctx *ctx, int fd)
{
	size_t n = ctx->nfds ? ctx->nfds : 64;
	struct lease **by_fd;

	if ((size_t)fd < ctx->nfds)
		return 0;
	while (n <= (size_t)fd)
		n *= 2;
	by_fd = sys_realloc(ctx->by_fd, n * sizeof(*by_fd));
	if (!by_fd)
		return -ENOMEM;
	memset(by_fd + ctx->nfds, 0, (n - ctx->nfds) * sizeof(*by_fd));
	ctx->by_fd = by_fd;
	ctx->nfds = n;
	return 0;
}

/* As a part of a log line: ": no guard: REASON", if there was none and it says why. */
static const char *no_guard(struct daxlease_ctx *ctx, char *buf, size_t size)
{
	char reason[192];

	guard_reason(ctx->guard, reason, sizeof(reason));
	snprintf(buf, size, reason[0] ? "; no guard: %s" : "%s", reason);
	return buf;
}

static int refuse_lease(const struct region *r, int fd, int err)
{
	const bool exclusive = r->flags & DAXLEASE_MR_EXCLUSIVE;
	const enum daxlease_kind kind = r->kind;
	struct daxlease_ctx *ctx = r->ctx;
	const char *why = "";
	char guard[224] = "";

	switch (err) {
	case -EAGAIN:
		why = ": the file is open elsewhere as well, or is being changed, or this "
		      "description is leased already (by another context, another process or the "
		      "program): close the others (fuser -v FILE shows them)";
		break;
	case -EBADF:
		why = exclusive ? ": exclusive, but open read-only: open it O_RDWR, or leave "
				  "DAXLEASE_MR_EXCLUSIVE out" :
				  "";
		break;
	case -EACCES:
		why = ": only the owner of the file may lease it: run as the owner, or with CAP_LEASE";
		break;
	case -EOPNOTSUPP:
		if (r->ops->must_pin) {
			why = ": io_uring buffers are pinned, which FS-DAX is only under a layout "
			      "lease, and kernel or filesystem has none, or "
			      "/proc/sys/fs/leases-enable is 0: see fcntl_layout(2)";
			break;
		}
		if (kind == DAXLEASE_KIND_AUTO || kind == DAXLEASE_KIND_GUARD)
			no_guard(ctx, guard, sizeof(guard));
		if (kind == DAXLEASE_KIND_GUARD)
			break;
		why = exclusive ? ": others are only refused by layout leases, which kernel or "
				  "filesystem lacks, or /proc/sys/fs/leases-enable is 0, and by a "
				  "guard: leave DAXLEASE_MR_EXCLUSIVE out" :
				  ": kernel or filesystem has no such lease, or "
				  "/proc/sys/fs/leases-enable is 0";
		break;
	case -EMFILE:
		why = ": no descriptor left for the library's duplicate: raise RLIMIT_NOFILE (ulimit -n)";
		break;
	case -ENOMEM:
		why = ": free some memory";
		break;
	}
	log_add(&ctx->log, DAXLEASE_LOG_ERR, "fd %d: no lease (kind %s): %s%s%s", fd,
		daxlease_kind_str(kind), strerror(-err), why, guard);
	return err;
}

/* Others who can change it unseen, as their descriptors are older than the guard. */
static void look_for_openers(struct daxlease_ctx *ctx, struct lease *l)
{
	pid_t pid = 0;
	int openers = guard_openers(ctx->guard, l->fd, &pid);

	if (openers)
		l->unseen |= DAXLEASE_UNSEEN_EARLIER;
	if (openers > 0)
		log_add(&ctx->log, DAXLEASE_LOG_WARNING,
			"fd %d (inode %ju): %d other process%s had the file open for writing before it "
			"was guarded, pid %d%s: fallocate through such a descriptor is not noticed",
			l->fd, (uintmax_t)l->ino, openers, openers > 1 ? "es" : "", (int)pid,
			openers > 1 ? " among them" : "");
}

/* What the caller should know of a lease that is new. */
static void tell_of_lease(struct daxlease_ctx *ctx, struct lease *l, enum daxlease_kind kind)
{
	char guard[224];

	if (l->ops->kind == DAXLEASE_KIND_GUARD)
		look_for_openers(ctx, l);
	else if (kind == DAXLEASE_KIND_AUTO && *no_guard(ctx, guard, sizeof(guard)))
		log_add(&ctx->log, DAXLEASE_LOG_INFO, "fd %d (inode %ju): lease kind %s%s", l->fd,
			(uintmax_t)l->ino, daxlease_kind_str(l->ops->kind), guard);
}

static void enter(struct daxlease_ctx *ctx, struct lease *l)
{
	TAILQ_INSERT_TAIL(&ctx->leases, l, link);
	LIST_INSERT_HEAD(&ctx->buckets[bucket_of(l->dev, l->ino)], l, bucket_link);
	ctx->by_fd[l->fd] = l;
}

static void leave(struct daxlease_ctx *ctx, struct lease *l)
{
	if (l->on_work)
		TAILQ_REMOVE(&ctx->work, l, work_link);
	TAILQ_REMOVE(&ctx->leases, l, link);
	LIST_REMOVE(l, bucket_link);
	ctx->by_fd[l->fd] = NULL;
}

static int new_lease(const struct region *r, int fd, struct lease **ret_lease)
{
	const struct dax_range *range = &r->range;
	struct daxlease_ctx *ctx = r->ctx;
	struct lease *l = sys_calloc(1, sizeof(*l));
	int err;

	if (!l)
		return refuse_lease(r, fd, -ENOMEM);
	TAILQ_INIT(&l->regions);
	l->dev = range->dev;
	l->ino = range->ino;
	l->want = (struct lease_want){ .access_mode = range->access_mode,
				       .ino = range->ino,
				       .exclusive = r->flags & DAXLEASE_MR_EXCLUSIVE,
				       .pinned = r->ops->must_pin,
				       .patient = true,
				       .guard = ctx->guard };
	l->due_ns = NEVER;
	l->fd = err = sys_dup(fd);
	if (err < 0)
		goto err_free;
	err = reserve_fd(ctx, l->fd);
	if (err)
		goto err_close;
	enter(ctx, l); /* a break may come as soon as it is taken */
	err = brk_take(ctx, l, r->kind, NULL);
	if (err)
		goto err_leave;
	l->want.patient = false; /* from now on it is the pipeline that takes it, and comes again */
	tell_of_lease(ctx, l, r->kind);
	*ret_lease = l;
	return 0;

err_leave:
	leave(ctx, l);
err_close:
	sys_close(l->fd);
err_free:
	free(l);
	return refuse_lease(r, fd, err);
}

/* Somebody takes it, and does not hold ctx->lock meanwhile: it must not be freed. */
static void wait_taken(struct daxlease_ctx *ctx, const struct lease *l)
{
	while (l->taking)
		pthread_cond_wait(&ctx->changed, &ctx->lock);
}

/* The last region is gone. */
static void end_lease(struct daxlease_ctx *ctx, struct lease *l)
{
	if (l->held)
		brk_give_back(ctx, l);
	if (l->held) /* refused, and nobody is left to try again: closing is all there is */
		ctx->stats.leases--;
	if (l->breaking)
		ctx->breaking--;
	if (l->ops->forget)
		l->ops->forget(l->fd, l->want);
	leave(ctx, l);
	sys_close(l->fd);
	free(l);
}

static int refuse_share(struct daxlease_ctx *ctx, const struct lease *l, int err, const char *why)
{
	log_add(&ctx->log, DAXLEASE_LOG_ERR, "fd %d (inode %ju): %s", l->fd, (uintmax_t)l->ino,
		why);
	return err;
}

static int share_lease(const struct region *r, struct lease *l)
{
	const bool exclusive = r->flags & DAXLEASE_MR_EXCLUSIVE;
	const enum daxlease_kind kind = r->kind;
	struct daxlease_ctx *ctx = r->ctx;

	if (kind != DAXLEASE_KIND_AUTO && kind != l->ops->kind)
		return refuse_share(
			ctx, l, -EINVAL,
			"leased already, with another kind, for another region: use that kind, "
			"or auto");
	if (r->ops->must_pin && !l->ops->pins)
		return refuse_share(ctx, l, -EOPNOTSUPP,
				    "leased already, with a kind that does not pin, which io_uring "
				    "buffers need: they go with layout leases only");
	if (exclusive != l->want.exclusive)
		return refuse_share(ctx, l, -EINVAL,
				    exclusive ? "leased already, breakable, for another region: "
						"make that one exclusive as well, or none" :
						"leased already, exclusively, for another region: "
						"make this one exclusive as well, or none");
	if (r->range.writable && l->ops->by_access_mode && l->want.access_mode == O_RDONLY)
		return refuse_share(ctx, l, -EAGAIN,
				    "leased already, for reading, through another description: "
				    "deregister that region first");
	if (l->recalled)
		return refuse_share(ctx, l, -EAGAIN,
				    "recalled: call daxlease_mr_regain() on its region first");
	if (l->breaking || (!l->held && brk_retake(ctx, l, NULL)))
		return refuse_share(
			ctx, l, -EAGAIN,
			"somebody else has the file open or is about to change it: try again when "
			"they have closed it (fuser -v FILE shows them)");
	return 0;
}

int share_join(struct region *r, int fd)
{
	struct daxlease_ctx *ctx = r->ctx;
	struct lease *l;
	int err;

	/* Somebody takes it: that may go wrong, and then it is not there. */
	while ((l = find_lease(ctx, &r->range, fd)) && l->taking)
		pthread_cond_wait(&ctx->changed, &ctx->lock);
	if (l)
		err = share_lease(r, l);
	else
		err = new_lease(r, fd, &l);
	if (err)
		return err;
	r->lease = l;
	TAILQ_INSERT_TAIL(&l->regions, r, link);
	publish_add(r);
	return 0;
}

void share_leave(struct region *r)
{
	struct lease *l = r->lease;

	wait_taken(r->ctx, l);
	TAILQ_REMOVE(&l->regions, r, link);
	publish_remove(r);
	if (TAILQ_EMPTY(&l->regions))
		end_lease(r->ctx, l);
	else
		brk_left(r->ctx, l);
}

int share_give_back_last(struct region *r)
{
	struct lease *l = r->lease;
	int err;

	if (!l)
		return 0;
	wait_taken(r->ctx, l);
	if (!l->held || lease_is_shared(l))
		return 0;
	err = brk_give_back(r->ctx, l);
	return l->held ? err : 0;
}
