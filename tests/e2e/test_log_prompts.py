"""--log-prompts: what of callers' texts reaches the log, and that nothing does without it."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import grpc
import pytest

from server_process import STORIES_MODEL, ServerProcess, eventually
from vllm_stubs import pb, rpc

PROMPT = "a rather secret beginning"


def prompts(server: ServerProcess) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "request_prompt"]


def ask_both_services(server: ServerProcess, prompt: str) -> None:
    with server.client() as client:
        client.generate(prompt, max_tokens=1, request_id="own")
        ids = client.tokenize(prompt)
        list(client.stream(ids, max_tokens=1))
    with grpc.insecure_channel(server.address) as channel:
        request = pb.GenerateRequest(request_id="engine", text=prompt)
        request.sampling_params.max_tokens = 1
        list(rpc.VllmEngineStub(channel).Generate(request))


@pytest.mark.parametrize("flags", [[], ["--log-level=debug"]])
def test_prompts_are_not_logged_at_any_level(flags: list[str]) -> None:
    with ServerProcess(STORIES_MODEL, *flags) as server:
        ask_both_services(server, PROMPT)
        assert server.stop() == 0
        assert "request_ended" in server.log()
        assert "secret" not in server.log()


def test_stop_strings_are_not_logged_even_where_they_are_refused() -> None:
    for model, stop in ((STORIES_MODEL, ["a secret", "a secret"]), ("null", ["a secret"])):
        with ServerProcess(model) as server, server.client() as client:
            with pytest.raises(grpc.RpcError) as refusal:
                client.generate([1], max_tokens=1, stop=stop)
            assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "stopping.stop" in refusal.value.details()
            assert server.stop() == 0
            assert "stopping.stop" in server.log() and "secret" not in server.log()


def test_prompts_are_logged_only_if_asked_for() -> None:
    with ServerProcess(STORIES_MODEL, "--log-prompts") as server:
        ask_both_services(server, PROMPT)
        assert eventually(lambda: len(prompts(server)) == 3)
        by_name = {line["method"]: line for line in prompts(server)}
        assert by_name["Generate"]["request_id"] == "own"
        assert by_name["VllmGenerate"]["request_id"] == "engine"
        for line in by_name.values():  # as text or as token ids
            assert PROMPT in line["prompt"] and line["is_cut"] is False
            assert line["prompt_tokens"] > 3
        with urllib.request.urlopen(server.metrics_url.replace("/metrics", "/status.json")) as page:
            assert b"secret" not in page.read()


def test_a_hostile_prompt_forges_no_line_and_a_long_one_is_cut() -> None:
    with ServerProcess(STORIES_MODEL, "--log-prompts") as server, server.client() as client:
        client.generate('x"}\n{"event":"forged"}', max_tokens=1)
        client.generate("word " * 900, max_tokens=1)
        assert eventually(lambda: len(prompts(server)) == 2)
        hostile, long = prompts(server)
        assert '\n{"event":"forged"}' in hostile["prompt"]
        assert len(long["prompt"]) == 2048 and long["is_cut"] is True
        events = [json.loads(line)["event"] for line in server.log().splitlines() if line.startswith("{")]
        assert "forged" not in events
