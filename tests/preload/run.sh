#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# usage: run.sh SHIM LIBRARY FAKE-DAX OTHER-HOOKS ALLOCATOR VICTIM FOUND-BY-DLSYM STATIC [SCENE...]
# The programs of this folder with the shim before them. One line for each failure.
set -euo pipefail

shim=$1 library=$2 fake_dax=$3 other=$4 allocator=$5 victim=$6 found_by_dlsym=$7 static=$8
shift 8

top=$(dirname -- "$victim")
dir=$(mktemp -d "$top/dax-XXXXXX")
trap 'rm -rf -- "$dir"' EXIT
failed=0
log=$dir/log

# The programs find the made-up libibverbs there.
export LD_LIBRARY_PATH=$top
unset "${!DAXLEASE_@}"
export DAXLEASE_KIND=lease DAXLEASE_LOG=debug DAXLEASE_LOG_FILE=$log

# check WHAT COMMAND...
check() {
	local what=$1
	shift
	if ! "$@"; then
		failed=$((failed + 1))
		echo "failed: $what"
		sed 's/^/    /' "$log" 2>/dev/null || true
	fi
}

# play WHAT PRELOADS COMMAND...
play() {
	local what=$1 preloads=$2
	shift 2
	rm -f -- "$log" "$dir/file"
	check "$what" env LD_PRELOAD="$preloads" "$@"
}

# Called by check.
# shellcheck disable=SC2317
said() {
	grep -qE -- "$1" "$log"
}

# A version of its own, or a name too many, would do harm without a word. Called by check.
# shellcheck disable=SC2317
exports() {
	diff <(nm -D --defined-only "$shim" | awk '{ print $3 }' | sort) \
		<(sed -n 's/^\t\([a-z].*\);$/\1/p' "$(dirname -- "$0")/../../preload/preload.map" | sort)
}

