"""VllmEngine, the gateway's contract, on the wire: what a gateway calls and gets."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from typing import Any, Iterator

import grpc
import pytest

from parallax_client import Client
from parallax_client.v1 import admin_pb2
from server_process import NO_RETRY, STORIES_MODEL, ServerProcess, eventually
from vllm_stubs import common, pb, rpc

Code = grpc.StatusCode
PROMPT = "Once upon a time there was a little"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
KNOWN = {"max_tokens": 12, "temperature": 0.0}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(STORIES_MODEL, "--kv-cache-pages=128", "--kv-events") as process:
        yield process
        assert process.stop() == 0, process.log()


@pytest.fixture
def engine(server: ServerProcess) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield rpc.VllmEngineStub(channel)


def request(text: str = PROMPT, stream: bool = False, request_id: str = "", **sampling: Any):
    return pb.GenerateRequest(
        request_id=request_id,
        text=text,
        stream=stream,
        sampling_params=pb.SamplingParams(**{**KNOWN, **sampling}),
    )


def failure(call: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    return error.value


def log_line(server: ServerProcess, request_id: str) -> dict[str, Any]:
    def lines() -> list[dict[str, Any]]:
        every = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
        return [line for line in every if line.get("request_id") == request_id]

    assert eventually(lambda: len(lines()) > 0)
    found = lines()
    assert len(found) == 1, "one line a request"
    return found[0]


def test_output_is_that_of_the_own_service(server: ServerProcess, engine: Any) -> None:
    with server.client() as client:
        own = client.generate(PROMPT, temperature=0, repetition_penalty=1, max_tokens=12)
    (complete,) = [message.complete for message in engine.Generate(request())]
    assert list(complete.output_ids) == list(own.choices[0].token_ids)
    assert complete.finish_reason == "length"
    assert complete.prompt_tokens == own.usage.prompt_tokens
    assert complete.completion_tokens == 12


def test_a_stream_adds_up_to_its_completes(engine: Any) -> None:
    ids: dict[int, list[int]] = {}
    logprobs: dict[int, list[float]] = {}
    completes = {}
    sampling = {"n": 3, "seed": 7, "temperature": 1.0, "logprobs": 2, "prompt_logprobs": 1}
    input_logprobs = []
    for message in engine.Generate(request(stream=True, **sampling)):
        if message.HasField("complete"):
            assert message.complete.index not in completes
            completes[message.complete.index] = message.complete
            continue
        chunk = message.chunk
        assert chunk.index not in completes, "nothing may follow a choice's complete"
        ids.setdefault(chunk.index, []).extend(chunk.token_ids)
        logprobs.setdefault(chunk.index, []).extend(chunk.output_logprobs.token_logprobs)
        assert all(len(top.values) == 2 for top in chunk.output_logprobs.top_logprobs)
        if chunk.token_ids:
            assert chunk.completion_tokens == len(ids[chunk.index])
        input_logprobs += list(chunk.input_logprobs.token_logprobs)
    assert sorted(completes) == [0, 1, 2]
    for index, complete in completes.items():
        assert list(complete.output_ids) == ids[index]
        assert complete.completion_tokens == len(ids[index]) == 12
        assert len(logprobs[index]) == len(ids[index])
    assert not input_logprobs[0].HasField("value"), "the first prompt token has none"
    assert all(position.HasField("value") for position in input_logprobs[1:])
    assert len(input_logprobs) == completes[0].prompt_tokens


def test_stops_and_token_ids(server: ServerProcess, engine: Any) -> None:
    with server.client() as client:
        prompt = client.tokenize(PROMPT)
    tokenized = pb.GenerateRequest(
        tokenized=pb.TokenizedInput(input_ids=prompt), sampling_params=pb.SamplingParams(**KNOWN)
    )
    (by_ids,) = engine.Generate(tokenized)
    (by_text,) = engine.Generate(request())
    assert by_ids.complete.output_ids == by_text.complete.output_ids
    stop = by_text.complete.output_ids[3]
    (stopped,) = engine.Generate(request(stop_token_ids=[stop]))
    assert stopped.complete.finish_reason == "stop"
    assert stopped.complete.matched_token_id == stop
    (stopped,) = engine.Generate(request(stop=["e"], max_tokens=100))
    assert stopped.complete.finish_reason == "stop"
    assert stopped.complete.matched_stop_str == "e"


@pytest.mark.parametrize(
    ("sampling", "code", "field"),
    [
        ({"json_schema": "{}"}, Code.UNIMPLEMENTED, "sampling_params.json_schema"),
        ({"choice": pb.ChoiceConstraint(choices=["a"])}, Code.UNIMPLEMENTED, "choice"),
        ({"top_p": 2.0}, Code.INVALID_ARGUMENT, "sampling_params.top_p"),
        ({"max_tokens": 5000}, Code.INVALID_ARGUMENT, "sampling_params.max_tokens"),
        ({"n": 1000}, Code.INVALID_ARGUMENT, "sampling_params.n"),
        ({"logprobs": 1000}, Code.INVALID_ARGUMENT, "sampling_params.logprobs"),
    ],
)
def test_refusals_name_the_field(engine: Any, sampling: dict, code: Code, field: str) -> None:
    error = failure(engine.Generate(request(**sampling)))
    assert (error.code(), field in error.details()) == (code, True), error.details()


def test_embeddings_and_other_contracts_are_unimplemented(server: ServerProcess, engine: Any) -> None:
    with pytest.raises(grpc.RpcError) as error:
        engine.Embed(pb.EmbedRequest())
    assert error.value.code() == Code.UNIMPLEMENTED
    with grpc.insecure_channel(server.address) as channel:
        other = channel.unary_unary("/sglang.grpc.scheduler.SglangScheduler/HealthCheck")
        with pytest.raises(grpc.RpcError) as error:
            other(b"")
        assert error.value.code() == Code.UNIMPLEMENTED


def test_abort_ends_the_stream_and_may_be_repeated(server: ServerProcess, engine: Any) -> None:
    stream = engine.Generate(
        request(stream=True, request_id="abort-me", max_tokens=900, ignore_eos=True)
    )
    next(stream)
    for _ in range(2):
        engine.Abort(pb.AbortRequest(request_ids=["abort-me", "not-live"]))
    assert failure(stream).code() == Code.CANCELLED
    line = log_line(server, "abort-me")
    assert (line["finish_reason"], line["code"]) == ("cancelled", "CANCELLED")


def test_ids_and_trace_context_come_back_and_stand_in_the_log(server: ServerProcess, engine: Any) -> None:
    call = engine.Generate(
        request("a secret prompt", request_id="traced"), metadata=[("traceparent", TRACEPARENT)]
    )
    (complete,) = [message.complete for message in call]
    trailing = dict(call.trailing_metadata())
    assert trailing["x-request-id"] == "traced"
    assert trailing["traceparent"] == TRACEPARENT
    line = log_line(server, "traced")
    assert line["event"] == "request_ended"
    assert line["traceparent"] == TRACEPARENT
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert line["finish_reason"] == "length"
    assert line["prompt_tokens"] == complete.prompt_tokens
    assert line["completion_tokens"] == 12
    assert line["total_us"] >= line["queue_us"] + line["prefill_us"] + line["decode_us"] > 0
    assert "secret" not in server.log()


def test_the_own_service_does_the_same(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        from parallax_client.v1 import inference_pb2, inference_pb2_grpc

        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        wanted = inference_pb2.GenerateRequest(text="hidden words", request_id="own")
        wanted.stopping.max_tokens = 2
        for forged, echoed in (("00-" + "0" * 32 + "-b7ad6b7169203331-01", None), (TRACEPARENT, TRACEPARENT)):
            wanted.request_id = f"own-{echoed is None}"
            _, call = stub.Generate.with_call(wanted, metadata=[("traceparent", forged)])
            trailing = dict(call.trailing_metadata())
            assert trailing["x-request-id"] == wanted.request_id
            assert trailing.get("traceparent") == echoed
            line = log_line(server, wanted.request_id)
            assert line["traceparent"] == (echoed or "")
            assert line["method"] == "Generate"
    assert "hidden" not in server.log()


FORGED = 'x"}\n{"event":"forged"}'


def test_a_hostile_request_id_is_refused_and_forges_no_log_line(server: ServerProcess, engine: Any) -> None:
    """Nor does another text that the refusal quotes."""

    def refused() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
        assert all(line["event"] != "forged" for line in lines)
        return [line for line in lines if line.get("code") in ("INVALID_ARGUMENT", "NOT_FOUND")]

    before = len(refused())
    error = failure(engine.Generate(request(request_id=FORGED)))
    assert error.code() == Code.INVALID_ARGUMENT
    with server.client() as client:
        for hostile in ({"request_id": FORGED}, {"model": FORGED}):
            with pytest.raises(grpc.RpcError):
                client.generate("Once", max_tokens=1, **hostile)
    assert eventually(lambda: len(refused()) == before + 3)
    by_engine, by_id, by_model = refused()[before:]
    assert (by_engine["method"], by_id["method"]) == ("VllmGenerate", "Generate")
    for line in (by_engine, by_id, by_model):
        assert len(line["request_id"]) == 32, "the server's own"
    assert FORGED in by_model["message"], "quoted, and so told as it came"


def test_what_a_gateway_asks_before_it_routes(engine: Any) -> None:
    assert engine.HealthCheck(pb.HealthCheckRequest()).healthy
    info = engine.GetModelInfo(pb.GetModelInfoRequest())
    assert info.served_model_name == STORIES_MODEL.name
    assert info.is_generation and not info.supports_vision
    assert (info.vocab_size, info.max_context_length) == (6144, 1024)
    assert list(info.eos_token_ids) == [2] and info.bos_token_id == 1
    assert not info.tokenizer_path and "/" not in info.model_path, "no path of the machine"
    assert engine.GetServerInfo(pb.GetServerInfoRequest()).data_parallel_size == 1
    (load,) = engine.GetLoads(pb.GetLoadsRequest()).loads
    assert load.max_total_num_tokens == 128 * 64
    assert 0 <= load.token_usage <= 1


def test_loads_count_running_requests(engine: Any) -> None:
    stream = engine.Generate(request(stream=True, max_tokens=900, ignore_eos=True))
    next(stream)
    assert engine.GetLoads(pb.GetLoadsRequest()).loads[0].num_running_reqs == 1
    assert engine.GetServerInfo(pb.GetServerInfoRequest()).active_requests == 1
    stream.cancel()
    assert eventually(lambda: engine.GetLoads(pb.GetLoadsRequest()).loads[0].num_total_reqs == 0)


def test_the_tokenizer_is_a_zip_of_the_folders_files(engine: Any) -> None:
    chunks = list(engine.GetTokenizer(common.GetTokenizerRequest()))
    assert [bool(chunk.sha256) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert max(len(chunk.data) for chunk in chunks) <= 64 << 10
    data = b"".join(chunk.data for chunk in chunks)
    assert hashlib.sha256(data).hexdigest() == chunks[-1].sha256
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert "chat_template.jinja" in archive.namelist()
        assert "model.safetensors" not in archive.namelist()
        for name in archive.namelist():
            assert archive.read(name) == (STORIES_MODEL / name).read_bytes()


def stored_pages(batch: Any) -> list[Any]:
    return [block for event in batch.events for block in event.stored.blocks]


def test_kv_events_tell_what_the_cache_holds(server: ServerProcess, engine: Any) -> None:
    # While a page is in use a flush does not clear the cache.
    assert eventually(lambda: server.stats().pages_used == 0), f"in use: {server.stats()}"
    server.admin.FlushPrefixCache(admin_pb2.FlushPrefixCacheRequest())
    events = engine.SubscribeKvEvents(
        common.SubscribeKvEventsRequest(start_sequence_number=0), timeout=60
    )
    words = " ".join(f"word{i}" for i in range(60))
    with server.client() as client:
        ids = client.tokenize(words)
    list(engine.Generate(request(words, max_tokens=1)))
    pages, last, flushed = [], 0, False
    for batch in events:  # those of the tests before, then those since the flush
        assert batch.sequence_number == last + 1
        last = batch.sequence_number
        for event in batch.events:
            if event.HasField("cleared"):
                pages, flushed = [], True
            pages += event.stored.blocks
        if flushed and len(pages) >= len(ids) // 64:
            break
    assert [token for page in pages for token in page.token_ids] == ids[: 64 * len(pages)]
    server.admin.FlushPrefixCache(admin_pb2.FlushPrefixCacheRequest())
    assert any(event.HasField("cleared") for event in next(events).events)
    # A subscriber that lost its connection goes on where it was.
    events.cancel()
    again = engine.SubscribeKvEvents(
        common.SubscribeKvEventsRequest(start_sequence_number=last + 1)
    )
    assert next(again).sequence_number == last + 1
    again.cancel()


def test_kv_events_are_off_unless_asked_for() -> None:
    with ServerProcess("null") as server, grpc.insecure_channel(server.address) as channel:
        engine = rpc.VllmEngineStub(channel)
        error = failure(engine.SubscribeKvEvents(common.SubscribeKvEventsRequest()))
        assert error.code() == Code.UNIMPLEMENTED and "--kv-events" in error.details()
        error = failure(engine.GetTokenizer(common.GetTokenizerRequest()))
        assert error.code() == Code.FAILED_PRECONDITION


def test_a_subscriber_does_not_hold_up_the_end_and_a_drain_is_seen() -> None:
    with ServerProcess("null", "--kv-events") as server:
        with grpc.insecure_channel(server.address) as channel:
            engine = rpc.VllmEngineStub(channel)
            events = engine.SubscribeKvEvents(common.SubscribeKvEventsRequest())
            server.admin.Drain(admin_pb2.DrainRequest(timeout_ms=1000))
            assert eventually(lambda: not engine.HealthCheck(pb.HealthCheckRequest()).healthy)
            tokens = pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=[1]))
            assert failure(engine.Generate(tokens)).code() == Code.UNAVAILABLE
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 10
            assert failure(events).code() in {Code.UNAVAILABLE, Code.CANCELLED}


def test_tokens_are_asked_for_but_health_is_not_a_secret(tmp_path) -> None:
    path = tmp_path / "tokens"
    path.write_text("alice alice-0123456789abcdef\nbob bob-fedcba9876543210\n")
    with ServerProcess("null", f"--auth-token-file={path}", "--kv-events") as server:
        with grpc.insecure_channel(server.address) as channel:
            engine = rpc.VllmEngineStub(channel)
            assert engine.HealthCheck(pb.HealthCheckRequest()).healthy
            tokens = pb.GenerateRequest(
                request_id="hers", stream=True, tokenized=pb.TokenizedInput(input_ids=[1])
            )
            tokens.sampling_params.max_tokens = 2000
            for refused in (
                lambda: list(engine.Generate(tokens)),
                lambda: engine.Abort(pb.AbortRequest(request_ids=["x"])),
                lambda: engine.GetModelInfo(pb.GetModelInfoRequest()),
                lambda: engine.GetServerInfo(pb.GetServerInfoRequest()),
                lambda: engine.GetLoads(pb.GetLoadsRequest()),
                lambda: list(engine.GetTokenizer(common.GetTokenizerRequest())),
                lambda: list(engine.SubscribeKvEvents(common.SubscribeKvEventsRequest())),
            ):
                with pytest.raises(grpc.RpcError) as error:
                    refused()
                assert error.value.code() == Code.UNAUTHENTICATED
            alice = [("authorization", "Bearer alice-0123456789abcdef")]
            (message, *_) = engine.Generate(tokens, metadata=alice)
            assert message.chunk.token_ids
