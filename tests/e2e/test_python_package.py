"""The Python client as its users have it: installed by pip into a venv, running its examples.

Nothing is downloaded: pip builds with Debian's setuptools and wheel, and the venv sees Debian's
grpcio and protobuf.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from server_process import REPOSITORY, ServerProcess

EXAMPLES = REPOSITORY / "clients" / "python" / "examples"
# The staged package that the other tests import must not stand in for the installed one.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command: object, status: int = 0) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a venv with the package. The sources are copied, because building
    writes next to them."""
    folder = tmp_path_factory.mktemp("package")
    for part in ("clients/python", "proto"):
        shutil.copytree(
            REPOSITORY / part,
            folder / part,
            ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"),
        )
    run(sys.executable, "-m", "venv", "--system-site-packages", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    offline = ("--quiet", "--no-index", "--no-build-isolation", "--no-deps")
    run(python, "-m", "pip", "install", *offline, folder / "clients" / "python")
    return python


def example(python: Path, server: ServerProcess, name: str, *arguments: object, **kwargs: int) -> str:
    return run(python, EXAMPLES / name, "--server", server.address, *arguments, **kwargs)


def test_the_installed_package_is_whole(python: Path) -> None:
    code = (
        "import importlib.metadata, pathlib, parallax_client, parallax_client.v1.inference_pb2\n"
        "folder = pathlib.Path(parallax_client.__file__).parent\n"
        "print(folder, importlib.metadata.version('parallax-client'), (folder / 'py.typed').exists())"
    )
    folder, version, typed = run(python, "-c", code).split()
    assert Path(folder).is_relative_to(python.parents[1])
    assert version and typed == "True"


def test_stream(python: Path, stories_server: ServerProcess) -> None:
    story = example(python, stories_server, "stream.py", "--max-tokens", 12, "--seed", 7, "The fox")
    with stories_server.client() as client:
        assert story == client.generate("The fox", max_tokens=12, seed=7).choices[0].text + "\n"


def test_batch_file(python: Path, stories_server: ServerProcess, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lengths = (3, 9, 1, 5)
    lines = [json.dumps({"prompt": "The fox", "max_tokens": n, "ignore_eos": True}) for n in lengths]
    bad = ['{"prompt": "The fox", "max_tokens": 0}', '{"prompt": "x", "tempo": 1}', "[]", "{"]
    prompts.write_text("\n".join(lines + bad) + "\n")
    output = example(python, stories_server, "batch_file.py", prompts, status=1)
    answers = [json.loads(line) for line in output.splitlines()]
    assert [answer["completion_tokens"] for answer in answers[:4]] == list(lengths)
    assert all(answer["finish_reason"] == "FINISH_REASON_LENGTH" for answer in answers[:4])
    refusal, *mistakes = [answer["error"] for answer in answers[4:]]
    assert refusal.startswith("INVALID_ARGUMENT: ") and "max_tokens" in refusal
    assert len(mistakes) == 3 and all(each.startswith("not a request") for each in mistakes)


def test_fan_out(python: Path, stories_server: ServerProcess) -> None:
    output = example(
        python, stories_server, "fan_out.py", "--samples", 6, "--max-tokens", 8, "The old fox"
    )
    ranked = re.findall(r"^ *(-?\d+\.\d+)  seed (\d+)", output, re.MULTILINE)
    scores = [float(score) for score, _ in ranked]
    assert scores == sorted(scores, reverse=True) and max(scores) < 0
    assert sorted(int(seed) for _, seed in ranked) == list(range(6))


def test_perplexity(python: Path, stories_server: ServerProcess, tmp_path: Path) -> None:
    story = tmp_path / "story.txt"
    story.write_text("Once upon a time there was a little girl who lived in a small house. " * 3)
    output = example(python, stories_server, "perplexity.py", "--window", 16, story)
    with stories_server.client() as client:
        expected = client.perplexity([story.read_text()], window=16)
    assert f"perplexity {expected.perplexity:.2f}" in output
    assert f"{expected.scored_tokens} tokens" in output
