"""Reads the story corpus: text files of documents plus `index.tsv`.

A corpus folder holds `<tier>.<split>.txt` files whose documents end with a line
`<|endoftext|>`, and an `index.tsv` with one row per document in file order.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

TIERS = ("1-storybooks-ccby", "2-children-simple", "3-children-wider", "4-easy-fiction")
DOCUMENT_END = "<|endoftext|>\n"

# Still protected in countries that count seventy years from the author's death.
EXCLUDED_AUTHORS = ("Thornton Waldo Burgess", "Walter De La Mare")


@dataclass(frozen=True)
class Document:
    """One story or one chapter."""

    tier: int  # 1..4, the position in TIERS plus one
    source: str
    author: str
    title: str
    chapter: str
    text: str

    @property
    def paragraphs(self) -> list[str]:
        return self.text.split("\n\n")


def read_split(corpus: Path, split: str) -> list[Document]:
    """All usable documents of `split` ("train" or "heldout"), in file order."""
    index = _read_index(corpus / "index.tsv", split)
    documents: list[Document] = []
    for number, tier in enumerate(TIERS, start=1):
        texts = (corpus / f"{tier}.{split}.txt").read_text(encoding="utf-8").split(DOCUMENT_END)
        if texts.pop().strip():
            raise ValueError(f"{tier}.{split}.txt does not end with a document mark")
        rows = index[tier]
        if len(rows) != len(texts):
            raise ValueError(f"{tier}.{split}: {len(texts)} documents, {len(rows)} index rows")
        documents += [
            Document(number, row["source"], row["author"], row["title"], row["chapter"], text.strip("\n"))
            for row, text in zip(rows, texts, strict=True)
            if row["author"] not in EXCLUDED_AUTHORS
        ]
    return documents


def _read_index(path: Path, split: str) -> dict[str, list[dict[str, str]]]:
    rows: dict[str, list[dict[str, str]]] = {tier: [] for tier in TIERS}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["split"] == split:
                rows[row["tier"]].append(row)
    return rows
