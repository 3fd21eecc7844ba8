"""The blocking client."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Callable, Iterator, Sequence, TypeVar

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


class Stream(Iterator[pb.GenerateChunk]):
    """The chunks of one call. Iterate it; `cancel` ends it from any thread.

    Leaving a `with` block cancels what is left, so that the server stops generating.
    """

    def __init__(self, start: Callable[[float | None], Any], backoff: Backoff) -> None:
        self._start = start
        self._backoff = backoff
        self._delivered = False
        self._cancelled = threading.Event()
        self._call = start(backoff.remaining())

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> pb.GenerateChunk:
        while True:
            try:
                chunk: pb.GenerateChunk = next(self._call)
                self._delivered = True
                return chunk
            except grpc.RpcError as error:
                wait = None if self._delivered else self._backoff.next(error)
                if wait is None:
                    raise
                if self._cancelled.wait(wait):
                    raise CallError(grpc.StatusCode.CANCELLED, "cancelled") from error
                self._call = self._start(self._backoff.remaining())
                if self._cancelled.is_set():  # meanwhile, and it ended the call before
                    self._call.cancel()

    def cancel(self) -> None:
        """Ends the call, or its wait for another attempt: iterating raises grpc.RpcError
        with CANCELLED."""
        self._cancelled.set()
        self._call.cancel()

    def initial_metadata(self) -> dict[str, str]:
        """`x-request-id`, with the first output; sooner if the server named the request."""
        return {key: str(value) for key, value in self._call.initial_metadata()}

    def trailing_metadata(self) -> dict[str, str]:
        """`x-request-id` and the caller's `traceparent`, once the call has ended."""
        return {key: str(value) for key, value in self._call.trailing_metadata() or ()}

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()


class Client:
    """One connection to a server. All methods may be called from any thread.

    `timeout` arguments are gRPC deadlines in seconds, over all attempts together. `metadata` goes
    with every call; a function is asked anew each time, as a trace context must be:

        Client(metadata=lambda: [("traceparent", current_span())])
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
            self._channel = grpc.insecure_channel(target, options=arguments)
        else:
            self._channel = grpc.secure_channel(target, tls.credentials(), options=arguments)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self._metadata = call_metadata(token, metadata)
        self._retry = retry

    def generate(
        self, prompt: str | Sequence[int], *, timeout: float | None = None, **parameters: Any
    ) -> pb.GenerateResponse:
        """Runs a request to its end. `parameters`: see build_request."""
        return self.send(build_request(prompt, **parameters), timeout=timeout)

    def send(self, request: pb.GenerateRequest, *, timeout: float | None = None) -> pb.GenerateResponse:
        return self._call(self._stub.Generate, request, timeout)

    def stream(
        self, prompt: str | Sequence[int], *, timeout: float | None = None, **parameters: Any
    ) -> Stream:
        """Yields text as it is generated. `parameters`: see build_request."""
        return self.send_stream(build_request(prompt, **parameters), timeout=timeout)

    def send_stream(self, request: pb.GenerateRequest, *, timeout: float | None = None) -> Stream:
        return Stream(
            lambda remaining: self._stub.GenerateStream(
                request, timeout=remaining, metadata=self._metadata()
            ),
            Backoff(self._retry, timeout),
        )

    def tokenize(
        self, text: str, *, add_special_tokens: bool | None = None, timeout: float | None = None
    ) -> list[int]:
        request = pb.TokenizeRequest(text=text, add_special_tokens=add_special_tokens)
        return list(self._call(self._stub.Tokenize, request, timeout).token_ids)

    def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        skip_special_tokens: bool | None = None,
        timeout: float | None = None,
    ) -> str:
        request = pb.DetokenizeRequest(
            token_ids=token_ids, skip_special_tokens=skip_special_tokens
        )
        return str(self._call(self._stub.Detokenize, request, timeout).text)

    def model_info(self, *, timeout: float | None = None) -> pb.GetModelInfoResponse:
        return self._call(self._stub.GetModelInfo, pb.GetModelInfoRequest(), timeout)

    def abort(
        self, request_ids: Sequence[str], *, timeout: float | None = None
    ) -> abort_pb2.AbortResponse:
        """Ends the caller's own live requests."""
        request = abort_pb2.AbortRequest(request_ids=request_ids)
        return self._call(self._stub.Abort, request, timeout)

    def health(self, service: str = "", *, timeout: float | None = None) -> health.ServingStatus:
        return self._call(health.check(self._channel), service, timeout)

    def wait_until_serving(self, timeout: float, service: str = "") -> None:
        """Waits for a server that may still be starting, or is not yet behind its front.

        Watches it, and starts a watch that ends too soon anew after a pause: that of the client's
        RetryPolicy, but at most a second. TimeoutError after `timeout` seconds.
        """
        waiting = Waiting(self._retry, timeout)
        while True:
            try:
                return self._watch(service, waiting.remaining())
            except grpc.RpcError as error:
                pause = waiting.pause(error)
            time.sleep(pause)

    def perplexity(
        self, documents: Sequence[str], *, window: int | None = None, timeout: float | None = None
    ) -> Perplexity:
        """Of the documents together; `window` tokens are scored in one request."""
        result = Perplexity()
        size = window_size(self.model_info(), window)
        for document in documents:
            result.bytes += len(document.encode())
            for ids in windows(self.tokenize(document), size):
                result.add(self.generate(ids, max_tokens=1, prompt_logprobs=0, timeout=timeout))
        return result

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _watch(self, service: str, timeout: float) -> None:
        """Returns once `service` is SERVING."""
        call = health.watch(self._channel)(
            service, timeout=timeout, metadata=self._metadata(), wait_for_ready=True
        )
        try:
            for status in call:
                if status == health.ServingStatus.SERVING:
                    return
        finally:
            call.cancel()
        raise CallError(grpc.StatusCode.UNAVAILABLE, "the watch ended")

    def _call(self, method: Callable[..., T], request: Any, timeout: float | None) -> T:
        backoff = Backoff(self._retry, timeout)
        while True:
            try:
                return method(request, timeout=backoff.remaining(), metadata=self._metadata())
            except grpc.RpcError as error:
                wait = backoff.next(error)
                if wait is None:
                    raise
            time.sleep(wait)
