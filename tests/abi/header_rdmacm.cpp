// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
// The header for librdmacm programs is C++ as well.
#include <daxlease/rdmacm.h>

int main()
{
	struct daxlease_offer_opts opts = {};

	opts.size = sizeof(opts);
	return daxlease_peer_free(nullptr);
}
