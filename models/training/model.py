"""The language model: a Qwen3-style decoder whose attention is Parallax or softmax.

Parameter names are those of the checkpoint convention `ParallaxQwen3ForCausalLM`, so a
state dict is a checkpoint. Embedding and output head are tied.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parallax_attention import parallax, softmax_attention

HEAD_DIM = 64


@dataclass(frozen=True)
class ModelConfig:
    """Shape and training-time options. `hidden_size` is `num_heads * HEAD_DIM`."""

    vocab_size: int = 6144
    num_layers: int = 8
    num_heads: int = 6
    num_kv_heads: int = 2
    intermediate_size: int = 768
    max_positions: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    attention: str = "parallax"  # or "softmax"
    dropout: float = 0.05
    probe_gain: float = 0.3  # initial gains of r_norm
    zero_probe: bool = False  # start r_proj at zero

    @property
    def hidden_size(self) -> int:
        return self.num_heads * HEAD_DIM

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32 or wider."""

    def __init__(self, size: int, eps: float, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), gain))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight).to(x.dtype)


def rope_tables(length: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of shape [length, HEAD_DIM / 2]."""
    half = torch.arange(0, HEAD_DIM, 2, device=device, dtype=torch.float32)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * theta ** (-half / HEAD_DIM)
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates [B, T, H, D]; element i is paired with element i + D/2."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with per-head norms and, for Parallax, a probe r."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, kv_width = config.hidden_size, config.num_kv_heads * HEAD_DIM
        self.has_probe = config.attention == "parallax"
        self.probe_enabled = True  # False ablates the probe at inference
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, kv_width, bias=False)
        self.v_proj = nn.Linear(hidden, kv_width, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)
        self.q_norm = RMSNorm(HEAD_DIM, config.norm_eps)
        self.k_norm = RMSNorm(HEAD_DIM, config.norm_eps)
        if self.has_probe:
            self.r_proj = nn.Linear(hidden, hidden, bias=False)
            self.r_norm = RMSNorm(HEAD_DIM, config.norm_eps, config.probe_gain)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        names = ("q_proj", "k_proj", "v_proj") + (("r_proj",) if self.has_probe else ())
        weights = [getattr(self, name).weight for name in names]
        parts = F.linear(x, torch.cat(weights)).split([w.shape[0] for w in weights], dim=-1)
        q, k, v, *probe = (part.unflatten(-1, (-1, HEAD_DIM)) for part in parts)
        q = apply_rope(self.q_norm(q), cos, sin)
        k = apply_rope(self.k_norm(k), cos, sin)
        if self.has_probe and self.probe_enabled:
            out = parallax(q, apply_rope(self.r_norm(probe[0]), cos, sin), k, v)
        else:
            out = softmax_attention(q, k, v)
        return self.o_proj(out.flatten(-2))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = F.linear(x, torch.cat((self.gate_proj.weight, self.up_proj.weight))).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class DecoderLayer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)
        self.dropout = config.dropout

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), cos, sin)
        x = x + F.dropout(attended, self.dropout, self.training)
        return x + F.dropout(self.mlp(self.post_attention_layernorm(x)), self.dropout, self.training)


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        cos, sin = rope_tables(tokens.shape[1], self.config.rope_theta, tokens.device)
        x = self.embed_tokens(tokens).to(dtype)
        x = F.dropout(x, self.config.dropout, self.training)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


class StoryModel(nn.Module):
    """Tokens [B, T] to logits [B, T, vocab]. `dtype` is that of the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self._initialise()

    def _initialise(self) -> None:
        residual_std = 0.02 / (2 * self.config.num_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim != 2:
                continue
            if self.config.zero_probe and "r_proj" in name:
                nn.init.zeros_(parameter)
            else:
                into_residual = "o_proj" in name or "down_proj" in name
                nn.init.normal_(parameter, std=residual_std if into_residual else 0.02)

    def forward(self, tokens: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return F.linear(self.model(tokens, dtype), self.model.embed_tokens.weight)

    def loss(self, tokens: Tensor, dtype: torch.dtype, reduction: str = "mean") -> Tensor:
        """Cross entropy, in nats, of each row's tokens after its first."""
        logits = self(tokens[:, :-1], dtype)
        return F.cross_entropy(
            logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), ignore_index=-1, reduction=reduction
        )

    def enable_probe(self, enabled: bool) -> None:
        """Switches the probe of every layer on or off; off leaves softmax attention."""
        for layer in self.model.layers:
            layer.self_attn.probe_enabled = enabled
