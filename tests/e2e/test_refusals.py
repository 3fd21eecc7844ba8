"""Nothing is accepted and ignored: every refusal has its code and names field and value."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pytest

from parallax_client import Client, RetryPolicy
from parallax_client.v1 import inference_pb2 as pb
from server_process import STORIES_MODEL, ServerProcess, eventually

Code = grpc.StatusCode
NAN = float("nan")

# (parameters, what the message must name)
INVALID: list[tuple[dict[str, Any], list[str]]] = [
    ({"temperature": -0.5}, ["temperature", "-0.5"]),
    ({"temperature": NAN}, ["temperature", "nan"]),
    ({"temperature": 101}, ["temperature", "101"]),
    ({"top_k": -1}, ["top_k", "-1"]),
    ({"top_p": 0}, ["top_p", "0"]),
    ({"top_p": 1.5}, ["top_p", "1.5"]),
    ({"min_p": 1.5}, ["min_p", "1.5"]),
    ({"repetition_penalty": 0}, ["repetition_penalty", "0"]),
    ({"presence_penalty": 2.5}, ["presence_penalty", "2.5"]),
    ({"frequency_penalty": -3}, ["frequency_penalty", "-3"]),
    ({"logit_bias": {5: 200.0}}, ["logit_bias", "200"]),
    ({"logit_bias": {-1: 1.0}}, ["logit_bias", "-1"]),
    ({"logit_bias": {6144: 1.0}}, ["logit_bias", "6144"]),
    ({"n": 0}, ["n", "0"]),
    ({"n": 17}, ["n", "17"]),
    ({"max_tokens": 0}, ["max_tokens", "0"]),
    ({"max_tokens": 5, "min_tokens": 6}, ["min_tokens", "6"]),
    ({"stop": [""]}, ["stop"]),
    ({"stop": ["x" * 257]}, ["stop", "257"]),
    ({"stop": [str(i) for i in range(17)]}, ["stop", "17"]),
    ({"stop_token_ids": [-3]}, ["stop_token_ids", "-3"]),
    ({"stop_token_ids": [6144]}, ["stop_token_ids", "6144"]),
    ({"logprobs": 21}, ["logprobs", "21"]),
    ({"prompt_logprobs": -1}, ["prompt_logprobs", "-1"]),
    ({"priority": 101}, ["priority", "101"]),
    ({"tenant": "t" * 129}, ["tenant", "129"]),
    ({"timeout_ms": 0}, ["timeout_ms", "0"]),
    ({"request_id": ""}, ["request_id"]),
    ({"request_id": "x" * 129}, ["request_id", "129"]),
    ({"request_id": "line\nbreak"}, ["request_id"]),
]


def refusal(call: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as failure:
        call()
    return failure.value


@pytest.mark.parametrize(
    "parameters, names", INVALID, ids=[",".join(parameters) for parameters, _ in INVALID]
)
def test_invalid_arguments_are_named(
    stories: Client, parameters: dict[str, Any], names: list[str]
) -> None:
    for call in (stories.generate, lambda *a, **k: list(stories.stream(*a, **k))):
        error = refusal(lambda: call("Hello", **parameters))
        assert error.code() == Code.INVALID_ARGUMENT, error.details()
        for name in names:
            assert name in error.details(), error.details()


def test_prompts(stories: Client, null_client: Client) -> None:
    for prompt in ([], [-1], [6144], [1] * 1024):
        error = refusal(lambda: stories.generate(prompt))
        assert error.code() == Code.INVALID_ARGUMENT
        assert "token_ids" in error.details() or "prompt" in error.details(), error.details()
    error = refusal(lambda: stories.send(pb.GenerateRequest()))
    assert error.code() == Code.INVALID_ARGUMENT and "prompt" in error.details()
    error = refusal(lambda: null_client.generate("text needs a tokenizer"))
    assert error.code() == Code.INVALID_ARGUMENT and "text" in error.details()


def test_max_tokens_beyond_the_context(stories: Client) -> None:
    error = refusal(lambda: stories.generate([1] * 100, max_tokens=925))
    assert error.code() == Code.INVALID_ARGUMENT
    assert "max_tokens" in error.details() and "925" in error.details()


def test_unknown_fields_are_refused(stories_server: ServerProcess) -> None:
    """A newer client's field is not ignored either."""
    with grpc.insecure_channel(stories_server.address) as channel:
        raw = channel.unary_unary("/parallax.v1.InferenceService/Generate")
        request = pb.GenerateRequest(text="Hello").SerializeToString() + b"\xc0\x3e\x01"  # 1000: 1
        error = refusal(lambda: raw(request))
        assert error.code() == Code.INVALID_ARGUMENT
        assert "1000" in error.details()


