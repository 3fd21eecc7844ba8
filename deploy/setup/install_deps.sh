#!/usr/bin/env bash
# Installs what is missing of Debian 12's packages to build, test or check this project.
#
#   install_deps.sh build   what `make demo`, `make serve` and `make build` need
#   install_deps.sh dashboards  the same and what `make dashboards` needs
#   install_deps.sh test    the same and what `make test` needs
#   install_deps.sh ci      the same and what the sanitizer and fuzz builds need
#   install_deps.sh --list GROUP   prints the packages and installs nothing
#
# Says what it installs and why; asks nothing; does nothing when all is there. Uses sudo
# only when not root. Exit code 0: all present; 1: something could not be installed.
set -euo pipefail

# group | package | why
readonly PACKAGES='
build | g++                      | C++20 compiler
build | make                     | the Makefile, the door to everything
build | cmake                    | describes the build
build | ninja-build              | runs the build
build | ccache                   | makes the second build quick
build | pkgconf                  | finds gRPC
build | protobuf-compiler        | generates the messages of proto/
build | protobuf-compiler-grpc   | generates the services of proto/
build | libprotobuf-dev          | the wire format
build | libgrpc++-dev            | the server and the C++ client
build | libgrpc-dev              | the core of gRPC
build | libabsl-dev              | Status, time, flags
build | libre2-dev               | gRPC links it
build | libc-ares-dev            | gRPC resolves names with it
build | libssl-dev               | TLS
build | zlib1g-dev               | gRPC compresses with it
build | prometheus-cpp-dev       | /metrics
build | libcivetweb-dev          | the HTTP server under /metrics
build | nlohmann-json3-dev       | config.json, tokenizer.json, safetensors headers
build | libsentencepiece-dev     | tokenizer.model
build | libpcre2-dev             | the split patterns of tokenizer.json
build | libutf8proc-dev          | Unicode normalization
build | libxxhash-dev            | content addresses of cached pages
build | libhwy-dev               | SIMD chosen at run time
build | curl                     | the demo shows the metrics with it
dashboards | prometheus          | watches a server; tests the alerts and the dashboards
test  | libgtest-dev             | unit tests
test  | libgmock-dev             | unit tests
test  | libbenchmark-dev         | benchmarks
test  | libcpp-httplib-dev       | the load generator reads /metrics with it
test  | libopenblas-dev          | the rate that prefill is compared with
test  | python3                  | tests of the Python client, end-to-end tests
test  | python3-grpcio           | the Python client
test  | python3-protobuf         | the Python client
test  | python3-pytest           | runs the Python tests
test  | python3-venv             | installs the Python client in one, and the gateway
test  | python3-wheel            | builds the package of the Python client
test  | python3-setuptools       | builds it too
test  | python3-matplotlib       | pictures of load tests
test  | haproxy                  | the front of three replicas
test  | socat                    | says to it what its README says
test  | python3-yaml             | reads the Kubernetes manifests
test  | systemd                  | verifies the unit
test  | chromium                 | tests the status page
test  | chromium-driver          | drives it
test  | python3-selenium         | tells it what to do
test  | procps                   | lists what a script left running
test  | openssl                  | makes the certificates of the TLS tests
ci    | clang                    | fuzzers, thread-safety analysis
ci    | libclang-rt-14-dev       | the runtime of the fuzzers
ci    | llvm                     | readable stacks in sanitizer reports
'

packages_of() {
  local wanted=$1 groups
  case $wanted in
    build) groups='^build ' ;;
    dashboards) groups='^(build|dashboards) ' ;;
    test) groups='^(build|dashboards|test) ' ;;
    ci) groups='^(build|dashboards|test|ci) ' ;;
    *) echo "usage: $0 [--list] build|dashboards|test|ci" >&2; exit 2 ;;
  esac
  grep -E "$groups" <<<"$PACKAGES"
}

is_installed() {
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

as_root() {
  if [[ $(id -u) -eq 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "install_deps: root is needed for: $*" >&2
    return 1
  fi
}

apt() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Use-Pty=0 -qq "$@" </dev/null
}

main() {
  local list_only=false
  if [[ ${1:-} == --list ]]; then
    list_only=true
    shift
  fi
  local table
  table=$(packages_of "${1:-build}")
  if $list_only; then
    awk -F'|' '{gsub(/ /, "", $2); print $2}' <<<"$table"
    return
  fi
  if ! command -v dpkg-query >/dev/null; then
    echo "install_deps: this is not Debian; the packages that are needed:" >&2
    echo "$table" >&2
    return 1
  fi

  local missing=() package why
  while IFS='|' read -r _ package why; do
    package=${package// /}
    if ! is_installed "$package"; then
      missing+=("$package")
      printf 'install_deps: %-24s is missing: %s\n' "$package" "${why# }"
    fi
  done <<<"$table"
  if [[ ${#missing[@]} -eq 0 ]]; then
    return
  fi

  echo "install_deps: installing ${#missing[@]} package(s) with apt-get"
  # Package lists may be absent (a fresh container) or too old to fetch from.
  if ! apt install -y --no-install-recommends "${missing[@]}" 2>/dev/null; then
    apt update
    apt install -y --no-install-recommends "${missing[@]}"
  fi
}

main "$@"
