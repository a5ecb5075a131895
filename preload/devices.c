// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "devices.h"
#include "here.h"
#include "qps.h"
#include "say.h"

typedef __typeof__(((struct verbs_context *)NULL)->create_qp_ex) create_qp_ex_fn;

struct device {
	struct device *next;
	struct ibv_context *context;
	create_qp_ex_fn create_qp_ex; /* the provider's */
};

/* Protects everything below; taken after that of context.c. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct device *devices;

void devices_lock(void)
{
	pthread_mutex_lock(&lock);
}

void devices_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

static struct device **find(const struct ibv_context *context)
{
	struct device **p = &devices;

	while (*p && (*p)->context != context)
		p = &(*p)->next;
	return p;
}

static create_qp_ex_fn original(const struct ibv_context *context)
{
	const struct device *d;
	create_qp_ex_fn fn;

	devices_lock();
	d = *find(context);
	fn = d ? d->create_qp_ex : NULL;
	devices_unlock();
	return fn;
}

static struct ibv_qp *create_qp_ex(struct ibv_context *context, struct ibv_qp_init_attr_ex *attr)
{
	create_qp_ex_fn fn = original(context);
	struct ibv_qp *qp;

	if (!fn) {
		errno = EOPNOTSUPP;
		return NULL;
	}
	qp = fn(context, attr);
	if (qp)
		qps_add(qp);
	return qp;
}

void devices_watch(struct ibv_context *context)
{
	struct verbs_context *vctx = verbs_get_ctx_op(context, create_qp_ex);
	struct device *d;

	if (!vctx)
		return;
	d = calloc(1, sizeof(*d));
	devices_lock();
	if (d && !*find(context)) {
		*d = (struct device){ devices, context, vctx->create_qp_ex };
		devices = d;
		vctx->create_qp_ex = create_qp_ex;
		d = NULL;
	}
	devices_unlock();
	free(d);
}

/* The provider gets its structure back as it was. */
void devices_forget(struct ibv_context *context)
{
	struct device **p, *d;

	devices_lock();
	p = find(context);
	d = *p;
	if (d) {
		verbs_get_ctx(context)->create_qp_ex = d->create_qp_ex;
		*p = d->next;
	}
	devices_unlock();
	free(d);
}
