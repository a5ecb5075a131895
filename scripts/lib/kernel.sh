# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# Where the guest's kernel comes from. To be sourced after common.sh and
# debian-suite.sh.
#
#   kernel_resolve WHICH   sets
#     $kernel_image     the bzImage
#     $kernel_modules   a cpio archive with the modules for the early boot, in
#                       /modules; empty if everything is built in
#     $kernel_tree      the folder whose lib/modules has all modules, or empty
#     $kernel_name      what to call it
#
# The cache (see cache_dir) holds
#     stock-7.3.packages
#                       which packages the stock kernel is: release, address,
#                       name, size, checksum (from the index; --refresh)
#     debs/SHA256.deb   packages, by checksum
#     kernel-KEY/       image, modules.cpio, tree/ and SHA256SUMS; KEY is made
#                       of the packages' checksums and of this file's
# and, for the kernels that are built here, what kernel-build.sh says.
# Every entry is made beside its place and renamed into it, under a lock.

# Given by the caller: its private folder (make_work_dir), and whether to ask
# the index again.
work=${work-}
refresh=${refresh:-0}
# shellcheck disable=SC2034
kernel_image='' kernel_modules='' kernel_tree='' kernel_name=''

stock_suite=trixie-backports
stock_series=7.3

# What the guest needs before it can call modprobe, in this order. "root" is
# loaded at once, the rest while the root filesystem is being mounted.
_kernel_module_groups=(
	"root: virtio_pci 9pnet_virtio 9p overlay virtio_console"
	"dax: nd_e820 nd_pmem ext4 xfs"
	"rdma: rdma_rxe rdma_ucm ib_uverbs dummy veth"
)

kernel_resolve() {
	case $1 in
	stock) _kernel_stock ;;
	release) _kernel_release ;;
	patched | unpatched | debug | mutants | no-fanotify) _kernel_built "$1" ;;
	*/* | .) _kernel_given "$1" ;;
	*)
		[[ -e $1 ]] || die "--kernel $1: neither stock, release, patched, unpatched, debug, mutants," \
			"no-fanotify nor a file or folder"
		_kernel_given "./$1"
		;;
	esac
}

# --- a kernel that the user has -------------------------------------------

# PATH is a bzImage with every driver built in, or a folder that has one
# (vmlinuz, bzImage, boot/vmlinuz*) and, for a kernel with modules, their
# lib/modules/RELEASE: what "make INSTALL_MOD_PATH=DIR modules_install" makes.
_kernel_given() {
	local path=$1 file releases
	kernel_modules='' kernel_tree=''
	if [[ ! -d $path ]]; then
		[[ -r $path ]] || die "--kernel $path: cannot read it"
		kernel_image=$path
		kernel_name=$path
		return
	fi
	kernel_image=
	for file in "$path"/vmlinuz "$path"/bzImage "$path"/boot/vmlinuz* "$path"/lib/modules/*/vmlinuz; do
		[[ -f $file ]] || continue
		kernel_image=$file
		break
	done
	[[ -n $kernel_image ]] || die "--kernel $path: no vmlinuz or bzImage in it"
	kernel_name=$path
	releases=("$path"/lib/modules/*/)
	[[ -d ${releases[0]} ]] || return 0
	((${#releases[@]} == 1)) || die "--kernel $path: modules of more than one kernel in lib/modules"
	need_packages --for "to read kernel modules" kmod cpio xz-utils zstd
	make_work_dir
	kernel_tree=$(cd -- "$path" && pwd -P)
	kernel_modules=$work/modules.cpio
	run_step "packing the modules that the boot needs" \
		_kernel_pack_modules "$kernel_tree" "$(basename -- "${releases[0]}")" "$kernel_modules"
}

# --- Debian's kernel --------------------------------------------------------

# The newest release of the series that has all its parts in the index, in the
# plain flavour (not -cloud or -rt: one has no rxe, the other other locks).
_stock_release() {
	local names release
	names=$(suite_names linux-)
	while read -r release; do
		if grep -qxF "linux-modules-$release" <<<"$names" && grep -qxF "linux-base-$release" <<<"$names"; then
			printf '%s\n' "$release"
			return
		fi
	done < <(sed -n -E "s/^linux-binary-(${stock_series//./\\.}([.+~-][0-9a-z.+~]*)?-amd64)\$/\1/p" <<<"$names" |
		sort -rV)
	die "$stock_suite has no Linux $stock_series for amd64; give a kernel of your own (--kernel PATH)"
}

_stock_choose() {
	local release part
	suite_open "$stock_suite"
	release=$(_stock_release)
	for part in binary modules base; do
		printf '%s ' "$release"
		suite_uri "linux-$part-$release"
	done >"$work/stock.packages"
	say "the newest Linux $stock_series in $stock_suite is $release"
	cp -- "$work/stock.packages" "$list.$$"
	mv -- "$list.$$" "$list"
}

# _package_list_good LIST COUNT
_package_list_good() {
	[[ -f $1 ]] &&
		[[ $(grep -c -E '^[^ ]+ [^ ]+ [^ ]+ [0-9]+ [0-9a-f]{64}$' "$1") == "$2" ]]
}

_deb_good() {
	[[ -f $cache/debs/$1.deb ]] && sha256sum --status -c <<<"$1  $cache/debs/$1.deb"
}

# _kernel_fetch LIST: into debs/
_kernel_fetch() {
	local uri file size sha release
	mkdir -p -- "$cache/debs"
	while read -r release uri file size sha; do
		if _deb_good "$sha"; then
			continue
		fi
		[[ -d ${work:-/nonexistent}/suite ]] || _suite_write_source "$stock_suite" "${uri%%/pool/*}" ''
		suite_download "$uri" "$work/$file" "$size" "$sha" || return
		mv -- "$work/$file" "$cache/debs/.$sha.$$"
		mv -- "$cache/debs/.$sha.$$" "$cache/debs/$sha.deb"
	done <"$1"
}

_kernel_entry_good() {
	[[ -f $1/SHA256SUMS ]] && (cd -- "$1" && sha256sum --status -c SHA256SUMS 2>/dev/null)
}

_stock_key() {
	{
		cut -d ' ' -f 5 "$list"
		sha256sum <"${BASH_SOURCE[0]}"
	} | sha256sum | cut -c 1-16
}

_stock_unpack() {
	local dir=$1 release=$2 sha
	mkdir -p -- "$dir/tree" &&
		ln -s usr/lib "$dir/tree/lib" || return
	while read -r sha; do
		dpkg-deb --fsys-tarfile "$cache/debs/$sha.deb" |
			tar -x -C "$dir/tree" --no-same-owner --exclude='./usr/share' || return
	done < <(cut -d ' ' -f 5 "$list")
	mv -- "$dir/tree/lib/modules/$release/vmlinuz" "$dir/vmlinuz" &&
		depmod -b "$dir/tree" "$release" &&
		_kernel_pack_modules "$dir/tree" "$release" "$dir/modules.cpio" &&
		(cd -- "$dir" && sha256sum vmlinuz modules.cpio tree/lib/modules/*/modules.dep >SHA256SUMS)
}

