#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# Run the cases that need a real kernel, in the guest of scripts/vm. See usage().

set -euo pipefail

usage() {
	cat <<'EOF'
Usage: tests/vm/run.sh --bin DIR [--kselftest DIR] [--daemon FILE]
                       [--shim FILE] [--fs ext4|xfs|both] [--suite SUITE]
                       [--filter RE]
       tests/vm/run.sh --bin DIR [--fs ext4|xfs|both] --storm N [--seed N]
       tests/vm/run.sh --bin DIR [--daemon FILE] [--fs ext4|xfs|both] --suite guard
                       --storm N [--filter RE]
       tests/vm/run.sh --bin DIR [--dax-log FILE] [--fs ext4|xfs|both] --suite hosts
                       --rotations N [--filter RE]

In the guest of scripts/vm, as root: run the cases of tests/vm on FS-DAX and
soft-RoCE. Prints "ok NAME (MS ms)" or "not ok NAME (MS ms): WHY" for each and
"N passed, N failed" at the end.

  --bin DIR     the build directory (of meson), or where the programs are
  --kselftest DIR
                where the tests are that the kernel series brings along, see
                scripts/lib/series.sh
  --daemon FILE the program daxleased for the suite guard; default:
                DIR/daemon/daxleased
  --shim FILE   libdaxlease-preload.so for the suite preload; default:
                DIR/preload/libdaxlease-preload.so
  --tool FILE   the program daxlease for the suite tool; default: DIR/tools/daxlease
  --dax-log FILE
                the program dax-log for the suite hosts; default:
                DIR/examples/dax-log/dax-log
  --suite SUITE library: the cases of the library (vm-cases); layout: those of the
                kernel's layout leases (layout-cases), which it is an error to ask
                for if the kernel has none; guard: those of the kind guard
                (guard-cases), the same for a kernel without pre-content events;
                without: what is said on such a kernel, an error on any other;
                preload: programs that people use, with the preload shim
                (preload-cases); tool: daxlease(1); hosts: dax-log between network
                namespaces; uring: io_uring's registered buffers (uring-cases), or that
                they are refused if the kernel has no layout leases; kselftest: those of
                --kselftest;
                default: library, layout and guard if the kernel has them, preload,
                tool, uring, kselftest with --kselftest, and hosts
  --fs FS       ext4, xfs or both (default)
  --filter RE   only cases whose name (ext4/table/truncate/wr/deleg, or
                ext4/layout_lease_test/pin of kselftest) has a match for this
                extended regular expression; with !RE only those that have none
  --storm N     of the suite layout only kill/storm, with N rounds (40 otherwise);
                500 take some 5 minutes for each filesystem. With --suite guard the
                number of files that are broken at once, 100 otherwise
  --rotations N of the suite hosts: how often the log is cut by others, and as often
                rotated by its server, under load (20)
  --seed N      where its random numbers begin; it prints what it used

Exit status: 0 if all passed, 1 if one failed or none was run, 2 for anything else.
EOF
}

die() {
	printf 'run.sh: %s\n' "$*" >&2
	exit 2
}

bin='' kselftest='' daemon='' shim='' tool='' fs=both suite='' filter='' storm='' seed=''
dax_log='' rotations=20

while (($#)); do
	case $1 in
	--bin | --kselftest | --daemon | --shim | --tool | --fs | --suite | --filter | --storm | --seed | \
		--dax-log | --rotations)
		(($# > 1)) || die "$1 wants a value; see --help"
		option=${1#--}
		declare "${option//-/_}=$2"
		shift 2
		;;
	-h | --help)
		usage
		exit 0
		;;
	*) die "unknown option $1; see --help" ;;
	esac
done

case $fs in
ext4 | xfs) filesystems=("$fs") ;;
both) filesystems=(ext4 xfs) ;;
*) die "--fs $fs: neither ext4, xfs nor both" ;;
esac

case $suite in
'' | library | layout | guard | without | preload | tool | hosts | uring) ;;
kselftest) [[ $kselftest ]] || die "--suite kselftest: where are they? See --kselftest" ;;
*) die "--suite $suite: neither library, layout, guard, without, preload, tool, hosts, uring nor kselftest" ;;
esac

if [[ $storm && $suite != guard ]]; then
	[[ -z $suite || $suite == layout ]] || die "--storm and --suite $suite exclude each other"
	suite=layout
fi

