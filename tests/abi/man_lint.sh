#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# usage: man_lint.sh PAGE...
# Manual pages without a warning from groff, and without lines that a terminal of
# 80 columns would cut.
set -eu

failed=0
for page; do
	# The .so stubs name their target from the root of the man tree.
	case $(tail -n 1 "$page") in
	.so*) continue ;;
	esac
	out=$(LC_ALL=C.UTF-8 groff -man -t -ww -Tutf8 -rLL=78n -z "$page" 2>&1) || out="$out (failed)"
	if [ -n "$out" ]; then
		printf '%s:\n%s\n' "$page" "$out"
		failed=1
	fi
	long=$(LC_ALL=C.UTF-8 groff -man -t -Tutf8 -rLL=78n -P-cbou "$page" 2>/dev/null |
		awk 'length($0) > 80 { print FNR ": " $0 }')
	if [ -n "$long" ]; then
		printf '%s: rendered lines over 80 columns:\n%s\n' "$page" "$long"
		failed=1
	fi
done
exit $failed
