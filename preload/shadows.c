// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "maps.h"
#include "shadows.h"

/*
 * What providers have behind a struct ibv_mr: what kind of region it is and its access
 * flags, in every provider since rdma-core 19. ibv_bind_mw(3) looks at it.
 */
#define TAIL (2 * sizeof(int))
/* More than that a provider may read or clear, as its own structs are larger. */
#define ROOM 512

/* Protects all shadows. A leaf: nothing is called while it is held. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t unused = PTHREAD_COND_INITIALIZER;
static struct shadow *shadows;
/* Read without the lock, for those who have nothing to do with all this. */
static atomic_uint nshadows, ndead;

void shadows_lock(void)
{
	pthread_mutex_lock(&lock);
}

void shadows_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

void shadows_forget_users(void)
{
	for (struct shadow *sh = shadows; sh; sh = sh->next)
		sh->users = 0;
	unused = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

bool shadows_any(void)
{
	return atomic_load_explicit(&nshadows, memory_order_acquire);
}

struct shadow *shadows_new(struct ibv_pd *pd, unsigned int access, const char *name,
			   const struct source *source)
{
	struct shadow *sh = calloc(1, sizeof(*sh));

	if (!sh)
		return NULL;
	sh->mr = calloc(1, ROOM);
	if (!sh->mr) {
		free(sh);
		return NULL;
	}
	sh->pid = getpid();
	sh->pd = pd;
	sh->context = pd->context;
	sh->device = pd->context->device;
	sh->access = access;
	sh->dev = source->dev;
	sh->ino = source->ino;
	memcpy(sh->name, name, strnlen(name, sizeof(sh->name) - 1));
	return sh;
}

/* When a region that is kept is done with it, if ever, nobody knows. */
void shadows_free_without_mr(struct shadow *sh)
{
	sh->mr = NULL;
	if (!sh->kept)
		free(sh);
}

void shadows_free(struct shadow *sh)
{
	free(sh->mr);
	shadows_free_without_mr(sh);
}

static void set_dead(struct shadow *sh, bool dead)
{
	if (sh->dead == dead)
		return;
	sh->dead = dead;
	atomic_fetch_add(&ndead, dead ? 1u : -1u);
}

void shadows_bind(struct shadow *sh, struct ibv_mr *real)
{
	memcpy(sh->mr, real, sizeof(*real) + TAIL);
	shadows_lock();
	sh->real = real;
	sh->next = shadows;
	shadows = sh;
	atomic_fetch_add(&nshadows, 1);
	shadows_unlock();
}

void shadows_unlink(struct shadow *sh)
{
	struct shadow **p = &shadows;

	shadows_lock();
	while (sh->users)
		pthread_cond_wait(&unused, &lock);
	while (*p && *p != sh)
		p = &(*p)->next;
	if (*p) {
		*p = sh->next;
		atomic_fetch_sub(&nshadows, 1);
	}
	set_dead(sh, false);
	shadows_unlock();
}

void shadows_exchange(struct shadow *a, struct shadow *b)
{
	unsigned char kept[sizeof(struct ibv_mr) + TAIL];
	struct ibv_mr *mr;

	shadows_lock();
	memcpy(kept, a->mr, sizeof(kept));
	memcpy(a->mr, b->mr, sizeof(kept));
	memcpy(b->mr, kept, sizeof(kept));
	mr = a->mr;
	a->mr = b->mr;
	b->mr = mr;
	shadows_unlock();
}

struct shadow *shadows_find(const struct ibv_mr *mr)
{
	struct shadow *sh;

	if (!shadows_any())
		return NULL;
	shadows_lock();
	for (sh = shadows; sh && sh->mr != mr; sh = sh->next)
		;
	shadows_unlock();
	return sh;
}

bool shadows_retire(struct ibv_mr *real, struct shadow **ret_shadow)
{
	struct shadow *sh;

	shadows_lock();
	for (sh = shadows; sh && sh->real != real; sh = sh->next)
		;
	if (sh) {
		set_dead(sh, true);
		sh->real = NULL;
	}
	shadows_unlock();
	*ret_shadow = sh;
	return sh;
}

void shadows_retired(struct shadow *sh, struct ibv_mr *real, bool success)
{
	shadows_lock();
	sh->gone = success;
	if (!success)
		sh->real = real;
	shadows_unlock();
}

bool shadows_has_key(const struct ibv_mr *mr)
{
	const struct shadow *sh;

	if (!atomic_load_explicit(&ndead, memory_order_acquire))
		return false;
	shadows_lock();
	for (sh = shadows; sh; sh = sh->next) {
		if (sh->dead && sh->device == mr->context->device &&
		    (sh->mr->lkey == mr->lkey || sh->mr->rkey == mr->rkey))
			break;
	}
	shadows_unlock();
	return sh;
}

static struct shadow *get(bool (*matches)(const struct shadow *sh, const void *arg),
			  const void *arg)
{
	pid_t pid = getpid();
	struct shadow *sh;

	shadows_lock();
	for (sh = shadows; sh; sh = sh->next) {
		if (sh->region && sh->pid == pid && matches(sh, arg))
			break;
	}
	if (sh)
		sh->users++;
	shadows_unlock();
	return sh;
}

struct file_id {
	dev_t dev;
	ino_t ino;
};

static bool is_of_file(const struct shadow *sh, const void *arg)
{
	const struct file_id *id = arg;

	return sh->dev == id->dev && sh->ino == id->ino;
}

struct shadow *shadows_get_of_file(dev_t dev, ino_t ino)
{
	struct file_id id = { dev, ino };

	return get(is_of_file, &id);
}

static bool is_of_device(const struct shadow *sh, const void *arg)
{
	return sh->context == arg;
}

struct shadow *shadows_get_of_device(const struct ibv_context *context)
{
	return get(is_of_device, context);
}

struct daxlease_mr *shadows_take_region(struct shadow *sh)
{
	struct daxlease_mr *region;

	shadows_lock();
	region = sh->region;
	sh->region = NULL;
	shadows_unlock();
	return region;
}

void shadows_give_region(struct shadow *sh, struct daxlease_mr *region)
{
	shadows_lock();
	sh->region = region;
	shadows_unlock();
}

void shadows_put(struct shadow *sh)
{
	shadows_lock();
	sh->users--;
	pthread_cond_broadcast(&unused);
	shadows_unlock();
}
