"""Writes ten unedited samples at the default sampling to `MODEL_FOLDER/SAMPLES.md`.

    python write_samples.py MODEL_FOLDER

Prompts and seeds are fixed and nothing is selected. Prints, per sample, the share of
4-grams of tokens that repeat an earlier one: a text caught in a loop exceeds 0.3.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import sentencepiece
import torch

from checkpoint import BOS_ID, load_model
from generate import sample

PROMPTS = (
    "Once upon a time there was a little fox who",
    "One day, a girl named Anna found a red ball in the garden.",
    "There was once a king who had three sons.",
    "Tom and his dog went down to the river.",
    "The old woman lived alone in a small house near the forest.",
    "It was a cold winter night, and the snow lay deep.",
    "The mouse was afraid of the cat.",
    "\"Mother, may I go and play?\" asked the boy.",
    "A poor fisherman caught a golden fish.",
    "The rabbit wanted to see the world.",
)
LIMIT = 180


def repeated_share(ids: list[int], size: int = 4) -> float:
    grams = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
    return 1 - len(set(grams)) / max(1, len(grams))


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    model = load_model(folder)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    settings = json.loads((folder / "generation_config.json").read_text())
    parts, shares = [], []
    for seed, prompt in enumerate(PROMPTS, start=1):
        ids = sample(model, [BOS_ID, *processor.encode(prompt)], settings, seed, LIMIT)
        shares.append(round(repeated_share(ids), 3))
        ending = "" if len(ids) == LIMIT else " *(the model ended the story)*"
        parts.append(f"## {seed}\n\n**{prompt}**{processor.decode(ids)}{ending}\n")
    limits = f"seeds 1 to {len(PROMPTS)}, at most {LIMIT} tokens, sampling as in `generation_config.json`"
    (folder / "SAMPLES.md").write_text(f"# Ten unedited samples\n\nPrompts in bold; {limits}.\n\n" + "\n".join(parts))
    print("repeated 4-grams:", shares)


if __name__ == "__main__":
    main()
