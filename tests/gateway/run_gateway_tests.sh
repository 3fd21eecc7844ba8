#!/usr/bin/env bash
# Runs tests/gateway in an environment of its own, which the first run installs from PyPI.
#
#   run_gateway_tests.sh BUILD [--result FILE] [pytest options ...]
#
# With --result the run's numbers, machine, date, commit and versions are written to FILE.
# Exit code 0: every test passed; 3: the packages could not be installed, and nothing ran.
set -euo pipefail

readonly build=$(realpath "$1")
shift
readonly here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly environment="$build/gateway-venv"
readonly installed="$environment/requirements.txt"

if ! cmp -s "$here/requirements.txt" "$installed"; then
  rm -rf "$environment"
  /usr/bin/python3 -m venv "$environment"
  if ! "$environment/bin/pip" install -q -r "$here/requirements.txt"; then
    echo "test-gateway: PyPI cannot be reached, or lacks a package of $here/requirements.txt;" \
      "nothing was tested" >&2
    exit 3
  fi
  cp "$here/requirements.txt" "$installed"
fi

export PARALLAX_SERVER="$build/server/parallax-server" SMG="$environment/bin/smg"
# The gateway's own stubs or none: generated ones would test the wire format against itself.
export PARALLAX_VLLM_STUBS=package
if [[ -x "$build/bench/server/server_bench" ]]; then
  export PARALLAX_SERVER_BENCH="$build/bench/server/server_bench"
fi
export PYTHONPATH="$build/python:$here/../e2e"
cd "$here"
exec "$environment/bin/python" -B -m pytest -v -p no:cacheprovider --rootdir="$here" \
  "$here" "$here/../e2e/test_vllm_engine.py" "$@"
