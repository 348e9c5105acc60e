"""Colour of the stained pixels of a field as numbers, and the kind of stain they speak for.

One logistic head on a histogram of which light is absorbed (hue of the optical density) and a few moments.
``python -m training.tools.stain`` fits it on openly licensed sets; immunostains are mostly ones made from H&E, since
those sets hold one immunostained slide of their own in ``train``.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.tools.base import WEIGHTS
from assistant.tools.heads import Head

STAINS = ("DAB immunostain", "H&E-like", "other or uncertain")
LEAST = 200  # stained pixels under which nothing is said
_SIDE = 512
_RED, _GREEN = np.linspace(0.05, 0.6, 9), np.linspace(0.15, 0.7, 9)


def stained_density(image: Image.Image) -> NDArray[np.float64]:
    """Optical density [N, 3] of the stained pixels of a 512 px thumbnail."""
    small = image.convert("RGB")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    density = np.maximum(-np.log10((np.asarray(small, dtype=np.float64) + 1) / 240), 0)
    return np.asarray(density[density.max(axis=2) > 0.1])


def colour_features(density: NDArray[np.float64]) -> NDArray[np.float32]:
    """72 numbers from optical densities [N, 3]: a histogram of shares of red and green, means, spreads."""
    total = density.sum(axis=1, keepdims=True) + 1e-6
    share = density / total
    histogram, _, _ = np.histogram2d(share[:, 0], share[:, 1], bins=(_RED, _GREEN))
    darkest = density[total[:, 0] >= np.quantile(total, 0.8)]
    strong = (darkest / darkest.sum(axis=1, keepdims=True)).mean(axis=0)[:2]
    parts = [np.sqrt(histogram.ravel() / len(density)), share.mean(axis=0)[:2] * 4, share.std(axis=0)[:2] * 8,
             strong * 4, [density.mean(), density.std()]]  # fmt: skip
    return np.concatenate(parts).astype(np.float32)


@lru_cache(maxsize=1)
def stain_head() -> Head:
    """The shipped head.

    Raises:
        NotAvailable: It is missing or damaged.
    """
    return Head.read(WEIGHTS / "stain.safetensors")


def stain_chances(density: NDArray[np.float64]) -> dict[str, float] | None:
    """Probability of each of ``STAINS``; None where too little is stained to say."""
    if len(density) < LEAST:
        return None
    head = stain_head()
    chances = head.probabilities(colour_features(density)[None])[0]
    return dict(zip(head.classes, map(float, chances), strict=True))
