/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The only module that calls the kernel. Everything here returns 0 or a result
 * on success and -errno on failure, and keeps no state, so that tests can put a
 * failure in front of each single call.
 */
#ifndef DAXLEASE_SYS_H
#define DAXLEASE_SYS_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct sys_file {
	dev_t dev;
	ino_t ino;
	mode_t mode;
	uint64_t size;
	bool dax; /* statx STATX_ATTR_DAX: mappings go to the medium itself */
};

/* One mapping of this process; see PROCMAP_QUERY in <linux/fs.h>. */
struct sys_vma {
	uintptr_t start, end;
	uint64_t offset; /* in the file, of start */
	dev_t dev;
	ino_t ino; /* 0: no file */
	bool readable, writable, shared;
};

struct sys_owner {
	int type; /* F_OWNER_* */
	pid_t id;
};

/* Files and descriptors. All that are made are close-on-exec. */
int sys_dup(int fd);
int sys_close(int fd);
int sys_access_mode(int fd); /* O_RDONLY, O_WRONLY, O_RDWR; -EBADF for O_PATH too */
int sys_file_info(int fd, struct sys_file *ret_file);
int sys_path_info(const char *path, struct sys_file *ret_file); /* does not open it */
int sys_file_size(int fd, uint64_t *ret_size);
int sys_eventfd(void);
int sys_event_set(int eventfd); /* async-signal-safe */
int sys_event_clear(int eventfd);
int sys_timerfd(void);
int sys_timer_arm(int timerfd, uint64_t at_ns); /* CLOCK_MONOTONIC; NEVER disarms */
int sys_epoll(const int *fds, size_t nfds);
int sys_set_async(int fd); /* sys_set_signal() when it is readable */
int sys_wait_readable(const int *fds, size_t nfds,
		      uint64_t until_ns); /* one of them, or time is up */

/* Leases and delegations; types are F_RDLCK, F_WRLCK, F_UNLCK. */
int sys_set_owner(int fd, struct sys_owner owner);
int sys_set_signal(int fd, int signo);
int sys_set_lease(int fd, int type);
int sys_get_lease(int fd);
int sys_set_deleg(int fd, int type);
int sys_get_deleg(int fd);

/*
 * Layout leases. Types are F_RDLCK and F_UNLCK; get returns one. As proposed in 2019
 * they are types of sys_set_lease() and sys_get_lease().
 */
#define SYS_LAYOUT_UNBREAKABLE 1u
#define SYS_LAYOUT_BREAKING 2u /* get only */
#define SYS_LEASE_LAYOUT 16
#define SYS_LEASE_EXCLUSIVE 32
int sys_set_layout(int fd, int type, unsigned int flags);
int sys_get_layout(int fd, unsigned int *ret_flags);
/* One open file description behind both? 1, 0, or -errno: it cannot be known. */
int sys_same_description(int fd, int other);

/* /proc. The descriptors are opened once; reading them opens nothing. */
int sys_open_break_time(void);
int sys_read_break_time(int fd); /* seconds */
int sys_leases_enabled(void);
int sys_open_maps(void);
/* The mapping that covers addr. -ENOENT: none does. */
int sys_query_vma(int maps_fd, uintptr_t addr, struct sys_vma *ret_vma);
/* Path of what is mapped there, as far as it fits; empty if it has none. */
int sys_vma_name(int maps_fd, uintptr_t addr, char *ret_name, size_t size);
/* sys_query_vma() by reading the text; what sys_query_vma() does on Linux < 6.11. */
int sys_parse_vma(uintptr_t addr, struct sys_vma *ret_vma);

/*
 * Memory, zeroed, that /proc/PID/maps calls "/memfd:NAME". No descriptor is kept, and a child
 * does not have it.
 */
int sys_map_named(const char *name, size_t size, void **ret_addr);
void sys_unmap(void *addr, size_t size);

/*
 * io_uring, on a ring that the program made. No request is submitted and no completion reaped
 * here. All but the flush are register calls: -EEXIST in any thread but that of a ring with
 * IORING_SETUP_SINGLE_ISSUER; -EPERM, -ENOSYS: io_uring is forbidden here.
 */
enum sys_cancel {
	SYS_CANCEL_FIXED, /* what is made for registered buffers; Linux >= 6.6 */
	SYS_CANCEL_FD,
	SYS_CANCEL_USER_DATA,
	SYS_CANCEL_ANY,
};
int sys_uring_probe(int ring_fd); /* 0: a ring, on which this thread may make these calls */
/* addr NULL: empties the slot. Else tag, if it is not 0, comes once nobody uses its content. */
int sys_uring_set_slot(int ring_fd, unsigned int slot, void *addr, size_t length, uint64_t tag);
/* Does not wait until they are gone. Number of requests, as far as it is known. */
int sys_uring_cancel(int ring_fd, enum sys_cancel what, int fd, uint64_t user_data);
/* Has the calling thread, if it is the ring's, do what was left for it. -EBADFD: not enabled. */
int sys_uring_flush(int ring_fd);

/* Limits: bytes that may be locked, UINT64_MAX = no limit. */
uint64_t sys_memlock_limit(void);

/* Threads, signals and time. */
uint64_t sys_now_ns(void); /* CLOCK_MONOTONIC */
void sys_sleep(uint64_t ns);
pid_t sys_getpid(void);
pid_t sys_gettid(void);
int sys_thread_create(pthread_t *ret_thread, void *(*fn)(void *), void *arg);
int sys_tgkill(pid_t tid, int signo); /* of this process */
/* Waits until at_ns; -EAGAIN: nothing came. */
int sys_wait_signal(const sigset_t *set, uint64_t at_ns, siginfo_t *ret_info);

/* Memory, here so that running out of it can be tried as well. */
void *sys_calloc(size_t n, size_t size);
void *sys_realloc(void *p, size_t size);

#endif
