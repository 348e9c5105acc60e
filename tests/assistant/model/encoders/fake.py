"""An encoder whose vectors are known: mean colour of an image, and the colour a text names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from assistant.errors import BadInput
from assistant.model.encoders.base import EncoderInfo

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}


class ColourEncoder:
    """See :class:`assistant.model.encoders.base.Encoder`; texts of more than 50 words are cut."""

    id = "colours-0123456789ab"
    logit_scale = 10.0

    def __init__(self, has_text: bool = True) -> None:
        self.info = EncoderInfo("colours", "CC0-1.0", 3, 8, "mean", has_text, "none")
        self.batches: list[int] = []

    @classmethod
    def load(cls, name: str = "pathclip-small", source: str = "wheels") -> ColourEncoder:
        if name not in ("pathclip-small", "colours"):
            raise BadInput(f"unknown encoder {name!r}; choose one of: colours")
        return cls()

    def embed_images(self, images: Sequence[Image], batch_size: int = 32) -> NDArray[np.float32]:
        return self.embed_prepared([self.prepare(image) for image in images])

    def embed_texts(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        if not self.info.has_text:
            raise BadInput("the encoder colours embeds images only")
        rows = [[0.01 + any(name in text for name in (key,)) for key in COLOURS] for text in texts]
        return self._unit(np.array(rows, np.float32).reshape(-1, 3))

    def too_long(self, texts: Sequence[str]) -> list[int]:
        return [i for i, text in enumerate(texts) if len(text.split()) > 50]

    def prepare(self, image: Image) -> Any:
        assert image.mode == "RGB"
        return np.asarray(image).reshape(-1, 3).mean(0) + 1e-3

    def embed_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        self.batches.append(len(prepared))
        return self._unit(np.array(prepared, np.float32).reshape(-1, 3))

    @staticmethod
    def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit
