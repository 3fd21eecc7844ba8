"""The Python client against a scripted server: retries, back-off, cancellation, deadlines."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent import futures
from dataclasses import dataclass, field
from typing import Iterator

import grpc
import pytest

from parallax_client import AsyncClient, AsyncStream, Client, RetryPolicy, Stream, build_request
from parallax_client import perplexity
from parallax_client.v1 import inference_pb2 as pb
from parallax_client.v1 import inference_pb2_grpc

Code = grpc.StatusCode
QUICK = RetryPolicy(initial_backoff=0.001)


@dataclass
class Attempt:
    """What one attempt gets."""

    code: grpc.StatusCode = Code.OK
    retry_after_ms: str | None = None
    chunks: list[str] = field(default_factory=list)
    hang: bool = False


class ScriptedService(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(self) -> None:
        self.script: list[Attempt] = []
        self.attempts = 0
        self.authorization: str | None = None
        self.traceparents: list[str] = []
        self.started = threading.Event()
        self.ended = threading.Event()

    def Generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext):
        if request.output.HasField("prompt_logprobs"):
            return self._score(request.token_ids.ids)
        attempt = self._next(context)
        self._end(attempt, context)
        return pb.GenerateResponse(choices=[pb.Choice(text="".join(attempt.chunks))])

    def GenerateStream(self, request: pb.GenerateRequest, context: grpc.ServicerContext):
        attempt = self._next(context)
        context.send_initial_metadata((("x-request-id", "r1"),))
        for text in attempt.chunks:
            yield pb.GenerateChunk(text=text)
        self._end(attempt, context)

    def Tokenize(self, request: pb.TokenizeRequest, context: grpc.ServicerContext):
        return pb.TokenizeResponse(token_ids=[256, *request.text.encode()])

    def GetModelInfo(self, request: pb.GetModelInfoRequest, context: grpc.ServicerContext):
        return pb.GetModelInfoResponse(max_context_tokens=65, max_prompt_tokens=64)

    def _next(self, context: grpc.ServicerContext) -> Attempt:
        self.attempts += 1
        context.add_callback(self.ended.set)
        metadata = dict(context.invocation_metadata())
        self.authorization = metadata.get("authorization")
        self.traceparents += [metadata["traceparent"]] if "traceparent" in metadata else []
        return self.script.pop(0) if self.script else Attempt(chunks=["ok"])

    def _end(self, attempt: Attempt, context: grpc.ServicerContext) -> None:
        self.started.set()
        if attempt.hang:
            self.ended.wait(20)
        if attempt.retry_after_ms is not None:
            context.set_trailing_metadata((("retry-after-ms", attempt.retry_after_ms),))
        if attempt.code != Code.OK:
            context.abort(attempt.code, "scripted")

    @staticmethod
    def _score(ids: list[int]) -> pb.GenerateResponse:
        """-log p of a token is its id / 100."""
        response = pb.GenerateResponse()
        for position, token in enumerate(ids):
            chosen = response.prompt_logprobs.add().chosen
            if position > 0:
                chosen.logprob = -token / 100
        return response


@pytest.fixture
def service() -> Iterator[ScriptedService]:
    scripted = ScriptedService()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(scripted, server)
    scripted.port = server.add_insecure_port("127.0.0.1:0")  # type: ignore[attr-defined]
    server.start()
    yield scripted
    server.stop(0).wait()


@pytest.fixture
def client(service: ScriptedService) -> Iterator[Client]:
    with Client(f"127.0.0.1:{service.port}", token="secret", retry=QUICK) as connected:
        yield connected


def text_of(chunks) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_token_is_sent(client: Client, service: ScriptedService) -> None:
    client.generate("x")
    assert service.authorization == "Bearer secret"
    stream = client.stream("x")
    assert text_of(stream) == "ok"
    assert stream.initial_metadata() == {"x-request-id": "r1"}
    assert service.authorization == "Bearer secret"


def test_metadata_is_sent_and_a_function_is_asked_at_each_attempt(service: ScriptedService) -> None:
    target = f"127.0.0.1:{service.port}"
    with Client(target, retry=QUICK, metadata=[("traceparent", "fixed")]) as client:
        client.generate("x")
        text_of(client.stream("x"))
    assert service.traceparents == ["fixed", "fixed"]
    spans = iter("abcdef")
    spanning = {"metadata": lambda: [("traceparent", next(spans))], "token": "secret"}
    service.script = [Attempt(Code.UNAVAILABLE), Attempt(chunks=["ok"])]
    with Client(target, retry=QUICK, **spanning) as client:
        client.generate("x")
        text_of(client.stream("x"))

    async def run() -> None:
        async with AsyncClient(target, retry=QUICK, **spanning) as client:
            await client.generate("x")
            assert [chunk.text async for chunk in client.stream("x")] == ["ok"]

    asyncio.run(run())
    assert service.traceparents[2:] == ["a", "b", "c", "d", "e"]
    assert service.authorization == "Bearer secret"


@pytest.mark.parametrize("call", ["generate", "stream"])
def test_retries_what_is_worth_retrying(
    client: Client, service: ScriptedService, call: str
) -> None:
    service.script = [
        Attempt(Code.UNAVAILABLE),
        Attempt(Code.RESOURCE_EXHAUSTED, retry_after_ms="1"),
        Attempt(chunks=["a", "b"]),
    ]
    if call == "generate":
        assert client.generate("x").choices[0].text == "ab"
    else:
        assert text_of(client.stream("x")) == "ab"
    assert service.attempts == 3


def test_does_not_retry_a_mistake(client: Client, service: ScriptedService) -> None:
    service.script = [Attempt(Code.INVALID_ARGUMENT)]
    with pytest.raises(grpc.RpcError) as failure:
        client.generate("x")
    assert failure.value.code() == Code.INVALID_ARGUMENT
    assert service.attempts == 1


@pytest.mark.parametrize("delay", [None, "soon"])
def test_does_not_retry_a_limit_without_a_delay(
    client: Client, service: ScriptedService, delay: str | None
) -> None:
    """Such as a reply over the server's limit: another try would generate it all again."""
    service.script = [Attempt(Code.RESOURCE_EXHAUSTED, retry_after_ms=delay) for _ in range(2)]
    for call in (client.generate, lambda prompt: text_of(client.stream(prompt))):
        with pytest.raises(grpc.RpcError) as failure:
            call("x")
        assert failure.value.code() == Code.RESOURCE_EXHAUSTED
    assert service.attempts == 2


