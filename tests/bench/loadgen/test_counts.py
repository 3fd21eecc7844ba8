"""parallax-loadgen and the server count and time the same, whatever becomes of the requests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from loadgen_process import ahead_of_others, awake_and_alone, counter, load, show
from server_process import STORIES_MODEL, ServerProcess


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
