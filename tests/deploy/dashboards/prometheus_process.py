"""A real Prometheus with the configuration of deploy/prometheus, at a faster clock."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

CONFIGURATION = Path(__file__).resolve().parents[3] / "deploy" / "prometheus"
START_SECONDS = 60


class QueryRefused(Exception):
    """Prometheus's words about a query that it cannot read."""


class Prometheus:
    """Scrapes `targets` (host:port) every second, from `with` to the end of the block."""

    def __init__(self, folder: Path, targets: list[str]) -> None:
        configuration = folder / "prometheus"
        shutil.copytree(CONFIGURATION, configuration)
        file = configuration / "prometheus.yml"
        settings = yaml.safe_load(file.read_text())
        settings["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        file.write_text(yaml.safe_dump(settings))
        (configuration / "targets.yml").write_text(yaml.safe_dump([{"targets": targets}]))
        self._arguments = [
            "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        ]
        self._log = folder / "prometheus.log"

    def __enter__(self) -> Prometheus:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(self._arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.url = f"http://{self._await_address()}"
            self._ready = time.monotonic()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of a call of the HTTP API."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            raise QueryRefused(json.load(error)["error"]) from None

    def age(self) -> int:
        """Seconds since it was ready."""
        return int(time.monotonic() - self._ready)

    def values(self, query: str, seconds: int) -> list[list[float]]:
        """The samples of each series over the last `seconds`, one a second."""
        now = time.time()
        data = self.get("query_range", query=query, start=str(now - seconds), end=str(now), step="1")
        return [[float(value) for _, value in series["values"]] for series in data["result"]]

    def _await_address(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            log = self._log.read_text()
            address = re.search(r'msg="Listening on" address=(\S+)', log)
            if address and "Server is ready to receive web requests" in log:
                return address.group(1)
            time.sleep(0.05)
        raise RuntimeError(f"Prometheus did not start:\n{self._log.read_text()}")
