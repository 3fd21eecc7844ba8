"""Servers that the tests of one file share."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Iterator

import pytest

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


class Certificates:
    """Two authorities: one that the server trusts, with a server's and a client's
    certificate, and a stranger's client certificate by another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = self._authority("ca")
        self.server_cert, self.server_key = self._signed("server", "ca")
        self.client_cert, self.client_key = self._signed("client", "ca")
        self._authority("stranger-ca")
        self.stranger_cert, self.stranger_key = self._signed("stranger", "stranger-ca")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=self._folder)

    def _authority(self, name: str) -> str:
        self._openssl(
            *"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(),
            *f"-keyout {name}.key -out {name}.pem -subj /CN={name}".split(),
        )
        return str(self._folder / f"{name}.pem")

    def _signed(self, name: str, authority: str) -> tuple[str, str]:
        self._openssl(
            *"req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes".split(),
            *f"-keyout {name}.key -out {name}.csr -subj /CN={name}".split(),
        )
        extensions = self._folder / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._openssl(
            *f"x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key".split(),
            *f"-CAcreateserial -days 2 -extfile {extensions} -out {name}.pem".split(),
        )
        return str(self._folder / f"{name}.pem"), str(self._folder / f"{name}.key")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))
