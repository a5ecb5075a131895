/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * libdaxlease: RDMA memory regions over FS-DAX files, under a lease.
 *
 * daxlease_reg_mr() is ibv_reg_mr() plus a lease on the file. When somebody wants
 * to change the file, the drain callback gets time to finish, the library
 * deregisters, and only then lets them go on.
 *
 * Conventions, for every call unless it says otherwise:
 *
 *  - 0 or a count on success, -errno on failure; errno is not part of the contract.
 *  - Outputs are called ret_*, come last and are untouched on failure.
 *  - Handles are opaque. All calls may be made from any thread at any time,
 *    several at once, on different or on the same object, except that nothing
 *    may use an object while or after it is freed.
 *  - A registration that is refused, and each failure in a break, write one line
 *    through the context's log callback that names the cause and the cure.
 *  - Option structs begin with their own size, set by the caller; NULL means
 *    all defaults, and so does 0 in each member. A struct larger than the
 *    library knows is accepted only if the part it does not know is all zero
 *    (-E2BIG otherwise); one too small to hold its size is -EINVAL, and so is
 *    NULL where an object or an output is wanted.
 *  - After fork() the child owns nothing: every call on an object of the parent
 *    returns -ECHILD (or what it says instead) and touches nothing.
 *
 * Fixed meanings of errors:
 *
 *  -EOPNOTSUPP  the kernel, filesystem, device or mapping cannot do it
 *  -EAGAIN      lease refused because the file is open elsewhere as well or is being
 *               changed, or because somebody holds a lease on this description
 *               already; daxlease_ctx_new(): no thread
 *  -EACCES      neither the owner of the file nor CAP_LEASE
 *  -EBUSY       regions or rings still exist; something that the library does not know is
 *               pinned under the lease
 *  -ESTALE      the lease is gone: the kernel took it at its deadline, or its guard ended
 *  -ETIMEDOUT   the drain budget passed
 *  -EDEADLK     called from a callback of the library, where it would wait for
 *               itself
 *  -ECHILD      called in a child after fork
 *  -E2BIG       options newer than this library
 *  -EINVAL, -EBADF, -EFAULT, -ENOMEM  as usual
 *
 * daxlease(7) explains leases, breaks and deadlines; one page in section 3 per
 * family of calls says all of this at length.
 */
#ifndef DAXLEASE_DAXLEASE_H
#define DAXLEASE_DAXLEASE_H

#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <infiniband/verbs.h>

#include <daxlease/version.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) || defined(__clang__)
#define DAXLEASE_API __attribute__((visibility("default")))
#define DAXLEASE_MUST_CHECK __attribute__((warn_unused_result))
#else
#define DAXLEASE_API
#define DAXLEASE_MUST_CHECK
#endif

struct daxlease_ctx;
struct daxlease_mr;

/*
 * Enumerations are only ever extended at the end. Tolerate values you do not know.
 */

/*
 * Lease kinds. daxlease(7) has the table of what each of them notices and what it
 * does not. AUTO takes the strongest one that kernel and filesystem have; if that
 * is refused for another reason (-EAGAIN, -EACCES), this is the result.
 */
enum daxlease_kind {
	DAXLEASE_KIND_AUTO = 0,
	DAXLEASE_KIND_NONE,	  /* no file, no lease: memory that passes through */
	DAXLEASE_KIND_LAYOUT,	  /* F_SETLAYOUT, in no released Linux; see daxlease(7) */
	DAXLEASE_KIND_LAYOUT_RFC, /* F_SETLEASE with F_LAYOUT, likewise */
	DAXLEASE_KIND_GUARD,	  /* fanotify pre-content events, Linux >= 6.14; daxleased(8) */
	DAXLEASE_KIND_DELEG,	  /* F_SETDELEG, Linux >= 6.19 */
	DAXLEASE_KIND_LEASE,	  /* F_SETLEASE */
};

