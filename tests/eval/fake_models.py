"""Models and encoders with known replies, for tests of the harness."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.model.encoders.base import EncoderInfo
from eval.models import NoReply
from eval.task import Response


class FakeModel:
    """Says what ``reply`` makes of image and prompt; counts its calls."""

    name = "fake"
    parallel = 1

    def __init__(self, reply: Callable[[Image.Image | None, str], str | Response], revision: str = "r1") -> None:
        self.reply, self.revision = reply, revision
        self.calls: list[tuple[Image.Image | None, str]] = []

    def answer(self, image: Image.Image | None, prompt: str, *, max_new_tokens: int) -> Response:
        self.calls.append((image, prompt))
        said = self.reply(image, prompt)
        return said if isinstance(said, Response) else Response(said)

    def ground(self, image: Image.Image | None, phrase: str) -> Response:
        if image is None:
            raise NoReply("no image")
        return self.answer(image, phrase, max_new_tokens=64)


class FakeEncoder:
    """Images by their mean colour, texts by a hash: deterministic and cheap."""

    info = EncoderInfo("fake", "none", 8, 32, "mean", True, "none")
    id = "fake-0"

    def embed_images(self, images: Sequence[Image.Image], batch_size: int = 32) -> NDArray[np.float32]:
        assert all(image.mode == "RGB" for image in images)
        return self._unit([[*np.asarray(image).mean(axis=(0, 1)) / 255, 1, 0, 0, 0, 0] for image in images])

    def embed_texts(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        return self._unit([list(hashlib.sha256(text.encode()).digest()[:8]) for text in texts])

    @staticmethod
    def _unit(rows: Sequence[Sequence[float]]) -> NDArray[np.float32]:
        vectors = np.asarray(rows, dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
