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

#define BUCKETS_SHIFT 10

LIST_HEAD(list, shadow);

/* Protects all shadows. A leaf: nothing is called while it is held. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t unused = PTHREAD_COND_INITIALIZER;
static struct list shadows;
/* Programs may register their memory in many pieces. */
static struct list by_mr[1u << BUCKETS_SHIFT];
static struct list by_real[1u << BUCKETS_SHIFT]; /* but those without */
static struct list dead;
/* Read without the lock, for those who have nothing to do with all this. */
static atomic_uint nshadows, ndead;

static struct list *bucket(struct list *table, const struct ibv_mr *mr)
{
	/* The product's high bits depend on all of the address (2^64 by the golden ratio). */
	return &table[(uintptr_t)mr * UINT64_C(0x9e3779b97f4a7c15) >> (64 - BUCKETS_SHIFT)];
}

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
	struct shadow *sh;

	LIST_FOREACH(sh, &shadows, link)
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

static void set_dead(struct shadow *sh, bool is_dead)
{
	if (sh->dead == is_dead)
		return;
	sh->dead = is_dead;
	if (is_dead)
		LIST_INSERT_HEAD(&dead, sh, dead_link);
	else
		LIST_REMOVE(sh, dead_link);
	atomic_fetch_add(&ndead, is_dead ? 1u : -1u);
}

/* real may be NULL. */
static void set_real(struct shadow *sh, struct ibv_mr *real)
{
	if (sh->real)
		LIST_REMOVE(sh, real_link);
	sh->real = real;
	if (real)
		LIST_INSERT_HEAD(bucket(by_real, real), sh, real_link);
}

void shadows_bind(struct shadow *sh, struct ibv_mr *real)
{
	memcpy(sh->mr, real, sizeof(*real) + TAIL);
	shadows_lock();
	LIST_INSERT_HEAD(&shadows, sh, link);
	LIST_INSERT_HEAD(bucket(by_mr, sh->mr), sh, mr_link);
	set_real(sh, real);
	atomic_fetch_add(&nshadows, 1);
	shadows_unlock();
}

void shadows_unlink(struct shadow *sh)
{
	shadows_lock();
	while (sh->users)
		pthread_cond_wait(&unused, &lock);
	LIST_REMOVE(sh, link);
	LIST_REMOVE(sh, mr_link);
	atomic_fetch_sub(&nshadows, 1);
	set_real(sh, NULL);
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
	LIST_REMOVE(a, mr_link);
	LIST_REMOVE(b, mr_link);
	mr = a->mr;
	a->mr = b->mr;
	b->mr = mr;
	LIST_INSERT_HEAD(bucket(by_mr, a->mr), a, mr_link);
	LIST_INSERT_HEAD(bucket(by_mr, b->mr), b, mr_link);
	shadows_unlock();
}

struct shadow *shadows_find(const struct ibv_mr *mr)
{
	struct shadow *sh;

	if (!shadows_any())
		return NULL;
	shadows_lock();
	LIST_FOREACH(sh, bucket(by_mr, mr), mr_link) {
		if (sh->mr == mr)
			break;
	}
	shadows_unlock();
	return sh;
}

bool shadows_retire(struct ibv_mr *real, struct shadow **ret_shadow)
{
	struct shadow *sh;

	shadows_lock();
	LIST_FOREACH(sh, bucket(by_real, real), real_link) {
		if (sh->real == real)
			break;
	}
	if (sh) {
		set_dead(sh, true);
		set_real(sh, NULL);
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
		set_real(sh, real);
	shadows_unlock();
}

bool shadows_has_key(const struct ibv_mr *mr)
{
	const struct shadow *sh;

	if (!atomic_load_explicit(&ndead, memory_order_acquire))
		return false;
	shadows_lock();
	LIST_FOREACH(sh, &dead, dead_link) {
		if (sh->device == mr->context->device &&
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
	LIST_FOREACH(sh, &shadows, link) {
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
