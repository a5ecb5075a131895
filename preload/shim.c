// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <daxlease/version.h>

#include "maps.h"
#include "qps.h"
#include "real.h"
#include "region.h"
#include "say.h"
#include "shim.h"

__thread struct here here;
_Atomic int shim_state;
struct settings shim_settings;

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* So that a child, which has this thread alone, finds every lock free and every table whole. */
static void before_fork(void)
{
	region_before_fork();
	qps_lock();
	maps_lock();
}

static void after_fork(void)
{
	maps_unlock();
	qps_unlock();
	region_after_fork();
}

static void after_fork_in_child(void)
{
	region_forget_parent();
	qps_forget_threads();
	after_fork();
}

/* Two that lease the same file for the same registration would be in each other's way. */
static bool is_used_by_program(void)
{
	void *p;

	here.resolving++;
	p = dlsym(RTLD_DEFAULT, "daxlease_reg_mr");
	here.resolving--;
	if (p)
		say(DAXLEASE_LOG_INFO, "%s uses libdaxlease itself: nothing is done here",
		    program_invocation_short_name);
	return p;
}

static void start(void)
{
	int state = SHIM_ON;

	here.inside++; /* what this calls is none of the program's business */
	settings_read(&shim_settings);
	if (shim_settings.off || is_used_by_program())
		state = SHIM_OFF;
	else if (pthread_atfork(before_fork, after_fork, after_fork_in_child))
		say(DAXLEASE_LOG_WARNING, "out of memory: children made by fork(2) may hang");
	here.inside--;
	atomic_store_explicit(&shim_state, state, memory_order_release);
}

bool shim_start(void)
{
	/* A hook of ours that settings_read() ran into, or the search for originals. */
	if (here.inside || here.resolving)
		return false;
	pthread_once(&once, start);
	return atomic_load(&shim_state) == SHIM_ON;
}

/* ------------------------------------------------------------------------- */
/* The self-test */

/* Calls that fail at once, by the name that the program has: do they come by here? */
static bool is_reached(enum real_id id)
{
	unsigned int before = here.probed;
	void *p;

	here.resolving++;
	p = dlsym(RTLD_DEFAULT, id == REAL_mmap	       ? "mmap" :
				id == REAL_mmap64      ? "mmap64" :
				id == REAL_munmap      ? "munmap" :
				id == REAL_mremap      ? "mremap" :
				id == REAL_ftruncate   ? "ftruncate" :
				id == REAL_ftruncate64 ? "ftruncate64" :
				id == REAL_fallocate   ? "fallocate" :
							 "fallocate64");
	here.resolving--;
	if (!p)
		return false;
	here.probing++;
	switch (id) {
	case REAL_mmap:
	case REAL_mmap64:
		((__typeof__(&mmap64))(uintptr_t)p)(NULL, 0, 0, 0, -1, 0);
		break;
	case REAL_munmap:
		((__typeof__(&munmap))(uintptr_t)p)(NULL, 0);
		break;
	case REAL_mremap:
		((__typeof__(&mremap))(uintptr_t)p)(NULL, 0, 0, 0);
		break;
	case REAL_ftruncate:
	case REAL_ftruncate64:
		((__typeof__(&ftruncate64))(uintptr_t)p)(-1, 0);
		break;
	default:
		((__typeof__(&fallocate64))(uintptr_t)p)(-1, 0, 0, 0);
		break;
	}
	here.probing--;
	return here.probed > before;
}

/*
 * A verb that another library has first cannot be tried, but may well come to us in
 * the end. One that nobody has yet will be found with libibverbs, after us.
 */
static void check_hook(enum real_id id, unsigned int *bound)
{
	struct real_binding b;

	real_binding(id, &b);
	if (!b.hooked)
		return;
	if (b.ours || (id <= REAL_fallocate64 && is_reached(id)))
		++*bound;
	else if (id <= REAL_fallocate64)
		say(DAXLEASE_LOG_ERR,
		    "%s of the program does not come here, but goes to %s: what it does with it is not "
		    "seen. Put this library first in LD_PRELOAD",
		    b.name, b.object ? b.object : "nobody");
	else
		say(DAXLEASE_LOG_WARNING,
		    "%s goes to %s first: registrations are seen only if that calls the next "
		    "one. Put this library first in LD_PRELOAD",
		    b.name, b.object ? b.object : "nobody");
}

static void self_test(void)
{
	unsigned int bound = 0, hooks = 0;
	struct real_binding b;

	for (int id = 0; id < REAL_COUNT; id++) {
		real_binding((enum real_id)id, &b);
		hooks += (unsigned int)b.hooked;
		check_hook((enum real_id)id, &bound);
	}
	say(DAXLEASE_LOG_INFO, "libdaxlease %s in %s: policy %s, kind %s, %u of %u hooks bound",
	    DAXLEASE_VERSION_STRING, program_invocation_short_name,
	    settings_policy_str(shim_settings.policy), daxlease_kind_str(shim_settings.kind), bound,
	    hooks);
}

__attribute__((constructor)) static void loaded(void)
{
	int saved = errno;

	if (shim_on())
		self_test();
	errno = saved;
}
