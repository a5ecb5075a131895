/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * libdaxlease: io_uring's registered buffers over FS-DAX files, under a lease.
 *
 * daxlease_reg_buf() puts a range of a mapping into a slot of a ring's buffer table, as
 * io_uring_register_buffers_update_tag() does, and takes a lease on the file. When somebody
 * wants to change the file, the drain callback gets time to stop submitting, the library empties
 * the slot and waits until no request uses the pages any more, and only then lets them go on.
 *
 * The conventions and the fixed meanings of errors are those of daxlease.h; states, breaks,
 * deadlines, callbacks, their rules and counters are the same as for an MR. More of them here:
 *
 *  -EPERM       called in another thread than that of a ring with IORING_SETUP_SINGLE_ISSUER;
 *               io_uring is forbidden to this process (seccomp), or what is needed is on
 *               this ring (IORING_REGISTER_RESTRICTIONS)
 *
 * liburing is not needed, nor in the way. See daxlease_reg_buf(3).
 */
#ifndef DAXLEASE_URING_H
#define DAXLEASE_URING_H

#include <daxlease/daxlease.h>

#ifdef __cplusplus
extern "C" {
#endif

struct daxlease_ring;
struct daxlease_buf;

/* ------------------------------------------------------------------------- */
/* Rings                                               see daxlease_ring_new(3) */

/*
 * Makes a ring known to the context. ring_fd is what io_uring_setup(2) returned (ring_fd of
 * struct io_uring), not an index of registered descriptors; it stays the caller's, and the
 * library keeps a duplicate: the ring lives until daxlease_ring_free(). A ring belongs to one
 * context. It has to be enabled (IORING_SETUP_R_DISABLED), and to have a buffer table before
 * buffers are registered: io_uring_register_buffers_sparse(). Slots that are not given to
 * daxlease_reg_buf() are left alone. Further use of the ring is the caller's, SQPOLL or not.
 *
 * A ring with IORING_SETUP_SINGLE_ISSUER (DEFER_TASKRUN has it always) lets one thread only
 * change its slots. The library finds out by itself. This has to be that thread, and so have
 * those that register and deregister its buffers and that dispatch the context, which cannot be
 * of DAXLEASE_MODE_THREAD. If that thread does not dispatch in time, the pages stay pinned and
 * the lease is kept, and with it the others out: the kernel refuses them at its deadline. It
 * has to deregister its buffers before it ends, as nobody else can; and it had better have a
 * context of its own, whose descriptor wakes nobody else in vain.
 *
 * -EBADF: ring_fd not open. -EINVAL: no ring, not enabled, or with SINGLE_ISSUER and a context of
 * DAXLEASE_MODE_THREAD. -EPERM: see the top. -ENOSYS: no io_uring. -ENOMEM, -EMFILE, -EAGAIN (no
 * thread, which is needed for a moment), -ECHILD. Since 0.1.
 */
DAXLEASE_API DAXLEASE_MUST_CHECK int daxlease_ring_new(struct daxlease_ctx *ctx, int ring_fd,
						       struct daxlease_ring **ret_ring);

/*
 * Forgets the ring; nothing is done to it. NULL is a no-op.
 *
 * -EBUSY: it has buffers still. -EDEADLK: from a callback. -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_ring_free(struct daxlease_ring *ring);

/*
 * Completions whose user_data has these upper 16 bits are the library's; no request of the
 * program may have such. They cannot be a pointer. Since 0.1.
 */
#define DAXLEASE_CQE_MASK UINT64_C(0xffff000000000000)
#define DAXLEASE_CQE_TAG UINT64_C(0xda1e000000000000)

/* Whether a completion is the library's, and to be given to daxlease_ring_cqe(). Since 0.1. */
static inline bool daxlease_is_cqe(uint64_t user_data)
{
	return (user_data & DAXLEASE_CQE_MASK) == DAXLEASE_CQE_TAG;
}

/*
 * What the library takes from the ring's completion queue, it takes through the program: to be
 * called with the user_data of a completion of the ring for which daxlease_is_cqe() is true, or
 * of each; may be called from callbacks. One comes for each buffer on FS-DAX after its slot was
 * emptied, when no request uses its pages any more. In a break, that is the end of the wait.
 * Without this call the end is noticed, too, by asking the kernel, but later: by up to as much
 * again as it has taken.
 *
 * 1: it was the library's, the program has nothing to do with it. 0: it was not. -EINVAL,
 * -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_ring_cqe(struct daxlease_ring *ring, uint64_t user_data);

/* ------------------------------------------------------------------------- */
/* Buffers                                              see daxlease_reg_buf(3) */

/*
 * "Submit no more requests that use the buffer." Those under way need not be waited for: the
 * library does. Returns as daxlease_drain_fn does; DAXLEASE_PENDING: daxlease_buf_drained()
 * will follow. What is submitted after the slot was emptied fails with EFAULT.
 */
typedef int (*daxlease_buf_drain_fn)(struct daxlease_buf *buf, const struct daxlease_break *brk,
				     void *userdata);

/*
 * As daxlease_release_fn. -ETIMEDOUT: not drained, or requests still used it, at the end of the
 * budget: requests were cancelled.
 */
typedef void (*daxlease_buf_release_fn)(struct daxlease_buf *buf, int result, void *userdata);

struct daxlease_buf_regain {
	size_t size;   /* set by the library */
	int error;     /* 0, or why it is given up (-errno) */
	size_t length; /* bytes registered, as in struct daxlease_regain; 0: gone once more */
};

/* The buffer is in its slot again. */
typedef void (*daxlease_buf_regain_fn)(struct daxlease_buf *buf,
				       const struct daxlease_buf_regain *regain, void *userdata);

/*
 * Which requests of the ring are cancelled if some use the buffer still at the end of the budget.
 * They complete with ECANCELED, EINTR, or as if nothing had been.
 */
enum daxlease_cancel {
	/*
	 * Those of the operations made for registered buffers: read_fixed, write_fixed,
	 * readv_fixed, writev_fixed, send_zc, sendmsg_zc, uring_cmd; whatever buffer they use.
	 * Others, such as accept or poll, go on.
	 */
	DAXLEASE_CANCEL_FIXED = 0,
	DAXLEASE_CANCEL_FD,	   /* those on cancel_fd */
	DAXLEASE_CANCEL_USER_DATA, /* those with cancel_user_data */
	DAXLEASE_CANCEL_ANY,	   /* all */
};

struct daxlease_buf_opts {
	size_t size;		  /* sizeof(struct daxlease_buf_opts) */
	unsigned int flags;	  /* DAXLEASE_MR_*, with the same meanings */
	enum daxlease_kind kind;  /* AUTO: as the context has it, of those that pin */
	uint32_t drain_budget_ms; /* for stopping and for requests under way; as for an MR */
	/* All optional, as for an MR. Without drain it counts as stopped at once. */
	daxlease_buf_drain_fn drain;
	daxlease_buf_release_fn release;
	daxlease_buf_regain_fn regain;
	void *userdata; /* for all of them */
	enum daxlease_cancel cancel;
	int cancel_fd; /* not an index of registered files */
	uint64_t cancel_user_data;
};

/*
 * Leases the file and puts [addr, addr + length) into a slot of the ring's buffer table. What is
 * in the slot is replaced; from then on the slot is the library's.
 *
 * What is said of fd, sharing of leases and exclusive ones at daxlease_reg_mr() holds here as
 * well: buffers and MRs of one description in a context share a lease, and are drained together.
 * io_uring pins, for reading and writing, so FS-DAX can be registered with DAXLEASE_KIND_LAYOUT
 * and _LAYOUT_RFC only, which AUTO takes, and mapped PROT_READ | PROT_WRITE. Memory that is no
 * FS-DAX mapping is passed on as it is, and no lease is taken.
 *
 * The caller frees the buffer with daxlease_dereg_buf(), before the ring.
 *
 * As daxlease_reg_mr(); besides: -EINVAL: slot beyond the table, length above 1 GiB (the kernel's
 * limit), unknown cancel. -ENXIO: the ring has no buffer table. -EBUSY: the slot has a buffer of
 * this library already. -EOPNOTSUPP: no layout leases there (no released Linux has them); a kind
 * that does not pin; an MR has leased the file with such a kind; a read-only mapping. -EPERM: see
 * the top. Since 0.1.
 */
DAXLEASE_API DAXLEASE_MUST_CHECK int daxlease_reg_buf(struct daxlease_ring *ring, unsigned int slot,
						      int fd, void *addr, size_t length,
						      const struct daxlease_buf_opts *opts,
						      struct daxlease_buf **ret_buf);

/*
 * Empties the slot, gives the lease back if this was its last region, and frees buf, as
 * daxlease_dereg_mr() does. NULL is a no-op.
 *
 * -EBUSY: requests use it still, or it is not known yet that none does, as other regions share
 * the lease and the completion was not given to daxlease_ring_cqe() yet. The slot is empty and
 * stays so. Call again, best after daxlease_ring_cqe() returned 1. Memory that is not on FS-DAX
 * is not waited for. Else as daxlease_dereg_mr(); -EPERM: see the top. Since 0.1.
 */
DAXLEASE_API int daxlease_dereg_buf(struct daxlease_buf *buf);

/* As given at registration. Since 0.1. */
DAXLEASE_API void *daxlease_buf_get_userdata(const struct daxlease_buf *buf);

/*
 * As of an MR. DRAINING: submit no more; DEREGISTERING: the slot is being emptied, or requests
 * use the pages still. Since 0.1.
 */
DAXLEASE_API enum daxlease_state daxlease_buf_get_state(const struct daxlease_buf *buf);

struct daxlease_buf_info {
	size_t size; /* set by the caller */
	enum daxlease_state state;
	enum daxlease_kind kind; /* what was obtained */
	unsigned int slot;
	unsigned int unseen; /* DAXLEASE_UNSEEN_*: changes this lease does not notice */
	int lease_fd;	     /* the library's duplicate, -1 if none; don't close */
	int last_error;	     /* of emptying the slot in a break, or of regaining; 0 or -errno */
	void *addr;	     /* as asked for */
	size_t length;	     /* as asked for */
	uint64_t generation; /* counts registrations, from 1 */
	size_t registered;   /* bytes, while requests may use it, else 0 */
};

/* All of the above at one moment; as daxlease_mr_get_info(). Since 0.1. */
DAXLEASE_API int daxlease_buf_get_info(const struct daxlease_buf *buf,
				       struct daxlease_buf_info *ret_info);

/* As daxlease_mr_drained(): no more requests will be submitted. Since 0.1. */
DAXLEASE_API int daxlease_buf_drained(struct daxlease_buf *buf);

/*
 * As daxlease_mr_recall(), _recall_start() and _regain(). Recalling waits for requests under way,
 * but nobody reaps their completions meanwhile if this is the ring's thread. Since 0.1.
 */
DAXLEASE_API int daxlease_buf_recall(struct daxlease_buf *buf);
DAXLEASE_API int daxlease_buf_recall_start(struct daxlease_buf *buf);
DAXLEASE_API int daxlease_buf_regain(struct daxlease_buf *buf);

#ifdef __cplusplus
}
#endif

#endif
