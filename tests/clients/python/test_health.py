"""Waiting for SERVING against a scripted server, with both clients: pauses, deadline, cancellation."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator

import grpc
import pytest

from parallax_client import AsyncClient, Client, RetryPolicy, ServingStatus, health

Code = grpc.StatusCode
Wait = Callable[..., None]


@dataclass
class Watch:
    """What one Watch gets."""

    says: list[ServingStatus] = field(default_factory=list)
    code: grpc.StatusCode = Code.OK
    hang: bool = False


REFUSED = Watch(code=Code.UNAVAILABLE)
SERVING = Watch([ServingStatus.SERVING], hang=True)
NEVER_SERVING = Watch([ServingStatus.NOT_SERVING], hang=True)


class ScriptedHealth:
    def __init__(self) -> None:
        self.script = [SERVING]  # the last of it is repeated
        self.watches = 0
        self.traceparent: str | None = None
        self.target = ""
        self.started = threading.Event()
        self.ended = threading.Event()

    def watch(self, request: bytes, context: grpc.ServicerContext) -> Iterator[ServingStatus]:
        self.watches += 1
        self.traceparent = dict(context.invocation_metadata()).get("traceparent")
        watch = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        context.add_callback(self.ended.set)
        yield from watch.says
        self.started.set()
        if watch.hang:
            self.ended.wait(20)
        if watch.code != Code.OK:
            context.abort(watch.code, "scripted")


@pytest.fixture
def service() -> Iterator[ScriptedHealth]:
    scripted = ScriptedHealth()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    watch = grpc.unary_stream_rpc_method_handler(
        scripted.watch, response_serializer=lambda status: bytes([8, status])
    )
    name = health.WATCH.split("/")[1]
    handler = grpc.method_handlers_generic_handler(name, {"Watch": watch})
    server.add_generic_rpc_handlers((handler,))
    scripted.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield scripted
    server.stop(0).wait()


@pytest.fixture(params=["blocking", "asyncio"])
def wait(request: pytest.FixtureRequest) -> Wait:
    def blocking(target: str, timeout: float = 20.0, **options: Any) -> None:
        with Client(target, **options) as client:
            client.wait_until_serving(timeout)

    def in_a_loop(target: str, timeout: float = 20.0, **options: Any) -> None:
        async def run() -> None:
            async with AsyncClient(target, **options) as client:
                await client.wait_until_serving(timeout)

        asyncio.run(run())

    return blocking if request.param == "blocking" else in_a_loop


def test_ends_when_the_server_says_so(wait: Wait, service: ScriptedHealth) -> None:
    service.script = [Watch([ServingStatus.NOT_SERVING, ServingStatus.SERVING], hang=True)]
    wait(service.target)
    assert service.watches == 1
    assert service.ended.wait(10)


def test_watches_again_when_refused(wait: Wait, service: ScriptedHealth) -> None:
    service.script = [REFUSED, REFUSED, SERVING]
    wait(service.target, retry=RetryPolicy(initial_backoff=0.001, max_attempts=1))
    assert service.watches == 3


@pytest.mark.parametrize("watch", [REFUSED, Watch([ServingStatus.NOT_SERVING])])
def test_pauses_between_watches_that_end(wait: Wait, service: ScriptedHealth, watch: Watch) -> None:
    """Such as those of a front that is up with no replica behind it."""
    service.script = [watch]
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="0.8"):
        wait(service.target, 0.8)
    assert 0.79 <= time.monotonic() - began < 5
    assert 2 <= service.watches <= 5  # at about 0, 0.1, 0.3 and 0.7 s


def test_makes_no_pause_of_more_than_a_second(wait: Wait, service: ScriptedHealth) -> None:
    service.script = [REFUSED, SERVING]
    wait(service.target, retry=RetryPolicy(initial_backoff=3600, max_backoff=3600))


def test_raises_what_waiting_does_not_mend(wait: Wait, service: ScriptedHealth) -> None:
    service.script = [Watch(code=Code.UNIMPLEMENTED)]
    with pytest.raises(grpc.RpcError) as failure:
        wait(service.target)
    assert failure.value.code() == Code.UNIMPLEMENTED
    assert service.watches == 1


def test_nobody_listens(wait: Wait) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        wait("127.0.0.1:1", 0.2)
    assert time.monotonic() - began < 5


def test_sends_metadata(wait: Wait, service: ScriptedHealth) -> None:
    wait(service.target, metadata=[("traceparent", "00-1-2-01")])
    assert service.traceparent == "00-1-2-01"


@pytest.mark.parametrize("watch", [REFUSED, NEVER_SERVING], ids=["in a pause", "in a watch"])
def test_cancelling_the_task_ends_the_wait(service: ScriptedHealth, watch: Watch) -> None:
    async def run() -> None:
        service.script = [watch]
        async with AsyncClient(service.target, retry=RetryPolicy(initial_backoff=1)) as client:
            waiting = asyncio.create_task(client.wait_until_serving(20))
            await asyncio.to_thread(service.started.wait, 10)
            await asyncio.sleep(0.1)  # for the answer to reach the client
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await asyncio.to_thread(service.ended.wait, 10)

    asyncio.run(run())
    assert service.watches <= 2  # one, unless the machine stood still for a second


def test_wire_form() -> None:
    assert health.encode_request("") == b""
    assert health.encode_request("ab") == b"\x0a\x02ab"
    assert health.decode_response(b"\x08\x01") is ServingStatus.SERVING
    assert health.decode_response(b"") is ServingStatus.UNKNOWN
