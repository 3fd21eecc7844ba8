#!/usr/bin/env bash
# Runs every GPU test of a build folder, on a machine with a GPU, and writes what happened.
#
#   run_gpu_tests.sh BUILD OUT.json [COMMIT]
#
# OUT.json: device, driver, commit and each program's result and seconds. COMMIT is asked of git
# unless given. run_compute_sanitizer.sh runs the same programs under compute-sanitizer.
# Exit code 0: every program passed, and there was at least one.
set -euo pipefail

readonly build=$1 out=$2
readonly commit=${3:-$(git rev-parse --short=12 HEAD)}

rows='' failed=0 total=0
run() {
  local name=$1 began=$EPOCHREALTIME result=passed log
  shift
  log=$("$@" 2>&1) || result=failed
  if [[ $result == failed ]]; then
    failed=$((failed + 1))
    tail -40 <<<"$log" >&2
  fi
  total=$((total + 1))
  local cases seconds
  cases=$(sed -n 's/^\[==========\] \([0-9]*\) tests\{0,1\} from .* ran\..*/\1/p' <<<"$log" | tail -1)
  seconds=$(awk "BEGIN {print $EPOCHREALTIME - $began}")
  rows+="${rows:+,}
  {\"program\": \"$name\", \"result\": \"$result\", \"tests\": ${cases:-0}, \"seconds\": $seconds}"
  echo "$result $name (${cases:-0} tests, $seconds s)"
}

for program in "$build"/gpu_tests/*; do
  [[ -x $program ]] || continue
  name=$(basename "$program")
  run "$name" "$program" --gtest_brief=1
done

IFS=, read -r device driver < <(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader)
cat >"$out" <<JSON
{"device": "$device", "driver": "${driver# }", "commit": "$commit",
 "date": "$(date -u +%Y-%m-%dT%H:%M:%SZ)", "failed": $failed, "programs": [$rows
]}
JSON
echo "$((total - failed)) passed, $failed failed"
[[ $total -gt 0 && $failed -eq 0 ]]
