#!/usr/bin/env python3
"""The attention kernels' bars against a result of peers.py, as a Markdown table.

    bars.py RESULT.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from results import Measurement, Report, read

# The Parallax authors' CuTeDSL kernel as they publish it for their H200, KV warm, in microseconds.
PUBLISHED_PARALLAX = {
    "decode 1 512 8 8 128": 5.8,
    "decode 1 1024 8 8 128": 6.5,
    "decode 1 4096 8 8 128": 8.6,
    "decode 1 16384 8 8 128": 21.5,
    "decode 32 512 8 8 128": 24.0,
    "decode 32 1024 8 8 128": 39.6,
    "decode 32 4096 8 8 128": 280.0,
    "decode 32 16384 8 8 128": 1094.0,
}
WARM_BARS_US = {"1 512 8 8": 4.5, "1 4096 16 8": 8.0, "1 16384 8 8": 20.0}


@dataclass(frozen=True)
class Bar:
    what: str
    bar: str
    measured: str
    met: bool


def _name(m: Measurement) -> str:
    """The case without its kind, head_dim 128 and temperature, which the bar names."""
    words = m.case.text.split()[1:]
    if words[-1] in ("cold", "warm"):
        words.pop()
    return " ".join(words[:-1] if words[-1] == "128" else words)


def _ratios(
    what: str,
    bar: str,
    limit: float,
    measurements: Iterable[Measurement],
    ratio: Callable[[Measurement], float],
    unit: str = "x",
    at_most: bool = True,
    served: bool = False,
) -> Bar:
    """Worst value, where it is, and how many of the shapes meet the limit: plainly launched, and,
    if `served`, launched as the server does."""
    values = {m: ratio(m) for m in measurements}
    if not values:
        return Bar(what, bar, "not measured", False)

    def is_good(value: float) -> bool:
        return value <= limit if at_most else value >= limit

    worst = (max if at_most else min)(values, key=values.get)
    good = sum(is_good(value) for value in values.values())
    shown = f"{values[worst]:.1%}" if unit == "%" else f"{values[worst]:.2f}{unit}"
    text = f"worst {shown} at ({_name(worst)}); {good} of {len(values)} shapes meet it"
    if served:
        text += f", {sum(is_good(ratio(m.as_served)) for m in values)} as served"
    return Bar(what, bar, text, good == len(values))


def _against_softmax(report: Report) -> list[Bar]:
    def ratio(m: Measurement) -> float:
        return m.us / m.softmax_peer

    design = [m for m in report.of("decode_reference.txt") if m.softmax_peer]
    grid = [
        m
        for name in ("decode_grid_heads.txt", "decode_grid_groups.txt")
        for m in report.of(name)
        if m.softmax_peer
    ]
    bars = [
        _ratios(
            "decode, the 18 design shapes, time over the faster of cuDNN and FA2 softmax",
            "<= 1.00x",
            1.0,
            design,
            ratio,
            served=True,
        ),
        _ratios(
            f"decode grid, {len(grid)} shapes, over the same",
            "no shape > 1.10x",
            1.1,
            grid,
            ratio,
            served=True,
        ),
    ]
    if grid:
        mean = statistics.geometric_mean(ratio(m) for m in grid)
        what = f"decode grid, {len(grid)} shapes, geometric mean"
        bars.append(Bar(what, "<= 0.95x", f"{mean:.3f}x", mean <= 0.95))
    return bars


def _of_read(report: Report) -> list[Bar]:
    decode = [m for m in report.measurements if m.case.kind == "decode" and not m.case.warm]
    large = [m for m in decode if m.own["kv_bytes"] >= 2e9]
    medium = [m for m in decode if 5e8 <= m.own["kv_bytes"] < 2e9]

    def bar(what: str, limit: float, measurements: list[Measurement]) -> Bar:
        def of_read(m: Measurement) -> float:
            return m.of_read

        return _ratios(
            what, f">= {limit:.0%}", limit, measurements, of_read, "%", at_most=False, served=True
        )

    return [
        bar("decode, KV >= 2 GB, of a plain read", 0.96, large),
        bar("decode, KV 500 MB to 2 GB, of a plain read", 0.94, medium),
        bar("decode, ragged, of a plain read", 0.90, report.of("decode_ragged.txt")),
    ]


def _against_parallax_kernel(report: Report) -> Bar:
    what, bar = "decode over the authors' CuTeDSL kernel", "< 1.00x"
    measured = [m for m in report.measurements if "parallax-kernel" in m.peers]
    if measured:
        return _ratios(what, bar, 1.0, measured, lambda m: m.us / m.peers["parallax-kernel"])
    what += " as published (their H200, KV warm; ours cold)"
    shapes = [
        m for m in report.of("decode_reference.txt") if _published(m) is not None
    ]
    return _ratios(what, bar, 1.0, shapes, lambda m: m.us / _published(m))


def _published(m: Measurement) -> float | None:
    return PUBLISHED_PARALLAX.get(m.case.text.removesuffix(" cold"))


def _warm(report: Report) -> list[Bar]:
    bars = []
    for m in report.of("decode_warm.txt"):
        limit = WARM_BARS_US[_name(m)]
        us = m.as_served.us
        text = f"{us:.2f} us; {m.us:.2f} plain, {m.own['programmatic_us']:.2f} programmatic"
        what = f"decode, warm, in a graph as served, ({_name(m)})"
        bars.append(Bar(what, f"<= {limit} us", text, us <= limit))
    return bars


def _against_fla(report: Report) -> list[Bar]:
    decode = [m for m in report.measurements if m.case.kind == "decode" and "fla" in m.peers]

    def faster(m: Measurement) -> float:
        return m.peers["fla"] / m.us

    many = [m for m in decode if m.case.sequences >= 32]
    what = "decode, times as fast as fla's Triton Parallax"
    return [
        _ratios(what, "> 1.00x", 1.0, decode, faster, at_most=False),
        _ratios(f"{what}, B >= 32", ">= 1.80x", 1.8, many, faster, at_most=False),
    ]


def _prefill(report: Report) -> list[Bar]:
    prefill = report.of("prefill.txt")
    long = [m for m in prefill if m.case.new_tokens >= 8192]
    chunk = [m for m in prefill if m.case.cached]

    def rate(m: Measurement) -> float:
        return m.tflops(m.us, parallax=True)

    with_cudnn = [m for m in long if "cudnn" in m.peers]
    with_fla = [m for m in long if "fla" in m.peers]
    unit = " TFLOP/s"
    return [
        _ratios("prefill, T >= 8192", ">= 500 TFLOP/s", 500, long, rate, unit, at_most=False),
        _ratios(
            "prefill, T >= 8192, time over cuDNN softmax",
            "<= 2.60x",
            2.6,
            with_cudnn,
            lambda m: m.us / m.peers["cudnn"],
        ),
        _ratios(
            "prefill, T >= 8192, times as fast as fla's Triton Parallax",
            ">= 1.80x",
            1.8,
            with_fla,
            lambda m: m.peers["fla"] / m.us,
            at_most=False,
        ),
        _ratios(
            "prefill, 512 tokens behind 32k", ">= 400 TFLOP/s", 400, chunk, rate, unit, at_most=False
        ),
    ]


def bars(report: Report) -> list[Bar]:
    return [
        *_against_softmax(report),
        *_of_read(report),
        _against_parallax_kernel(report),
        *_warm(report),
        *_against_fla(report),
        *_prefill(report),
    ]


def verdict(bar: Bar) -> str:
    if bar.measured == "not measured":
        return "-"
    return "yes" if bar.met else "**no**"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    report = read(parser.parse_args().result)
    print("| what | bar | measured | met |\n|---|---|---|---|")
    for bar in bars(report):
        print(f"| {bar.what} | {bar.bar} | {bar.measured} | {verdict(bar)} |")
    for failure in report.failures:
        print(f"\nfailed: {failure}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
