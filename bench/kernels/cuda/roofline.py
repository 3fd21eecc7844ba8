#!/usr/bin/env python3
"""Draws attention kernels on the roofline of the device they were measured on.

    roofline.py RESULT.json OUT.png

Ceilings are measured in the same run: a plain read of memory and a large bf16 matrix product.
A call's bytes are those it cannot do without: K, V, q, out, and for Parallax r.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from cases import BF16_BYTES, Case  # noqa: E402
from results import Measurement, Report, read  # noqa: E402

# One of each group size where memory is the bound, then prefill from short to long.
SHOWN = {
    "decode 32 16384 8 8 128 cold": "decode, 1 query head\nper KV head",
    "decode 32 4096 16 8 128 cold": "2",
    "decode 128 4096 32 8 128 cold": "4",
    "decode 128 4096 64 8 128 cold": "8",
    "prefill 8 0 2048 32 8 128": "8 x 2k",
    "prefill 1 0 8192 32 8 128": "prefill 8k",
    "prefill 1 0 32768 16 8 128": "32k",
}


@dataclass(frozen=True)
class Series:
    label: str
    key: str  # of a peer, or of kernel_bench's line after "own."
    parallax: bool
    colour: str
    marker: str
    filled: bool


# Okabe and Ito's palette: softmax blue, Parallax orange; filled is ours.
SERIES = [
    Series("softmax, cuDNN", "cudnn", False, "#0072B2", "o", False),
    Series("softmax, FlashAttention 2", "fa2", False, "#56B4E9", "s", False),
    Series("softmax, this kernel without r", "own.softmax_us", False, "#0072B2", "o", True),
    Series("Parallax, fla (Triton)", "fla", True, "#E69F00", "s", False),
    Series("Parallax, authors' CuTeDSL", "parallax-kernel", True, "#D55E00", "^", False),
    Series("Parallax, this kernel", "own.us", True, "#D55E00", "o", True),
]


def call_bytes(case: Case, parallax: bool) -> int:
    rows = case.sequences * case.new_tokens * case.query_heads * case.head_dim
    return case.kv_bytes + (3 if parallax else 2) * rows * BF16_BYTES


def point(m: Measurement, series: Series) -> tuple[float, float] | None:
    """(FLOP a byte, TFLOP/s) of a series at a measurement, if it has it."""
    if series.key.startswith("own."):
        us = m.own.get(series.key.removeprefix("own."))
    else:
        us = m.peers.get(series.key)
    if us is None:
        return None
    flops = m.case.flops(series.parallax)
    return flops / call_bytes(m.case, series.parallax), flops / us * 1e-6


def read_tb_per_second(report: Report) -> float:
    return max(m.own["kv_bytes"] / m.own["read_us"] * 1e-6 for m in report.measurements
               if not m.case.warm and m.own["kv_bytes"] >= 5e8)


def draw_ceilings(axes: Axes, bandwidth: float, matrix_rate: float) -> None:
    ridge = matrix_rate / bandwidth
    axes.plot([0.5, ridge, 5e4], [0.5 * bandwidth, matrix_rate, matrix_rate], color="black", lw=1.2)
    axes.text(30, 14 * bandwidth, f"plain read\n{bandwidth:.2f} TB/s", fontsize=8)
    axes.text(0.6, 1.06 * matrix_rate, f"bf16 matrix product {matrix_rate:.0f} TFLOP/s", fontsize=8)


def draw(report: Report, path: Path) -> None:
    shown = [m for m in report.measurements if m.case.text in SHOWN]
    figure, axes = plt.subplots(figsize=(8.0, 5.2), constrained_layout=True)
    draw_ceilings(axes, read_tb_per_second(report), report.header["gemm_tflops"])
    for series in SERIES:
        points = [p for m in shown if (p := point(m, series)) is not None]
        if points:
            axes.plot(*zip(*points), series.marker, color=series.colour, label=series.label,
                      markerfacecolor=series.colour if series.filled else "white", markersize=6)
    for m in shown:
        draw_step(axes, m)
    axes.set(xscale="log", yscale="log", xlim=(0.5, 5e4), ylim=(0.7, 1500),
             xlabel="FLOP per byte of K, V, q, r and out", ylabel="TFLOP/s",
             title=f"Attention on one {report.header['device']['name']}, head_dim 128, bf16")
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)


def draw_step(axes: Axes, m: Measurement) -> None:
    """An arrow from softmax to Parallax by the same kernel, and the name of the case."""
    softmax = point(m, SERIES[2])
    parallax = point(m, SERIES[5])
    if softmax is None or parallax is None:
        return
    arrow = {"arrowstyle": "->", "color": "#999999", "lw": 1.0}
    axes.annotate("", xy=parallax, xytext=softmax, arrowprops=arrow)
    decode = m.case.kind == "decode"
    axes.annotate(SHOWN[m.case.text], xy=parallax, xytext=(-7, 4) if decode else (0, -9),
                  textcoords="offset points", fontsize=8, ha="right" if decode else "left",
                  va="bottom" if decode else "top")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    draw(read(args.result), args.out)


if __name__ == "__main__":
    main()