/* Life of a region; daxlease_break(3) has the diagram. */
enum daxlease_state {
	DAXLEASE_STATE_ACTIVE = 0,    /* registered, file leased */
	DAXLEASE_STATE_UNGUARDED,     /* registered, lease lent to a reader */
	DAXLEASE_STATE_DRAINING,      /* breaking; the application is asked to finish */
	DAXLEASE_STATE_DEREGISTERING, /* drained or fenced; ibv_dereg_mr() under way or failing */
	DAXLEASE_STATE_RELEASED,      /* not registered; lease given back once all regions are */
	DAXLEASE_STATE_REGAINING,     /* lease taken again, ibv_reg_mr() under way */
};

/* Who finds out about breaks, and where callbacks run. */
enum daxlease_mode {
	/*
	 * A thread of the library does both; a second one exists while callbacks
	 * run, so that one that blocks does not hold up the others.
	 */
	DAXLEASE_MODE_THREAD = 0,
	/*
	 * A thread of the library listens; callbacks run in the caller's
	 * daxlease_ctx_dispatch(). Should the caller not dispatch in time, that
	 * thread fences and deregisters at the end of the drain budget.
	 */
	DAXLEASE_MODE_LOOP,
	/*
	 * No thread at all: the caller's own signal handler passes what it got to
	 * daxlease_ctx_notify(), callbacks and everything else run in
	 * daxlease_ctx_dispatch(). Deadlines are kept only if it is called.
	 */
	DAXLEASE_MODE_SIGNAL,
};

enum daxlease_log_level {
	DAXLEASE_LOG_ERR = 0, /* a call failed, or a guarantee was not kept */
	DAXLEASE_LOG_WARNING, /* worth knowing: overruns, reduced guarantees */
	DAXLEASE_LOG_INFO,    /* breaks, releases, leases taken again */
	DAXLEASE_LOG_DEBUG,
};

/*
 * A log line, without newline. May be called from any thread, in one at a time for
 * a context, never with a lock of the library held; must not call into the library.
 * As callbacks, it should not block.
 */
typedef void (*daxlease_log_fn)(enum daxlease_log_level level, const char *line, void *userdata);

/* ------------------------------------------------------------------------- */
/* Library and strings                                   see daxlease_probe(3) */

/* Version of the library at run time, such as "0.1.0". Since 0.1. */
DAXLEASE_API const char *daxlease_version(void);

/* Lower-case names, "unknown" for anything else; never NULL. Since 0.1. */
DAXLEASE_API const char *daxlease_kind_str(enum daxlease_kind kind);
DAXLEASE_API const char *daxlease_state_str(enum daxlease_state state);

/*
 * The kind with this name ("auto", "deleg", "lease", ...) into *ret_kind. -EINVAL:
 * no such kind. Since 0.1.
 */
DAXLEASE_API int daxlease_kind_from_str(const char *name, enum daxlease_kind *ret_kind);

/* ------------------------------------------------------------------------- */
/* Context                                             see daxlease_ctx_new(3) */

struct daxlease_ctx_opts {
	size_t size; /* sizeof(struct daxlease_ctx_opts) */
	enum daxlease_mode mode;
	enum daxlease_kind kind; /* default kind for its regions */
	/*
	 * Signal that the kernel uses for breaks. 0: SIGRTMAX - 2, or SIGIO in
	 * DAXLEASE_MODE_SIGNAL. In the other modes it is directed to the library's
	 * thread and blocked there, so no handler or mask of the program matters.
	 * Real-time signals only, except in DAXLEASE_MODE_SIGNAL.
	 */
	int signo;
	daxlease_log_fn log_fn;		   /* NULL: silent */
	enum daxlease_log_level log_level; /* most verbose level passed on */
	void *log_userdata;
	/*
	 * For DAXLEASE_KIND_GUARD: where daxleased(8) listens. NULL: the guard is in this
	 * process if it has CAP_SYS_ADMIN, else /run/daxleased/socket. A path: there, even
	 * with CAP_SYS_ADMIN. "": in this process or nowhere. Copied.
	 */
	const char *guard_socket;
	unsigned int flags; /* DAXLEASE_CTX_* */
};

