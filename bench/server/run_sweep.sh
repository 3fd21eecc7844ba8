#!/usr/bin/env bash
# Sweeps a server on this machine, server and client side by side: a grid of concurrency x prompt
# length, and the highest rate within an SLO.
#
#   run_sweep.sh BUILD NAME MODEL [SERVER_FLAG...]
#
#   run_sweep.sh build/release cpu models/parallax-stories-14m
#   GRID='--concurrencies=1,8,32,128 --prompt_tokens=128,1024 --output_tokens=128' \
#     run_sweep.sh /opt/parallax-server gpu bench/server/gpu/shapes/1.7b --load-format=dummy --device=cuda
#
# BUILD is a build folder, or an unpacked package (bin/parallax-server). The results are
# NAME-load-grid-DAY.json and NAME-load-search-DAY.json in RESULTS (bench/results); draw_sweep.sh
# makes pictures of them. GRID and SEARCH are the flags of the two sweeps (an empty one leaves its
# sweep out), COMMIT is the commit in the results where there is no git.
#
# Where the load generator refuses a result because it lagged, the script stops with status 3;
# started again on the same day it goes on from there. The defaults, which are the default model's
# on a CPU, take eleven to twelve minutes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$1 name=$2 model=$3
shift 3
readonly root build name model
readonly results=${RESULTS:-$root/bench/results}
readonly grid=${GRID---concurrencies=1,4,16,32 --prompt_tokens=32,128,512 --durations=20,20,60 \
--output_tokens=64 --warmup=3 --slo=ttft=1000,tpot=50}
readonly search=${SEARCH---prompt_tokens=128 --output_tokens=64 --warmup=3 --duration=20 \
--slo=ttft=500,tpot=30 --good_share=0.95 --min_rate=4 --max_rate=64}
commit=${COMMIT:-$(git -C "$root" describe --always --dirty --abbrev=12 --exclude="*")}
day=$(date -u +%Y-%m-%d)
scratch=$(mktemp -d)
readonly commit day scratch

if [[ -x $build/bin/parallax-server ]]; then
  readonly server_program=$build/bin/parallax-server loadgen=$build/bin/parallax-loadgen
else
  readonly server_program=$build/server/parallax-server
  readonly loadgen=$build/bench/server/loadgen/parallax-loadgen
fi

mkfifo "$scratch/ready_pipe"
"$server_program" --model "$model" \
  --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 "$@" \
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

machine="$(nproc) cores of an $(lscpu | sed -n 's/^Model name: *//p') that server and client share"
if [[ " $* " == *" --device=cuda "* ]]; then
  machine="an $(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1) and $machine"
fi
readonly common=(
  "--target=127.0.0.1:$(port port)" "--metrics=127.0.0.1:$(port metrics_port)" "--label=$name"
  "--annotate=commit=$commit,date=$day,machine=$machine,server flags=${*:-none}"
)

mkdir -p "$results"
# Split into words on purpose: they are flags.
# shellcheck disable=SC2086
if [[ -n $grid ]]; then
  "$loadgen" sweep grid "${common[@]}" $grid --json="$results/$name-load-grid-$day.json"
fi
# shellcheck disable=SC2086
if [[ -n $search ]]; then
  "$loadgen" sweep search "${common[@]}" --arrival=poisson $search \
    --json="$results/$name-load-search-$day.json"
fi
