"""What every encoder offers, whoever trained it: images and texts to unit vectors in one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image


@dataclass(frozen=True)
class EncoderInfo:
    """The card of an encoder.

    Attributes:
        name: Preset name, for example ``pathclip-small``.
        licence: Licence of the weights, as its owner states it.
        dimension: Length of a vector.
        image_size: Side of the square input in pixels.
        pooling: How tokens become one vector, for example ``"cls"`` or ``"mean"``.
        has_text: Texts can be embedded too.
        preprocessing: Resize, crop, mean and standard deviation in one line; part of a store's identity.
        research_only: The licence excludes commercial use.
    """

    name: str
    licence: str
    dimension: int
    image_size: int
    pooling: str
    has_text: bool
    preprocessing: str
    research_only: bool = False


class Encoder(Protocol):
    """Images and texts to vectors.

    Attributes:
        info: The card.
        id: ``name-hash`` of the weights: vectors of two encoders with the same id can be compared.
    """

    info: EncoderInfo
    id: str

    def embed_images(self, images: Sequence[Image], batch_size: int = 32) -> NDArray[np.float32]:
        """Vectors [N, D] of length 1. ``images`` are RGB as ``assistant.images.intake`` returns them."""

    def embed_texts(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Vectors [N, D] of length 1.

        Raises:
            BadInput: An empty text, or an encoder without a text tower.
        """
