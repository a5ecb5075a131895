#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# Does what the README says where nothing has been done before. See usage().
set -euo pipefail

# For common.sh.
# shellcheck disable=SC2034
prog=clean

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
# shellcheck source-path=SCRIPTDIR source=../../scripts/lib/common.sh
. "$top/scripts/lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=../../scripts/lib/debian-suite.sh
. "$top/scripts/lib/debian-suite.sh"

usage() {
	cat <<'EOF2'
Usage: tests/clean/run.sh [OPTION...] [--] [COMMAND [ARG...]]

Makes a minimal Debian 12 in a folder, clones the last commit of this checkout into it,
and runs COMMAND (scripts/demo) there, as root, with an empty cache and an empty
environment. The status is the command's. Needs root.

  --dir DIR    where (a temporary folder); must not exist
  --keep       leave the folder, for another look
  -h, --help   show this text
EOF2
}

dir=
keep_dir=
command=(scripts/demo)
mounted=()

parse_options() {
	while (($#)); do
		case $1 in
		--dir) (($# > 1)) || die "--dir needs a folder"; dir=$2; shift ;;
		--keep) keep_dir=1 ;;
		-h | --help) usage; exit 0 ;;
		--) shift; break ;;
		-*) die "unknown option '$1'; see --help" ;;
		*) break ;;
		esac
		shift
	done
	((!$#)) || command=("$@")
	((EUID == 0)) || die "this needs root"
	[[ -z $dir || ! -e $dir ]] || die "$dir is there already"
}

at_exit() {
	local i
	for ((i = ${#mounted[@]} - 1; i >= 0; i--)); do
		umount -l -- "${mounted[i]}" || return
	done
	if [[ -n $keep_dir ]]; then
		say "left in $dir"
	elif [[ -n $dir ]] && ! grep -q " $dir/" /proc/self/mounts; then
		rm -rf --one-file-system -- "$dir"
	fi
}

archive() {
	_suite_candidates | awk -F '\t' '$1 ~ /^https?:/ { print $1; exit }'
}

make_system() {
	local uri
	uri=$(archive)
	[[ -n $uri ]] || die "no Debian archive in this system's apt sources"
	run_step "making a minimal Debian 12 in $dir" \
		debootstrap --variant=minbase bookworm "$dir" "$uri" || die "debootstrap failed"
	cp -- /etc/resolv.conf /etc/hosts "$dir/etc/"
	git clone -q "$top" "$dir/root/libdaxlease"
}

mount_system() {
	local fs
	for fs in proc sys dev; do
		mount --rbind "/$fs" "$dir/$fs"
		mount --make-rslave "$dir/$fs"
		mounted+=("$dir/$fs")
	done
}

parse_options "$@"
need_packages --for "to make a Debian from nothing" debootstrap git ca-certificates
if [[ -z $dir ]]; then
	make_work_dir
	dir=$work/debian
fi
make_system
mount_system
say "running there: ${command[*]}"
# shellcheck disable=SC2016 # for the shell inside
start_group chroot "$dir" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
	sh -c 'cd /root/libdaxlease && exec "$@"' sh "${command[@]}"
wait "$!"
