"""Pooled features of PathCLIP-small's image tower: what the logistic heads of the classifying tools read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from assistant.errors import NotAvailable

if TYPE_CHECKING:
    from PIL.Image import Image

    from assistant.model.encoders.pathclip import ImageTower

#: The shipped encoder; its image tower alone is read, the text tower is not needed here.
PATHCLIP = Path(__file__).resolve().parents[1] / "weights" / "pathclip-small"


@lru_cache(maxsize=1)
def load_tower(folder: Path = PATHCLIP) -> tuple[ImageTower, int]:
    """The image tower of an artefact and the side of its input in pixels; float32, on the CPU, kept once read.

    Raises:
        NotAvailable: No artefact in ``folder``, or it does not fit.
    """
    import torch
    from safetensors.torch import load_file

    from assistant.model.encoders.pathclip import CONFIG, WEIGHTS, ImageTower, PathClipConfig

    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise NotAvailable(
            f"no trained encoder in {folder.name}; run `pathassist train clip`, or copy the folder again"
        )
    config = PathClipConfig.read(folder / CONFIG)
    tower = ImageTower(config)
    state = {k.removeprefix("visual."): v for k, v in load_file(folder / WEIGHTS).items() if k.startswith("visual.")}
    try:
        tower.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except RuntimeError as error:
        raise NotAvailable(f"{folder.name}/{WEIGHTS} does not fit its {CONFIG}; copy the whole folder again") from error
    tower.eval().requires_grad_(False)
    tower.backbone.to(memory_format=torch.channels_last)
    return tower, config.image_size


def pooled_features(images: Sequence[Image], folder: Path = PATHCLIP, batch_size: int = 32) -> NDArray[np.float32]:
    """Standardised features [N, F] of RGB images, each squashed to the tower's square.

    Raises:
        NotAvailable: As :func:`load_tower`.
    """
    import torch

    from assistant.model.encoders.pathclip import pixels_of

    tower, size = load_tower(folder)
    rows = [np.zeros((0, tower.width), np.float32)]
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            pixels = pixels_of(images[start : start + batch_size], size).contiguous(memory_format=torch.channels_last)
            rows.append(tower.features(pixels).numpy())
    return np.concatenate(rows)