def test_gives_up_after_the_last_attempt(client: Client, service: ScriptedService) -> None:
    service.script = [Attempt(Code.RESOURCE_EXHAUSTED, retry_after_ms="1") for _ in range(9)]
    with pytest.raises(grpc.RpcError) as failure:
        text_of(client.stream("x"))
    assert failure.value.code() == Code.RESOURCE_EXHAUSTED
    assert service.attempts == QUICK.max_attempts


def test_never_repeats_delivered_text(client: Client, service: ScriptedService) -> None:
    service.script = [Attempt(Code.UNAVAILABLE, chunks=["a"]), Attempt(chunks=["a", "b"])]
    seen = []
    with pytest.raises(grpc.RpcError):
        for chunk in client.stream("x"):
            seen.append(chunk.text)
    assert seen == ["a"]
    assert service.attempts == 1


def test_honours_the_servers_delay(client: Client, service: ScriptedService) -> None:
    service.script = [Attempt(Code.RESOURCE_EXHAUSTED, retry_after_ms="200")]
    began = time.monotonic()
    client.generate("x")
    assert time.monotonic() - began >= 0.15


def test_a_refusal_is_not_turned_into_a_timeout(service: ScriptedService) -> None:
    service.script = [Attempt(Code.RESOURCE_EXHAUSTED, retry_after_ms="40000")]
    began = time.monotonic()
    with Client(f"127.0.0.1:{service.port}", retry=RetryPolicy(max_backoff=60)) as client:
        with pytest.raises(grpc.RpcError) as failure:
            client.generate("x", timeout=20)
    assert failure.value.code() == Code.RESOURCE_EXHAUSTED
    assert time.monotonic() - began < 10


def test_deadline(client: Client, service: ScriptedService) -> None:
    service.script = [Attempt(hang=True)]
    with pytest.raises(grpc.RpcError) as failure:
        client.generate("x", timeout=0.05)
    assert failure.value.code() == Code.DEADLINE_EXCEEDED


def test_cancel_ends_the_call_on_the_server(client: Client, service: ScriptedService) -> None:
    service.script = [Attempt(chunks=["a"], hang=True)]
    stream = client.stream("x")
    assert next(stream).text == "a"
    stream.cancel()
    with pytest.raises(grpc.RpcError) as failure:
        next(stream)
    assert failure.value.code() == Code.CANCELLED
    assert service.ended.wait(10)


def test_leaving_the_block_cancels(client: Client, service: ScriptedService) -> None:
    service.script = [Attempt(chunks=["a"], hang=True)]
    with client.stream("x") as stream:
        assert next(stream).text == "a"
    assert service.ended.wait(10)


def test_cancel_during_a_back_off(service: ScriptedService) -> None:
    """It ends the wait, and no further attempt reaches the server."""
    service.script = [Attempt(Code.UNAVAILABLE, retry_after_ms="5000")]
    with Client(f"127.0.0.1:{service.port}") as client, client.stream("x") as stream:
        canceller = threading.Thread(target=cancel_once_refused, args=(service, stream))
        canceller.start()
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as failure:
            next(stream)
        canceller.join()
        assert failure.value.code() == Code.CANCELLED
        assert failure.value.details()
        assert time.monotonic() - began < 3
    assert service.attempts == 1


def cancel_once_refused(service: ScriptedService, stream: Stream) -> None:
    assert service.ended.wait(10)
    time.sleep(0.1)  # for the refusal to reach the client
    stream.cancel()


