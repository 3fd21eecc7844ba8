"""parallax-client, as a person or a script runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from server_process import STORIES_MODEL, ServerProcess, eventually

PROMPT = "Once upon a time there was a little"
COMMANDS = (
    "complete stream chat concurrent tokenize detokenize perplexity info health stats drain "
    "abort flush"
).split()
ADMIN_COMMANDS = {"stats", "drain", "abort", "flush"}


def command(server: ServerProcess, name: str, *arguments: str) -> list[str]:
    address = server.admin_address if name in ADMIN_COMMANDS else server.address
    return [os.environ["PARALLAX_CLIENT"], name, f"--server={address}", "--attempts=1", *arguments]


def run(
    server: ServerProcess, name: str, *arguments: str, stdin: str = "", status: int = 0
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        command(server, name, *arguments), input=stdin, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == status, result
    return result


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str) -> None:
    result = subprocess.run(
        [os.environ["PARALLAX_CLIENT"], name, "--help"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0 and f"Usage: parallax-client {name}" in result.stdout
    assert all(len(line) <= 100 for line in result.stdout.splitlines())


def test_overview_names_every_command() -> None:
    client = os.environ["PARALLAX_CLIENT"]
    result = subprocess.run([client, "--help"], capture_output=True, text=True, timeout=60)
    assert all(f"  {name} " in result.stdout for name in COMMANDS)
    assert subprocess.run([client], capture_output=True, timeout=60).returncode == 2
    assert subprocess.run([client, "sing"], capture_output=True, timeout=60).returncode == 2


def test_complete_and_stream_agree(stories_server: ServerProcess) -> None:
    arguments = ("--seed=3", "--max-tokens=20", PROMPT)
    complete = run(stories_server, "complete", *arguments)
    assert "length | " in complete.stderr and "20 completion tokens" in complete.stderr
    assert run(stories_server, "stream", "--quiet", *arguments).stdout == complete.stdout
    assert run(stories_server, "stream", "--quiet", *arguments[:2], "-", stdin=PROMPT).stdout == (
        complete.stdout
    )


def test_json(stories_server: ServerProcess) -> None:
    arguments = ("--json", "--seed=3", "--max-tokens=5", "--logprobs=2", PROMPT)
    response = json.loads(run(stories_server, "complete", *arguments).stdout)
    choice = response["choices"][0]
    assert len(choice["token_ids"]) == len(choice["logprobs"]) == 5
    lines = run(stories_server, "stream", *arguments).stdout.splitlines()
    chunks = [json.loads(line) for line in lines]
    assert "".join(chunk.get("text", "") for chunk in chunks) == choice["text"]
    assert chunks[-1]["finish"]["reason"] == "FINISH_REASON_LENGTH"


def test_several_choices_stay_apart(stories_server: ServerProcess) -> None:
    result = run(stories_server, "stream", "--n=3", "--seed=1", "--max-tokens=30", PROMPT)
    assert {line[:4] for line in result.stdout.splitlines()} == {"[0] ", "[1] ", "[2] "}


def test_tokenize_and_back(stories_server: ServerProcess) -> None:
    table = run(stories_server, "tokenize", "--no-special", "The old fox").stdout
    ids = ",".join(line.split("\t")[0] for line in table.splitlines())
    assert run(stories_server, "detokenize", ids).stdout == "The old fox\n"


def test_chat_continues_the_transcript(stories_server: ServerProcess) -> None:
    script = f"{PROMPT}\n\n/show\n/new\n/show\n"
    result = run(stories_server, "chat", "--seed=2", "--max-tokens=8", stdin=script)
    assert PROMPT in result.stdout  # from /show
    assert result.stdout.endswith("\n\n")  # nothing after /new


def test_perplexity(stories_server: ServerProcess, tmp_path: Path) -> None:
    text = (STORIES_MODEL / "testdata" / "heldout.txt").read_text()[:4000]
    file = tmp_path / "text"
    file.write_text(text)
    result = json.loads(run(stories_server, "perplexity", "--json", str(file)).stdout)
    assert result["bytes"] == len(text.encode())
    assert 5 < result["perplexity"] < 40
    with stories_server.client() as client:
        assert result["nll"] == pytest.approx(client.perplexity([text]).nll, rel=1e-6)


def test_concurrent(stories_server: ServerProcess) -> None:
    arguments = ("--json", "--count=8", "--max-tokens=10", "--ignore-eos=true", PROMPT)
    result = json.loads(run(stories_server, "concurrent", *arguments).stdout)
    assert (result["requests"], result["failed"], result["completion_tokens"]) == (8, 0, 80)


def test_info_and_health(stories_server: ServerProcess) -> None:
    assert STORIES_MODEL.name in run(stories_server, "info").stdout
    assert json.loads(run(stories_server, "info", "--json").stdout)["vocab_size"] == 6144
    assert run(stories_server, "health").stdout == "SERVING\n"
    assert run(stories_server, "health", "--wait-ms=5000").stdout == "SERVING\n"
    run(stories_server, "health", "--service=unknown", status=1)


def test_a_refusal_names_its_reason(stories_server: ServerProcess) -> None:
    result = run(stories_server, "complete", "--top-p=7", PROMPT, status=1)
    assert "INVALID_ARGUMENT" in result.stderr and "top_p" in result.stderr
    assert run(stories_server, "complete", "--top-p=x", PROMPT, status=2).stdout == ""
    run(stories_server, "complete", status=2)


def test_nobody_listens() -> None:
    result = subprocess.run(
        [os.environ["PARALLAX_CLIENT"], "info", "--server=127.0.0.1:1", "--attempts=1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1 and "UNAVAILABLE" in result.stderr


def test_interrupt_cancels_on_the_server(stories_server: ServerProcess) -> None:
    stream = subprocess.Popen(
        command(stories_server, "stream", "--ignore-eos=true", PROMPT),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert stream.stdout is not None
    stream.stdout.read(1)
    stream.send_signal(signal.SIGINT)
    stream.stdout.read()
    assert stream.wait(30) == 130
    stream.stdout.close()
    assert eventually(lambda: stories_server.stats().requests_running == 0)


def watches_for_interrupts(process: subprocess.Popen[bytes]) -> bool:
    """Whether Ctrl-C is by now the program's own affair."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    blocked = next(line for line in status.splitlines() if line.startswith("SigBlk:"))
    return int(blocked.split()[1], 16) >> (signal.SIGINT - 1) & 1 == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["health", "--wait-ms=60000"],
        ["complete", "-"],
        ["tokenize", "-"],
        ["detokenize", "-"],
        ["perplexity", "-"],
        ["chat"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_interrupt_ends_a_wait(arguments: list[str]) -> None:
    """Where nobody listens, and nothing comes from standard input."""
    waiting = subprocess.Popen(
        [os.environ["PARALLAX_CLIENT"], *arguments, "--server=127.0.0.1:1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert eventually(lambda: watches_for_interrupts(waiting))
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(30) == 130
    finally:
        waiting.kill()
        waiting.communicate()


def test_operator_commands() -> None:
    with ServerProcess(STORIES_MODEL, "--kv-cache-pages=512") as server:
        assert "health     ok" in run(server, "stats").stdout
        with server.client() as client:
            # 16 choices of a thousand tokens take seconds: longer than three programs.
            stream = client.stream(PROMPT, request_id="r1", n=16, ignore_eos=True)
            next(stream)
            assert run(server, "drain", status=1).stdout == "1 requests still running\n"
            assert run(server, "health", status=3).stdout == "NOT_SERVING\n"
            assert run(server, "abort", "r1", "r2", status=1).stdout == (
                "aborted r1\nnot live r2\n"
            )
            stream.cancel()
        assert run(server, "drain", "--wait-ms=20000").stdout == "drained\n"
        assert json.loads(run(server, "stats", "--json").stdout)["draining"]
        assert run(server, "flush").stdout.endswith(" pages freed\n")
