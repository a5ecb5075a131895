// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "devices.h"
#include "maps.h"
#include "qps.h"
#include "region.h"
#include "say.h"
#include "shadows.h"
#include "shim.h"
#include "sys.h"

/* Registrations that got the key of a dead one, before it is given up. */
#define KEYS_MAX 16

/* ------------------------------------------------------------------------- */
/* The originals */

#define CALL(name, ...) (REAL(name) ? REAL(name)(__VA_ARGS__) : missing())

static struct ibv_mr *missing(void)
{
	errno = ENOSYS;
	return NULL;
}

static struct ibv_mr *call(const struct reg *r)
{
	struct ibv_mr *mr = NULL;

	here.inside++;
	switch (r->how) {
	case REG_MR:
		mr = CALL(ibv_reg_mr, r->pd, r->addr, r->length, (int)r->access);
		break;
	case REG_IOVA:
		mr = CALL(ibv_reg_mr_iova, r->pd, r->addr, r->length, r->iova, (int)r->access);
		break;
	case REG_IOVA2:
		mr = CALL(ibv_reg_mr_iova2, r->pd, r->addr, r->length, r->iova, r->access);
		break;
	case REG_EX:
		mr = CALL(ibv_reg_mr_ex, r->pd, r->attr);
		break;
	case REG_DMABUF:
		mr = CALL(ibv_reg_dmabuf_mr, r->pd, r->offset, r->length, r->iova, r->fd,
			  (int)r->access);
		break;
	}
	here.inside--;
	return mr;
}

static int call_dereg(struct ibv_mr *mr)
{
	int ret;

	here.inside++;
	ret = REAL(ibv_dereg_mr) ? REAL(ibv_dereg_mr)(mr) : ENOSYS;
	here.inside--;
	return ret;
}

/*
 * A peer, or the program, may still use the key of a registration that a break has ended. So
 * nobody gets that key until the program has deregistered: whoever does is registered again,
 * while the first one holds the key, and gets another.
 */
static struct ibv_mr *register_fresh(const struct reg *r)
{
	struct ibv_mr *held[KEYS_MAX], *mr = call(r);
	unsigned int n = 0;
	int err;

	while (mr && n < KEYS_MAX && shadows_has_key(mr)) {
		held[n++] = mr;
		mr = call(r);
	}
	if (!n)
		return mr;
	err = errno;
	if (mr && shadows_has_key(mr)) {
		call_dereg(mr);
		mr = NULL;
		err = EAGAIN;
	}
	for (unsigned int i = 0; i < n; i++)
		call_dereg(held[i]);
	errno = err;
	say(DAXLEASE_LOG_INFO, "ibv_reg_mr %p+%zu: the key of a dead registration was avoided%s",
	    r->addr, r->length, mr ? "" : " in vain: deregister the dead ones");
	return mr;
}

/* ------------------------------------------------------------------------- */
/* Breaks */

static int on_drain(struct daxlease_mr *region, const struct daxlease_break *brk, void *userdata)
{
	const struct shadow *sh = userdata;
	unsigned int n;

	(void)region;
	(void)brk;
	if (shim_settings.policy == POLICY_ABORT) {
		say(DAXLEASE_LOG_ERR,
		    "%s: somebody changes the file: aborting, as "
		    "DAXLEASE_POLICY=abort says",
		    sh->name);
		abort();
	}
	n = qps_fence(sh->pd);
	say(DAXLEASE_LOG_WARNING,
	    "%s: somebody changes the file: %u queue pairs moved to the error state, rkey 0x%x is "
	    "gone",
	    sh->name, n, sh->mr->rkey);
	return 0;
}

static void on_release(struct daxlease_mr *region, int result, void *userdata)
{
	const struct shadow *sh = userdata;

	(void)region;
	say(result ? DAXLEASE_LOG_WARNING : DAXLEASE_LOG_INFO, "%s: given back%s%s", sh->name,
	    result ? ": " : "", result ? strerror(-result) : "");
}

/* ------------------------------------------------------------------------- */
/* Registering FS-DAX */

/* libdaxlease calls ibv_reg_mr(), which is our hook: this is what it wanted. */
static struct ibv_mr *register_for_library(const struct reg *asked)
{
	struct reg *origin = here.reg;
	struct reg r = *origin;
	struct ibv_mr *mr;

	r.access = asked->access; /* maybe with IBV_ACCESS_ON_DEMAND now */
	if (r.how == REG_EX)
		r.how = REG_IOVA2;
	mr = register_fresh(&r);
	if (mr)
		shadows_bind(origin->shadow, mr);
	return mr;
}

