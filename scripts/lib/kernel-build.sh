# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=bash
# What common.sh, kernel.sh and their callers set or use.
# shellcheck disable=SC2034,SC2154
#
# The kernels that the project builds itself: Debian's source package, the
# patches of kernel/series, the configuration of kernel/config-*. To be sourced
# after kernel.sh, which calls _kernel_built.
#
#   series_read            sets $series_patches: their files, in order
#   source_unpack DIR NAME...
#                          files of the source package into DIR
#
# The cache holds for them
#     source-7.3.packages
#                       which package the source is, as stock-7.3.packages
#     kernel-KEY/       vmlinuz, config, name and SHA256SUMS; KEY is made of
#                       all that goes into the kernel: the package's checksum,
#                       the patches, the configuration, this file, the compiler
#     ccache/           compiled files: after a change of the patches only
#                       what they touch is compiled again
#     build-lines-CONFIG
#                       how many lines such a build prints
#     .build.XXXXXX     the source tree, while a kernel is being built

kernel_dir=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../../kernel" && pwd -P)
series_patches=()
source_package=linux-source-$stock_series

# Disk space for the unpacked source, the objects and the compiler's cache.
build_megabytes=3500

# What is not unpacked: nothing that is configured comes from there.
build_excludes=(
	'*/drivers/gpu/*.[chS]' '*/drivers/media/*.[chS]' '*/sound/*.[chS]'
	'*/drivers/net/ethernet/*.[chS]' '*/drivers/net/wireless/*.[chS]'
	'*/arch/*/boot/dts/*'
)

# _kernel_built patched|unpatched|debug|mutants|no-fanotify
_kernel_built() {
	local cache list entry
	local -a build_configs=(test) series_patches=()
	[[ $1 != debug ]] || build_configs+=(debug)
	[[ $1 != no-fanotify ]] || build_configs+=(no-fanotify)
	[[ $1 == unpatched || $1 == no-fanotify ]] || series_read
	[[ $1 != mutants ]] || series_patches+=("$kernel_dir/mutants.patch")
	_build_packages
	_source_list
	entry=$cache/kernel-$(_build_key)
	if ! _kernel_entry_good "$entry"; then
		make_work_dir
		lock kernel-build
		if ! _kernel_entry_good "$entry"; then
			_build_clear_away
			_source_fetch
			entry=$cache/kernel-$(_build_key)
			_kernel_entry_good "$entry" || _build_make "$entry"
		fi
		unlock
	fi
	touch -- "$entry"
	kernel_modules='' kernel_tree=''
	kernel_image=$entry/vmlinuz
	kernel_name=$(cat -- "$entry/name")
}

# --- the series --------------------------------------------------------------

# Sets $series_patches. Without a series the kernel is Debian's, unchanged.
series_read() {
	local name
	series_patches=()
	[[ -f $kernel_dir/series ]] || return 0
	while read -r name || [[ -n $name ]]; do
		[[ -n $name && $name != '#'* ]] || continue
		[[ -r $kernel_dir/patches/$name ]] ||
			die "kernel/series names $name, but kernel/patches/$name cannot be read"
		series_patches+=("$kernel_dir/patches/$name")
	done <"$kernel_dir/series"
}

# --- the source ----------------------------------------------------------------

# source_unpack DIR NAME...: these files of the source package, those that it
# has; without a NAME all that a build needs.
source_unpack() {
	local cache list
	make_work_dir
	_source_list
	if ! _deb_good "$(_source_sha)"; then
		lock kernel-build
		_source_fetch
		unlock
	fi
	_source_extract "$@"
}

# Sets the caller's $cache and $list.
_source_list() {
	cache=$(cache_dir)
	list=$cache/source-$stock_series.packages
	if ! _package_list_good "$list" 1 || ((refresh)); then
		lock kernel-build
		if ! _package_list_good "$list" 1 || ((refresh)); then
			_source_choose
		fi
		unlock
	fi
}

_source_choose() {
	local names
	suite_open "$stock_suite"
	names=$(suite_names "$source_package")
	grep -qxF "$source_package" <<<"$names" ||
		die "$stock_suite has no package $source_package; give a kernel of your own (--kernel PATH)"
	printf '%s %s\n' "$source_package" "$(suite_uri "$source_package")" >"$work/source.packages"
	cp -- "$work/source.packages" "$list.$$"
	mv -- "$list.$$" "$list"
}

# Under the lock.
_source_fetch() {
	_kernel_fetch "$list" && return
	say "the archive may have moved on; asking its index"
	_source_choose
	_kernel_fetch "$list" || die "cannot download the kernel's source"
}

_source_sha() {
	cut -d ' ' -f 5 "$list"
}

# The package as it is called: NAME_VERSION
_source_name() {
	local uri file
	read -r _ uri file _ <"$list"
	printf '%s\n' "${file%_all.deb}"
}

_source_extract() {
	local dir=$1 names
	shift
	names=("${@/#/$source_package/}")
	dpkg-deb --fsys-tarfile "$cache/debs/$(_source_sha).deb" |
		tar -x -O "./usr/src/$source_package.tar.xz" |
		xz -dc -T0 |
		tar -x -C "$dir" --strip-components=1 --no-same-owner \
			"${build_excludes[@]/#/--exclude=}" ${names[@]+"${names[@]}"}
}

# --- building --------------------------------------------------------------------

_build_packages() {
	need_packages --for "to build a kernel" gcc libc6-dev make flex bison bc libelf-dev patch \
		xz-utils ccache
}

