#!/usr/bin/env bash
# Runs every GPU test of a build folder, on a machine with a GPU, and writes what happened.
#
#   run_gpu_tests.sh BUILD OUT.json [COMMIT]
#
# OUT.json: device, driver, commit and each program's result and seconds. COMMIT is asked of git
# unless given. JOBS programs (default 6) run side by side; cuda_memory_test, which compares the
# device's free memory, runs alone after them. run_compute_sanitizer.sh runs the same programs under
# compute-sanitizer.
# Exit code 0: every program passed, and there was at least one.
set -euo pipefail

readonly build=$1 out=$2
readonly commit=${3:-$(git rev-parse --short=12 HEAD)}
LOGS=$(mktemp -d)
export LOGS
trap 'rm -rf "$LOGS"' EXIT

# Leaves $LOGS/<program>.log, and its row of the report in $LOGS/<program>.json.
run() {
  local name=${1##*/} began=$EPOCHREALTIME result=passed cases seconds
  "$1" --gtest_brief=1 >"$LOGS/$name.log" 2>&1 || result=failed
  cases=$(sed -n 's/^\[==========\] \([0-9]*\) tests\{0,1\} from .* ran\..*/\1/p' "$LOGS/$name.log" | tail -n 1)
  seconds=$(awk "BEGIN {print $EPOCHREALTIME - $began}")
  echo "  {\"program\": \"$name\", \"result\": \"$result\", \"tests\": ${cases:-0}, \"seconds\": $seconds}" \
    >"$LOGS/$name.json"
  echo "$result $name (${cases:-0} tests, $seconds s)"
  [[ $result == passed ]] || tail -n 40 "$LOGS/$name.log" >&2
}
export -f run

find "$build/gpu_tests" -type f -executable ! -name cuda_memory_test -print0 | sort -z |
  xargs -0 -r -n 1 -P "${JOBS:-6}" bash -c 'run "$1"' run
[[ ! -x $build/gpu_tests/cuda_memory_test ]] || run "$build/gpu_tests/cuda_memory_test"

readonly rows=("$LOGS"/*.json)
total=$(cat "${rows[@]}" | wc -l)
failed=$(cat "${rows[@]}" | grep -c '"failed"' || test $? -eq 1)
IFS=, read -r device driver < <(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader)
cat >"$out" <<JSON
{"device": "$device", "driver": "${driver# }", "commit": "$commit",
 "date": "$(date -u +%Y-%m-%dT%H:%M:%SZ)", "failed": $failed, "programs": [
$(cat "${rows[@]}" | sed '$!s/$/,/')
]}
JSON
echo "$((total - failed)) passed, $failed failed"
[[ $total -gt 0 && $failed -eq 0 ]]
