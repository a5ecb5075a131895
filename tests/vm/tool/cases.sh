#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# Called by ../run.sh: what daxlease doctor says is tried with plain verbs and fcntl, and
# daxlease who and run are asked about what is known.
#
#   cases.sh --tool FILE --try FILE --daemon FILE [--filter RE] FS...
set -uo pipefail

tool='' try='' daemon='' filter=''
while (($#)); do
	case $1 in
	--tool) tool=$2 ;;
	--try) try=$2 ;;
	--daemon) daemon=$2 ;;
	--filter) filter=$2 ;;
	*) break ;;
	esac
	shift 2
done
# shellcheck source=tests/vm/frame.sh
. "$(dirname -- "$0")/../frame.sh"
# As another user, who may not look into the folder where all of this is.
public=$(mktemp -d)
chmod 755 "$public"
cp -- "$tool" "$try" "$(ldd "$tool" | awk '/libdaxlease\.so/ { print $3 }')" "$public"
user=(setpriv --reuid 1000 --regid 1000 --clear-groups env "LD_LIBRARY_PATH=$public")
user_tool=$public/${tool##*/}
user_try=$public/${try##*/}

# has TEXT WORDS: the text has a line with these words.
has() {
	grep -qF -- "$2" <<<"$1" || fail "there is no '$2' in: $1"
}

has_not() {
	! grep -qF -- "$2" <<<"$1" || fail "there is '$2' in: $1"
}

# wants STATUS COMMAND...: runs it, and shows what it printed.
wants() {
	local wanted=$1 status=0
	shift
	"$@" || status=$?
	((status == wanted)) || fail "$*: status $status, wanted $wanted"
}

make_file() {
	dd if=/dev/urandom of="$1" bs=1M count=2 status=none
}

# --- doctor -------------------------------------------------------------------

doctor_dax() {
	local file=/dax/$1/tool-dax json truth
	make_file "$file"
	json=$(wants 0 "$tool" doctor --device rxe0 --json "$file") || fail "$json"
	truth=$("$try" rxe0 "$file")
	has "$truth" "odp: ok"
	has "$truth" "lease: ok"
	# Without a layout lease nothing is pinned; with one, by the library, it is.
	has "$truth" "pinned: EOPNOTSUPP"
	if ((layout)); then
		has "$json" '"verdict":"pinned"'
	else
		has "$json" '"verdict":"on demand"'
	fi
	has "$json" '"fs_dax":true'
	has "$json" '"hidden_processes":0'
}

# With 1500 bytes soft-RoCE puts what is on demand in the wrong place; it has to be found,
# and the file is as it was.
doctor_traffic() {
	local file=/dax/$1/tool-traffic before text mtu=$2 status=$3
	make_file "$file"
	before=$(sha256sum <"$file")
	ip link set dummy0 mtu "$mtu"
	text=$(wants "$status" "$tool" doctor --device rxe0 --traffic "$file") || fail "$text"
	ip link set dummy0 mtu 9000
	[[ $(sha256sum <"$file") == "$before" ]] || fail "the file was changed: $text"
	if ((status)); then
		has "$text" "in the wrong place"
	else
		has "$text" "a page was written by RDMA"
	fi
}

doctor_tmpfs() {
	local text
	make_file /dev/shm/tool
	text=$(wants 0 "$tool" doctor --device rxe0 --traffic /dev/shm/tool) || fail "$text"
	has "$text" "plain memory, without a lease; a page was written by RDMA"
	has "$text" "tmpfs has no DAX"
	has "$("$try" rxe0 /dev/shm/tool)" "pinned: ok"
	rm /dev/shm/tool
}

doctor_page_cache() {
	local file=/dax/pagecache/tool text
	make_file "$file"
	text=$(wants 1 "$tool" doctor --device rxe0 "$file") || fail "$text"
	has "$text" "with rxe0         not at all"
	has "$text" "page cache"
	has "$text" "is no persistent memory"
	has "$("$try" rxe0 "$file")" "pinned: EFAULT"
}

doctor_foreign() {
	local file=/dax/$1/tool-foreign text
	make_file "$file"
	chmod 666 "$file"
	text=$(wants 1 "${user[@]}" "$user_tool" doctor --device rxe0 "$file") || fail "$text"
	has "$text" "leasing takes that user, or CAP_LEASE"
	has "$text" "with rxe0         not at all"
	has "$("${user[@]}" "$user_try" rxe0 "$file")" "lease: EACCES"
	has "$text" "may not be looked into"
}

doctor_open_elsewhere() {
	local file=/dax/$1/tool-open text opener
	make_file "$file"
	chown 1000:1000 "$file"
	sleep 60 <>"$file" &
	opener=$!
	text=$(wants 1 "${user[@]}" "$user_tool" doctor --device rxe0 "$file") || fail "$text"
	has "$text" "close the other descriptors"
	has "$("${user[@]}" "$user_try" rxe0 "$file")" "lease: EAGAIN"
	text=$("$tool" doctor --device rxe0 "$file")
	has "$text" "sleep ($opener) writing"
	kill "$opener"
	wait "$opener" 2>/dev/null
	text=$(wants 0 "${user[@]}" "$user_tool" doctor --device rxe0 "$file") || fail "$text"
	has "$("${user[@]}" "$user_try" rxe0 "$file")" "lease: ok"
}

# It is not opened: that would break the lease.
doctor_leased() {
	local file=/dax/$1/tool-leased text
	make_file "$file"
	hold lease "$file"
	text=$(wants 1 "$tool" doctor --device rxe0 --traffic "$file") || fail "$text"
	has "$text" "somebody leases it"
	sleep 0.3
	has "$(cat /proc/locks)" "ACTIVE"
	has "$("$tool" who "$file")" "lease, WRITE, held"
	end_hold
}

doctor_errors() {
	local text
	text=$(wants 1 "$tool" doctor /nonexistent 2>&1) || fail "$text"
	has "$text" "No such file"
	text=$(wants 1 "$tool" doctor /dax 2>&1) || fail "$text"
	has "$text" "no regular file"
	text=$(wants 3 "$tool" doctor --device nosuch 2>&1) || fail "$text"
	has "$text" "no device 'nosuch'"
	: >/dax/ext4/empty
	text=$(wants 1 "$tool" doctor /dax/ext4/empty 2>&1) || fail "$text"
	has "$text" "the file is empty"
}

# --- who ----------------------------------------------------------------------

# hold KIND FILE: $holder has it, and answers a break when it is told to.
hold() {
	rm -f -- "$dir/answer"
	"$try" --hold "$1" rxe0 "$2" "$dir/answer" >"$dir/news" 2>&1 &
	holder=$!
	until grep -qx holds "$dir/news"; do
		kill -0 "$holder" 2>/dev/null || fail "no holder: $(cat "$dir/news")"
		sleep 0.05
	done
}

answer() {
	touch -- "$dir/answer"
}

# eventually TEXT COMMAND...: it prints that within 10 s. $text is what it printed.
eventually() {
	local wanted=$1 i
	shift
	for ((i = 0; i < 100; i++)); do
		text=$("$@") || true
		[[ $text != *"$wanted"* ]] || return 0
		sleep 0.1
	done
	fail "$*: there is no '$wanted' in: $text"
}

end_hold() {
	kill "$holder"
	wait "$holder" 2>/dev/null || true
}

who_waits() {
	local fs=$1 kind=$2 shown=$3 file=/dax/$1/tool-who-$2 text breaker
	make_file "$file"
	hold "$kind" "$file"
	text=$(wants 0 "$tool" who "$file") || fail "$text"
	has "$text" "$shown"
	has "$text" "tool-try ($holder)"
	has "$text" "1 memory regions of 4 KiB"
	has_not "$text" "waits"
	perl -e "truncate '$file', 4096" &
	breaker=$!
	eventually "waits    perl ($breaker)" "$tool" who "$file"
	has "$text" "truncate"
	has "$text" "tool-try ($holder)"
	text=$(wants 0 "$tool" who --json "$file") || fail "$text"
	text=${text//[[:space:]]/}
	has "$text" "\"pid\":$breaker,\"tid\":"
	has_not "$text" "\"pid\":$breaker,\"comm\""
	answer
	wait "$breaker" || fail "the truncate failed"
	end_hold
	wants 1 "$tool" who "$file"
}

who_by_daemon() {
	local file=/dax/$1/tool-who-daemon text='' guard
	make_file "$file"
	"$daemon" --socket /tmp/tool-guard --log-level err &
	guard=$!
	until [[ -S /tmp/tool-guard ]]; do sleep 0.1; done
	export GUARD_SOCKET=/tmp/tool-guard
	hold guard "$file"
	text=$(wants 0 "$tool" who "$file") || fail "$text"
	has "$text" "holds    daxleased ($guard): guard, for others that use it"
	has "$text" "uses     tool-try ($holder): reads writes mapped; 1 memory regions"
	perl -e "truncate '$file', 4096" &
	eventually "waits    perl ($!): in truncate" "$tool" who "$file"
	answer
	wait $!
	end_hold
	kill "$guard"
	wait "$guard" 2>/dev/null || true
}

who_as_user() {
	local file=/dax/$1/tool-who-user text
	make_file "$file"
	hold lease "$file"
	text=$(wants 0 "${user[@]}" "$user_tool" who "$file") || fail "$text"
	has "$text" "lease, WRITE, held"
	has "$text" "may not be looked into: be root"
	end_hold
}

watch_shows() {
	local file=/dax/$1/tool-watch text
	make_file "$file"
	hold auto "$file"
	text=$(wants 0 "$tool" watch --once "$holder") || fail "$text"
	has "$text" "tool-try ($holder): 1 regions, 1 files leased; breaks 0"
	has "$text" " active "
	text=$(wants 0 "$tool" watch --once "$file") || fail "$text"
	has "$text" "tool-try ($holder)"
	perl -e "truncate '$file', 4096" &
	eventually '"state":"draining"' "$tool" watch --once --json "$file"
	answer
	wait $!
	eventually "breaks 1, drained 1, fenced 0, lost 0" "$tool" watch --once "$holder"
	eventually " released " "$tool" watch --once "$holder"
	end_hold
	wants 1 "$tool" watch --once "$file"
	# It ends at once, by a signal as well.
	"$tool" watch --interval 0.1 >"$dir/watched" &
	eventually $'nobody publishes anything\nnobody' cat "$dir/watched"
	kill -INT $!
	wants 0 wait $!
}

who_errors() {
	local text
	text=$(wants 3 "$tool" who /nonexistent 2>&1) || fail "$text"
	has "$text" "/nonexistent: No such file"
	make_file /dax/ext4/tool-nobody
	text=$(wants 1 "$tool" who /dax/ext4/tool-nobody) || fail "$text"
	has "$text" "nobody"
}

# ------------------------------------------------------------------------------

ip link set dummy0 mtu 9000
layout=0
: >/dax/ext4/tool-kinds
[[ $("$tool" doctor --json /dax/ext4/tool-kinds) != *'"layout":"ok"'* ]] || layout=1
for fs; do
	one "$fs/tool/doctor/dax" doctor_dax "$fs"
	one "$fs/tool/doctor/traffic" doctor_traffic "$fs" 9000 0
	((layout)) || one "$fs/tool/doctor/traffic-small-packets" doctor_traffic "$fs" 1500 1
	((layout)) || one "$fs/tool/doctor/foreign" doctor_foreign "$fs"
	((layout)) || one "$fs/tool/doctor/open-elsewhere" doctor_open_elsewhere "$fs"
	one "$fs/tool/doctor/leased" doctor_leased "$fs"
	((!layout)) || one "$fs/tool/who/layout" who_waits "$fs" layout "layout, READ, held"
	one "$fs/tool/who/lease" who_waits "$fs" lease "lease, WRITE, held"
	one "$fs/tool/who/deleg" who_waits "$fs" deleg "deleg, WRITE, held"
	one "$fs/tool/who/guard" who_waits "$fs" guard "guard"
	one "$fs/tool/who/daemon" who_by_daemon "$fs"
	one "$fs/tool/who/user" who_as_user "$fs"
	one "$fs/tool/watch" watch_shows "$fs"
done
one tool/doctor/tmpfs doctor_tmpfs
one tool/doctor/page-cache doctor_page_cache
one tool/doctor/errors doctor_errors
one tool/who/errors who_errors
rm -rf -- "$dir" "$public"
conclude
