// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Who holds, waits for, and uses a file, as far as the caller may see. Opens nothing. */
#include <errno.h>
#include <getopt.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "json.h"
#include "proc.h"
#include "resources.h"
#include "tool.h"

static const char help[] =
	"Usage: daxlease who [OPTION...] FILE...\n"
	"\n"
	"Says which processes hold leases on each FILE, of what kind and in what state,\n"
	"who waits for it, who has it open or mapped, and what RDMA resources those have.\n"
	"FILE is not opened. Of other users' processes only root sees everything; what\n"
	"was not to be seen is said. Of a guard (kind guard) it is daxleased that holds\n"
	"the file, if it is not the process itself; for which of those who use it the\n"
	"daemon does so is not to be seen.\n"
	"\n"
	"  --json        print JSON, as daxlease(1) describes it\n"
	"  -h, --help    show this text\n"
	"\n"
	"Exit status: 0 somebody holds a lease on a FILE, or waits for it; 1 nobody;\n"
	"2 wrong usage; 3 it could not be found out.\n";

struct report {
	const char *path;
	struct file_id id;
	struct lock *locks;
	size_t nlocks;
	struct users users, guards;
	struct waiters waiters;
	const struct resource *resources;
	size_t nresources;
};

static const char *kind_str(enum lock_kind kind)
{
	switch (kind) {
	case LOCK_LEASE:
		return "lease";
	case LOCK_DELEG:
		return "deleg";
	case LOCK_LAYOUT:
		return "layout";
	default:
		return "waits";
	}
}

static const char *state_str(const struct lock *lock)
{
	return !strcmp(lock->state, "BREAKING") ? "breaking" :
	       !strcmp(lock->state, "BREAKER")	? "breaker" :
						  "held";
}

static bool is_daemon(const struct user *guard)
{
	return !strcmp(guard->comm, "daxleased");
}

/* ------------------------------------------------------------------------- */

static void count_resources(const struct report *r, pid_t pid, unsigned int *ret_mrs,
			    unsigned int *ret_qps, uint64_t *ret_bytes)
{
	*ret_mrs = *ret_qps = 0;
	*ret_bytes = 0;
	for (size_t i = 0; i < r->nresources; i++) {
		const struct resource *res = &r->resources[i];

		if (res->pid != pid)
			continue;
		*ret_mrs += res->kind == RESOURCE_MR;
		*ret_qps += res->kind == RESOURCE_QP;
		*ret_bytes += res->kind == RESOURCE_MR ? res->length : 0;
	}
}

static void print_locks(const struct report *r)
{
	char comm[32];

	for (size_t i = 0; i < r->nlocks; i++) {
		const struct lock *l = &r->locks[i];

		proc_comm(l->pid, comm, sizeof(comm));
		if (l->kind == LOCK_WAITER)
			printf("  waits    %s (%d), for the lease above\n", comm, (int)l->pid);
		else
			printf("  holds    %s (%d): %s, %s, %s\n", comm, (int)l->pid,
			       kind_str(l->kind), l->type, state_str(l));
	}
}

static void print_guards(const struct report *r)
{
	for (size_t i = 0; i < r->guards.n; i++)
		printf("  holds    %s (%d): guard%s\n", r->guards.list[i].comm,
		       (int)r->guards.list[i].pid,
		       is_daemon(&r->guards.list[i]) ? ", for others that use it" : "");
}

static void print_waiters(const struct report *r)
{
	for (size_t i = 0; i < r->waiters.n; i++) {
		const struct waiter *w = &r->waiters.list[i];

		printf("  waits    %s (%d", w->comm, (int)w->pid);
		if (w->tid != w->pid)
			printf(", thread %d", (int)w->tid);
		printf("): in %s, in the kernel's %s\n", w->call, w->where[0] ? w->where : "?");
	}
}

static void print_users(const struct report *r)
{
	for (size_t i = 0; i < r->users.n; i++) {
		const struct user *u = &r->users.list[i];
		unsigned int mrs, qps;
		uint64_t bytes;

		count_resources(r, u->pid, &mrs, &qps, &bytes);
		printf("  uses     %s (%d):%s%s%s", u->comm, (int)u->pid,
		       u->uses & USES_READ ? " reads" : "", u->uses & USES_WRITE ? " writes" : "",
		       u->uses & USES_SHARED ? " mapped" :
		       u->uses & USES_MAPPED ? " mapped privately" :
					       "");
		if (mrs || qps)
			printf("; %u memory regions of %ju KiB, %u queue pairs", mrs,
			       (uintmax_t)bytes >> 10, qps);
		putchar('\n');
	}
}

static void print_report(const struct report *r)
{
	printf("%s\n", r->path);
	print_locks(r);
	print_guards(r);
	print_waiters(r);
	print_users(r);
	if (!r->nlocks && !r->guards.n && !r->waiters.n && !r->users.n)
		puts("  nobody");
	if (r->users.hidden || r->waiters.hidden)
		printf("  %u processes and %u tasks may not be looked into%s\n", r->users.hidden,
		       r->waiters.hidden, geteuid() ? ": be root" : "");
}

/* ------------------------------------------------------------------------- */

