"""What parallax-loadgen sends, and for how long: windows, traces, grids and searches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from loadgen_process import (
    FAILED,
    INTERRUPTED,
    command,
    failure_of,
    live_at_end_of_seconds,
    load,
    output_of,
    show,
)
from server_process import REPOSITORY, ServerProcess, eventually

REPORT = REPOSITORY / "bench" / "server" / "report" / "report.py"


def test_the_load_goes_on_until_the_measured_requests_have_ended(tmp_path: Path) -> None:
    """A request of up to 3 seconds, due within the window's second, has company to its end."""
    with ServerProcess("null", "--null-step-time=20ms") as server:
        flags = ("--concurrency=8", "--output_tokens=uniform:60:150", "--warmup=0", "--duration=1")
        result = load(server, tmp_path / "run.json", *flags)
        status, errors = failure_of(server, tmp_path / "cut.json", *flags, "--drain=0")
    assert result["requests"]["completed"] == sum(result["requests"]["by_code"].values()) >= 8
    live = live_at_end_of_seconds(result)
    assert result["window_seconds"] == 1 and live[0] == live[1] == 8 and live[-1] == 0
    # What was sent beside them is not measured. It ends too, so that both sides count the same.
    assert result["whole_run"]["requests"] > result["requests"]["completed"]
    for quantity in ("requests", "prompt_tokens", "output_tokens"):
        both = result["both_sides"][quantity]
        assert both["client"] == both["server"]
    assert status == FAILED and "completed: lengthen --duration" in errors


def test_a_grid_that_was_interrupted_resumes(tmp_path: Path) -> None:
    file = tmp_path / "grid.json"
    flags = ("--concurrencies=1,2,4", "--prompt_tokens=16,64", "--output_tokens=8",
             "--warmup=0", "--duration=0.5")
    wanted = {(c, p, "8") for c in (1, 2, 4) for p in ("16", "64")}

    def runs() -> list[dict[str, Any]]:
        return json.loads(file.read_text())["runs"]

    with ServerProcess("null") as server:
        process = subprocess.Popen(command(server, "sweep grid", file, *flags),
                                   stdout=subprocess.DEVNULL)
        assert eventually(file.exists)
        time.sleep(0.7)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == INTERRUPTED
        first = runs()
        assert 1 <= len(first) < 6
        subprocess.run(command(server, "sweep grid", file, *flags), check=True, timeout=60)
        keys = [tuple(run["key"][k] for k in ("concurrency", "prompt_tokens", "output_tokens"))
                for run in runs()]
        assert set(keys) == wanted and len(keys) == 6
        assert runs()[:len(first)] == first
        for other in ("--seed=2", "--annotate=commit=another"):
            mixed = subprocess.run(command(server, "sweep grid", file, *flags, other),
                                   capture_output=True, text=True, timeout=60)
            assert mixed.returncode == FAILED and "other options" in mixed.stderr

    subprocess.run([sys.executable, "-B", str(REPORT), "--out", str(tmp_path / "out"), str(file)],
                   check=True, timeout=60)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 4
    assert "http://" not in page and "https://" not in page
    assert (tmp_path / "out" / "heat_map.png").read_bytes().startswith(b"\x89PNG")


def write_trace(path: Path, lines: int, seconds_apart: float) -> Path:
    path.write_text("".join(
        json.dumps({"timestamp": seconds_apart * i, "prompt_tokens": 10 + i,
                    "output_tokens": 5}) + "\n" for i in range(lines)))
    return path


