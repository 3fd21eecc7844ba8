"""Reads the result files of parallax-loadgen.

A file holds one run, or a sweep: a list of runs with their keys. Both become a list of
`Run`, which is all that plots and tables see.
"""
from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, Optional, Sequence

SCHEMA_VERSION = 1
LATENCIES = {
    "ttft": "time to first token",
    "transport": "part of the TTFT outside the server's engine",
    "tpot": "time per output token",
    "itl": "gap between chunks",
    "e2e": "whole request",
}


class ResultError(ValueError):
    """A file that is no result of parallax-loadgen; the message names it."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One measured run. `source` is the label that tells files apart in plots."""

    source: str
    document: dict[str, Any]

    @property
    def load(self) -> float:
        """Concurrency of a closed loop, requests a second of an open one."""
        options = self.document["options"]
        return options.get("concurrency", options.get("rate", 0))

    @property
    def is_closed_loop(self) -> bool:
        return "concurrency" in self.document["options"]

    @property
    def prompt_tokens(self) -> str:
        return self.document["options"]["prompt_tokens"]

    @property
    def output_tokens(self) -> str:
        return self.document["options"]["output_tokens"]

    @property
    def output_rate(self) -> float:
        """Output tokens a second."""
        return self.document["throughput"]["output_tokens_per_second"]

    @property
    def goodput_share(self) -> Optional[float]:
        """Of the requests that were due, those within the SLO; None if there was no SLO."""
        goodput = self.document["goodput"]
        return None if goodput is None else goodput["share"]

    def latency_ms(self, name: str, statistic: str) -> float:
        return self.document["latency_ms"][name][statistic]

    def histogram_ms(self, name: str) -> list[tuple[float, int]]:
        return [(ns / 1e6, count) for ns, count in self.document["histograms_ns"][name]]

    @property
    def name(self) -> str:
        load = f"{self.load:g} at once" if self.is_closed_loop else f"{self.load:g} req/s"
        return f"{load}, {self.prompt_tokens} in, {self.output_tokens} out"

    @property
    def key(self) -> tuple[float, str, str]:
        """What two files must share for their runs to be compared."""
        return (self.load, self.prompt_tokens, self.output_tokens)


def load_runs(paths: Sequence[pathlib.Path]) -> list[Run]:
    """All runs of all files, in order. Raises ResultError."""
    runs: list[Run] = []
    for path in paths:
        runs.extend(_load_file(path))
    return runs


def _load_file(path: pathlib.Path) -> list[Run]:
    try:
        document = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ResultError(f"{path}: {error}") from error
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise ResultError(f"{path}: not a result of parallax-loadgen, schema {SCHEMA_VERSION}")
    documents = [run["result"] for run in document["runs"]] if "runs" in document else [document]
    if not documents:
        raise ResultError(f"{path}: no run in it yet")
    return [Run(source=documents[0].get("label") or path.stem, document=d) for d in documents]