scenes=("$@")
((${#scenes[@]})) || mapfile -t scenes < <("$victim")
for scene in "${scenes[@]}"; do
	case $scene in
	constructor | other_hooks | environment_gone) continue ;;
	esac
	play "$scene" "$shim $fake_dax" "$victim" "$scene" "$dir/file"
done
(($# == 0)) || exit $((failed != 0))

check "exactly the hooks are exported" exports

# A constructor that registers, older and younger than ours.
truncate -s 32768 "$dir/early"
play "constructor" "$shim $fake_dax" env VICTIM_EARLY="$dir/early" "$victim" constructor x

# First and last among several.
play "first of several" "$shim $other $fake_dax" "$victim" other_hooks "$dir/file"
play "last of several" "$fake_dax $other $shim" "$victim" other_hooks "$dir/file"
check "last of several: says who is first" said 'ibv_reg_mr goes to .*other-hooks.* first'

# Its first memory comes before all else.
play "other allocator first" "$allocator $shim $fake_dax" "$victim" basic "$dir/file"
play "other allocator last" "$shim $fake_dax $allocator" "$victim" basic "$dir/file"
play "other allocator: memory between" "$shim $fake_dax $allocator" "$victim" memory_between "$dir/file"

play "found by dlsym" "$shim $fake_dax" "$found_by_dlsym" "$dir/file"
check "found by dlsym: says so" said 'found by dlsym'
play "loaded again" "$shim $fake_dax" "$found_by_dlsym" "$dir/file" again
play "static program" "$shim $fake_dax" "$static" >/dev/null

play "user of the library" "$shim $fake_dax $library" "$victim" plain "$dir/file"
check "user of the library: says so" said 'victim uses libdaxlease itself'
check "user of the library: is left alone" test "$(wc -l <"$log")" = 1

# Each registration is seen once.
play "every verb" "$shim $fake_dax" "$victim" every_verb "$dir/file"
check "every verb: three registrations" test "$(grep -c ' reg .*: leased$' "$log")" = 3
play "plain" "$shim $fake_dax" "$victim" plain "$dir/file"
check "plain: one registration" test "$(grep -c ' reg .*: plain$' "$log")" = 1

play "begins before" "$shim $fake_dax" "$victim" begins_before "$dir/file"
check "begins before: says so" said 'is not leased \(.*, but registered on demand'

# What is freed is not to be read any more.
GLIBC_TUNABLES=glibc.malloc.tcache_count=0 MALLOC_PERTURB_=165 \
	play "kept lease" "$shim $fake_dax" "$victim" kept_lease "$dir/file"
check "kept lease: says when it is given back" said '/file: given back'

# Policies.
DAXLEASE_POLICY=abort play "abort" "$shim $fake_dax" bash -c "\"$victim\" break \"$dir/file\"; ((\$? == 134))" 2>/dev/null
check "abort: says so" said 'aborting, as DAXLEASE_POLICY=abort says'
DAXLEASE_POLICY=exclusive play "exclusive, which this kind has not" "$shim $fake_dax" \
	bash -c "! \"$victim\" exit_without_dereg \"$dir/file\"" 2>/dev/null
check "exclusive: says why" said 'DAXLEASE_MR_EXCLUSIVE'

DAXLEASE_KIND=guard DAXLEASE_GUARD_SOCKET=/nowhere/socket play "no guard" "$shim $fake_dax" \
	bash -c "! \"$victim\" exit_without_dereg \"$dir/file\"" 2>/dev/null
check "no guard: was looked for there" said 'no daxleased at /nowhere/socket'
DAXLEASE_KIND=guard DAXLEASE_GUARD_SOCKET=/nowhere/socket \
	play "no guard, nor environment" "$shim $fake_dax" "$victim" environment_gone "$dir/file"
check "no guard, nor environment: was looked for there" said 'no daxleased at /nowhere/socket'

# settings WHAT VARIABLE=VALUE LINE
settings() {
	rm -f -- "$log"
	check "$1" env "$2" LD_PRELOAD="$shim" true
	check "$1: says so" said "$3"
}
settings "bad policy" DAXLEASE_POLICY=block 'DAXLEASE_POLICY=block: .*taking fence'
settings "bad kind" DAXLEASE_KIND=none 'DAXLEASE_KIND=none: .*taking auto'
settings "bad budget" DAXLEASE_BUDGET_MS=-1 'DAXLEASE_BUDGET_MS=-1: .*taking 10000'
settings "bad level" DAXLEASE_LOG=loud 'DAXLEASE_LOG=loud: .*taking warning'
settings "bad switch" DAXLEASE_DISABLE=yes 'DAXLEASE_DISABLE=yes: .*taking 1'
settings "one line" DAXLEASE_LOG=info 'libdaxlease .* in true: policy fence, kind lease, 22 of 22 hooks'
check "one line: no more" test "$(wc -l <"$log")" = 1

# silent WHAT VARIABLE=VALUE: does nothing, and says nothing.
silent() {
	rm -f -- "$log" "$dir/file"
	check "$1" env "$2" LD_PRELOAD="$shim $fake_dax" "$victim" plain "$dir/file"
	check "$1: is silent" test ! -s "$log"
	check "$1: no lease" bash -c \
		"! env $2 LD_PRELOAD=\"$shim $fake_dax\" \"$victim\" basic \"$dir/file\"" 2>/dev/null
}
silent "switched off" DAXLEASE_DISABLE=1
silent "skipped" DAXLEASE_SKIP=foo,victim
rm -f -- "$log"
DAXLEASE_SKIP=vict,foo check "not skipped" env LD_PRELOAD="$shim" "$victim" >/dev/null
check "not skipped: says so" test -s "$log"

DAXLEASE_LOG=warning DAXLEASE_LOG_FILE='' check "stderr: nothing without a cause" test -z \
	"$(LD_PRELOAD=$shim env true 2>&1)"
mkfifo "$dir/fifo"
# Opened for reading as well, or there would be nobody to open it for.
exec 9<>"$dir/fifo"
exec 8>"$dir/fifo" 9<&-
DAXLEASE_LOG_FILE='' play "stderr: nobody reads it" "$shim $fake_dax" "$victim" basic "$dir/file" 2>&8
exec 8>&-
line=$(DAXLEASE_LOG_FILE=/nowhere/log LD_PRELOAD=$shim env true 2>&1)
check "no log file: says so" grep -q 'DAXLEASE_LOG_FILE=/nowhere/log: .*taking stderr' <<<"$line"

((failed == 0)) || echo "$failed failed"
exit $((failed != 0))