# find_program NAME
find_program() {
	local program
	for program in "$bin/tests/vm/$1" "$bin/$1"; do
		if [[ -x $program ]]; then
			printf '%s\n' "$program"
			return
		fi
	done
	die "no $1 in '$bin': build with -Dtests=true, and see --help"
}

# soft-RoCE places what comes for an on-demand region at the start of the page that
# it is for, whatever its offset there (__rxe_odp_mr_copy() of Linux 6.15 to 7.3 at
# least). So the cases write whole pages, and each page has to fit into one packet.
enlarge_packets() {
	ip link set "$1" mtu 9000
}

# A second device, for files that are registered with several.
make_device() {
	[[ -e /sys/class/infiniband/rxe1 ]] && return
	ip link add dummy9 type dummy
	ip address add 10.9.1.1/24 dev dummy9
	enlarge_packets dummy9
	ip link set dummy9 up
	rdma link add rxe1 type rxe netdev dummy9
}

# An ext4 whose files are in the page cache.
make_page_cache() {
	mountpoint -q /dax/pagecache && return
	# It is there from the start if the driver is built in.
	[[ -b /dev/ram0 ]] || modprobe brd rd_nr=1 rd_size=65536 max_part=0
	mkfs.ext4 -q /dev/ram0
	mkdir -p /dax/pagecache
	mount /dev/ram0 /dax/pagecache
}

make_huge_pages() {
	mountpoint -q /dax/huge && return
	echo 4 >/proc/sys/vm/nr_hugepages
	mkdir -p /dax/huge
	mount -t hugetlbfs hugetlbfs /dax/huge
}

# mkfs.xfs before 6.10 cannot make filesystems that exchange ranges of files. Once
# for each guest.
allow_exchange_range() {
	local done=/run/daxlease-vm/exchange-range
	[[ ! -e $done ]] || return 0
	umount /dax/xfs
	"$1" --exchange-range on /dev/pmem1
	mount -t xfs -o dax=always /dev/pmem1 /dax/xfs
	: >"$done"
}

# Files are mapped 2 MiB at a time there. Where a MAP_SYNC mapping once had pages of 4 KiB, the
# first touch of each page of a hole forces the log, and what is pinned is touched at once: 40 s
# for 32 MiB, in which nobody could see more of dax-log.
make_huge_xfs() {
	umount /dax/xfs
	mkfs.xfs -q -f -m reflink=1,rmapbt=1 -d su=2m,sw=1 /dev/pmem1
	mount -t xfs -o dax=always /dev/pmem1 /dax/xfs
	chmod 1777 /dax/xfs
}

# layout-cases and guard-cases say so by this status.
readonly not_there=3

run_library() {
	make_device
	make_huge_pages
	"$(find_program vm-cases)" --filter "$filter" "${filesystems[@]}"
}

run_layout() {
	local program
	program=$(find_program layout-cases)
	[[ " ${filesystems[*]} " != *" xfs "* ]] || allow_exchange_range "$program"
	"$program" --filter "$filter" ${storm:+--storm "$storm"} ${seed:+--seed "$seed"} \
		"${filesystems[@]}"
}

# guard_cases [OPTION...]
guard_cases() {
	local program
	program=$(find_program guard-cases)
	[[ $daemon ]] || daemon=$bin/daemon/daxleased
	[[ -x $daemon ]] || die "no daemon '$daemon'; see --daemon"
	"$program" --daemon "$daemon" --filter "$filter" "$@" "${filesystems[@]}"
}

run_guard() {
	guard_cases ${storm:+--storm "$storm"}
}

run_without() {
	guard_cases --without
}

run_preload() {
	[[ $shim ]] || shim=$bin/preload/libdaxlease-preload.so
	[[ -e $shim ]] || die "no shim '$shim'; see --shim"
	"$(find_program preload-cases)" --shim "$(realpath -- "$shim")" \
		--owner "$(realpath -- "$(find_program preload-owner)")" \
		--count "$(realpath -- "$(find_program preload-count.so)")" --filter "$filter" "${filesystems[@]}"
}

run_uring() {
	make_huge_pages
	"$(find_program uring-cases)" --filter "$filter" "${filesystems[@]}"
}

