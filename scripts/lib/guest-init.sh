#!/bin/busybox sh
# shellcheck shell=dash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# First process of the guest (see scripts/vm), in the initramfs, run by
# busybox: loads modules and builds the root filesystem, then hands over to
# guest-run.sh. Every command here is busybox's own.

/bin/busybox --install -s /bin
export PATH=/bin

fail() {
	echo "daxlease-vm: $*" >/dev/console
	[ ! -d /ctl ] || echo "$*" >/ctl/failed
	reboot -f
}

insert() {
	[ -f "/modules/$1.list" ] || return 0
	while read -r module; do
		case $module in
		# One dummy device would come by itself; guest-run.sh makes it.
		dummy.ko) insmod "/modules/$module" numdummies=0 ;;
		*) insmod "/modules/$module" ;;
		esac || fail "cannot load the kernel module $module"
	done <"/modules/$1.list"
}

mount_9p() {
	mkdir -p "$3"
	mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$1" "$2" "$3" ||
		fail "cannot mount the 9p share $2 (does the kernel have 9P_FS and NET_9P_VIRTIO?)"
}

# Folders of the host that stay visible although they lie below one that is
# covered with a tmpfs. Called by the snippet that scripts/vm has written.
kept=0
keep() {
	mkdir -p "/kept/$kept"
	mount -o bind "/root$1" "/kept/$kept" || fail "the host's folder $1 is not there"
	echo "put_back $kept '$(echo "$1" | sed "s/'/'\\\\''/g")'" >>/kept/list
	kept=$((kept + 1))
}

put_back() {
	mkdir -p "/root$2"
	mount -o move "/kept/$1" "/root$2"
}

cover() {
	[ -d "/root$1" ] || mkdir -p "/root$1"
	mount -t tmpfs -o "mode=$2" tmpfs "/root$1" || fail "cannot mount a tmpfs on $1"
}

mkdir -p /proc /sys /dev /over /root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

# scripts/vm asks only whether a guest comes this far at all.
if grep -q 'daxlease\.probe' /proc/cmdline; then
	echo "daxlease-vm: probe reached user space" >/dev/console
	reboot -f
fi

insert root
{
	insert dax
	insert rdma
} &
rest=$!

mount_9p cache=none control /ctl
mount_9p ro,cache=loose host /host

# A layer of its own over the host's files: they cannot be changed, yet
# programs may write anywhere; what they write is gone with the guest.
mount -t tmpfs -o mode=755 tmpfs /over
mkdir /over/upper /over/work
mount -t overlay -o lowerdir=/host,upperdir=/over/upper,workdir=/over/work overlay /root ||
	fail "cannot mount the root filesystem (does the kernel have OVERLAY_FS?)"

# shellcheck source=/dev/null
. /ctl/setup
cover /tmp 1777
cover /var/tmp 1777
cover /run 755
# shellcheck source=/dev/null
[ ! -f /kept/list ] || . /kept/list

mkdir -p /root/share /root/dax /root/proc /root/sys /root/dev /root/run/lock
if [ -n "$share" ]; then
	mount_9p cache=none share /root/share
else
	cover /share 1777
fi

wait $rest
mkdir /root/run/daxlease-vm /root/run/daxlease-vm/ctl
cp -a /bin /guest-run.sh /root/run/daxlease-vm/
for dir in proc sys dev; do
	mount -o move /$dir /root/$dir
done
mount -o move /ctl /root/run/daxlease-vm/ctl
exec switch_root -c /dev/console /root /run/daxlease-vm/bin/busybox sh /run/daxlease-vm/guest-run.sh
