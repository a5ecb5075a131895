// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Will it work here, and if not, why: inspect.c finds out, by trying; this prints it. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inspect.h"
#include "json.h"
#include "tool.h"

#define MANY_USERS 5 /* named; more are counted */

static const char help[] =
	"Usage: daxlease doctor [OPTION...] [FILE...]\n"
	"\n"
	"Says what the kernel, each RDMA device and each FILE can do, and for each FILE\n"
	"and device, by trying it with the first page: registered pinned, on demand, or\n"
	"not at all, and what would have to change. A FILE that somebody leases is not\n"
	"opened, for that would break the lease.\n"
	"\n"
	"  --device D    only this device, such as rxe0\n"
	"  --traffic     also write the first page of each FILE to itself by RDMA:\n"
	"                devices exist that register memory and fail each request for\n"
	"                it. The content stays; a hole there gets a block\n"
	"  --json        print JSON, as daxlease(1) describes it\n"
	"  -h, --help    show this text\n"
	"\n"
	"Exit status: 0 each FILE can be registered with a device (and, with --traffic,\n"
	"be written to); 1 one cannot; 2 wrong usage; 3 it could not be found out.\n";

struct options {
	const char *device;
	bool traffic, json;
};

static const char *const kinds_shown[] = { "layout", "layout-rfc", "guard", "deleg", "lease" };

static enum daxlease_kind kind_at(size_t i)
{
	enum daxlease_kind kind = DAXLEASE_KIND_NONE;

	daxlease_kind_from_str(kinds_shown[i], &kind);
	return kind;
}

static bool has_worked(const struct attempt *a)
{
	return !a->err && !a->traffic[0];
}

static bool is_good(const struct file_report *r, size_t ndevices)
{
	for (size_t i = 0; i < ndevices; i++) {
		if (r->opened && !r->err && has_worked(&r->attempts[i]))
			return true;
	}
	return false;
}

static const char *verdict(const struct attempt *a)
{
	if (a->err)
		return "not at all";
	if (a->kind == DAXLEASE_KIND_NONE)
		return "plain memory";
	return a->on_demand ? "on demand" : "pinned";
}

/* ------------------------------------------------------------------------- */
/* Text */

static void print_machine(const struct machine *m)
{
	printf("Linux %s\n", m->release);
	printf("  leases            %s\n",
	       m->leases_enable == 0 ? "switched off: sysctl fs.leases-enable=1" : "on");
	if (m->break_time == 0)
		printf("  time to drain     no limit (fs.lease-break-time is 0)\n");
	else
		printf("  time to drain     %ld s (fs.lease-break-time)\n", m->break_time);
	if (m->memlock == UINT64_MAX)
		printf("  pinned memory     no limit\n");
	else
		printf("  pinned memory     %ju KiB for each process (ulimit -l)\n",
		       (uintmax_t)m->memlock >> 10);
	printf("  guard             %s%s%s\n",
	       m->can_guard ? "in the process (CAP_SYS_ADMIN)" :
			      "not in the process (no CAP_SYS_ADMIN)",
	       m->daemon ? "; no daxleased: " : "; daxleased answers",
	       m->daemon ? strerror(-m->daemon) : "");
}

static void print_odp(const char *transport, uint32_t caps, const char **comma)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} bits[] = {
		{ IBV_ODP_SUPPORT_SEND, "send" },     { IBV_ODP_SUPPORT_RECV, "recv" },
		{ IBV_ODP_SUPPORT_WRITE, "write" },   { IBV_ODP_SUPPORT_READ, "read" },
		{ IBV_ODP_SUPPORT_ATOMIC, "atomic" },
	};

	if (!caps)
		return;
	printf("%s%s", *comma, transport);
	for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++) {
		if (caps & bits[i].bit)
			printf(" %s", bits[i].name);
	}
	*comma = ", ";
}

static void print_device(const struct device *d)
{
	const char *comma = "";

	printf("%s\n", d->name);
	if (d->err) {
		printf("  cannot be opened  %s\n", strerror(-d->err));
		return;
	}
	printf("  port 1            %s, path MTU %u\n", d->active ? "active" : "not active",
	       d->mtu);
	printf("  on-demand paging  ");
	if (d->odp_general) {
		print_odp("RC", d->odp_rc, &comma);
		print_odp("UC", d->odp_uc, &comma);
		print_odp("UD", d->odp_ud, &comma);
		puts(*comma ? "" : "yes, for no transport that is asked about");
	} else {
		puts("no");
	}
}

