# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# "Hosts" in one machine: network namespaces, each with a soft-RoCE device of its own and a
# cable to the machine itself, which forwards what is for another. Only for a machine that can be thrown away, such as the guest of scripts/vm.
# To be sourced after common.sh, or what has its say and die.
#
#   hosts_make NAME...     makes them; the Nth has the address that hosts_address says
#   hosts_address NAME     prints it
#   on_host NAME CMD...    runs a command there, in place of the shell that calls it
#   hosts_link NAME up|down
#                          its cable; it waits until the host knows
#   hosts_end              takes all of it away again
#
# Measured on Linux 7.3: with "rdma system set netns shared", the default, a soft-RoCE
# device follows its network device into a namespace, and librdmacm finds the one that goes
# with an address there. In exclusive mode the device has to be moved by itself; soft-RoCE
# then fails to make its queue pair for the connection manager anew ("Couldn't create ib_mad
# QP1"), and rdma_connect() gives EINVAL. So programs see all devices, and can reach others
# only over the network of their own namespace.

# One hardware address for the machine's end of all cables. The connection manager looks for
# connections by address and index of the network device, whatever the namespace
# (cma_netevent_callback() of Linux 7.3); when one host learns where another one is, those of
# all hosts that had learnt something else would end as unreachable.
readonly hosts_router=10.8.0.254 hosts_router_mac=02:00:0a:08:00:fe
hosts=()

hosts_address() {
	local i
	for i in "${!hosts[@]}"; do
		[[ ${hosts[i]} != "$1" ]] || printf '10.8.0.%d\n' "$((i + 1))"
	done
}

on_host() {
	exec ip netns exec "$1" "${@:2}"
}

# The route goes with the link.
hosts_link() {
	ip link set "v-$1" "$2"
	[[ $2 != up ]] || ip route replace "$(hosts_address "$1")/32" dev "v-$1"
	_hosts_wait "$1" "$2"
}

_hosts_need() {
	local mode
	[[ -d /run/daxlease-vm ]] || die "this changes the network: run it in the guest of scripts/vm"
	mode=$(rdma system show | sed -n 's/.*netns \([a-z]*\).*/\1/p')
	[[ $mode == shared ]] || die "RDMA devices are not shared among network namespaces" \
		"('$mode'): rdma system set netns shared"
}

# sysctl NAME VALUE: without the program, which may not be installed
_hosts_sysctl() {
	printf '%s\n' "$2" >"/proc/sys/net/ipv4/$1"
}

# The machine's end of a cable. It answers for the other hosts (proxy ARP), so that all seem
# to be on one network. No bridge: the project's kernel is built without.
_hosts_router() {
	local device=$1 address=$2
	ip address add "$hosts_router/32" dev "$device"
	ip link set "$device" up
	ip route replace "$address/32" dev "$device"
	_hosts_sysctl "conf/$device/proxy_arp" 1
	_hosts_sysctl "neigh/$device/proxy_delay" 0
}

# Packets of whole pages, see check_packets in demo/guest.sh.
_hosts_one() {
	local name=$1
	ip netns add "$name"
	hosts+=("$name")
	ip -n "$name" link set lo up
	ip link add "v-$name" address "$hosts_router_mac" mtu 9000 \
		type veth peer name eth0 mtu 9000 netns "$name" ||
		die "no pair of network devices: has the kernel CONFIG_VETH?"
	_hosts_router "v-$name" "$(hosts_address "$name")"
	ip -n "$name" address add "$(hosts_address "$name")/24" dev eth0
	ip -n "$name" link set eth0 up
	ip netns exec "$name" rdma link add "rxe-$name" type rxe netdev eth0 ||
		die "no soft-RoCE device in the namespace $name"
}

# _hosts_wait NAME up|down: what happens to a cable takes its time.
_hosts_wait() {
	local i state
	for ((i = 0; i < 200; i++)); do
		state=$(ip netns exec "$1" cat /sys/class/net/eth0/operstate)
		[[ $state == up ]] || state=down # of which there are several
		[[ $state != "$2" ]] || return 0
		sleep 0.05
	done
	die "the network device of the namespace $1 does not go $2"
}

hosts_make() {
	local name
	_hosts_need
	_hosts_sysctl ip_forward 1
	for name; do
		_hosts_one "$name"
	done
	for name; do
		_hosts_wait "$name" up
	done
}

# The names are free again when it returns.
hosts_end() {
	local name i
	for name in ${hosts[@]+"${hosts[@]}"}; do
		ip link del "v-$name"
		ip netns del "$name"
	done
	for name in ${hosts[@]+"${hosts[@]}"}; do
		for ((i = 0; i < 200; i++)); do
			[[ -e /sys/class/infiniband/rxe-$name ]] || break
			sleep 0.05
		done
	done
	hosts=()
}
