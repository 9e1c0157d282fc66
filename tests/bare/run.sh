#!/bin/bash
# run.sh [VERB...]: does a clone work on a machine that has nothing? Makes bare Debian roots (git, bash, apt and
# certificates, as from an installer), clones this checkout inside, runs ./dev with each verb (build, test and demo
# if none is given) and prints the seconds of every stage. Root only. Not part of CI: it takes half an hour.
#
#   BARE_SUITES    suites to try, default "bookworm forky"
#   BARE_FOLDER    where the roots are made, default a new folder in /var/tmp; about 4 GB each, deleted at the end
#   BARE_KEEP=1    keeps the roots
set -euo pipefail

verbs=("$@")
[[ $# -gt 0 ]] || verbs=(build test demo)
checkout=$(git -C "$(dirname "$(readlink -f "$0")")" rev-parse --show-toplevel)
[[ $(id -u) == 0 ]] || { echo "run.sh: root only" >&2; exit 1; }
command -v mmdebstrap >/dev/null || { echo "run.sh: needs mmdebstrap" >&2; exit 1; }

if [[ ${1:-} == --inside ]]; then
  # In a mount namespace of its own: --inside ROOT COMMAND…
  root=$2
  shift 2
  mount --bind "$root" "$root"  # on a machine / is a mount point
  for name in proc sys dev; do mount --rbind "/$name" "$root/$name"; done
  # The installer's network settings; the suite's own files stay as they are.
  cp -L /etc/resolv.conf "$root/etc/resolv.conf"
  exec chroot "$root" /usr/bin/env -i HOME=/root TERM=dumb PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
fi

folder=${BARE_FOLDER:-$(mktemp -d /var/tmp/hearth-bare.XXXXXX)}
mkdir -p "$folder"
remove_roots() { [[ -n ${BARE_KEEP:-} ]] || rm -rf --one-file-system "$folder"; }
trap remove_roots EXIT

# mmdebstrap's own choice if none is named.
mirror=(${HEARTH_MIRROR:+"$HEARTH_MIRROR"})
git clone --quiet --bare "$checkout" "$folder/origin.git"
failed=0
results=

for suite in ${BARE_SUITES:-bookworm forky}; do
  root=$folder/$suite
  echo "=== $suite: making a bare root"
  # The date of the mirror's release file is not what is tested here.
  unshare --mount mmdebstrap --quiet --mode=root --variant=minbase --include=git,bash,apt,ca-certificates \
    --aptopt='Acquire::Check-Valid-Until "false"' \
    --customize-hook='rm "$1/etc/apt/apt.conf.d/99mmdebstrap"' "$suite" "$root" "${mirror[@]}"
  mkdir -p "$root/root/origin.git" "$root/root/.cache"
  cp -a "$folder/origin.git/." "$root/root/origin.git/"
  in_root=(unshare --mount "$0" --inside "$root")
  "${in_root[@]}" git clone --quiet /root/origin.git /root/hearth
  for verb in "${verbs[@]}"; do
    echo "=== $suite: ./dev $verb"
    start=$EPOCHREALTIME
    status=ok
    "${in_root[@]}" bash -c "cd /root/hearth && ./dev $verb" </dev/null 2>&1 | tee "$folder/log" || status=FAILED
    [[ $status == ok ]] || failed=$((failed + 1))
    seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.0f", b - a}')
    stages=$(awk '/^stage +seconds$/ {on = 1; text = ""; next} on && NF == 2 && $2 ~ /^[0-9.]+$/ {text = text $1 " " $2 "  "}
      END {print text}' "$folder/log")
    results+=$(printf '%-10s %-8s %-7s %6s s   %s' "$suite" "$verb" "$status" "$seconds" "$stages")$'\n'
  done
  [[ -n ${BARE_KEEP:-} ]] || rm -rf --one-file-system "$root"
done

printf '\n%-10s %-8s %-7s %8s   %s\n%s' suite verb result total "stages (seconds)" "$results"
echo "$failed failed"
[[ $failed == 0 ]]
