/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What all cases need: checks, time, the kernel's settings and its list of leases,
 * and the table of cases. Each case runs in a process of its own, so a check that
 * fails simply ends that process.
 */
#ifndef VM_SUPPORT_H
#define VM_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <daxlease/daxlease.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PAGE 4096u
#define MSEC UINT64_C(1000000)
#define SEC UINT64_C(1000000000)

/*
 * "At once" on an emulated processor that others use as well, and what is far below
 * the kernel's default of 45 s for lease-break-time.
 */
#define SOON_MS 8000

/* Where a case runs. */
struct world {
	const char *fs;	 /* "ext4", "xfs" */
	const char *dir; /* an empty directory on FS-DAX */
	enum daxlease_kind kind;
};

/* ------------------------------------------------------------------------- */
/* Checks: failing ends the process, with a line that says why */

#define CHECK(cond)                                                       \
	do {                                                              \
		if (!(cond))                                              \
			fail_at(__FILE__, __LINE__, "not so: %s", #cond); \
	} while (0)

#define CHECK_EQ(is, wanted) check_eq(__FILE__, __LINE__, #is, (intmax_t)(is), (intmax_t)(wanted))

#define CHECK_BETWEEN(is, low, high) \
	check_between(__FILE__, __LINE__, #is, (intmax_t)(is), (intmax_t)(low), (intmax_t)(high))

/* For system calls that only prepare something: -1 is a failure. */
#define CALL(expr) check_call(__FILE__, __LINE__, #expr, (intmax_t)(expr))

#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

_Noreturn void fail_at(const char *file, int line, const char *fmt, ...) PRINTF_LIKE(3, 4);
void check_eq(const char *file, int line, const char *what, intmax_t is, intmax_t wanted);
void check_between(const char *file, int line, const char *what, intmax_t is, intmax_t low,
		   intmax_t high);
intmax_t check_call(const char *file, int line, const char *what, intmax_t ret);

/* ------------------------------------------------------------------------- */
/* Time, processes, the kernel */

uint64_t now_ns(void);
void sleep_ms(unsigned int ms);

/* A path in the world's directory. */
void world_path(const struct world *w, const char *name, char *ret_path, size_t size);

/* /proc/sys/fs/NAME */
void sysctl_set(const char *name, int value);
int sysctl_get(const char *name);

/* Leases of all kinds in /proc/locks; of one inode, or of all if ino is 0. */
unsigned int leases_in_kernel(ino_t ino);
bool lease_is_breaking(ino_t ino);
/* Whether that process has a guard that watches the inode. */
bool is_guarded_by(pid_t pid, ino_t ino);

unsigned int count_fds(void);

/* Exit status 0 within ms milliseconds, else the case fails. */
void expect_child_ok(pid_t pid, unsigned int ms);
/* Its status as of waitpid(2); -1 if it did not end in time. */
int wait_child(pid_t pid, unsigned int ms);

/* ------------------------------------------------------------------------- */
/* Log lines of the library, kept and shown if the case fails */

void log_line(enum daxlease_log_level level, const char *line, void *userdata);
void log_forget(void);
unsigned int log_errors(void);
/* Whether a line of that level or worse has this in it. */
bool log_has(const char *text);

/* ------------------------------------------------------------------------- */
/* Cases */

typedef void (*case_fn)(const struct world *w, const void *arg);

#define KIND_LEASE (1u << DAXLEASE_KIND_LEASE)
#define KIND_DELEG (1u << DAXLEASE_KIND_DELEG)
#define KIND_BOTH (KIND_LEASE | KIND_DELEG) /* every kernel of these tests */
#define KIND_LAYOUT (1u << DAXLEASE_KIND_LAYOUT)
#define KIND_LAYOUT_RFC (1u << DAXLEASE_KIND_LAYOUT_RFC)
#define KIND_LAYOUTS (KIND_LAYOUT | KIND_LAYOUT_RFC) /* those that have them */
#define KIND_GUARD (1u << DAXLEASE_KIND_GUARD)	     /* kernels with pre-content events */
#define KIND_QUIET (KIND_LAYOUTS | KIND_GUARD)	     /* opens are nobody's business */
#define KIND_ALL (KIND_BOTH | KIND_LAYOUTS | KIND_GUARD)

/* KIND_LAYOUTS that this kernel has, and whether it has guards. */
extern unsigned int layouts_found;
extern bool guard_found;

static inline bool is_layout(enum daxlease_kind kind)
{
	return KIND_LAYOUTS & 1u << kind;
}

/* Only changes break it, not opens. */
static inline bool is_quiet(enum daxlease_kind kind)
{
	return KIND_QUIET & 1u << kind;
}

/*
 * For each of the kinds, but for those that this kernel does not have; arg is passed on.
 * 0 seconds: the default.
 */
void add_case(case_fn fn, const void *arg, unsigned int kinds, unsigned int seconds,
	      const char *fmt, ...) PRINTF_LIKE(5, 6);

void add_table_cases(void);
void add_drain_cases(void);
void add_storm_cases(void);
void add_process_cases(void);
void add_refuse_cases(void);
void add_region_cases(void);
void add_mode_cases(void);
void add_tool_cases(void);
void add_layout_cases(void);

#endif
