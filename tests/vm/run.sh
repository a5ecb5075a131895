#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# Run the cases that need a real kernel, in the guest of scripts/vm. See usage().

set -euo pipefail

usage() {
	cat <<'EOF'
Usage: tests/vm/run.sh --bin DIR [--fs ext4|xfs|both] [--filter RE]

In the guest of scripts/vm, as root: run the cases of tests/vm on FS-DAX and
soft-RoCE. Prints "ok NAME (MS ms)" or "not ok NAME (MS ms): WHY" for each and
"N passed, N failed" at the end.

  --bin DIR     the build directory (of meson), or where vm-cases is
  --fs FS       ext4, xfs or both (default)
  --filter RE   only cases whose name (ext4/table/truncate/wr/deleg) has a match
                for this extended regular expression

Exit status: 0 if all passed, 1 if one failed or none was run, 2 for anything else.
EOF
}

die() {
	printf 'run.sh: %s\n' "$*" >&2
	exit 2
}

bin='' fs=both filter=''

while (($#)); do
	case $1 in
	--bin | --fs | --filter)
		(($# > 1)) || die "$1 wants a value; see --help"
		declare "${1#--}=$2"
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

find_program() {
	local program
	for program in "$bin/tests/vm/vm-cases" "$bin/vm-cases"; do
		if [[ -x $program ]]; then
			printf '%s\n' "$program"
			return
		fi
	done
	die "no vm-cases in '$bin': build with -Dtests=true, and see --help"
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
	modprobe brd rd_nr=1 rd_size=65536 max_part=0
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

[[ -d /run/daxlease-vm ]] || die "this changes the system: run it in the guest of scripts/vm"
program=$(find_program)
enlarge_packets dummy0
make_device
make_page_cache
make_huge_pages
exec "$program" --filter "$filter" "${filesystems[@]}"
