"""A caller's trace context, from each of this project's clients to the log and back."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import Any

import pytest

from parallax_client import AsyncClient, Client
from server_process import NO_RETRY, ServerProcess, eventually

TRACE = "0af7651916cd43dd8448eb211c80319c"


def traceparent(span: int) -> str:
    return f"00-{TRACE}-{span:016x}-01"


def lines_of(server: ServerProcess, value: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("traceparent") == value]


def test_python_clients_send_it_and_get_it_back(null_server: ServerProcess) -> None:
    spans = iter(range(1, 10))
    options = {"retry": NO_RETRY, "metadata": lambda: [("traceparent", traceparent(next(spans)))]}
    with Client(null_server.address, **options) as client:
        client.generate([1], max_tokens=1)
        stream = client.stream([1], max_tokens=1)
        assert len(list(stream)) >= 1
        trailing = stream.trailing_metadata()
        assert trailing["traceparent"] == traceparent(2)

    async def run() -> dict[str, str]:
        async with AsyncClient(null_server.address, **options) as client:
            stream = client.stream([1], max_tokens=1)
            assert len([chunk async for chunk in stream]) >= 1
            return await stream.trailing_metadata()

    assert asyncio.run(run())["traceparent"] == traceparent(3)
    for span, method in ((1, "Generate"), (2, "GenerateStream"), (3, "GenerateStream")):
        assert eventually(lambda: len(lines_of(null_server, traceparent(span))) == 1)
        (line,) = lines_of(null_server, traceparent(span))
        assert line["method"] == method
        if span == 2:
            assert line["request_id"] == trailing["x-request-id"]


@pytest.mark.parametrize("command, method", [("complete", "Generate"), ("stream", "GenerateStream")])
def test_the_command_line_client_sends_it(null_server: ServerProcess, command: str, method: str) -> None:
    value = traceparent(100 + len(command))
    arguments = [f"--server={null_server.address}", f"--metadata=traceparent:{value}"]
    arguments += ["--prompt-ids=1", "--max-tokens=1"]
    subprocess.run([os.environ["PARALLAX_CLIENT"], command, *arguments], check=True, timeout=60)
    assert eventually(lambda: len(lines_of(null_server, value)) == 1)
    assert lines_of(null_server, value)[0]["method"] == method


@pytest.mark.parametrize("text", ["traceparent", ":x", "Upper:x", "grpc-timeout:1S", "name:line\nbreak"])
def test_what_is_no_metadatum_is_refused(text: str) -> None:
    result = subprocess.run(
        [os.environ["PARALLAX_CLIENT"], "complete", f"--metadata={text}", "x"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert "--metadata" in result.stderr
