// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * What contexts publish (lib/publish.h), again and again. The other process may write
 * anything there: it is read, never mapped, and nothing in it is believed before it was checked.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include <daxlease/daxlease.h>

#include "json.h"
#include "proc.h"
#include "publish.h"
#include "tool.h"

#define TRIES 50 /* to read a table while it is not being changed */

static const char help[] =
	"Usage: daxlease watch [OPTION...] [PID|FILE]\n"
	"\n"
	"Shows the regions, leases and breaks of processes that publish them: those with\n"
	"the preload shim (daxlease run), and those that ask for DAXLEASE_CTX_PUBLISH. Of\n"
	"all processes whose memory the caller may read, of one, or those of a FILE.\n"
	"\n"
	"  --interval S  seconds from one look to the next (1); fractions are allowed\n"
	"  --once        look once\n"
	"  --json        print JSON, one line for each look, as daxlease(1) describes it\n"
	"  -h, --help    show this text\n"
	"\n"
	"Ctrl-C ends it. Exit status: 0, with --once if there is a context; 1 there is\n"
	"none; 2 wrong usage; 3 it could not be found out.\n";

struct options {
	double interval;
	bool once, json;
	pid_t pid; /* 0: all */
	bool by_file;
	struct file_id file;
};

struct view {
	const struct options *options;
	json_object *list; /* NULL: text */
	unsigned int contexts, hidden;
	bool clear;
};

static volatile sig_atomic_t stopped;

static void on_signal(int signo)
{
	(void)signo;
	stopped = 1;
}

/* ------------------------------------------------------------------------- */
/* Reading */

static bool read_at(int mem, uint64_t addr, void *ret, size_t size)
{
	return pread(mem, ret, size, (off_t)addr) == (ssize_t)size;
}

/* False: it is none, or is never left alone. */
static bool read_table(int mem, uint64_t addr, pid_t pid, struct publish_table *t)
{
	uint64_t after;

	for (int i = 0; i < TRIES; i++) {
		if (!read_at(mem, addr, t, sizeof(*t)) || t->magic != PUBLISH_MAGIC ||
		    t->version != PUBLISH_VERSION || t->size != sizeof(*t) || t->pid != pid ||
		    t->slots != PUBLISH_REGIONS)
			return false;
		if (!read_at(mem, addr + offsetof(struct publish_table, seq), &after,
			     sizeof(after)))
			return false;
		if (!(t->seq & 1) && after == t->seq)
			return true;
		usleep(100);
	}
	return false;
}

/* ------------------------------------------------------------------------- */
/* Showing */

static bool is_wanted(const struct options *o, const struct publish_region *r)
{
	return r->used && (!o->by_file || (r->dev == o->file.dev && r->ino == o->file.ino));
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static double seconds_since(uint64_t ns)
{
	uint64_t now = now_ns();

	return ns && ns < now ? (double)(now - ns) / 1e9 : 0;
}

static void print_table(const struct view *v, const struct publish_table *t, const char *comm)
{
	printf("%s (%d): %ju regions, %ju files leased; breaks %ju, drained %ju, fenced %ju, lost "
	       "%ju, regained %ju, longest %.1f ms\n",
	       comm, (int)t->pid, (uintmax_t)t->regions, (uintmax_t)t->leases, (uintmax_t)t->breaks,
	       (uintmax_t)t->released, (uintmax_t)t->overruns, (uintmax_t)t->lost,
	       (uintmax_t)t->regained, (double)t->drain_max_ns / 1e6);
	for (unsigned int i = 0; i < PUBLISH_REGIONS; i++) {
		const struct publish_region *r = &t->region[i];

		if (is_wanted(v->options, r))
			printf("  %#14jx +%-10ju %u:%u inode %-8ju %-10s %-9s %-13s %6.1f s, breaks %ju\n",
			       (uintmax_t)r->addr, (uintmax_t)r->length, major((dev_t)r->dev),
			       minor((dev_t)r->dev), (uintmax_t)r->ino,
			       daxlease_kind_str((enum daxlease_kind)r->kind),
			       r->on_demand ? "on demand" : "pinned",
			       daxlease_state_str((enum daxlease_state)r->state),
			       seconds_since(r->since_ns), (uintmax_t)r->breaks);
	}
}

static json_object *region_json(const struct publish_region *r)
{
	json_object *o = json_object_new_object();
	char dev[32];

	snprintf(dev, sizeof(dev), "%u:%u", major((dev_t)r->dev), minor((dev_t)r->dev));
	json_put_number(o, "addr", r->addr);
	json_put_number(o, "length", r->length);
	json_put_text(o, "dev", dev);
	json_put_number(o, "ino", r->ino);
	json_put_text(o, "kind", daxlease_kind_str((enum daxlease_kind)r->kind));
	json_put_bool(o, "on_demand", r->on_demand);
	json_put_text(o, "state", daxlease_state_str((enum daxlease_state)r->state));
	json_put(o, "seconds", json_object_new_double(seconds_since(r->since_ns)));
	json_put_number(o, "breaks", r->breaks);
	return o;
}

static json_object *table_json(const struct view *v, const struct publish_table *t,
			       const char *comm)
{
	json_object *o = json_object_new_object(), *regions = json_object_new_array();

	json_put_number(o, "pid", (uint64_t)t->pid);
	json_put_text(o, "comm", comm);
	json_put_number(o, "region_count", t->regions);
	json_put_number(o, "leases", t->leases);
	json_put_number(o, "breaks", t->breaks);
	json_put_number(o, "released", t->released);
	json_put_number(o, "overruns", t->overruns);
	json_put_number(o, "lost", t->lost);
	json_put_number(o, "regained", t->regained);
	json_put_number(o, "drain_max_ns", t->drain_max_ns);
	for (unsigned int i = 0; i < PUBLISH_REGIONS; i++) {
		if (is_wanted(v->options, &t->region[i]))
			json_object_array_add(regions, region_json(&t->region[i]));
	}
	json_put(o, "regions", regions);
	return o;
}

static bool has_file(const struct options *o, const struct publish_table *t)
{
	for (unsigned int i = 0; i < PUBLISH_REGIONS; i++) {
		if (is_wanted(o, &t->region[i]))
			return true;
	}
	return !o->by_file;
}

static void show(struct view *v, const struct publish_table *t)
{
	char comm[32];

	if (!has_file(v->options, t))
		return;
	v->contexts++;
	proc_comm(t->pid, comm, sizeof(comm));
	if (v->list)
		json_object_array_add(v->list, table_json(v, t, comm));
	else
		print_table(v, t, comm);
}

/* ------------------------------------------------------------------------- */

/* A process may have several contexts. */
static int look_at(struct view *v, pid_t pid)
{
	char path[40], *line = NULL;
	struct publish_table *t = NULL;
	size_t size = 0;
	int mem = -1, err = 0;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	maps = fopen(path, "re");
	if (!maps)
		return -errno;
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	while (getline(&line, &size, maps) > 0) {
		if (!strstr(line, "/memfd:" PUBLISH_NAME " (deleted)"))
			continue;
		if (mem < 0)
			mem = open(path, O_RDONLY | O_CLOEXEC);
		if (mem < 0) { /* Yama, for one, shows the maps and not the memory */
			err = -errno;
			break;
		}
		if (!t)
			t = malloc(sizeof(*t));
		if (!t) {
			err = -ENOMEM;
			break;
		}
		if (read_table(mem, strtoull(line, NULL, 16), pid, t))
			show(v, t);
	}
	if (mem >= 0)
		close(mem);
	free(t);
	free(line);
	fclose(maps);
	return err;
}

static int look_at_all(struct view *v)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;

	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		pid_t pid = (pid_t)atoi(entry->d_name);

		if (pid > 0)
			v->hidden += look_at(v, pid) == -EACCES;
	}
	closedir(dir);
	return 0;
}

