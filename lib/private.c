// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#include <stdarg.h>

#include "objects.h"
#include "private.h"

void daxlease_private_log(struct daxlease_ctx *ctx, enum daxlease_log_level level, const char *fmt,
			  ...)
{
	va_list ap;

	if (ctx_check(ctx)) /* NULL, or a child's */
		return;
	va_start(ap, fmt);
	log_vadd(&ctx->log, level, fmt, ap);
	va_end(ap);
}

void daxlease_private_log_hold(void)
{
	log_hold();
}

void daxlease_private_log_release(void)
{
	log_release();
}

int daxlease_private_check(const struct daxlease_ctx *ctx, bool waits)
{
	return waits ? ctx_check_not_in_callback(ctx) : ctx_check(ctx);
}

void daxlease_private_log_flush(struct daxlease_ctx *ctx)
{
	if (!ctx_check(ctx))
		log_flush(&ctx->log);
}
