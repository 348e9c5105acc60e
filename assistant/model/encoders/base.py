"""What every encoder offers, whoever trained it: images and texts to unit vectors in one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
        logit_scale: Factor on cosines before a softmax, as trained; None where there is no text tower.
    """

    info: EncoderInfo
    id: str
    logit_scale: float | None

    def embed_images(self, images: Sequence[Image], batch_size: int = 32) -> NDArray[np.float32]:
        """Vectors [N, D] of length 1. ``images`` are RGB as ``assistant.images.intake`` returns them."""

    def embed_texts(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Vectors [N, D] of length 1.

        Raises:
            BadInput: An empty text, or an encoder without a text tower.
        """

    def too_long(self, texts: Sequence[str]) -> list[int]:
        """Indices of the texts that :meth:`embed_texts` cuts, since they hold more tokens than it reads."""

    def prepare(self, image: Image) -> Any:
        """The half of :meth:`embed_images` that needs no model; may run in several threads ahead of it."""

    def embed_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """The other half: vectors [N, D] of length 1."""