def test_perplexity_counts_every_token_once(client: Client) -> None:
    result = client.perplexity(["A" * 200, "B"], window=64)
    assert result.scored_tokens == result.bytes == 201
    assert result.nll == pytest.approx(200 * 0.65 + 0.66, rel=1e-5)


def test_perplexity_refuses_a_window_that_cannot_be_served(client: Client) -> None:
    for window in (0, 1, 65):
        with pytest.raises(ValueError, match=f"window: {window}"):
            client.perplexity(["A"], window=window)


def test_async_client(service: ScriptedService) -> None:
    async def run() -> None:
        target = f"127.0.0.1:{service.port}"
        async with AsyncClient(target, token="secret", retry=QUICK) as client:
            service.script = [Attempt(Code.UNAVAILABLE), Attempt(chunks=["a"])]
            assert (await client.generate("x")).choices[0].text == "a"
            assert service.authorization == "Bearer secret"

            full = Attempt(Code.RESOURCE_EXHAUSTED, retry_after_ms="1")
            service.script = [full, Attempt(chunks=["a", "b"])]
            stream = client.stream("x")
            assert [chunk.text async for chunk in stream] == ["a", "b"]
            assert await stream.initial_metadata() == {"x-request-id": "r1"}

            service.script = [Attempt(Code.UNAVAILABLE, chunks=["a"])]
            with pytest.raises(grpc.RpcError):
                [chunk async for chunk in client.stream("x")]

            results = await asyncio.gather(*(client.generate("x") for _ in range(32)))
            assert len(results) == 32
            assert (await client.perplexity(["A" * 10])).scored_tokens == 10

    asyncio.run(run())


def test_cancelling_the_task_cancels_the_call(service: ScriptedService) -> None:
    async def run() -> None:
        async with AsyncClient(f"127.0.0.1:{service.port}", retry=QUICK) as client:
            service.script = [Attempt(hang=True)]
            task = asyncio.create_task(client.generate("x"))
            while not service.started.is_set():
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    assert service.ended.wait(10)


def test_async_stream_cancel(service: ScriptedService) -> None:
    async def run() -> None:
        async with AsyncClient(f"127.0.0.1:{service.port}", retry=QUICK) as client:
            service.script = [Attempt(chunks=["a"], hang=True)]
            async with client.stream("x") as stream:
                assert (await stream.__anext__()).text == "a"

    asyncio.run(run())
    assert service.ended.wait(10)


def test_async_stream_cancel_during_a_back_off(service: ScriptedService) -> None:
    async def run() -> None:
        service.script = [Attempt(Code.UNAVAILABLE, retry_after_ms="5000")]
        async with AsyncClient(f"127.0.0.1:{service.port}") as client:
            stream = client.stream("x")
            reading = asyncio.create_task(stream.__anext__())
            await asyncio.to_thread(service.ended.wait, 10)
            await asyncio.sleep(0.1)  # for the refusal to reach the client
            stream.cancel()
            began = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert time.monotonic() - began < 3

    asyncio.run(run())
    assert service.attempts == 1


def test_both_clients_have_the_same_methods() -> None:
    for blocking, asynchronous in ((Client, AsyncClient), (Stream, AsyncStream)):
        names = [
            {name for name in vars(kind) if not name.startswith("_")}
            for kind in (blocking, asynchronous)
        ]
        assert names[0] == names[1]


def test_request_sets_only_what_is_given() -> None:
    request = build_request("hi", temperature=0, stop="END", seed=2**64 - 1, top_p=None)
    assert request.sampling.HasField("temperature")
    assert not request.sampling.HasField("top_p")
    assert list(request.stopping.stop) == ["END"]
    assert not request.HasField("output")
    assert not request.HasField("request_id")


def test_request_takes_token_ids() -> None:
    assert list(build_request([1, 2]).token_ids.ids) == [1, 2]
    assert build_request([]).WhichOneof("prompt") == "token_ids"
    assert build_request("").WhichOneof("prompt") == "text"


def test_request_knows_every_field_of_the_contract() -> None:
    values = {"logit_bias": {1: 0.5}, "stop": ["a"], "stop_token_ids": [1], "tenant": "t"}
    for part in ("sampling", "stopping", "output", "scheduling"):
        for name in pb.GenerateRequest.DESCRIPTOR.fields_by_name[part].message_type.fields_by_name:
            request = build_request("x", **{name: values.get(name, 1)})
            assert [f.name for f, _ in getattr(request, part).ListFields()] == [name]


def test_request_refuses_an_unknown_name() -> None:
    with pytest.raises(TypeError, match="temprature"):
        build_request("hi", temprature=1)


def test_windows_overlap_by_one() -> None:
    assert list(perplexity.windows(range(6), 3)) == [range(0, 3), range(2, 5), range(4, 6)]
    assert list(perplexity.windows([1], 3)) == []