/* As /proc knows it, for log lines. */
static void name_of(int fd, char *ret_name, size_t size)
{
	char link[64];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, ret_name, size - 1);
	ret_name[n < 0 ? 0 : n] = '\0';
}

static int register_region(struct reg *r, struct daxlease_ctx *ctx, const struct source *source,
			   struct shadow *sh)
{
	struct daxlease_mr_opts opts = {
		.size = sizeof(opts),
		.flags = shim_settings.policy == POLICY_EXCLUSIVE ? DAXLEASE_MR_EXCLUSIVE : 0,
		.drain_budget_ms = shim_settings.budget_ms,
		.drain = on_drain,
		.release = on_release,
		.userdata = sh,
	};
	int err;

	r->shadow = sh;
	here.reg = r;
	err = daxlease_reg_mr(ctx, r->pd, source->fd, r->addr, r->length, (int)r->access, &opts,
			      &sh->region);
	here.reg = NULL;
	r->shadow = NULL;
	return err;
}

static void say_registered(const struct reg *r, const struct shadow *sh)
{
	struct daxlease_mr_info info = { .size = sizeof(info) };

	if (!say_wants(DAXLEASE_LOG_INFO) || daxlease_mr_get_info(sh->region, &info))
		return;
	say(DAXLEASE_LOG_INFO, "%s: %p+%zu registered, lease %s, %s, rkey 0x%x", sh->name, r->addr,
	    r->length, daxlease_kind_str(info.kind), info.on_demand ? "on demand" : "pinned",
	    sh->mr->rkey);
}

static struct ibv_mr *lease_and_register(struct reg *r, const struct source *source)
{
	struct daxlease_ctx *ctx;
	struct shadow *sh;
	char name[256];
	int err;

	name_of(source->fd, name, sizeof(name));
	sh = shadows_new(r->pd, r->access, name, source);
	devices_watch(r->pd->context);
	if (sh) {
		sh->has_iova = r->how != REG_MR;
		sh->iova = r->iova;
	}
	err = sh ? context_get(&ctx) : -ENOMEM;
	if (!err)
		err = register_region(r, ctx, source, sh);
	if (!err) {
		say_registered(r, sh);
		return sh->mr;
	}
	if (sh)
		shadows_free(sh);
	/* It would have worked without us, and as safely. */
	if (r->access & IBV_ACCESS_ON_DEMAND) {
		say(DAXLEASE_LOG_WARNING,
		    "%s: %p+%zu is not leased (%s), but registered on demand, as the program asks for",
		    name, r->addr, r->length, strerror(-err));
		return register_fresh(r);
	}
	errno = -err;
	return NULL;
}

static struct ibv_mr *register_leased(struct reg *r, const struct source *source)
{
	int cancel = shim_uncancelable();
	struct ibv_mr *mr = lease_and_register(r, source);

	shim_cancelable(cancel);
	return mr;
}

/*
 * FS-DAX that no hook of ours has seen mapped: before this library was loaded, or by a bare
 * system call.
 */
static struct source *adopt(const struct reg *r)
{
	int cancel = shim_uncancelable(), err;
	struct source *source = NULL;

	err = maps_adopt(r->addr, &source);
	shim_cancelable(cancel);
	if (source)
		say(DAXLEASE_LOG_WARNING,
		    "%p+%zu was mapped unseen: its file was opened anew, which is enough for the "
		    "kind guard alone",
		    r->addr, r->length);
	else if (err)
		say(DAXLEASE_LOG_ERR,
		    "%p+%zu was mapped unseen, and its file cannot be opened anew (%s): no lease "
		    "is possible",
		    r->addr, r->length, strerror(-err));
	return source;
}

static bool is_implicit(const struct reg *r)
{
	return r->access & IBV_ACCESS_ON_DEMAND && !r->addr && r->length == SIZE_MAX;
}

static struct ibv_mr *register_plain(struct reg *r)
{
	struct source *source = NULL;
	struct ibv_mr *mr;
	int err;

	if (r->access & IBV_ACCESS_ON_DEMAND)
		source = adopt(r);
	mr = source ? register_leased(r, source) : register_fresh(r);
	if (!mr && !source && !(r->access & IBV_ACCESS_ON_DEMAND)) {
		err = errno;
		source = adopt(r);
		mr = source ? register_leased(r, source) : NULL;
		if (!source)
			errno = err;
	}
	if (source)
		maps_put(source);
	return mr;
}

