#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# usage: run.sh SOURCE-FOLDER
# What others get: installs into a folder, builds a second project against that
# with pkg-config (shared and static), and a third one that has this one as a Meson
# subproject; runs each.
set -euo pipefail

top=$(cd "$1" && pwd -P)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
prefix=$dir/prefix

quietly() {
	"$@" >"$dir/log" 2>&1 || { cat "$dir/log"; echo "failed: $*"; exit 1; }
}

quietly meson setup "$dir/build" "$top" --prefix "$prefix" --libdir lib -Dexamples=true \
	-Ddaemon=enabled -Drdmacm=enabled -Dpreload=enabled -Dtools=enabled
quietly meson install -C "$dir/build"

for file in include/daxlease/daxlease.h include/daxlease/uring.h include/daxlease/version.h lib/libdaxlease.so \
	lib/libdaxlease.a lib/pkgconfig/libdaxlease.pc share/man/man7/daxlease.7 \
	share/man/man3/daxlease_reg_mr.3 share/man/man8/daxleased.8 sbin/daxleased \
	lib/systemd/system/daxleased.service lib/systemd/system/daxleased.socket \
	include/daxlease/rdmacm.h lib/libdaxlease-rdmacm.so lib/libdaxlease-rdmacm.a \
	lib/pkgconfig/libdaxlease-rdmacm.pc share/man/man7/daxlease_rdmacm.7 \
	share/man/man3/daxlease_offer_new.3 \
	lib/daxlease/libdaxlease-preload.so share/man/man7/daxlease-preload.7 \
	bin/daxlease share/man/man1/daxlease.1 share/bash-completion/completions/daxlease; do
	[[ -e $prefix/$file ]] || { echo "not installed: $file"; exit 1; }
done

"$prefix/sbin/daxleased" --version
LD_LIBRARY_PATH=$prefix/lib "$prefix/bin/daxlease" run -- true || { echo "daxlease does not find the shim"; exit 1; }
grep -qx "ExecStart=$prefix/sbin/daxleased" "$prefix/lib/systemd/system/daxleased.service" ||
	{ echo "the unit does not start what was installed"; exit 1; }

cat >"$dir/user.c" <<'END'
#include <daxlease/daxlease.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
	struct daxlease_ctx *ctx;
	int err = daxlease_ctx_new(NULL, &ctx);

	if (!err)
		err = daxlease_ctx_free(ctx);
	printf("libdaxlease %s, header %s: %s\n", daxlease_version(), DAXLEASE_VERSION_STRING,
	       strerror(-err));
	return err || strcmp(daxlease_version(), DAXLEASE_VERSION_STRING);
}
END

export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
# shellcheck disable=SC2046 # words are meant
cc -Wall -Werror $(pkg-config --cflags libdaxlease) "$dir/user.c" -o "$dir/shared" \
	$(pkg-config --libs libdaxlease)
LD_LIBRARY_PATH=$prefix/lib "$dir/shared"
readelf -d "$dir/shared" | grep -q 'NEEDED.*libdaxlease\.so\.0' || { echo "not linked to it"; exit 1; }
# The static library of ours, the shared ones of everybody else.
# shellcheck disable=SC2046
cc $(pkg-config --cflags libdaxlease) "$dir/user.c" -o "$dir/static" \
	"$prefix/lib/libdaxlease.a" $(pkg-config --libs libibverbs) -pthread
"$dir/static"
for example in "$top"/examples/*.c; do
	needs=(libdaxlease libibverbs)
	! grep -q 'rdma_cma\.h' "$example" || needs=(libdaxlease-rdmacm "${needs[@]}" librdmacm)
	! grep -q 'liburing\.h' "$example" || needs+=(liburing)
	# shellcheck disable=SC2046
	cc -Wall -Werror $(pkg-config --cflags "${needs[@]}") "$example" \
		-o "$dir/example" $(pkg-config --libs "${needs[@]}") -pthread
done
needs=(libdaxlease-rdmacm libdaxlease librdmacm libibverbs libpmem)
# shellcheck disable=SC2046
cc -Wall -Werror -D_GNU_SOURCE $(pkg-config --cflags "${needs[@]}") "$top"/examples/dax-log/*.c \
	-o "$dir/example" $(pkg-config --libs "${needs[@]}")
# shellcheck disable=SC2046
cc $(pkg-config --cflags libdaxlease-rdmacm) "$top/tests/abi/header_alone_rdmacm.c" \
	-o "$dir/static" "$prefix/lib/libdaxlease-rdmacm.a" "$prefix/lib/libdaxlease.a" \
	$(pkg-config --libs librdmacm libibverbs) -pthread
"$dir/static"
LD_LIBRARY_PATH=$prefix/lib ldd "$dir/shared" | grep -q rdmacm && {
	echo "a program without librdmacm gets it"
	exit 1
}

mkdir -p "$dir/third/subprojects"
ln -s "$top" "$dir/third/subprojects/libdaxlease"
cp "$dir/user.c" "$dir/third/"
cat >"$dir/third/meson.build" <<'END'
project('third', 'c')
daxlease_dep = dependency('libdaxlease', fallback: ['libdaxlease', 'daxlease_dep'])
test('user', executable('user', 'user.c', dependencies: daxlease_dep))
END
unset PKG_CONFIG_PATH
quietly meson setup "$dir/third/build" "$dir/third" --wrap-mode=forcefallback
quietly meson test -C "$dir/third/build" user
echo "installed, used through pkg-config (shared, static) and as a subproject"
