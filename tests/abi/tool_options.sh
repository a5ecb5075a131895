#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# usage: tool_options.sh DAXLEASE VERSION PAGE COMPLETION
# The command line of daxlease, as far as it needs neither DAX nor RDMA: exit statuses; the
# same options in the help, in the manual page and in the shell's completion; which programs
# "run" refuses.
set -euo pipefail

tool=$1 version=$2 page=$3 completion=$4
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

# expect STATUS TEXT ARG...: TEXT is in what it says.
expect() {
	local status=$1 text=$2 got=0
	shift 2
	"$tool" "$@" >"$dir/out" 2>&1 || got=$?
	if [[ $got != "$status" ]] || { [[ $text ]] && ! grep -qF -e "$text" "$dir/out"; }; then
		printf 'daxlease %s: status %s, not %s with "%s":\n' "$*" "$got" "$status" "$text"
		cat "$dir/out"
		failed=1
	fi
}

expect 0 "daxlease $version" --version
expect 0 'Usage: daxlease COMMAND' --help
expect 2 'Usage: daxlease COMMAND'
expect 2 "no command 'walk'" walk
for command in run doctor who watch; do
	expect 0 "Usage: daxlease $command" "$command" --help
	expect 2 "daxlease $command --help" "$command" --no-such-option
done
expect 2 'no FILE' who
expect 3 '/nonexistent' who /nonexistent
expect 3 "no device 'nosuch'" doctor --device nosuch
expect 1 'No such file' doctor /nonexistent
expect 0 'time to drain' doctor
expect 0 '"release"' doctor --json
for command in doctor who; do
	{ "$tool" "$command" --json "$dir" || true; } | python3 -m json.tool >/dev/null ||
		{ echo "$command: no JSON"; failed=1; }
done
# Names of files are any bytes, JSON is UTF-8.
name=$dir/$'\n\e"\\\xff\xc3\xa4\xed\xa0\x80\xc3'
: >"$name"
for command in doctor who; do
	{ "$tool" "$command" --json "$name" || true; } | python3 -c 'import json, sys
path = json.loads(sys.stdin.buffer.read().decode())["files"][0]["path"]
sys.exit(not path.endswith("/\n\x1b\"\\\ufffd\u00e4\ufffd\ufffd\ufffd\ufffd"))' 2>"$dir/out" ||
		{ echo "$command: no JSON with a strange name"; tail -n 1 "$dir/out"; failed=1; }
done

# Output that is lost is an error, also if there is no standard output at all.
for args in --help --version 'run --help' 'doctor --json' "watch --json --interval 0.01"; do
	for to in '>/dev/full' '>&-'; do
		got=0
		# shellcheck disable=SC2086 # words
		(eval "exec $to"; exec timeout 10 "$tool" $args) 2>"$dir/out" || got=$?
		if [[ $got != 3 ]] || ! grep -qF 'standard output cannot be written to' "$dir/out"; then
			echo "daxlease $args $to: status $got"
			failed=1
		fi
	done
done

expect 2 'from 0.01 to 86400' watch --interval 0
expect 2 'from 0.01 to 86400' watch --interval often
expect 2 'one PID or FILE' watch 1 2
expect 3 'does not run' watch --once 999999999
expect 3 'does not run' watch --once $(((1 << 32) + $$)) # in 32 bits it is this shell
expect 3 'No such file' watch --once /nonexistent
expect 1 'nobody publishes anything' watch --once "$0"

