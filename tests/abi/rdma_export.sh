#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# usage: rdma_export.sh SOURCE-FOLDER
# A lease costs a librdmacm program fifteen lines at most, and daxlease_rdmacm(7) shows those
# that it is.
set -eu

top=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

diff -U1 "$top/examples/rdma-export-plain.c" "$top/examples/rdma-export.c" |
	sed '1,2d; s/\t/    /g' >"$dir/is"
lines=$(grep -c '^[-+]' "$dir/is")
if [ "$lines" -gt 15 ]; then
	echo "$lines lines, not 15 at most"
	exit 1
fi
sed -n '/^\.\\" diff: begin/,/^\.\\" diff: end/p' "$top/man/daxlease_rdmacm.7" |
	sed '/^\./d; s/\\-/-/g; s/\\e/\\/g' >"$dir/shown"
diff -u "$dir/is" "$dir/shown" || {
	echo "daxlease_rdmacm(7) shows another difference"
	exit 1
}
