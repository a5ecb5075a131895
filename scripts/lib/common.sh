# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# What scripts/vm, scripts/demo and scripts/test have in common. To be sourced
# by a bash script that has `set -euo pipefail`. Defines
#
#   say TEXT...            a line for the user, on stderr, "PROGRAM: TEXT"
#   die TEXT...            the same, then exit with $die_status (1)
#   need_packages [--for WHY] PKG...
#                          install the Debian packages that are missing
#   cache_dir              print the cache's folder (it is made if need be)
#   lock NAME / unlock     keep other runs out of a part of the cache
#   run_step TEXT CMD...   run a long command silently: TEXT, signs of life,
#                          duration; its output is shown only if it fails.
#                          With $step_lines, the number of lines it will print,
#                          the signs of life are per cent
#   seconds_since MS       duration since $(now_ms), as "1.2 s"
#   make_work_dir          sets $work: a private folder that goes at exit
#   track PID / untrack PID
#                          a child that must not outlive this script
#
# It installs the EXIT, INT, TERM and HUP traps of the script. A script that
# has something of its own to clean up defines a function `at_exit`.

# A script starts its background jobs with SIGINT ignored, and what is ignored
# when bash starts cannot be trapped. Such a job should still end on it.
if [[ $(trap -p INT) == *"''"* ]]; then
	exec env --default-signal=INT "$BASH" -- "$0" "$@"
fi

