"""parallax-loadgen against real servers: both sides' counts, its own lag, sweeps, reports."""

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

from server_process import REPOSITORY, ServerProcess

LOADGEN = os.environ["PARALLAX_LOADGEN"]
REPORT = REPOSITORY / "bench" / "server" / "report" / "report.py"
FAILED = 1
LAGGED = 3
INTERRUPTED = 130


def command(server: ServerProcess, verb: str, file: Path, *flags: str) -> list[str]:
    """Counts must be right on a busy machine too: lag is refused where a test asks for it."""
    metrics = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    return [LOADGEN, *verb.split(), f"--target={server.address}", f"--metrics={metrics}",
            f"--json={file}", "--quiet", "--max_lag_ms=2000", *flags]


def load(server: ServerProcess, file: Path, *flags: str) -> dict[str, Any]:
    subprocess.run(command(server, "run", file, *flags), check=True, timeout=120)
    return json.loads(file.read_text())


def counter(result: dict[str, Any], name: str) -> float:
    """The server's counter over the run, all labels together."""
    return sum(value for sample, value in result["server_delta"].items()
               if sample.split("{")[0] == f"parallax:{name}")


def test_both_sides_count_the_same_tokens_and_requests(tmp_path: Path) -> None:
    with ServerProcess("null") as server:
        result = load(server, tmp_path / "run.json", "--concurrency=32", "--warmup=0.5",
                      "--duration=1.5", "--prompt_tokens=uniform:1:300",
                      "--output_tokens=lognormal:40:1:1:900", "--csv", str(tmp_path / "run.csv"))
    run = result["whole_run"]
    assert result["requests"]["failed"] == result["requests"]["unfinished"] == 0
    assert run["requests"] == counter(result, "requests_submitted_total") > 100
    assert run["prompt_tokens"] == counter(result, "prompt_tokens_total")
    assert run["output_tokens"] == counter(result, "generation_tokens_total")
    head, line = (tmp_path / "run.csv").read_text().splitlines()
    assert head.count(",") == line.count(",")


def test_mean_ttft_agrees_with_the_server(tmp_path: Path) -> None:
    """One sequence at a time, so that requests wait in the engine, where both can see it."""
    with ServerProcess("null", "--max-num-seqs=1") as server:
        result = load(server, tmp_path / "run.json", "--concurrency=128", "--warmup=0",
                      "--duration=3", "--output_tokens=2000")
    count = counter(result, "time_to_first_token_seconds_count")
    of_server_ms = 1e3 * counter(result, "time_to_first_token_seconds_sum") / count
    ttft = result["latency_ms"]["ttft"]
    assert ttft["count"] == count
    assert ttft["mean"] == pytest.approx(of_server_ms, rel=0.05)
    # What is left over is the transport, request by request.
    transport = result["latency_ms"]["transport"]["mean"]
    waited = result["lag_ms"]["send"]["mean"]
    assert ttft["mean"] == pytest.approx(of_server_ms + transport + waited, rel=0.002)


def test_ten_thousand_streams_are_held(tmp_path: Path) -> None:
    """All of them streaming: the server has the slots and the pages to run 10,000 at once."""
    with ServerProcess("null", "--max-num-seqs=10000", "--max-num-batched-tokens=20000",
                       "--max-queued-requests=10000", "--kv-cache-pages=170000") as server:
        result = load(server, tmp_path / "run.json", "--concurrency=10000", "--connections=16",
                      "--warmup=8", "--duration=4", "--drain=60",
                      "--prompt_tokens=16", "--output_tokens=uniform:500:1000")
    requests = result["requests"]
    assert requests["failed"] == requests["refused"] == requests["unfinished"] == 0
    live, at_end_of_second = 0, []
    for started, completed, _ in result["timeline"]:
        live += started - completed
        at_end_of_second.append(live)
    assert at_end_of_second[-1] == 0
    assert result["peak_outstanding"] == 10_000
    assert sum(count >= 9_900 for count in at_end_of_second) >= 3
    assert result["whole_run"]["output_tokens"] == counter(result, "generation_tokens_total")


def stopped_for_a_while(server: ServerProcess, file: Path, *flags: str) -> tuple[int, str, str]:
    """A client that gets no processor for 0.4 of its 2 seconds: exit status, output, errors."""
    process = subprocess.Popen(
        command(server, "run", file, "--rate=200", "--warmup=0", "--duration=2", *flags),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1.0)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.4)
    process.send_signal(signal.SIGCONT)
    out, errors = process.communicate(timeout=60)
    return process.returncode, out, errors


def test_a_lagging_client_prints_no_result(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    with ServerProcess("null") as server:
        status, out, errors = stopped_for_a_while(server, file, "--max_lag_ms=20")
    assert status == LAGGED
    assert "lagged" in errors and out == "" and not file.exists()


def test_requests_that_were_sent_late_count_from_when_they_were_due(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    with ServerProcess("null") as server:
        status, _, errors = stopped_for_a_while(server, file)
    assert status == 0, errors
    result = json.loads(file.read_text())
    assert result["latency_ms"]["ttft"]["max"] > 300
    assert result["lag_ms"]["send"]["max"] > 300


def test_a_stalled_server_is_charged_for_the_requests_that_waited(tmp_path: Path) -> None:
    """No coordinated omission: an open loop's requests count from when they were due."""
    file = tmp_path / "run.json"
    with ServerProcess("null") as server:
        process = subprocess.Popen(
            command(server, "run", file, "--rate=200", "--arrival=constant", "--warmup=0",
                    "--duration=3"), stdout=subprocess.DEVNULL)
        time.sleep(1.0)
        server.signal(signal.SIGSTOP)
        time.sleep(1.0)
        server.signal(signal.SIGCONT)
        assert process.wait(60) == 0
    result = json.loads(file.read_text())
    assert result["requests"]["completed"] == 599
    # A third of the requests was due during the second's stall and waited half of it each.
    assert result["latency_ms"]["ttft"]["max"] > 900
    waited = sum(count for ns, count in result["histograms_ns"]["ttft"] if ns > 100e6)
    assert 150 < waited < 250


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
        while not file.exists():
            time.sleep(0.05)
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
        mixed = subprocess.run(command(server, "sweep grid", file, *flags, "--seed=2"),
                               capture_output=True, text=True, timeout=60)
    assert mixed.returncode == FAILED and "other options" in mixed.stderr

    subprocess.run([sys.executable, "-B", str(REPORT), "--out", str(tmp_path / "out"), str(file)],
                   check=True, timeout=60)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 4
    assert "http://" not in page and "https://" not in page
    assert (tmp_path / "out" / "heat_map.png").read_bytes().startswith(b"\x89PNG")


def test_a_trace_is_replayed_once_at_its_times(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(
        json.dumps({"timestamp": 0.01 * i, "prompt_tokens": 10 + i, "output_tokens": 5}) + "\n"
        for i in range(20)))
    with ServerProcess("null") as server:
        result = load(server, tmp_path / "run.json", "--arrival=trace", f"--trace={trace}",
                      "--warmup=0", "--duration=30")
    assert result["requests"]["completed"] == 20
    assert result["tokens"]["prompt"] == sum(10 + i for i in range(20))
    assert 0.19 <= result["window_seconds"] < 5


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