def test_unknown_model(stories: Client) -> None:
    error = refusal(lambda: stories.generate("Hello", model="gpt-2"))
    assert error.code() == Code.NOT_FOUND
    assert "gpt-2" in error.details()


def live_requests(server: ServerProcess) -> int:
    stats = server.stats()
    return stats.requests_running + stats.requests_waiting


def test_duplicate_id(stories: Client, stories_server: ServerProcess) -> None:
    with stories.stream("Hello", request_id="twice", ignore_eos=True) as stream:
        next(stream)
        error = refusal(lambda: stories.generate("Hello", request_id="twice"))
        assert error.code() == Code.ALREADY_EXISTS
        assert "twice" in error.details()
    # A request that no longer runs is live, and its id taken, for a moment more.
    assert eventually(lambda: live_requests(stories_server) == 0), f"live: {stories_server.stats()}"
    stories.generate("Hello", request_id="twice", max_tokens=1)  # free again


def test_detokenize_and_tokenize_refusals(stories: Client, null_client: Client) -> None:
    assert refusal(lambda: stories.detokenize([6144])).code() == Code.INVALID_ARGUMENT
    assert refusal(lambda: stories.detokenize([-1])).code() == Code.INVALID_ARGUMENT
    # There is no tokenizer to ask, whatever the text.
    assert refusal(lambda: null_client.tokenize("x")).code() in (
        Code.FAILED_PRECONDITION,
        Code.UNIMPLEMENTED,
    )


def test_a_full_queue_refuses_at_once_with_a_hint() -> None:
    flags = ("--max-num-seqs=16", "--max-queued-requests=2", "--kv-cache-pages=512")
    with ServerProcess(STORIES_MODEL, *flags) as server, server.client() as client:
        # 16 choices of a thousand tokens take every slot for seconds.
        streams = [client.stream([1, 300], n=16, ignore_eos=True)]
        next(streams[0])
        streams += [client.stream([1, 300], ignore_eos=True) for _ in range(2)]
        assert eventually(lambda: server.stats().requests_waiting == 2)
        error = refusal(lambda: client.generate([1, 300], max_tokens=1))
        assert error.code() == Code.RESOURCE_EXHAUSTED
        hint = dict(error.trailing_metadata())["retry-after-ms"]
        assert int(hint) > 0
        with server.client(retry=RetryPolicy(max_attempts=100)) as patient:
            leaving = threading.Timer(0.3, lambda: [stream.cancel() for stream in streams])
            leaving.start()
            patient.generate([1, 300], max_tokens=1)
            leaving.join()
        assert eventually(lambda: server.stats().requests_finished == 4)


def test_a_limit_that_waiting_does_not_mend_has_no_hint() -> None:
    """So that the client does not have the server generate the same reply again and again."""
    flags = ("--max-response-bytes=64KiB", "--max-context-tokens=100000")
    with ServerProcess("null", *flags) as server, server.client(retry=RetryPolicy()) as client:
        error = refusal(lambda: client.generate([1], max_tokens=90000, logprobs=0))
        assert error.code() == Code.RESOURCE_EXHAUSTED
        assert "use GenerateStream" in error.details()
        assert "retry-after-ms" not in dict(error.trailing_metadata())
        assert server.stats().requests_submitted == 1


def test_a_request_that_can_never_fit_is_refused() -> None:
    with ServerProcess("null", "--kv-cache-pages=8") as server, server.client() as client:
        error = refusal(lambda: client.generate([1] * 1000, max_tokens=10))
        assert error.code() == Code.INVALID_ARGUMENT, error.details()
        client.generate([1] * 100, max_tokens=10)
