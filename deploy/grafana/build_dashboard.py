#!/usr/bin/env python3
"""Writes dashboards/parallax-server.json, Grafana's form of the panels listed here.

    build_dashboard.py            writes the file
    build_dashboard.py --print    prints what it would write

Units are Grafana's names. Rates use $__rate_interval, so that they hold at every zoom.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator

FILE = Path(__file__).resolve().parent / "dashboards" / "parallax-server.json"
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
INSTANCES = 'job=~"$job",instance=~"$instance",model_name=~"$model"'
MODELS = 'job=~"$job",model_name=~"$model"'


@dataclass
class Panel:
    kind: str  # timeseries, stat or heatmap
    title: str
    unit: str
    queries: dict[str, str]  # legend to PromQL
    width: int = 8
    height: int = 8
    help: str = ""
    stacked: bool = False
    most: float | None = None  # the top of the axis
    warn: list[float] = field(default_factory=list)  # where a stat turns yellow, then red


def metric(name: str, labels: str = "") -> str:
    return f"parallax:{name}{{{INSTANCES}{',' + labels if labels else ''}}}"


def rate(name: str, labels: str = "") -> str:
    return f"rate({metric(name, labels)}[$__rate_interval])"


def total_rate(name: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} ({rate(name)})"


def quantile(q: float, name: str) -> str:
    return f"histogram_quantile({q}, {total_rate(name + '_bucket', 'le')})"


def mean(name: str) -> str:
    return f"{total_rate(name + '_sum')} / ({total_rate(name + '_count')} > 0)"


def stat(title: str, unit: str, query: str, **options: Any) -> Panel:
    return Panel("stat", title, unit, {"": query}, width=3, height=4, **options)


def lines(title: str, unit: str, queries: dict[str, str], **options: Any) -> Panel:
    return Panel("timeseries", title, unit, queries, **options)


def percentiles(title: str, name: str, help: str) -> Panel:
    queries = {f"p{100 * q:g}": quantile(q, name) for q in (0.5, 0.9, 0.95, 0.99)}
    return lines(title, "s", {**queries, "mean": mean(name)}, help=help)


def heatmap(title: str, name: str, unit: str = "s") -> Panel:
    query = f"sum by (le) (increase({metric(name + '_bucket')}[$__rate_interval]))"
    return Panel("heatmap", title, unit, {"{{le}}": query})


def gpu_rate(name: str, by: str = "") -> str:
    return total_rate(f"gpu_step_{name}_total", by)


def share_of_peak(name: str) -> str:
    """Of what the GPU can do while it runs a step, by kind of step."""
    return (f"{gpu_rate(name, 'instance, kind')} / ({gpu_rate('seconds', 'instance, kind')} > 0)"
            " / on (instance) group_left ()"
            f" max by (instance) ({metric(f'gpu_peak_{name}_per_second')})")


ROWS: dict[str, list[Panel]] = {
    "Now": [
        stat("Instances up", "none", 'sum(up{job=~"$job",instance=~"$instance"})'),
        stat("Requests", "reqps", total_rate("requests_submitted_total")),
        stat("Output tokens", "short", total_rate("generation_tokens_total"), help="A second."),
        stat("Running", "none", f"sum({metric('num_requests_running')})"),
        stat("Waiting", "none", f"sum({metric('num_requests_waiting')})", warn=[32, 256]),
        stat("TTFT, p95", "s", quantile(0.95, "time_to_first_token_seconds"), warn=[0.5, 1]),
        stat("Calls that fail", "percentunit",
             f"max(model:parallax_rpc_errors:ratio_rate5m{{{MODELS}}})", warn=[0.001, 0.01],
             help="INTERNAL, UNKNOWN, DATA_LOSS, UNAVAILABLE; five minutes."),
        stat("KV pages used", "percentunit", f"max({metric('kv_cache_usage_perc')})",
             warn=[0.85, 0.95], help="The fullest instance."),
    ],
    "Traffic": [
        lines("Requests", "reqps", {
            "accepted": total_rate("requests_submitted_total"),
            "refused: {{code}}": f"{total_rate('requests_refused_total', 'code')} > 0"}),
        lines("Requests ended, by reason", "reqps", {
            "{{finished_reason}}": total_rate("request_success_total", "finished_reason")},
            stacked=True),
        lines("Calls, by method and code", "reqps", {
            "{{method}} {{code}}": f"{total_rate('grpc_requests_total', 'method, code')} > 0"}),
        lines("Running and waiting", "none", {
            "running": f"sum({metric('num_requests_running')})",
            "waiting": f"sum({metric('num_requests_waiting')})"}),
        lines("Calls failed and refused", "percentunit", {
            "failed: {{model_name}}": f"model:parallax_rpc_errors:ratio_rate5m{{{MODELS}}}",
            "refused: {{model_name}}": f"model:parallax_rpc_refusals:ratio_rate5m{{{MODELS}}}"}),
        lines("Late against the objectives", "percentunit", {
            "TTFT over 1 s: {{model_name}}": f"model:parallax_ttft_slow:ratio_rate5m{{{MODELS}}}",
            "ITL over 100 ms: {{model_name}}":
                f"model:parallax_itl_slow:ratio_rate5m{{{MODELS}}}"},
            help="Both objectives allow 1 %."),
    ],
    "Latency": [
        percentiles("Time to first token", "time_to_first_token_seconds",
                    "From the call's arrival: tokenizer, queue and prefill."),
        percentiles("Inter-token latency", "inter_token_latency_seconds",
                    "Between two tokens of one choice."),
        percentiles("Request latency", "e2e_request_latency_seconds", "From arrival to end."),
        heatmap("Time to first token", "time_to_first_token_seconds"),
        heatmap("Inter-token latency", "inter_token_latency_seconds"),
        heatmap("Request latency", "e2e_request_latency_seconds"),
        percentiles("Time in the queue", "request_queue_time_seconds",
                    "Of requests that had a token."),
        percentiles("Prefill time", "request_prefill_time_seconds", "First scheduled to first token."),
        percentiles("Decode time", "request_decode_time_seconds", "First to last token."),
    ],
    "Tokens": [
        lines("Tokens a second", "short", {
            "prompt": total_rate("prompt_tokens_total"),
            "output": total_rate("generation_tokens_total")}),
        heatmap("Prompt tokens of a request", "request_prompt_tokens", "none"),
        heatmap("Output tokens of a request", "request_generation_tokens", "none"),
    ],
    "Batches": [
        lines("Sequences in a step", "none", {
            "mean": mean("batch_size"), "p95": quantile(0.95, "batch_size")}),
        heatmap("Sequences in a step", "batch_size", "none"),
        lines("Token rows in a step, by kind", "none", {
            kind: f"{total_rate(f'step_{kind}_tokens_total')}"
                  f" / ({total_rate('step_time_seconds_count')} > 0)"
            for kind in ("prefill", "decode")}, stacked=True,
            help="Means. Together at most --max-num-batched-tokens; prefill in a step that also"
                 " decodes, at most --max-mixed-prefill-tokens."),
        percentiles("Step time", "step_time_seconds", "Launch to collected."),
        heatmap("Step time", "step_time_seconds"),
        lines("Steps a second", "none", {
            "{{instance}}": total_rate("step_time_seconds_count", "instance")}),
    ],
    "KV cache and probe states": [
        lines("KV pages", "none", {
            "used": f"sum({metric('kv_pages_used')})",
            "cached": f"sum({metric('kv_pages_cached')})",
            "free": f"sum({metric('kv_pages')} - {metric('kv_pages_used')}"
                    f" - {metric('kv_pages_cached')})"}, stacked=True,
            help="Cached pages are kept for a prefix hit and given up when pages are needed."),
        lines("KV pages used", "percentunit", {
            "{{instance}}": metric("kv_cache_usage_perc")}, most=1),
        lines("Prefix cache", "percentunit", {
            "prompt tokens found": f"{total_rate('prefix_cache_hits_total')}"
                                   f" / ({total_rate('prefix_cache_queries_total')} > 0)"},
            most=1),
        lines("Preemptions", "ops", {
            "{{instance}}": total_rate("num_preemptions_total", "instance")}),
        lines("Preemptions per request", "none", {
            "{{instance}}": f"instance:parallax_preemptions:ratio_rate5m{{{INSTANCES}}}"}),
        lines("Probe-state pool", "bytes", {
            "used": f"sum({metric('probe_state_bytes_used')})",
            "size": f"sum({metric('probe_state_bytes')})"},
            help="0 for a model without a probe, and for a backend that keeps no such states."
                 " A GPU does not tell what it uses: 0 there."),
    ],
    "GPU": [
        lines("GPU memory, by use", "bytes", {
            "{{use}}": f"sum by (use) ({metric('gpu_memory_bytes')})"}, stacked=True,
            help="Reserved at start. This row is empty for servers without a GPU."),
        lines("GPU busy", "percentunit", {
            "{{instance}}": gpu_rate("seconds", "instance")},
            help="Share of the time in which the GPU runs a step.", most=1),
        lines("Memory bandwidth used", "percentunit", {
            "{{instance}} {{kind}}": share_of_peak("bytes")}, most=1,
            help="Bytes a step cannot do without, by what the memory could move while it ran."),
        lines("Compute used", "percentunit", {
            "{{instance}} {{kind}}": share_of_peak("flops")}, most=1,
            help="The model's operations, by what the matrix units could do while a step ran."),
        lines("GPU steps a second, by kind", "none", {
            "{{instance}} {{kind}}": total_rate("gpu_steps_total", "instance, kind")}),
        lines("GPU time of a step, by kind", "s", {
            "{{instance}} {{kind}}": f"{gpu_rate('seconds', 'instance, kind')}"
                                     f" / ({total_rate('gpu_steps_total', 'instance, kind')} > 0)"}),
        lines("GPU start, by phase", "s", {
            "{{instance}} {{phase}}": f"max by (instance, phase) ({metric('gpu_start_seconds')})"},
            help="Weights loaded, linear layers tuned, graphs captured: once, at start."),
    ],
}


def thresholds(warn: list[float]) -> dict[str, Any]:
    steps = [{"color": "green", "value": None}]
    steps += [{"color": color, "value": at} for color, at in zip(("yellow", "red"), warn)]
    return {"mode": "absolute", "steps": steps}


def options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "colorMode": "value", "graphMode": "area", "textMode": "value"}
    if panel.kind == "heatmap":
        return {"calculate": False, "yAxis": {"unit": panel.unit}, "cellGap": 1,
                "color": {"mode": "scheme", "scheme": "Blues", "steps": 64},
                "tooltip": {"mode": "single", "yHistogram": True}, "legend": {"show": True}}
    return {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"}}


def field_config(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": thresholds(panel.warn)}
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.kind == "timeseries":
        defaults["custom"] = {"drawStyle": "line", "lineWidth": 1, "showPoints": "never",
                              "fillOpacity": 30 if panel.stacked else 8,
                              "stacking": {"mode": "normal" if panel.stacked else "none"}}
    return {"defaults": defaults, "overrides": []}


def target(panel: Panel, number: int, legend: str, query: str) -> dict[str, Any]:
    return {"refId": chr(ord("A") + number), "datasource": DATASOURCE, "expr": query,
            "legendFormat": legend, "editorMode": "code", "range": True,
            "format": "heatmap" if panel.kind == "heatmap" else "time_series"}


def panel_json(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    return {"id": number, "type": panel.kind, "title": panel.title, "description": panel.help,
            "datasource": DATASOURCE, "maxDataPoints": 120 if panel.kind == "heatmap" else 400,
            "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
            "targets": [target(panel, n, *query) for n, query in enumerate(panel.queries.items())],
            "fieldConfig": field_config(panel), "options": options(panel)}


def row_json(title: str, number: int, y: int) -> dict[str, Any]:
    return {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}


def layout() -> Iterator[dict[str, Any]]:
    """The panels from left to right, a new line when one is full. All of a row are as high."""
    y, number = 0, 1
    for title, panels in ROWS.items():
        yield row_json(title, number, y)
        x, y, number = 0, y + 1, number + 1
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + panel.height
            yield panel_json(panel, number, x, y)
            x, number = x + panel.width, number + 1
        y += panels[-1].height


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {"name": name, "label": label, "type": "query", "datasource": DATASOURCE,
            "query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "sort": 1,
            "multi": True, "includeAll": True, "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]}}


def dashboard() -> dict[str, Any]:
    running = "parallax:num_requests_running"
    return {
        "uid": "parallax-server", "title": "parallax-server", "tags": ["parallax", "inference"],
        "schemaVersion": 38, "version": 1, "editable": True, "graphTooltip": 1,
        "refresh": "15s", "time": {"from": "now-1h", "to": "now"}, "timezone": "browser",
        "annotations": {"list": [{
            "name": "Alerts", "enable": True, "iconColor": "red", "datasource": DATASOURCE,
            "expr": 'ALERTS{alertname=~"Parallax.*",alertstate="firing"}',
            "titleFormat": "{{alertname}}", "textFormat": "{{instance}} {{model_name}}"}]},
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource",
             "query": "prometheus", "current": {}},
            variable("job", "Job", f"label_values({running}, job)"),
            variable("model", "Model", f'label_values({running}{{job=~"$job"}}, model_name)'),
            variable("instance", "Instance",
                     f'label_values({running}{{job=~"$job",model_name=~"$model"}}, instance)'),
        ]},
        "panels": list(layout()),
    }


def main() -> None:
    text = json.dumps(dashboard(), indent=1) + "\n"
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(text)
    else:
        FILE.write_text(text)


if __name__ == "__main__":
    main()
