// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* On a kernel without pre-content events: it is said why, and the next kind is taken. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "holder.h"

#define WHY                                                                                   \
	"no guard: the kernel has no pre-content events (Linux >= 6.14 with "                 \
	"CONFIG_FANOTIFY_ACCESS_PERMISSIONS has), and no daxleased at /run/daxleased/socket " \
	"(No such file or directory)"

static struct daxlease_caps probe(const struct file *f, const struct device *dev)
{
	struct daxlease_caps caps = { .size = sizeof(caps) };

	CHECK_EQ(daxlease_probe(f->fd, dev->ctx, &caps), 0);
	return caps;
}

static void kinds(const struct world *w, const void *arg)
{
	struct daxlease_caps caps;
	struct device dev;
	struct file f;

	(void)arg;
	device_open(&dev, "rxe0");
	file_make(&f, w, "file", FILE_SIZE, O_RDWR);
	caps = probe(&f, &dev);
	CHECK(caps.fs_dax);
	CHECK_EQ(caps.kinds[DAXLEASE_KIND_GUARD].error, -EOPNOTSUPP);
	CHECK(strstr(caps.reason, WHY));
	CHECK_EQ(caps.kinds[DAXLEASE_KIND_LEASE].error, 0);
	CHECK_EQ(caps.best, !caps.kinds[DAXLEASE_KIND_LAYOUT].error ? DAXLEASE_KIND_LAYOUT :
			    !caps.kinds[DAXLEASE_KIND_DELEG].error  ? DAXLEASE_KIND_DELEG :
								      DAXLEASE_KIND_LEASE);
	printf("best kind: %s; on-demand paging: %s\n", daxlease_kind_str(caps.best),
	       caps.odp_error ? strerror(-caps.odp_error) : "yes");
}

/* What is asked for is not to be had, and it is said why. */
static void refused(const struct world *w, enum daxlease_kind kind, unsigned int flags)
{
	struct daxlease_ctx *ctx = ctx_make(DAXLEASE_MODE_THREAD);
	const struct how how = { .flags = flags };
	struct world mine = *w;
	struct device dev;
	struct region r;
	struct file f;

	device_open(&dev, "rxe0");
	file_make(&f, w, "file", FILE_SIZE, O_RDWR);
	mine.kind = kind;
	CHECK_EQ(region_try(&r, ctx, dev.pd, &f, &mine, &how), -EOPNOTSUPP);
	CHECK(log_has(WHY));
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
}

static void named(const struct world *w, const void *arg)
{
	(void)arg;
	refused(w, DAXLEASE_KIND_GUARD, 0);
}

static void exclusive(const struct world *w, const void *arg)
{
	(void)arg;
	refused(w, DAXLEASE_KIND_AUTO, DAXLEASE_MR_EXCLUSIVE);
}

/* Whatever is taken instead: without on-demand paging FS-DAX is refused under it. */
static void next_kind(const struct world *w, const void *arg)
{
	struct daxlease_ctx *ctx = ctx_make(DAXLEASE_MODE_THREAD);
	struct daxlease_caps caps;
	const struct how how = { 0 };
	struct world any = *w;
	struct device dev;
	struct region r;
	char line[64];
	struct file f;
	bool can;

	(void)arg;
	device_open(&dev, "rxe0");
	file_make(&f, w, "file", FILE_SIZE, O_RDWR);
	caps = probe(&f, &dev);
	can = caps.kinds[caps.best].pins || !caps.odp_error;
	any.kind = DAXLEASE_KIND_AUTO;
	CHECK_EQ(region_try(&r, ctx, dev.pd, &f, &any, &how), can ? 0 : -EOPNOTSUPP);
	snprintf(line, sizeof(line), "lease kind %s; no guard: ", daxlease_kind_str(caps.best));
	CHECK(log_has(line) && log_has(WHY));
	if (!can)
		CHECK(log_has("the device has no on-demand paging"));
	if (can) {
		CHECK_EQ(region_info(&r).kind, caps.best);
		region_end(&r);
	}
	CHECK_EQ(daxlease_ctx_free(ctx), 0);
}

static void no_daemon(const struct world *w, const void *arg)
{
	char command[512], text[1024] = "";
	size_t n;
	int status;
	FILE *f;

	(void)w;
	(void)arg;
	snprintf(command, sizeof(command), "'%s' --socket /tmp/without 2>&1", daemon_program);
	f = popen(command, "re");
	CHECK(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = '\0';
	status = pclose(f);
	printf("%s", text);
	CHECK(WIFEXITED(status));
	CHECK_EQ(WEXITSTATUS(status), 1);
	CHECK(strstr(text, "no pre-content events"));
	CHECK(access("/tmp/without", F_OK)); /* nothing is left behind */
}

void add_without_cases(void)
{
	add_case(kinds, NULL, KIND_GUARD, 0, "without/kinds");
	add_case(named, NULL, KIND_GUARD, 0, "without/named");
	add_case(next_kind, NULL, KIND_GUARD, 0, "without/next-kind");
	add_case(exclusive, NULL, KIND_GUARD, 0, "without/exclusive");
	add_case(no_daemon, NULL, KIND_GUARD, 0, "without/daemon");
}
