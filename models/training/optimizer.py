"""Muon for the matrices of the layers, AdamW for embeddings and gains.

Muon (Jordan et al., 2024) replaces a matrix's momentum by the nearest semi-orthogonal
matrix, found with five Newton-Schulz steps. Matrices of one shape go through them together.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor) -> Tensor:
    """Approximate U V^T of every matrix of a [N, rows, cols] stack, in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, parameters: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        buffers = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            buffers.append(state["momentum"])
        gradients = [parameter.grad for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        lookahead = torch._foreach_lerp(gradients, buffers, momentum)
        updates = list(orthogonalise(torch.stack(lookahead)).to(parameters[0].dtype).unbind())
        rows, columns = parameters[0].shape
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        torch._foreach_add_(parameters, updates, alpha=-lr * max(1.0, rows / columns) ** 0.5)


def build_optimizers(
    model: nn.Module, muon_lr: float, adam_lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon over the layers' matrices and AdamW over the rest."""
    matrices, others = [], []
    for parameter in model.model.layers.parameters():
        (matrices if parameter.ndim == 2 else others).append(parameter)
    others += [model.model.embed_tokens.weight, model.model.norm.weight]
    fused = others[0].is_cuda
    return [
        Muon(matrices, lr=muon_lr, weight_decay=weight_decay),
        torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=fused),
    ]


def learning_rate_factor(step: int, steps: int, warmup: int, cooldown: float) -> float:
    """Linear warm-up, a plateau, then a linear fall to zero over the last `cooldown` share."""
    falling = (steps - step) / max(1.0, cooldown * steps)
    return min(1.0, (step + 1) / warmup, falling)
