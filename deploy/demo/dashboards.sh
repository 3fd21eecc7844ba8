#!/usr/bin/env bash
# What `make dashboards` shows: a server, a Prometheus with this project's rules, half a minute of
# load, and where to look at them. Both go on until Ctrl-C.
#
#   dashboards.sh BUILD MODEL
#
# METRICS=127.0.0.1:9464 and PROMETHEUS=127.0.0.1:9465 say where they listen, LOAD_SECONDS=30 how
# long the load is. Leaves no process behind, whatever fails.
set -euo pipefail

readonly build=$1 model=$2
readonly root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly metrics=${METRICS:-127.0.0.1:9464} prometheus=${PROMETHEUS:-127.0.0.1:9465}
readonly load_seconds=${LOAD_SECONDS:-30}
readonly client="$build/clients/cpp/cli/parallax-client"
readonly work=$(mktemp -d)
pids=()

finish() {
  trap '' INT TERM
  kill -TERM "${pids[@]}" 2>/dev/null || :
  wait || :
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 0' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# fail MESSAGE LOG
fail() {
  echo "dashboards: $1; the end of its log:" >&2
  tail -n 20 "$2" >&2
  exit 1
}

say "Starting parallax-server on $model"
mkfifo "$work/ready_pipe"
"$build/server/parallax-server" --model "$model" --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 \
  --metrics-listen "$metrics" >"$work/ready_pipe" 2>"$work/server.log" &
pids+=($!)
# One line, once the server serves; end of file if it did not start.
head -n 1 "$work/ready_pipe" >"$work/ready"
[[ -s $work/ready ]] || fail "the server did not start" "$work/server.log"
readonly server="127.0.0.1:$(sed -n 's/.*"port":\([0-9]*\).*/\1/p' "$work/ready")"

say "Starting Prometheus"
# The configuration of production, but for where the server is and a faster clock.
cp -r "$root/deploy/prometheus" "$work/prometheus"
sed -i 's/_interval: 15s/_interval: 2s/; s/scrape_timeout: 5s/scrape_timeout: 2s/' \
  "$work/prometheus/prometheus.yml"
echo "- targets: ['$metrics']" >"$work/prometheus/targets.yml"
: >"$work/prometheus.log"  # is looked into before Prometheus may have begun
prometheus --config.file="$work/prometheus/prometheus.yml" --storage.tsdb.path="$work/data" \
  --web.listen-address="$prometheus" 2>>"$work/prometheus.log" &
readonly prometheus_pid=$!
pids+=("$prometheus_pid")
until grep -q 'ready to receive web requests' "$work/prometheus.log"; do
  kill -0 "$prometheus_pid" 2>/dev/null || fail "Prometheus did not start" "$work/prometheus.log"
  sleep 0.1
done

say "Look while it is loaded"
cat <<END
  status page   http://$metrics/
  Prometheus    http://$prometheus/  e.g. rate(parallax:generation_tokens_total[30s])
  Grafana       deploy/grafana/README.md says how to add it
END

say "$load_seconds seconds of load, 8 requests at a time"
readonly end=$((SECONDS + load_seconds))
seed=1
while ((SECONDS < end)); do
  "$client" concurrent --server "$server" --count 8 --seed "$seed" --max-tokens 96 \
    "Once upon a time there was a little" >"$work/load.log" 2>&1 || fail "a request failed" "$work/load.log"
  seed=$((seed + 8))
done

say "The load is over. Ctrl-C stops the server and Prometheus."
# Ends when either does, which it should not.
wait -n "${pids[@]}" || :
fail "a process ended" "$work/server.log"
