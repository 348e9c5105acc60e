"""From a picture of any size to the square an encoder takes: resized ahead in threads, normalised in batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


@dataclass(frozen=True)
class Pixels:
    """How images are prepared.

    Attributes:
        size: Side of the square in pixels.
        resize: ``"squash"`` to the square, or ``"shortest"`` side to ``size`` and cut the centre.
        interpolation: Of the resize; always antialiased.
        mean: Per channel, of values 0…1.
        std: Per channel.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid", "strict": True}

    size: int
    resize: Literal["squash", "shortest"]
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __str__(self) -> str:
        """One line that names everything, part of a store's identity."""
        crop = " and centre crop" if self.resize == "shortest" else ""
        numbers = " ".join(f"{value:g}" for value in (*self.mean, *self.std))
        return f"{self.resize}{crop} to {self.size}, {self.interpolation}, mean and std {numbers}"

    def square(self, image: Image) -> torch.Tensor:
        """uint8 [3, size, size] of an RGB image; Pillow's resize, which lets other threads run meanwhile."""
        from PIL.Image import Resampling

        method = Resampling.BILINEAR if self.interpolation == "bilinear" else Resampling.BICUBIC
        if image.size == (self.size, self.size):
            return _tensor(image)
        if self.resize == "squash":
            return _tensor(image.resize((self.size, self.size), method))
        short = min(image.size)
        width, height = (int(self.size * side / short) for side in image.size)
        left, top = (round((side - self.size) / 2.0) for side in (width, height))
        # Only what the crop keeps is computed: a strip of 1:100 would otherwise be blown up whole.
        scale = (image.width / width, image.height / height)
        box = (left * scale[0], top * scale[1], (left + self.size) * scale[0], (top + self.size) * scale[1])
        return _tensor(image.resize((self.size, self.size), method, box=box))

    def normalise(self, squares: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, S, S] to float32, mean taken off and divided by the deviation; on the device it is on."""
        mean = squares.new_tensor(self.mean, dtype=squares.float().dtype).view(3, 1, 1)
        std = squares.new_tensor(self.std, dtype=mean.dtype).view(3, 1, 1)
        return (squares.to(mean.dtype) / 255 - mean) / std


def _tensor(image: Image) -> torch.Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