/*
 * Others may look at its regions and counters, with "daxlease watch": who may read the memory
 * of this process (ptrace(2)) can do so already, but does not know where. Costs some 20 KiB,
 * and nothing on the data path.
 */
#define DAXLEASE_CTX_PUBLISH (1u << 0)

/*
 * Creates a context: the owner of regions and, by mode, of one thread, and of those of
 * its guard, in every mode, once a file of DAXLEASE_KIND_GUARD is registered in a process
 * with CAP_SYS_ADMIN. All signals are blocked in its threads, but SIGBUS, SIGSEGV, SIGFPE
 * and SIGILL. The caller frees it with daxlease_ctx_free(). opts may be NULL.
 *
 * -EINVAL: unknown mode, kind, flags or signal. -E2BIG, -ENOMEM. -EAGAIN: no thread.
 * -EMFILE, -ENFILE: no descriptors. Since 0.1.
 */
DAXLEASE_API DAXLEASE_MUST_CHECK int daxlease_ctx_new(const struct daxlease_ctx_opts *opts,
						      struct daxlease_ctx **ret_ctx);

/*
 * Ends the thread and frees everything. NULL is a no-op.
 *
 * No call on the context or its regions may be under way in another thread, not
 * even one that is about to return.
 *
 * -EBUSY: regions, or rings (uring.h), exist still; nothing was done. -EDEADLK: from a
 * callback. -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_ctx_free(struct daxlease_ctx *ctx);

/*
 * The context's descriptor for poll(2), epoll(7) or io_uring: readable when
 * daxlease_ctx_dispatch() has something to do. The context keeps it; don't read or
 * close it. Modes LOOP and SIGNAL.
 *
 * -EINVAL: in DAXLEASE_MODE_THREAD. -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_ctx_get_fd(struct daxlease_ctx *ctx);

/*
 * Does everything that is due, running callbacks in the calling thread. Never
 * waits, except for the verbs calls themselves and where a lease is taken again
 * (LIMITS in daxlease(7)). Returns the number of callbacks that it ran.
 *
 * -EINVAL: in DAXLEASE_MODE_THREAD. -EDEADLK: from a callback. -ECHILD. Several
 * threads may dispatch at once. Since 0.1.
 */
DAXLEASE_API int daxlease_ctx_dispatch(struct daxlease_ctx *ctx);

/*
 * For DAXLEASE_MODE_SIGNAL: call it from the handler (installed with SA_SIGINFO) of
 * the context's signal, which the kernel sends to the process, and of SIGIO, which
 * it sends instead when the queue of a real-time signal is full. Async-signal-safe;
 * saves errno. It makes the context's descriptor readable. A signal that turns out
 * to belong to somebody else does no harm.
 *
 * -EINVAL: not in this mode. -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_ctx_notify(struct daxlease_ctx *ctx, const siginfo_t *info);

/*
 * Replaces the log callback (NULL: silent) and level. Another thread may still be
 * in the old one when this returns. -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_ctx_set_log(struct daxlease_ctx *ctx, daxlease_log_fn fn,
				      enum daxlease_log_level level, void *userdata);

struct daxlease_stats {
	size_t size;		   /* set by the caller */
	uint64_t regions;	   /* existing now */
	uint64_t leases;	   /* held now */
	uint64_t breaks;	   /* by others, of each lease */
	uint64_t reader_breaks;	   /* of these: lent to a reader, registration kept */
	uint64_t recalls;	   /* daxlease_mr_recall(), daxlease_mr_recall_start() */
	uint64_t released;	   /* regions released in time, drained */
	uint64_t overruns;	   /* regions fenced: the budget passed, or drain could not */
	uint64_t lost;		   /* leases that the kernel took at its deadline */
	uint64_t regained;	   /* regions registered again */
	uint64_t lease_retries;	   /* leases asked for again in vain */
	uint64_t dereg_failures;   /* ibv_dereg_mr() calls that failed during a break; they
				   * are made again, 1 ms to 1 s later */
	uint64_t signals;	   /* signals seen */
	uint64_t signal_overflows; /* bare SIGIOs, after which every lease was asked */
	uint64_t drain_max_ns;	   /* longest time from notice to lease given back */
};