static void print_users(const struct file_report *r)
{
	const struct users *u = &r->users;

	printf("  open elsewhere    ");
	for (size_t i = 0; i < u->n && i < MANY_USERS; i++)
		printf("%s%s (%d)%s%s", i ? ", " : "", u->list[i].comm, (int)u->list[i].pid,
		       u->list[i].uses & USES_WRITE ? " writing" :
		       u->list[i].uses & USES_READ  ? " reading" :
						      "",
		       u->list[i].uses & USES_MAPPED ? " mapped" : "");
	if (u->n > MANY_USERS)
		printf(" and %zu more", u->n - MANY_USERS);
	if (!u->n)
		printf("by nobody");
	if (u->hidden)
		printf("; %u processes may not be looked into", u->hidden);
	putchar('\n');
}

static void print_kinds(const struct file_report *r)
{
	const char *comma = "";

	printf("  lease kinds       ");
	for (size_t i = 0; i < sizeof(kinds_shown) / sizeof(kinds_shown[0]); i++) {
		const struct daxlease_kind_caps *k = &r->caps.kinds[kind_at(i)];

		if (k->error == -EOPNOTSUPP)
			continue;
		printf("%s%s", comma, kinds_shown[i]);
		if (k->error)
			printf(" (%s)", strerror(-k->error));
		comma = ", ";
	}
	printf("%s\n  in short          %s\n", *comma ? "" : "none", r->caps.reason);
}

static void print_attempt(const struct device *d, const struct attempt *a)
{
	printf("  with %-12s %s", d->name, verdict(a));
	if (a->err)
		printf(": %s", a->why[0] ? a->why : strerror(-a->err));
	else if (a->kind == DAXLEASE_KIND_NONE)
		printf(", without a lease");
	else
		printf(", under a lease of kind %s", daxlease_kind_str(a->kind));
	if (a->traffic_tried)
		printf("; %s", a->traffic[0] ? a->traffic : "a page was written by RDMA");
	putchar('\n');
}

static void print_file(const struct file_report *r, const struct device *devices, size_t ndevices)
{
	printf("%s\n", r->path);
	if (r->mount.fs[0])
		printf("  filesystem        %s on %s (%s)\n", r->mount.fs, r->mount.dir,
		       r->mount.options);
	if (r->why[0])
		printf("  %s  %s\n", r->opened ? "no FS-DAX       " : "not looked into ", r->why);
	if (!r->opened)
		return;
	printf("  owner             uid %u%s\n", (unsigned int)r->owner,
	       r->may_lease ? "" : ": leasing takes that user, or CAP_LEASE");
	print_users(r);
	if (r->huge != UINT64_MAX)
		printf("  huge pages        %ju of %ju MiB are where 2 MiB pages can map them\n",
		       (uintmax_t)r->huge >> 20, (uintmax_t)r->size >> 20);
	if (!r->err)
		print_kinds(r);
	for (size_t i = 0; i < ndevices && !r->err; i++)
		print_attempt(&devices[i], &r->attempts[i]);
}

/* ------------------------------------------------------------------------- */
/* JSON */

static json_object *machine_json(const struct machine *m)
{
	json_object *o = json_object_new_object();

	json_put_text(o, "release", m->release);
	json_put_bool(o, "leases_enabled", m->leases_enable != 0);
	json_put(o, "lease_break_time", json_object_new_int64(m->break_time));
	json_put_number(o, "memlock_bytes", m->memlock);
	json_put_bool(o, "guard_in_process", m->can_guard);
	json_put_bool(o, "daxleased", !m->daemon);
	return o;
}

static json_object *device_json(const struct device *d)
{
	json_object *o = json_object_new_object();

	json_put_text(o, "name", d->name);
	json_put_text(o, "error", d->err ? strerror(-d->err) : NULL);
	json_put_bool(o, "port_active", d->active);
	json_put_number(o, "path_mtu", d->mtu);
	json_put_bool(o, "odp", d->odp_general);
	json_put_number(o, "odp_rc", d->odp_rc);
	json_put_number(o, "odp_uc", d->odp_uc);
	json_put_number(o, "odp_ud", d->odp_ud);
	return o;
}

static json_object *users_json(const struct users *users)
{
	json_object *list = json_object_new_array();

	for (size_t i = 0; i < users->n; i++)
		json_object_array_add(list, json_user(&users->list[i]));
	return list;
}

static json_object *kinds_json(const struct file_report *r)
{
	json_object *kinds = json_object_new_object();

	for (size_t i = 0; i < sizeof(kinds_shown) / sizeof(kinds_shown[0]); i++) {
		int err = r->caps.kinds[kind_at(i)].error;

		json_put_text(kinds, kinds_shown[i], err ? strerror(-err) : "ok");
	}
	return kinds;
}

