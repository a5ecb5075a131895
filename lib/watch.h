/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Who runs the break pipeline, and how the kernel's notices reach it.
 *
 * THREAD: the watch thread waits in sigtimedwait() and runs everything, callbacks
 * included. So that a callback that blocks holds up nobody else, a thread of ours
 * goes into one only while another is free to go on: that is a helper, made when
 * the first callback is called and gone soon after the last.
 * LOOP: the watch thread runs all but callbacks, which the caller dispatches.
 * SIGNAL: there is no thread.
 */
#ifndef DAXLEASE_WATCH_H
#define DAXLEASE_WATCH_H

#include "objects.h"

/* Starts and stops the mode's threads and descriptors. stop needs no regions. */
int watch_start(struct daxlease_ctx *ctx);
void watch_stop(struct daxlease_ctx *ctx);

/*
 * After the caller changed something: wakes whoever has to look at it. ctx->lock
 * is held.
 */
void watch_kick(struct daxlease_ctx *ctx);

/*
 * Waits until done(arg), running the pipeline here if the mode has nobody else
 * for it. ctx->lock is held, and dropped meanwhile.
 */
void watch_wait(struct daxlease_ctx *ctx, bool (*done)(const void *arg), const void *arg);

int watch_dispatch(struct daxlease_ctx *ctx);

/* One of the guard's threads has news; arg is the context. */
void watch_guard(void *arg);

/* Async-signal-safe. */
int watch_signal(struct daxlease_ctx *ctx);

#endif
