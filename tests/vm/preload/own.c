// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Programs that change their own file (owner.c), and privileged ones. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../file.h"
#include "../runner.h"
#include "program.h"

struct change {
	const char *what;
	const char *guard, *deleg, *lease, *exclusive; /* what becomes of the registration */
};

/* With a guard or a layout lease an open is nobody's business. */
static const struct change changes[] = {
	{ "ftruncate", "ended", "ended", "ended", "ftruncate: Text file busy" },
	{ "punch", "ended", "ended", "ended", "punch: Text file busy" },
	{ "truncate", "ended", "ended", "ended", "truncate: Text file busy" },
	{ "open-trunc", "ended", "ended", "ended", "open-trunc: Text file busy" },
	{ "fopen-w", "ended", "ended", "ended", "fopen-w: Text file busy" },
	{ "open-read", "stays", "stays", "stays", "stays" },
	{ "open-write", "stays", "ended", "ended", "stays" },
	{ "grow", NULL, "ended", "stays", NULL },
};

static void run_owner(const struct world *w, const struct shim *shim, const char *what,
		      const char *wanted)
{
	const char *argv[] = { owner_path, NULL, what, NULL };
	struct program p;
	struct file f;
	int status;

	printf("%s\n", what);
	file_make(&f, w, what, FILE_SIZE, O_RDWR);
	file_close(&f);
	argv[1] = f.path;
	program_start(&p, shim, argv);
	status = program_exit(&p, SOON_MS);
	CHECK(strstr(program_text(&p), wanted));
	CHECK_EQ(!status, !strstr(wanted, "busy"));
	if (!strcmp(what, "ftruncate") || !strcmp(what, "truncate"))
		CHECK_EQ(file_size_now(&f), status ? FILE_SIZE : PAGE);
	CHECK_EQ(leases_in_kernel(f.ino), 0);
}

static void own(const struct world *w, const void *arg)
{
	const struct shim shim = { .on = true, .kind = arg, .log = "info" };
	const char *kind = arg;

	for (unsigned int i = 0; i < ARRAY_SIZE(changes); i++) {
		const struct change *c = &changes[i];
		const char *wanted = !strcmp(kind, "deleg") ? c->deleg :
				     !strcmp(kind, "lease") ? c->lease :
							      c->guard;

		if (wanted)
			run_owner(w, &shim, c->what, wanted);
	}
}

static void own_exclusive(const struct world *w, const void *arg)
{
	const struct shim shim = { .on = true, .kind = arg, .policy = "exclusive", .log = "info" };

	for (unsigned int i = 0; i < ARRAY_SIZE(changes); i++) {
		if (changes[i].exclusive)
			run_owner(w, &shim, changes[i].what, changes[i].exclusive);
	}
}

/*
 * The dynamic linker takes it into a privileged program from a system folder alone, and only
 * if it is privileged itself. Then it does nothing.
 */
static void privileged(const struct world *w, const void *arg)
{
	static const struct shim on = { .on = true, .log = "info" };
	const char *const saved = shim_path;
	char command[1024];
	struct program p;

	(void)w;
	(void)arg;
	snprintf(command, sizeof(command),
		 "cp %s /usr/lib/x86_64-linux-gnu/libdaxlease-preload.so && "
		 "chmod 4755 /usr/lib/x86_64-linux-gnu/libdaxlease-preload.so && "
		 "cp /bin/cat /tmp/privileged && chmod 4755 /tmp/privileged",
		 shim_path);
	CHECK_EQ(system(command), 0);
	shim_path = "libdaxlease-preload.so";
	program_start(&p, &on,
		      (const char *const[]){ "setpriv", "--reuid", "65534", "--clear-groups",
					     "/bin/cat", "/proc/self/maps", NULL });
	CHECK_EQ(program_exit(&p, SOON_MS), 0);
	CHECK(strstr(program_text(&p), "libdaxlease-preload.so"));
	CHECK(strstr(program_text(&p), "in cat: policy"));
	program_start(&p, &on,
		      (const char *const[]){ "setpriv", "--reuid", "65534", "--clear-groups",
					     "/tmp/privileged", "/proc/self/maps", NULL });
	CHECK_EQ(program_exit(&p, SOON_MS), 0);
	CHECK(strstr(program_text(&p), "libdaxlease-preload.so"));
	CHECK(!strstr(program_text(&p), "in privileged: policy"));
	shim_path = saved;
	CALL(unlink("/usr/lib/x86_64-linux-gnu/libdaxlease-preload.so"));
}

void add_own_cases(void)
{
	static const char *const kinds[] = { "guard", "deleg", "lease", "layout" };

	for (unsigned int i = 0; i < ARRAY_SIZE(kinds) - !layout_kernel; i++) {
		char name[64];

		snprintf(name, sizeof(name), "preload/own/%s", kinds[i]);
		runner_add(NULL, name, own, kinds[i], 0, 60);
	}
	runner_add(NULL, "preload/own-exclusive/guard", own_exclusive, "guard", 0, 60);
	runner_add("ext4", "preload/privileged", privileged, NULL, 0, 0);
}
