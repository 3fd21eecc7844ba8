#!/usr/bin/env python3
"""The GPU server's bars against a result of measure.py, as a Markdown table.

    bars.py gpu-server.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

SHAPES = Path(__file__).resolve().parent / "shapes"
PARALLAX_FLOPS_PER_SECOND = 500e12  # what the TTFT bar grants attention
PROMPT_TOKENS = 8192


@dataclass(frozen=True)
class Bar:
    what: str
    bar: str
    measured: str
    met: bool


def config_of(shape: str) -> dict:
    return json.loads((SHAPES / shape / "config.json").read_text())


def layer_weights(config: dict) -> int:
    """Elements of a layer's matrices, q, r, k, v, o and the MLP's."""
    hidden, head = config["hidden_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    has_probe = "Parallax" in config["architectures"][0]
    return hidden * ((3 if has_probe else 2) * q + 2 * kv + 3 * config["intermediate_size"])


class Result:
    def __init__(self, document: dict):
        self.document = document
        # A file put together from several runs names some scenarios' own.
        self._ceilings = {
            scenario["scenario"]: scenario["ceilings"]
            for scenario in document["scenarios"]
            if "ceilings" in scenario
        }
        self._runs = {
            (scenario["scenario"], run["load"]): run
            for scenario in document["scenarios"]
            for run in scenario["runs"]
        }

    def run(self, scenario: str, load: str) -> dict | None:
        run = self._runs.get((scenario, load))
        return run if run and run["loadgen"]["report"] else None

    def plain_read(self, scenario: str) -> float:
        """TB/s."""
        return self._ceilings_of(scenario)["plain_read_tb_per_s"]

    def large_gemm(self, scenario: str) -> float:
        """FLOP/s."""
        return 1e12 * self._ceilings_of(scenario)["large_gemm_tflop_per_s"]

    def _ceilings_of(self, scenario: str) -> dict:
        return self._ceilings.get(scenario, self.document["ceilings"])

    def latency(self, scenario: str, load: str, name: str, part: str = "p50") -> float | None:
        run = self.run(scenario, load)
        return run["loadgen"]["report"]["latency_ms"][name][part] if run else None


def of_read(result: Result, scenario: str, load: str) -> float | None:
    """Bytes of a decode step over its time on the GPU, of a plain read."""
    run = result.run(scenario, load)
    graph = (run.get("gpu_steady") or run["gpu"]).get("graph") if run else None
    return graph["tb_per_s"] / result.plain_read(scenario) if graph else None


def at_most(what: str, limit: float, unit: str, measured: float | None, note: str = "") -> Bar:
    if measured is None:
        return Bar(what, f"<= {limit:g} {unit}", "not measured", False)
    return Bar(what, f"<= {limit:g} {unit}", f"{measured:.3g} {unit}{note}", measured <= limit)


def at_least(what: str, limit: float, unit: str, measured: float | None) -> Bar:
    if measured is None:
        return Bar(what, f">= {limit:g} {unit}", "not measured", False)
    return Bar(what, f">= {limit:g} {unit}", f"{measured:.3g} {unit}", measured >= limit)


def single_stream(result: Result) -> list[Bar]:
    bars = []
    for shape, limit in (("0.6b", 0.65), ("1.7b", 1.25)):
        share = of_read(result, shape, "one_stream")
        note = f", {share:.0%} of a plain read on the GPU" if share else ""
        tpot = result.latency(shape, "one_stream", "tpot")
        bars.append(at_most(f"{shape}, 1 stream, 1k context, TPOT p50", limit, "ms", tpot, note))
    return bars


def many_streams(result: Result) -> list[Bar]:
    bars = []
    for shape, streams in (("1.7b", 128), ("8b", 64)):
        share = of_read(result, shape, f"streams_{streams}_2k")
        what = f"{shape}, {streams} streams, 2k context, decode steps, of a plain read"
        bars.append(at_least(what, 80, "%", share and 100 * share))
    return bars


def prompt_floor_ms(result: Result) -> float:
    """GEMMs at the large product's rate, Parallax flops at 500 TFLOP/s."""
    config = config_of("1.7b")
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    gemm = 2.0 * layer_weights(config) * layers * PROMPT_TOKENS
    pairs = PROMPT_TOKENS * (PROMPT_TOKENS + 1) / 2
    attention = 8.0 * config["head_dim"] * heads * layers * pairs
    gemm_rate = result.large_gemm("1.7b")
    return 1e3 * (gemm / gemm_rate + attention / PARALLAX_FLOPS_PER_SECOND)


STREAMS_BESIDE = 32


