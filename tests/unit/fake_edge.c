// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "edge.h"
#include "fake_edge.h"
#include "fake_verbs.h"
#include "fault.h"

#define POSTED_MAX 512

struct window {
	struct ibv_mw mw; /* first */
	struct window *next;
	const struct ibv_qp *qp; /* NULL: not bound */
	const struct ibv_mr *mr;
	uint32_t rkey;
	int access;
};

struct failure {
	unsigned int times;
	int err;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	bool windows;
	struct failure post, alloc, free;
	bool bind_all_the_same;
	struct window *list;
	uint32_t next_key;
	void (*before_alloc)(void);
	struct posted posted[POSTED_MAX];
	unsigned int nposted;
} fake;

static bool mr_in_use(const struct ibv_mr *mr)
{
	bool used = false;

	pthread_mutex_lock(&lock);
	for (struct window *w = fake.list; w; w = w->next)
		used = used || (w->qp && w->mr == mr);
	pthread_mutex_unlock(&lock);
	return used;
}

void edge_reset(bool windows)
{
	pthread_mutex_lock(&lock);
	assert(!fake.list);
	fake = (typeof(fake)){ .windows = windows, .next_key = fake.next_key };
	pthread_mutex_unlock(&lock);
	fake_mr_in_use = mr_in_use;
}

static void set_failure(struct failure *failure, unsigned int n, int err)
{
	pthread_mutex_lock(&lock);
	*failure = (struct failure){ n, err };
	pthread_mutex_unlock(&lock);
}

void edge_fail_post(unsigned int n, int err, bool bind)
{
	set_failure(&fake.post, n, err);
	fake.bind_all_the_same = bind;
}

void edge_fail_alloc(unsigned int n, int err)
{
	set_failure(&fake.alloc, n, err);
}

void edge_fail_free(unsigned int n, int err)
{
	set_failure(&fake.free, n, err);
}

static int take_failure(struct failure *failure)
{
	if (!failure->times)
		return 0;
	failure->times--;
	return -failure->err;
}

static void bind_window(const struct ibv_qp *qp, const struct edge_bind *bind)
{
	struct window *w = (struct window *)bind->mw;

	assert(!w->qp && bind->mr && bind->length);
	w->qp = qp;
	w->mr = bind->mr;
	w->rkey = bind->rkey;
	w->access = bind->access;
}

static int post(struct ibv_qp *qp, const struct edge_send *send, bool *ret_bound)
{
	struct posted *p = &fake.posted[fake.nposted];
	int err = take_failure(&fake.post);

	*ret_bound = send->bind && (!err || fake.bind_all_the_same);
	if (*ret_bound)
		bind_window(qp, send->bind);
	if (err)
		return err;
	assert(fake.nposted < POSTED_MAX && send->len == WIRE_SIZE && send->lkey);
	*p = (struct posted){
		.qp = qp, .wr_id = send->wr_id, .bind_wr_id = send->bind_wr_id, .bound = *ret_bound
	};
	memcpy(p->bytes, send->buf, WIRE_SIZE);
	if (wire_decode(p->bytes, WIRE_SIZE, &p->msg) != 1)
		abort(); /* what we send is always right */
	fake.nposted++;
	return 0;
}

int edge_post_send(struct ibv_qp *qp, const struct edge_send *send, bool *ret_bound)
{
	int err;

	pthread_mutex_lock(&lock);
	err = post(qp, send, ret_bound);
	pthread_mutex_unlock(&lock);
	return err;
}

bool edge_has_windows(struct ibv_pd *pd)
{
	(void)pd;
	return fake.windows;
}

void edge_before_alloc(void (*fn)(void))
{
	fake.before_alloc = fn;
}

int edge_alloc_window(struct ibv_pd *pd, struct ibv_mw **ret_mw, uint32_t *ret_rkey)
{
	struct window *w;
	int err;

	if (fake.before_alloc)
		fake.before_alloc();
	pthread_mutex_lock(&lock);
	err = take_failure(&fake.alloc);
	if (!err) {
		w = calloc(1, sizeof(*w));
		if (!w)
			abort();
		w->mw.pd = pd;
		w->next = fake.list;
		fake.list = w;
		*ret_mw = &w->mw;
		*ret_rkey = ++fake.next_key;
	}
	pthread_mutex_unlock(&lock);
	return err;
}

int edge_free_window(struct ibv_mw *mw)
{
	struct window **w = &fake.list;
	int err;

	pthread_mutex_lock(&lock);
	err = take_failure(&fake.free);
	while (&(*w)->mw != mw)
		w = &(*w)->next;
	if (!err) {
		*w = (*w)->next;
		free(mw);
	}
	pthread_mutex_unlock(&lock);
	return err;
}

unsigned int edge_count(const struct ibv_qp *qp)
{
	unsigned int n = 0;

	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < fake.nposted; i++)
		n += fake.posted[i].qp == qp;
	pthread_mutex_unlock(&lock);
	return n;
}

struct posted edge_take(const struct ibv_qp *qp)
{
	struct posted p = { 0 };
	unsigned int i;

	pthread_mutex_lock(&lock);
	for (i = 0; i < fake.nposted && fake.posted[i].qp != qp; i++)
		;
	if (i < fake.nposted) {
		p = fake.posted[i];
		fake.nposted--;
		memmove(&fake.posted[i], &fake.posted[i + 1],
			(fake.nposted - i) * sizeof(fake.posted[0]));
	}
	pthread_mutex_unlock(&lock);
	return p;
}

void edge_lose_windows(void)
{
	struct window *w;

	pthread_mutex_lock(&lock);
	while ((w = fake.list)) {
		fake.list = w->next;
		free(w);
	}
	pthread_mutex_unlock(&lock);
}

unsigned int edge_windows(void)
{
	unsigned int n = 0;

	pthread_mutex_lock(&lock);
	for (struct window *w = fake.list; w; w = w->next)
		n++;
	pthread_mutex_unlock(&lock);
	return n;
}

bool edge_opens(const struct ibv_qp *qp, uint32_t rkey, int access)
{
	bool opens = false;

	pthread_mutex_lock(&lock);
	for (struct window *w = fake.list; w; w = w->next)
		opens = opens || (w->qp == qp && w->rkey == rkey && !(access & ~w->access));
	pthread_mutex_unlock(&lock);
	return opens;
}
