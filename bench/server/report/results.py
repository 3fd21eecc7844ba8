"""Reads the result files of parallax-loadgen.

A file holds one run, or a sweep: a list of runs with their keys. Both become a list of
`Run`, which is all that plots and tables see.
"""
from __future__ import annotations

import dataclasses
import json
import pathlib
from collections import Counter
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
    """One measured run. `source` tells its file apart from the others of a report."""

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
    def arrival(self) -> str:
        """"closed" for a closed loop, or the arrival process of an open one."""
        return "closed" if self.is_closed_loop else self.document["options"]["arrival"]

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

    @property
    def both_sides(self) -> Optional[dict[str, dict[str, float]]]:
        """By quantity the client's and the server's count; None without --metrics."""
        return self.document.get("both_sides")

    def latency_ms(self, name: str, statistic: str) -> float:
        return self.document["latency_ms"][name][statistic]

    def histogram_ms(self, name: str) -> list[tuple[float, int]]:
        return [(ns / 1e6, count) for ns, count in self.document["histograms_ns"][name]]

    @property
    def name(self) -> str:
        load = "at once" if self.is_closed_loop else f"req/s {self.arrival}"
        return f"{self.load:g} {load}, {self.prompt_tokens} in, {self.output_tokens} out"

    @property
    def shape(self) -> tuple[str, str, str]:
        """What the runs under rising load of one sweep have in common."""
        return (self.arrival, self.prompt_tokens, self.output_tokens)

    @property
    def key(self) -> tuple[float, str, str, str]:
        """What two files must share for their runs to be compared."""
        return (self.load, *self.shape)


def load_files(paths: Sequence[pathlib.Path]) -> list[list[Run]]:
    """The runs of each file, every file a source of its own. Raises ResultError."""
    files = [_documents(path) for path in paths]
    names = unique_names([
        (documents[0].get("label") or path.stem, path.stem, str(path.with_suffix("")))
        for path, documents in zip(paths, files)])
    return [[Run(name, document) for document in documents]
            for name, documents in zip(names, files)]


def unique_names(candidates: Sequence[Sequence[str]]) -> list[str]:
    """For each element the first of its candidates that no other one has; numbered if none is."""
    names = [element[0] for element in candidates]
    for level in range(1, max(map(len, candidates))):
        count = Counter(names)
        names = [element[level] if count[name] > 1 else name
                 for name, element in zip(names, candidates)]
    count = Counter(names)
    return [f"{name} ({number})" if count[name] > 1 else name
            for number, name in enumerate(names, 1)]


def _documents(path: pathlib.Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ResultError(f"{path}: {error}") from error
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise ResultError(f"{path}: not a result of parallax-loadgen, schema {SCHEMA_VERSION}")
    documents = [run["result"] for run in document["runs"]] if "runs" in document else [document]
    if not documents:
        raise ResultError(f"{path}: no run in it yet")
    return documents
