"""Who may talk to the server, how much, and about whose requests."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from certificates import Certificates
from parallax_client import Client, ServingStatus, TlsOptions
from server_process import NO_RETRY, STORIES_MODEL, ServerProcess, eventually

Code = grpc.StatusCode
ALICE, BOB = "alice-0123456789abcdef", "bob-fedcba9876543210"
PROMPT = "Once upon a time"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# name token limits\nalice {ALICE}\nbob {BOB} max_concurrent=1\n")
    return path


def code_of(call: Any) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return Code.OK


def refusal_of(call: Any) -> tuple[grpc.StatusCode, str, frozenset[str]]:
    """All that a stranger sees of it: code, message, names of trailing metadata."""
    with pytest.raises(grpc.RpcError) as failure:
        call()
    error = failure.value
    return error.code(), error.details(), frozenset(dict(error.trailing_metadata() or ()))


def test_what_is_wrong_with_a_token_is_not_said(tokens: Path) -> None:
    """Of none, a wrong one, a part of a right one and another scheme the answers are equal."""
    with ServerProcess("null", f"--auth-token-file={tokens}") as server:
        with grpc.insecure_channel(server.address) as channel:
            for method in ("Generate", "GenerateStream", "Tokenize", "Detokenize", "GetModelInfo", "Abort"):
                stream = method == "GenerateStream"
                path = f"/parallax.v1.InferenceService/{method}"
                call = channel.unary_stream(path) if stream else channel.unary_unary(path)
                values = (None, "Bearer wrong", f"Bearer {ALICE[:-1]}", f"Bearer {ALICE}x", f"Basic {ALICE}")
                refusals = set()
                for value in values:
                    metadata = [("authorization", value)] if value else []
                    perform = lambda: call(b"", metadata=metadata)  # noqa: B023, E731
                    refusals.add(refusal_of(lambda: list(perform()) if stream else perform()))
                assert len(refusals) == 1, refusals
                ((code, details, _),) = refusals
                assert code == Code.UNAUTHENTICATED, method
                assert ALICE not in details and "wrong" not in details


def test_bearer_tokens(tokens: Path) -> None:
    with ServerProcess("null", f"--auth-token-file={tokens}") as server:
        for token, expected in (
            (None, Code.UNAUTHENTICATED),
            ("wrong", Code.UNAUTHENTICATED),
            (ALICE[:-1], Code.UNAUTHENTICATED),
            (ALICE, Code.OK),
            (BOB, Code.OK),
        ):
            with server.client(token=token) as client:
                assert code_of(lambda: client.generate([1], max_tokens=1)) == expected
                assert code_of(lambda: list(client.stream([1], max_tokens=1))) == expected
                assert code_of(client.model_info) == expected
                assert code_of(lambda: client.abort(["x"])) == expected
                # The null model has no tokenizer, which is told to callers only.
                told = Code.FAILED_PRECONDITION if expected is Code.OK else expected
                assert code_of(lambda: client.tokenize("x")) == told
                assert code_of(lambda: client.detokenize([1])) == told
                # A supervisor needs no token to ask whether the server lives.
                assert client.health() is ServingStatus.SERVING
        assert ALICE not in server.log() and BOB not in server.log()


def test_abort_and_cache_belong_to_the_caller(tokens: Path) -> None:
    flags = (f"--auth-token-file={tokens}", "--kv-cache-pages=128")
    with ServerProcess(STORIES_MODEL, *flags) as server:
        with server.client(token=ALICE) as alice, server.client(token=BOB) as bob:
            with alice.stream(PROMPT, request_id="a", ignore_eos=True) as stream:
                next(stream)
                response = bob.abort(["a"])
                assert list(response.not_found) == ["a"] and not response.aborted
                assert list(alice.abort(["a"]).aborted) == ["a"]
                assert code_of(lambda: list(stream)) == Code.CANCELLED
            prompt = "A beginning that fills a page of the cache and more. " * 10
            alice.generate(prompt, max_tokens=1)
            assert bob.generate(prompt, max_tokens=1).usage.cached_tokens == 0
            assert alice.generate(prompt, max_tokens=1).usage.cached_tokens >= 64


def test_concurrency_limit_of_a_token(tokens: Path) -> None:
    flags = (f"--auth-token-file={tokens}", "--kv-cache-pages=128")
    with ServerProcess(STORIES_MODEL, *flags) as server:
        with server.client(token=ALICE) as alice, server.client(token=BOB) as bob:
            with bob.stream(PROMPT, ignore_eos=True) as stream:
                next(stream)
                assert code_of(lambda: bob.generate(PROMPT, max_tokens=1)) == Code.RESOURCE_EXHAUSTED
                assert code_of(lambda: alice.generate(PROMPT, max_tokens=1)) == Code.OK
            # The server gives a cancelled call's place back in its own time, once the engine has ended it.
            assert eventually(lambda: code_of(lambda: bob.generate(PROMPT, max_tokens=1)) == Code.OK), (
                "the cancelled call keeps its place")
            assert server.stats().requests_running == 0


def test_tokens_are_reloaded(tokens: Path) -> None:
    with ServerProcess("null", f"--auth-token-file={tokens}") as server:
        with server.client(token="carol-0123456789") as carol:
            assert code_of(carol.model_info) == Code.UNAUTHENTICATED
            tokens.write_text("carol carol-0123456789\n")
            server.signal(signal.SIGHUP)
            assert eventually(lambda: code_of(carol.model_info) == Code.OK)
        with server.client(token=ALICE) as alice:
            assert code_of(alice.model_info) == Code.UNAUTHENTICATED


def tls_client(server: ServerProcess, **files: str) -> Client:
    return Client(server.address, tls=TlsOptions(**files), retry=NO_RETRY)


def test_tls(certificates: Certificates) -> None:
    flags = (f"--tls-cert={certificates.server_cert}", f"--tls-key={certificates.server_key}")
    with ServerProcess("null", *flags) as server:
        with tls_client(server, ca_file=certificates.ca) as client:
            assert client.generate([1], max_tokens=2).usage.completion_tokens == 2
            assert client.health() is ServingStatus.SERVING
        with tls_client(server) as distrustful:  # the system's authorities do not know it
            assert code_of(lambda: distrustful.model_info(timeout=10)) == Code.UNAVAILABLE
        with server.client() as plaintext:
            assert code_of(lambda: plaintext.model_info(timeout=10)) == Code.UNAVAILABLE


def test_mutual_tls(certificates: Certificates) -> None:
    with ServerProcess(
        "null",
        f"--tls-cert={certificates.server_cert}",
        f"--tls-key={certificates.server_key}",
        f"--tls-client-ca={certificates.ca}",
    ) as server:
        with tls_client(
            server,
            ca_file=certificates.ca,
            cert_file=certificates.client_cert,
            key_file=certificates.client_key,
        ) as client:
            assert code_of(client.model_info) == Code.OK
        with tls_client(server, ca_file=certificates.ca) as anonymous:
            assert code_of(lambda: anonymous.model_info(timeout=10)) == Code.UNAVAILABLE
        with tls_client(
            server,
            ca_file=certificates.ca,
            cert_file=certificates.stranger_cert,
            key_file=certificates.stranger_key,
        ) as stranger:
            assert code_of(lambda: stranger.model_info(timeout=10)) == Code.UNAVAILABLE


def test_the_admin_port_is_apart() -> None:
    """No admin method on the public port, no inference on the admin port."""
    with ServerProcess("null") as server:
        with grpc.insecure_channel(server.address) as channel:
            call = channel.unary_unary("/parallax.v1.AdminService/GetStats")
            assert code_of(lambda: call(b"")) == Code.UNIMPLEMENTED
        with Client(server.admin_address, retry=NO_RETRY) as client:
            assert code_of(client.model_info) == Code.UNIMPLEMENTED


def test_message_size_is_bounded() -> None:
    with ServerProcess("null", "--max-message-bytes=64KiB") as server, server.client() as client:
        assert code_of(lambda: client.generate([300] * 60000)) == Code.RESOURCE_EXHAUSTED
        assert code_of(lambda: client.generate([300], max_tokens=1)) == Code.OK


def test_pings_of_an_idle_connection_are_accepted() -> None:
    """A client that pings every 10 s with no call open keeps its connection."""
    options = [
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with ServerProcess("null") as server:
        with grpc.insecure_channel(server.address, options=options) as channel:
            states: list[grpc.ChannelConnectivity] = []
            channel.subscribe(states.append, try_to_connect=True)
            ready = grpc.ChannelConnectivity.READY
            assert eventually(lambda: ready in states)
            # Three strikes would end the connection: wait for four pings.
            assert not eventually(lambda: states[-1] != ready, timeout=42)