_stock_make() {
	local entry=$1 release=$2 new
	new=$(mktemp -d "$cache/.new.XXXXXX")
	chmod 755 -- "$new"
	_new_entry=$new
	run_step "unpacking Linux $release" _stock_unpack "$new" "$release" ||
		die "cannot prepare Linux $release"
	rm -rf -- "$entry"
	mv -T -- "$new" "$entry"
	_new_entry=
	_kernel_prune
}

# Entries of older kernels, patches and scripts.
_kernel_prune() {
	find "$cache" -maxdepth 1 -name 'kernel-*' -type d -mtime +30 -exec rm -rf {} +
}

# Called by at_exit: what an interrupted run leaves in the cache.
kernel_clean() {
	[[ -z ${_new_entry-} ]] || rm -rf -- "$_new_entry"
	[[ -z ${_build_tree-} ]] || rm -rf -- "$_build_tree"
}

_kernel_stock() {
	local cache list entry release
	cache=$(cache_dir)
	list=$cache/stock-$stock_series.packages
	if ! _package_list_good "$list" 3 || ((refresh)); then
		lock kernel
		if ! _package_list_good "$list" 3 || ((refresh)); then
			_stock_choose
		fi
		unlock
	fi
	entry=$cache/kernel-$(_stock_key)
	if ! _kernel_entry_good "$entry"; then
		need_packages --for "to unpack the kernel" kmod cpio xz-utils zstd
		make_work_dir
		lock kernel
		if ! _kernel_entry_good "$entry"; then
			[[ ! -e $entry ]] || say "the cache entry $entry is incomplete or damaged; making it anew"
			if ! _kernel_fetch "$list"; then
				say "the archive may have moved on; asking its index"
				_stock_choose
				_kernel_fetch "$list" || die "cannot download the kernel"
				entry=$cache/kernel-$(_stock_key)
			fi
			_stock_make "$entry" "$(head -n 1 "$list" | cut -d ' ' -f 1)"
		fi
		unlock
	fi
	touch -- "$entry"
	release=$(basename -- "$entry"/tree/lib/modules/*)
	kernel_image=$entry/vmlinuz
	kernel_modules=$entry/modules.cpio
	kernel_tree=$entry/tree
	# shellcheck disable=SC2034
	kernel_name=$release
}

# --- the kernel of this machine's release -------------------------------------

# Sets $release, $uri, $file, $size and $sha of the newest one that apt knows.
_release_ask() {
	local line
	release=$(apt-cache depends --important linux-image-amd64 2>/dev/null |
		sed -n 's/^ *Depends: linux-image-\([0-9].*\)$/\1/p' | head -n 1)
	[[ $release ]] || return
	line=$(apt-get download --print-uris "linux-image-$release" 2>/dev/null) || return
	read -r uri file size sha <<<"${line//\'/}"
	sha=${sha#SHA256:}
	[[ $sha =~ ^[0-9a-f]{64}$ ]]
}

# With all that the package has in one: image and modules.
_release_make() {
	local entry=$1 new
	new=$(mktemp -d "$cache/.new.XXXXXX")
	chmod 755 -- "$new"
	_new_entry=$new
	mkdir -- "$new/tree"
	dpkg-deb --fsys-tarfile "$cache/debs/$sha.deb" |
		tar -x -C "$new/tree" --no-same-owner --exclude='./usr/share'
	mv -- "$new/tree/boot/vmlinuz-$release" "$new/vmlinuz"
	depmod -b "$new/tree" "$release"
	_kernel_pack_modules "$new/tree" "$release" "$new/modules.cpio"
	(cd -- "$new" && sha256sum vmlinuz modules.cpio tree/lib/modules/*/modules.dep >SHA256SUMS)
	rm -rf -- "$entry"
	mv -T -- "$new" "$entry"
	_new_entry=
}

