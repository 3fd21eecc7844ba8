"""Draws the curves of the shipped and the comparison runs as PNG files.

    python plot_curves.py MODEL_FOLDER

Reads `training/*.json` in the model's folder, the metrics that `train.py` wrote.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(runs: dict[str, dict], title: str, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=110)
    for name, run in runs.items():
        attention = run["arguments"]["attention"]
        axes.plot(
            [point["tokens"] / 1e6 for point in run["curve"]],
            [point["bits_per_byte"] for point in run["curve"]],
            marker=".",
            label=name,
            color="tab:blue" if attention == "parallax" else "tab:orange",
            linestyle=("-", "--", ":", "-.")[run["arguments"]["seed"] % 4],
        )
    axes.set(title=title, xlabel="training tokens, millions", ylabel="held-out bits per byte")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    folder = Path(sys.argv[1]) / "training"
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    draw({"shipped": runs.pop("shipped")}, "The shipped run", folder / "shipped.png")
    compared = {name: run for name, run in runs.items() if "-s" in name}
    draw(compared, "Parallax and its softmax twin, three seeds", folder / "comparison.png")


if __name__ == "__main__":
    main()
