#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# The service dax-log on hosts of its own, told on a machine that has FS-DAX (such as the
# guest of scripts/vm). See usage().

set -euo pipefail

prog=demo
die_status=1
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=scripts/lib/common.sh
. "$here/../scripts/lib/common.sh"
# shellcheck source=scripts/lib/flip-byte.sh
. "$here/../scripts/lib/flip-byte.sh"
# shellcheck source=scripts/lib/hosts.sh
. "$here/../scripts/lib/hosts.sh"

usage() {
	cat <<'END'
Usage: demo/hosts.sh --dax-log FILE [OPTION...] FOLDER...

A server and clients of dax-log, each in a network namespace with a soft-RoCE device of its
own. The clients append to a log in each FOLDER, which has to be on FS-DAX, while somebody
else truncates it and the server rotates it. Then every acknowledged record is looked for.

  --dax-log FILE    the program
  --kind KIND       lease kind: auto, layout, layout-rfc, guard, deleg, lease (auto)
  --size MIB        size of the log (32)
  --clients N       from 1 to 8 (4)
  --times N         how often it is truncated, and how often rotated (5)
  --no-windows      one key for all clients, and no memory windows
  --break-on-purpose HOW
                    for tests: the demo has to fail. flip: damage one byte of the log
                    before it is verified. boast: a client claims a record that it did not
                    write
  -h, --help        show this text
END
}

dax_log=
kind=auto
size=32
clients=4
times=5
server_options=()
purpose=
folders=()
readonly port=7471

# value OPTION COUNT: die unless there is an argument after the option
value() {
	(($2 > 1)) || die "$1 needs a value; see --help"
}

