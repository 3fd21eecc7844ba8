"""The asyncio client."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Any, AsyncIterator, Awaitable, Callable, Sequence, TypeVar

import grpc

from parallax_client import health
from parallax_client.channel import Metadata, TlsOptions, call_metadata, channel_arguments
from parallax_client.errors import CallError
from parallax_client.perplexity import Perplexity, window_size, windows
from parallax_client.request import build_request
from parallax_client.retry import Backoff, RetryPolicy
from parallax_client.v1 import abort_pb2, inference_pb2 as pb, inference_pb2_grpc
from parallax_client.waiting import Waiting

T = TypeVar("T")


class AsyncStream(AsyncIterator[pb.GenerateChunk]):
    """The chunks of one call. Iterate it with `async for`; `cancel` ends it.

    Leaving an `async with` block cancels what is left, so that the server stops generating.
    """

    def __init__(self, start: Callable[[float | None], Any], backoff: Backoff) -> None:
        self._start = start
        self._backoff = backoff
        self._delivered = False
        self._cancelled = asyncio.Event()
        self._call = start(backoff.remaining())

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> pb.GenerateChunk:
        while True:
            try:
                chunk = await self._call.read()
                if chunk is grpc.aio.EOF:
                    raise StopAsyncIteration
                self._delivered = True
                return chunk  # type: ignore[no-any-return]
            except grpc.RpcError as error:
                wait = None if self._delivered else self._backoff.next(error)
                if wait is None:
                    raise
                await self._pause(wait)
                self._call = self._start(self._backoff.remaining())
            except asyncio.CancelledError:
                # Raised here also when cancel() ended the call and not this task.
                self._call.cancel()
                raise

    def cancel(self) -> None:
        """Ends the call, or its wait for another attempt: iterating raises
        asyncio.CancelledError."""
        self._cancelled.set()
        self._call.cancel()

    async def initial_metadata(self) -> dict[str, str]:
        """`x-request-id`, with the first output; sooner if the server named the request."""
        return {key: str(value) for key, value in await self._call.initial_metadata() or ()}

    async def trailing_metadata(self) -> dict[str, str]:
        """`x-request-id` and the caller's `traceparent`, once the call has ended."""
        return {key: str(value) for key, value in await self._call.trailing_metadata() or ()}

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    async def _pause(self, seconds: float) -> None:
        """Waits before another attempt; asyncio.CancelledError once `cancel` is called."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._cancelled.wait()
        if self._cancelled.is_set():
            raise asyncio.CancelledError


class AsyncClient:
    """One connection to a server, for one event loop.

    Cancelling the task that awaits a call cancels the call. `timeout` arguments are gRPC
    deadlines in seconds, over all attempts together. `metadata` is Client's.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        tls: TlsOptions | None = None,
        token: str | None = None,
        metadata: Metadata | Callable[[], Metadata] = (),
        retry: RetryPolicy = RetryPolicy(),
    ) -> None:
        arguments = channel_arguments(tls)
        if tls is None:
            self._channel = grpc.aio.insecure_channel(target, options=arguments)
        else:
            self._channel = grpc.aio.secure_channel(target, tls.credentials(), options=arguments)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self._metadata = call_metadata(token, metadata)
        self._retry = retry

    async def generate(
        self, prompt: str | Sequence[int], *, timeout: float | None = None, **parameters: Any
    ) -> pb.GenerateResponse:
        """Runs a request to its end. `parameters`: see build_request."""
        return await self.send(build_request(prompt, **parameters), timeout=timeout)

    async def send(
        self, request: pb.GenerateRequest, *, timeout: float | None = None
    ) -> pb.GenerateResponse:
        return await self._call(self._stub.Generate, request, timeout)

    def stream(
        self, prompt: str | Sequence[int], *, timeout: float | None = None, **parameters: Any
    ) -> AsyncStream:
        """Yields text as it is generated. `parameters`: see build_request."""
        return self.send_stream(build_request(prompt, **parameters), timeout=timeout)

    def send_stream(
        self, request: pb.GenerateRequest, *, timeout: float | None = None
    ) -> AsyncStream:
        return AsyncStream(
            lambda remaining: self._stub.GenerateStream(
                request, timeout=remaining, metadata=self._metadata()
            ),
            Backoff(self._retry, timeout),
        )

    async def tokenize(
        self, text: str, *, add_special_tokens: bool | None = None, timeout: float | None = None
    ) -> list[int]:
        request = pb.TokenizeRequest(text=text, add_special_tokens=add_special_tokens)
        return list((await self._call(self._stub.Tokenize, request, timeout)).token_ids)

    async def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        skip_special_tokens: bool | None = None,
        timeout: float | None = None,
    ) -> str:
        request = pb.DetokenizeRequest(
            token_ids=token_ids, skip_special_tokens=skip_special_tokens
        )
        return str((await self._call(self._stub.Detokenize, request, timeout)).text)

    async def model_info(self, *, timeout: float | None = None) -> pb.GetModelInfoResponse:
        return await self._call(self._stub.GetModelInfo, pb.GetModelInfoRequest(), timeout)

    async def abort(
        self, request_ids: Sequence[str], *, timeout: float | None = None
    ) -> abort_pb2.AbortResponse:
        """Ends the caller's own live requests."""
        request = abort_pb2.AbortRequest(request_ids=request_ids)
        return await self._call(self._stub.Abort, request, timeout)

    async def health(
        self, service: str = "", *, timeout: float | None = None
    ) -> health.ServingStatus:
        return await self._call(health.check(self._channel), service, timeout)

    async def wait_until_serving(self, timeout: float, service: str = "") -> None:
        """As Client's. Cancelling the task that awaits it ends the wait."""
        waiting = Waiting(self._retry, timeout)
        while True:
            try:
                return await self._watch(service, waiting.remaining())
            except grpc.RpcError as error:
                pause = waiting.pause(error)
            await asyncio.sleep(pause)

    async def perplexity(
        self, documents: Sequence[str], *, window: int | None = None, timeout: float | None = None
    ) -> Perplexity:
        """Of the documents together; `window` tokens are scored in one request."""
        result = Perplexity()
        size = window_size(await self.model_info(), window)
        for document in documents:
            result.bytes += len(document.encode())
            for ids in windows(await self.tokenize(document), size):
                result.add(
                    await self.generate(ids, max_tokens=1, prompt_logprobs=0, timeout=timeout)
                )
        return result

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _watch(self, service: str, timeout: float) -> None:
        """Returns once `service` is SERVING."""
        call = health.watch(self._channel)(
            service, timeout=timeout, metadata=self._metadata(), wait_for_ready=True
        )
        try:
            async for status in call:
                if status == health.ServingStatus.SERVING:
                    return
        finally:
            call.cancel()
        raise CallError(grpc.StatusCode.UNAVAILABLE, "the watch ended")

    async def _call(
        self, method: Callable[..., Awaitable[T]], request: Any, timeout: float | None
    ) -> T:
        backoff = Backoff(self._retry, timeout)
        while True:
            try:
                return await method(request, timeout=backoff.remaining(), metadata=self._metadata())
            except grpc.RpcError as error:
                wait = backoff.next(error)
                if wait is None:
                    raise
            await asyncio.sleep(wait)
