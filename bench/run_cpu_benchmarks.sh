#!/usr/bin/env bash
# Runs the CPU benchmarks one after the other and keeps what they print, with the machine,
# date and commit, in bench/results/cpu-DATE.txt.
#
#   run_cpu_benchmarks.sh BUILD
set -euo pipefail

readonly build=$1
readonly root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly out="$root/bench/results/cpu-$(date -u +%Y-%m-%d).txt"

section() {
  printf '\n== %s\n' "$*"
  "$@"
}

{
  echo "machine: $(lscpu | sed -n 's/^Model name: *//p'), $(nproc) cores, $(lscpu | sed -n 's/^L3 cache: *//p') L3"
  echo "date:    $(date -u +%Y-%m-%dT%H:%M:%SZ)"
  echo "commit:  $(git -C "$root" rev-parse --short=12 HEAD)"
  cd "$build"
  section bench/kernels/cpu_kernels_bench
  section bench/model/cpu_model_bench
  section bench/scheduler/scheduler_bench --benchmark_repetitions=3 --benchmark_report_aggregates_only=true
  section taskset -c 0 bench/engine/engine_bench
  section bench/server/server_bench
} 2>&1 | tee "$out"
