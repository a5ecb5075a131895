#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# Called by ../run.sh: dax-log with its server and clients on hosts of their own (network
# namespaces), while others cut the file, the server rotates it, and clients misbehave.
#
#   cases.sh --dax-log FILE --rogue FILE --tool FILE [--rotations N] [--filter RE] FS...
set -uo pipefail

dax_log='' rogue='' tool='' rotations=20 filter=''
while (($#)); do
	case $1 in
	--dax-log) dax_log=$2 ;;
	--rogue) rogue=$2 ;;
	--tool) tool=$2 ;;
	--rotations) rotations=$2 ;;
	--filter) filter=$2 ;;
	*) break ;;
	esac
	shift 2
done
# shellcheck source=tests/vm/frame.sh
. "$(dirname -- "$0")/../frame.sh"
say() { printf '%s\n' "$*"; }
die() { printf 'cases.sh: %s\n' "$*" >&2; exit 2; }
# shellcheck source=scripts/lib/flip-byte.sh
. "$(dirname -- "$0")/../../../scripts/lib/flip-byte.sh"
# shellcheck source=scripts/lib/hosts.sh
. "$(dirname -- "$0")/../../../scripts/lib/hosts.sh"

budget=5000 slack=2000 # ms; emulated processors on a busy machine
readonly server=10.8.0.1 port=7471