static json_object *locks_json(const struct report *r, bool waiting)
{
	json_object *list = json_object_new_array();
	char comm[32];

	for (size_t i = 0; i < r->nlocks; i++) {
		const struct lock *l = &r->locks[i];
		json_object *o;

		if ((l->kind == LOCK_WAITER) != waiting)
			continue;
		o = json_object_new_object();
		proc_comm(l->pid, comm, sizeof(comm));
		json_put_number(o, "pid", (uint64_t)l->pid);
		if (waiting)
			json_put(o, "tid", NULL);
		json_put_text(o, "comm", comm);
		if (waiting) { /* the same members as those of add_waiters() */
			json_put(o, "call", NULL);
			json_put(o, "where", NULL);
		} else {
			json_put_text(o, "kind", kind_str(l->kind));
			json_put_text(o, "type", l->type);
			json_put_text(o, "state", state_str(l));
		}
		json_object_array_add(list, o);
	}
	return list;
}

static void add_waiters(const struct report *r, json_object *list)
{
	for (size_t i = 0; i < r->waiters.n; i++) {
		const struct waiter *w = &r->waiters.list[i];
		json_object *o = json_object_new_object();

		json_put_number(o, "pid", (uint64_t)w->pid);
		json_put_number(o, "tid", (uint64_t)w->tid);
		json_put_text(o, "comm", w->comm);
		json_put_text(o, "call", w->call);
		json_put_text(o, "where", w->where);
		json_object_array_add(list, o);
	}
}

static json_object *users_json(const struct report *r)
{
	json_object *list = json_object_new_array();

	for (size_t i = 0; i < r->users.n; i++) {
		const struct user *u = &r->users.list[i];
		json_object *o = json_user(u);
		unsigned int mrs, qps;
		uint64_t bytes;

		count_resources(r, u->pid, &mrs, &qps, &bytes);
		json_put_number(o, "memory_regions", mrs);
		json_put_number(o, "memory_region_bytes", bytes);
		json_put_number(o, "queue_pairs", qps);
		json_object_array_add(list, o);
	}
	return list;
}

static void add_guards(const struct report *r, json_object *list)
{
	for (size_t i = 0; i < r->guards.n; i++) {
		json_object *o = json_object_new_object();

		json_put_number(o, "pid", (uint64_t)r->guards.list[i].pid);
		json_put_text(o, "comm", r->guards.list[i].comm);
		json_put_text(o, "kind", "guard");
		json_object_array_add(list, o);
	}
}

static json_object *report_json(const struct report *r)
{
	json_object *o = json_object_new_object(), *waiters = locks_json(r, true);
	json_object *holders = locks_json(r, false);

	add_guards(r, holders);
	add_waiters(r, waiters);
	json_put_text(o, "path", r->path);
	json_put(o, "holders", holders);
	json_put(o, "waiters", waiters);
	json_put(o, "users", users_json(r));
	json_put_number(o, "hidden_processes", r->users.hidden);
	return o;
}

/* ------------------------------------------------------------------------- */

static int find_out(struct report *r)
{
	struct stat st;
	int err;

	if (stat(r->path, &st))
		return -errno;
	r->id = (struct file_id){ st.st_dev, st.st_ino };
	err = proc_locks(&r->id, &r->locks, &r->nlocks);
	if (!err)
		err = proc_guards(&r->id, &r->guards);
	if (!err)
		err = proc_users(&r->id, getpid(), &r->users);
	return err ? err : proc_waiters(&r->id, &r->waiters);
}

static void free_report(struct report *r)
{
	free(r->locks);
	proc_users_free(&r->users);
	proc_users_free(&r->guards);
	proc_waiters_free(&r->waiters);
}

static int report_files(char **paths, const struct resource *resources, size_t nresources,
			json_object *list)
{
	int status = TOOL_NO;

	for (; *paths; paths++) {
		struct report r = { .path = *paths,
				    .resources = resources,
				    .nresources = nresources };
		int err = find_out(&r);

		if (err) {
			tool_say("who: %s: %s", *paths, strerror(-err));
			status = TOOL_FAILED;
		} else if (list) {
			json_object_array_add(list, report_json(&r));
		} else {
			print_report(&r);
		}
		if (status == TOOL_NO && (r.nlocks || r.guards.n || r.waiters.n))
			status = 0;
		free_report(&r);
	}
	return status;
}

static int report(char **paths, bool json)
{
	json_object *root = json ? json_begin() : NULL;
	json_object *files = json ? json_object_new_array() : NULL;
	struct resource *resources = NULL;
	size_t nresources = 0;
	int status;

	resources_list(&resources, &nresources); /* without RDMA there are none */
	status = report_files(paths, resources, nresources, files);
	if (root) {
		json_put(root, "files", files);
		json_end(root, false);
	}
	free(resources);
	return status;
}

int who_main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	bool json = false;
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (c == 'h') {
			fputs(help, stdout);
			return 0;
		}
		if (c != 'j') {
			tool_say("see daxlease who --help");
			return TOOL_USAGE;
		}
		json = true;
	}
	if (optind == argc) {
		tool_say("who: no FILE; see daxlease who --help");
		return TOOL_USAGE;
	}
	return report(argv + optind, json);
}
