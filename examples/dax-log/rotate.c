// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <errno.h>

#include "cuts.h"
#include "rotate.h"
#include "util.h"

static int cut(const struct rotator *rotator)
{
	struct cut down = { .size = rotator->head, .who = "server" };
	struct cut up = { .size = rotator->size };
	int err = cuts_truncate(rotator->path, rotator->fd, &down);

	if (!err && rotator->log)
		err = cuts_write(rotator->log, &down);
	return err ? err : cuts_truncate(rotator->path, rotator->fd, &up);
}

/* The library goes on trying by itself where somebody has the file open, or it is short. */
static int regain(const struct rotator *rotator)
{
	int err = daxlease_mr_regain(rotator->mr);

	return err && err != -EAGAIN && err != -ENODATA ? fail(err, "daxlease_mr_regain") : 0;
}

/* Nobody uses the file now. */
static int finish(struct rotator *rotator)
{
	int err = cut(rotator);
	int regain_err = rotator->without_recall ? 0 : regain(rotator);

	rotator->running = false;
	rotator->last_ns = now_ns() - rotator->began_ns;
	rotator->count += !err;
	return err ? err : regain_err;
}

int rotator_start(struct rotator *rotator)
{
	int err = 0;

	if (rotator->running) {
		say("a rotation is under way already");
		return 0;
	}
	if (!rotator->without_recall)
		err = daxlease_mr_recall_start(rotator->mr);
	if (err)
		return fail(err, "the log is not rotated: daxlease_mr_recall_start");
	rotator->running = true;
	rotator->began_ns = now_ns();
	return rotator_step(rotator);
}

int rotator_step(struct rotator *rotator)
{
	if (!rotator->running)
		return 0;
	if (!rotator->without_recall &&
	    daxlease_mr_get_state(rotator->mr) != DAXLEASE_STATE_RELEASED)
		return 0;
	return finish(rotator);
}
