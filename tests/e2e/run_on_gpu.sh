#!/usr/bin/env bash
# The end-to-end tests over the GPU backend, on a machine with a GPU.
#
#   run_on_gpu.sh INSTALL STUBS [pytest options ...]
#
# INSTALL holds bin/parallax-server and bin/parallax-client (`cmake --install`), STUBS the Python
# client with its generated stubs (BUILD/python). Needs pytest, grpcio and protobuf.
# PYTHON names another interpreter. Exit code: pytest's.
set -euo pipefail

readonly here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PARALLAX_SERVER=$1/bin/parallax-server PARALLAX_CLIENT=$1/bin/parallax-client
export PYTHONPATH=$2:$here
# Tests start servers beside one another; each takes its share of the GPU and no more.
export PARALLAX_SERVER_FLAGS="--device=cuda --memory-bytes=4GiB"
shift 2
# -v: of a run that is cut off, the names of what failed are known.
exec "${PYTHON:-python3}" -B -m pytest -v -p no:cacheprovider \
  --ignore "$here/test_python_package.py" "$@" "$here"
