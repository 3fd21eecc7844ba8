"""Tokenised documents, and the rows of tokens that training and evaluation see.

A document is `<s> text </s>`. A row is 1025 tokens: 1024 inputs, each with its target.
"""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import sentencepiece

from corpus import Document

CONTEXT = 1024
IGNORED = -1  # target that counts for nothing

_processor: sentencepiece.SentencePieceProcessor | None = None


@dataclass(frozen=True)
class TokenisedDocuments:
    """All documents of a split, one after the other."""

    tokens: np.ndarray  # int32, every document with <s> and </s>
    starts: np.ndarray  # [documents + 1] offsets into tokens
    tiers: np.ndarray  # [documents] 1..4
    byte_counts: np.ndarray  # [documents] UTF-8 bytes of the text

    def document(self, index: int) -> np.ndarray:
        return self.tokens[self.starts[index] : self.starts[index + 1]]


def _load_processor(path: str) -> None:
    global _processor  # one per worker process of the pool
    _processor = sentencepiece.SentencePieceProcessor(model_file=path)


def _encode(text: str) -> np.ndarray:
    return np.array(_processor.encode(text, add_bos=True, add_eos=True), dtype=np.int32)


def tokenise(documents: list[Document], tokenizer: Path, workers: int) -> TokenisedDocuments:
    """Encodes every document with the SentencePiece model `tokenizer`."""
    with Pool(workers, initializer=_load_processor, initargs=(str(tokenizer),)) as pool:
        encoded = pool.map(_encode, [document.text for document in documents], chunksize=32)
    return TokenisedDocuments(
        tokens=np.concatenate(encoded),
        starts=np.concatenate([[0], np.cumsum([len(ids) for ids in encoded])]),
        tiers=np.array([document.tier for document in documents]),
        byte_counts=np.array([len(document.text.encode()) for document in documents]),
    )


def epoch_rows(data: TokenisedDocuments, mix: tuple[float, ...], seed: int, epoch: int) -> np.ndarray:
    """One epoch's shuffled rows, int32 [rows, CONTEXT + 1], a function of its arguments only.

    `mix` says how often a document of each tier appears; a fraction is a probability.
    Half of the documents are cut from their first token, so that a row starts with <s>;
    the others at a random place, so that every token is seen at every position. What is
    left at either end is packed with other documents' ends.
    """
    random = np.random.default_rng((seed, epoch))
    full, pieces = [], []
    for index in np.repeat(np.arange(len(data.tiers)), _copies(data.tiers, mix, random)):
        tokens = data.document(index)
        first = 0 if random.random() < 0.5 else int(random.integers(CONTEXT))
        count = max(0, (len(tokens) - first - 1) // CONTEXT)
        end = first + count * CONTEXT
        if count:
            full.append(np.lib.stride_tricks.sliding_window_view(tokens[first : end + 1], CONTEXT + 1)[::CONTEXT])
        pieces += [piece for piece in (tokens[:first], tokens[end:]) if len(piece) > 1]
    random.shuffle(pieces)
    packed = np.concatenate(pieces)
    usable = len(packed) // (CONTEXT + 1) * (CONTEXT + 1)
    rows = np.concatenate(full + [packed[:usable].reshape(-1, CONTEXT + 1)])
    random.shuffle(rows, axis=0)
    return rows


def _copies(tiers: np.ndarray, mix: tuple[float, ...], random: np.random.Generator) -> np.ndarray:
    wanted = np.array(mix)[tiers - 1]
    whole = np.floor(wanted).astype(int)
    return whole + (random.random(len(tiers)) < wanted - whole)


def evaluation_rows(data: TokenisedDocuments) -> tuple[np.ndarray, np.ndarray]:
    """Rows that score every token of every document once, and each row's document.

    Documents are cut into windows of CONTEXT targets; a window sees nothing before
    itself. Short windows are padded with IGNORED.
    """
    rows, owners = [], []
    for index in range(len(data.tiers)):
        tokens = data.document(index)
        for start in range(0, len(tokens) - 1, CONTEXT):
            row = np.full(CONTEXT + 1, IGNORED, dtype=np.int32)
            window = tokens[start : start + CONTEXT + 1]
            row[: len(window)] = window
            rows.append(row)
            owners.append(index)
    return np.stack(rows), np.array(owners)
