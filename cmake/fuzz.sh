#!/bin/bash
# fuzz.sh SECONDS JOBS COUNTS_FILE: runs every fuzzer of build/fuzz/bin for SECONDS, JOBS at a time, and writes
# "PASSED FAILED" to COUNTS_FILE. Called by ./dev fuzz, in the checkout.
#
# A fuzzer MODULE_NAME_fuzz reads the corpus src/MODULE/corpus/NAME_fuzz and writes what it learns to
# build/fuzz/corpus; what breaks it is kept in build/fuzz/artifacts.
set -uo pipefail

seconds=$1 jobs=$2 counts=$3
logs=build/fuzz/logs
rm -rf "$logs"
mkdir -p "$logs" build/fuzz/artifacts

run_one() { # PROGRAM
  local name module stem corpus learned=build/fuzz/corpus
  name=$(basename "$1")
  module=${name%%_*}
  stem=${name#*_}
  corpus=src/$module/corpus/$stem
  mkdir -p "$learned/$name"
  local folders=("$learned/$name")
  if [[ -d $corpus ]]; then folders+=("$corpus"); fi
  if [[ -f $corpus.dict ]]; then folders=("-dict=$corpus.dict" "${folders[@]}"); fi
  if "$1" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/artifacts/$name-" "${folders[@]}" >"$logs/$name.log" 2>&1; then
    echo 0 >"$logs/$name.status"
    printf '%-28s ok      %9s runs, %5s edges, corpus in the tree: %s\n' "$name" \
      "$(sed -n 's/^stat::number_of_executed_units: *//p' "$logs/$name.log")" \
      "$(grep -oE 'cov: [0-9]+' "$logs/$name.log" | tail -n 1 | cut -d' ' -f2)" \
      "$([[ -d $corpus ]] && find "$corpus" -type f | wc -l || echo none)"
  else
    echo 1 >"$logs/$name.status"
    printf '%-28s FAILED  see %s\n' "$name" "$logs/$name.log"
    tail -n 30 "$logs/$name.log" | sed 's/^/  /'
  fi
}

running=0
for program in build/fuzz/bin/*_fuzz; do
  [[ -x $program ]] || continue
  if ((running >= jobs)); then
    wait -n
    running=$((running - 1))
  fi
  run_one "$program" &
  running=$((running + 1))
done
wait

passed=$(cat "$logs"/*.status 2>/dev/null | grep -c 0)
failed=$(cat "$logs"/*.status 2>/dev/null | grep -c 1)
if ((passed + failed == 0)); then
  echo "no fuzzer was built"
  failed=1
fi
echo "$passed $failed" >"$counts"
