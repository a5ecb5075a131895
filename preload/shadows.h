/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The table of shadows. */
#ifndef PRELOAD_SHADOWS_H
#define PRELOAD_SHADOWS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include <daxlease/daxlease.h>

struct source;

struct shadow {
	LIST_ENTRY(shadow) link; /* all below is protected by the table's lock, but the constant */
	LIST_ENTRY(shadow) mr_link, real_link, dead_link;
	/*
	 * What the program has. In a piece of memory of its own: a program that found
	 * ibv_dereg_mr() by dlsym(3) lets the provider free it.
	 */
	struct ibv_mr *mr;
	struct ibv_mr *real; /* what the provider has, or NULL */
	struct daxlease_mr *region;
	bool dead;	    /* its keys are nobody's, but the program may use them still */
	bool gone;	    /* the original was deregistered */
	bool kept;	    /* its region goes on without us, and tells us when it ends */
	unsigned int users; /* it must stay */
	pid_t pid;	    /* constant from here: the process that registered */
	struct ibv_pd *pd;
	unsigned int access;
	bool has_iova; /* other than its address, maybe */
	uint64_t iova;
	const struct ibv_context *context; /* for comparing: it may be closed */
	const struct ibv_device *device;   /* likewise */
	dev_t dev;
	ino_t ino;
	char name[256]; /* of the file, for log lines */
};

struct shadow *shadows_new(struct ibv_pd *pd, unsigned int access, const char *name,
			   const struct source *source);
/* With what the program has, or if the provider frees that, without. */
void shadows_free(struct shadow *sh);
void shadows_free_without_mr(struct shadow *sh);

/* From here on the program's struct is filled, and both can be found. */
void shadows_bind(struct shadow *sh, struct ibv_mr *real);
/* Waits for its users, and takes it out. */
void shadows_unlink(struct shadow *sh);
/* Exchanges what the program has of the two. */
void shadows_exchange(struct shadow *a, struct shadow *b);

/* Whether there are any; no lock. */
bool shadows_any(void);
struct shadow *shadows_find(const struct ibv_mr *mr);
/*
 * The original is about to be deregistered: its keys are reserved from now on, and it is not
 * to be found any more, as its memory may become another one. false: it has no shadow.
 */
bool shadows_retire(struct ibv_mr *real, struct shadow **ret_shadow);
/* That failed, or not. */
void shadows_retired(struct shadow *sh, struct ibv_mr *real, bool success);
/* Whether a registration has got a key that a program may still use for a dead one. */
bool shadows_has_key(const struct ibv_mr *mr);

/* One with a region; it is used until shadows_put(). */
struct shadow *shadows_get_of_file(dev_t dev, ino_t ino);
struct shadow *shadows_get_of_device(const struct ibv_context *context);
/* The region is taken off, NULL if somebody else has done it. */
struct daxlease_mr *shadows_take_region(struct shadow *sh);
/* It could not be deregistered. */
void shadows_give_region(struct shadow *sh, struct daxlease_mr *region);
void shadows_put(struct shadow *sh);

void shadows_lock(void);
void shadows_unlock(void);
/* In a child, with the lock: no thread that used one is in it. */
void shadows_forget_users(void);

#endif
