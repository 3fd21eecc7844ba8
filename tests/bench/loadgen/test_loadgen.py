"""parallax-loadgen against real servers: both sides' counts, its own lag, sweeps, reports."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from server_process import REPOSITORY, STORIES_MODEL, ServerProcess, eventually

LOADGEN = os.environ["PARALLAX_LOADGEN"]
REPORT = REPOSITORY / "bench" / "server" / "report" / "report.py"
FAILED = 1
BAD_FLAG = 2
LAGGED = 3
INTERRUPTED = 130


def commit() -> str:
    """Of this tree; "unknown" without git or outside a checkout."""
    with contextlib.suppress(FileNotFoundError):
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=REPOSITORY, capture_output=True, text=True)
        return described.stdout.strip() or "unknown"
    return "unknown"


# In every result: with pytest's --basetemp they are kept.
COMMIT = commit()


def command(server: ServerProcess, verb: str, file: Path, *flags: str) -> list[str]:
    """Counts must be right on a busy machine too: lag is refused where a test asks for it."""
    metrics = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    return [LOADGEN, *verb.split(), f"--target={server.address}", f"--metrics={metrics}",
            f"--json={file}", f"--annotate=commit={COMMIT}", "--quiet", "--max_lag_ms=2000", *flags]


def load(server: ServerProcess, file: Path, *flags: str) -> dict[str, Any]:
    subprocess.run(command(server, "run", file, *flags), check=True, timeout=120)
    return json.loads(file.read_text())


def output_of(server: ServerProcess, file: Path, *flags: str) -> str:
    """The table that `load` prints."""
    return subprocess.run(command(server, "run", file, *flags), check=True, timeout=120,
                          stdout=subprocess.PIPE, text=True).stdout


def failure_of(server: ServerProcess, file: Path, *flags: str) -> tuple[int, str]:
    """Exit status and errors of a run that must not give a result, nor print one."""
    process = subprocess.run(command(server, "run", file, *flags), timeout=120,
                             capture_output=True, text=True)
    assert process.returncode != 0 and not file.exists()
    return process.returncode, process.stderr


def live_at_end_of_seconds(result: dict[str, Any]) -> list[int]:
    return list(itertools.accumulate(
        started - completed for started, completed, _ in result["timeline"]))


@contextlib.contextmanager
def two_processors() -> Iterator[None]:
    """For what is started inside: the first two that this process may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(allowed)[:2]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextlib.contextmanager
def ahead_of_others() -> Iterator[None]:
    """What is started inside runs before the machine's other work, where that is allowed. Linux
    shares processors between sessions first (autogroups), then between their processes."""
    def be_nice(process: int, session: int) -> None:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, process)
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(session))

    usual = os.getpriority(os.PRIO_PROCESS, 0)
    be_nice(-19, -19)
    try:
        yield
    finally:
        be_nice(usual, 0)


@contextlib.contextmanager
def awake_and_alone() -> Iterator[None]:
    """What is started inside has the processors to itself, where that is allowed, and they never
    sleep: to wake a virtual one takes longer than a call."""
    spin = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
    spinners = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(os.cpu_count() or 1)]
    usual = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, *usual)
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def counter(result: dict[str, Any], name: str) -> float:
    """The server's counter over the run, all labels together."""
    return sum(value for sample, value in result["server_delta"].items()
               if sample.split("{")[0] == f"parallax:{name}")


