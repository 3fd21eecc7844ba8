"""The pictures of a report, with matplotlib.

Every function draws one figure from runs and returns it, or None where the runs have
nothing for it. Colours are from a palette that people with colour-blindness can tell apart
(Okabe and Ito): in a frontier of several files (sources) theirs, else those of shapes or loads.
"""
from __future__ import annotations

from typing import Optional, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import matplotlib.ticker  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from results import LATENCIES, Run  # noqa: E402

PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
MARKERS = ["o", "s", "^", "D", "v", "P"]
STROKES = ["-", "--", ":", "-."]


def _sources(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.source for run in runs))


def _new_figure(height: float = 4.5) -> tuple[Figure, plt.Axes]:
    figure, axes = plt.subplots(figsize=(7.5, height), constrained_layout=True)
    axes.grid(True, which="both", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _shapes(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys(run.shape for run in runs))


def _plain_log_scale(axes: plt.Axes) -> None:
    """A logarithmic y axis whose ticks read 0.5, 20, 1,000."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def frontier(runs: Sequence[Run], latency: str, statistic: str) -> Optional[Figure]:
    """Throughput against latency: each line is one shape of request under rising load."""
    drawable = [run for run in runs if run.latency_ms(latency, "count") > 0]
    if len(drawable) < 2:
        return None
    figure, axes = _new_figure()
    sources, arrivals = _sources(drawable), {run.arrival for run in drawable}
    for shape_index, shape in enumerate(_shapes(drawable)):
        for source in sources:
            line = sorted((run for run in drawable if (run.source, run.shape) == (source, shape)),
                          key=lambda run: run.load)
            if not line:
                continue
            arrival, prompt, output = shape
            label = f"{prompt} in, {output} out"
            label += f", {arrival}" if len(arrivals) > 1 else ""
            label += f" ({source})" if len(sources) > 1 else ""
            colour = PALETTE[(shape_index if len(sources) == 1 else sources.index(source)) % 6]
            xs = [run.output_rate for run in line]
            ys = [run.latency_ms(latency, statistic) for run in line]
            axes.plot(xs, ys, color=colour, marker=MARKERS[shape_index % 6], label=label)
            for run, x, y in zip(line, xs, ys):
                axes.annotate(f"{run.load:g}", (x, y), textcoords="offset points", xytext=(4, 4),
                              fontsize=7, color="#555555")
    axes.set_xlabel("output tokens per second")
    axes.set_ylabel(f"{LATENCIES[latency]}, {statistic} (ms)")
    _plain_log_scale(axes)
    loads = ["concurrent requests" if closed else "requests sent a second"
             for closed in sorted({run.is_closed_loop for run in drawable}, reverse=True)]
    axes.set_title(f"Throughput and latency; at each point: {' or '.join(loads)}", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _heat_map_cells(runs: Sequence[Run]) -> dict[tuple[str, str], dict[tuple[str, float], float]]:
    """By source and output length: the rates by prompt length and concurrency, of real grids."""
    maps: dict[tuple[str, str], dict[tuple[str, float], float]] = {}
    for run in runs:
        if run.is_closed_loop:
            cells = maps.setdefault((run.source, run.output_tokens), {})
            cells[run.prompt_tokens, run.load] = run.output_rate
    return {name: cells for name, cells in maps.items()
            if len({prompt for prompt, _ in cells}) > 1 and len({load for _, load in cells}) > 1}


def heat_maps(runs: Sequence[Run]) -> Optional[Figure]:
    """Output tokens a second over concurrency and prompt length: a map for each source and
    output length, all in the same colours."""
    maps = _heat_map_cells(runs)
    if not maps:
        return None
    loads = sorted({load for cells in maps.values() for _, load in cells})
    prompts = list(dict.fromkeys(prompt for cells in maps.values() for prompt, _ in cells))
    highest = max(rate for cells in maps.values() for rate in cells.values())
    figure, axes = plt.subplots(
        len(maps), 1, figsize=(7.5, len(maps) * (1.1 + 0.45 * len(prompts)) + 0.3), squeeze=False,
        sharex=True, constrained_layout=True)
    for plot, ((source, output), cells) in zip(axes[:, 0], maps.items()):
        grid = [[cells.get((prompt, load), float("nan")) for load in loads] for prompt in prompts]
        image = plot.imshow(grid, cmap="viridis", aspect="auto", vmin=0, vmax=highest)
        plot.set_xticks(range(len(loads)), [f"{load:g}" for load in loads])
        plot.set_yticks(range(len(prompts)), prompts)
        plot.set_ylabel("prompt tokens")
        plot.set_title(f"Throughput, {output} tokens out ({source})", fontsize=10)
        for (prompt, load), rate in cells.items():
            plot.text(loads.index(load), prompts.index(prompt), f"{rate:,.0f}", ha="center",
                      va="center", fontsize=8, color="black" if rate > 0.6 * highest else "white")
    axes[-1, 0].set_xlabel("concurrent requests")
    figure.colorbar(image, ax=axes[:, 0], label="output tokens/s")
    return figure


def _spread(loads: Sequence[float], limit: int) -> list[float]:
    """At most `limit` of the loads, evenly over their order, the ends included."""
    if len(loads) <= limit:
        return list(loads)
    return [loads[round(i * (len(loads) - 1) / (limit - 1))] for i in range(limit)]


def percentile_curves(runs: Sequence[Run], latency: str, limit: int = 6) -> Optional[Figure]:
    """The whole distribution of one latency, out to the rarest request.

    Of a sweep: the runs of its middle shape of request, as many as can be told apart, and the
    same ones of every source.
    """
    shapes = _shapes(runs)
    candidates = [run for run in runs if run.histogram_ms(latency)
                  and run.shape == shapes[len(shapes) // 2]]
    if not candidates:
        return None
    sources = _sources(candidates)
    loads = _spread(sorted({run.load for run in candidates}), max(limit // len(sources), 2))
    drawn = [run for run in candidates if run.load in loads]
    figure, axes = _new_figure()
    for run in drawn:
        total = sum(count for _, count in run.histogram_ms(latency))
        xs, ys, seen = [], [], 0
        for value, count in run.histogram_ms(latency):
            seen += count
            xs.append(1.0 / max(1.0 - seen / total, 0.5 / total))
            ys.append(value)
        axes.step(xs, ys, where="pre", color=PALETTE[loads.index(run.load) % 6],
                  linestyle=STROKES[sources.index(run.source) % 4],
                  label=f"{run.source}: {run.name}")
    axes.set_xscale("log")
    _plain_log_scale(axes)
    # Chunks that were read back to back would stretch the axis down to microseconds.
    lowest = 0.1 * min(run.latency_ms(latency, "p50") for run in drawn)
    axes.set_ylim(bottom=max(lowest, axes.get_ylim()[0]))
    ticks = {1: "0", 2: "50", 10: "90", 100: "99", 1000: "99.9", 10000: "99.99"}
    top = max(axes.get_xlim()[1], 10)
    axes.set_xticks([t for t in ticks if t <= top], [ticks[t] for t in ticks if t <= top])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_xlabel("percentile")
    axes.set_ylabel(f"{LATENCIES[latency]} (ms)")
    # Below: the curves of a comparison leave no corner free.
    axes.legend(fontsize=7, frameon=False, ncol=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    axes.set_title(f"Distribution of the {LATENCIES[latency]}", fontsize=10)
    return figure


def timeline(run: Run) -> Optional[Figure]:
    """Tokens and finished requests second by second."""
    seconds = run.document["timeline"]
    if len(seconds) < 3:
        return None
    figure, axes = _new_figure(height=3.2)
    xs = [second + 0.5 for second in range(len(seconds))]
    axes.plot(xs, [tokens for _, _, tokens in seconds], color=PALETTE[0])
    axes.set_xlim(0, len(seconds))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds since the start (warm-up included)")
    axes.set_ylabel("output tokens/s", color=PALETTE[0])
    right = axes.twinx()
    right.bar(xs, [done for _, done, _ in seconds], width=0.6, color=PALETTE[1], alpha=0.35)
    axes.set_zorder(right.get_zorder() + 1)  # the line over the bars
    axes.set_facecolor("none")
    right.set_ylim(bottom=0)
    right.set_ylabel("requests finished/s", color=PALETTE[1])
    axes.set_title(f"{run.source}: {run.name}", fontsize=10)
    return figure
