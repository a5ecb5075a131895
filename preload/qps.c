// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "qps.h"
#include "say.h"
#include "shim.h"
#include "verbs.h"

struct entry {
	struct ibv_qp *qp;
	bool busy; /* it is being fenced, without the lock */
	unsigned int round;
};

/* Protects everything below. A leaf, like that of maps.c. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t idle = PTHREAD_COND_INITIALIZER;
static struct entry *entries;
static size_t nentries, max_entries;
static unsigned int rounds;

void qps_lock(void)
{
	pthread_mutex_lock(&lock);
}

void qps_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

void qps_forget_threads(void)
{
	for (size_t i = 0; i < nentries; i++)
		entries[i].busy = false;
	idle = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

void qps_add(struct ibv_qp *qp)
{
	struct entry *grown = NULL;

	qps_lock();
	if (nentries == max_entries) {
		size_t max = max_entries ? max_entries * 2 : 16;

		/* Our lock is not taken by the hooks that malloc(3) may come to. */
		grown = realloc(entries, max * sizeof(*entries));
		if (grown) {
			entries = grown;
			max_entries = max;
		}
	}
	if (nentries < max_entries) {
		entries[nentries++] = (struct entry){ .qp = qp };
		grown = entries;
	}
	qps_unlock();
	if (!grown)
		say(DAXLEASE_LOG_WARNING, "out of memory: queue pair %u will not be fenced",
		    qp->qp_num);
}

static struct entry *find(const struct ibv_qp *qp)
{
	for (size_t i = 0; i < nentries; i++) {
		if (entries[i].qp == qp)
			return &entries[i];
	}
	return NULL;
}

void qps_remove(const struct ibv_qp *qp)
{
	int cancel = shim_uncancelable();
	struct entry *e;

	qps_lock();
	while ((e = find(qp)) && e->busy)
		pthread_cond_wait(&idle, &lock);
	if (e)
		*e = entries[--nentries];
	qps_unlock();
	shim_cancelable(cancel);
}

void qps_forget(const struct ibv_context *context)
{
	int cancel = shim_uncancelable();
	size_t i = 0;

	qps_lock();
	while (i < nentries) {
		if (entries[i].busy && entries[i].qp->context == context) {
			pthread_cond_wait(&idle, &lock);
			i = 0;
		} else if (entries[i].qp->context == context) {
			entries[i] = entries[--nentries];
		} else {
			i++;
		}
	}
	qps_unlock();
	shim_cancelable(cancel);
}

/*
 * A parent domain has the handle of the domain that it belongs to. A queue pair without one
 * receives for others (XRC), in domains that it does not tell.
 */
static bool reaches(const struct ibv_qp *qp, const struct ibv_pd *pd)
{
	return qp->context == pd->context && (!qp->pd || qp->pd->handle == pd->handle);
}

/* It reaches nothing yet, and some drivers would refuse. */
static bool is_fresh(const struct ibv_qp *qp)
{
	return qp->state == IBV_QPS_RESET;
}

static struct ibv_qp *next_to_fence(const struct ibv_pd *pd, unsigned int round)
{
	for (size_t i = 0; i < nentries; i++) {
		struct entry *e = &entries[i];

		if (e->busy || e->round == round || !reaches(e->qp, pd) || is_fresh(e->qp))
			continue;
		e->busy = true;
		e->round = round;
		return e->qp;
	}
	return NULL;
}

static void fence_one(struct ibv_qp *qp)
{
	int err = verbs_fence_qp(qp);

	if (err)
		say(DAXLEASE_LOG_ERR, "queue pair %u could not be moved to the error state: %s",
		    qp->qp_num, strerror(-err));
}

unsigned int qps_fence(const struct ibv_pd *pd)
{
	unsigned int round, n = 0;
	struct ibv_qp *qp;

	qps_lock();
	round = ++rounds;
	while ((qp = next_to_fence(pd, round))) {
		qps_unlock();
		fence_one(qp);
		n++;
		qps_lock();
		find(qp)->busy = false;
		pthread_cond_broadcast(&idle);
	}
	qps_unlock();
	return n;
}
