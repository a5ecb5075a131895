// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
// The public headers are C++ as well.
#include <daxlease/uring.h>

int main()
{
	struct daxlease_mr_opts opts = {};

	opts.size = sizeof(opts);
	return daxlease_version() == nullptr || daxlease_is_cqe(DAXLEASE_CQE_TAG - 1);
}