static json_object *attempt_json(const struct device *d, const struct attempt *a)
{
	json_object *o = json_object_new_object();

	json_put_text(o, "device", d->name);
	json_put_text(o, "verdict", verdict(a));
	json_put_text(o, "kind", a->err ? NULL : daxlease_kind_str(a->kind));
	json_put_text(o, "why", !a->err ? NULL : a->why[0] ? a->why : strerror(-a->err));
	json_put_text(o, "traffic", !a->traffic_tried ? NULL : a->traffic[0] ? a->traffic : "ok");
	return o;
}

static json_object *file_json(const struct file_report *r, const struct device *devices,
			      size_t ndevices)
{
	json_object *o = json_object_new_object(), *list = json_object_new_array();

	json_put_text(o, "path", r->path);
	json_put_bool(o, "opened", r->opened);
	json_put_bool(o, "fs_dax", r->opened && r->caps.fs_dax);
	json_put_text(o, "why", r->why);
	json_put_text(o, "filesystem", r->mount.fs);
	json_put_text(o, "mounted_on", r->mount.dir);
	json_put_text(o, "mount_options", r->mount.options);
	json_put_number(o, "size", r->size);
	json_put_number(o, "owner", r->owner);
	json_put_bool(o, "may_lease", r->may_lease);
	json_put_number(o, "huge_page_bytes", r->huge);
	json_put(o, "users", users_json(&r->users));
	json_put_number(o, "hidden_processes", r->users.hidden);
	json_put(o, "kinds", r->opened && !r->err ? kinds_json(r) : NULL);
	json_put_text(o, "reason", r->caps.reason);
	for (size_t i = 0; i < ndevices && r->opened && !r->err; i++)
		json_object_array_add(list, attempt_json(&devices[i], &r->attempts[i]));
	json_put(o, "devices", list);
	return o;
}

/* ------------------------------------------------------------------------- */

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option options[] = {
		{ "device", required_argument, NULL, 'd' },
		{ "traffic", no_argument, NULL, 't' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'd':
			o->device = optarg;
			break;
		case 't':
			o->traffic = true;
			break;
		case 'j':
			o->json = true;
			break;
		case 'h':
			fputs(help, stdout);
			exit(0);
		default:
			tool_say("see daxlease doctor --help");
			return TOOL_USAGE;
		}
	}
	return 0;
}

static int examine(const struct options *o, char **paths, const struct device *devices,
		   size_t ndevices, json_object *files)
{
	int status = 0;

	for (; *paths; paths++) {
		struct file_report r;
		int err = inspect_file(*paths, devices, ndevices, o->traffic, &r);

		if (err) {
			tool_say("doctor: %s: %s", *paths, strerror(-err));
			status = TOOL_FAILED;
		} else if (files) {
			json_object_array_add(files, file_json(&r, devices, ndevices));
		} else {
			print_file(&r, devices, ndevices);
		}
		if (!err && !is_good(&r, ndevices) && !status)
			status = TOOL_NO;
		inspect_file_free(&r);
	}
	return status;
}

static int report(const struct options *o, char **paths, const struct device *devices,
		  size_t ndevices)
{
	json_object *root = o->json ? json_begin() : NULL;
	json_object *list = root ? json_object_new_array() : NULL;
	struct machine machine;
	int status;

	inspect_machine(&machine);
	if (!root) {
		print_machine(&machine);
		for (size_t i = 0; i < ndevices; i++)
			print_device(&devices[i]);
		if (!ndevices)
			puts("no RDMA device");
		return examine(o, paths, devices, ndevices, NULL);
	}
	json_put(root, "machine", machine_json(&machine));
	for (size_t i = 0; i < ndevices; i++)
		json_object_array_add(list, device_json(&devices[i]));
	json_put(root, "devices", list);
	list = json_object_new_array();
	json_put(root, "files", list);
	status = examine(o, paths, devices, ndevices, list);
	json_end(root, false);
	return status;
}

int doctor_main(int argc, char **argv)
{
	struct options o = { 0 };
	struct device *devices;
	size_t ndevices;
	int err = parse(argc, argv, &o);

	if (err)
		return err;
	err = inspect_devices(o.device, &devices, &ndevices);
	if (err == -ENODEV) {
		tool_say("doctor: no device '%s': ibv_devices(1) lists them", o.device);
		return TOOL_FAILED;
	}
	if (err) {
		tool_say("doctor: %s", strerror(-err));
		return TOOL_FAILED;
	}
	err = report(&o, argv + optind, devices, ndevices);
	inspect_devices_free(devices, ndevices);
	return err;
}