static struct ibv_mr *register_memory(struct reg *r)
{
	const void *at = NULL; /* plain memory may be before it */
	struct source *source;
	struct ibv_mr *mr;

	if (is_implicit(r)) {
		say(DAXLEASE_LOG_WARNING,
		    "all memory is registered at once (implicit on-demand paging): files in it "
		    "are not leased");
		return register_fresh(r);
	}
	source = maps_find(r->addr, r->length, &at);
	if (source && !maps_is_current(at, source)) {
		maps_put(source);
		source = NULL;
	}
	if (!source)
		return register_plain(r);
	mr = register_leased(r, source);
	maps_put(source);
	return mr;
}

struct ibv_mr *region_reg(struct reg *r)
{
	struct ibv_mr *mr;

	if (here.inside || !shim_on())
		return call(r);
	if (here.reg)
		return register_for_library(r);
	mr = r->how == REG_DMABUF ? register_fresh(r) : register_memory(r);
	if (say_wants(DAXLEASE_LOG_DEBUG))
		say(DAXLEASE_LOG_DEBUG, "reg %p+%zu: %s", r->addr, r->length,
		    !mr		     ? strerror(errno) :
		    shadows_find(mr) ? "leased" :
				       "plain");
	return mr;
}

void region_check_unseen(const void *addr, size_t length)
{
	struct source *source = shim_on() ? maps_find(addr, length, NULL) : NULL;

	if (!source)
		return;
	maps_put(source);
	say(DAXLEASE_LOG_ERR,
	    "%p+%zu is FS-DAX, and registered through a function that was found by dlsym(3): no "
	    "lease. Let the program use ibv_reg_mr",
	    addr, length);
}

/* ------------------------------------------------------------------------- */
/* Deregistering */

/* 0 also if the registration is gone, but the lease cannot be given back yet. */
static int end_region(struct shadow *sh)
{
	struct daxlease_mr *region = shadows_take_region(sh);
	int err;

	/* Of the parent: not ours to end. */
	if (!region || sh->pid != getpid())
		return 0;
	err = daxlease_dereg_mr(region);
	if (!err)
		return 0;
	if (!sh->gone) {
		shadows_give_region(sh, region);
		return err;
	}
	/* The library goes on trying. */
	sh->kept = true;
	say(DAXLEASE_LOG_WARNING, "%s: deregistered, but its lease is not given back yet: %s",
	    sh->name, strerror(-err));
	return 0;
}

static int dereg_shadow(struct shadow *sh)
{
	int cancel = shim_uncancelable(), err = end_region(sh);

	if (!err)
		shadows_unlink(sh);
	shim_cancelable(cancel);
	return err;
}

static int dereg_real(struct ibv_mr *mr)
{
	struct shadow *sh;
	int ret;

	if (!shadows_any() || !shadows_retire(mr, &sh))
		return call_dereg(mr);
	ret = call_dereg(mr);
	shadows_retired(sh, mr, !ret);
	return ret;
}

int region_dereg(struct ibv_mr *mr)
{
	struct shadow *sh = shadows_find(mr);
	int err;

	if (!sh)
		return dereg_real(mr);
	err = dereg_shadow(sh);
	if (err)
		return -err;
	say(DAXLEASE_LOG_DEBUG, "dereg %s", sh->name);
	shadows_free(sh);
	return 0;
}

bool region_dereg_by_provider(struct ibv_mr *mr, int *ret_result)
{
	struct shadow *sh = shadows_find(mr);

	if (!sh)
		return false;
	*ret_result = -dereg_shadow(sh);
	if (!*ret_result)
		shadows_free_without_mr(sh);
	return true;
}

void region_close_device(const struct ibv_context *context)
{
	int cancel = shim_uncancelable();
	struct shadow *sh;

	while (shadows_any() && (sh = shadows_get_of_device(context))) {
		int err = end_region(sh);

		shadows_put(sh);
		if (err)
			break;
	}
	shim_cancelable(cancel);
}

/* ------------------------------------------------------------------------- */
/* Registering again */

static int reject(const char *name, int err, const char *why)
{
	say(DAXLEASE_LOG_ERR, "ibv_rereg_mr of %s: %s", name, why);
	errno = err;
	return IBV_REREG_MR_ERR_INPUT;
}

