// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "journal.h"
#include "sock.h"
#include "status.h"

#define PATIENCE_MS 5000

static const struct {
	const char *name;
	size_t offset;
} rows[] = {
	{ "clients", offsetof(struct guard_counters, clients) },
	{ "files guarded", offsetof(struct guard_counters, files) },
	{ "held", offsetof(struct guard_counters, holds) },
	{ "calls looked at", offsetof(struct guard_counters, events) },
	{ "  let through at once", offsetof(struct guard_counters, harmless) },
	{ "  waited for holders", offsetof(struct guard_counters, waited) },
	{ "  refused", offsetof(struct guard_counters, refused) },
	{ "breaks", offsetof(struct guard_counters, breaks) },
	{ "lost at the deadline", offsetof(struct guard_counters, lost) },
	{ "turned away", offsetof(struct guard_counters, turned_away) },
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

static uint64_t value_of(const struct guard_counters *counters, unsigned int row)
{
	uint64_t value;

	memcpy(&value, (const char *)counters + rows[row].offset, sizeof(value));
	return value;
}

void status_log(const struct guard_counters *counters)
{
	for (unsigned int i = 0; i < ROWS; i++)
		journal_answer("%s: %" PRIu64, rows[i].name, value_of(counters, i));
}

static int receive(int sock, struct guard_msg *ret_msg)
{
	struct pollfd pfd = { .fd = sock, .events = POLLIN };
	int n, fd, err;

	n = poll(&pfd, 1, PATIENCE_MS);
	if (n < 1)
		return n < 0 ? -errno : -ETIMEDOUT;
	err = sock_receive(sock, false, ret_msg, &fd);
	if (!err && fd >= 0)
		close(fd);
	if (!err && ret_msg->error)
		return ret_msg->error;
	return !err && ret_msg->type != GUARD_STATUS ? -EPROTO : err;
}

static const char *cure(int err)
{
	switch (err) {
	case -ENOENT:
	case -ECONNREFUSED:
		return "no daemon runs: systemctl start daxleased.socket";
	case -ECONNRESET:
		return "turned away, it has too many clients: ask as root, or raise --max-clients";
	case -EPROTONOSUPPORT:
		return "the daemon is of another version";
	case -EAGAIN:
	case -ETIMEDOUT:
		return "the daemon does not answer: is it stopped?";
	default:
		return strerror(-err);
	}
}

int status_ask(const char *path)
{
	struct guard_msg msg = { .type = GUARD_STATUS };
	struct guard_counters counters;
	int sock = sock_connect(path);
	int err = sock < 0 ? sock : sock_send(sock, &msg, -1);

	if (!err)
		err = receive(sock, &msg);
	if (sock >= 0)
		close(sock);
	if (err) {
		fprintf(stderr, "daxleased: %s: %s\n", path, cure(err));
		return err;
	}
	memcpy(&counters, msg.text, sizeof(counters));
	for (unsigned int i = 0; i < ROWS; i++)
		printf("%-24s%" PRIu64 "\n", rows[i].name, value_of(&counters, i));
	return 0;
}