# One whose maps may be read and whose memory may not, as under Yama
cat >"$dir/deny.c" <<'END'
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
int open(const char *path, int flags, ...)
{
	va_list args;
	int mode;

	va_start(args, flags);
	mode = va_arg(args, int);
	va_end(args);
	if (strstr(path, "/mem")) {
		errno = EACCES;
		return -1;
	}
	return syscall(SYS_openat, -100, path, flags, mode);
}
int open64(const char *, int, ...) __attribute__((alias("open")));
END
cc -shared -fPIC -o "$dir/deny.so" "$dir/deny.c"
coproc publisher { exec python3 -c 'import mmap, os
fd = os.memfd_create("daxlease")
os.ftruncate(fd, 65536)
m = mmap.mmap(fd, 65536)
print("ready", flush=True)
input()'; }
read -r _ <&"${publisher[0]}"
asked=$!
expect 1 'nobody publishes anything' watch --once "$asked" # what is there is no table
LD_PRELOAD=$dir/deny.so expect 3 'may not be read' watch --once "$asked"
LD_PRELOAD=$dir/deny.so expect 1 'that may be seen: be root' watch --once
echo >&"${publisher[1]}"
wait "$asked"

# --- run, with something else in place of the shim
echo 'int daxlease_stand_in;' >"$dir/shim.c"
cc -shared -fPIC -o "$dir/shim.so" "$dir/shim.c"
export DAXLEASE_PRELOAD=$dir/shim.so
expect 2 'no command' run
expect 2 'fence, exclusive or abort' run --policy nice -- true
expect 2 'auto, layout' run --kind flock true
expect 2 'error, warning, info or debug' run --log loud true
expect 2 'milliseconds above 0' run --budget 0 true
expect 2 'milliseconds above 0' run --budget -5 true
expect 2 'milliseconds above 0' run --budget 5s true
expect 2 'at most a day' run --budget 86400001 true
expect 2 'at most a day' run --budget 99999999999999999999 true
expect 2 'milliseconds above 0' run --budget +5 true
expect 127 'not found' run no-such-program-here
expect 127 'not found' run "$dir/none"
expect 127 'not found' run ''
mkdir -p "$dir/first/env"
PATH=$dir/first:$PATH expect 0 "LD_PRELOAD=$dir/shim.so" run env # a folder is no command
cp "$dir/shim.so" "$dir/with blank.so"
DAXLEASE_PRELOAD="$dir/with blank.so" expect 126 'at a blank' run env
expect 0 "LD_PRELOAD=$dir/shim.so" run env
expect 0 'DAXLEASE_POLICY=abort' run --policy abort env
expect 0 'DAXLEASE_KIND=guard' run --kind guard -- env
expect 0 'DAXLEASE_LOG=debug' run --log debug env
expect 0 "DAXLEASE_LOG_FILE=$dir/log" run --log-file "$dir/log" env
expect 0 'DAXLEASE_BUDGET_MS=250' run --budget 250 env
LD_PRELOAD='' expect 0 'one two' run -- echo one two
expect 3 '' run sh -c 'exit 3'
cat >"$dir/script" <<'END'
#!/bin/sh
echo "script $LD_PRELOAD"
END
chmod +x "$dir/script"
expect 0 "script $dir/shim.so" run "$dir/script"
printf '#!/nonexistent\n' >"$dir/no-interpreter"
chmod +x "$dir/no-interpreter"
expect 127 'No such file' run "$dir/no-interpreter"
got=0
"$tool" run "$dir/no-interpreter" 2>/dev/full || got=$?
[[ $got == 127 ]] || { echo "an unheard message makes status $got of 127"; failed=1; }
echo 'int main(void) { return 0; }' >"$dir/static.c"
cc -static -o "$dir/static" "$dir/static.c"
expect 126 'statically linked' run "$dir/static"
printf '#!%s\n' "$dir/static" >"$dir/script"
expect 126 'statically linked' run "$dir/script"
cp "$(type -P true)" "$dir/setuid"
chmod 2755 "$dir/setuid"
if (($(id -u) == 0)); then
	chown 1:1 "$dir/setuid"
	chmod 6755 "$dir/setuid"
	expect 126 'setuid or setgid' run "$dir/setuid"
fi
DAXLEASE_PRELOAD=$dir/nowhere expect 126 'name it by DAXLEASE_PRELOAD' run true
: >"$dir/not-executable"
expect 126 'Permission denied' run "$dir/not-executable"

# --- help, page and completion
for command in run doctor who watch; do
	"$tool" "$command" --help | grep -oE -e '^  (-h, )?--[a-z][a-z-]+' | grep -oE -e '--[a-z-]+' | sort -u >"$dir/help"
	sed -n "/^\.SS daxlease $command/,/^\.S[SH]/p" "$page" | sed 's/\\-/-/g' |
		grep -E '^\.BR? ' | grep -oE -e '--[a-z][a-z-]+' | sort -u >"$dir/page"
	echo --help >>"$dir/page"
	sort -u -o "$dir/page" "$dir/page"
	diff -u "$dir/help" "$dir/page" || { echo "page and help of $command differ"; failed=1; }
	# shellcheck source=/dev/null
	(source "$completion" && COMP_WORDS=(daxlease "$command" --) COMP_CWORD=2 && _daxlease &&
		printf '%s\n' "${COMPREPLY[@]}") | grep -vx -e -- | sort -u >"$dir/completed"
	diff -u "$dir/help" "$dir/completed" || { echo "completion of $command differs"; failed=1; }
	if "$tool" "$command" --help | grep -nE '.{81}'; then
		echo "the help is wider than 80 columns"
		failed=1
	fi
done
# shellcheck source=/dev/null
words=$(source "$completion" && COMP_WORDS=(daxlease '') COMP_CWORD=1 && _daxlease && echo "${COMPREPLY[*]}")
[[ $words == *run*doctor*who*watch* ]] || { echo "completed: $words"; failed=1; }
exit $failed
