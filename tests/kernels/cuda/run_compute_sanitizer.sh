#!/usr/bin/env bash
# Runs the GPU tests under compute-sanitizer's four tools and fails on any finding.
#
#   run_compute_sanitizer.sh BUILD [FILTER]
#
# BUILD was configured with -DPARALLAX_RACECHECK=ON: racecheck does not follow every order that
# kernels rely on, and would report those of rings as hazards. TOOLS (default all four) are run.
#
# Programs and tools run side by side, JOBS (default 8) at a time. FILTER is a --gtest_filter for
# shorter runs: racecheck is tens of times slower than the bare kernels. Unless it is given, what is
# long for its data alone is left out. A program that takes more than SECONDS_PER_PROGRAM (default
# 200) under one tool counts as a finding.
set -euo pipefail

if [[ $# -lt 1 ]]; then
  echo "usage: run_compute_sanitizer.sh BUILD [FILTER]" >&2
  exit 2
fi
readonly programs=$1/gpu_tests
export FILTER=${2:-*-*MillionKeys} LIMIT=${SECONDS_PER_PROGRAM:-200}
LOGS=$(mktemp -d)
export LOGS
trap 'rm -rf "$LOGS"' EXIT

# $1 = tool, $2 = program. Leaves $LOGS/<tool>.<program>.{clean,found}.
check() {
  local run=$1.${2##*/} began=$SECONDS status=0
  timeout "$LIMIT" compute-sanitizer --tool "$1" --error-exitcode 99 \
    "$2" --gtest_brief=1 --gtest_filter="$FILTER" >"$LOGS/$run" 2>&1 || status=$?
  # A failing test exits non-zero too: a kernel that computes nonsense is no clean run.
  if [[ $status -eq 0 ]] && grep -Eq 'SUMMARY: 0 (errors|hazards)' "$LOGS/$run"; then
    mv "$LOGS/$run" "$LOGS/$run.clean"
    echo "clean $run ($((SECONDS - began)) s)"
  else
    mv "$LOGS/$run" "$LOGS/$run.found"
    echo "FOUND $run (exit status $status, $((SECONDS - began)) s)"
  fi
}
export -f check

# The slow tool first, so that the end is not spent waiting for it.
for tool in ${TOOLS:-racecheck memcheck initcheck synccheck}; do
  for program in "$programs"/*; do
    [[ -x $program ]] || continue
    # Of a program without such tests the sanitizer would say that it launched nothing.
    "$program" --gtest_list_tests --gtest_filter="$FILTER" | grep -q '^  ' || continue
    printf '%s\0%s\0' "$tool" "$program"
  done
done | xargs -0 -n 2 -P "${JOBS:-8}" bash -c 'check "$@"' check

findings=0 clean=0
for log in "$LOGS"/*.clean; do [[ -e $log ]] && clean=$((clean + 1)); done
for log in "$LOGS"/*.found; do
  [[ -e $log ]] || continue
  findings=$((findings + 1))
  echo "== $(basename "$log" .found)"
  tail -n 40 "$log"
done
echo "$clean clean, $findings with findings"
[[ $clean -gt 0 && $findings -eq 0 ]]
