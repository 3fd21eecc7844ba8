#!/usr/bin/env bash
# Packs what a GPU machine without compilers needs to test and measure a build of this tree.
#
#   pack_for_gpu.sh BUILD FOLDER
#
# FOLDER, which must not exist, gets the installed package (bin/, lib/), gpu_tests/, the GPU
# benchmarks in bench/ and the Python client with its stubs in python/. Copy it beside a checkout:
#
#   export LD_LIBRARY_PATH=FOLDER/lib:/usr/local/cuda/lib64
#   tests/kernels/cuda/run_gpu_tests.sh FOLDER OUT.json COMMIT
#   PARALLAX_VLLM_STUBS=FOLDER/python tests/e2e/run_on_gpu.sh FOLDER FOLDER/python
#   bench/server/gpu/measure.py --install FOLDER --programs FOLDER/bench --out OUT
#
# A build for the one architecture is a sixth as large: -DCMAKE_CUDA_ARCHITECTURES=90a.
set -euo pipefail

if [[ $# -ne 2 ]]; then
  echo "usage: pack_for_gpu.sh BUILD FOLDER" >&2
  exit 2
fi
readonly build=$1 folder=$2
readonly here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly proto=$here/../../proto
if [[ -e $folder ]]; then
  echo "pack_for_gpu.sh: $folder exists" >&2
  exit 2
fi

cmake --install "$build" --prefix "$folder" --strip >/dev/null
mkdir "$folder/gpu_tests" "$folder/bench"
install --strip "$build"/gpu_tests/* "$folder/gpu_tests"
install --strip "$build"/bench/kernels/cuda/{kernel,linear,sampling,row_ops}_bench \
  "$build"/bench/server/gpu/{step_bench,gpu_ceilings} "$folder/bench"
"$here/bundle_libraries.sh" "$folder/lib" "$folder"/gpu_tests/* "$folder"/bench/*
cp -r "$build/python" "$folder/python"
protoc --proto_path="$proto" --python_out="$folder/python" --grpc_python_out="$folder/python" \
  --plugin=protoc-gen-grpc_python="$(command -v grpc_python_plugin)" \
  vllm/common.proto vllm/vllm_engine.proto
