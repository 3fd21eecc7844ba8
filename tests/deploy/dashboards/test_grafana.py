"""The Grafana dashboard: every query of every panel, put to a real Prometheus that watches a
loaded server and a page of GPU metrics. Grafana itself is not run."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

import gpu_metrics
from gpu_metrics import GpuMetrics
from load import Load
from prometheus_process import Prometheus, QueryRefused
from server_process import REPOSITORY, STORIES_MODEL, ServerProcess, eventually

GRAFANA = REPOSITORY / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "parallax-server.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel, target) for panel in PANELS for target in panel["targets"]]
SECONDS = 12  # of load; rates look back over RATE_INTERVAL
RATE_INTERVAL = "5s"
# Longer than a KV page, so that most of it is found in the prefix cache.
PROMPT = "Once upon a time there was a little fox who lived at the edge of the wood. " * 6
# What stays 0 while all goes well: the test's server fails no call and is in time. Any other query
# that only ever gives 0 asks a wrong question.
ZERO_WHEN_WELL = {
    ("Calls that fail", "A"), ("Calls failed and refused", "A"),
    ("Late against the objectives", "A"), ("Late against the objectives", "B"),
}
# No query may ask a GPU's question of a server without one.
GPU_SOURCE = (REPOSITORY / "server" / "metrics_device.cc").read_text()
METRICS_SOURCE = (REPOSITORY / "server" / "metrics.cc").read_text()


def names(query: str) -> set[str]:
    """The metrics that a query reads, without what a histogram's series add."""
    found = re.findall(r"\b(?:parallax|model|instance):[a-z0-9_:]*[a-z0-9]", query)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def substituted(query: str) -> str:
    """As Grafana does with `All` chosen; a multi-value variable is a group of alternatives."""
    values = {"job": ".*", "instance": ".*", "model": "(parallax-stories-14m|m)"}
    for name, value in {**values, "__rate_interval": RATE_INTERVAL}.items():
        query = re.sub(rf"\${name}\b", lambda _: value, query)
    assert "$" not in query, query
    return query


