#!/bin/bash
# enter.sh ROOT MOUNT_POINT DIRECTORY COMMAND [ARGS]: runs COMMAND in DIRECTORY with the programs of ROOT and
# the files of this machine. Called by root.sh in a mount namespace of its own, so nothing it mounts is seen
# outside and nothing stays behind.
#
# The view is a tmpfs made of bind mounts: usr, etc and var come from ROOT (read-only), every other top-level
# folder comes from the host, so that the checkout, the cache and any path a user names are where they were.
# A path below the host's usr, etc or var is shown as well when the command or its arguments need it.
set -euo pipefail

root=$1 view=$2 directory=$3
shift 3

die() { printf 'dev: %s\n' "$*" >&2; exit 125; }

mount -t tmpfs -o mode=755 hearth "$view" || die "cannot mount a tmpfs on $view in a mount namespace"
# Unbindable: otherwise the bind of the home folder below would contain this view again.
mount --make-unbindable "$view"

from_root() { # NAME: is this top-level name the root's and not the host's?
  case $1 in
    usr | etc | var | bin | sbin | lib | lib32 | lib64 | libx32 | libo32) return 0 ;;
    *) return 1 ;;
  esac
}

bind_read_only() { # SOURCE TARGET
  mount --bind "$1" "$2"
  # A user namespace may refuse to change flags of a mount it did not make; the view works without it.
  mount -o remount,bind,ro "$2" 2>/dev/null || true
}

for path in "$root"/*; do
  name=${path##*/}
  from_root "$name" || continue
  if [[ -L $path ]]; then
    ln -s "$(readlink "$path")" "$view/$name"
  else
    mkdir "$view/$name"
    bind_read_only "$path" "$view/$name"
  fi
done

for path in /*; do
  name=${path##*/}
  from_root "$name" && continue
  case $name in boot | lost+found) continue ;; esac
  if [[ -L $path ]]; then
    ln -s "$(readlink "$path")" "$view/$name"
  elif [[ -d $path ]]; then
    mkdir "$view/$name"
    mount --rbind "$path" "$view/$name" 2>/dev/null || rmdir "$view/$name"
  fi
done
for name in proc sys dev; do
  [[ -d $view/$name ]] || die "cannot show /$name of this machine inside the private root"
done
[[ -d $view/tmp ]] || mkdir -m 1777 "$view/tmp"
if [[ -d /var/tmp ]]; then mount --rbind /var/tmp "$view/var/tmp"; fi
for file in /etc/resolv.conf /etc/hosts; do
  if [[ -e $file && -e $root$file ]]; then bind_read_only "$(readlink -f "$file")" "$view$file"; fi
done

declare -A opened=()
# Makes a folder of the root writable in the view only: a tmpfs that holds binds of the folder's entries.
open_folder() { # FOLDER
  local folder=$1 entry
  [[ -z ${opened[$folder]:-} ]] || return 0
  opened[$folder]=1
  mount -t tmpfs -o mode=755 hearth "$view$folder"
  for entry in "$root$folder"/*; do
    if [[ -L $entry ]]; then
      ln -s "$(readlink "$entry")" "$view$folder/${entry##*/}"
    elif [[ -d $entry ]]; then
      mkdir "$view$folder/${entry##*/}"
      mount --bind "$entry" "$view$folder/${entry##*/}"
    elif [[ -f $entry ]]; then
      : >"$view$folder/${entry##*/}"
      mount --bind "$entry" "$view$folder/${entry##*/}"
    fi
  done
}

# Shows a host folder that lies below usr, etc or var, unless the root has a folder of that name itself.
show() { # FOLDER
  local folder=$1 parent
  local top=${folder#/}
  from_root "${top%%/*}" || return 0
  [[ -d $folder && ! -e $view$folder ]] || return 0
  parent=${folder%/*}
  while [[ ! -d $view$parent ]]; do parent=${parent%/*}; done
  open_folder "$parent"
  mkdir -p "$view$folder"
  mount --rbind "$folder" "$view$folder"
}

show "$(readlink -f "$directory")"
for path in "${HEARTH_CHECKOUT:-}" "${HOME:-}" "${XDG_CACHE_HOME:-}" "${TMPDIR:-}" "$@"; do
  path=${path#*=} # --model=/var/models/x.gguf
  [[ $path == /* && -e $path ]] || continue
  path=$(readlink -f "$path")
  [[ -d $path ]] || path=${path%/*}
  show "$path"
done

# The host's environment describes the host's programs (library paths, compilers); only what is about the user,
# the terminal, the network and the libraries' own switches goes in.
keep=()
while IFS= read -r name; do
  case $name in
    HEARTH_WITH_PARENT) ;;
    HOME | USER | LOGNAME | TERM | COLORTERM | COLUMNS | LINES | NO_COLOR | TZ | TMPDIR | CI | XDG_* | SSH_AUTH_SOCK | \
      http_proxy | https_proxy | no_proxy | HTTP_PROXY | HTTPS_PROXY | NO_PROXY | \
      HEARTH_* | CCACHE_* | OMP_* | GOMP_* | GGML_* | LLAMA_* | CTEST_* | CMAKE_* | GTEST_* | RC_PARAMS | NINJA_STATUS | \
      ASAN_OPTIONS | UBSAN_OPTIONS | LSAN_OPTIONS | TSAN_OPTIONS | ASAN_SYMBOLIZER_PATH)
      keep+=("$name=${!name}")
      ;;
  esac
done < <(compgen -e)

exec chroot "$view" /usr/bin/env -i --chdir="$directory" "${keep[@]}" \
  LANG=C.UTF-8 PATH=/usr/bin:/bin:/usr/sbin:/sbin ${HEARTH_WITH_PARENT:+setpriv --pdeathsig TERM} "$@"
