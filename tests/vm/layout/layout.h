/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The kernel's layout leases, as fcntl(2) offers them, and files that are compared block
 * by block. Without the library: these cases are about the kernel alone.
 */
#ifndef VM_LAYOUT_H
#define VM_LAYOUT_H

#include <fcntl.h>
#include <linux/fiemap.h>
#include <signal.h>

#include "../../launcher/fcntl_layout.h"
#include "../file.h"

/* The spelling of 2019: types of F_SETLEASE. */
#define OLD_LAYOUT 16
#define OLD_UNBREAKABLE 48

/* Below the shortest break time of a case, and what "waits for the deadline" means. */
#define AT_ONCE_MS 1500u
#define BREAK_S 2
#define DEADLINE_MIN_MS 1900u
#define DEADLINE_MAX_MS 6000u

/* What tells of a break: queued, so that one too many is seen. */
#define LAYOUT_SIGNAL (SIGRTMIN + 3)

bool layout_is_there(const char *dir);

/* -errno */
int layout_set(int fd, const struct layout_lease *l);
int layout_take(int fd, unsigned int flags);
int layout_give(int fd);
int layout_old(int fd, int type);
struct layout_lease layout_get(int fd);
bool layout_held(int fd);
/* fcntl(F_SETSIG), and blocks it in this thread. */
void layout_signal(int fd);
/* Waits for one; whether it came. Says so if it is not what a break sends. */
bool layout_wait_signal(unsigned int ms, siginfo_t *ret_info);
/* Until there is one; the case fails after a while. */
void wait_until_breaking(ino_t ino);

/* ------------------------------------------------------------------------- */

#define PAGES (FILE_SIZE / PAGE)

/* Each page of a file is filled with a byte of its own, so that moved blocks are seen. */
void pattern_make(struct file *f, const struct world *w, const char *name, int flags);
void pattern_write(const char *path, size_t size, unsigned int seed);

struct snapshot {
	off_t size;
	blkcnt_t blocks;
	uint64_t sum; /* of the contents */
	unsigned int count;
	struct fiemap_extent extents[2 * PAGES];
};

void snapshot_take(struct snapshot *s, int fd);
/* Without the contents. */
void snapshot_layout(struct snapshot *s, int fd);
/* NULL if they are the same, else what differs. */
const char *snapshot_differs(const struct snapshot *a, const struct snapshot *b);

/* ------------------------------------------------------------------------- */

void add_matrix_cases(void);
void add_quiet_cases(void);
void add_pin_cases(void);
void add_example_cases(void);
void add_exit_cases(void);
void add_query_cases(void);
void add_refusal_cases(void);
void add_neighbour_cases(void);
void add_perftest_cases(void);
void add_kill_cases(void);

/* How often kill/storm kills, and where its random numbers begin. */
extern unsigned int kill_rounds, kill_seed;

#endif
