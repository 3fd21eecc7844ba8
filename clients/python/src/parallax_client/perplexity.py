"""Perplexity of text under the served model, from prompt log-probabilities.

A document is tokenized as a prompt (special tokens added) and cut into windows that overlap
by one token: every token but the document's first is scored exactly once, and a window sees
nothing before itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterator, Sequence

from parallax_client.v1 import inference_pb2 as pb


@dataclass
class Perplexity:
    nll: float = 0.0  # nats
    scored_tokens: int = 0
    bytes: int = 0  # of the text, as UTF-8

    @property
    def perplexity(self) -> float:
        return math.exp(self.nll / self.scored_tokens) if self.scored_tokens else math.nan

    @property
    def bits_per_byte(self) -> float:
        return self.nll / math.log(2) / self.bytes if self.bytes else math.nan

    def add(self, response: pb.GenerateResponse) -> None:
        """Counts a scored window. The first token has no log-probability."""
        for position in response.prompt_logprobs[1:]:
            self.nll -= position.chosen.logprob
            self.scored_tokens += 1


def window_size(info: pb.GetModelInfoResponse, window: int | None) -> int:
    """`window`, or the longest prompt that can be scored. ValueError if out of range."""
    longest = min(info.max_prompt_tokens, info.max_context_tokens - 1)
    if window is None:
        return longest
    if not 2 <= window <= longest:
        raise ValueError(f"window: {window} tokens is outside [2, {longest}]")
    return window


def windows(ids: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids) - 1, size - 1):
        yield ids[start : start + size]
