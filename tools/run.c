// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Runs a program with the preload shim; says so if that would not get into it. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "../preload/settings.h"
#include "tool.h"

#define EXIT_NOT_RUN 126   /* as env(1) */
#define EXIT_NOT_FOUND 127 /* likewise */
#define MAX_SCRIPTS 4	   /* whose interpreter is one */

static const char help[] =
	"Usage: daxlease run [OPTION...] [--] COMMAND [ARG...]\n"
	"\n"
	"Runs COMMAND with libdaxlease-preload.so: what it registers of FS-DAX files is\n"
	"under a lease. daxlease-preload(7) says what that does and what it cannot.\n"
	"\n"
	"  --policy P    when somebody wants to change the file: fence (default),\n"
	"                exclusive or abort\n"
	"  --kind K      kind of lease: auto (default), layout, layout-rfc, guard,\n"
	"                deleg or lease\n"
	"  --log L       error, warning (default), info or debug\n"
	"  --log-file F  write there instead of standard error\n"
	"  --budget MS   time to drain, milliseconds\n"
	"  -h, --help    show this text\n"
	"\n"
	"Exit status: COMMAND's; 2 wrong usage; 126 it cannot be run this way; 127 not\n"
	"found.\n";

static bool is_one_of(const char *text, const char *const *words)
{
	while (*words) {
		if (!strcmp(text, *words++))
			return true;
	}
	return false;
}

/* ------------------------------------------------------------------------- */
/* The shim */

/* Beside the tool in a build folder, else where it is installed. */
static const char *find_shim(char *ret_path, size_t size)
{
	const char *named = getenv("DAXLEASE_PRELOAD");
	char exe[PATH_MAX - 64], *slash;
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	if (named && *named)
		return access(named, R_OK) ? NULL : named;
	exe[n < 0 ? 0 : n] = '\0';
	slash = strrchr(exe, '/');
	if (slash) {
		*slash = '\0';
		snprintf(ret_path, size, "%s/../preload/libdaxlease-preload.so", exe);
		if (!access(ret_path, R_OK))
			return ret_path;
	}
	snprintf(ret_path, size, "%s", PRELOAD_PATH);
	return access(ret_path, R_OK) ? NULL : ret_path;
}

/* ------------------------------------------------------------------------- */
/* The program */

static bool find_program(const char *name, char *ret_path, size_t size)
{
	const char *dirs = getenv("PATH"), *end;
	struct stat st;

	if (strchr(name, '/')) {
		snprintf(ret_path, size, "%s", name);
		return !access(ret_path, F_OK);
	}
	for (dirs = dirs ? dirs : "/usr/bin:/bin"; dirs; dirs = *end ? end + 1 : NULL) {
		end = strchrnul(dirs, ':');
		snprintf(ret_path, size, "%.*s%s%s", (int)(end - dirs), dirs,
			 end == dirs ? "" : "/", name);
		if (*name && !access(ret_path, X_OK) && !stat(ret_path, &st) && S_ISREG(st.st_mode))
			return true;
	}
	return false;
}

/* NULL: the dynamic linker will load the shim into it. */
static const char *why_not_elf(int fd)
{
	Elf64_Ehdr header;
	Elf64_Phdr segment;

	if (pread(fd, &header, sizeof(header), 0) != sizeof(header) ||
	    memcmp(header.e_ident, ELFMAG, SELFMAG))
		return NULL; /* execve(2) knows better */
	if (header.e_ident[EI_CLASS] != ELFCLASS64)
		return "it is a 32-bit program, and the shim is not";
	for (unsigned int i = 0; i < header.e_phnum; i++) {
		if (pread(fd, &segment, sizeof(segment),
			  (off_t)(header.e_phoff + (size_t)i * header.e_phentsize)) !=
		    sizeof(segment))
			break;
		if (segment.p_type == PT_INTERP)
			return NULL;
	}
	return "it is statically linked: nothing can be loaded into it. Link it dynamically, or use "
	       "libdaxlease in it";
}

static const char *why_not_privileged(int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		return NULL;
	if ((st.st_mode & S_ISUID && st.st_uid != geteuid()) ||
	    (st.st_mode & S_ISGID && st.st_mode & S_IXGRP && st.st_gid != getegid()))
		return "it is setuid or setgid: LD_PRELOAD is ignored then. Run it as that user";
	if (geteuid() && fgetxattr(fd, "security.capability", NULL, 0) > 0)
		return "it has file capabilities: LD_PRELOAD is ignored then. Run it as a user who "
		       "has them";
	return NULL;
}

/* The interpreter of a script, which is what the shim gets into. */
static bool interpreter_of(int fd, char *ret_path, size_t size)
{
	char line[256], *start;
	ssize_t n = pread(fd, line, sizeof(line) - 1, 0);

	if (n < 2 || line[0] != '#' || line[1] != '!')
		return false;
	line[n] = '\0';
	start = line + 2 + strspn(line + 2, " \t");
	start[strcspn(start, " \t\n")] = '\0';
	snprintf(ret_path, size, "%s", start);
	return true;
}