parse_options() {
	while (($#)); do
		case $1 in
		--dax-log) value "$1" $#; dax_log=$2; shift ;;
		--kind) value "$1" $#; kind=$2; shift ;;
		--size) value "$1" $#; size=$2; shift ;;
		--clients) value "$1" $#; clients=$2; shift ;;
		--times) value "$1" $#; times=$2; shift ;;
		--no-windows) server_options+=(--no-windows) ;;
		--break-on-purpose) value "$1" $#; purpose=$2; shift ;;
		-h | --help) usage; exit 0 ;;
		-*) die "unknown option $1; see --help" ;;
		*) folders+=("$1") ;;
		esac
		shift
	done
	[[ -x $dax_log ]] || die "no program '$dax_log'; see --help"
	((${#folders[@]})) || die "no folder given; see --help"
	[[ $clients =~ ^[1-8]$ ]] || die "--clients takes a number from 1 to 8, not '$clients'"
	[[ $times =~ ^[1-9][0-9]{0,2}$ ]] || die "--times takes a number from 1 to 999, not '$times'"
	[[ $size =~ ^[1-9][0-9]{0,2}$ ]] || die "--size takes MiB from 1 to 999, not '$size'"
	[[ $purpose =~ ^(|flip|boast)$ ]] || die "cannot break it by '$purpose'; see --help"
}

title() {
	printf '\n== %s\n' "$*"
}

fail() {
	tail -n 5 -- "$work"/*.log >&2 || true
	die "$*"
}

# wait_for TEXT FILE REGEX: until the file has it
wait_for() {
	local i
	for ((i = 0; i < 300; i++)); do
		! grep -qsE -- "$3" "$2" || return 0
		sleep 0.1
	done
	fail "waited in vain for $1"
}

# ---------------------------------------------------------------------------

start_server() {
	(on_host server "$dax_log" serve --bind "$(hosts_address server)" --port "$port" \
		--size "${size}M" --clients "$clients" --kind "$kind" --cuts "$work/cuts" \
		${server_options[@]+"${server_options[@]}"} "$log") >"$work/server.log" 2>&1 &
	server_pid=$!
	track "$server_pid"
	: >"$work/cuts"
	wait_for "the server" "$work/server.log" 'listening at'
	sed -n 's/^dax-log: //p' "$work/server.log"
}

# start_client N
start_client() {
	local options=()
	[[ $purpose != boast || $1 != 1 ]] || options=(--boast)
	(on_host "client$1" "$dax_log" append --port "$port" --ledger "$work/ledger$1" --rate 200 \
		${options[@]+"${options[@]}"} "$(hosts_address server)") >"$work/client$1.log" 2>&1 &
	client_pids+=($!)
	track $!
}

start_clients() {
	local i
	client_pids=()
	for ((i = 1; i <= clients; i++)); do
		start_client "$i"
	done
	for ((i = 1; i <= clients; i++)); do
		wait_for "client $i" "$work/client$i.log" '[1-9][0-9]* records acknowledged'
	done
	printf '%d clients append; each is on a host of its own\n' "$clients"
}

truncate_it() {
	title "Somebody else truncates the log to half and makes it long again, $times times"
	"$dax_log" cut --down "$((size * 512))K" --times "$times" --pause 500 --cuts "$work/cuts" \
		"$log" || fail "the log was not truncated"
}

rotate_it() {
	local i
	title "The server rotates the log, $times times: its head, the first half, stays"
	for ((i = 1; i <= times; i++)); do
		kill -USR1 "$server_pid"
		wait_for "rotation $i" "$work/server.log" " $i rotations"
	done
	awk '$4 == "server" { printf "cut in %.1f ms\n", ($2 - $1) / 1e6 }' "$work/cuts"
}

# end NAME PID
end() {
	local status=0
	kill -TERM "$2"
	wait "$2" || status=$?
	untrack "$2"
	((status == 0)) || fail "the $1 ended with status $status"
}

end_all() {
	local pid
	title "The clients end, then the server"
	for pid in "${client_pids[@]}"; do
		end client "$pid"
	done
	end server "$server_pid"
	grep -h 'of unknown fate' "$work"/client*.log
	grep '^server: ' "$work/server.log"
	grep -q ', fenced 0, windows revoked 0, protocol 0, disconnected 0;' "$work/server.log" ||
		fail "somebody lost the connection or had to be stopped"
}

verify() {
	[[ $purpose != flip ]] || flip_byte "$log" 4196
	"$dax_log" verify --cuts "$work/cuts" "$log" "$work"/ledger* >"$work/verify.log" 2>&1 ||
		fail "the log does not hold what it should"
	verified=$(sed -n 's/^\([0-9]*\) acknowledged records verified.*/\1/p' "$work/verify.log")
	total=$((total + verified))
}

# row NAME: a line of the table, of numbers on stdin
row() {
	sort -n | awk -v name="$1" '
		function at(percent) { return ms[int((NR * percent + 99) / 100)] }
		{ ms[NR] = $1 }
		END { printf "  %-34s %6d %8.1f %8.1f %8.1f %8.1f\n", name, NR, at(50), at(90),
			at(99), ms[NR] }'
}

# took WHO: milliseconds of the cuts by it
took() {
	awk -v who="$1" '$4 == who { print ($2 - $1) / 1e6 }' "$work/cuts"
}

table() {
	printf '  %-34s %6s %8s %8s %8s %8s\n' "milliseconds" number median p90 p99 max
	took other | row "truncate(2) by somebody else"
	took server | row "ftruncate(2) by the server"
	sed -nE 's/^outages by revokes: ([0-9]+), median ([0-9.]+) ms, p90 ([0-9.]+), p99 ([0-9.]+), max ([0-9.]+)$/\1 \2 \3 \4 \5/p' \
		"$work/verify.log" | while read -r n median p90 p99 max; do
		printf '  %-34s %6d %8s %8s %8s %8s\n' "outages of clients" "$n" "$median" "$p90" \
			"$p99" "$max"
	done
}

story() {
	log=$1/dax-log
	rm -f -- "$log" "$work"/*
	title "dax-log: $size MiB on $1"
	start_server
	start_clients
	truncate_it
	rotate_it
	sleep 1
	end_all
	title "Result on $1"
	verify
	table
	sed 's/^/  /' "$work/verify.log"
	rm -f -- "$log"
	log=
}

at_exit() {
	[[ -z ${log-} ]] || rm -f -- "$log"
	hosts_end
}

parse_options "$@"
make_work_dir
names=(server)
for ((i = 1; i <= clients; i++)); do
	names+=("client$i")
done
hosts_make "${names[@]}"
total=0
for folder in "${folders[@]}"; do
	story "$folder"
done
printf '\nProved on %s: %s acknowledged records verified, 0 lost.\n' "${folders[*]}" "$total"
