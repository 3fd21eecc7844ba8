"""Servers that the tests of one file share."""

from __future__ import annotations

from typing import Iterator

import pytest

from certificates import Certificates, certificates  # noqa: F401
from parallax_client import Client
from server_process import STORIES_MODEL, ServerProcess


@pytest.fixture(scope="module")
def null_server() -> Iterator[ServerProcess]:
    """A model that costs nothing and knows token ids only."""
    with ServerProcess("null") as server:
        yield server
        assert server.stop() == 0, server.log()


@pytest.fixture(scope="module")
def stories_server() -> Iterator[ServerProcess]:
    """The default model."""
    with ServerProcess(STORIES_MODEL, "--kv-cache-pages=512", "--max-num-seqs=64") as server:
        yield server
        assert server.stop() == 0, server.log()


@pytest.fixture
def null_client(null_server: ServerProcess) -> Iterator[Client]:
    with null_server.client() as client:
        yield client


@pytest.fixture
def stories(stories_server: ServerProcess) -> Iterator[Client]:
    with stories_server.client() as client:
        yield client
