#!/usr/bin/env python3
"""How far PyTorch's bfloat16 is from float32 on the default model: the yardstick of
cuda_decoder_test, which allows the GPU backend 1.5 times as much.

  torch_bf16_logits.py [--device cuda|cpu]     from the repository's root

Texts as in that test: 64 of 128 tokens, openings of eight tokens from the golden continuations,
continued greedily in float32. "bfloat16 weights and activations" is how a model is served in
PyTorch: every matrix product and every tensor between two ops in bfloat16, sums, norms and the
softmax within an op in float32. The residual stream and the logits are then bfloat16 as well.
"""

import argparse
import json
import struct
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "models/parallax-stories-14m"
SEQUENCES, POSITIONS, PROMPT = 64, 128, 8


def load_weights(path: Path, device: str) -> dict[str, torch.Tensor]:
    """A safetensors file of bfloat16 tensors: a JSON header, then their bytes."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    weights = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            raise ValueError(f"{name}: {entry['dtype']}, not BF16")
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        flat = torch.frombuffer(bytearray(raw[begin:end]), dtype=torch.bfloat16)
        weights[name] = flat.reshape(entry["shape"]).to(device)
    return weights


class Model:
    def __init__(self, weights: dict[str, torch.Tensor], config: dict, dtype: torch.dtype):
        self.w = {name: weight.to(dtype) for name, weight in weights.items()}
        self.config, self.dtype = config, dtype

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        return (wide * scale * self.w[name].float()).to(self.dtype)

    def rope(self, x: torch.Tensor) -> torch.Tensor:
        dim = x.shape[-1]
        half = torch.arange(0, dim, 2, device=x.device, dtype=torch.float32)
        angles = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)[:, None]
        angles = angles * self.config["rope_theta"] ** (-half / dim)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        a, b = x.float().chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(self.dtype)

    def attention(self, x: torch.Tensor, prefix: str) -> torch.Tensor:
        def heads(name: str) -> torch.Tensor:
            product = F.linear(x, self.w[f"{prefix}.{name}_proj.weight"])
            return product.unflatten(-1, (-1, self.config["head_dim"]))

        q, r, k = (
            self.rope(self.norm(heads(name), f"{prefix}.{name}_norm.weight")) for name in "qrk"
        )
        v = heads("v")
        group = q.shape[2] // k.shape[2]
        q, r = q.transpose(1, 2), r.transpose(1, 2)
        k, v = (t.repeat_interleave(group, dim=2).transpose(1, 2) for t in (k, v))
        hidden = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
        s1 = (q @ k.transpose(-1, -2)).float() / self.config["head_dim"] ** 0.5
        s2 = (r @ k.transpose(-1, -2)).float().masked_fill(hidden, 0.0)
        p = s1.masked_fill(hidden, float("-inf")).softmax(-1)
        # out = E[v] - Cov(v, k) r, as one weighted sum of the values.
        weights = p * (1 + (p * s2).sum(-1, keepdim=True) - s2)
        out = weights.to(self.dtype) @ v
        return F.linear(out.transpose(1, 2).flatten(-2), self.w[f"{prefix}.o_proj.weight"])

    def mlp(self, x: torch.Tensor, prefix: str) -> torch.Tensor:
        gate, up = (F.linear(x, self.w[f"{prefix}.{name}_proj.weight"]) for name in ("gate", "up"))
        return F.linear(F.silu(gate) * up, self.w[f"{prefix}.down_proj.weight"])

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        x = F.embedding(tokens, self.w["model.embed_tokens.weight"])
        for i in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{i}"
            x = x + self.attention(self.norm(x, f"{layer}.input_layernorm.weight"),
                                   f"{layer}.self_attn")
            x = x + self.mlp(self.norm(x, f"{layer}.post_attention_layernorm.weight"),
                             f"{layer}.mlp")
        return F.linear(self.norm(x, "model.norm.weight"), self.w["model.embed_tokens.weight"])


def openings(device: str) -> torch.Tensor:
    golden = json.loads((MODEL / "testdata/golden.json").read_text())["continuations"]
    rows = []
    for i in range(SEQUENCES):
        source = golden[i % len(golden)]
        tokens = source["prompt_ids"] + source["output_ids"]
        first = min(i // len(golden) * 3, len(tokens) - PROMPT)
        rows.append(tokens[first : first + PROMPT])
    return torch.tensor(rows, device=device)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    config = json.loads((MODEL / "config.json").read_text())
    weights = load_weights(MODEL / "model.safetensors", args.device)
    truth = Model(weights, config, torch.float32)
    tokens = openings(args.device)
    with torch.inference_mode():
        while tokens.shape[1] < POSITIONS:
            tokens = torch.cat((tokens, truth.logits(tokens)[:, -1].argmax(-1, keepdim=True)), 1)
        expected = truth.logits(tokens)
        got = Model(weights, config, torch.bfloat16).logits(tokens).float()
    error = ((got - expected).abs().max() / expected.abs().max()).item()
    same = (got.argmax(-1) == expected.argmax(-1)).float().mean().item()
    print(f"torch {torch.__version__}, {args.device}: max|d|/max|ref| {error:.3e}, "
          f"same argmax at {100 * same:.2f} % of {SEQUENCES * POSITIONS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
