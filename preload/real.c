// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "here.h"
#include "real.h"

static const struct {
	const char *name;
	int hooked;
} calls[REAL_COUNT] = {
#define X(name, hooked) [REAL_##name] = { #name, hooked },
	REAL_CALLS(X)
#undef X
};

_Atomic(void *) real_found[REAL_COUNT];

/*
 * Of libibverbs, so that what was found in it stays when the program unloads it; and where it was
 * loaded by dlopen(3) with RTLD_LOCAL it is in nobody's scope.
 */
static void *keep_libibverbs(void)
{
	static _Atomic(void *) handle;
	void *h = atomic_load(&handle);

	if (!h) {
		h = dlopen("libibverbs.so.1", RTLD_LAZY | RTLD_NOLOAD);
		atomic_store(&handle, h);
	}
	return h;
}

static void *search(enum real_id id)
{
	const char *name = calls[id].name;
	void *h = strncmp(name, "ibv_", 4) ? NULL : keep_libibverbs();
	void *p = dlsym(RTLD_NEXT, name);

	return p || !h ? p : dlsym(h, name);
}

void *real_look_up(enum real_id id)
{
	int saved = errno;
	void *p;

	if (here.resolving)
		return NULL;
	here.resolving++;
	p = search(id);
	here.resolving--;
	atomic_store_explicit(&real_found[id], p, memory_order_release);
	errno = saved;
	return p;
}

void real_binding(enum real_id id, struct real_binding *ret_binding)
{
	static const int anchor;
	Dl_info self = { 0 }, other = { 0 };
	void *p;

	here.resolving++;
	p = dlsym(RTLD_DEFAULT, calls[id].name);
	dladdr(&anchor, &self);
	if (p)
		dladdr(p, &other);
	here.resolving--;
	*ret_binding = (struct real_binding){
		.name = calls[id].name,
		.object = other.dli_fname,
		.hooked = calls[id].hooked,
		.ours = p && other.dli_fbase == self.dli_fbase,
	};
}
