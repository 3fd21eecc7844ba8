#!/usr/bin/env bash
# Runs every fuzz target of a build for some seconds, several at a time.
#
#   run_fuzzers.sh BUILD SECONDS JOBS
#
# New inputs go to the build folder; a crash leaves its input there, prints the log and
# fails. Ends with a line "N passed, N failed".
set -euo pipefail

readonly build=$1 seconds=$2 jobs=$3
readonly here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly names=(tokenizer_json safetensors_header model_config generate_request)

run_one() {
  local name=$1
  local work="$build/fuzz/$name"
  mkdir -p "$work/corpus"
  "$build/tests/fuzz/${name}_fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 \
    -max_len=65536 -artifact_prefix="$work/" "$work/corpus" "$here/corpus/$name" \
    >"$work/log" 2>&1 </dev/null
}

failed=0
running=()
finish_oldest() {
  local name=${running[0]%%:*} pid=${running[0]##*:}
  running=("${running[@]:1}")
  if wait "$pid"; then
    echo "fuzz $name: $(grep -oE 'Done [0-9]+ runs' "$build/fuzz/$name/log")"
  else
    failed=$((failed + 1))
    echo "fuzz $name: FAILED"
    tail -n 60 "$build/fuzz/$name/log"
  fi
}

for name in "${names[@]}"; do
  [[ ${#running[@]} -lt $jobs ]] || finish_oldest
  run_one "$name" &
  running+=("$name:$!")
done
while [[ ${#running[@]} -gt 0 ]]; do finish_oldest; done
echo "$((${#names[@]} - failed)) passed, $failed failed"
[[ $failed -eq 0 ]]