/* The new one first, so that the old one is valid as long as it can fail. */
static int rereg_shadow(struct shadow *sh, struct reg *r)
{
	struct ibv_mr *mr = region_reg(r);
	struct shadow *fresh = mr ? shadows_find(mr) : NULL;

	if (!mr)
		return reject(sh->name, errno, "refused; the old registration stays");
	if (!fresh) {
		call_dereg(mr);
		return reject(sh->name, EOPNOTSUPP,
			      "the new range is no FS-DAX: use ibv_dereg_mr and ibv_reg_mr");
	}
	shadows_exchange(sh, fresh);
	if (!dereg_shadow(sh))
		shadows_free(sh);
	return 0;
}

/* What libibverbs asks before it does anything. */
static bool is_rereg_valid(int flags, const void *addr, size_t length, int access)
{
	if (flags & ~IBV_REREG_MR_FLAGS_SUPPORTED)
		return false;
	if (flags & IBV_REREG_MR_CHANGE_TRANSLATION && (!addr || !length))
		return false;
	return !access || flags & IBV_REREG_MR_CHANGE_ACCESS;
}

/* The program keeps a struct that is not ours, so there is nothing to put a lease on. */
static void warn_moved(const void *addr, size_t length)
{
	struct source *source = maps_find(addr, length, NULL);

	if (!source)
		return;
	maps_put(source);
	say(DAXLEASE_LOG_WARNING,
	    "ibv_rereg_mr to %p+%zu, which is FS-DAX: not leased. With ibv_dereg_mr and ibv_reg_mr it "
	    "would be",
	    addr, length);
}

int region_rereg(struct ibv_mr *mr, int flags, struct ibv_pd *pd, void *addr, size_t length,
		 int access)
{
	struct shadow *sh = here.inside ? NULL : shadows_find(mr);
	bool moves = flags & IBV_REREG_MR_CHANGE_TRANSLATION;
	struct reg r = {
		.how = REG_MR,
		.pd = flags & IBV_REREG_MR_CHANGE_PD ? pd : mr->pd,
		.addr = moves ? addr : mr->addr,
		.length = moves ? length : mr->length,
		.access = (unsigned int)access,
	};
	int ret;

	if (!sh) {
		if (moves && !here.inside && shim_on())
			warn_moved(addr, length);
		here.inside++;
		ret = REAL(ibv_rereg_mr) ? REAL(ibv_rereg_mr)(mr, flags, pd, addr, length, access) :
					   IBV_REREG_MR_ERR_INPUT;
		here.inside--;
		return ret;
	}
	if (!is_rereg_valid(flags, addr, length, access))
		return reject(sh->name, EINVAL, "flags and arguments do not fit each other");
	if (!(flags & IBV_REREG_MR_CHANGE_ACCESS))
		r.access = sh->access;
	if (!moves && sh->has_iova) {
		r.how = REG_IOVA2;
		r.iova = sh->iova;
	}
	return rereg_shadow(sh, &r);
}

/* ------------------------------------------------------------------------- */
/* The program's own changes */

bool region_any(void)
{
	return shadows_any();
}

static void end_by_program(struct shadow *sh)
{
	unsigned int n;

	if (shim_settings.policy == POLICY_ABORT) {
		say(DAXLEASE_LOG_ERR,
		    "%s: the program itself changes the file: aborting, as "
		    "DAXLEASE_POLICY=abort says",
		    sh->name);
		abort();
	}
	n = qps_fence(sh->pd);
	say(DAXLEASE_LOG_WARNING,
	    "%s: the program itself changes the file: %u queue pairs moved to the error state, rkey "
	    "0x%x is gone",
	    sh->name, n, sh->mr->rkey);
}

int region_end_file(int fd)
{
	struct sys_file file;
	struct shadow *sh;
	int found = 0, err = 0, cancel;

	if (sys_file_info(fd, &file) || !file.dax)
		return 0;
	cancel = shim_uncancelable();
	while (!err && (sh = shadows_get_of_file(file.dev, file.ino))) {
		if (shim_settings.policy == POLICY_EXCLUSIVE) {
			found = -ETXTBSY;
			err = 1;
		} else {
			found = 1;
			if (!sh->gone)
				end_by_program(sh);
			err = end_region(sh);
		}
		shadows_put(sh);
	}
	shim_cancelable(cancel);
	return found;
}

/* ------------------------------------------------------------------------- */
/* Children */

void region_before_fork(void)
{
	context_lock();
	devices_lock();
	shadows_lock();
}

void region_after_fork(void)
{
	shadows_unlock();
	devices_unlock();
	context_unlock();
}

void region_forget_parent(void)
{
	context_forget();
	shadows_forget_users();
}