run_tool() {
	[[ $daemon ]] || daemon=$bin/daemon/daxleased
	[[ $tool ]] || tool=$bin/tools/daxlease
	[[ -x $daemon && -x $tool ]] || die "no '$daemon' or '$tool'; see --help"
	"$(dirname -- "$0")/tool/cases.sh" --tool "$tool" --try "$(find_program tool-try)" \
		--daemon "$daemon" --filter "$filter" "${filesystems[@]}"
}

run_hosts() {
	[[ $dax_log ]] || dax_log=$bin/examples/dax-log/dax-log
	[[ $tool ]] || tool=$bin/tools/daxlease
	[[ -x $dax_log && -x $tool ]] || die "no '$dax_log' or '$tool'; see --help"
	[[ " ${filesystems[*]} " != *" xfs "* ]] || make_huge_xfs
	"$(dirname -- "$0")/hosts/cases.sh" --dax-log "$dax_log" --rogue "$(find_program hosts-rogue)" \
		--tool "$tool" --rotations "$rotations" --filter "$filter" "${filesystems[@]}"
}

# The tests that are left out on purpose. A skip of any other is a failure, as if
# the kernel could not do it.
readonly expected_skips=(
	# ext4 has no reflinks.
	layout_lease.ext4.reflink
	layout_lease.ext4.pin_of_shared_extents
	layout_lease.ext4.pin_beside_shared_extents
)

# kselftest_names PROGRAM: the tests to run, one a line, as the program calls them.
kselftest_names() {
	local test one negated=0
	[[ $filter != !* ]] || negated=1
	while read -r test; do
		for one in "${filesystems[@]}"; do
			if [[ $one/$1/$test =~ ${filter#!} ]]; then
				((negated)) && continue
			elif ((!negated)); then
				continue
			fi
			printf 'layout_lease.%s.%s\n' "$one" "$test"
		done
	done < <("$kselftest/$1" -l 2>&1 | awk 'NF && !/^(#|--|global)/ { print $NF }')
}

# The lines of TAP as they come, and at the end how many passed and failed. What was
# planned and has no result, for the program died, has failed.
kselftest_count() {
	awk -v expected="${expected_skips[*]}" '
		BEGIN { split(expected, names); for (i in names) skips[names[i]] = 1 }
		{ print; fflush() }
		/^1\.\.[0-9]+/ { planned += substr($1, 4) }
		/^not ok / { failed++ }
		/^ok / && !/ # SKIP/ { passed++ }
		/^ok / && / # SKIP/ {
			if ($3 in skips) {
				skipped++
			} else {
				failed++
				print "not ok: " $3 " must not be skipped"
			}
		}
		END {
			missing = planned - passed - failed - skipped
			if (missing)
				print "not ok: " missing " without a result"
			printf "%d passed, %d failed\n", passed, failed + missing
		}'
}

run_kselftest() {
	local program dirs tests
	dirs=$(printf ':/dax/%s' "${filesystems[@]}")
	for program in "$kselftest"/*_test; do
		[[ -x $program ]] || die "no tests in '$kselftest'; see --help"
		mapfile -t tests < <(kselftest_names "${program##*/}")
		((${#tests[@]})) || [[ $filter ]] || die "${program##*/} lists no tests"
		((${#tests[@]})) || continue
		LAYOUT_LEASE_DIR=${dirs#:} "$program" "${tests[@]/#/-r}" 2>&1 ||
			printf '%s: status %d\n' "${program##*/}" "$?"
	done | kselftest_count
}

# count SUITE: runs it, and adds to what has passed and failed. A kernel without what it
# is about is a failure only if it was asked for.
count() {
	local status=0 line
	"run_$1" | tee "$log" || status=${PIPESTATUS[0]}
	line=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1 || true)
	if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
		passed=$((passed + BASH_REMATCH[1]))
		failed=$((failed + BASH_REMATCH[2]))
		((status <= 1)) || die "$1: status $status"
	elif [[ $suite || $status != "$not_there" ]]; then
		die "$1: status $status, and no count"
	fi
}

[[ $rotations =~ ^[1-9][0-9]{0,5}$ ]] || die "--rotations $rotations: not a number"
[[ -d /run/daxlease-vm ]] || die "this changes the system: run it in the guest of scripts/vm"
enlarge_packets dummy0
make_page_cache
log=$(mktemp)
passed=0 failed=0
# Last hosts, which makes a filesystem anew.
for part in ${suite:-library layout guard preload tool uring ${kselftest:+kselftest} hosts}; do
	count "$part"
done
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0 && passed > 0))