/*
 * Counters since the context was made, as far as ret_stats->size reaches.
 *
 * -EINVAL: size too small to hold itself. -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_ctx_get_stats(struct daxlease_ctx *ctx, struct daxlease_stats *ret_stats);

/* ------------------------------------------------------------------------- */
/* Breaks: what the callbacks are told                   see daxlease_break(3) */

/*
 * Rules for all callbacks of a region:
 *
 *  - They run on the library's thread (DAXLEASE_MODE_THREAD), in
 *    daxlease_ctx_dispatch() (other modes), or in the caller of
 *    daxlease_mr_recall() and daxlease_mr_regain() (other modes), never with a
 *    lock of the library held and never two at once for the same region.
 *  - They should not block. What takes time is answered later: see
 *    DAXLEASE_PENDING. One that blocks all the same holds up nobody's deadline in
 *    the modes with a thread: at the end of the budget its region is fenced and
 *    deregistered under it.
 *  - They must not open, truncate, write or fsync the file, nor touch parts of
 *    the mapping that are not in memory: that would wait for the very lease.
 *  - All calls may be made but those that would wait: daxlease_dereg_mr(),
 *    daxlease_mr_recall(), daxlease_mr_regain(), daxlease_ctx_dispatch() and
 *    daxlease_ctx_free() return -EDEADLK there.
 */

/* A drain callback's "not yet; daxlease_mr_drained() will follow". */
#define DAXLEASE_PENDING 1

enum daxlease_cause {
	DAXLEASE_CAUSE_BREAK = 0, /* somebody else wants to change the file */
	DAXLEASE_CAUSE_READER,	  /* somebody wants to read it, and a region of
				   * the file has DAXLEASE_MR_DRAIN_FOR_READERS */
	DAXLEASE_CAUSE_RECALL,	  /* daxlease_mr_recall(), daxlease_mr_recall_start() */
	DAXLEASE_CAUSE_SHRUNK,	  /* the file became shorter than a region while unguarded */
};

struct daxlease_break {
	size_t size; /* set by the library */
	enum daxlease_cause cause;
	/*
	 * CLOCK_MONOTONIC, nanoseconds: the end of the drain budget. The library
	 * fences and deregisters then.
	 */
	uint64_t deadline_ns;
	/* CLOCK_MONOTONIC, nanoseconds: the kernel's own; 0 = none. */
	uint64_t kernel_deadline_ns;
};

/*
 * "Stop using the MR and wait for what is outstanding." Returns 0: drained, may be
 * deregistered; DAXLEASE_PENDING: daxlease_mr_drained() will follow; negative:
 * cannot, fence and deregister now. brk is valid during the call only.
 */
typedef int (*daxlease_drain_fn)(struct daxlease_mr *mr, const struct daxlease_break *brk,
				 void *userdata);

/*
 * The final event of a registration: it is gone, and so is the share in the lease.
 * result: 0 drained and given back in time; -ETIMEDOUT fenced at the end of the
 * budget (or because the drain callback could not), given back in time; -ESTALE the
 * kernel had taken the lease before.
 */
typedef void (*daxlease_release_fn)(struct daxlease_mr *mr, int result, void *userdata);

struct daxlease_regain {
	size_t size;	       /* set by the library */
	int error;	       /* 0, or why it is given up (-errno); then the rest is 0 */
	struct ibv_mr *ibv_mr; /* as of daxlease_mr_get_ibv_mr() */
	uint32_t lkey;
	uint32_t rkey;
	size_t length; /* bytes registered: up to the file's end, at most as asked for */
};