def test_a_trace_is_replayed_once_at_its_times(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.jsonl", 20, 0.01)
    with ServerProcess("null") as server:
        result = load(server, tmp_path / "run.json", "--arrival=trace", f"--trace={trace}",
                      "--duration=30")
    assert result["requests"]["completed"] == 20
    assert result["tokens"]["prompt"] == sum(10 + i for i in range(20))
    assert 0.19 <= result["window_seconds"] < 5


def test_a_trace_is_sent_from_its_first_line_to_its_last(tmp_path: Path) -> None:
    """Longer than the window of other loads, and no warm-up that would leave its head out."""
    trace = write_trace(tmp_path / "trace.jsonl", 12, 1.0)
    with ServerProcess("null") as server:
        result = load(server, tmp_path / "run.json", "--arrival=trace", f"--trace={trace}")
    assert result["requests"]["completed"] == 12 and result["unsent_trace_lines"] == 0
    assert result["options"]["warmup_seconds"] == 0
    assert result["options"]["duration_seconds"] == 12


@pytest.mark.parametrize("flag", ["--duration=0.35", "--requests=4"])
def test_lines_of_a_trace_that_were_not_sent_are_told(tmp_path: Path, flag: str) -> None:
    trace = write_trace(tmp_path / "trace.jsonl", 20, 0.1)
    with ServerProcess("null") as server:
        table = output_of(server, tmp_path / "run.json", "--arrival=trace", f"--trace={trace}",
                          flag)
    result = json.loads((tmp_path / "run.json").read_text())
    unsent = result["unsent_trace_lines"]
    assert unsent == 20 - result["whole_run"]["requests"] and 14 <= unsent <= 16
    assert f"{unsent} lines were not sent" in table


def test_a_search_finds_the_highest_rate(tmp_path: Path) -> None:
    flags = ("--min_rate=20", "--max_rate=70", "--warmup=0", "--duration=0.6", "--output_tokens=4")
    with ServerProcess("null") as server:
        verb = command(server, "sweep search", tmp_path / "easy.json", *flags, "--slo=e2e=10000")
        outputs = [subprocess.run(verb, check=True, timeout=60, stdout=subprocess.PIPE,
                                  text=True).stdout for _ in range(2)]
        assert all("highest rate within the SLO: 70 req/s" in output for output in outputs)
        assert "completed" in outputs[0] and "completed" not in outputs[1]  # nothing run again
        impossible = subprocess.run(
            command(server, "sweep search", tmp_path / "hard.json", *flags, "--slo=ttft=0.001"),
            check=True, timeout=60, stdout=subprocess.PIPE, text=True).stdout
        assert "highest rate within the SLO: 0 req/s" in impossible
    easy = json.loads((tmp_path / "easy.json").read_text())
    assert [run["key"]["rate"] for run in easy["runs"]] == [20, 40, 70]
    assert [run["result"]["goodput"]["share"] for run in easy["runs"]] == [1, 1, 1]
    assert easy["summary"] == {"highest_good_rate": 70}
    shown = show(tmp_path / "easy.json")
    assert all(f'{{"rate":{rate:.1f}}}' in shown for rate in (20, 40, 70))


def test_the_scripts_sweep_and_draw(tmp_path: Path) -> None:
    scripts = REPOSITORY / "bench" / "server"
    short = "--warmup=0 --duration=0.3 --output_tokens=4 --max_lag_ms=2000"
    environment = {
        **os.environ, "RESULTS": str(tmp_path), "PLOTS": str(tmp_path), "COMMIT": "abc123",
        "GRID": f"--concurrencies=1,2 --prompt_tokens=8,16 {short}",
        "SEARCH": f"--prompt_tokens=8 --slo=e2e=10000 --min_rate=20 --max_rate=20 {short}"}
    build = Path(os.environ["PARALLAX_SERVER"]).parents[1]
    subprocess.run([scripts / "run_sweep.sh", build, "name", "null", "--max-num-seqs=8"],
                   check=True, timeout=100, env=environment)
    (grid,), (search,) = (list(tmp_path.glob(f"name-load-{kind}-*.json"))
                          for kind in ("grid", "search"))
    runs = [run["result"] for file in (grid, search) for run in json.loads(file.read_text())["runs"]]
    assert len(runs) == 2 * 2 + 1 and {run["label"] for run in runs} == {"name"}
    annotations = runs[0]["annotations"]
    assert annotations["commit"] == "abc123" and annotations["server flags"] == "--max-num-seqs=8"
    assert "cores of an" in annotations["machine"] and annotations["date"] in grid.name
    subprocess.run([scripts / "draw_sweep.sh", "name", grid], check=True, timeout=100,
                   env=environment)
    for picture in ("name-frontier.png", "name-heat-map.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