static int look(const struct options *o, unsigned int *ret_contexts)
{
	struct view v = { .options = o, .list = o->json ? json_object_new_array() : NULL };
	json_object *root;
	int err;

	if (!o->json && !o->once && isatty(STDOUT_FILENO))
		printf("\033[H\033[J"); /* home, and clear */
	err = o->pid ? look_at(&v, o->pid) : look_at_all(&v);
	if (v.list) {
		root = json_begin();
		json_put(root, "contexts", v.list);
		json_put_number(root, "hidden_processes", v.hidden);
		json_end(root, true);
	} else if (!err && !v.contexts) {
		printf("nobody publishes anything%s\n",
		       v.hidden ? " that may be seen: be root to see the rest" : "");
	}
	fflush(stdout);
	*ret_contexts = v.contexts;
	return err;
}

static int find_target(const char *text, struct options *o)
{
	struct stat st;
	char *end;
	long pid = strtol(text, &end, 10);

	if (!*end && pid > 0) {
		o->pid = pid > INT_MAX ? INT_MAX : (pid_t)pid; /* which no process has */
		return 0;
	}
	if (stat(text, &st)) {
		tool_say("watch: %s: %s", text, strerror(errno));
		return TOOL_FAILED;
	}
	o->by_file = true;
	o->file = (struct file_id){ st.st_dev, st.st_ino };
	return 0;
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option options[] = {
		{ "interval", required_argument, NULL, 'i' },
		{ "once", no_argument, NULL, 'o' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	char *end;
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'i':
			o->interval = strtod(optarg, &end);
			if (*end || !(o->interval >= 0.01 && o->interval <= 86400)) {
				tool_say(
					"watch: --interval %s: has to be seconds, from 0.01 to 86400",
					optarg);
				return TOOL_USAGE;
			}
			break;
		case 'o':
			o->once = true;
			break;
		case 'j':
			o->json = true;
			break;
		case 'h':
			fputs(help, stdout);
			exit(0);
		default:
			tool_say("see daxlease watch --help");
			return TOOL_USAGE;
		}
	}
	if (argc - optind > 1) {
		tool_say("watch: one PID or FILE; see daxlease watch --help");
		return TOOL_USAGE;
	}
	return optind < argc ? find_target(argv[optind], o) : 0;
}

static void pause_for(double seconds)
{
	struct timespec ts = { .tv_sec = (time_t)seconds };

	ts.tv_nsec = (long)((seconds - (double)ts.tv_sec) * 1e9);
	nanosleep(&ts, NULL);
}

int watch_main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct options o = { .interval = 1 };
	unsigned int contexts;
	int err = parse(argc, argv, &o);

	if (err)
		return err;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	do {
		err = look(&o, &contexts);
		if (err) {
			tool_say("watch: %s%d: %s", o.pid ? "process " : "/proc, ", (int)o.pid,
				 err == -ENOENT ? "it does not run" :
				 err == -EACCES ? "its memory may not be read: be root, or see "
						  "kernel.yama.ptrace_scope" :
						  strerror(-err));
			return TOOL_FAILED;
		}
		if (!o.once && !stopped && !ferror(stdout))
			pause_for(o.interval);
	} while (!o.once && !stopped && !ferror(stdout));
	return o.once && !contexts ? TOOL_NO : 0;
}