/*
 * A region is leased and registered again, with new keys and maybe a new length. In
 * DAXLEASE_MODE_LOOP, if nobody dispatched in time, it may be gone once more: then
 * error is 0 and all else as well, and the release callback follows.
 */
typedef void (*daxlease_regain_fn)(struct daxlease_mr *mr, const struct daxlease_regain *regain,
				   void *userdata);

/*
 * guarded false: a reader was let in, the registration stays, the file is not
 * leased at the moment. true: it is leased again.
 */
typedef void (*daxlease_guard_fn)(struct daxlease_mr *mr, bool guarded, void *userdata);

/*
 * The region has to be fenced: see to it, now, that nobody uses it, by other means than
 * those of daxlease_mr_add_qp(), whose queue pairs are moved to the error state right
 * afterwards; then it is deregistered. For memory windows, or for whoever can be stopped
 * one by one.
 *
 * Unlike the other callbacks it runs in the thread that keeps the deadline, the library's
 * in DAXLEASE_MODE_LOOP, and maybe beside another one of the region that blocks. It must
 * not block, nor wait for one that does. daxlease_mr_add_qp() and _remove_qp() return
 * -EDEADLK there, too.
 */
typedef void (*daxlease_fence_fn)(struct daxlease_mr *mr, void *userdata);

/* ------------------------------------------------------------------------- */
/* Regions                                              see daxlease_reg_mr(3) */

/*
 * Lease and register again after each break, until daxlease_dereg_mr(), with
 * back-off from 1 ms to 1 s. While the file ends before the region, or -ENOMEM,
 * -EAGAIN, -EINTR or -EBUSY stand in the way, it goes on trying; any other error of
 * registering ends it.
 */
#define DAXLEASE_MR_REGAIN (1u << 0)
/* Treat a reader as a break, instead of letting it in with the MR in place. */
#define DAXLEASE_MR_DRAIN_FOR_READERS (1u << 1)
/*
 * Nobody may change the file while it is leased: others get ETXTBSY at once, the
 * process itself EDEADLK (with DAXLEASE_KIND_GUARD ETXTBSY), and there are no breaks.
 * Needs an fd that is open for writing, and DAXLEASE_KIND_LAYOUT, _LAYOUT_RFC or _GUARD;
 * with others -EOPNOTSUPP. All regions that share a lease have it, or none.
 */
#define DAXLEASE_MR_EXCLUSIVE (1u << 2)

struct daxlease_mr_opts {
	size_t size;		 /* sizeof(struct daxlease_mr_opts) */
	unsigned int flags;	 /* DAXLEASE_MR_* */
	enum daxlease_kind kind; /* AUTO: as the context has it */
	/*
	 * Time for the drain callback and daxlease_mr_drained(), in milliseconds.
	 * 0: 10 s. Always cut to 3/4 of /proc/sys/fs/lease-break-time as it is when
	 * the break begins (unless that is 0, "no deadline").
	 */
	uint32_t drain_budget_ms;
	/* All optional. Without drain the region counts as drained at once. */
	daxlease_drain_fn drain;
	daxlease_release_fn release;
	daxlease_regain_fn regain;
	daxlease_guard_fn guard;
	void *userdata; /* for all of them */
	daxlease_fence_fn fence;
};

