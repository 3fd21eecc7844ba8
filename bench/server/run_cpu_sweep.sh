#!/usr/bin/env bash
# Sweeps the default model on this machine's CPU, server and client on the same cores: a grid of
# concurrency x prompt length, and the highest rate within an SLO. Keeps the results, with the
# machine and the commit, in bench/results/ and redraws the plots of the README files.
#
#   run_cpu_sweep.sh BUILD
#
# About twelve minutes. Where the load generator refuses a result because it lagged, the script
# stops with status 3; started again on the same day it goes on from there.
set -euo pipefail

build=$(cd "$1" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
results="$root/bench/results"
day=$(date -u +%Y-%m-%d)
scratch=$(mktemp -d)
loadgen="$build/bench/server/loadgen/parallax-loadgen"
readonly build root results day scratch loadgen

mkfifo "$scratch/ready_pipe"
"$build/server/parallax-server" --model "$root/models/parallax-stories-14m" \
  --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 \
  >"$scratch/ready_pipe" 2>"$scratch/server.log" &
readonly server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" || true; rm -rf "$scratch"' EXIT
# One line, once the server serves; end of file if it did not start.
head -n 1 "$scratch/ready_pipe" >"$scratch/ready"
if [[ ! -s $scratch/ready ]]; then
  cat "$scratch/server.log" >&2
  exit 1
fi
port() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" "$scratch/ready"; }

common=(
  "--target=127.0.0.1:$(port port)" "--metrics=127.0.0.1:$(port metrics_port)" --label=cpu
  "--annotate=commit=$(git -C "$root" rev-parse --short=12 HEAD),date=$day,machine=$(nproc) cores \
of an $(lscpu | sed -n 's/^Model name: *//p') that server and client share"
)

"$loadgen" sweep grid "${common[@]}" --concurrencies=1,2,4,8,16,32 --prompt_tokens=32,128,512 \
  --output_tokens=64 --warmup=4 --duration=20 --slo=ttft=1000,tpot=50 \
  --json="$results/cpu-load-grid-$day.json"
"$loadgen" sweep search "${common[@]}" --arrival=poisson --prompt_tokens=128 --output_tokens=64 \
  --warmup=4 --duration=30 --slo=ttft=500,tpot=30 --good_share=0.95 --min_rate=2 --max_rate=64 \
  --json="$results/cpu-load-search-$day.json"

/usr/bin/python3 -B "$root/bench/server/report/report.py" --out "$scratch/report" \
  "$results/cpu-load-grid-$day.json"
mkdir -p "$root/bench/server/plots"
cp "$scratch/report/frontier_ttft.png" "$root/bench/server/plots/cpu-frontier.png"
cp "$scratch/report/heat_map.png" "$root/bench/server/plots/cpu-heat-map.png"
