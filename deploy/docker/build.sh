#!/usr/bin/env bash
# Builds and installs the relocatable package into a folder: what the Dockerfile's build stages
# run, as a script so that it can be tried without a container engine.
#
#   deploy/docker/build.sh PREFIX [cmake options]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
prefix=$1
shift
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DPARALLAX_BUILD_TESTS=OFF "$@"
cmake --build "$build" --target parallax-server parallax-client parallax-loadgen
cmake --install "$build" --prefix "$prefix" --strip
