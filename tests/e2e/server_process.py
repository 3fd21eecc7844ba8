"""A real parallax-server process, for tests: starts it, finds its ports, stops it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Callable

import grpc

from parallax_client import Client, RetryPolicy
from parallax_client.v1 import admin_pb2, admin_pb2_grpc

REPOSITORY = Path(__file__).resolve().parents[2]
STORIES_MODEL = REPOSITORY / "models" / "parallax-stories-14m"
NO_RETRY = RetryPolicy(max_attempts=1)
START_SECONDS = 120
# The CPU computes a row alike whatever runs beside it. The GPU's kernels differ by batch size.
IS_BITWISE = "--device=cuda" not in os.environ.get("PARALLAX_SERVER_FLAGS", "")


class ServerProcess:
    """Running from construction to `stop` or the end of the `with` block.

    A model's server also gets the flags in PARALLAX_SERVER_FLAGS, before the test's own: with them
    the same tests run over another backend.
    """

    def __init__(self, model: str | Path, *flags: str) -> None:
        self._log = tempfile.NamedTemporaryFile("w+", prefix="parallax-server-", suffix=".log")
        self._process = subprocess.Popen(
            [
                os.environ["PARALLAX_SERVER"],
                f"--model={model}",
                "--listen=127.0.0.1:0",
                "--admin-listen=127.0.0.1:0",
                "--metrics-listen=127.0.0.1:0",
                *(os.environ.get("PARALLAX_SERVER_FLAGS", "").split() if model != "null" else ()),
                *flags,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._ports = self._await_ready()
        self.address = f"127.0.0.1:{self._ports['port']}"
        self.admin_address = f"127.0.0.1:{self._ports['admin_port']}"
        self.metrics_url = f"http://127.0.0.1:{self._ports['metrics_port']}/metrics"
        self._admin_channel = grpc.insecure_channel(self.admin_address)
        self.admin = admin_pb2_grpc.AdminServiceStub(self._admin_channel)

    def client(self, **options: Any) -> Client:
        """A client that tells every refusal, unless `retry` says otherwise."""
        return Client(self.address, **{"retry": NO_RETRY, **options})

    def stats(self) -> admin_pb2.GetStatsResponse:
        return self.admin.GetStats(admin_pb2.GetStatsRequest(), timeout=30)

    def metrics(self) -> dict[str, float]:
        """Samples by name with labels, as `name{label="value"}`, without the model's label."""
        with urllib.request.urlopen(self.metrics_url, timeout=30) as response:
            text = response.read().decode()
        samples = {}
        for line in text.splitlines():
            if not line.startswith("#") and line:
                name, value = line.rsplit(" ", 1)
                name = re.sub(r'model_name="[^"]*",?', "", name).replace(",}", "}")
                samples[name.replace("{}", "")] = float(value)
        return samples

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float) -> int:
        """The exit status. subprocess.TimeoutExpired if it still runs."""
        return self._process.wait(timeout)

    def stop(self) -> int:
        """SIGTERM, then the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(60)

    def log(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *unused: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._admin_channel.close()
        self._log.close()

    def _await_ready(self) -> dict[str, int]:
        killer = threading.Timer(START_SECONDS, self._process.kill)
        killer.start()
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
        finally:
            killer.cancel()
        if not line:
            status = self._process.wait()
            raise RuntimeError(f"the server ended with status {status}:\n{self.log()}")
        return json.loads(line)


def eventually(condition: Callable[[], bool], timeout: float = 20.0) -> bool:
    """Whether `condition` came true. For what another process does in its own time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()