# What a case that failed has left of the hosts is not to fail the next one.
after_failure() {
	tail -n 20 -- "$dir"/*.log
	hosts_end
	hosts_make srv "${all[@]}"
}

# What it writes to $dir/report is shown in any case.
after_case() {
	[[ ! -s $dir/report ]] || sed 's/^/# /' "$dir/report"
}

# Without another program: in emulation these are slow, and there are many waits.
mkfifo "$dir.never"
exec {never}<>"$dir.never"
rm -f -- "$dir.never"
pause() {
	read -rt "$1" -u "$never" || true
}

# wait_for SECONDS COMMAND...: until it succeeds
wait_for() {
	local end=$((SECONDS + $1))
	until "${@:2}"; do
		((SECONDS <= end)) || fail "waited $1 s in vain for: ${*:2}"
		pause 0.1
	done
}

# Sets $text to all that was said.
read_log() {
	text=
	[[ ! -e $dir/$1.log ]] || read -rd '' text <"$dir/$1.log" || true
}

# says WHO REGEX: whether it has said so
says() {
	read_log "$1"
	[[ $text =~ $2 ]]
}

# ---------------------------------------------------------------------------
# Server, clients, and somebody else

file=''
declare -A pid=()

# The option --cuts is for the verifier.
start_server() {
	(on_host srv "$dax_log" serve --bind "$server" --port "$port" --budget "$budget" \
		--cuts "$dir/cuts" --clients 8 "$@" "$file") >>"$dir/srv.log" 2>&1 &
	pid[srv]=$!
	: >>"$dir/cuts"
	wait_for 20 says srv 'listening at'
}

# start_client NAME [OPTION...]
start_client() {
	(on_host "$1" "$dax_log" append --port "$port" --ledger "$dir/$1.ledger" --reconnect 120 \
		"${@:2}" "$server") >"$dir/$1.log" 2>&1 &
	pid[$1]=$!
}

start_rogue() {
	(on_host "$1" "$rogue" "$2" "$server" "$port") >"$dir/$1.log" 2>&1 &
	pid[$1]=$!
}

# Sets $acked to what a client said last; a line each second.
count_acked() {
	read_log "$1"
	acked=0
	[[ $text == *' records acknowledged,'* ]] || return 0
	text=${text%' records acknowledged,'*}
	acked=${text##* }
}

went_on() {
	count_acked "$1"
	((acked > $2))
}

# Each of them has more acknowledged than when asked.
go_on() {
	local name before=()
	for name; do
		count_acked "$name"
		before+=("$acked")
	done
	for name; do
		wait_for 90 went_on "$name" "${before[0]}"
		before=("${before[@]:1}")
	done
}

# end NAME STATUS: with SIGTERM
end() {
	local status=0
	kill -TERM "${pid[$1]}"
	wait "${pid[$1]}" || status=$?
	((status == $2)) || fail "$1 ended with status $status instead of $2"
}

# Somebody else, who has to be back when the budget is over.
somebody_cuts() {
	"$dax_log" cut --down "$half" --cuts "$dir/cuts" "$file" >"$dir/cut.log" ||
		fail "the cut failed"
	says cut '^cut in ([0-9]+)' || fail "it does not say how long the cut took"
	((BASH_REMATCH[1] <= budget + slack)) ||
		fail "a cut took ${BASH_REMATCH[1]} ms, over the budget of $budget"
}

# Sets $rotations_made, of the present server.
count_rotations() {
	local line
	rotations_made=0
	while read -r line; do
		[[ $line != *' server' ]] || rotations_made=$((rotations_made + 1))
	done <"$dir/cuts"
}

rotations_are() {
	count_rotations
	((rotations_made >= $1))
}

rotate() {
	count_rotations
	kill -USR1 "${pid[srv]}"
	wait_for $(((budget + slack) / 1000)) rotations_are $((rotations_made + 1))
}

verify() {
	local name ledgers=()
	for name; do
		ledgers+=("$dir/$name.ledger")
	done
	"$dax_log" verify --cuts "$dir/cuts" "$file" "${ledgers[@]}" >"$dir/verify.log" 2>&1
}

# server_counted REGEX: in its last line
server_counted() {
	read_log srv
	text=${text##*server: }
	[[ $text =~ $1 ]] || fail "the server does not say '$1' but: $text"
}

undisturbed() {
	local name
	for name; do
		says "$name" 'fate, 0 disconnects' || fail "$name was disconnected"
	done
}

# Milliseconds of the cuts by somebody, as a distribution.
cut_times() {
	awk -v who="$1" '$4 == who { printf "%.1f\n", ($2 - $1) / 1e6 }' "$dir/cuts" | sort -n |
		awk -v who="$1" '{ ms[NR] = $1 } END { if (NR) printf \
			"truncates by %s: %d, median %.1f ms, p90 %.1f, p99 %.1f, max %.1f\n", who, NR, \
			ms[int((NR * 50 + 99) / 100)], ms[int((NR * 90 + 99) / 100)], \
			ms[int((NR * 99 + 99) / 100)], ms[NR] }'
}

# Of soft-RoCE: what was sent again costs some seconds each time.
retries() {
	rdma statistic show link rxe-srv/1 | tr ' ' '\n' | awk '
		/^[a-z_]+$/ { name = $0 }
		/^[0-9]+$/ && name ~ /retry|seq|duplicate|rnr|send_err/ && $0 > 0 {
			list = list " " name " " $0 }
		END { print "soft-RoCE of the server:" (list ? list : " nothing sent again") }'
}

report() {
	retries
	cut_times other
	cut_times server
	cat -- "$dir/verify.log"
} >>"$dir/report"

# set_up MIB
set_up() {
	rm -f -- "$file"
	half=$(($1 * 512))K
	size=(--size "$1M")
}

# ---------------------------------------------------------------------------
# Load

readonly all=(c1 c2 c3 c4 c5 c6 c7 c8)

start_all() {
	local name
	for name in "${all[@]}"; do
		start_client "$name" --rate 60
	done
	go_on "${all[@]}"
}

end_all() {
	local name
	for name in "$@"; do
		end "$name" 0
	done
	end srv 0
}

# round N [SERVER-OPTION...]: so many cuts, and as many rotations
round() {
	local i n=$1
	set_up 32
	: >"$dir/srv.log"
	start_server "${size[@]}" "${@:2}"
	start_all
	for ((i = 0; i < n; i++)); do
		somebody_cuts
		pause 0.5
		rotate
		pause 0.5
	done
	go_on "${all[@]}"
	end_all "${all[@]}"
	verify "${all[@]}" || fail "lost or corrupt"
	report
	undisturbed "${all[@]}"
	server_counted ', fenced 0, windows revoked 0, protocol 0, disconnected 0;'
	server_counted "; windows $windows"
}

# load [SERVER-OPTION...]: in rounds, for what is overwritten later is not looked at
load() {
	local left n budget=10000
	for ((left = rotations; left > 0; left -= n)); do
		n=$((left < 20 ? left : 20))
		round "$n" "$@"
		rm -f -- "$dir/cuts"
	done
}

# ---------------------------------------------------------------------------
# One that misbehaves, among three that do not

readonly healthy=(c1 c2 c3)

start_healthy() {
	local name
	for name in "${healthy[@]}"; do
		start_client "$name" --rate 100
	done
	go_on "${healthy[@]}"
}

# The healthy ones have gone on; nothing of theirs is missing.
end_healthy() {
	go_on "${healthy[@]}"
	end_all "${healthy[@]}"
	verify "${healthy[@]}" "$@" || fail "lost or corrupt"
	undisturbed "${healthy[@]}"
}

# rogue HOW [SERVER-OPTION...]
rogue() {
	local how=$1 late=0 revoked=0 protocol=0 broken=1
	case $how-$windows in
	behave-*) broken=0 ;;
	silent-yes) revoked=1 broken=0 ;;
	silent-no) late=1 ;;
	twice-* | old-* | garbage-*) protocol=1 ;;
	writes-*) ;;
	esac
	set_up 16
	start_server "${size[@]}" "${@:2}"
	start_healthy
	start_rogue c4 "$how"
	wait_for 20 says c4 granted
	if [[ $how == old ]]; then # the first answer is right, and repeated
		somebody_cuts
		wait_for 20 says c4 'granted.*granted'
	fi
	somebody_cuts
	wait_for 20 says c4 revoked
	((!broken)) || wait_for 20 says c4 broken
	# What it still writes there is its own business, so it is gone when records are looked at.
	((broken)) || end c4 0
	end_healthy
	server_counted ", fenced $late, windows revoked $revoked, protocol $protocol, disconnected $broken;"
	server_counted "; windows $windows"
}

# A client that stands still is late; what was acknowledged is not lost, and it goes on later.
# With windows its connection survives if it did not write before it looked who wrote to it.
stopped() {
	set_up 16
	start_server "${size[@]}" "$@"
	start_healthy
	start_client c4 --rate 100
	go_on c4
	kill -STOP "${pid[c4]}"
	somebody_cuts
	kill -CONT "${pid[c4]}"
	go_on c4 # maybe by answers from before
	go_on c4
	end c4 0
	end_healthy c4
	if [[ $windows == yes ]]; then
		server_counted ', fenced 0, windows revoked 1, protocol 0, disconnected [01];'
	else
		server_counted ', fenced 1, windows revoked 0, protocol 0, disconnected 1;'
		says c4 'fate, 1 disconnects' || fail "c4 has not noticed"
	fi
}

killed() {
	set_up 16
	start_server "${size[@]}" "$@"
	start_healthy
	start_client c4 --rate 100
	go_on c4
	kill -KILL "${pid[c4]}"
	somebody_cuts
	end_healthy c4
	server_counted ', protocol 0, disconnected 0;'
}

# unplug NAME: a client that does nothing in that moment. What soft-RoCE cannot send between
# the loss of the carrier and the loss of what is known of neighbours breaks the queue pair that
# it is from (rxe_requester() of Linux 7.3: any return of ip_local_out() but 0). A client's is
# the client's affair; but if it is QP 1, its receive buffers go, and nobody can connect from
# that device any more.
unplug() {
	kill -STOP "${pid[$1]}"
	hosts_link "$1" down
	pause 0.3
	kill -CONT "${pid[$1]}"
}

unplugged() {
	set_up 16
	start_server "${size[@]}" "$@"
	start_healthy
	start_client c4 --rate 100
	go_on c4
	unplug c4
	somebody_cuts
	go_on "${healthy[@]}"
	hosts_link c4 up
	go_on c4
	end c4 0
	end_healthy c4
	server_counted ', protocol 0, disconnected 1;'
}

# ---------------------------------------------------------------------------
# The server is killed in the middle of a drain

is_over() {
	! kill -0 "$1" 2>/dev/null
}

is_registered() {
	[[ $(rdma resource show mr dev rxe-srv) ]]
}

# By a lease or a guard, which is no lock.
is_held() {
	"$tool" who "$file" >"$dir/who.log" 2>&1
	says who $'\n +holds' || grep -qE ' (LEASE|DELEG|LAYOUT) ' /proc/locks
}

nothing_left() {
	! is_registered && ! is_held
}

killed_server() {
	local cut_pid name budget=25000
	set_up 16
	start_server "${size[@]}" "$@"
	start_healthy
	start_client c4 --rate 100 --misbehave hold
	go_on c4
	"$dax_log" cut --down "$half" --cuts "$dir/cuts" "$file" >"$dir/cut.log" &
	cut_pid=$!
	wait_for 20 says c4 'held back'
	pause 1
	is_over "$cut_pid" && fail "the cut did not wait for the answer"
	is_registered || fail "it is not seen that something is registered"
	is_held || fail "it is not seen that the file is held"
	kill -KILL "${pid[srv]}"
	wait "${pid[srv]}"
	wait_for 10 is_over "$cut_pid"
	wait "$cut_pid" || fail "the cut failed"
	wait_for 5 nothing_left
	for name in "${healthy[@]}" c4; do
		wait_for 30 says "$name" 'the server ended the connection|the connection is broken'
	done
	: >"$dir/srv.log"
	start_server "${size[@]}" "$@"
	go_on "${healthy[@]}" c4
	end c4 0
	end_all "${healthy[@]}"
	verify "${healthy[@]}" c4 || fail "lost or corrupt"
	report
	for name in "${healthy[@]}"; do
		says "$name" 'fate, 1 disconnects' || fail "$name was not disconnected once"
	done
}

# ---------------------------------------------------------------------------
# Whether these cases would find it

flipped() {
	set_up 16
	start_server "${size[@]}"
	start_healthy
	end_all "${healthy[@]}"
	verify "${healthy[@]}" || fail "lost or corrupt"
	flip_byte "$file" 4196 # of a record of client 0
	! verify "${healthy[@]}" || fail "a damaged byte was not found"
	says verify ' 0 lost, 1 corrupt' || fail "something else was found"
}

boasted() {
	set_up 16
	start_server "${size[@]}"
	start_client c1 --boast --rate 100
	go_on c1
	end c1 0
	end srv 0
	! verify c1 || fail "a record that was not written was not found out"
	says verify ' 1 lost, 0 corrupt' || fail "something else was found"
}

# Who cut is not told to the verifier.
silent_cut() {
	set_up 16
	start_server "${size[@]}"
	start_client c1
	wait_for 60 went_on c1 2000 # several times round its ring
	end c1 0
	somebody_cuts
	end srv 0
	: >"$dir/cuts"
	! verify c1 || fail "records that were cut off were not missed"
	says verify ' [1-9][0-9]* lost, 0 corrupt' || fail "something else was found"
}

# The server cuts the file without asking its clients.
rude() {
	set_up 16
	start_server --rude "${size[@]}"
	start_healthy
	rotate
	go_on "${healthy[@]}"
	end_all "${healthy[@]}"
	server_counted ', fenced 0, windows revoked 0, protocol 0, disconnected 0;' &&
		undisturbed "${healthy[@]}"
}

rude_is_found() {
	! (rude) || fail "nobody was disturbed"
	says srv 'server: ' || fail "it did not come to that"
}

# ---------------------------------------------------------------------------

# with_windows yes|no COMMAND...
with_windows() {
	local option=()
	windows=$1
	[[ $windows == yes ]] || option=(--no-windows)
	"${@:2}" ${option[@]+"${option[@]}"}
}

at_exit() {
	hosts_end
	rm -rf -- "$dir"
}
trap at_exit EXIT

hosts_make srv "${all[@]}"
for fs; do
	file=/dax/$fs/dax-log
	for windows in yes no; do
		tail=$([[ $windows == yes ]] && echo windows || echo no-windows)
		one "$fs/hosts/load/$tail" with_windows "$windows" load
		for how in behave silent twice old garbage writes; do
			one "$fs/hosts/rogue/$how/$tail" with_windows "$windows" rogue "$how"
		done
		one "$fs/hosts/stopped/$tail" with_windows "$windows" stopped
		one "$fs/hosts/killed/$tail" with_windows "$windows" killed
		one "$fs/hosts/unplugged/$tail" with_windows "$windows" unplugged
		one "$fs/hosts/server-killed/$tail" with_windows "$windows" killed_server
	done
	one "$fs/hosts/found/flipped" flipped
	one "$fs/hosts/found/boasted" boasted
	one "$fs/hosts/found/silent-cut" silent_cut
	one "$fs/hosts/found/rude" rude_is_found
	rm -f -- "$file"
done
conclude
