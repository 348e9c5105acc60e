"""An image seen whole and in four overlapping parts, as one vector.

A field's vector moves with what happens to lie in it; the mean over the field and its corners moves less. On ``val``
this lifts zero-shot classes of fields from cases never seen (``eval/results/encoder.md``). It costs five passes an
image, so classes use it and bulk embedding does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

    from assistant.model.encoders.base import Encoder

SHARE = 0.6  # of the shorter side, that a part spans
COUNT = 5


def views(image: Image) -> list[Image]:
    """The image, then a square at each of its corners."""
    width, height = image.size
    side = max(1, round(SHARE * min(width, height)))
    corners = [(x, y) for y in (0, height - side) for x in (0, width - side)]
    return [image, *(image.crop((x, y, x + side, y + side)) for x, y in corners)]


def merged(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of the views of N images [N · COUNT, D] → their mean directions [N, D]."""
    means = vectors.reshape(-1, COUNT, vectors.shape[-1]).mean(axis=1)
    unit: NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit


def embed_views(encoder: Encoder, images: Sequence[Image]) -> NDArray[np.float32]:
    """One vector of length 1 an image over all its views, [N, D]."""
    return merged(encoder.embed_images([view for image in images for view in views(image)]))
