#!/usr/bin/env bash
# What `make demo` shows: starts a server, streams a story, runs 16 at once, reads the
# metrics, stops the server the way a supervisor would.
#
#   demo.sh BUILD MODEL
#
# Uses free ports, and leaves no process behind, whatever fails.
set -euo pipefail

readonly build=$1 model=$2
readonly server="$build/server/parallax-server"
readonly client="$build/clients/cpp/cli/parallax-client"
readonly work=$(mktemp -d)
server_pid=

finish() {
  if [[ -n $server_pid ]]; then
    kill -KILL "$server_pid" 2>/dev/null || :
    wait "$server_pid" 2>/dev/null || :
  fi
  rm -rf "$work"
}
trap finish EXIT

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

fail() {
  echo "demo: $*" >&2
  if [[ -s $work/server.log ]]; then
    echo "demo: the end of the server's log:" >&2
    tail -n 20 "$work/server.log" >&2
  fi
  exit 1
}

port_of() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" "$work/ready"; }

say "Starting parallax-server on $model"
mkfifo "$work/ready_pipe"
"$server" --model "$model" --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 \
  --metrics-listen 127.0.0.1:0 >"$work/ready_pipe" 2>"$work/server.log" &
server_pid=$!
# The server prints one line with its ports once it serves; an end without a line is a failure.
head -n 1 "$work/ready_pipe" >"$work/ready"
[[ -s $work/ready ]] || fail "the server did not start"
readonly address="127.0.0.1:$(port_of port)"
readonly metrics="http://127.0.0.1:$(port_of metrics_port)/metrics"

"$client" health --server "$address" --wait-ms 60000 || fail "the server is not healthy"

say "One completion, token by token"
"$client" stream --server "$address" --max-tokens 160 --seed 7 \
  "Once upon a time there was a little" || fail "the completion failed"

say "16 completions at once"
"$client" concurrent --server "$address" --count 16 --max-tokens 128 --ignore-eos true \
  "One morning the old fox" || fail "the concurrent completions failed"

say "Metrics: $metrics"
curl -fsS "$metrics" |
  grep -E '^parallax:(prompt_tokens|generation_tokens|request_success)_total' ||
  fail "the metrics page has no token counters"

say "Stopping"
kill -TERM "$server_pid"
status=0
wait "$server_pid" || status=$?
server_pid=
[[ $status -eq 0 ]] || fail "the server exited with status $status"
echo "The server finished its work and exited with status 0. \`make serve\` keeps it running."
