# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# To be sourced by what shows that damage is found:
#
#   flip_byte FILE OFFSET  change one byte of the first page of FILE that has one that is not
#                          zero at that offset

flip_byte() {
	# shellcheck disable=SC2016 # these are Perl's $
	perl -e '
		my ($file, $at) = @ARGV;
		open my $f, "+<", $file or die $!;
		for (; sysseek($f, $at, 0) && sysread($f, my $byte, 1); $at += 4096) {
			next if $byte eq "\0";
			sysseek($f, $at, 0);
			syswrite($f, $byte ^ "\1") or die $!;
			exit 0;
		}
		die "no record found";' "$1" "$2"
}
