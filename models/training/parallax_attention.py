"""Causal Parallax attention: a plain PyTorch form and fla's Triton kernels.

For a query row q, its probe r, keys k_j and values v_j (arXiv 2605.29157):

    s1_j = (q . k_j) / sqrt(D)      s2_j = r . k_j      p_j = exp(s1_j - max s1)
    d1 = sum p_j    d2 = sum p_j s2_j    o1 = sum p_j v_j    o2 = sum p_j s2_j v_j
    out = (o1/d1) (1 + d2/d1) - o2/d1

All functions take q, r of shape [B, T, Hq, D] and k, v of shape [B, T, Hkv, D], with
Hq a multiple of Hkv, and return [B, T, Hq, D].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_parallax(q: Tensor, r: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition in the precision of its inputs. Stores the T x T scores."""
    batch, length, heads, dim = q.shape
    kv_heads = k.shape[2]
    q, r = (x.reshape(batch, length, kv_heads, heads // kv_heads, dim) for x in (q, r))
    s1 = torch.einsum("bqhgd,bkhd->bhgqk", q, k) * dim**-0.5
    s2 = torch.einsum("bqhgd,bkhd->bhgqk", r, k)
    future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    p = torch.softmax(s1.masked_fill(future, float("-inf")), dim=-1)
    # With p normalised, d1 = 1 and out = sum_j p_j (1 + d2 - s2_j) v_j.
    weights = p * (1 + (p * s2).sum(-1, keepdim=True) - s2)
    return torch.einsum("bhgqk,bkhd->bqhgd", weights, v).reshape(batch, length, heads, dim)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Ordinary attention: Parallax with a probe of zero."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def parallax(q: Tensor, r: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """fla's Triton kernels for half-precision tensors on a GPU, else the reference."""
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        return _fused_forward(q, r, k, v)[0]
    return reference_parallax(q, r, k, v)


# fla's autograd function breaks torch.compile's graph; these custom operators do not.


@torch.library.custom_op("stories::parallax_forward", mutates_args=())
def _fused_forward(
    q: Tensor, r: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from fla.ops.parallax.parallel import parallel_parallax_fwd

    q, r, k, v = (x.contiguous() for x in (q, r, k, v))
    return tuple(parallel_parallax_fwd(q, r, k, v, q.shape[-1] ** -0.5))


@_fused_forward.register_fake
def _(q: Tensor, r: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    row = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    return out, torch.empty_like(out), row, torch.empty_like(row), torch.empty_like(row)


@torch.library.custom_op("stories::parallax_backward", mutates_args=())
def _fused_backward(
    q: Tensor, r: Tensor, k: Tensor, v: Tensor,
    out: Tensor, mean_value: Tensor, d1: Tensor, mean_s2: Tensor, maximum: Tensor, grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    from fla.ops.parallax.parallel import parallel_parallax_bwd

    saved = [x.contiguous() for x in (q, r, k, v, out, mean_value, d1, mean_s2, maximum, grad)]
    return tuple(parallel_parallax_bwd(*saved, q.shape[-1] ** -0.5))


@_fused_backward.register_fake
def _(q: Tensor, r: Tensor, k: Tensor, v: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, r, k, v))


def _keep_for_backward(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx, grad: Tensor, *_unused: Tensor | None) -> tuple[Tensor, ...]:
    return _fused_backward(*ctx.saved_tensors, grad)


_fused_forward.register_autograd(_backward, setup_context=_keep_for_backward)
