# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=bash
#
# Read one more suite of the Debian archive without touching the system's apt:
# sources, lists and caches are private, the archive's address and its keys
# are those that this system's own sources name. To be sourced after common.sh.
#
#   suite_open SUITE         read the suite's index (into $work)
#   suite_names PREFIX       print the names of its packages
#   suite_uri PKG            print "URI NAME SIZE SHA256"
#   suite_download URI FILE SIZE SHA256
#                            fetch with progress, verify

# Print "URI<TAB>SIGNED-BY" for each source of this system that looks like the
# Debian archive: packages for the running release, component main. Third
# parties name their suites after Debian's, too, so these are candidates only.
# In SIGNED-BY (a file name, a fingerprint, or a whole key) each newline is a
# \001.
_suite_candidates() {
	local list parts codename file
	# "apt-config shell" prints assignments to the variables named here.
	eval "$(apt-config shell list Dir::Etc::sourcelist/f parts Dir::Etc::sourceparts/d)"
	# shellcheck source=/dev/null
	codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME-}")
	for file in "$list" "$parts"*.list; do
		[[ ! -f $file ]] || _suite_from_list "$codename" <"$file"
	done
	for file in "$parts"*.sources; do
		[[ ! -f $file ]] || _suite_from_deb822 "$codename" <"$file"
	done
}

_suite_matches() {
	case " $1 " in
	*" $codename "* | *" stable "* | *" oldstable "* | *" testing "*) ;;
	*) return 1 ;;
	esac
	case " $2 " in
	*" main "*) ;;
	*) return 1 ;;
	esac
}

