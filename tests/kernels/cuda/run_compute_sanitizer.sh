#!/usr/bin/env bash
# Runs the GPU tests under compute-sanitizer's four tools and fails on any finding.
#
#   run_compute_sanitizer.sh BUILD [FILTER]
#
# BUILD was configured with -DPARALLAX_COMPUTE_SANITIZER=ON: racecheck does not follow every order
# that kernels rely on and would report those of rings as hazards, and every tool hangs where
# decode's clusters start as they do otherwise. TOOLS (default all four) are run.
#
# JOBS runs (default 8) go side by side: of memcheck, initcheck and synccheck one a program, of
# racecheck one a test. FILTER is a --gtest_filter for other runs than the usual ones, which leave
# out what is long for its data alone and, of racecheck, all but a few tests of each kernel. A run
# that takes more than SECONDS_PER_RUN (default 300) counts as a finding.
set -euo pipefail

if [[ $# -lt 1 ]]; then
  echo "usage: run_compute_sanitizer.sh BUILD [FILTER]" >&2
  exit 2
fi
readonly programs=$1/gpu_tests
# A packed folder does not tell how it was configured.
if [[ -e $1/CMakeCache.txt ]] && ! grep -q '^PARALLAX_COMPUTE_SANITIZER:BOOL=ON$' "$1/CMakeCache.txt"; then
  echo "run_compute_sanitizer.sh: $1 is not configured with -DPARALLAX_COMPUTE_SANITIZER=ON" >&2
  exit 2
fi
if ! command -v compute-sanitizer >/dev/null; then
  echo "run_compute_sanitizer.sh: no compute-sanitizer on the PATH" >&2
  exit 2
fi
readonly filter=${2:-*-*MillionKeys}
# Under racecheck a launch takes seconds.
readonly race_filter=${2:-*EachKernelOnce*:*DrawsInOrder*:*SkinnyLinear*:*PortableDecode*:*HeadNormRope*:*StartOfNext*:*RmsNorm*:*SiluAndMul*:*Embedding*:*GatherRows*:*CopyKvPages*-*Refuses*}
export LIMIT=${SECONDS_PER_RUN:-300}
LOGS=$(mktemp -d)
export LOGS
trap 'rm -rf "$LOGS"' EXIT

# $1 = tool, $2 = program, $3 = filter. Leaves $LOGS/<tool>.<program>[.<test>].{clean,found}.
check() {
  local run=$1.${2##*/} began=$SECONDS status=0
  [[ $1 != racecheck ]] || run+=.${3//\//.}
  timeout "$LIMIT" compute-sanitizer --tool "$1" --error-exitcode 99 \
    "$2" --gtest_brief=1 --gtest_filter="$3" >"$LOGS/$run" 2>&1 || status=$?
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

# The tests of program $1 that match $2, one a line.
tests_of() {
  "$1" --gtest_list_tests --gtest_filter="$2" |
    awk '/^[^ ]+\.( |$)/ {suite = $1} /^  / {print suite $1}'
}

# The slow tool first, so that the end is not spent waiting for it.
for tool in ${TOOLS:-racecheck memcheck initcheck synccheck}; do
  for program in "$programs"/*; do
    [[ -x $program ]] || continue
    if [[ $tool == racecheck ]]; then
      tests_of "$program" "$race_filter" | while read -r test; do
        printf '%s\0%s\0%s\0' "$tool" "$program" "$test"
      done
    elif [[ -n $(tests_of "$program" "$filter") ]]; then
      # Of a program without such tests the sanitizer would say that it launched nothing.
      printf '%s\0%s\0%s\0' "$tool" "$program" "$filter"
    fi
  done
done | xargs -0 -r -n 3 -P "${JOBS:-8}" bash -c 'check "$@"' check

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
