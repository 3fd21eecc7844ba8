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

readonly build=$(cd "$1" && pwd)
readonly root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly results="$root/bench/results"
readonly day=$(date -u +%Y-%m-%d)
readonly scratch=$(mktemp -d)
readonly loadgen="$build/bench/server/loadgen/parallax-loadgen"

"$build/server/parallax-server" --model "$root/models/parallax-stories-14m" \
  --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 \
  > "$scratch/ready" 2> "$scratch/log" &
readonly server=$!
trap 'kill $server; wait $server || true; rm -rf "$scratch"' EXIT
# The server prints one line once it serves; its end closes the pipe of a failed start.
tail --pid=$server -n +1 -f "$scratch/ready" 2> /dev/null | grep -m 1 '"ready"' > "$scratch/line" || {
  cat "$scratch/log" >&2
  exit 1
}
port() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" "$scratch/line"; }

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