def burst(server: ServerProcess) -> None:
    """More requests at once than run and wait: some are refused."""
    # Long enough that all are there at once, however slowly their threads take turns.
    with Load(server.client, threads=24, max_tokens=60, prompt=PROMPT) as load:
        assert eventually(lambda: load.ends["RESOURCE_EXHAUSTED"] > 0), f"no call is refused: {load.ends}"
        load.go_on(4)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has seen SECONDS of load. Few KV pages, few places."""
    flags = ["--kv-cache-pages=16", "--max-num-seqs=8", "--max-queued-requests=4"]
    with ServerProcess(STORIES_MODEL, *flags) as server, GpuMetrics() as gpu:
        address = server.metrics_url.split("/")[2]
        folder = tmp_path_factory.mktemp("watch")
        with Prometheus(folder, [address, gpu.address]) as prometheus:
            # Counters that were scraped before they move are not new: it is the rise from 0 that the
            # rates have. Prometheus takes seconds to begin, and a scrape that failed has no counter.
            scraped = "sum_over_time(up[10s]) > 1"
            assert eventually(lambda: len(prometheus.get("query", query=scraped)["result"]) == 2, 60), (
                "Prometheus does not scrape")
            burst(server)
            with Load(server.client, threads=10, max_tokens=100, prompt=PROMPT) as load:
                time.sleep(SECONDS)  # what is watched is the passing of time
                assert load.completed() > 0
                yield prometheus
        assert server.stop() == 0, server.log()


def test_the_file_is_what_its_program_writes() -> None:
    printed = subprocess.run(
        [sys.executable, "-B", str(GRAFANA / "build_dashboard.py"), "--print"],
        capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == DASHBOARD


def test_panels_have_their_own_number_and_place() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    for one, other in itertools.combinations([p["gridPos"] for p in DASHBOARD["panels"]], 2):
        apart = (one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
                 or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"])
        assert apart, (one, other)
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in DASHBOARD["panels"])


def test_what_the_issue_asks_for_is_drawn() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Now", "Traffic", "Latency", "Tokens", "Batches", "KV cache and probe states", "GPU"]
    assert {panel["type"] for panel in PANELS} == {"stat", "timeseries", "heatmap"}


@pytest.mark.parametrize("panel, target", TARGETS,
                         ids=[f"{p['title']}-{p['type']}-{t['refId']}" for p, t in TARGETS])
def test_the_query_returns_data(panel: dict[str, Any], target: dict[str, Any], watched: Prometheus) -> None:
    series = watched.values(substituted(target["expr"]), watched.age())
    assert series, target["expr"]
    finite = [value for values in series for value in values if math.isfinite(value)]
    assert finite, target["expr"]
    if (panel["title"], target["refId"]) not in ZERO_WHEN_WELL:
        assert max(finite) > 0, target["expr"]
    if panel["fieldConfig"]["defaults"].get("max") == 1:
        assert max(finite) <= 1.05, target["expr"]


def test_the_legend_names_labels_that_the_series_have(watched: Prometheus) -> None:
    for _, target in TARGETS:
        wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        # Of the whole time: who is refused now and then is a series only then.
        query = f"last_over_time(({substituted(target['expr'])})[{watched.age()}s:1s])"
        result = watched.get("query", query=query)["result"]
        assert result, query
        for series in result:
            assert wanted <= set(series["metric"]), (target["expr"], series["metric"])


def test_the_variables_have_values(watched: Prometheus) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "datasource":
            continue
        match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        assert match, variable
        values = watched.get(f"label/{match[2]}/values", **{"match[]": substituted(match[1])})
        assert values, variable["name"]


def test_every_name_is_a_metric_or_a_rule(watched: Prometheus) -> None:
    known = set(watched.get("label/__name__/values"))
    known |= {re.sub(r"_(bucket|sum|count)$", "", name) for name in known}
    for _, target in TARGETS:
        assert names(target["expr"]) <= known, target["expr"]


def test_the_gpu_page_has_the_metrics_of_the_server() -> None:
    of_server = set(re.findall(r'"parallax:(gpu_\w+)"', GPU_SOURCE))
    of_page = set(re.findall(r"^parallax:(gpu_\w+)\{", gpu_metrics.page(1.0), re.MULTILINE))
    assert of_page == of_server and len(of_server) == 8
    for label in (*gpu_metrics.USES, *gpu_metrics.START_SECONDS, "graph", "eager"):
        assert f'"{label}"' in GPU_SOURCE
    for name in gpu_metrics.PROBE_STATE_BYTES:
        assert f'"parallax:{name}"' in METRICS_SOURCE


def test_the_constants_that_are_let_through_are_panels() -> None:
    assert ZERO_WHEN_WELL <= {(panel["title"], target["refId"]) for panel, target in TARGETS}


@pytest.mark.parametrize("title, share", [("Memory bandwidth used", 3e12 / 0.7 / 4.8e12),
                                          ("Compute used", 2e12 / 0.7 / 9.9e14)])
def test_what_is_used_is_the_share_of_the_peak(watched: Prometheus, title: str, share: float) -> None:
    """In 0.7 s of steps a second."""
    (panel,) = [panel for panel in PANELS if panel["title"] == title]
    query = substituted(panel["targets"][0]["expr"])
    (series,) = [s for s in watched.get("query", query=query)["result"] if s["metric"]["kind"] == "graph"]
    assert float(series["value"][1]) == pytest.approx(share, rel=0.02)


def test_a_wrong_query_is_refused(watched: Prometheus) -> None:
    """Else nothing here would mean anything."""
    with pytest.raises(QueryRefused, match="parse error"):
        watched.values("sum by (le (rate(x[5s]))", 5)
    assert watched.values("parallax:no_such_metric", 5) == []


def test_no_rule_failed(watched: Prometheus) -> None:
    groups = watched.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    assert {rule["type"] for rule in rules} == {"alerting", "recording"}
