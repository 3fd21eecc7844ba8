"""What one caller can do to the others and to the log. deploy/SECURITY.md says what follows."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from parallax_client import Client
from parallax_client.v1 import inference_pb2
from raw_http2 import is_answered, send_call, unread_call
from server_process import NO_RETRY, STORIES_MODEL, ServerProcess, eventually
from vllm_stubs import pb, rpc

Code = grpc.StatusCode
ALICE, BOB = "alice-0123456789abcdef", "bob-fedcba9876543210"
LONG_PROMPT = "A beginning that fills a page of the cache and more. " * 10
PAGE_TOKENS = 64
INFO = "/parallax.v1.InferenceService/GetModelInfo"


def token_file(folder: Path, alices_limits: str = "") -> str:
    path = folder / "tokens"
    path.write_text(f"alice {ALICE} {alices_limits}\nbob {BOB}\n")
    return f"--auth-token-file={path}"


def cached_tokens(client: Client, **parameters: Any) -> int:
    """How much of the long prompt the server had computed before."""
    response = client.generate(LONG_PROMPT, max_tokens=1, **parameters)
    assert response.usage.prompt_tokens > PAGE_TOKENS
    return response.usage.cached_tokens


def test_callers_with_tokens_share_no_cached_prefix(tmp_path: Path) -> None:
    """The default with tokens; naming the other's tenant does not help."""
    with ServerProcess(STORIES_MODEL, "--kv-cache-pages=128", token_file(tmp_path)) as server:
        with server.client(token=ALICE) as alice, server.client(token=BOB) as bob:
            for tenant in (None, "shared"):
                assert cached_tokens(alice, tenant=tenant) == 0
                assert cached_tokens(alice, tenant=tenant) >= PAGE_TOKENS
                hits = server.stats().prefix_cache_hit_tokens
                assert cached_tokens(bob, tenant=tenant) == 0
                assert server.stats().prefix_cache_hit_tokens == hits
                assert cached_tokens(bob, tenant=tenant) >= PAGE_TOKENS


def test_callers_without_tokens_share_the_cache_unless_they_name_tenants() -> None:
    with ServerProcess(STORIES_MODEL, "--kv-cache-pages=128") as server:
        with server.client() as first, server.client() as second:
            assert cached_tokens(first) == 0
            assert cached_tokens(second) >= PAGE_TOKENS
            assert cached_tokens(second, tenant="own") == 0


def test_without_a_prefix_cache_nothing_is_shared() -> None:
    flags = ("--kv-cache-pages=128", "--no-prefix-cache")
    with ServerProcess(STORIES_MODEL, *flags) as server, server.client() as client:
        assert [cached_tokens(client) for _ in range(2)] == [0, 0]


def test_of_two_authorizations_neither_counts(tmp_path: Path) -> None:
    with ServerProcess("null", token_file(tmp_path)) as server:
        with grpc.insecure_channel(server.address) as channel:
            call = channel.unary_unary(INFO)
            header = ("authorization", f"Bearer {ALICE}")
            assert call(b"", metadata=[header])
            with pytest.raises(grpc.RpcError) as refusal:
                call(b"", metadata=[header, header])
            assert refusal.value.code() == Code.UNAUTHENTICATED


def test_all_users_of_one_gateway_share_the_cache(tmp_path: Path) -> None:
    """The gateway's contract names no user: its token is everybody's."""
    with ServerProcess(STORIES_MODEL, "--kv-cache-pages=128", token_file(tmp_path)) as server:
        with grpc.insecure_channel(server.address) as channel:
            generate = rpc.VllmEngineStub(channel).Generate
            request = pb.GenerateRequest(text=LONG_PROMPT)
            request.sampling_params.max_tokens = 1

            def cached(token: str) -> int:
                call = generate(request, metadata=[("authorization", f"Bearer {token}")])
                return [message.complete.cached_tokens for message in call][-1]

            assert cached(ALICE) == 0
            assert cached(ALICE) >= PAGE_TOKENS
            assert cached(BOB) == 0


def flood(address: str, stop: threading.Event, codes: list[grpc.StatusCode]) -> None:
    with Client(address, token=ALICE, retry=NO_RETRY) as client:
        while not stop.wait(0.001):
            try:
                client.generate([1, 300], max_tokens=40, ignore_eos=True)
                codes.append(Code.OK)
            except grpc.RpcError as error:
                codes.append(error.code())


