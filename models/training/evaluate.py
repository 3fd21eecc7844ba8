"""Bits per byte and perplexity on held-out documents."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from corpus import TIERS
from dataset import IGNORED, TokenisedDocuments, evaluation_rows
from model import StoryModel


@torch.no_grad()
def held_out_scores(
    model: StoryModel, data: TokenisedDocuments, dtype: torch.dtype, batch: int = 64
) -> dict[str, float]:
    """Bits per byte of all tiers and of each, and the perplexity per token of all.

    The negative log-likelihood covers each document's tokens after <s>, with </s>; the
    bytes are those of the text. Every window of 1024 tokens starts without context.
    """
    model.eval()
    device = next(model.parameters()).device
    rows, owners = evaluation_rows(data)
    nll = np.concatenate(
        [_row_nll(model, torch.from_numpy(rows[i : i + batch]).to(device), dtype) for i in range(0, len(rows), batch)]
    )
    per_document = np.bincount(owners, weights=nll, minlength=len(data.tiers))
    targets = int((rows[:, 1:] != IGNORED).sum())
    scores = {"bits_per_byte": _bits_per_byte(per_document, data.byte_counts)}
    for number, tier in enumerate(TIERS, start=1):
        chosen = data.tiers == number
        scores[f"bits_per_byte/{tier}"] = _bits_per_byte(per_document[chosen], data.byte_counts[chosen])
    scores["perplexity"] = math.exp(per_document.sum() / targets)
    return scores


def _bits_per_byte(nll: np.ndarray, byte_counts: np.ndarray) -> float:
    return float(nll.sum() / math.log(2) / byte_counts.sum())


def _row_nll(model: StoryModel, rows: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
    """Summed negative log-likelihood, in nats, of each row's targets."""
    rows = rows.long()
    inputs, targets = rows[:, :-1].clamp(min=0), rows[:, 1:]
    with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = model(inputs, dtype)
    losses = F.cross_entropy(
        logits.transpose(1, 2).float(), targets, ignore_index=IGNORED, reduction="none"
    )
    return losses.sum(1).double().cpu().numpy()
