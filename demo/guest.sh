#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# The demo's story, told on a machine that has FS-DAX and an RDMA device (such
# as the guest of scripts/vm). See usage().

set -euo pipefail

prog=demo
die_status=1
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=scripts/lib/common.sh
. "$here/../scripts/lib/common.sh"
# shellcheck source=scripts/lib/flip-byte.sh
. "$here/../scripts/lib/flip-byte.sh"

usage() {
	cat <<'END'
Usage: demo/guest.sh --bin DIR [OPTION...] FOLDER...

Tells the demo's story in each FOLDER, which has to be on FS-DAX.

  --bin DIR         where holder, writer, verify and timed are
  --kind KIND       lease kind: auto, layout, layout-rfc, guard, deleg, lease (auto)
  --exclusive       only the story of the exclusive lease (layout kinds and guard; with
                    these it is also told without this option)
  --size MIB        size of the file (64)
  --device NAME     RDMA device, RoCE (the first one)
  --break-on-purpose HOW
                    for tests: the demo has to fail. flip: damage one byte of the
                    file before it is verified. boast: the writer claims a record
                    that it did not write. deaf: the writer does not listen when it
                    is told to stop
  -h, --help        show this text
END
}

bin=
kind=auto
size=64
device=()
exclusive=0
purpose=
folders=()
file=

# A truncate has to be back in a tenth of what the kernel would have waited.
lease_break_time=$(</proc/sys/fs/lease-break-time)
within_ms=$((lease_break_time * 100))

# value OPTION COUNT: die unless there is an argument after the option
value() {
	(($2 > 1)) || die "$1 needs a value; see --help"
}

