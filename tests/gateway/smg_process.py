"""A real smg gateway in front of replicas, and its workers' API."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from openai import OpenAI

from free_ports import free_port
from server_process import REPOSITORY, STORIES_MODEL, ServerProcess, eventually

README = REPOSITORY / "deploy" / "gateway" / "README.md"
REQUEST_SECONDS = 60  # longer than any request here may take: past it one counts as hung


def replica(*flags: str, pages: int = 256) -> ServerProcess:
    return ServerProcess(
        STORIES_MODEL, "--threads=1", f"--kv-cache-pages={pages}", "--kv-events", *flags
    )


def documented_options() -> list[str]:
    """What an operator is told to launch it with, so that this is what is tested."""
    (launch,) = re.findall(r"smg launch (.*?)--worker-urls", README.read_text(), re.DOTALL)
    options = launch.replace("\\\n", " ").split()
    assert "--prometheus-host=127.0.0.1" in options and all("=" in each for each in options), options
    return options


class SmgProcess:
    """From construction, when all replicas are ready, to the end of the `with` block."""

    def __init__(self, replicas: list[ServerProcess], *flags: str) -> None:
        self._log = tempfile.NamedTemporaryFile("w+", prefix="parallax-smg-", suffix=".log")
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process = subprocess.Popen(
            [
                os.environ["SMG"],
                "launch",
                # Of an option that is given twice the last counts.
                *documented_options(),
                f"--port={self.url.rsplit(':', 1)[1]}",
                f"--prometheus-port={free_port()}",
                *flags,
                "--worker-urls",
                *[f"grpc://{server.address}" for server in replicas],
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        assert eventually(lambda: len(self.ready()) == len(replicas), 60), self.log()[-3000:]
        client = self.client()
        assert eventually(lambda: _answers(client), 60), self.log()[-3000:]

    def client(self) -> OpenAI:
        """One that tells every failure: the gateway retries, not it."""
        return OpenAI(
            base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=REQUEST_SECONDS
        )

    def workers(self) -> list[dict[str, Any]]:
        try:
            return json.loads(self._call("GET", "/workers"))["workers"]
        except urllib.error.URLError:
            return []

    def ready(self) -> set[str]:
        """Addresses of the replicas that get requests."""
        return {
            worker["url"].removeprefix("grpc://")
            for worker in self.workers()
            if worker["is_healthy"]
        }

    def add(self, server: ServerProcess) -> None:
        self._call("POST", "/workers", {"url": f"grpc://{server.address}"})

    def remove(self, server: ServerProcess) -> None:
        for worker in self.workers():
            if worker["url"].endswith(server.address):
                self._call("DELETE", f"/workers/{worker['id']}")

    def knows(self, server: ServerProcess) -> bool:
        return any(worker["url"].endswith(server.address) for worker in self.workers())

    def log(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()

    def __enter__(self) -> SmgProcess:
        return self

    def __exit__(self, *unused: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _call(self, method: str, path: str, body: Any = None) -> str:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.read().decode()


def _answers(client: OpenAI) -> bool:
    """Whether the gateway has the tokenizer too, which it fetches after the workers."""
    try:
        client.completions.create(model=STORIES_MODEL.name, prompt="Once", max_tokens=1)
        return True
    except Exception:  # noqa: BLE001: not yet, whatever the reason
        return False
