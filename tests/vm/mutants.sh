#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# Are the cases of layout leases able to fail? See usage().

set -euo pipefail

usage() {
	cat <<'EOF2'
Usage: tests/vm/mutants.sh --bin DIR [NAME...]

In the guest of scripts/vm --kernel mutants, as root: break one promise of the
kernel's layout leases after the other, those of kernel/mutants.list or just the named
ones, and run the cases that say so. All of these have to fail then, and to pass
before. Prints "ok NAME" or "not ok NAME: WHY" for each and "N passed, N failed" at
the end.

  --bin DIR   as for tests/vm/run.sh

Exit status: 0 if all passed, 1 if one failed or none was run, 2 for anything else.
EOF2
}

die() {
	printf 'mutants.sh: %s\n' "$*" >&2
	exit 2
}

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
list=$top/kernel/mutants.list
parameter=/sys/module/locks/parameters/layout_mutant
bin='' wanted=()

while (($#)); do
	case $1 in
	--bin)
		(($# > 1)) || die "$1 wants a value; see --help"
		bin=$2
		shift 2
		;;
	-h | --help)
		usage
		exit 0
		;;
	-*) die "unknown option $1; see --help" ;;
	*) wanted+=("$1") && shift ;;
	esac
done

# run RE: the matching cases; sets $ran and $bad, the number of all and of those that
# failed.
run() {
	local line
	"$top/tests/vm/run.sh" --bin "$bin" --suite layout --filter "$1" >"$log" 2>&1 || true
	line=$(tail -n 1 -- "$log")
	ran=0 bad=0
	[[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]] || return 0
	bad=${BASH_REMATCH[2]}
	ran=$((BASH_REMATCH[1] + bad))
}

# result NAME WHY: it has passed if there is no WHY.
result() {
	if [[ $2 ]]; then
		printf 'not ok %s: %s\n' "$1" "$2"
		sed 's/^/  /' "$log"
		failed=$((failed + 1))
	else
		printf 'ok %s\n' "$1"
		passed=$((passed + 1))
	fi
}

set_mutant() {
	printf '%s\n' "$1" >"$parameter"
}

check_mutant() {
	local name=$1 cases=$2 why=
	set_mutant "$name"
	run "$cases"
	set_mutant ''
	if ((ran == 0)); then
		why="no case matches $cases, or they could not be run"
	elif ((bad < ran)); then
		why="$((ran - bad)) of $ran cases passed although $text"
	fi
	result "$name, $ran cases" "$why"
}

[[ -d /run/daxlease-vm ]] || die "this changes the system: run it in the guest of scripts/vm"
[[ -w $parameter ]] || die "this is not the kernel of scripts/vm --kernel mutants"

log=$(mktemp)
passed=0 failed=0 all=
declare -A cases=() texts=()
names=()
while read -r name re text; do
	[[ $name && $name != '#'* ]] || continue
	names+=("$name")
	cases[$name]=$re texts[$name]=$text
done <"$list"
((${#wanted[@]})) || wanted=("${names[@]}")
for name in "${wanted[@]}"; do
	[[ ${cases[$name]-} ]] || die "$list has no '$name'"
	all+="${all:+|}${cases[$name]}"
done

set_mutant ''
run "$all"
why=
((ran)) || why="they could not be run"
((bad == 0)) || why="$bad of $ran cases failed"
result "nothing is broken, $ran cases" "$why"
for name in "${wanted[@]}"; do
	text="the promise is broken that: ${texts[$name]}"
	check_mutant "$name" "${cases[$name]}"
done
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0 && passed > 0))
