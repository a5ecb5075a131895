# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=bash
# What common.sh and kernel-build.sh set or use.
# shellcheck disable=SC2034,SC2154
#
# What scripts/test does with the patches of kernel/series, besides building the
# kernel. To be sourced after kernel-build.sh.
#
#   series_is_complete     kernel/series names all of kernel/patches
#   series_repository REPOSITORY TREE
#                          a repository of the files that the series touches
#   series_git REPOSITORY ARG...
#   series_checkpatch TREE PATCH
#   kselftest_build DIR    the tests that the series brings along
#   mutants_are_listed     kernel/mutants.list names all of kernel/mutants.patch
#
# And to build it patch by patch, in one tree:
#
#   series_tree_make       the source in $_build_tree, which goes at exit
#   series_tree_apply PATCH
#   series_tree_configure CONFIG...
#                          with these kernel/config-*
#   series_tree_compile LOG TARGET...
#                          what the compiler has to say goes to LOG
#   series_warnings LOG    the warnings in it, without line numbers, sorted

# The files of kernel/patches and the lines of kernel/series are the same.
series_is_complete() {
	local file named=()
	for file in "$kernel_dir"/patches/*; do
		[[ -e $file ]] || continue
		[[ " ${series_patches[*]} " == *" $file "* ]] || named+=("${file##*/}")
	done
	((${#named[@]} == 0)) && return
	say "kernel/series does not name ${named[*]}"
	return 1
}

# Which files the patches touch.
series_files() {
	((${#series_patches[@]})) || return 0
	sed -n -E 's/^(---|\+\+\+) [ab]\/([^\t]*).*/\2/p; s/^rename (from|to) //p' \
		"${series_patches[@]}" | sort -u
}

series_git() {
	env -u GIT_DIR -u GIT_INDEX_FILE -u GIT_WORK_TREE GIT_CONFIG_GLOBAL=/dev/null \
		git -C "$1" -c user.name=daxlease -c user.email=daxlease@localhost -c gc.auto=0 "${@:2}"
}

# A repository of only the files that matter; unpacking all would take longer.
series_repository() {
	local repository=$1 tree=$2 files
	mapfile -t files < <(series_files)
	mkdir -p -- "$repository" "$tree"/{Documentation,arch,include,drivers,fs,init,ipc,kernel,lib}
	# tar is not content when a file is not there that a patch is to make.
	source_unpack "$tree" "${files[@]}" COPYING CREDITS Kbuild MAINTAINERS Makefile README \
		scripts/checkpatch.pl scripts/const_structs.checkpatch scripts/spelling.txt || true
	[[ -x $tree/scripts/checkpatch.pl && -f $tree/README ]] || return
	cp -a -- "$tree/." "$repository/" &&
		series_git "$repository" init -q &&
		series_git "$repository" add -A -f &&
		series_git "$repository" commit -q -m source
}

# Not in a repository: checkpatch would look for commits that it does not have.
series_checkpatch() {
	(cd -- "$1" && perl scripts/checkpatch.pl --strict --no-summary --show-types "$2")
}

# kselftest_build DIR: builds the programs of the series' own tests there. Without a
# kernel tree: they need only two headers of it, and define themselves what the
# installed ones of the kernel do not know yet.
kselftest_build() {
	local dir=$1 tree all=tools/testing/selftests mine patch source
	mine=$all/filesystems/layout_lease
	make_work_dir
	tree=$(mktemp -d "$work/kselftest.XXXXXX")
	rm -rf -- "$dir"
	mkdir -p -- "$dir"
	series_read
	source_unpack "$tree" "$all/kselftest.h" "$all/kselftest_harness.h" &&
		series_git "$tree" init -q || return
	for patch in ${series_patches[@]+"${series_patches[@]}"}; do
		series_git "$tree" apply --include="$mine/*" -- "$patch" || return
	done
	for source in "$tree/$mine"/*_test.c; do
		gcc -O2 -Wall -Werror -D_GNU_SOURCE= -I "$tree/$all" -o "$dir/$(basename -- "$source" .c)" \
			"$source" || return
	done
}

# Both lists are of names; each has to be in the other.
mutants_are_listed() {
	local differs
	differs=$(diff <(grep -oP '^\+.*?\Kmutant\("\K[^"]+' "$kernel_dir/mutants.patch" | sort -u) \
		<(sed -n 's/^\([a-z][^ ]*\) .*/\1/p' "$kernel_dir/mutants.list" | sort)) && return
	say "kernel/mutants.patch (<) and kernel/mutants.list (>) differ:"
	printf '%s\n' "$differs" >&2
	return 1
}

# --- patch by patch --------------------------------------------------------------

# Not under the lock of the kernels that are kept: this takes an hour. Trees that a run
# left behind go with the next one, if nobody has touched them for long.
series_tree_make() {
	find "$cache" -maxdepth 1 -name '.series.*' -mmin +600 -exec rm -rf {} +
	_build_room
	_build_tree=$(mktemp -d "$cache/.series.XXXXXX")
	run_step "unpacking the source" source_unpack "$_build_tree"
}

series_tree_apply() {
	touch -- "$_build_tree"
	_build_apply "$1"
}

series_tree_configure() {
	local build_configs=("$@")
	run_step "configuring (${*/#/config-})" _build_configure && (_build_verify_config)
}

series_tree_compile() {
	local log=$1
	shift
	_build_makes -j "$(($(nproc) + 1))" "$@" 2>"$log" && return
	cat -- "$log"
	return 1
}

# Where a warning is differs from patch to patch; that it is there does not.
series_warnings() {
	grep -E 'warning:|WARNING:|warning ' "$1" | sed -E 's/:[0-9]+(:[0-9]+)?:/:/; s/\+0x[0-9a-f]+//g' |
		LC_ALL=C sort -u || true
}