def test_a_flood_by_a_limited_caller_shuts_nobody_out(tmp_path: Path) -> None:
    """With max_concurrent below the queue's bound the others are never refused, and are served."""
    flags = ("--max-num-seqs=2", "--max-queued-requests=8", "--kv-cache-pages=64")
    limited = token_file(tmp_path, "max_concurrent=4")
    with ServerProcess(STORIES_MODEL, *flags, limited) as server:
        stop = threading.Event()
        codes: list[grpc.StatusCode] = []
        threads = [
            threading.Thread(target=flood, args=(server.address, stop, codes)) for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        try:
            assert eventually(lambda: Code.RESOURCE_EXHAUSTED in codes and Code.OK in codes)
            with server.client(token=BOB) as bob:
                for _ in range(10):
                    response = bob.generate([1, 300], max_tokens=4, ignore_eos=True, timeout=60)
                    assert response.usage.completion_tokens == 4
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        assert set(codes) == {Code.OK, Code.RESOURCE_EXHAUSTED}


def test_an_unlimited_caller_fills_the_queue_of_all(tmp_path: Path) -> None:
    """The queue has one bound for everybody. Whoever is refused is told when to come back, and is
    served once there is room."""
    flags = ("--max-num-seqs=16", "--max-queued-requests=2", "--kv-cache-pages=512")
    with ServerProcess(STORIES_MODEL, *flags, token_file(tmp_path)) as server:
        with server.client(token=ALICE) as alice, server.client(token=BOB) as bob:
            # 16 choices of a thousand tokens take every slot for seconds.
            streams = [alice.stream([1, 300], n=16, ignore_eos=True)]
            next(streams[0])
            streams += [alice.stream([1, 300], ignore_eos=True) for _ in range(2)]
            assert eventually(lambda: server.stats().requests_waiting == 2)
            with pytest.raises(grpc.RpcError) as refusal:
                bob.generate([1, 300], max_tokens=1)
            assert refusal.value.code() == Code.RESOURCE_EXHAUSTED
            assert int(dict(refusal.value.trailing_metadata())["retry-after-ms"]) > 0
            for stream in streams:
                stream.cancel()
            assert eventually(lambda: server.stats().requests_waiting == 0)
            assert bob.generate([1, 300], max_tokens=1).usage.completion_tokens == 1


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
def test_who_takes_nothing_of_its_answer_loses_it(method: str) -> None:
    """The connection stays; neither gRPC nor the engine would ever end the call."""

    def ended(server: ServerProcess, code: str) -> float:
        name = f'parallax:grpc_requests_total{{method="{method}",code="{code}"}}'
        return server.metrics().get(name, 0)

    flags = ("--read-timeout=1s", "--max-context-tokens=100000", "--kv-cache-pages=2000")
    with ServerProcess("null", *flags) as server:
        request = inference_pb2.GenerateRequest()
        request.token_ids.ids.append(1)
        request.stopping.max_tokens = 60000
        path = f"/parallax.v1.InferenceService/{method}"
        with unread_call(server.address, path, request.SerializeToString()):
            assert eventually(lambda: ended(server, "RESOURCE_EXHAUSTED") == 1)
            assert server.stats().requests_finished == 1
        assert ended(server, "OK") == 0
        (line,) = [line for line in server.log().splitlines() if "request_ended" in line]
        assert "took nothing of its output for 1s" in json.loads(line)["message"]
        assert server.stop() == 0


def test_a_reply_of_the_tokenizer_is_not_kept_either() -> None:
    flags = ("--read-timeout=1s", "--grace-period=1s")
    with ServerProcess(STORIES_MODEL, *flags) as server:
        request = inference_pb2.TokenizeRequest(text="~" * 15000)
        path = "/parallax.v1.InferenceService/Tokenize"
        with unread_call(server.address, path, request.SerializeToString()):
            time.sleep(3)
            assert server.stop() == 0, "at the end a call was still open"


FORGED = b'x\n{"level":"error","event":"forged"}\n'


def test_a_header_with_a_line_break_forges_no_log_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC's own error lines quote headers as they came, so deploy/ runs servers without them."""
    monkeypatch.setenv("GRPC_VERBOSITY", "NONE")
    names = (b"te", b":scheme", b"grpc-timeout", b"grpc-encoding", b"content-type", b"x-note")
    with ServerProcess("null") as server:
        for name in names:
            send_call(server.address, INFO, {name: FORGED})
        assert server.stop() == 0
        for line in server.log().splitlines():
            assert json.loads(line)["event"] != "forged"


@pytest.mark.parametrize("header", [b"te", b":scheme", b"grpclb_client_stats"])
@pytest.mark.parametrize("excess", [9000, 40000])
def test_bad_headers_beyond_the_size_limit_end_no_server(
    null_server: ServerProcess, header: bytes, excess: int
) -> None:
    """CVE-2023-1428: these made some versions of gRPC abort the process."""
    send_call(null_server.address, INFO, {header: b"x", b"x-large": b"a" * excess})
    with null_server.client() as client:
        assert client.model_info().name == "null"


def test_a_binary_header_that_is_no_base64_ends_its_own_connection_only(
    null_server: ServerProcess,
) -> None:
    """CVE-2023-32732: all calls of that connection. Hence a front must not share one."""
    assert is_answered(null_server.address, INFO, {b"x-bin": b"YQ"})
    with null_server.client() as client:
        before = client.model_info()
        assert not is_answered(null_server.address, INFO, {b"x-bin": b"***"})
        assert client.model_info() == before
