/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Programs that know nothing of leases, with the shim before them or not. */
#ifndef VM_PRELOAD_PROGRAM_H
#define VM_PRELOAD_PROGRAM_H

#include <stdio.h>

#include "../support.h"

/* What the shim is told; NULL: nothing. */
struct shim {
	bool on, count; /* count: count.c is loaded as well, after it */
	const char *policy, *kind, *log;
};

struct program {
	pid_t pid;
	int log; /* what it prints */
};

extern const char *shim_path;
extern const char *count_path; /* preload-count.so */
extern const char *owner_path; /* preload-owner */
/* The kernel has layout leases. */
extern bool layout_kernel;

void program_start(struct program *p, const struct shim *shim, const char *const argv[]);
/* Up to some length, and what it printed so far. */
char *program_text(const struct program *p);
/* As of waitpid(2); shows what it printed. */
int program_end(struct program *p, unsigned int ms);
/* Its exit status; ending by a signal fails. */
int program_exit(struct program *p, unsigned int ms);
/* Until it has printed this. */
void program_wait_for(const struct program *p, const char *text);
/* Until somebody listens on that port, of TCP or of librdmacm. */
void program_wait_port(struct program *p, unsigned int port);

/* perftest's, ready for more options, which end with NULL. */
#define PERFTEST_MAX 32
struct perftest {
	struct program server, client;
};

enum side {
	SERVER, /* the peer writes to the file */
	CLIENT, /* the program writes from it */
};

/* The side that maps the file has the shim. Both are started, connected or not. */
void perftest_start(struct perftest *t, enum side side, const char *tool, const char *file,
		    const struct shim *shim, const char *const more[]);

void add_perftest_cases(void);
void add_break_cases(void);
void add_same_cases(void);
void add_own_cases(void);

#endif
