#!/usr/bin/env python3
"""Writes a Parallax-Qwen3 checkpoint of random bfloat16 weights, to time a start from files.

  write_random_checkpoint.py SHAPE_FOLDER OUT_FOLDER

SHAPE_FOLDER holds config.json. Needs PyTorch; uses the GPU to draw where there is one.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
import sys
from pathlib import Path

import torch


def tensors(config: dict) -> dict[str, list[int]]:
    """Names and shapes, in the order of the file."""
    hidden, mlp, head = (config[k] for k in ("hidden_size", "intermediate_size", "head_dim"))
    q = config["num_attention_heads"] * head
    kv = config["num_key_value_heads"] * head
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], hidden]}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, rows in (("q", q), ("r", q), ("k", kv), ("v", kv)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = [rows, hidden]
        for name in ("q", "r", "k"):
            shapes[f"{at}self_attn.{name}_norm.weight"] = [head]
        shapes[f"{at}self_attn.o_proj.weight"] = [hidden, q]
        shapes[f"{at}mlp.gate_proj.weight"] = [mlp, hidden]
        shapes[f"{at}mlp.up_proj.weight"] = [mlp, hidden]
        shapes[f"{at}mlp.down_proj.weight"] = [hidden, mlp]
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}{name}.weight"] = [hidden]
    shapes["model.norm.weight"] = [hidden]
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [config["vocab_size"], hidden]
    return shapes


def draw(shape: list[int], device: str) -> bytes:
    if len(shape) == 1:
        values = torch.ones(shape, device=device)
    else:
        values = torch.randn(shape, device=device) * shape[1] ** -0.5
    return values.to(torch.bfloat16).view(torch.uint8).cpu().numpy().tobytes()


def main() -> int:
    source, out = (Path(argument) for argument in sys.argv[1:3])
    config = json.loads((source / "config.json").read_text())
    shapes = tensors(config)
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "config.json", out)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with open(out / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            file.write(draw(shape, device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
