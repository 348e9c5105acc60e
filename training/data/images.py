"""Decoding of training images (trusted files, so no caps) to uint8 tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def load_square(paths: Sequence[Path], size: int) -> torch.Tensor:
    """Decode and squash each image to a square, as the image processor does. Returns uint8 [N, 3, size, size]."""
    out = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            rgb = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        out[i] = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)
    return out
