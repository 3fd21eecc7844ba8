"""The official OpenAI client through the gateway."""

from __future__ import annotations

import json
from contextlib import ExitStack

import openai
import pytest

from fleet import Fleet
from free_ports import free_port
from server_process import STORIES_MODEL, eventually

MODEL = STORIES_MODEL.name
ONCE = [{"role": "user", "content": "Once upon a time there was a little"}]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_chat_streams_what_it_returns_at_once(shared_fleet: Fleet) -> None:
    client = shared_fleet.gateway.client()
    asked = {"model": MODEL, "messages": ONCE, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 24
    text, reason, pieces = "", None, 0
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            pieces += bool(choice.delta.content)
            reason = choice.finish_reason or reason
    assert (text, reason) == (whole.choices[0].message.content, "length")
    assert pieces > 5, "a stream, not one piece"


def test_chat_is_the_models_own_continuation(shared_fleet: Fleet) -> None:
    chat = shared_fleet.gateway.client().chat.completions.create(
        model=MODEL, messages=ONCE, max_tokens=24, temperature=0
    )
    with shared_fleet.replicas[0].client() as client:
        own = client.generate(
            ONCE[0]["content"], max_tokens=24, temperature=0, repetition_penalty=1
        )
    assert chat.choices[0].message.content == own.choices[0].text
    assert chat.usage.prompt_tokens == own.usage.prompt_tokens


def test_completions_with_choices_and_stops(shared_fleet: Fleet) -> None:
    client = shared_fleet.gateway.client()
    asked = {"model": MODEL, "prompt": ONCE[0]["content"]}
    choices = client.completions.create(**asked, max_tokens=8, n=3, seed=1).choices
    assert len({choice.text for choice in choices}) == 3
    stopped = client.completions.create(**asked, max_tokens=200, temperature=0, stop=["."])
    assert stopped.choices[0].finish_reason == "stop"
    assert "." not in stopped.choices[0].text
    streamed = client.completions.create(**asked, max_tokens=8, temperature=0, stream=True)
    text = "".join(chunk.choices[0].text for chunk in streamed if chunk.choices)
    again = client.completions.create(**asked, max_tokens=8, temperature=0)
    assert text == again.choices[0].text


def test_errors_are_the_clients_own(shared_fleet: Fleet) -> None:
    client = shared_fleet.gateway.client()
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="another", prompt="Once")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=MODEL, prompt="Once " * 1200, max_tokens=5)
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(
            model=MODEL, messages=ONCE, response_format={"type": "json_object"}
        )
    assert error.value.status_code == 501
    assert "structured output is not supported" in str(error.value)


def log_line(fleet: Fleet, request_id: str) -> dict:
    """The one line about the request in the replicas' logs."""

    def lines() -> list[dict]:
        logs = "".join(server.log() for server in fleet.replicas)
        return [json.loads(line) for line in logs.splitlines() if request_id in line]

    assert eventually(lambda: len(lines()) == 1)
    return lines()[0]


def test_a_request_is_found_again_in_a_replicas_log(shared_fleet: Fleet) -> None:
    answer = shared_fleet.gateway.client().completions.create(
        model=MODEL,
        prompt="a secret prompt",
        max_tokens=3,
        extra_headers={"x-request-id": "mine", "traceparent": TRACEPARENT},
    )
    assert answer.id.startswith("mine")
    line = log_line(shared_fleet, answer.id)
    assert line["completion_tokens"] == 3
    assert line["traceparent"] == "", "the gateway passes none on without --enable-trace"
    assert not any("secret" in server.log() for server in shared_fleet.replicas)


def test_a_tracing_gateway_passes_the_clients_trace_on() -> None:
    """With a span of its own in the place of the client's; no collector need listen."""
    with ExitStack() as stack:
        fleet = Fleet(stack, "--enable-trace", f"--otlp-traces-endpoint=127.0.0.1:{free_port()}")
        answer = fleet.gateway.client().completions.create(
            model=MODEL, prompt="Once", max_tokens=3, extra_headers={"traceparent": TRACEPARENT}
        )
        _, trace_id, parent_id, _ = log_line(fleet, answer.id)["traceparent"].split("-")
        assert trace_id == TRACEPARENT.split("-")[1]
        assert parent_id != TRACEPARENT.split("-")[2]
