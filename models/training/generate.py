"""Generates text in float32 on the CPU with a key/value cache, one token at a time.

    python generate.py MODEL_FOLDER "Once upon a time" [--seed 1] [--tokens 200]

The reference for the server: greedy when the temperature is 0, else temperature, top-k,
top-p and repetition penalty as `generation_config.json` names them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor

from checkpoint import BOS_ID, EOS_ID, load_model
from model import HEAD_DIM, Attention, StoryModel, apply_rope, rope_tables


class CachedDecoder:
    """Feeds one sequence through a model, keeping every layer's keys and values."""

    def __init__(self, model: StoryModel, probe_enabled: bool = True) -> None:
        self._model = model
        self._probe_enabled = probe_enabled
        self._keys: list[Tensor | None] = [None] * model.config.num_layers
        self._values: list[Tensor | None] = [None] * model.config.num_layers
        self._position = 0
        self._cos, self._sin = rope_tables(model.config.max_positions, model.config.rope_theta, torch.device("cpu"))

    @torch.no_grad()
    def feed(self, token: int) -> Tensor:
        """Appends one token; returns the logits [vocab] of the next."""
        decoder = self._model.model
        x = decoder.embed_tokens.weight[token]
        for index, layer in enumerate(decoder.layers):
            x = x + self._attend(layer.self_attn, index, layer.input_layernorm(x))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        self._position += 1
        return F.linear(decoder.norm(x), decoder.embed_tokens.weight)

    def _attend(self, attention: Attention, layer: int, x: Tensor) -> Tensor:
        q = self._rotated(attention.q_norm(attention.q_proj(x).view(-1, HEAD_DIM)))
        k = self._rotated(attention.k_norm(attention.k_proj(x).view(-1, HEAD_DIM)))
        keys = _append(self._keys, layer, k)
        values = _append(self._values, layer, attention.v_proj(x).view(-1, HEAD_DIM))
        group = q.shape[0] // k.shape[0]
        grouped = q.view(-1, group, HEAD_DIM)
        p = torch.softmax(torch.einsum("hgd,thd->hgt", grouped, keys) * HEAD_DIM**-0.5, dim=-1)
        if attention.has_probe and self._probe_enabled:
            r = self._rotated(attention.r_norm(attention.r_proj(x).view(-1, HEAD_DIM)))
            s2 = torch.einsum("hgd,thd->hgt", r.view_as(grouped), keys)
            p = p * (1 + (p * s2).sum(-1, keepdim=True) - s2)
        return attention.o_proj(torch.einsum("hgt,thd->hgd", p, values).flatten())

    def _rotated(self, heads: Tensor) -> Tensor:
        here = slice(self._position, self._position + 1)
        return apply_rope(heads[None], self._cos[here], self._sin[here])[0]


def _append(cache: list[Tensor | None], layer: int, row: Tensor) -> Tensor:
    old = cache[layer]
    cache[layer] = row[None] if old is None else torch.cat((old, row[None]))
    return cache[layer]


def choose(logits: Tensor, seen: set[int], settings: dict, generator: torch.Generator) -> int:
    """Samples the next token. The penalty is applied to tokens of prompt and output."""
    ids = torch.tensor(sorted(seen))
    penalty = settings["repetition_penalty"]
    logits = logits.clone()
    logits[ids] = torch.where(logits[ids] > 0, logits[ids] / penalty, logits[ids] * penalty)
    values, order = (logits / settings["temperature"]).topk(settings["top_k"])
    probabilities = torch.softmax(values, dim=-1)
    before = probabilities.cumsum(-1) - probabilities
    probabilities[before >= settings["top_p"]] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])


def sample(model: StoryModel, prompt_ids: list[int], settings: dict, seed: int, limit: int) -> list[int]:
    """Ids that follow the prompt, up to and without </s>, at most `limit`."""
    generator = torch.Generator().manual_seed(seed)
    decoder, seen, output = CachedDecoder(model), set(prompt_ids), []
    for token in prompt_ids:
        logits = decoder.feed(token)
    while len(output) < limit:
        token = choose(logits, seen, settings, generator)
        if token == EOS_ID:
            break
        output.append(token)
        seen.add(token)
        logits = decoder.feed(token)
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(arguments.model)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(arguments.model / "tokenizer.model"))
    settings = json.loads((arguments.model / "generation_config.json").read_text())
    for prompt in arguments.prompts:
        ids = [BOS_ID, *processor.encode(prompt)]
        print(prompt + processor.decode(sample(model, ids, settings, arguments.seed, arguments.tokens)), end="\n\n---\n\n")


if __name__ == "__main__":
    main()
