"""The pictures of a report, with matplotlib.

Every function draws one figure from runs and returns it, or None where the runs have
nothing for it. Colours tell files (sources) apart; they are from a palette that people
with colour-blindness can tell apart (Okabe and Ito).
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


def _sources(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.source for run in runs))


def _new_figure(width: float = 7.5, height: float = 4.5) -> tuple[Figure, plt.Axes]:
    figure, axes = plt.subplots(figsize=(width, height), constrained_layout=True)
    axes.grid(True, which="both", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _shapes(runs: Sequence[Run]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((run.prompt_tokens, run.output_tokens) for run in runs))


def _plain_log_scale(axes: plt.Axes) -> None:
    """A logarithmic y axis whose ticks read 0.5, 20, 1,000."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def frontier(runs: Sequence[Run], latency: str, statistic: str) -> Optional[Figure]:
    """Throughput against latency: each line is one shape of request under rising load."""
    if len(runs) < 2:
        return None
    figure, axes = _new_figure()
    sources = _sources(runs)
    for shape_index, (prompt, output) in enumerate(_shapes(runs)):
        for source in sources:
            line = sorted(
                (r for r in runs
                 if (r.source, r.prompt_tokens, r.output_tokens) == (source, prompt, output)
                 and r.latency_ms(latency, "count") > 0),
                key=lambda run: run.load)
            if not line:
                continue
            colour = PALETTE[(shape_index if len(sources) == 1 else sources.index(source)) % 6]
            label = f"{prompt} in, {output} out" + (f" ({source})" if len(sources) > 1 else "")
            xs = [run.output_rate for run in line]
            ys = [run.latency_ms(latency, statistic) for run in line]
            axes.plot(xs, ys, color=colour, marker=MARKERS[shape_index % 6], label=label)
            for run, x, y in zip(line, xs, ys):
                axes.annotate(f"{run.load:g}", (x, y), textcoords="offset points", xytext=(4, 4),
                              fontsize=7, color="#555555")
    axes.set_xlabel("output tokens per second")
    axes.set_ylabel(f"{LATENCIES[latency]}, {statistic} (ms)")
    _plain_log_scale(axes)
    load = "concurrent requests" if runs[0].is_closed_loop else "requests sent a second"
    axes.set_title(f"Throughput and latency; at each point: {load}", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    return figure


def heat_map(runs: Sequence[Run]) -> Optional[Figure]:
    """Output tokens a second over concurrency and prompt length, for one source and output."""
    closed = [run for run in runs if run.is_closed_loop]
    if not closed:
        return None
    first = closed[0]
    cells = {(run.prompt_tokens, run.load): run.output_rate for run in closed
             if (run.source, run.output_tokens) == (first.source, first.output_tokens)}
    prompts = list(dict.fromkeys(prompt for prompt, _ in cells))
    loads = sorted({load for _, load in cells})
    if len(prompts) < 2 or len(loads) < 2:
        return None
    grid = [[cells.get((prompt, load), float("nan")) for load in loads] for prompt in prompts]
    figure, axes = plt.subplots(figsize=(7.5, 1.4 + 0.6 * len(prompts)), constrained_layout=True)
    image = axes.imshow(grid, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(loads)), [f"{load:g}" for load in loads])
    axes.set_yticks(range(len(prompts)), prompts)
    axes.set_xlabel("concurrent requests")
    axes.set_ylabel("prompt tokens")
    finite = [value for row in grid for value in row if value == value]
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            if value == value:
                axes.text(x, y, f"{value:,.0f}", ha="center", va="center", fontsize=8,
                          color="black" if value > 0.6 * max(finite) else "white")
    figure.colorbar(image, ax=axes, label="output tokens/s")
    axes.set_title(f"Throughput, {first.output_tokens} tokens out ({first.source})", fontsize=10)
    return figure


def _spread(runs: Sequence[Run], limit: int) -> list[Run]:
    """At most `limit` of the runs, evenly over their order, the ends included."""
    if len(runs) <= limit:
        return list(runs)
    return [runs[round(i * (len(runs) - 1) / (limit - 1))] for i in range(limit)]


def percentile_curves(runs: Sequence[Run], latency: str, limit: int = 6) -> Optional[Figure]:
    """The whole distribution of one latency, out to the rarest request.

    Of a sweep: the runs of its middle shape of request, as many as can be told apart.
    """
    shapes = _shapes(runs)
    middle = shapes[len(shapes) // 2]
    drawn = _spread([run for run in runs if run.histogram_ms(latency)
                     and (run.prompt_tokens, run.output_tokens) == middle], limit)
    if not drawn:
        return None
    figure, axes = _new_figure()
    for index, run in enumerate(drawn):
        total = sum(count for _, count in run.histogram_ms(latency))
        xs, ys, seen = [], [], 0
        for value, count in run.histogram_ms(latency):
            seen += count
            xs.append(1.0 / max(1.0 - seen / total, 0.5 / total))
            ys.append(value)
        axes.step(xs, ys, where="pre", color=PALETTE[index % 6], label=f"{run.source}: {run.name}")
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
    axes.legend(fontsize=7, frameon=False)
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