# By content, in order: a patch under another name is still the same kernel.
_build_key() {
	{
		_source_sha
		cat -- ${series_patches[@]+"${series_patches[@]}"} </dev/null | sha256sum
		cat -- "${build_configs[@]/#/$kernel_dir/config-}" | sha256sum
		sha256sum <"${BASH_SOURCE[0]}"
		gcc --version
	} | sha256sum | cut -c 1-16
}

# What a run left behind that was killed with SIGKILL. Under the lock.
_build_clear_away() {
	rm -rf -- "$cache"/.build.*
}

_build_room() {
	local free
	free=$(($(df --output=avail -k -- "$cache" | tail -n 1) / 1024))
	((free >= build_megabytes)) || die "to build a kernel, $cache needs $build_megabytes MB of" \
		"free space, and has $free (DAXLEASE_CACHE names another place)"
}

_build_make() {
	local entry=$1 what
	what="Linux $stock_series (${#series_patches[@]} patches, $(_build_flavour))"
	_build_room
	[[ ! -e $entry ]] || say "the cache entry $entry is incomplete or damaged; making it anew"
	say "building $what; this takes some minutes, once"
	_build_tree=$(mktemp -d "$cache/.build.XXXXXX")
	run_step "unpacking the source" _source_extract "$_build_tree" || die "cannot unpack $source_package"
	_build_patch
	run_step "configuring" _build_configure || die "cannot configure the kernel"
	_build_verify_config
	_build_compile || die "the kernel could not be built"
	_build_keep "$entry"
	rm -rf -- "$_build_tree"
	_build_tree=
}

_build_flavour() {
	printf 'config-%s\n' "${build_configs[-1]}"
}

# Not "git apply": inside of another repository that ignores what lies outside.
_build_apply() {
	patch -d "$_build_tree" -p1 --batch --forward --fuzz=0 --no-backup-if-mismatch <"$1"
}

_build_patch() {
	local file
	((${#series_patches[@]})) || return 0
	say "applying ${#series_patches[@]} patches"
	for file in "${series_patches[@]}"; do
		_build_apply "$file" >"$work/patch.log" 2>&1 && continue
		cat -- "$work/patch.log" >&2
		die "the patch ${file##*/} does not apply to $(_source_name)"
	done
}

# The caller's environment does not get into the kernel, nor does the time.
_build_run() {
	env -i -C "$_build_tree" "PATH=$PATH" "HOME=$work" LC_ALL=C TMPDIR="${TMPDIR:-/tmp}" \
		CCACHE_DIR="$cache/ccache" CCACHE_MAXSIZE=1G CCACHE_BASEDIR="$_build_tree" \
		KBUILD_BUILD_TIMESTAMP=1970-01-01 KBUILD_BUILD_VERSION=1 \
		KBUILD_BUILD_USER=daxlease KBUILD_BUILD_HOST=daxlease \
		"$@"
}

_build_makes() {
	local suffix=-unpatched
	((${#series_patches[@]} == 0)) || suffix=-daxlease
	[[ " ${build_configs[*]} " != *" debug "* ]] || suffix+=-debug
	[[ " ${build_configs[*]} " != *" no-fanotify "* ]] || suffix+=-no-fanotify
	_build_run make ARCH=x86_64 CC="ccache gcc" HOSTCC="ccache gcc" LOCALVERSION="$suffix" "$@"
}

_build_configure() {
	_build_makes tinyconfig &&
		_build_run scripts/kconfig/merge_config.sh -m .config \
			"${build_configs[@]/#/$kernel_dir/config-}" &&
		_build_makes olddefconfig
}

# Kconfig drops silently what it cannot do.
_build_verify_config() {
	local config name value have bad=()
	local -A asked=()
	for config in "${build_configs[@]}"; do
		while IFS='=' read -r name value; do
			asked[$name]=$value
		done < <(grep '^CONFIG_' "$kernel_dir/config-$config")
	done
	for name in "${!asked[@]}"; do
		have=$(sed -n "s/^$name=//p" "$_build_tree/.config")
		[[ ${have:-n} == "${asked[$name]}" ]] || bad+=("$name=${asked[$name]} (is ${have:-n})")
	done
	((${#bad[@]} == 0)) || die "these lines of kernel/config-* have no effect on" \
		"$(_source_name): $(printf '%s\n' "${bad[@]}" | sort | paste -sd , | sed 's/,/, /g')"
}

_build_compile() {
	local lines log=$work/build.log
	lines=$cache/build-lines-$(_build_flavour)
	# A first guess for the progress in per cent; then what it was last time.
	step_lines=2450
	[[ ! -s $lines ]] || step_lines=$(cat -- "$lines")
	run_step "compiling" _build_compile_logged "$log" || return
	step_lines=
	wc -l <"$log" >"$lines.$$" && mv -- "$lines.$$" "$lines"
}

_build_compile_logged() {
	_build_makes -j "$(($(nproc) + 1))" bzImage 2>&1 | tee -- "$1"
}

_build_keep() {
	local entry=$1 new
	new=$(mktemp -d "$cache/.new.XXXXXX")
	chmod 755 -- "$new"
	_new_entry=$new
	cp -- "$_build_tree/arch/x86/boot/bzImage" "$new/vmlinuz"
	cp -- "$_build_tree/.config" "$new/config"
	cp -- "$_build_tree/include/config/kernel.release" "$new/name"
	(cd -- "$new" && sha256sum vmlinuz config name >SHA256SUMS)
	rm -rf -- "$entry"
	mv -T -- "$new" "$entry"
	_new_entry=
	_kernel_prune
}