def itl_alone(beside: dict) -> float:
    """Of the streams beside prompts, in the whole second before the first prompt: milliseconds a
    token of each. Their contexts grow from then on, so that later they would take longer."""
    _, second = beside["background"]["loadgen"]["report"]["timeline"][:2]
    tokens = second[2]
    return 1e3 * STREAMS_BESIDE / tokens


def prompts(result: Result) -> list[Bar]:
    idle = result.latency("1.7b", "prompt_8k", "ttft")
    beside = result.run("1.7b-mixed", "prompt_8k_beside_32")
    floor = prompt_floor_ms(result)
    note = f" ({idle:.1f} over {floor:.1f} ms)" if idle else ""
    bars = [at_most("1.7b, one 8k prompt, idle, TTFT p50 over the floor", 1.3, "x",
                    idle and idle / floor, note)]
    itl = ttft = None
    itl_note = ttft_note = ""
    if beside and idle:
        p99 = beside["background"]["loadgen"]["report"]["latency_ms"]["itl"]["p99"]
        alone = itl_alone(beside)
        itl, itl_note = p99 / alone, f" ({p99:.2f} over {alone:.2f} ms)"
        waits = result.latency("1.7b-mixed", "prompt_8k_beside_32", "ttft")
        ttft, ttft_note = waits / idle, f" ({waits:.0f} over {idle:.1f} ms)"
    what = "32 streams beside such prompts, ITL p99 over theirs in the second before"
    bars.append(at_most(what, 3, "x", itl, itl_note))
    what = "such a prompt beside 32 streams, TTFT p50 over idle"
    bars.append(at_most(what, 2, "x", ttft, ttft_note))
    return bars


def cpu(result: Result) -> list[Bar]:
    run = result.run("1.7b", "streams_128_2k")
    engine = next((share for name, share in run["busiest_threads"] if name.startswith("engine")),
                  None) if run else None
    text = result.run("0.6b-text", "text_256")
    rate = text["loadgen"]["report"]["throughput"]["output_tokens_per_second"] if text else None
    return [
        at_most("engine thread busy, 1.7b, 128 streams", 60, "%", engine and 100 * engine),
        at_least("text of 256 streams over gRPC, 0.6b", 50_000, "tokens/s", rate),
    ]


def soak(result: Result) -> list[Bar]:
    run = result.run("1.7b-soak", "soak")
    if run is None:
        return [Bar("soak", "no error, all memory back", "not measured", False)]
    counts = run["loadgen"]["report"]["requests"]
    before, after = run["at_rest"]["before"], run["at_rest"]["after"]
    moved = [key for key in before if before[key] != after.get(key)]
    failed = counts["failed"] + counts["refused"]
    measured = (f"{counts['completed']} completed, {counts['cancelled']} cancelled, {failed} failed; "
                + (f"changed: {', '.join(moved)}" if moved else "pages and memory back"))
    seconds = run["loadgen"]["report"]["options"]["duration_seconds"]
    what = f"soak, {seconds:g} s, mixed lengths, 10 % cancelled"
    return [Bar(what, "no error, pages and memory back", measured, not moved and failed == 0)]


def twins(result: Result) -> list[Bar]:
    """Bytes a second of a decode step against the same shape's without a probe: r_proj's bytes, the
    only ones that differ, count on both sides."""
    shapes = {entry["shape"]: entry["cases"] for entry in result.document.get("twins", [])}
    bars = []
    for shape in (s for s in shapes if f"{s}-softmax" in shapes):
        ratios = {
            f"{own['batch']} x {own['context']}": own["read_tb_per_s"] / other["read_tb_per_s"]
            for own, other in zip(shapes[shape], shapes[f"{shape}-softmax"], strict=True)
        }
        worst = min(ratios, key=ratios.get)
        measured = f"worst {ratios[worst]:.3f} at {worst}, of {len(ratios)}"
        bars.append(Bar(f"{shape}, decode steps, bytes a second over the softmax twin's", ">= 0.9",
                        measured, ratios[worst] >= 0.9))
    return bars


def start(result: Result) -> list[Bar]:
    cold = result.document.get("cold_start")
    note = f" ({cold['with_plan_file']:.1f} s with a plan file)" if cold else ""
    return [at_most("1.7b, start from files in the page cache to SERVING", 10, "s",
                    cold and cold["seconds"], note)]


def verdict(bar: Bar) -> str:
    if bar.measured == "not measured":
        return "-"
    return "yes" if bar.met else "**no**"


def main() -> int:
    document = json.loads(Path(sys.argv[1]).read_text())
    result = Result(document)
    print("| what | bar | measured | met |\n|---|---|---|---|")
    for part in (single_stream, many_streams, prompts, cpu, soak, twins, start):
        for bar in part(result):
            print(f"| {bar.what} | {bar.bar} | {bar.measured} | {verdict(bar)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
