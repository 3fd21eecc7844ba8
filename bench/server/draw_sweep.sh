#!/usr/bin/env bash
# Draws the pictures of the README files from the grid of run_sweep.sh: NAME-frontier.png and
# NAME-heat-map.png, in PLOTS (bench/server/plots). Needs Debian's python3-matplotlib.
#
#   draw_sweep.sh NAME GRID_JSON
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d)
readonly here scratch
trap 'rm -rf "$scratch"' EXIT

/usr/bin/python3 -B "$here/report/report.py" --out "$scratch" "$2"
readonly plots=${PLOTS:-$here/plots}
mkdir -p "$plots"
cp "$scratch/frontier_ttft.png" "$plots/$1-frontier.png"
cp "$scratch/heat_map.png" "$plots/$1-heat-map.png"
