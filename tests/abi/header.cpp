// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
// The public header is C++ as well.
#include <daxlease/daxlease.h>

int main()
{
	struct daxlease_mr_opts opts = {};

	opts.size = sizeof(opts);
	return daxlease_version() == nullptr;
}
