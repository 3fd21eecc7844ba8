#!/usr/bin/env python3
"""Decode throughput of each shape beside its softmax twin, from measure.py's `twins`.

    plot_twins.py gpu-server.json OUT.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS = {512: "#0072b2", 2048: "#d55e00", 8192: "#009e73"}


def tokens_per_second(cases: list[dict], context: int) -> tuple[list[int], list[float]]:
    """Batch sizes, and tokens a second at each."""
    points = [(c["batch"], 1e6 * c["batch"] / c["step_us"]) for c in cases if c["context"] == context]
    return [batch for batch, _ in points], [rate for _, rate in points]


def main() -> int:
    document = json.loads(Path(sys.argv[1]).read_text())
    twins = {entry["shape"]: entry["cases"] for entry in document["twins"]}
    shapes = [shape for shape in twins if f"{shape}-softmax" in twins]
    figure, axes = plt.subplots(1, len(shapes), figsize=(5 * len(shapes), 4), sharey=True)
    for axis, shape in zip(axes, shapes, strict=True):
        for context, color in COLORS.items():
            axis.plot(*tokens_per_second(twins[shape], context), color=color, marker="o",
                      label=f"Parallax, {context} tokens of context")
            axis.plot(*tokens_per_second(twins[f"{shape}-softmax"], context), color=color,
                      linestyle="none", marker="x", markersize=9, label="softmax, the same")
        axis.set(title=shape.upper(), xscale="log", yscale="log", xlabel="sequences in a step")
        axis.set_xticks([1, 8, 32, 128], ["1", "8", "32", "128"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("tokens/s of decode steps")
    axes[-1].legend(fontsize=8)
    figure.suptitle(f"Decode steps, {document['gpu'].split(',')[0]}")
    figure.tight_layout()
    figure.savefig(sys.argv[2], dpi=100)
    return 0


if __name__ == "__main__":
    sys.exit(main())
