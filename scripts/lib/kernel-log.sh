# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# Does a kernel log hold a report that must fail a test? To be sourced.
#
#   kernel_log_reports LOG [NAME...]   print each such line as "NUMBER:LINE";
#                                      NAME is a known report to be tolerated
#   kernel_log_show LOG REPORTS        print the lines around those reports
#   kernel_log_known                   print the NAMEs there are

# Anchored to the start of the message (the time stamp is taken off first):
# firmware and mitigation messages have "WARNING" or "BUG" in their middle
# ("Spectre V2 : WARNING: ...", "[Firmware Bug]: ..."), a crashing program has
# "traps: prog[12] general protection fault".
_kernel_log_patterns() {
	cat <<'EOF'
^-+\[ cut here \]
^WARNING: 
^(watchdog: )?BUG: 
^kernel BUG at 
^Oops(:| )
^general protection fault
^[a-z][a-z ]*: [0-9a-f]{4} \[#[0-9]+\]
^Unable to handle 
^Kernel panic
^Call Trace:
^INFO: task .* blocked 
^INFO: (possible|inconsistent|trying to register|lockdep is turned off)
^(rcu: )?INFO: rcu
^rcu: INFO: 
^rcu: rcu_[a-z]+ kthread 
^(NMI )?watchdog: .*LOCKUP
^DEBUG_LOCKS_WARN_ON
^(UBSAN|KASAN|KCSAN|KMSAN|KFENCE): 
^(list_add|list_del|slab|SLUB).* corruption
^=+\[? BUG 
^kmemleak: [0-9]+ new suspected
^EXT4-fs error 
^XFS \([^)]*\): (Internal error|Corruption|Metadata|Filesystem has been shut down|log I/O error)
EOF
}

kernel_log_known() {
	# dax-folio-put: a race of mainline Linux (a 2 MiB DAX mapping is torn
	# down while its file is truncated; seen on 7.3) that has nothing to do
	# with leases. Only stress tests on an unpatched kernel hit it.
	printf '%s\n' dax-folio-put
}

# The report of a known race, by the one line that names it.
_kernel_log_known_line() {
	case $1 in
	dax-folio-put) printf '%s\n' '^WARNING: .*fs/dax\.c:[0-9]+.* dax_folio_put' ;;
	*) return 1 ;;
	esac
}

_kernel_log_plain() {
	sed -E 's/\r//g; s/^(\[ *[0-9]+\.[0-9]+\](\[ *[TC][0-9]+\])? )//' -- "$1"
}

# Take off the lines of one known report: from "cut here" to "end trace", if
# the warning in it is that one. Only its own three lines go; a second report
# within the block stays.
_kernel_log_without() {
	local known=$1
	awk -v known="$known" '
	function flush(	i) {
		for (i = 1; i <= n; i++)
			print block[i]
		n = 0
	}
	{
		text = $0
		sub(/^[0-9]+:/, "", text)
		if (text ~ /^-+\[ cut here \]/) {
			flush()
			inside = 1; mine = 0; traced = 0
			block[++n] = $0
		} else if (inside && n == 1 && !mine && text ~ known) {
			mine = 1; n = 0
		} else if (inside && mine && !traced && text ~ /^Call Trace:/) {
			traced = 1; inside = 0
		} else {
			flush()
			print
		}
	}
	END { flush() }'
}

kernel_log_reports() {
	local log=$1 name known reports
	shift
	reports=$(_kernel_log_plain "$log" | grep -a -n -E -f <(_kernel_log_patterns)) || return 0
	for name; do
		known=$(_kernel_log_known_line "$name")
		reports=$(_kernel_log_without "$known" <<<"$reports")
	done
	[[ -z $reports ]] || printf '%s\n' "$reports"
}

kernel_log_show() {
	local log=$1 first last
	# From a little before the first report to well after the last: a call
	# trace is some forty lines. Many reports are cut short in the middle.
	first=$(head -n 1 <<<"$2") && first=$((${first%%:*} - 5))
	last=$(tail -n 1 <<<"$2") && last=$((${last%%:*} + 50))
	((first > 0)) || first=1
	if ((last - first > 250)); then
		sed -n "${first},$((first + 150))p" -- "$log"
		printf '... (%d lines left out) ...\n' "$((last - first - 250))"
		first=$((last - 99))
	fi
	sed -n "${first},${last}p" -- "$log"
}
