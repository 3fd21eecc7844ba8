"""Certificates made for one test run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


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
