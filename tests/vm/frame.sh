# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# What the cases that are shell scripts have in common. To be sourced by one that has set
# $filter, as --filter of run.sh says. Defines
#
#   one NAME FUNCTION [ARG...]
#                 a case: in a process of its own, whose children are ended; what it says is
#                 shown if it fails
#   fail TEXT     ends a case that has failed
#   $dir          an empty folder for each case
#   conclude      prints the count; its status is the script's
#
# A script that has something to do after a case that failed, or after each, defines
# after_failure or after_case.

dir=$(mktemp -d)
passed=0 failed=0

_wanted() {
	[[ $filter ]] || return 0
	if [[ $filter == !* ]]; then
		[[ ! $1 =~ ${filter#!} ]]
	else
		[[ $1 =~ $filter ]]
	fi
}

_if_there() {
	! declare -F "$1" >/dev/null || "$1"
}

one() {
	local name=$1 start=${EPOCHREALTIME/./} status=0
	shift
	_wanted "$name" || return 0
	rm -rf -- "${dir:?}"/*
	(
		trap 'kill -9 $(jobs -p) 2>/dev/null; wait' EXIT
		"$@"
	) >"$dir/out" 2>&1 || status=$?
	if ((status == 0)); then
		passed=$((passed + 1))
		printf 'ok %s (%d ms)\n' "$name" "$(((${EPOCHREALTIME/./} - start) / 1000))"
	else
		failed=$((failed + 1))
		printf 'not ok %s: failed\n' "$name"
		cat -- "$dir/out"
		_if_there after_failure
	fi
	_if_there after_case
}

fail() {
	printf '%s\n' "$*"
	exit 1
}

conclude() {
	printf '%d passed, %d failed\n' "$passed" "$failed"
	((failed == 0 && passed > 0))
}
