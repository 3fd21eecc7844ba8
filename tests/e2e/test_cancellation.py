"""Cancellation, deadlines and slow readers give everything back, in any state."""

from __future__ import annotations

import random
import threading

import grpc
import pytest

from parallax_client import Client
from parallax_client.v1 import abort_pb2, admin_pb2, inference_pb2, inference_pb2_grpc
from server_process import STORIES_MODEL, ServerProcess, eventually

Code = grpc.StatusCode
PROMPT = "Once upon a time there was a little"
# Keeps a reader's window as it begins. gRPC would let it grow with what arrives, read or not, until
# the whole output lies in it.
FIXED_WINDOW = [("grpc.http2.bdp_probe", 0)]


def is_idle(server: ServerProcess) -> bool:
    stats = server.stats()
    return (
        stats.requests_running == stats.requests_waiting == stats.pages_used == 0
        and stats.requests_finished == stats.requests_submitted
    )


def test_cancellation_frees_pages(stories: Client, stories_server: ServerProcess) -> None:
    streams = [stories.stream(PROMPT, ignore_eos=True, n=4) for _ in range(4)]
    for stream in streams:
        next(stream)
    assert stories_server.stats().pages_used > 0
    for stream in streams:
        stream.cancel()
    assert eventually(lambda: is_idle(stories_server))


def test_a_client_that_goes_away(stories_server: ServerProcess) -> None:
    client = stories_server.client()
    stream = client.stream(PROMPT, ignore_eos=True)
    next(stream)
    client.close()
    assert eventually(lambda: is_idle(stories_server))


def test_deadline_ends_with_an_error(stories: Client, stories_server: ServerProcess) -> None:
    for call in (stories.generate, lambda *a, **k: list(stories.stream(*a, **k))):
        with pytest.raises(grpc.RpcError) as failure:
            call(PROMPT, ignore_eos=True, timeout=0.08)
        assert failure.value.code() == Code.DEADLINE_EXCEEDED
    assert eventually(lambda: is_idle(stories_server))


def test_abort_by_the_caller(stories: Client, stories_server: ServerProcess) -> None:
    with stories.stream(PROMPT, request_id="mine", ignore_eos=True) as stream:
        next(stream)
        response = stories.abort(["mine", "nobody's"])
        assert list(response.aborted) == ["mine"]
        assert list(response.not_found) == ["nobody's"]
        with pytest.raises(grpc.RpcError) as failure:
            list(stream)
        assert failure.value.code() == Code.CANCELLED
    assert eventually(lambda: is_idle(stories_server))


def test_abort_by_the_operator(stories: Client, stories_server: ServerProcess) -> None:
    with stories.stream(PROMPT, request_id="any", ignore_eos=True) as stream:
        next(stream)
        response = stories_server.admin.Abort(abort_pb2.AbortRequest(request_ids=["any"]))
        assert list(response.aborted) == ["any"]
        with pytest.raises(grpc.RpcError) as failure:
            list(stream)
        assert failure.value.code() == Code.CANCELLED


def test_flush_forgets_prefixes(stories: Client, stories_server: ServerProcess) -> None:
    prompt = "A long enough beginning to fill a page of the cache, twice over. " * 10
    stories.generate(prompt, max_tokens=1)
    assert stories.generate(prompt, max_tokens=1).usage.cached_tokens >= 64
    assert eventually(lambda: is_idle(stories_server))
    assert stories_server.stats().pages_cached > 0
    flushed = stories_server.admin.FlushPrefixCache(admin_pb2.FlushPrefixCacheRequest())
    assert flushed.pages_freed > 0
    assert stories_server.stats().pages_cached == 0
    assert stories.generate(prompt, max_tokens=1).usage.cached_tokens == 0


def test_a_slow_reader_hurts_only_itself() -> None:
    flags = ("--outbox-bytes=16KiB", "--max-context-tokens=1000000")
    with ServerProcess("null", *flags) as server:
        slow = grpc.insecure_channel(server.address, options=FIXED_WINDOW)
        with slow, server.client() as quick:
            request = inference_pb2.GenerateRequest(stopping={"max_tokens": 900000})
            request.token_ids.ids.append(1)
            unread = inference_pb2_grpc.InferenceServiceStub(slow).GenerateStream(request)
            for _ in range(20):
                assert quick.generate([1], max_tokens=50).usage.completion_tokens == 50
            assert eventually(lambda: server.stats().requests_finished == 21), server.stats()
            # A request is counted as finished a moment before it is live no more.
            assert eventually(lambda: is_idle(server)), f"not idle: {server.stats()}"
            with pytest.raises(grpc.RpcError) as failure:
                list(unread)
            assert failure.value.code() == Code.RESOURCE_EXHAUSTED
            assert "slow" in failure.value.details()