/*
 * Leases the file and registers [addr, addr + length), a MAP_SHARED mapping of it
 * on FS-DAX, with the protection domain pd.
 *
 * fd is the descriptor that the range was mapped from, or a duplicate of it: the
 * lease belongs to the open file description. It stays the caller's, who may close
 * it as soon as the call returns; the library keeps a duplicate. With DELEG and LEASE
 * all regions of a file in a context share one lease; if fd is open for writing, a
 * write lease is needed, which is given only while no other open file description of
 * the file exists anywhere; else a read lease. With GUARD all regions of a file in a
 * context share one, too, but who else has the file open or guarded, and how, does not
 * matter. With LAYOUT and LAYOUT_RFC all regions
 * of an open file description in a context share one; who else has the file open or
 * leased, and how, does not matter.
 *
 * Memory that is no FS-DAX mapping (anonymous, device-DAX, tmpfs, hugetlbfs) is
 * passed to ibv_reg_mr() as it is, and no lease is taken; fd is -1 or what it was
 * mapped from.
 *
 * FS-DAX is registered pinned where the lease kind allows it and access does not
 * have IBV_ACCESS_ON_DEMAND, else, or if that is refused, with on-demand paging
 * (IBV_ACCESS_ON_DEMAND is added), which the device must have. A read-only mapping
 * is not pinned: the kernel pins FS-DAX as for writing. Memory over RLIMIT_MEMLOCK
 * is not registered on demand instead.
 *
 * access is IBV_ACCESS_*; pd stays the caller's and has to outlive the region. The
 * caller frees the region with daxlease_dereg_mr().
 *
 * -EINVAL: length 0, range wraps or reaches beyond the file's last page, unknown
 * flags, the range is no mapping of fd, fd is a directory or the like, the file is
 * leased already with another kind, or exclusively and this region is not, or the
 * other way round. -EBADF: fd not open or O_PATH, or -1 for FS-DAX, or not open for
 * writing with DAXLEASE_MR_EXCLUSIVE. -EFAULT: range not or partly mapped.
 * -EOPNOTSUPP: MAP_PRIVATE of an FS-DAX file; write access to a read-only mapping;
 * filesystem without leases; a page-cache file; device without on-demand paging,
 * where that is needed; a kind that is not there, or is unknown or NONE;
 * DAXLEASE_MR_EXCLUSIVE where it cannot be had. -EAGAIN: see the top;
 * also while a break or recall of the file is under way (one that begins meanwhile is
 * told once the region is registered, or, if it keeps the memory from being pinned, is
 * this). -EACCES: see the top. -ENOMEM: out of memory or over RLIMIT_MEMLOCK.
 * -EMFILE. -E2BIG, -ECHILD. Other errors of ibv_reg_mr() as they are. Since 0.1.
 *
 * With *ret_mr written first, callbacks may come before this call has returned.
 */
DAXLEASE_API DAXLEASE_MUST_CHECK int daxlease_reg_mr(struct daxlease_ctx *ctx, struct ibv_pd *pd,
						     int fd, void *addr, size_t length, int access,
						     const struct daxlease_mr_opts *opts,
						     struct daxlease_mr **ret_mr);

/*
 * Deregisters, gives the lease back if this was the file's last region, and frees
 * mr. If a break is under way this answers it, and no release callback follows.
 * Waits for a callback of the region that runs in another thread. After it returned
 * 0 no callback of the region runs any more. NULL is a no-op.
 *
 * Any error of ibv_dereg_mr(), -EACCES if the right to give the lease back was lost,
 * or -EBUSY if something else is pinned under it: what is left of region and lease
 * stays, the library goes on trying to give the lease back, the call may be repeated.
 * -EDEADLK:
 * from a callback. -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_dereg_mr(struct daxlease_mr *mr);

/*
 * The registration, for work requests. Borrowed: valid until the region is drained
 * (the drain callback returned 0, daxlease_mr_drained() was called, or the budget
 * is over) or daxlease_dereg_mr() is called; from then on, and in a child after
 * fork, NULL is returned. As another thread may drain it at any time, take keys
 * from daxlease_mr_get_info() or the regain callback. Since 0.1.
 */
DAXLEASE_API struct ibv_mr *daxlease_mr_get_ibv_mr(const struct daxlease_mr *mr);

/* As given at registration. Since 0.1. */
DAXLEASE_API void *daxlease_mr_get_userdata(const struct daxlease_mr *mr);

/* RELEASED in a child after fork. Since 0.1. */
DAXLEASE_API enum daxlease_state daxlease_mr_get_state(const struct daxlease_mr *mr);

