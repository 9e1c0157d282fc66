# root.sh, sourced by ./dev: the environment that hearth is built in.
#
#   ensure_environment   decides between this machine's own packages and a private Debian root, making what is
#                        missing; sets environment_key (a build folder made under another key is stale)
#   inside COMMAND…      runs a command in that environment, in the current folder; inside_at in another one
#   exec_inside COMMAND… the same, in place of this process
#
# The private root is $cache/root-<hash of packages.txt>-<hash of that and the resolved versions>. It is made
# under a temporary name while a lock is held and renamed when complete, so a root that has its final name is
# whole. Runners hold a shared lock on the root they use; an exclusive one is needed to delete it.

readonly debian_suite=forky
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/hearth
readonly resolve_max_age_min=1440 # versions are asked for again once a day
readonly root_needs_mb=2500

environment_key=
root_dir= # empty: this machine's own packages
unshare_flags=()

say() { printf 'dev: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [[ $(id -u) == 0 ]]; }
hash12() { sha256sum | cut -c1-12; }

package_lines() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$checkout/cmake/packages.txt"; }
package_names() { package_lines | awk '{print $1}'; }
package_list_hash() { { echo "$debian_suite $(dpkg --print-architecture)"; package_lines; } | hash12; }

# --- this machine's own packages --------------------------------------------------------------------------------

# Prints what is missing or too old, one line each; nothing when the machine has it all.
host_lacks() {
  local name lowest status version
  local -A installed=()
  while read -r name status version; do
    if [[ $status == ii ]]; then installed[$name]=$version; fi
  done < <(dpkg-query -W -f '${Package} ${db:Status-Abbrev} ${Version}\n' $(package_names) 2>/dev/null)
  while read -r name lowest; do
    version=${installed[$name]:-}
    if [[ -z $version ]] || { [[ -n $lowest ]] && ! dpkg --compare-versions "$version" ge "$lowest"; }; then
      echo "$name"
    fi
  done < <(package_lines)
}

host_key() { dpkg-query -W -f '${Package} ${Version}\n' $(package_names) 2>/dev/null | sort | hash12; }

# Debian 14 (forky), anything later, testing or unstable: its archive has every package.
host_is_new_debian() {
  [[ -r /etc/os-release ]] || return 1
  local id version
  id=$(. /etc/os-release && echo "${ID:-}")
  version=$(. /etc/os-release && echo "${VERSION_ID:-}")
  [[ $id == debian ]] && { [[ -z $version ]] || [[ ${version%%.*} -ge 14 ]]; }
}

# --- apt ------------------------------------------------------------------------------------------------------

# apt-get update that fails when a list could not be fetched. Only when the clock check of an InRelease failed,
# and nothing else, it runs again without that check; signatures are checked in both cases.
# Sets valid_until_option to what made it work. Arguments go to apt-get.
valid_until_option=
apt_update() {
  local log valid
  log=$(mktemp)
  for valid in true false; do
    if LC_ALL=C apt-get "$@" -o "Acquire::Check-Valid-Until=$valid" -o APT::Update::Error-Mode=any update >"$log" 2>&1; then
      valid_until_option=$valid
      rm -f "$log"
      return 0
    fi
    [[ $valid == true ]] && grep -q 'is expired' "$log" || break
    say "the mirror's release file is past its Valid-Until date; reading it all the same (its signature is checked)"
  done
  grep -E '^(E|W|Err)' "$log" | head -n 5 | sed 's/^/  apt: /' >&2
  if grep -q 'is not valid yet' "$log"; then say "the clock of this machine seems to be behind: $(date)"; fi
  rm -f "$log"
  return 1
}

apt_install() {
  DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -o "Acquire::Check-Valid-Until=${valid_until_option:-true}" \
    -o Dpkg::Use-Pty=0 install --yes --no-install-recommends "$@" </dev/null
}

host_lists_empty() { ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; }

# Installs packages on this machine: tries with the lists there are, then with fresh ones.
host_install() {
  local log=$cache/host-install.log
  if ! host_lists_empty && apt_install "$@" >"$log" 2>&1; then return 0; fi
  apt_update || return 1
  if apt_install "$@" >"$log" 2>&1; then return 0; fi
  grep -E '^(E|W):' "$log" | tail -n 5 | sed 's/^/  apt: /' >&2 || true
  return 1
}

# Debian's public mirror, as mmdebstrap knows it.
default_mirror() { grep -oE -m1 'https?://[a-z.]+/debian\b' "$(command -v mmdebstrap)" | head -n 1 || true; }

# The mirror this machine already uses for Debian, else the public one.
host_mirror() {
  local uri=
  if [[ -n ${HEARTH_MIRROR:-} ]]; then
    echo "${HEARTH_MIRROR%/}"
    return
  fi
  if [[ -r /etc/os-release ]] && (. /etc/os-release && [[ ${ID:-} == debian ]]); then
    uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
      awk '$3 == "main" && $2 !~ /security/ && $1 ~ /^(http|https|ftp|file):.*\/debian\/?$/ {print $1; exit}') || true
  fi
  uri=${uri:-$(default_mirror)}
  echo "${uri%/}"
}

