"""What parallax-loadgen leaves: tables, files, and none where there is nothing to tell."""

from __future__ import annotations

import contextlib
import csv
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadgen_process import BAD_FLAG, FAILED, LOADGEN, command, failure_of, load, output_of, show
from server_process import REPOSITORY, ServerProcess

REPORT = REPOSITORY / "bench" / "server" / "report" / "report.py"


@pytest.mark.parametrize("flags, advice", [
    (("--concurrency=1", "--requests=3", "--warmup=2"), "lower --warmup"),
    (("--rate=2", "--arrival=constant", "--warmup=0", "--duration=0.1"), "lengthen --duration")])
def test_a_run_that_measures_nothing_leaves_no_file(
        tmp_path: Path, flags: tuple[str, ...], advice: str) -> None:
    with ServerProcess("null") as server:
        status, errors = failure_of(server, tmp_path / "run.json", *flags,
                                    f"--csv={tmp_path / 'runs.csv'}")
    assert status == FAILED and advice in errors and not (tmp_path / "runs.csv").exists()


def test_a_result_is_shown_again_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    with ServerProcess("null") as server:
        table = output_of(server, file, "--concurrency=2", "--warmup=0", "--duration=0.5",
                          "--slo=ttft=1000")
    assert "ttft" in table and "goodput" in table and "both sides" in table
    assert show(file) == table.removesuffix("\n")


@pytest.mark.parametrize("text", [
    "", "[]", "hello", "{}", '{"schema_version": 1}', '{"schema_version": 2, "runs": []}',
    '{"schema_version": 1, "runs": [{"key": {}, "result": {"requests": 3}}]}',
    '{"schema_version": 1, "runs": [7]}', '{"runs": {}}'])
def test_show_refuses_what_is_no_result(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    shown = subprocess.run([LOADGEN, "show", f"--json={file}"], capture_output=True, text=True,
                           timeout=60)
    assert shown.returncode == BAD_FLAG and shown.stdout == ""
    assert "other.json is no result file" in shown.stderr


def test_the_csv_file_has_the_figures_of_the_json(tmp_path: Path) -> None:
    table, label = tmp_path / "runs.csv", 'a "label", with a comma'
    results = []
    with ServerProcess("null") as server:
        for load_flags in (("--concurrency=4",), ("--rate=50", "--arrival=gamma", "--slo=ttft=1000")):
            results.append(load(server, tmp_path / "run.json", *load_flags, "--warmup=0",
                                "--duration=0.5", f"--csv={table}", f"--label={label}"))
        other = tmp_path / "other.csv"
        other.write_text("some,thing\n")
        refused = subprocess.run(
            command(server, "run", tmp_path / "run.json", "--concurrency=1", "--warmup=0",
                    "--duration=0.2", f"--csv={other}"), capture_output=True, text=True, timeout=60)
    assert refused.returncode == FAILED and "other columns" in refused.stderr
    with table.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2
    assert [line["arrival"] for line in lines] == ["closed", "gamma"]
    for line, result in zip(lines, results):
        assert line["label"] == label and line["started_at"] == result["started_at"]
        options, tokens = result["options"], result["tokens"]
        wanted: dict[str, Any] = {
            **{name: options.get(name) for name in ("concurrency", "rate", "prompt_tokens",
                                                    "output_tokens")},
            **{name: result["requests"][name] for name in (
                "completed", "cancelled", "refused", "failed", "unfinished")},
            **result["throughput"], "window_seconds": result["window_seconds"],
            "prefix_cache_share": tokens["cached"] / tokens["prompt"],
            "goodput_share": result["goodput"] and result["goodput"]["share"],
            **{f"{latency}_{statistic}_ms": value
               for latency, values in result["latency_ms"].items()
               for statistic, value in values.items() if statistic != "count"}}
        assert set(line) == {"label", "started_at", "arrival", *wanted}
        for name, value in wanted.items():
            assert line[name] == "" if value is None else float(line[name]) == float(value), name


def test_the_progress_line_is_for_terminals(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    with ServerProcess("null") as server:
        arguments = [word for word in command(
            server, "run", tmp_path / "run.json", "--concurrency=4", "--warmup=0",
            "--duration=3.5", "--output_tokens=100") if word != "--quiet"]
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=end)
        os.close(end)
        written = b""
        with contextlib.suppress(OSError):  # how a terminal's end is told
            while piece := os.read(terminal, 4096):
                written += piece
        os.close(terminal)
        assert process.wait(60) == 0
        arguments.append("--duration=1.5")  # the last one counts
        quiet = subprocess.run([*arguments, "--quiet"], check=True, timeout=60, capture_output=True)
        piped = subprocess.run(arguments, check=True, timeout=60, capture_output=True)
    lines = re.findall(rb"\r +(\d+) s  started (\d+)  finished (\d+)  live (\d+)  (\d+) tok/s",
                       written)
    assert [int(line[0]) for line in lines] == [1, 2, 3]
    for _, started, finished, live, tokens in lines:
        assert int(started) >= int(finished) > 0 and int(live) <= 4
        assert int(tokens) >= 100
    assert written.endswith(b"\r\x1b[K")  # wiped when the run is over
    assert quiet.stderr == b"" and b"tok/s" not in piped.stderr


def test_a_report_refuses_what_is_no_result(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    process = subprocess.run(
        [sys.executable, "-B", str(REPORT), "--out", str(tmp_path), str(bad)],
        capture_output=True, text=True, timeout=60)
    assert process.returncode == 2 and "bad.json" in process.stderr


@pytest.mark.parametrize("program", ["PARALLAX_LOADGEN", "PARALLAX_SERVER", "PARALLAX_CLIENT"])
def test_help_names_no_path_of_the_machine_that_built_it(program: str) -> None:
    help_text = subprocess.run([os.environ[program], "--help"], capture_output=True, text=True).stdout
    assert len(help_text) > 500
    assert str(REPOSITORY).lstrip("/") not in help_text
