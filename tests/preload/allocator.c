// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Another malloc(3), as programs are linked with: it maps and unmaps memory by the names that
 * are hooked, and cannot be called again meanwhile, as it holds its lock.
 */
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ROUND(n) (((n) + 15) & ~(size_t)15)
#define CHUNK (4u << 20)
#define LARGE (256u << 10)
#define HEAD 16 /* the size of each piece is before it */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int busy __attribute__((tls_model("initial-exec")));
static uint8_t *next, *end;

static void begin(void)
{
	if (busy++)
		abort();
	pthread_mutex_lock(&lock);
}

static void finish(void)
{
	pthread_mutex_unlock(&lock);
	busy--;
}

static uint8_t *map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static uint8_t *small(size_t size)
{
	uint8_t *p;

	if ((size_t)(end - next) < size) {
		next = map(CHUNK);
		end = next ? next + CHUNK : NULL;
	}
	p = next;
	next = p ? next + size : NULL;
	return p;
}

void *malloc(size_t size)
{
	size_t whole = ROUND(size) + HEAD;
	uint8_t *p;

	if (whole < size) {
		errno = ENOMEM;
		return NULL;
	}
	begin();
	p = whole >= LARGE ? map(whole) : small(whole);
	finish();
	if (!p)
		return NULL;
	memcpy(p, &whole, sizeof(whole));
	return p + HEAD;
}

/* Small ones are not used again. */
void free(void *p)
{
	size_t whole;

	if (!p)
		return;
	memcpy(&whole, (uint8_t *)p - HEAD, sizeof(whole));
	if (whole < LARGE)
		return;
	begin();
	munmap((uint8_t *)p - HEAD, whole);
	finish();
}

void *calloc(size_t n, size_t size)
{
	void *p;

	if (size && n > SIZE_MAX / size) {
		errno = ENOMEM;
		return NULL;
	}
	p = malloc(n * size);
	return p ? memset(p, 0, n * size) : NULL;
}

void *realloc(void *old, size_t size)
{
	void *p = malloc(size);
	size_t whole;

	if (!p || !old)
		return p;
	memcpy(&whole, (uint8_t *)old - HEAD, sizeof(whole));
	memcpy(p, old, whole - HEAD < size ? whole - HEAD : size);
	free(old);
	return p;
}

/* Before other constructors, maybe. */
__attribute__((constructor)) static void start(void)
{
	void *volatile p = malloc(1);

	free(p);
}
