"""Contrastive losses with pairs left out: InfoNCE (Radford et al. 2021) and the sigmoid loss (Zhai et al. 2023).

With nothing left out they equal ``open_clip.loss.ClipLoss`` and ``SigLipLoss`` on one process (tested).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def info_nce(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, ignore: torch.Tensor | None = None
) -> torch.Tensor:
    """Symmetric cross-entropy over the batch.

    Args:
        image: Unit vectors [B, D]. text: Unit vectors [B, D]; row i belongs to image i.
        scale: Inverse temperature, a positive scalar.
        ignore: Bool [B, B], pairs (image i, text j) that are no negatives.
    """
    logits = scale * image @ text.T  # [B, B]
    if ignore is not None:
        logits = logits.masked_fill(ignore, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def siglip(
    image: torch.Tensor,
    text: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    ignore: torch.Tensor | None = None,
) -> torch.Tensor:
    """Pairwise sigmoid loss, summed over pairs and divided by B; arguments as :func:`info_nce`, ``bias`` a scalar."""
    logits = scale * image @ text.T + bias
    sign = 2 * torch.eye(len(logits), device=logits.device) - 1
    losses = -F.logsigmoid(sign * logits)
    if ignore is not None:
        losses = losses.masked_fill(ignore, 0.0)
    return losses.sum() / len(logits)
