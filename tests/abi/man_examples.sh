#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# usage: man_examples.sh SOURCE-FOLDER BUILD-FOLDER CC
# The examples of the manual pages compile, and the README quotes the one that is
# built: the marked part of examples/register.c.
set -eu

top=$1 build=$2 cc=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

count=0
for page in "$top"/man/*.[237]; do
	sed -n '/^\.SH EXAMPLE/,/^\.SH /{ /^\.EX/,/^\.EE/{ /^\.E[EX]/d; p } }' "$page" |
		sed 's/\\e/\\/g; s/\\-/-/g; s/\\(aq/'"'"'/g; s/\\(dq/"/g; s/\\&//g' >"$dir/example.c"
	[ -s "$dir/example.c" ] || continue
	printf '%s\n' "$(basename "$page")"
	$cc -std=gnu11 -Wall -Wextra -Werror -Wno-unused -fsyntax-only -I"$top/include" \
		-I"$build/include" "$dir/example.c"
	count=$((count + 1))
done
[ $count -ge 3 ] || { echo "only $count examples found, the search is broken"; exit 1; }

sed -n '/quickstart: begin/,/quickstart: end/p' "$top/examples/register.c" | sed '1d;$d' >"$dir/code"
[ -s "$dir/code" ] || { echo "no quickstart in examples/register.c"; exit 1; }
# shellcheck disable=SC2016 # these are backquotes of Markdown
sed -n '/^```c$/,/^```$/p' "$top/README.md" | sed '1d;$d' >"$dir/quoted"
diff -u "$dir/code" "$dir/quoted" || { echo "README.md quotes another quickstart"; exit 1; }