_suite_from_list() {
	local codename=$1 line key
	local re='^[[:space:]]*deb[[:space:]]+(\[([^]]*)\][[:space:]]+)?([^[:space:]]+)[[:space:]]+([^[:space:]]+)[[:space:]]+([^#]*)'
	while IFS= read -r line || [[ -n $line ]]; do
		[[ $line =~ $re ]] || continue
		_suite_matches "${BASH_REMATCH[4]}" "${BASH_REMATCH[5]//[[:space:]]/ }" || continue
		local options=${BASH_REMATCH[2]} uri=${BASH_REMATCH[3]}
		key=
		[[ $options != *signed-by=* ]] || key=${options##*signed-by=}
		printf '%s\t%s\n' "$uri" "${key%%[[:space:]]*}"
	done
}

_suite_from_deb822() {
	local codename=$1 line field='' value uri
	local -A stanza=()
	while IFS= read -r line || [[ -n $line ]]; do
		case $line in
		'#'*) continue ;;
		[[:space:]]*[![:space:]]*)
			[[ -z $field ]] || stanza[$field]+=$'\001'$line
			continue
			;;
		*:*)
			field=${line%%:*}
			field=${field,,}
			value=${line#*:}
			stanza[$field]=${value#"${value%%[![:space:]]*}"}
			continue
			;;
		esac
		_suite_stanza
		stanza=() field=
	done
	_suite_stanza
}

# One paragraph of a .sources file, in the caller's $stanza.
_suite_stanza() {
	local types=${stanza[types]-} suites=${stanza[suites]-} components=${stanza[components]-}
	[[ " ${types//[[:space:]$'\001']/ } " == *' deb '* ]] || return 0
	[[ ! ${stanza[enabled]-} =~ ^([Nn]o|[Ff]alse|0) ]] || return 0
	_suite_matches "${suites//[[:space:]$'\001']/ }" "${components//[[:space:]$'\001']/ }" || return 0
	for uri in ${stanza[uris]//$'\001'/ }; do
		printf '%s\t%s\n' "$uri" "${stanza[signed-by]-}"
	done
}

# Those first that are likelier to be Debian's.
_suite_candidates_sorted() {
	local all
	all=$(_suite_candidates)
	{
		grep -E '/debian/?'$'\t' <<<"$all" || true
		printf '%s\n' "$all"
	} | awk 'NF && !seen[$0]++'
}

_suite_apt() {
	local tool=$1
	shift
	# The unprivileged user that apt downloads as could not write into a
	# private folder; apt verifies the signatures all the same.
	local options=(
		-o "Dir::Etc::sourcelist=/dev/null"
		-o "Dir::Etc::sourceparts=$work/suite/sources"
		-o "Dir::Etc::preferences=/dev/null"
		-o "Dir::Etc::preferencesparts=/dev/null"
		-o "Dir::State=$work/suite/state"
		-o "Dir::State::lists=$work/suite/lists"
		-o "Dir::State::status=$work/suite/status"
		-o "Dir::Cache=$work/suite/cache"
		-o "APT::Sandbox::User=root"
		-o "APT::Architecture=amd64"
		-o "APT::Architectures=amd64"
		-o "Acquire::Languages=none"
		-o "Acquire::Retries=3"
		-o "Acquire::AllowInsecureRepositories=false"
		-o "APT::Get::AllowUnauthenticated=false"
	)
	LC_ALL=C "$tool" "${options[@]}" "$@"
}

_suite_write_source() {
	local suite=$1 uri=$2 key=$3
	rm -rf -- "$work/suite"
	mkdir -p -- "$work/suite"/{sources,state,lists/partial,cache/archives/partial}
	: >"$work/suite/status"
	{
		printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$uri" "$suite"
		[[ -z $key ]] || printf 'Signed-By: %s\n' "${key//$'\001'/$'\n'}"
	} >"$work/suite/sources/debian.sources"
}

suite_open() {
	local suite=$1 uri key tried=
	command -v apt-get >/dev/null || die "no apt-get here; give a kernel of your own (--kernel PATH)"
	make_work_dir
	while IFS=$'\t' read -r uri key; do
		_suite_write_source "$suite" "$uri" "$key"
		tried+=" $uri"
		# --error-on=any: with less, apt-get calls a failed fetch a success.
		if run_step "reading the index of $suite from $uri" \
			_suite_apt apt-get -q update --error-on=any; then
			return 0
		fi
	done < <(_suite_candidates_sorted)
	die "this system's apt sources name no archive that has $suite (tried:${tried:- none})"
}

suite_names() {
	_suite_apt apt-cache pkgnames "$1"
}

suite_uri() {
	local line re="^'([^']+)' ([^ ]+) ([0-9]+) SHA256:([0-9a-f]{64})\$"
	line=$(_suite_apt apt-get -q download --print-uris "$1")
	[[ $line =~ $re ]] || die "apt does not say where $1 is: $line"
	printf '%s %s %s %s\n' "${BASH_REMATCH[@]:1:4}"
}

_megabytes() {
	printf '%d.%d MB\n' "$(($1 / 1000000))" "$(($1 % 1000000 / 100000))"
}

_file_size() {
	stat -c %s -- "$1" 2>/dev/null || printf '0\n'
}

suite_download() {
	local uri=$1 file=$2 size=$3 sha=$4 start pid have name
	printf -v name '%b' "${uri//%/\\x}"
	start=$(now_ms)
	say "downloading ${name##*/} ($(_megabytes "$size")) ..."
	start_group _suite_apt /usr/lib/apt/apt-helper download-file "$uri" "$file" "SHA256:$sha" >"$work/download.log" 2>&1
	pid=$!
	until wait_child "$pid" 3; do
		have=$(_file_size "$file")
		say "  $(_megabytes "$have") of $(_megabytes "$size"), $((have * 100 / size)) %"
	done
	untrack "$pid"
	if ((${child_status:-0})); then
		tail -n 10 -- "$work/download.log" >&2
		rm -f -- "$file"
		return 1
	fi
	if ! sha256sum --status -c <<<"$sha  $file"; then
		say "  what came has not the checksum that the index names"
		rm -f -- "$file"
		return 1
	fi
	say "  done in $(seconds_since "$start"), checksum verified"
}
