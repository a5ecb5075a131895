#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# usage: daemon_options.sh DAXLEASED VERSION PAGE
# The command line of daxleased, as far as no rights are needed: exit statuses, and the
# same options in the help and in the manual page.
set -eu

daxleased=$1 version=$2 page=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

# expect STATUS TEXT OPTION...: TEXT is in what it says.
expect() {
	status=$1 text=$2 got=0
	shift 2
	"$daxleased" "$@" >"$dir/out" 2>&1 || got=$?
	if [ "$got" != "$status" ] || ! grep -qF -e "$text" "$dir/out"; then
		printf 'daxleased %s: status %s, not %s with "%s":\n' "$*" "$got" "$status" "$text"
		cat "$dir/out"
		failed=1
	fi
}

expect 0 "daxleased $version" --version
expect 0 'Usage: daxleased' --help
expect 0 'Usage: daxleased' -h
expect 2 'see --help' --no-such-option
expect 2 'only options' file
expect 2 'absolute path' --socket relative
expect 2 'from 1 to 16384' --max-clients 0
expect 2 'from 1 to 16384' --max-clients 16385
expect 2 'has to be a number' --max-clients-per-user -1
expect 2 'has to be a number' --max-files 1x
expect 2 'has to be a number' --max-files-per-user ''
expect 2 'from 1 to 16' --listeners 17
expect 2 'debug' --log-level loud
expect 3 'no daemon runs' --status --socket "$dir/none"
: >"$dir/file"
expect 3 'no daemon runs' --status --socket "$dir/file"

# lost OPTION...: nothing can be written.
lost() {
	got=0
	"$daxleased" "$@" >/dev/full 2>"$dir/out" || got=$?
	if [ "$got" != 1 ] || ! grep -qF 'cannot be written to' "$dir/out"; then
		printf 'daxleased %s >/dev/full: status %s, not 1 with a reason\n' "$*" "$got"
		failed=1
	fi
}

lost --help
lost --version

"$daxleased" --help | grep -oE -e '--[a-z][a-z-]+' | sort -u >"$dir/help"
sed -n '/^\.SH OPTIONS/,/^\.SH/p' "$page" | sed 's/\\-/-/g' | grep -oE -e '--[a-z][a-z-]+' |
	sort -u >"$dir/page"
diff -u "$dir/help" "$dir/page" || failed=1
[ "$(wc -l <"$dir/help")" -ge 10 ] || { echo "the search for options is broken"; failed=1; }
if "$daxleased" --help | grep -nE '.{81}'; then
	echo "the help is wider than 80 columns"
	failed=1
fi
exit $failed
