// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cuts.h"
#include "util.h"

int cuts_write(const char *path, const struct cut *cut)
{
	char line[128];
	int fd, n, err = 0;

	n = snprintf(line, sizeof(line), "%" PRIu64 " %" PRIu64 " %" PRIu64 " %s\n", cut->begin_ns,
		     cut->return_ns, cut->size, cut->who);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (fd < 0)
		return fail(-errno, "%s: cannot open it", path);
	if (write(fd, line, (size_t)n) != n)
		err = fail(-EIO, "%s: cannot write to it (is the filesystem full?)", path);
	close(fd);
	return err;
}

static int add(struct cuts *cuts, const struct cut *cut)
{
	struct cut *more = realloc(cuts->cut, (cuts->count + 1) * sizeof(*more));

	if (!more)
		return fail(-ENOMEM, "the list of cuts");
	more[cuts->count++] = *cut;
	cuts->cut = more;
	return 0;
}

int cuts_read(const char *path, struct cuts *cuts)
{
	FILE *file = fopen(path, "re");
	struct cut cut;
	int n, err = 0;

	if (!file)
		return fail(-errno, "%s: cannot open the list of cuts", path);
	while (!err && (n = fscanf(file, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %15s", &cut.begin_ns,
				   &cut.return_ns, &cut.size, cut.who)) == 4)
		err = add(cuts, &cut);
	if (!err && n != EOF) {
		say("%s: line %zu is no cut", path, cuts->count + 1);
		err = -EINVAL;
	}
	fclose(file);
	return err;
}

void cuts_free(struct cuts *cuts)
{
	free(cuts->cut);
	*cuts = (struct cuts){ 0 };
}

int cuts_truncate(const char *path, int fd, struct cut *cut)
{
	int err;

	cut->begin_ns = now_ns();
	if (fd >= 0)
		err = ftruncate(fd, (off_t)cut->size) ? -errno : 0;
	else
		err = truncate(path, (off_t)cut->size) ? -errno : 0;
	cut->return_ns = now_ns();
	return err ? fail(err, "%s: cannot truncate it to %" PRIu64 " bytes", path, cut->size) : 0;
}