# --- the private root ---------------------------------------------------------------------------------------------

readonly no_network_hint="is there a network, and is the mirror right? Another one: HEARTH_MIRROR=http://… ./dev …"

# Asks the archive for the versions that decide over the root's key, with apt state of our own. Prints nothing;
# sets resolved_versions and resolved_mirror. Fails without network.
resolve_versions() {
  local state=$cache/apt mirror keyring=
  mkdir -p "$state/lists/partial" "$state/archives/partial"
  for keyring in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do [[ -r $keyring ]] && break; done
  local options=(-o "Dir::State=$state" -o "Dir::State::lists=$state/lists" -o Dir::State::status=/dev/null
    -o "Dir::Cache=$state" -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
    -o APT::Sandbox::User=root -o Acquire::Languages=none
    # mmdebstrap will check the date whatever this machine's configuration says: learn here what it meets.
    -o Acquire::Check-Date=true)
  resolved_versions=
  local public
  public=$(default_mirror)
  for mirror in "$(host_mirror)" "$public"; do
    echo "deb [signed-by=$keyring] $mirror $debian_suite main" >"$state/sources.list"
    if apt_update "${options[@]}"; then
      resolved_mirror=$mirror
      resolved_versions=$(LC_ALL=C apt-cache "${options[@]}" policy libggml-dev libllama-dev libzmq3-dev |
        awk '/^[^ ]/ {name = $1} /Candidate:/ {print name $2}')
      rm -rf "$state/lists" "$state"/*.bin
      [[ $(wc -l <<<"$resolved_versions") == 3 && $resolved_versions != *'(none)'* ]] ||
        die "$mirror has no libggml-dev, libllama-dev or libzmq3-dev in $debian_suite"
      return 0
    fi
    rm -rf "$state/lists"
    [[ -n $public && $mirror != "$public" && -z ${HEARTH_MIRROR:-} ]] || return 1
    say "no $debian_suite at $mirror; trying $public"
    mkdir -p "$state/lists/partial"
  done
}

newest_root() { # the last made whole root of this package list, or nothing
  ls -1dt "$cache/root-$1-"???????????? 2>/dev/null | head -n 1 || true
}

# How this process may make namespaces: as root, in a chroot (whose / is no mount point), or as a user.
choose_unshare_flags() {
  if is_root; then
    if unshare --mount true 2>/dev/null; then
      unshare_flags=(--mount)
    elif unshare --mount --propagation unchanged true 2>/dev/null; then
      unshare_flags=(--mount --propagation unchanged)
    else
      die "this machine's own packages do not suffice, and a private root needs mount namespaces, which are refused" \
        "here (in a container: start it with --privileged, or from an image of Debian $debian_suite)"
    fi
  else
    unshare --user --map-root-user --mount true 2>/dev/null ||
      die "this machine's own packages do not suffice, and a private root needs root or user namespaces, which are" \
        "refused here. Run ./dev as root, or install: $(host_lacks | tr '\n' ' ')"
    unshare_flags=(--user --map-root-user --mount)
  fi
}

ensure_root_tools() {
  local missing=()
  have mmdebstrap || missing+=(mmdebstrap)
  compgen -G '/usr/share/keyrings/debian-archive-keyring.*' >/dev/null || missing+=(debian-archive-keyring)
  is_root || have newuidmap || missing+=(uidmap)
  [[ ${#missing[@]} -gt 0 ]] || return 0
  is_root || die "making the private root needs ${missing[*]}: install them as root (apt-get install ${missing[*]})"
  say "installing ${missing[*]} on this machine"
  host_install "${missing[@]}" || die "cannot install ${missing[*]} with apt-get: $no_network_hint"
}

# mmdebstrap with the options all modes share; TARGET is a folder or a .tar.
bootstrap() { # MODE TARGET MIRROR
  local options=(--variant=essential --include="$(package_names | paste -sd,)" --aptopt='Acquire::Languages "none"'
    --aptopt='APT::Install-Recommends "false"'
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*'
    --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/locale/*')
  local proxy
  while read -r proxy; do options+=(--aptopt="$proxy"); done < <(apt-config dump | grep -iE '^Acquire::https?::Proxy ' || true)
  [[ $valid_until_option != false ]] || options+=(--aptopt='Acquire::Check-Valid-Until "false"')
  LC_ALL=C mmdebstrap --mode="$1" "${options[@]}" "$debian_suite" "$2" "$3" </dev/null
}

make_root() { # FINAL_NAME
  local final=$1 tmp=$1.tmp free_mb log=$cache/root.log done=false
  free_mb=$(df -Pm "$cache" | awk 'NR == 2 {print $4}')
  [[ $free_mb -ge $root_needs_mb ]] ||
    die "making the private root needs $root_needs_mb MB in $cache, $free_mb MB are free (XDG_CACHE_HOME moves it)"
  say "making a private Debian $debian_suite root from $resolved_mirror (under a minute with a fast network)"
  if is_root; then
    # A namespace of our own: whatever happens to mmdebstrap, no mount of it outlives it.
    unshare "${unshare_flags[@]}" bash -c "$(declare -p checkout debian_suite valid_until_option
      declare -f package_lines package_names bootstrap); bootstrap root \"\$@\"" bootstrap "$tmp" "$resolved_mirror" \
      >"$log" 2>&1 && done=true
  else
    # As a user: a tar, unpacked as this user, so that the root can be entered and deleted without subordinate ids.
    mkdir "$tmp"
    bootstrap unshare "$tmp.tar" "$resolved_mirror" >"$log" 2>&1 &&
      tar -C "$tmp" -xf "$tmp.tar" --exclude='./dev/*' --no-same-owner >>"$log" 2>&1 && done=true
    rm -f "$tmp.tar"
  fi
  if ! $done; then
    grep -E '^(E|W):' "$log" | tail -n 8 | sed 's/^/  /' >&2 || true
    rm -rf --one-file-system "$tmp"
    local hint=
    if grep -qE 'Failed to fetch|Could not (resolve|connect)|Temporary failure' "$log"; then hint=": $no_network_hint"; fi
    if grep -q 'subuid' "$log"; then
      hint=": this user has no subordinate ids; as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
    fi
    die "mmdebstrap failed, the whole log is in $log$hint"
  fi
  touch "$tmp/etc/resolv.conf" "$tmp/etc/hosts" # enter.sh binds the host's over them
  [[ -x $tmp/usr/bin/g++ && -x $tmp/usr/bin/clang++ ]] || die "the new root lacks its compilers, see $log"
  printf '%s\n' "$resolved_versions" >"$tmp/etc/hearth-root"
  mv -T "$tmp" "$final" || die "cannot rename $tmp to $final"
}

# Deletes roots that nobody runs in: older ones of this package list, and those of other lists (other checkouts)
# that were not entered for a month.
drop_old_roots() { # KEEP LIST
  local path
  for path in "$cache"/root-*-????????????; do
    [[ -d $path && $path != "$1" ]] || continue
    [[ $path == "$cache/root-$2-"* || -z $(find "$path.lock" -mtime -30 2>/dev/null) ]] || continue
    (exec 8>>"$path.lock" && flock --exclusive --nonblock 8 && rm -rf --one-file-system "$path" "$path.lock") ||
      say "keeping $path: in use"
  done
}

ensure_root() {
  local list existing versions_file wanted
  list=$(package_list_hash)
  versions_file=$cache/versions-$list
  existing=$(newest_root "$list")
  mkdir -p "$cache/view"
  if [[ -z $existing || -z $(find "$versions_file" -mmin "-$resolve_max_age_min" 2>/dev/null) || -n ${HEARTH_REFRESH:-} ]]; then
    exec 7>"$cache/lock"
    if ! flock --exclusive --nonblock 7; then
      say "waiting: another ./dev is making the private root"
      flock --exclusive 7
    fi
    existing=$(newest_root "$list")
    rm -rf --one-file-system "$cache"/root-*.tmp "$cache"/root-*.tmp.tar # left by an interrupted run
    if [[ -n $existing && -z ${HEARTH_REFRESH:-} && -n $(find "$versions_file" -mmin "-$resolve_max_age_min" 2>/dev/null) ]]; then
      : # made while we waited
    else
      ensure_root_tools
      if resolve_versions; then
        wanted=$cache/root-$list-$(printf '%s\n%s\n' "$list" "$resolved_versions" | hash12)
        if [[ ! -d $wanted ]]; then
          make_root "$wanted"
          drop_old_roots "$wanted" "$list"
        fi
        existing=$wanted
        touch "$existing" # newest_root goes by time
        printf '%s\n' "$resolved_versions" >"$versions_file"
      elif [[ -n $existing ]]; then
        say "the Debian archive cannot be reached; using the root there is: $existing"
        touch --date='23 hours ago' "$versions_file" # asked again in an hour
      else
        die "the Debian archive cannot be reached and there is no private root yet: $no_network_hint"
      fi
    fi
    exec 7>&-
  fi
  root_dir=$existing
  environment_key=${existing##*/root-}
}

