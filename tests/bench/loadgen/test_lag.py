"""parallax-loadgen charges no server for what it did not do itself, or did too late."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from loadgen_process import (
    FAILED,
    LAGGED,
    ahead_of_others,
    command,
    counter,
    failure_of,
    live_at_end_of_seconds,
    load,
    two_processors,
)
from server_process import ServerProcess, eventually


def test_ten_thousand_streams_are_held(tmp_path: Path) -> None:
    """All of them live and receiving, from a server that gives each a token every quarter of a
    second: 40,000 messages a second, on which two processors spend about half of their time.
    Client and server share these, and the client is on time; once more if it was not, because the
    machine may have had other work."""
    with two_processors(), ahead_of_others(), ServerProcess(
            "null", "--null-step-time=250ms", "--max-num-seqs=10000",
            "--max-num-batched-tokens=20000", "--max-mixed-prefill-tokens=0",
            "--max-queued-requests=10000", "--kv-cache-pages=20000") as server:
        for _ in range(2):
            result = load(server, tmp_path / "run.json", "--concurrency=10000", "--warmup=5",
                          "--duration=4", "--prompt_tokens=16", "--output_tokens=uniform:20:50")
            lags = [result["lag_ms"][kind]["p99"] for kind in ("send", "write", "event")]
            if max(lags) <= 20:
                break
    assert max(lags) <= 20, lags
    requests = result["requests"]
    assert requests["failed"] == requests["refused"] == requests["unfinished"] == 0
    assert requests["completed"] > 100
    assert result["peak_outstanding"] == 10_000
    live = live_at_end_of_seconds(result)
    assert live[-1] == 0
    for second in range(5, 9):  # the window
        assert live[second] >= 9_900 and result["timeline"][second][2] > 10_000
    assert result["whole_run"]["output_tokens"] == counter(result, "generation_tokens_total")


@pytest.mark.parametrize("flags", [("--concurrency=32",), ("--rate=200", "--output_tokens=3000")])
def test_streams_that_the_connections_do_not_take_are_refused(
        tmp_path: Path, flags: tuple[str, ...]) -> None:
    """gRPC would keep them back inside the client, and the server be charged for their wait."""
    with ServerProcess("null", "--max-concurrent-streams=2") as server:
        status, errors = failure_of(server, tmp_path / "run.json", "--connections=1", *flags,
                                    "--warmup=0", "--duration=1")
        assert status == LAGGED and "--connections=" in errors
        (enough,) = re.findall(r"--connections=(\d+)", errors)
        result = load(server, tmp_path / "run.json", "--concurrency=32", "--connections=16",
                      "--warmup=0", "--duration=0.5")
    assert int(enough) == 16 if "--concurrency=32" in flags else int(enough) > 1
    assert result["requests"]["completed"] > 0


def test_the_connections_follow_the_concurrency(tmp_path: Path) -> None:
    with ServerProcess("null", "--max-queued-requests=3000") as server:
        for concurrency, connections in (("4", 4), ("2100", 5)):
            result = load(server, tmp_path / "run.json", f"--concurrency={concurrency}",
                          "--requests=2100", "--warmup=0", "--duration=60", "--output_tokens=4")
            assert result["options"]["connections"] == connections
            assert result["requests"]["completed"] == 2100


def test_requests_that_a_front_holds_back_are_no_result(tmp_path: Path) -> None:
    """The server's limit says nothing of a front's; how long requests took to be written does."""
    socket, config = tmp_path / "front", tmp_path / "haproxy.cfg"
    with ServerProcess("null", "--null-step-time=5ms") as server:
        config.write_text(
            "global\n tune.h2.max-concurrent-streams 2\n"
            "defaults\n mode http\n timeout connect 1s\n timeout client 1m\n timeout server 1m\n"
            f"listen front\n bind unix@{socket} proto h2\n server s {server.address} proto h2\n")
        front = subprocess.Popen(["/usr/sbin/haproxy", "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
        try:
            assert eventually(socket.exists)
            through = (f"--target=unix:{socket}", "--concurrency=16", "--output_tokens=8",
                       "--warmup=0", "--duration=1", "--max_lag_ms=20")
            status, errors = failure_of(server, tmp_path / "run.json", "--connections=1", *through)
            assert status == LAGGED and "written" in errors and "--connections" in errors
            with ahead_of_others():
                load(server, tmp_path / "run.json", *through[:-1], "--connections=8")
        finally:
            front.kill()
            front.wait()


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


def test_a_lag_before_the_window_is_in_no_result(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    with ahead_of_others(), ServerProcess("null") as server:
        status, _, errors = stopped_for_a_while(server, file, "--warmup=1.6", "--duration=1",
                                                "--max_lag_ms=100")
    assert status == 0, errors
    result = json.loads(file.read_text())
    assert result["lag_ms"]["send"]["max"] < 300 < result["lag_ms"]["event"]["max"]


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
    with ahead_of_others(), ServerProcess("null") as server:
        process = subprocess.Popen(
            command(server, "run", file, "--rate=200", "--arrival=constant", "--warmup=0",
                    "--duration=3", "--slo=ttft=100"), stdout=subprocess.DEVNULL)
        time.sleep(1.0)
        server.signal(signal.SIGSTOP)
        time.sleep(1.0)
        server.signal(signal.SIGCONT)
        assert process.wait(60) == 0
    result = json.loads(file.read_text())
    due = result["requests"]["completed"]
    assert due in (599, 600)  # the last one at the very end of the window
    # A third of the requests was due during the second's stall and waited half of it each.
    assert result["latency_ms"]["ttft"]["max"] > 900
    waited = sum(count for ns, count in result["histograms_ns"]["ttft"] if ns > 100e6)
    assert 150 < waited < 250
    goodput = result["goodput"]
    assert goodput["good_requests"] == pytest.approx(due - waited, abs=2)
    assert goodput["share"] == pytest.approx(goodput["good_requests"] / due)
    assert goodput["requests_per_second"] == pytest.approx(
        goodput["good_requests"] / result["window_seconds"])


def test_a_server_that_falls_behind_is_no_lag_of_the_client(tmp_path: Path) -> None:
    with ServerProcess("null", "--null-step-time=50ms") as server:
        begin = time.monotonic()
        status, errors = failure_of(server, tmp_path / "run.json", "--rate=200", "--warmup=0",
                                    "--duration=100", "--max_outstanding=100")
        assert time.monotonic() - begin < 20  # at once
    assert status == FAILED and "server does not keep up" in errors and "lagged" not in errors
