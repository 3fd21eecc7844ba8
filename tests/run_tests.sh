#!/usr/bin/env bash
# Runs the tests of a build folder through CTest and ends with a line "N passed, N failed".
#
#   run_tests.sh BUILD JOBS [ctest options ...]
#
# Sanitizers: the folder's own say what counts as an error; the suppressions name third-party
# libraries only. Exit code 0: every test passed, and there was at least one.
set -euo pipefail

readonly build=$1 jobs=$2
shift 2
readonly root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly report="$build/test-report.xml"

export ASAN_OPTIONS="strict_string_checks=1:detect_stack_use_after_return=1:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:${UBSAN_OPTIONS:-}"
export TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1:ignore_noninstrumented_modules=1:suppressions=$root/tests/sanitizers/tsan.supp:${TSAN_OPTIONS:-}"

status=0
ctest --test-dir "$build" -j "$jobs" --output-on-failure --no-tests=error \
  --output-junit "$(realpath "$build")/test-report.xml" "$@" </dev/null || status=$?

# The suite's totals stand in the first element: tests="32" failures="0".
total=$(grep -om1 'tests="[0-9]*"' "$report" | tr -dc 0-9)
failed=$(grep -om1 'failures="[0-9]*"' "$report" | tr -dc 0-9)
echo "$((total - failed)) passed, $failed failed"
exit "$status"