struct daxlease_mr_info {
	size_t size; /* set by the caller */
	enum daxlease_state state;
	enum daxlease_kind kind; /* what was obtained */
	bool on_demand;		 /* registered with on-demand paging, not pinned */
	unsigned int unseen;	 /* DAXLEASE_UNSEEN_*: changes this lease does not notice */
	int lease_fd;		 /* the library's duplicate, -1 if none; don't close */
	int last_error;		 /* of ibv_dereg_mr() in a break, or of regaining; 0 or -errno */
	void *addr;		 /* as asked for */
	size_t length;		 /* as asked for */
	uint64_t generation;	 /* counts registrations, from 1 */
	/* While there is an MR to use (see daxlease_mr_get_ibv_mr()), else 0: */
	size_t registered; /* bytes */
	uint32_t lkey;
	uint32_t rkey;
};

/*
 * All of the above at one moment, as far as ret_info->size reaches.
 *
 * -EINVAL: size too small to hold itself. -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_mr_get_info(const struct daxlease_mr *mr,
				      struct daxlease_mr_info *ret_info);

/*
 * Tells the library of a queue pair whose work uses the region, on this side as
 * local buffer or as target of the remote one: it goes to the error state if the
 * region has to be fenced. Take it off before ibv_destroy_qp(); taking off waits
 * for a fence under way.
 *
 * add: -EEXIST, -ENOMEM. remove: -ENOENT. Both: -EINVAL, -ECHILD; both may be
 * called from callbacks, except from a fence callback (-EDEADLK). Since 0.1.
 */
DAXLEASE_API int daxlease_mr_add_qp(struct daxlease_mr *mr, struct ibv_qp *qp);
DAXLEASE_API int daxlease_mr_remove_qp(struct daxlease_mr *mr, struct ibv_qp *qp);

/*
 * The answer to a drain callback that returned DAXLEASE_PENDING; may be called
 * before that callback has returned, too, from any thread and from callbacks.
 *
 * -ETIMEDOUT: too late, the region has been fenced. -EINVAL: nobody asked. -ECHILD.
 * Since 0.1.
 */
DAXLEASE_API int daxlease_mr_drained(struct daxlease_mr *mr);

/*
 * The holder's own break, for changing its file itself: drains and deregisters all
 * regions that share mr's lease and gives it back, as in a break (drain and release
 * callbacks are called), then returns. The file is left alone until
 * daxlease_mr_regain(), whatever DAXLEASE_MR_REGAIN says.
 *
 * Returns 0 if all regions were drained. -ETIMEDOUT: recalled, but at least one of
 * them had to be fenced. -ESTALE: recalled, but the kernel had taken the lease.
 * Errors of ibv_dereg_mr() as they are, -EACCES if the right to give the lease back
 * was lost, or -EBUSY if something else is pinned under it: not recalled yet; the
 * regions concerned and the lease stay, the library goes on trying, the call may be
 * repeated to wait again. -EALREADY: recalled already. -EOPNOTSUPP: the region has no lease. -EDEADLK, -ECHILD. Since
 * 0.1.
 */
DAXLEASE_API int daxlease_mr_recall(struct daxlease_mr *mr);

/*
 * Begins a recall and does not wait for it: for who drains in the thread that would. It
 * is done when the release callbacks of all regions that share mr's lease and were
 * registered have been called. daxlease_mr_recall() waits for what is left of it.
 *
 * -EALREADY: recalled already, or under way. -EOPNOTSUPP: the region has no lease.
 * -ECHILD. May be called from callbacks. Since 0.1.
 */
DAXLEASE_API int daxlease_mr_recall_start(struct daxlease_mr *mr);

