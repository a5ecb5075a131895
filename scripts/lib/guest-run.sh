#!/bin/busybox sh
# shellcheck shell=dash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# The guest's process 1 once its root filesystem is there (see guest-init.sh
# and scripts/vm): makes the DAX filesystems and the RDMA device, runs the
# command, tells the host its status and powers off. Commands are busybox's
# own (they start faster); "host" runs the installed ones.

here=/run/daxlease-vm
ctl=$here/ctl
export PATH=$here/bin

host() {
	/usr/bin/env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# The end, however it comes. SysRq instead of an orderly shutdown: there is
# nothing to shut down, and nothing that could get stuck.
power_off() {
	sync
	echo o >/proc/sysrq-trigger
	sleep 60
	reboot -f
}

fail() {
	echo "daxlease-vm: $*" >/dev/kmsg
	echo "$*" >$ctl/failed
	power_off
}

mount_system() {
	mkdir -p /dev/pts /dev/shm /run/lock
	mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
	mount -t tmpfs -o mode=1777 tmpfs /dev/shm
	[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
	[ -e /dev/stdin ] || ln -s fd/0 /dev/stdin
	[ -e /dev/stdout ] || ln -s fd/1 /dev/stdout
	[ -e /dev/stderr ] || ln -s fd/2 /dev/stderr
	# Of use, but not every kernel has them.
	mount -t debugfs debugfs /sys/kernel/debug
	mount -t tracefs tracefs /sys/kernel/tracing
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	if [ -n "$modules" ]; then
		mkdir -p /lib/modules
		ln -sfn "$modules/$(uname -r)" "/lib/modules/$(uname -r)"
	fi
} 2>/dev/null

wait_for_device() {
	i=0
	until [ -e "$1" ]; do
		i=$((i + 1))
		[ $i -lt 200 ] || fail "$1 does not appear: $2"
		usleep 50000
	done
}

make_dax() {
	kind=$1 device=$2
	shift 2
	wait_for_device "$device" "does the kernel have BLK_DEV_PMEM and X86_PMEM_LEGACY?"
	mkdir -p "/dax/$kind"
	host "mkfs.$kind" -q "$@" "$device" >/dev/kmsg 2>&1 ||
		fail "cannot make an $kind filesystem on $device"
	mount -t "$kind" -o dax=always "$device" "/dax/$kind" ||
		fail "cannot mount $device as $kind with dax=always"
	chmod 1777 "/dax/$kind"
}

# Up to Linux 7.3 at least, soft-RoCE puts each packet for an on-demand MR at the start of
# its page (__rxe_odp_mr_copy() drops the offset): pages have to fit into one packet.
make_rdma() {
	{
		host ip link set lo up &&
			host ip link add dummy0 type dummy &&
			host ip address add 10.9.0.1/24 dev dummy0 &&
			host ip link set dummy0 mtu 9000 up
	} || fail "cannot set up the network device dummy0"
	host rdma link add rxe0 type rxe netdev dummy0 ||
		fail "cannot make the soft-RoCE device rxe0"
	wait_for_device /dev/infiniband/uverbs0 "does the kernel have INFINIBAND_USER_ACCESS?"
}

# Emulated machines boot with one processor, see scripts/vm.
start_processors() {
	for file in /sys/devices/system/cpu/cpu*/online; do
		[ ! -f "$file" ] || [ "$(cat "$file")" = 1 ] || echo 1 >"$file" ||
			fail "cannot start a processor: $file"
	done
}

# The virtio port of that name (there is no udev to make a link).
port() {
	for dir in /sys/class/virtio-ports/*; do
		if [ "$(cat "$dir/name" 2>/dev/null)" = "$1" ]; then
			echo "/dev/${dir##*/}"
			return
		fi
	done
	fail "no virtio port \"$1\" (does the kernel have VIRTIO_CONSOLE?)"
}

# The command writes into pipes, not into the ports: a port can be opened only
# once, and programs do open /dev/stderr.
start_pump() {
	mkfifo "$here/$1"
	cat <"$here/$1" >"$(port "$1")" &
	pumps="$pumps $!"
}

run_command() {
	pumps=
	start_pump stdout
	if [ -n "$one_output" ]; then
		setsid sh $ctl/command </dev/null >$here/stdout 2>&1 &
	else
		start_pump stderr
		setsid sh $ctl/command </dev/null >$here/stdout 2>$here/stderr &
	fi
	wait $!
	status=$?
	# What it left running would keep the pipes open.
	end_others
	# shellcheck disable=SC2086
	wait $pumps
}

run_shell() {
	pumps=
	wait_for_device /dev/hvc0 "does the kernel have VIRTIO_CONSOLE?"
	setsid -c sh $ctl/command <>/dev/hvc0 >&0 2>&1
	status=$?
	end_others
}

# Ends every process but this one and the pumps. Kernel threads have no
# executable. Again until there are none, for they may have been forking.
end_others() {
	found=1 rounds=0
	while [ "$found" ]; do
		rounds=$((rounds + 1))
		[ $rounds -lt 500 ] || fail "process $found ($(cat "/proc/$found/comm")) cannot be killed"
		found=
		for dir in /proc/[0-9]*; do
			pid=${dir#/proc/}
			case " 1 $pumps " in
			*" $pid "*) continue ;;
			esac
			[ -e "$dir/exe" ] || continue
			kill -9 "$pid" 2>/dev/null && found=$pid
		done
		[ ! "$found" ] || usleep 20000
	done
}

# Whoever still uses the filesystem is dying; give it a moment.
unmount_dax() {
	for dir in /dax/ext4 /dax/xfs; do
		i=0
		until umount "$dir"; do
			i=$((i + 1))
			[ $i -lt 40 ] || break
			usleep 50000
		done
	done
} 2>/dev/null

# shellcheck source=/dev/null
. $ctl/setup
hostname daxlease-vm
ulimit -l unlimited
mount_system
make_dax ext4 /dev/pmem0 -F &
ext4=$!
make_dax xfs /dev/pmem1 -f -m reflink=1,rmapbt=1 &
xfs=$!
make_rdma
wait $ext4
wait $xfs
start_processors
echo >$ctl/ready
if [ -n "$interactive" ]; then
	run_shell
else
	run_command
fi
# Unmounted before the end, for the kernel may find something wrong only then.
unmount_dax
echo "$status" >$ctl/status.new
mv $ctl/status.new $ctl/status
power_off
