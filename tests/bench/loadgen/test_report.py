"""The report of results made by hand, whose figures are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Sequence

import pytest

REPORT = Path(__file__).resolve().parents[3] / "bench" / "server" / "report"
sys.path.insert(0, str(REPORT))

import page  # noqa: E402
import plots  # noqa: E402
from results import Run, load_files, unique_names  # noqa: E402

STATISTICS = ("mean", "p50", "p90", "p95", "p99", "p99.9", "max")
CONCURRENCIES = (1, 4, 16)
PROMPTS = ("32", "512")


def run(load: dict[str, Any], prompt: str = "32", output: str = "64", speed: float = 1.0,
        label: str = "cpu") -> dict[str, Any]:
    """`speed` times the tokens a second, and latencies as much shorter."""
    rate = speed * 100 * load.get("concurrency", load.get("rate", 0))
    latency_ms = {"count": 2, **dict.fromkeys(STATISTICS, 30.0 / speed)}
    names = ("ttft", "transport", "tpot", "itl", "e2e")
    return {
        "schema_version": 1, "label": label, "started_at": "2026-01-01T00:00:00Z",
        "annotations": {}, "options": {"prompt_tokens": prompt, "output_tokens": output, **load},
        "model": {"name": "m", "num_parameters": 10, "device": "cpu", "server_version": "1"},
        "requests": {"completed": 2, "failed": 0, "refused": 0, "unfinished": 0},
        "throughput": {"requests_per_second": rate / 64, "output_tokens_per_second": rate},
        "goodput": None, "timeline": [[1, 1, 64]],
        "latency_ms": dict.fromkeys(names, latency_ms),
        "histograms_ns": dict.fromkeys(names, [[int(20e6 / speed), 1], [int(40e6 / speed), 1]])}


def grid(file: Path, speed: float = 1.0, outputs: Sequence[str] = ("64",)) -> Path:
    runs = [{"key": {}, "result": run({"concurrency": c}, prompt, output, speed)}
            for prompt in PROMPTS for output in outputs for c in CONCURRENCIES]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"schema_version": 1, "runs": runs}))
    return file


def runs_of(*files: Path) -> list[Run]:
    return [run for runs in load_files(files) for run in runs]


def legend(figure: plots.Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def titles(figure: plots.Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def compare(out: Path, before: Path, after: Path) -> str:
    subprocess.run([sys.executable, "-B", str(REPORT / "report.py"), "--out", str(out),
                    "--compare", str(before), str(after)], check=True, timeout=120)
    return (out / "report.html").read_text()


def test_files_of_one_label_are_compared(tmp_path: Path) -> None:
    slow, fast = grid(tmp_path / "old.json"), grid(tmp_path / "new.json", speed=1.5)
    text = compare(tmp_path / "out", slow, fast)
    cells = len(PROMPTS) * len(CONCURRENCIES)
    assert text.count('<span class="better">1.50x</span>') == cells
    assert text.count('<span class="better">0.67x</span>') == 6 * cells  # latencies
    assert 'class="worse"' not in text
    assert "old: 1 at once" in text and "new: 1 at once" in text
    swapped = compare(tmp_path / "swapped", fast, slow)
    assert swapped.count('<span class="worse">0.67x</span>') == cells
    assert swapped.count('<span class="worse">1.50x</span>') == 6 * cells
    assert 'class="better"' not in swapped


def test_every_file_has_lines_of_its_own(tmp_path: Path) -> None:
    runs = runs_of(grid(tmp_path / "old.json"), grid(tmp_path / "new.json", speed=1.5))
    figure = plots.frontier(runs, "ttft", "p99")
    assert figure is not None
    assert legend(figure) == [f"{prompt} in, 64 out ({source})"
                              for prompt in PROMPTS for source in ("old", "new")]
    for line in figure.axes[0].get_lines():  # rising load, no way back to another file's
        assert list(line.get_xdata()) == sorted(line.get_xdata())
        assert len(line.get_xdata()) == len(CONCURRENCIES)
    curves = plots.percentile_curves(runs, "ttft")
    assert curves is not None
    assert [text.split(",")[0] for text in legend(curves)] == [
        f"{source}: {load} at once" for source in ("old", "new") for load in CONCURRENCIES]


def test_every_source_and_output_length_has_a_heat_map(tmp_path: Path) -> None:
    figure = plots.heat_maps(runs_of(grid(tmp_path / "old.json", outputs=("64", "256")),
                                     grid(tmp_path / "new.json", outputs=("64", "256"))))
    assert figure is not None
    assert titles(figure) == [f"Throughput, {output} tokens out ({source})"
                              for source in ("old", "new") for output in ("64", "256")]
    shown = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert sorted(shown) == sorted(["100", "400", "1,600"] * len(PROMPTS) * 4)


def test_both_sides_are_laid_side_by_side() -> None:
    document = run({"concurrency": 4})
    document["both_sides"] = {
        "requests": {"client": 1200, "server": 1200},
        "prompt_tokens": {"client": 9000, "server": 9000},
        "output_tokens": {"client": 5000, "server": 5012},
        "mean_ttft_ms": {"client": 0.75, "server": 0.5}}
    table = page.both_sides_table([Run("a", document), Run("b", run({"concurrency": 4}))])
    assert table is not None and table.count("<tr>") == 2
    assert "<td>1,200 equal</td><td>9,000 equal</td>" in table
    assert "<td>5,000 / 5,012 (+12)</td><td>0.750 / 0.500 (-0.250)</td>" in table
    assert page.both_sides_table([Run("b", run({"concurrency": 4}))]) is None


def test_a_closed_loop_is_not_compared_with_an_open_one() -> None:
    closed = Run("a", run({"concurrency": 4}))
    poisson = Run("b", run({"arrival": "poisson", "rate": 4}))
    constant = Run("b", run({"arrival": "constant", "rate": 4}))
    assert page.comparison_table([closed], [poisson]) is None
    assert page.comparison_table([poisson], [constant]) is None
    assert page.comparison_table([poisson], [poisson]) is not None
    figure = plots.frontier([closed, poisson, constant], "ttft", "p99")
    assert figure is not None and len(figure.axes[0].get_lines()) == 3


@pytest.mark.parametrize("candidates, names", [
    ([("cpu", "a"), ("gpu", "b")], ["cpu", "gpu"]),
    ([("cpu", "a"), ("cpu", "b"), ("gpu", "c")], ["a", "b", "gpu"]),
    ([("cpu", "a", "x/a"), ("cpu", "a", "y/a")], ["x/a", "y/a"]),
    ([("cpu", "a", "x/a"), ("cpu", "a", "x/a")], ["x/a (1)", "x/a (2)"]),
])
def test_names_are_the_shortest_that_tell_files_apart(
        candidates: list[tuple[str, ...]], names: list[str]) -> None:
    assert unique_names(candidates) == names