static const char *why_not(const char *program)
{
	char path[PATH_MAX];
	const char *why = NULL;

	snprintf(path, sizeof(path), "%s", program);
	for (int i = 0; i <= MAX_SCRIPTS; i++) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		bool script;

		if (fd < 0) /* one may run what one may not read */
			return NULL;
		why = why_not_privileged(fd);
		script = !why && interpreter_of(fd, path, sizeof(path));
		if (!why && !script)
			why = why_not_elf(fd);
		close(fd);
		if (!script)
			break;
	}
	return why;
}

/* ------------------------------------------------------------------------- */

static int set(const char *name, const char *value)
{
	return value && setenv(name, value, 1) ? -1 : 0;
}

/* First, for its hooks have to come before those of others. */
static int set_preload(const char *shim)
{
	const char *others = getenv("LD_PRELOAD");
	char *all;
	int err;

	if (!others || !*others)
		return set("LD_PRELOAD", shim);
	if (asprintf(&all, "%s:%s", shim, others) < 0)
		return -1;
	err = set("LD_PRELOAD", all);
	free(all);
	return err;
}

struct options {
	const char *policy, *kind, *log, *log_file, *budget;
};

static int bad(const char *option, const char *value, const char *want)
{
	tool_say("run: %s %s: has to be %s", option, value, want);
	return TOOL_USAGE;
}

/* What the shim takes (read_budget() there), but for 0: it would warn in the program's log only. */
static bool is_budget(const char *value)
{
	unsigned long ms;
	char *end;

	errno = 0;
	ms = strtoul(value, &end, 10);
	return !errno && !*end && value[0] >= '0' && value[0] <= '9' && ms > 0 &&
	       ms <= BUDGET_MAX_MS;
}

static int check(const struct options *o)
{
	static const char *const policies[] = { "fence", "exclusive", "abort", NULL };
	static const char *const kinds[] = { "auto",  "layout", "layout-rfc", "guard",
					     "deleg", "lease",	NULL };
	static const char *const levels[] = { "error", "warning", "info", "debug", NULL };

	if (o->policy && !is_one_of(o->policy, policies))
		return bad("--policy", o->policy, "fence, exclusive or abort");
	if (o->kind && !is_one_of(o->kind, kinds))
		return bad("--kind", o->kind, "auto, layout, layout-rfc, guard, deleg or lease");
	if (o->log && !is_one_of(o->log, levels))
		return bad("--log", o->log, "error, warning, info or debug");
	if (o->budget && !is_budget(o->budget))
		return bad("--budget", o->budget,
			   "a number of milliseconds above 0, at most a day (86400000)");
	return 0;
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option options[] = {
		{ "policy", required_argument, NULL, 'p' },
		{ "kind", required_argument, NULL, 'k' },
		{ "log", required_argument, NULL, 'l' },
		{ "log-file", required_argument, NULL, 'f' },
		{ "budget", required_argument, NULL, 'b' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "+h", options, NULL)) != -1) {
		switch (c) {
		case 'p':
			o->policy = optarg;
			break;
		case 'k':
			o->kind = optarg;
			break;
		case 'l':
			o->log = optarg;
			break;
		case 'f':
			o->log_file = optarg;
			break;
		case 'b':
			o->budget = optarg;
			break;
		case 'h':
			fputs(help, stdout);
			exit(0);
		default:
			tool_say("see daxlease run --help");
			return TOOL_USAGE;
		}
	}
	if (optind == argc) {
		tool_say("run: no command; see daxlease run --help");
		return TOOL_USAGE;
	}
	return check(o);
}

int run_main(int argc, char **argv)
{
	char program[PATH_MAX], found[PATH_MAX];
	struct options o = { 0 };
	const char *shim, *why;
	int err = parse(argc, argv, &o);

	if (err)
		return err;
	argv += optind;
	shim = find_shim(found, sizeof(found));
	if (!shim) {
		tool_say("run: no libdaxlease-preload.so (%s): install it, or name it by "
			 "DAXLEASE_PRELOAD",
			 PRELOAD_PATH);
		return EXIT_NOT_RUN;
	}
	if (!find_program(argv[0], program, sizeof(program))) {
		tool_say("run: %s: not found", argv[0]);
		return EXIT_NOT_FOUND;
	}
	if (strpbrk(shim, " :")) {
		tool_say(
			"run: %s: LD_PRELOAD ends names at a blank or a colon: have the shim elsewhere",
			shim);
		return EXIT_NOT_RUN;
	}
	why = why_not(program);
	if (why) {
		tool_say("run: %s: %s", argv[0], why);
		return EXIT_NOT_RUN;
	}
	if (set("DAXLEASE_POLICY", o.policy) || set("DAXLEASE_KIND", o.kind) ||
	    set("DAXLEASE_LOG", o.log) || set("DAXLEASE_LOG_FILE", o.log_file) ||
	    set("DAXLEASE_BUDGET_MS", o.budget) || set_preload(shim)) {
		tool_say("run: out of memory");
		return TOOL_FAILED;
	}
	execv(program, argv);
	err = errno; /* for what is said may fail, too */
	tool_say("run: %s: %s", argv[0], strerror(err));
	return err == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_RUN;
}