prog=${prog:-${0##*/}}
die_status=${die_status:-1}
work=''
child_status=0
_tracked=()
_lock_fd=''

say() {
	printf '%s: %s\n' "$prog" "$*" >&2
}

die() {
	say "error: $*"
	exit "$die_status"
}

now_ms() {
	# EPOCHREALTIME has a decimal comma in some locales.
	local t=${EPOCHREALTIME/,/.}
	printf '%s\n' "$((${t%.*} * 1000 + 10#${t#*.} / 1000))"
}

seconds_since() {
	local ms=$(($(now_ms) - $1))
	printf '%d.%d s\n' "$((ms / 1000))" "$((ms % 1000 / 100))"
}

track() {
	_tracked+=("$1")
}

untrack() {
	local pid keep=()
	for pid in ${_tracked[@]+"${_tracked[@]}"}; do
		[[ $pid == "$1" ]] || keep+=("$pid")
	done
	_tracked=(${keep[@]+"${keep[@]}"})
}

# End one child, and what it started itself where it leads a process group of
# its own (run_step's children do).
end_child() {
	local pid=$1 i
	kill -TERM -- "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null || true
	for ((i = 0; i < 50; i++)); do
		if ! kill -0 "$pid" 2>/dev/null; then
			wait "$pid" 2>/dev/null || true
			return 0
		fi
		sleep 0.1
	done
	kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
}

_on_exit() {
	local status=$? pid
	trap - EXIT
	# A second Ctrl-C must not leave half of it behind.
	trap '' INT TERM HUP
	for pid in ${_tracked[@]+"${_tracked[@]}"}; do
		end_child "$pid"
	done
	if declare -F at_exit >/dev/null; then
		at_exit || true
	fi
	[[ -z $work ]] || rm -rf -- "$work"
	exit "$status"
}
trap _on_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

make_work_dir() {
	[[ -n $work ]] || work=$(mktemp -d "${TMPDIR:-/tmp}/daxlease-$prog.XXXXXXXX")
}

cache_dir() {
	local dir home=${HOME:-}
	# HOME is missing in some containers and in "env -i".
	[[ -n $home ]] || home=$(getent passwd "$EUID" | cut -d: -f6)
	dir=${DAXLEASE_CACHE:-${XDG_CACHE_HOME:-${home:-/root}/.cache}/daxlease}
	mkdir -p -- "$dir" || die "cannot make the cache folder $dir (set DAXLEASE_CACHE to another place)"
	(cd -- "$dir" && pwd -P)
}

# One lock at a time. Not a wrapper around a command: `set -e` would not hold
# in a function called that way.
lock() {
	local file
	file=$(cache_dir)/$1.lock
	exec {_lock_fd}>"$file"
	flock -n "$_lock_fd" && return
	say "waiting for another run that holds $file"
	# In the background, for `wait` can be interrupted by Ctrl-C at once.
	flock "$_lock_fd" &
	track $!
	wait $!
	untrack $!
}

unlock() {
	exec {_lock_fd}>&-
}

# wait_child PID SECONDS: 0 when the child has ended ($child_status is set), 1
# when the time has passed and it still runs.
wait_child() {
	local pid=$1 timer who=
	sleep "$2" >/dev/null 2>&1 &
	timer=$!
	track "$timer"
	child_status=0
	wait -n -p who "$pid" "$timer" || child_status=$?
	untrack "$timer"
	[[ $who != "$timer" ]] || return 1
	kill "$timer" 2>/dev/null || true
	wait "$timer" 2>/dev/null || true
}

# A child in a process group of its own, so that the whole of it can be ended.
start_group() {
	set -m
	"$@" </dev/null &
	set +m
	track $!
}

_step_percent() {
	local percent
	[[ -n ${step_lines-} ]] || return 0
	percent=$(($(wc -l <"$1") * 100 / step_lines))
	printf '%d %%, ' "$((percent < 99 ? percent : 99))"
}

run_step() {
	local text=$1 start log pid status
	shift
	make_work_dir
	log=$(mktemp "$work/step.XXXXXX")
	start=$(now_ms)
	say "$text ..."
	start_group "$@" >"$log" 2>&1
	pid=$!
	until wait_child "$pid" 10; do
		say "  after $(seconds_since "$start"): $(_step_percent "$log")$(tail -n 1 -- "$log" | tr -d '\r' | cut -c 1-100)"
	done
	status=$child_status
	untrack "$pid"
	if ((status)); then
		say "this failed with status $status, its last lines:"
		tail -n 30 -- "$log" >&2
	else
		say "  done in $(seconds_since "$start")"
	fi
	rm -f -- "$log"
	return "$status"
}

# Sets $missing to those of the named packages that are not installed.
_missing_packages() {
	local name state installed=' '
	missing=()
	command -v dpkg-query >/dev/null || die "this needs Debian (no dpkg-query here); by hand: $*"
	while read -r name state; do
		[[ $state != installed ]] || installed+="${name%%:*} "
	done < <(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null)
	for name; do
		[[ $installed == *" $name "* ]] || missing+=("$name")
	done
}

_apt_get() {
	"${_as_root[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q \
		-o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@"
}

_apt_install() {
	_apt_get install -y --no-install-recommends "$@"
}

# How much apt-get would fetch for these packages and what they depend on;
# fails if it does not know them.
_apt_size() {
	local list
	list=$(_apt_get install --print-uris -y --no-install-recommends "$@" 2>/dev/null) || return
	awk '/^.[a-z+]+:/ { n++; bytes += $3 }
		END { printf "%d packages, %.1f MB to download", n, bytes / 1e6 }' <<<"$list"
}

# Under the lock: another run may have installed them meanwhile.
_install_missing() {
	local why=$1 size
	shift
	_missing_packages "$@"
	((${#missing[@]})) || return 0
	say "Debian packages are missing, needed $why: ${missing[*]}"
	# Without package lists, or with old ones, apt does not know the packages
	# or where they are; only then are the lists fetched.
	if size=$(_apt_size "${missing[@]}"); then
		! run_step "installing them ($size)" _apt_install "${missing[@]}" || return 0
	fi
	run_step "reading Debian's package lists (apt-get update)" _apt_get update || return
	size=$(_apt_size "${missing[@]}") || size="apt-get does not know them"
	run_step "installing them ($size)" _apt_install "${missing[@]}"
}

need_packages() {
	local why="by $prog" missing
	if [[ ${1-} == --for ]]; then
		why=$2
		shift 2
	fi
	_missing_packages "$@"
	((${#missing[@]})) || return 0
	_as_root=()
	if ((EUID)); then
		if ! sudo -n true 2>/dev/null; then
			die "Debian packages are missing, needed $why. Run this, then try again:" \
				"sudo apt-get update && sudo apt-get install --no-install-recommends ${missing[*]}"
		fi
		_as_root=(sudo -n)
	fi
	lock packages
	_install_missing "$why" "$@" || die "cannot install: ${missing[*]}"
	unlock
	_missing_packages "$@"
	((${#missing[@]} == 0)) || die "apt-get was content, but these are still missing: ${missing[*]}"
	hash -r
}
