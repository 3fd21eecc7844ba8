"""Fleets that the tests of one file share, or have to themselves, and the record of a run."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from fleet import Fleet
from server_process import REPOSITORY

PACKAGES = ("smg", "smg-grpc-proto", "openai")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--result", metavar="FILE", help="write what was measured to FILE, as JSON")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout


def _machine() -> str:
    model = next(line for line in _output("lscpu").splitlines() if line.startswith("Model name:"))
    return f"{model.split(':')[1].strip()}, {os.cpu_count()} cores, {platform.system()}"


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest) -> Iterator[Callable[[str, Any], None]]:
    """record(NAME, VALUE): prints it and, with --result, puts it into that file at the end."""
    measured: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        measured[name] = value
        print(json.dumps({name: value}))

    load_at_start = os.getloadavg()[0]
    yield add
    if path := request.config.getoption("--result"):
        dirty = bool(_output("git", "status", "--porcelain", "--untracked-files=no"))
        head = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": _machine(),
            "load_average_at_start": round(load_at_start, 2),
            "commit": _output("git", "rev-parse", "--short=12", "HEAD").strip()
            + ("-dirty" if dirty else ""),
            "packages": {name: version(name) for name in PACKAGES},
            "failed_tests": request.session.testsfailed,
        }
        Path(path).write_text(json.dumps({**head, **measured}, indent=1) + "\n")


@pytest.fixture(scope="module")
def shared_fleet() -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(stack)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(stack)