_kernel_release() {
	local cache entry release uri file size sha
	cache=$(cache_dir)
	need_packages --for "to unpack the kernel" kmod cpio xz-utils zstd
	if ! _release_ask; then # there are no lists, or old ones
		_as_root=()
		((EUID == 0)) || _as_root=(sudo -n)
		run_step "reading Debian's package lists (apt-get update)" _apt_get update
		_release_ask || die "apt knows no linux-image-amd64"
	fi
	entry=$cache/kernel-$({ echo "$sha"; sha256sum <"${BASH_SOURCE[0]}"; } | sha256sum | cut -c 1-16)
	make_work_dir
	lock kernel
	if ! _deb_good "$sha"; then
		mkdir -p -- "$cache/debs"
		_suite_write_source "$(. /etc/os-release && echo "$VERSION_CODENAME")" "${uri%%/pool/*}" ''
		suite_download "$uri" "$work/$file" "$size" "$sha" || die "cannot download $file"
		mv -- "$work/$file" "$cache/debs/.$sha.$$"
		mv -- "$cache/debs/.$sha.$$" "$cache/debs/$sha.deb"
	fi
	_kernel_entry_good "$entry" || _release_make "$entry"
	unlock
	touch -- "$entry"
	kernel_image=$entry/vmlinuz
	kernel_modules=$entry/modules.cpio
	kernel_tree=$entry/tree
	# shellcheck disable=SC2034
	kernel_name=$release
}

# --- modules for the early boot ------------------------------------------------

_unpacked() {
	case $1 in
	*.xz) xz -dc -- "$1" ;;
	*.zst) zstd -dcq -- "$1" ;;
	*.gz) gzip -dc -- "$1" ;;
	*) cat -- "$1" ;;
	esac
}

# _kernel_pack_modules TREE RELEASE CPIO: the modules of the groups above and
# what they depend on, unpacked, with a list per group in the order to insert.
# modprobe's configuration on this machine (-C) is none of the guest's.
_kernel_pack_modules() {
	local tree=$1 release=$2 cpio=$3 dir group name verb file base
	local -A seen=()
	dir=$(mktemp -d "$work/modules.XXXXXX") && mkdir -- "$dir/modules" || return
	[[ -f $tree/lib/modules/$release/modules.dep ]] || depmod -b "$tree" "$release" || return
	for group in "${_kernel_module_groups[@]}"; do
		: >"$dir/modules/${group%%:*}.list"
		for name in ${group#*:}; do
			while read -r verb file _; do
				[[ $verb == insmod ]] || continue
				base=${file##*/}
				base=${base%%.ko*}.ko
				[[ -z ${seen[$base]-} ]] || continue
				seen[$base]=1
				_unpacked "$file" >"$dir/modules/$base" || return
				printf '%s\n' "$base" >>"$dir/modules/${group%%:*}.list"
			done < <(modprobe -C /dev/null -d "$tree" -S "$release" --show-depends "$name" ||
				printf 'kernel %s: no module %s, taken as built in\n' "$release" "$name" >&2)
		done
	done
	(cd -- "$dir" && find modules | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) >"$cpio" || return
	rm -rf -- "$dir"
}
