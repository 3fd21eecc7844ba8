"""Writes a tiny random Parallax checkpoint without a tokenizer, for tests.

    python make_random_tiny.py OUTPUT_FOLDER [--seed 0]

Its gains are drawn around 1 and its probe is strong, so a server that drops or scales
the probe wrongly cannot give the right logits. `expected.json` holds one prompt and the
float32 logits after its last token.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from checkpoint import load_model, save_model
from model import ModelConfig, StoryModel

TINY = ModelConfig(
    vocab_size=512, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=384, max_positions=512, dropout=0.0
)
PROMPT_LENGTH = 70  # more than one page of 64


def randomise(model: StoryModel) -> None:
    """Weights large enough that every layer changes the logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            else:
                parameter.normal_(std=parameter.shape[1] ** -0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    model = StoryModel(TINY)
    randomise(model)
    save_model(model, arguments.out)
    model = load_model(arguments.out)  # with the weights as stored
    prompt = torch.randint(3, TINY.vocab_size, (PROMPT_LENGTH,))
    with torch.no_grad():
        logits = model(prompt[None])[0, -1]
    expected = {"prompt_ids": prompt.tolist(), "logits": logits.tolist()}
    (arguments.out / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
