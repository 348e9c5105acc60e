"""Batched augmentation of histology images: geometry by one affine resample, colour in stain space.

Colour jitter follows Tellez et al. 2019 (stain augmentation): optical density is split into haematoxylin, eosin and
DAB, each channel is scaled and shifted at random, and the image is put together again.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from skimage.color.colorconv import hed_from_rgb, rgb_from_hed

_TO_HED = torch.from_numpy(np.ascontiguousarray(hed_from_rgb)).float()
_FROM_HED = torch.from_numpy(np.ascontiguousarray(rgb_from_hed)).float()


def stain_jitter(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Scale and shift each stain of each image. ``images`` [B, 3, H, W] in 0…1; returns the same shape."""
    if strength <= 0:
        return images
    b = images.shape[0]
    scale = 1 + (torch.rand(b, 1, 1, 3, generator=generator) * 2 - 1) * strength
    shift = (torch.rand(b, 1, 1, 3, generator=generator) * 2 - 1) * strength * 0.1
    density = -torch.log(images.clamp(min=1e-3)).permute(0, 2, 3, 1)  # [B, H, W, 3]
    hed = (density @ _TO_HED) * scale + shift
    return torch.exp(-(hed @ _FROM_HED)).permute(0, 3, 1, 2).clamp(0, 1)


def geometric(
    images: torch.Tensor,
    size: int,
    generator: torch.Generator,
    min_scale: float = 0.5,
    max_scale: float = 1.0,
    centred: torch.Tensor | None = None,
) -> torch.Tensor:
    """Random crop of ``min_scale…max_scale`` of the side, rotated by a quarter turn and perhaps mirrored.

    ``images`` [B, 3, H, W]; returns [B, 3, size, size]. Histology has no up or down, so all eight symmetries are used.
    ``centred`` [B] bool marks images whose label is about their centre: their crops are not shifted.
    """
    b = images.shape[0]
    scale = min_scale + (max_scale - min_scale) * torch.rand(b, generator=generator)
    room = (1 - scale).clamp(min=0)
    if centred is not None:
        room = room * ~centred
    tx = (torch.rand(b, generator=generator) * 2 - 1) * room
    ty = (torch.rand(b, generator=generator) * 2 - 1) * room
    angle = torch.randint(0, 4, (b,), generator=generator).float() * (math.pi / 2)
    mirror = torch.randint(0, 2, (b,), generator=generator).float() * 2 - 1
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([scale * cos * mirror, -scale * sin, tx], dim=-1),
            torch.stack([scale * sin * mirror, scale * cos, ty], dim=-1),
        ],
        dim=1,
    )  # [B, 2, 3]
    grid = F.affine_grid(theta, [b, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def augment(
    images: torch.Tensor,
    size: int,
    generator: torch.Generator,
    *,
    stain: float = 0.25,
    min_scale: float = 0.5,
    centred: torch.Tensor | None = None,
) -> torch.Tensor:
    """Geometry, stain jitter, brightness and contrast. ``images`` [B, 3, H, W] in 0…1 → [B, 3, size, size]."""
    out = geometric(images, size, generator, min_scale=min_scale, centred=centred)
    out = stain_jitter(out, stain, generator)
    b = out.shape[0]
    contrast = 1 + (torch.rand(b, 1, 1, 1, generator=generator) * 2 - 1) * 0.2
    brightness = (torch.rand(b, 1, 1, 1, generator=generator) * 2 - 1) * 0.1
    mean = out.mean(dim=(1, 2, 3), keepdim=True)
    return ((out - mean) * contrast + mean + brightness).clamp(0, 1)
