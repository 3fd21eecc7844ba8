"""Benchmark cases: the lines of cases/*.txt, as kernel_bench reads them too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

BF16_BYTES = 2
# A rotation over at least this much keeps every launch's KV out of a 60 MB L2.
COLD_BYTES = 512 << 20
# Launches of one timed graph read about this much, so that its start does not count.
TIMED_BYTES = 2 << 30
MAX_LAUNCHES = 64


@dataclass(frozen=True)
class Case:
    """One line. `lengths` is set for ragged cases alone."""

    text: str
    kind: str  # decode, ragged, prefill
    sequences: int
    cached: int  # keys in the cache before this call's tokens
    new_tokens: int
    query_heads: int
    kv_heads: int
    head_dim: int
    warm: bool = False
    lengths: str = ""

    @property
    def keys(self) -> int:
        return self.cached + self.new_tokens

    @property
    def kv_bytes(self) -> int:
        return 2 * BF16_BYTES * self.sequences * self.keys * self.kv_heads * self.head_dim

    def flops(self, parallax: bool) -> float:
        """Two products of D multiply-adds per visible (query head, key); Parallax has four."""
        pairs = self.new_tokens * self.cached + self.new_tokens * (self.new_tokens + 1) / 2
        per_pair = (8 if parallax else 4) * self.head_dim
        return float(self.sequences * self.query_heads * pairs * per_pair)

    def copies(self, pool_bytes: int) -> int:
        """How many KV caches the launches rotate over."""
        if self.warm or self.kind == "prefill":
            return 1
        wanted = max(2, min(MAX_LAUNCHES, math.ceil(COLD_BYTES / self.kv_bytes)))
        return max(1, min(wanted, pool_bytes // self.kv_bytes))

    def launches(self, pool_bytes: int) -> int:
        """How many launches one timed graph holds."""
        if self.kind == "prefill":
            return 2
        return max(
            self.copies(pool_bytes), min(MAX_LAUNCHES, math.ceil(TIMED_BYTES / self.kv_bytes))
        )


def parse(line: str) -> Case:
    words = line.split()
    kind = words[0]
    if kind == "decode":
        sequences, keys, query_heads, kv_heads, head_dim = map(int, words[1:6])
        return Case(
            line, kind, sequences, keys - 1, 1, query_heads, kv_heads, head_dim, words[6] == "warm"
        )
    if kind == "ragged":
        sequences = int(words[1])
        query_heads, kv_heads, head_dim = map(int, words[3:6])
        return Case(
            line, kind, sequences, 0, 1, query_heads, kv_heads, head_dim, False, words[2]
        )
    if kind == "prefill":
        return Case(line, kind, *map(int, words[1:7]))
    raise ValueError(f"unknown case: {line!r}")


def read(path: Path) -> list[Case]:
    lines = (line.strip() for line in path.read_text().splitlines())
    return [parse(line) for line in lines if line and not line.startswith("#")]