# --- the two entries --------------------------------------------------------------------------------------------

ensure_environment() {
  have apt-get && have dpkg-query ||
    die "this is no Debian system (no apt): install the packages of cmake/packages.txt in your way and build with cmake --preset release"
  local lacks
  mkdir -p "$cache" 2>/dev/null || die "cannot write to $cache (XDG_CACHE_HOME moves it)"
  if [[ ${HEARTH_ENVIRONMENT:-} != root ]]; then
    lacks=$(host_lacks)
    if [[ -n $lacks ]] && host_is_new_debian && is_root; then
      say "installing the packages of cmake/packages.txt on this Debian"
      if host_install $(package_names); then
        lacks=$(host_lacks)
      else
        say "that failed (log: $cache/host-install.log); a private root will do"
      fi
    fi
    if [[ -z $lacks ]]; then
      environment_key=host-$(host_key)
      return 0
    fi
    [[ ${HEARTH_ENVIRONMENT:-} != host ]] || die "this machine lacks: $(tr '\n' ' ' <<<"$lacks")"
  fi
  choose_unshare_flags
  ensure_root
}

# Takes the shared lock on the root; the process that follows inherits it.
hold_root() {
  exec 9>"$root_dir.lock"
  flock --shared 9
}

set_environment_variables() {
  export HEARTH_CHECKOUT=$checkout
  # One compiler cache for all checkouts: paths below the checkout count as relative ones.
  export CCACHE_DIR=${CCACHE_DIR:-$cache/ccache} CCACHE_BASEDIR=$checkout CCACHE_NOHASHDIR=1
}

exec_inside() {
  set_environment_variables
  if [[ -z $root_dir ]]; then exec ${HEARTH_WITH_PARENT:+setpriv --pdeathsig TERM env -u HEARTH_WITH_PARENT} "$@"; fi
  hold_root
  exec ${HEARTH_WITH_PARENT:+setpriv --pdeathsig TERM} unshare "${unshare_flags[@]}" bash "$checkout/cmake/enter.sh" "$root_dir" "$cache/view" "$PWD" "$@"
}

# The command ends when this script is killed, so that no compiler or test goes on unseen.
inside_at() { # FOLDER COMMAND…
  (cd "$1" && shift && HEARTH_WITH_PARENT=1 && export HEARTH_WITH_PARENT && exec_inside "$@")
}
inside() { inside_at "$PWD" "$@"; }