def test_both_sides_count_the_same_tokens_and_requests(tmp_path: Path) -> None:
    with ServerProcess("null") as server:
        result = load(server, tmp_path / "run.json", "--concurrency=32", "--warmup=0.5",
                      "--duration=1.5", "--prompt_tokens=uniform:1:300",
                      "--output_tokens=lognormal:40:1:1:900")
    run = result["whole_run"]
    assert result["requests"]["failed"] == result["requests"]["unfinished"] == 0
    assert run["requests"] == counter(result, "requests_submitted_total") > 100
    assert run["prompt_tokens"] == counter(result, "prompt_tokens_total")
    assert run["output_tokens"] == counter(result, "generation_tokens_total")
    for quantity in ("requests", "prompt_tokens", "output_tokens"):
        both = result["both_sides"][quantity]
        assert both["client"] == both["server"] == run[quantity]
    table = show(tmp_path / "run.json")
    assert len(re.findall(r"^  (?:requests|prompt tokens|output tokens) +(\d+) +\1  equal$", table,
                          re.MULTILINE)) == 3


def mean_ms(result: dict[str, Any], *histograms: str) -> float:
    """The sum of the means of the server's histograms over the run."""
    return sum(1e3 * counter(result, f"{name}_sum") / counter(result, f"{name}_count")
               for name in histograms)


def test_mean_ttft_agrees_with_the_server(tmp_path: Path) -> None:
    """One sequence at a time, so that requests wait in the engine, where both can see it."""
    with ahead_of_others(), ServerProcess("null", "--max-num-seqs=1") as server:
        result = load(server, tmp_path / "run.json", "--concurrency=128", "--warmup=0",
                      "--duration=3", "--output_tokens=2000")
    # Of the whole run: a request may fall due as the window closes.
    ended = result["whole_run"]["requests"]
    assert ended == counter(result, "time_to_first_token_seconds_count") > 100
    both = result["both_sides"]["mean_ttft_ms"]
    assert both["client"] == pytest.approx(both["server"], rel=0.05)


def test_idle_ttft_agrees_with_the_server(tmp_path: Path) -> None:
    """One caller, and nobody waits: what the client has more than the server is gRPC's, which is
    less than 0.1 ms. Again if other work on the machine came between."""
    for _ in range(10):
        with awake_and_alone(), ServerProcess("null") as server:
            result = load(server, tmp_path / "run.json", "--concurrency=1", "--warmup=0",
                          "--duration=2", "--output_tokens=64")
        ttft, transport, sends = (result[group][name]["mean"] for group, name in (
            ("latency_ms", "ttft"), ("latency_ms", "transport"), ("lag_ms", "send")))
        # The engine said of each call what the metrics page says of all.
        engine = mean_ms(result, "request_queue_time_seconds", "request_prefill_time_seconds")
        assert ttft == pytest.approx(engine + transport + sends, abs=0.1)
        both = result["both_sides"]["mean_ttft_ms"]
        more = both["client"] - both["server"]
        if abs(more) <= 0.1:
            break
    assert abs(more) <= 0.1


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