class Tally:
    """What the clients of an overload run saw, for comparison with the server's counters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.codes: dict[str, int] = {}
        self.completion_tokens_of_ok = 0

    def add(self, code: grpc.StatusCode, tokens: int = 0) -> None:
        with self._lock:
            self.codes[code.name] = self.codes.get(code.name, 0) + 1
            self.completion_tokens_of_ok += tokens


def run_one(client: Client, rng: random.Random, tally: Tally) -> None:
    """One stream of a random shape; one in five is cancelled at a random moment."""
    cancel_after = rng.uniform(0, 0.3) if rng.random() < 0.2 else None
    stream = client.stream(
        [rng.randrange(10, 6000) for _ in range(rng.randrange(1, 150))],
        max_tokens=rng.randrange(1, 40),
        n=rng.choice((1, 1, 1, 3)),
        seed=rng.randrange(2**32),
        ignore_eos=True,
    )
    timer = None
    if cancel_after is not None:
        timer = threading.Timer(cancel_after, stream.cancel)
        timer.start()
    try:
        tokens = sum(len(chunk.token_ids) for chunk in stream)
        tally.add(Code.OK, tokens)
    except grpc.RpcError as error:
        tally.add(error.code())
    finally:
        if timer is not None:
            timer.cancel()


@pytest.mark.parametrize("model", ["null", STORIES_MODEL], ids=["null", "stories"])
def test_overload(model: object) -> None:
    """Ten times more requests than fit, one in five cancelled: every call ends once, the
    counters add up, nothing is kept."""
    seed = random.SystemRandom().randrange(2**32)
    print("seed:", seed)
    rng = random.Random(seed)
    calls, threads = 320, 64
    flags = ("--max-num-seqs=8", "--max-queued-requests=24", "--kv-cache-pages=40")
    with ServerProcess(model, *flags) as server, server.client() as client:  # type: ignore[arg-type]
        tally = Tally()
        shares = [[random.Random(rng.random()) for _ in range(calls // threads)] for _ in range(threads)]
        workers = [
            threading.Thread(target=lambda share=share: [run_one(client, r, tally) for r in share])
            for share in shares
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
            assert not worker.is_alive(), "a call never ended"
        assert eventually(lambda: is_idle(server)), server.stats()

        assert sum(tally.codes.values()) == calls
        assert set(tally.codes) <= {"OK", "CANCELLED", "RESOURCE_EXHAUSTED"}, tally.codes
        assert tally.codes["OK"] > 0
        check_counters(server, tally, calls)
        client.generate([1, 2, 3], max_tokens=2)  # still serving
        assert server.stop() == 0


def total(samples: dict[str, float], name: str) -> float:
    """Over all labels."""
    return sum(value for sample, value in samples.items() if sample.split("{")[0] == name)


def accepted_and_refused(samples: dict[str, float]) -> float:
    submitted = samples["parallax:requests_submitted_total"]
    return submitted + total(samples, "parallax:requests_refused_total")


def every_call_is_counted(server: ServerProcess) -> bool:
    """A cancelled call is, by a thread of its own, once the engine has ended its request."""
    samples = server.metrics()
    return total(samples, "parallax:grpc_requests_total") == accepted_and_refused(samples)


def check_counters(server: ServerProcess, tally: Tally, calls: int) -> None:
    refused = tally.codes.get("RESOURCE_EXHAUSTED", 0)

    def by_code(code: str) -> float:
        return server.metrics().get(
            f'parallax:grpc_requests_total{{method="GenerateStream",code="{code}"}}', 0
        )

    # A call cancelled before it reached the server is in the clients' tally alone.
    assert eventually(lambda: by_code("OK") >= tally.codes["OK"])
    assert by_code("RESOURCE_EXHAUSTED") >= refused
    assert eventually(lambda: every_call_is_counted(server)), f"calls are missing: {server.metrics()}"
    assert eventually(lambda: is_idle(server)), f"not idle: {server.stats()}"
    stats, samples = server.stats(), server.metrics()
    reached = total(samples, "parallax:grpc_requests_total")
    assert reached <= calls
    assert samples["parallax:requests_submitted_total"] == stats.requests_submitted
    ended = total(samples, "parallax:request_success_total")
    assert ended == stats.requests_finished == stats.requests_submitted
    assert accepted_and_refused(samples) == reached
    assert samples["parallax:generation_tokens_total"] == stats.tokens_generated
    assert stats.tokens_generated >= tally.completion_tokens_of_ok
    assert samples["parallax:e2e_request_latency_seconds_count"] == stats.requests_finished
    assert samples["parallax:kv_pages_used"] == 0


def test_counters_equal_the_clients_tally_without_cancellations() -> None:
    with ServerProcess("null") as server, server.client() as client:
        prompts = tokens = 0
        for i in range(50):
            response = client.generate([1] * (i + 1), max_tokens=i + 2, n=1 + i % 3)
            prompts += response.usage.prompt_tokens
            tokens += sum(len(choice.token_ids) for choice in response.choices)
        assert eventually(lambda: is_idle(server))
        samples = server.metrics()
        assert samples["parallax:generation_tokens_total"] == tokens
        assert samples["parallax:prompt_tokens_total"] == prompts
        assert samples['parallax:request_success_total{finished_reason="length"}'] == 50
        assert samples['parallax:grpc_requests_total{method="Generate",code="OK"}'] == 50
        assert samples["parallax:e2e_request_latency_seconds_count"] == 50
        choices = sum(1 + i % 3 for i in range(50))
        assert samples["parallax:inter_token_latency_seconds_count"] == tokens - choices