/*
 * Ends a recall, or hurries DAXLEASE_MR_REGAIN along: takes the lease and registers
 * all regions that share it again, up to the file's present size. Regain callbacks are
 * called. Regions without DAXLEASE_MR_REGAIN can be brought back by it as well.
 *
 * -EAGAIN: somebody else has the file open, or is changing it; regions with
 * DAXLEASE_MR_REGAIN go on trying by themselves, for others call again. -EALREADY:
 * nothing to do. Errors of taking the lease, and of ibv_reg_mr() for mr, as they are.
 * -ENODATA: the file ends before mr; with DAXLEASE_MR_REGAIN it is registered once the
 * file grows. -EOPNOTSUPP: the region has no lease. -EDEADLK, -ECHILD. Since 0.1.
 */
DAXLEASE_API int daxlease_mr_regain(struct daxlease_mr *mr);

/* ------------------------------------------------------------------------- */
/* Probing                                               see daxlease_probe(3) */

/* Changes by others that a lease kind does not notice; see daxlease(7). */
#define DAXLEASE_UNSEEN_FTRUNCATE (1u << 0) /* through a shared description */
#define DAXLEASE_UNSEEN_FALLOCATE (1u << 1) /* likewise */
#define DAXLEASE_UNSEEN_WRITE (1u << 2)	    /* likewise; any with DAXLEASE_UNSEEN_OPEN */
/* unlink, rename, link, chmod, chown, utimes, setxattr */
#define DAXLEASE_UNSEEN_NAMESPACE (1u << 3)
#define DAXLEASE_UNSEEN_OPEN (1u << 4) /* for reading or writing, without O_TRUNC */
/* fallocate that only adds blocks (mode 0, FALLOC_FL_KEEP_SIZE); as UNSEEN_WRITE */
#define DAXLEASE_UNSEEN_PREALLOCATE (1u << 5)
/*
 * DAXLEASE_KIND_GUARD, in daxlease_mr_info only: others had the file open for writing when
 * it was registered, or may have had; their UNSEEN_FALLOCATE is not noticed
 */
#define DAXLEASE_UNSEEN_EARLIER (1u << 6)

#define DAXLEASE_KIND_MAX 16 /* room in struct daxlease_caps */

struct daxlease_kind_caps {
	int error;	     /* 0: can be had now; else the -errno of asking for it */
	unsigned int unseen; /* DAXLEASE_UNSEEN_* */
	bool pins;	     /* FS-DAX can be registered pinned under it */
	bool write;	     /* error is about a write lease (fd is open for writing) */
	bool exclusive;	     /* it has DAXLEASE_MR_EXCLUSIVE */
};

struct daxlease_caps {
	size_t size;		 /* set by the caller */
	bool fs_dax;		 /* file is on FS-DAX (statx STATX_ATTR_DAX) */
	bool leases_enabled;	 /* /proc/sys/fs/leases-enable */
	int lease_break_time;	 /* seconds, 0 = no deadline, -1 = unknown */
	enum daxlease_kind best; /* what DAXLEASE_KIND_AUTO would take; NONE if nothing */
	struct daxlease_kind_caps kinds[DAXLEASE_KIND_MAX]; /* indexed by enum daxlease_kind */
	int odp_error;	      /* 0: device has on-demand paging; -EOPNOTSUPP: not;
			       * -ENODEV: no device was given; else: it could not be asked */
	uint32_t odp_rc_caps; /* IBV_ODP_SUPPORT_* for RC */
	bool odp_prefetch;    /* ibv_advise_mr() is there */
	char reason[512];     /* one line: what is missing and what would provide it */
};

/*
 * What can be had for the file behind fd (a regular file), and for device (may be
 * NULL). Takes and gives back each kind of lease for a moment, unless this
 * description holds one already. Writes as much as ret_caps->size reaches.
 *
 * -EBADF: fd. -EINVAL: no regular file, or size too small to hold itself. -ENOMEM.
 * Since 0.1.
 */
DAXLEASE_API int daxlease_probe(int fd, struct ibv_context *device, struct daxlease_caps *ret_caps);

#ifdef __cplusplus
}
#endif

#endif