HAPROXY = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
def test_requests_that_a_front_holds_back_are_no_result(tmp_path: Path) -> None:
    """The server's limit says nothing of a front's; how long requests took to be written does."""
    assert HAPROXY is not None
    socket, config = tmp_path / "front", tmp_path / "haproxy.cfg"
    with ServerProcess("null", "--null-step-time=5ms") as server:
        config.write_text(
            "global\n tune.h2.max-concurrent-streams 2\n"
            "defaults\n mode http\n timeout connect 1s\n timeout client 1m\n timeout server 1m\n"
            f"listen front\n bind unix@{socket} proto h2\n server s {server.address} proto h2\n")
        front = subprocess.Popen([HAPROXY, "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
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


@pytest.mark.parametrize("flags, advice", [
    (("--concurrency=1", "--requests=3", "--warmup=2"), "lower --warmup"),
    (("--rate=2", "--arrival=constant", "--warmup=0", "--duration=0.1"), "lengthen --duration")])
def test_a_run_that_measures_nothing_leaves_no_file(
        tmp_path: Path, flags: tuple[str, ...], advice: str) -> None:
    with ServerProcess("null") as server:
        status, errors = failure_of(server, tmp_path / "run.json", *flags,
                                    f"--csv={tmp_path / 'runs.csv'}")
    assert status == FAILED and advice in errors and not (tmp_path / "runs.csv").exists()


def test_a_server_that_falls_behind_is_no_lag_of_the_client(tmp_path: Path) -> None:
    with ServerProcess("null", "--null-step-time=50ms") as server:
        begin = time.monotonic()
        status, errors = failure_of(server, tmp_path / "run.json", "--rate=200", "--warmup=0",
                                    "--duration=100", "--max_outstanding=100")
        assert time.monotonic() - begin < 20  # at once
    assert status == FAILED and "server does not keep up" in errors and "lagged" not in errors


def show(file: Path) -> str:
    return subprocess.run([LOADGEN, "show", f"--json={file}"], check=True, timeout=60,
                          stdout=subprocess.PIPE, text=True).stdout


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


def test_cached_prompt_tokens_are_the_servers_prefix_hits(tmp_path: Path) -> None:
    with ServerProcess(STORIES_MODEL) as server:
        result = load(server, tmp_path / "run.json", "--concurrency=2", "--warmup=0",
                      "--requests=30", "--duration=100", "--prompt_tokens=200",
                      "--output_tokens=4", "--shared_prefix_share=1",
                      "--shared_prefix_tokens=160", "--shared_prefix_groups=2")
    tokens = result["tokens"]
    assert result["requests"]["completed"] == 30
    assert tokens["prompt"] == 30 * 200
    assert tokens["cached"] == counter(result, "prefix_cache_hits_total")
    # Whole pages of 64: two of a common prefix, for all but the first of each of the two groups, and
    # for the one that may run beside a first one.
    assert 26 * 128 <= tokens["cached"] <= 28 * 128
    assert f"prefix cache  {100 * tokens['cached'] / tokens['prompt']:.1f} %" in show(
        tmp_path / "run.json")


def test_cancelled_requests_are_no_failures(tmp_path: Path) -> None:
    with ServerProcess(STORIES_MODEL) as server:
        result = load(server, tmp_path / "run.json", "--concurrency=4", "--warmup=0",
                      "--requests=80", "--duration=100", "--prompt_tokens=16",
                      "--output_tokens=50", "--cancel_share=0.5", "--slo=e2e=100000")
        ended = server.metrics()
    requests = result["requests"]
    assert requests["completed"] + requests["cancelled"] == 80
    assert 20 <= requests["cancelled"] <= 55  # one that has all its tokens already completes
    assert requests["by_code"] == {"OK": requests["completed"], "CANCELLED": requests["cancelled"]}
    assert requests["first_message"] == {}
    assert result["goodput"]["share"] == 1  # of those that were not cancelled on purpose
    assert 0 < ended['parallax:request_success_total{finished_reason="cancelled"}'] <= requests[
        "cancelled"]


def test_a_full_queue_is_told_by_its_code(tmp_path: Path) -> None:
    with ServerProcess("null", "--max-num-seqs=1", "--max-queued-requests=4") as server:
        result = load(server, tmp_path / "run.json", "--concurrency=32", "--warmup=0",
                      "--requests=400", "--duration=100", "--output_tokens=500",
                      "--slo=e2e=100000")
    requests = result["requests"]
    assert requests["completed"] + requests["refused"] == 400
    assert requests["refused"] > 0 and requests["failed"] == 0
    assert requests["by_code"] == {"OK": requests["completed"],
                                   "RESOURCE_EXHAUSTED": requests["refused"]}
    (refused,) = [value for sample, value in result["server_delta"].items()
                  if "requests_refused_total" in sample and '"RESOURCE_EXHAUSTED"' in sample]
    assert refused == requests["refused"]
    assert result["goodput"]["share"] == pytest.approx(requests["completed"] / 400)
    assert re.search(rf"^  RESOURCE_EXHAUSTED  {requests['refused']} times, first: \S",
                     show(tmp_path / "run.json"), re.MULTILINE)


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
