#!/usr/bin/env python3
"""Turns result files of parallax-loadgen into an HTML page and PNG plots.

  report.py --out DIR result.json [sweep.json ...]   one or more files, side by side
  report.py --out DIR --compare before.json after.json

Needs matplotlib (Debian: python3-matplotlib). Exit code 2: a file is no result.
"""
from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Iterator, Optional, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import page  # noqa: E402
import plots  # noqa: E402
from results import ResultError, Run, load_files  # noqa: E402

Picture = tuple[str, str, Optional["plots.Figure"]]


def pictures(runs: Sequence[Run]) -> Iterator[Picture]:
    """(file stem, caption, figure or None) of everything the runs can show."""
    yield ("frontier_ttft", "Throughput against TTFT", plots.frontier(runs, "ttft", "p99"))
    yield ("frontier_tpot", "Throughput against TPOT", plots.frontier(runs, "tpot", "p99"))
    yield ("heat_map", "Throughput over batch and context", plots.heat_maps(runs))
    yield ("ttft", "TTFT, all percentiles", plots.percentile_curves(runs, "ttft"))
    yield ("itl", "ITL, all percentiles", plots.percentile_curves(runs, "itl"))
    yield ("timeline", "The fastest run, second by second",
           plots.timeline(max(runs, key=lambda run: run.output_rate)))


def _first_of_each_source(runs: Sequence[Run]) -> list[Run]:
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(run.source, run)
    return list(first.values())


def write_report(out: pathlib.Path, title: str, runs: Sequence[Run],
                 comparison: Optional[str]) -> list[pathlib.Path]:
    """Writes report.html and one PNG a picture; returns what was written."""
    out.mkdir(parents=True, exist_ok=True)
    servers = dict.fromkeys(page.model_line(run) for run in _first_of_each_source(runs))
    sections = [("Servers" if len(servers) > 1 else "Server",
                 "".join(f"<p>{line}</p>" for line in servers))]
    if comparison is not None:
        sections.append(("After against before", comparison))
    sections.append(("Runs", page.run_table(runs)))
    both_sides = page.both_sides_table(runs)
    if both_sides is not None:
        sections.append(("Both sides: client / server, warm-up included", both_sides))
    written = []
    for stem, caption, figure in pictures(runs):
        if figure is None:
            continue
        png = page.to_png(figure)
        plots.plt.close(figure)
        written.append(out / f"{stem}.png")
        written[-1].write_bytes(png)
        sections.append((caption, page.picture(png, caption)))
    written.append(out / "report.html")
    written[-1].write_text(page.page(title, sections))
    return written


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path, help="result files")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to write to")
    parser.add_argument("--title", default="parallax-server load test")
    parser.add_argument("--compare", action="store_true",
                        help="exactly two files: show the second's figures over the first's")
    options = parser.parse_args(arguments)
    if options.compare and len(options.files) != 2:
        parser.error("--compare needs exactly two files")
    try:
        files = load_files(options.files)
        comparison = None
        if options.compare:
            comparison = page.comparison_table(*files)
            if comparison is None:
                raise ResultError("the two files share no run of the same load and lengths")
    except ResultError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    runs = [run for file in files for run in file]
    for path in write_report(options.out, options.title, runs, comparison):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