parse_options() {
	while (($#)); do
		case $1 in
		--bin) value "$1" $#; bin=$2; shift ;;
		--kind) value "$1" $#; kind=$2; shift ;;
		--size) value "$1" $#; size=$2; shift ;;
		--device) value "$1" $#; device=(--device "$2"); shift ;;
		--exclusive) exclusive=1 ;;
		--break-on-purpose) value "$1" $#; purpose=$2; shift ;;
		-h | --help) usage; exit 0 ;;
		-*) die "unknown option $1; see --help" ;;
		*) folders+=("$1") ;;
		esac
		shift
	done
	[[ -x $bin/holder ]] || die "no programs in '$bin'; see --help"
	((${#folders[@]})) || die "no folder given; see --help"
	[[ $purpose =~ ^(|flip|boast|deaf)$ ]] || die "cannot break it by '$purpose'; see --help"
	if [[ ! $size =~ ^[1-9][0-9]{0,4}$ ]] || ((size < 8 || size % 2)); then
		die "--size takes an even number of MiB, 8 at least, not '$size'"
	fi
	((within_ms)) || die "/proc/sys/fs/lease-break-time is 0; the demo needs a deadline to beat"
}

# Soft-RoCE (Linux 7.3 at least) copies what goes to an on-demand region to the
# beginning of the page, wherever in the page it should be. That is right only
# for packets of whole pages, so a record has to be one packet. Only software
# devices have the file `parent`.
check_packets() {
	local parent netdev
	for parent in /sys/class/infiniband/*/parent; do
		[[ -e $parent ]] || continue
		netdev=$(<"$parent")
		(($(<"/sys/class/net/$netdev/mtu") >= 4200)) ||
			die "soft-RoCE needs big packets here: ip link set dev $netdev mtu 9000"
	done
}

# ---------------------------------------------------------------------------
# Timeline: all programs append to $events

title() {
	printf '\n== %s\n' "$*"
}

note() {
	printf '%11s  %s\n' '' "$*"
}

# Print what is new. Sorted, for lines of different processes that are
# microseconds apart may have been written in the wrong order.
show() {
	local lines ms who tag text
	mapfile -t -s "$shown" lines <"$events"
	((${#lines[@]})) || return 0
	((shown += ${#lines[@]}))
	printf '%s\n' "${lines[@]}" | sort -s -n -k 1,1 |
		while IFS=$'\t' read -r ms who tag text; do
			[[ ! $text =~ ^'fd '[0-9]+' (inode '[0-9]+'): '(.*) ]] || text=${BASH_REMATCH[1]}
			printf '%11s  %-8s %s\n' "${ms%??}" "$who" "$text"
		done
}

# From here on is "the step" that the functions below look at.
begin_step() {
	show
	note "--- $*"
	step=$shown
}

# seen WHO TAG: whether there was such an event in this step; its time is put into
# $ms and its text into $text. No other programs: they are slow in emulation.
seen() {
	local who tag n=0
	while IFS=$'\t' read -r ms who tag text; do
		((++n > step)) || continue
		[[ $who != "$1" || $tag != "$2" ]] || return 0
	done <"$events"
	ms='' text=''
	return 1
}

fail() {
	show
	if [[ -s $errors ]]; then
		cat -- "$errors" >&2
	fi
	die "$*"
}

# expect WHO TAG: wait for that event of this step
expect() {
	local i
	for ((i = 0; i < 200; i++)); do
		! seen "$1" "$2" || return 0
		! seen holder forced || fail "$text"
		[[ ! -s $errors ]] || fail "the $1 did not get to '$2'"
		sleep 0.1
	done
	fail "waited in vain for the $1 to get to '$2'"
}

# expect_order WHO TAG WHO TAG: the first has to have come before the second
expect_order() {
	local first
	seen "$1" "$2" || fail "the $1 never got to '$2'"
	first=${ms//[ .]/}
	seen "$3" "$4" || fail "the $3 never got to '$4'"
	((10#$first <= 10#${ms//[ .]/})) || fail "the $3 got to '$4' before the $1 to '$2'"
}

# number REGEX: what it has in parentheses, of $text
number() {
	[[ $text =~ $1 ]] || fail "no number in: $text"
	number=${BASH_REMATCH[1]}
}

# A third party, with a tool that knows nothing of all this. Sets $took_ms.
other() {
	"$bin/timed" --within "$within_ms" -- "$@" >>"$events" 2>>"$errors" || fail "'$*' failed"
	seen other returned || fail "'$*' did not return"
	number 'after ([0-9]+)\.[0-9] ms$'
	took_ms=$number
}

# ---------------------------------------------------------------------------
# Holder and writer

begin_act() {
	file=$1/demo-file
	: >"$events"
	: >"$errors"
	shown=0
	step=0
	DEMO_EPOCH_NS=$("$bin/timed" --now)
	export DEMO_EPOCH_NS
	printf '%11s  %-8s %s\n' ms who what
}

# The file is opened here, so that whoever is started from here, the holder as well,
# shares one open file description of it.
open_shared() {
	rm -f -- "$file"
	exec {shared}<>"$file"
}

close_shared() {
	exec {shared}>&-
}

start_holder() {
	"$bin/holder" --file "$file" --size "$size" --socket "$work/sock" \
		${device[@]+"${device[@]}"} "$@" >>"$events" 2>>"$errors" &
	holder_pid=$!
	track "$holder_pid"
}

start_writer() {
	"$bin/writer" --socket "$work/sock" --ledger "$work/ledger" \
		${device[@]+"${device[@]}"} "$@" >>"$events" 2>>"$errors" &
	writer_pid=$!
	track "$writer_pid"
}

# expect_status NAME PID STATUS
expect_status() {
	local status=0
	wait "$2" || status=$?
	untrack "$2"
	((status == $3)) || fail "the $1 ended with status $status instead of $3"
}

# Somebody who looks at all of the file. That is work by itself, which an
# emulated and busy machine takes its time for.
read_file() {
	local within_ms=$((within_ms * 3))
	other cat "$file"
}

# The same, while writes must be completed.
read_beside_writes() {
	local first=$step
	kill -USR1 "$writer_pid"
	expect writer count
	read_file
	step=$(wc -l <"$events")
	kill -USR1 "$writer_pid"
	expect writer count
	number '^([0-9]+) complete'
	step=$first
	((number > 0)) || fail "no write was completed while the file was read"
}

# ---------------------------------------------------------------------------
# With the library

# Whether the kind notices each change of the layout, whatever it comes through, and
# nothing else.
sees_layout() {
	[[ $lease_kind == layout* || $lease_kind == guard ]]
}

step_read() {
	begin_step "somebody reads the file"
	read_beside_writes
	read_ms=$took_ms
	if ! sees_layout; then # they care who opens the file
		expect holder unguarded
		expect holder guarded
	fi
	! seen holder stop || fail "the writer was stopped for a reader"
}

# Sparse, not short: what was there is gone, and the size is as before.
step_punch() {
	local half=$((size / 2))
	kill -USR2 "$writer_pid"
	step_resize "somebody makes a hole of the second half" "$size" \
		fallocate -p -o "${half}M" -l "${half}M" "$file"
	punch_ms=$took_ms
}

# step_resize TITLE MIB COMMAND...
step_resize() {
	local mib=$2
	begin_step "$1"
	shift 2
	other "$@"
	expect writer running
	expect_order holder stop writer drained
	expect_order writer drained other returned
	expect_order writer drained holder regained
	expect_order holder regained writer resumed
	(($(stat -c %s "$file") == mib << 20)) || fail "the file is not $mib MiB long"
}

step_verify() {
	begin_step "the writer is told to end; then the file is compared with its ledger"
	kill -TERM "$writer_pid"
	expect_status writer "$writer_pid" 0
	expect_status holder "$holder_pid" 0
	[[ $purpose != flip ]] || flip_byte "$file" 100
	if ! "$bin/verify" "$file" "$work/ledger" >>"$events" 2>>"$errors"; then
		seen verify verdict || true
		fail "the file does not hold what it should: ${text:-not verified}"
	fi
	seen verify verified || fail "not verified"
	number '([0-9]+) records verified'
	verified=$number
	show
}

# Nothing may have been forced, or have gone less than well, in this act.
check_quiet() {
	step=0
	! seen holder forced || fail "$text"
	! seen holder late || fail "$text"
	# The guard's word on who shares the file from before: that is us.
	! seen library warning || [[ $text == *'before it was guarded'* ]] || fail "$text"
	seen holder stats || fail "the holder did not count"
	[[ $text == *'overruns 0, lost 0'* ]] || fail "$text"
}

act_library() {
	local half=$((size / 2)) how=()
	[[ ! $purpose =~ ^(boast|deaf)$ ]] || how=("--$purpose")
	title "With libdaxlease: $size MiB on $1, RDMA writes from another process"
	begin_act "$1"
	open_shared
	start_holder --kind "$kind" --fd "$shared"
	expect holder registered
	lease_kind=${text##* }
	start_writer ${how[@]+"${how[@]}"}
	expect writer running
	step_read
	# coreutils' truncate opens with O_NONBLOCK and is told EAGAIN; these wait.
	local cut=("somebody cuts the file to half" "$half"
		perl -e "truncate \"$file\", $half << 20 or die \$!")
	# Preallocation moves nothing.
	local grow=(fallocate -l "${size}M" "$file")
	if sees_layout; then
		cut=("somebody who shares the holder's descriptor cuts the file to half" "$half"
			perl -e "open F, \"+<&=$shared\"; truncate F, $half << 20 or die \$!")
		grow=(perl -e "truncate \"$file\", $size << 20 or die \$!")
	fi
	step_resize "${cut[@]}"
	cut_ms=$took_ms
	step_resize "somebody makes it as long as before" "$size" "${grow[@]}"
	grow_ms=$took_ms
	punch_ms=
	! sees_layout || step_punch
	step_verify
	close_shared
	seen verify verified
	number '([0-9]+) of them where the file'
	((number > 0)) || fail "nothing was written where the file had been cut off"
	check_quiet
	note "Everybody waited for everybody, and nobody for long."
	seen writer ended || fail "the writer did not count"
	number ' ([0-9]+) complete'
	acked=$number
	rm -f -- "$file"
}

# Nobody may change the file: they are told so at once, and writes go on.
act_exclusive() {
	title "With libdaxlease, exclusive: $size MiB on $1"
	begin_act "$1"
	start_holder --kind "$kind" --exclusive
	expect holder registered
	lease_kind=${text##* }
	start_writer
	expect writer running
	begin_step "somebody tries to cut the file to half"
	other perl -e "truncate \"$file\", $((size / 2)) << 20 and die; die \$! unless \$!{ETXTBSY}"
	refused_ms=$took_ms
	note "It is refused with ETXTBSY."
	(($(stat -c %s "$file") == size << 20)) || fail "the file is not $size MiB long"
	begin_step "the writer is not disturbed"
	kill -USR1 "$writer_pid"
	expect writer count
	step=$(wc -l <"$events")
	kill -USR1 "$writer_pid"
	expect writer count
	! seen holder stop || fail "the writer was stopped"
	step_verify
	check_quiet
	exclusive_verified=$verified
	rm -f -- "$file"
}

# ---------------------------------------------------------------------------
# Without it

act_pinned() {
	title "Without it: plain ibv_reg_mr()"
	begin_act "$1"
	start_holder --without pinned
	expect_status holder "$holder_pid" 4
	seen holder refused || fail "not refused"
	[[ $text == *EOPNOTSUPP* ]] || fail "refused, but not with EOPNOTSUPP"
	show
	note "No RDMA to such a file at all."
	rm -f -- "$file"
}

act_odp() {
	title "Without it: ibv_reg_mr() with on-demand paging"
	begin_act "$1"
	start_holder --without odp
	expect holder registered
	start_writer
	expect writer running
	begin_step "somebody reads the file"
	read_file
	begin_step "somebody cuts the file to half"
	other perl -e "truncate \"$file\", $((size / 2)) << 20 or die \$!"
	expect writer broken
	[[ $text == *'remote access error'* ]] ||
		fail "the writer was broken off, but not by a remote access error"
	expect_status writer "$writer_pid" 3
	expect_status holder "$holder_pid" 0
	seen writer ended || fail "the writer did not count"
	number '([0-9]+) of unknown fate'
	unknown=$number
	show
	note "Nobody waited for anybody: the writer is broken off in the middle of its work."
	rm -f -- "$file"
}

# ---------------------------------------------------------------------------

# The rest of the acknowledged records was written over or cut off with the file's end.
result() {
	printf '%s, lease kind %s:\n' "$1" "$lease_kind"
	((exclusive)) || result_of_library
	! sees_layout ||
		printf '  exclusive: the cut refused in %s ms, %s records in the file, 0 lost\n' \
			"$refused_ms" "$exclusive_verified"
	((exclusive)) ||
		printf '  without the library: pinning refused; on-demand paging broken off, %s writes\n%s\n' \
			"$unknown" '  of unknown fate'
}

result_of_library() {
	printf '  %s RDMA writes acknowledged; of those not written over or cut off\n' "$acked"
	printf '  %s are in the file, 0 lost, 0 corrupt\n' "$library_verified"
	printf '  meanwhile read in %s ms, cut in %s ms, grown in %s ms%s (limit: %s s)\n' \
		"$read_ms" "$cut_ms" "$grow_ms" "${punch_ms:+, punched in $punch_ms ms}" \
		"$lease_break_time"
}

story() {
	local ms
	if ((!exclusive)); then
		act_library "$1"
		library_verified=$verified
		total=$((total + verified))
		for ms in "$cut_ms" "$grow_ms" ${punch_ms:+"$punch_ms"}; do
			((${ms%.*} <= worst_ms)) || worst_ms=${ms%.*}
		done
	fi
	if ((exclusive)) || sees_layout; then
		act_exclusive "$1"
		total=$((total + verified))
	fi
	if ((!exclusive)); then
		act_pinned "$1"
		act_odp "$1"
	fi
	results+=("$(result "$1")")
}

# Get the tools into memory: reading them over a network filesystem would be
# most of the time that they take.
warm_up() {
	fallocate -l 4096 "$work/warm"
	perl -e "truncate \"$work/warm\", 1 or die \$!"
	cat "$work/warm" >/dev/null
}

at_exit() {
	[[ -z $file ]] || rm -f -- "$file"
}

parse_options "$@"
check_packets
make_work_dir
events=$work/events
errors=$work/errors
warm_up
results=()
total=0
worst_ms=0
for folder in "${folders[@]}"; do
	story "$folder"
done
title "Result"
printf '%s\n' "${results[@]}"
printf '\nProved on %s: %s acknowledged records verified, 0 lost' "${folders[*]}" "$total"
((exclusive)) || printf '; no change took over %s ms' "$((worst_ms + 1))"
printf '.\n'
