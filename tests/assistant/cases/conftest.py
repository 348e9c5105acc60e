"""An encoder without a model, and pictures to embed with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from assistant.errors import BadInput
from assistant.model.encoders.base import EncoderInfo

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 210), "white": (250, 250, 250)}


class ColourEncoder:
    """Mean colour and its spread; a text is the colours that it names."""

    def __init__(self, name: str = "colours", weights: str = "1") -> None:
        self.info = EncoderInfo(name, "CC0", 6, 8, "mean", True, "resize 8")
        self.id = f"{name}-{weights}"
        self.embedded = 0

    def embed_images(self, images: Sequence[Image.Image], batch_size: int = 32) -> NDArray[np.float32]:
        self.embedded += len(images)
        pixels = [np.asarray(image.resize((8, 8)), np.float32).reshape(-1, 3) / 255 for image in images]
        return self._unit([np.concatenate([p.mean(axis=0), 0.1 * p.std(axis=0) + 0.01]) for p in pixels])

    def embed_texts(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        if not all(text.strip() for text in texts):
            raise BadInput("an empty text")
        means = [np.mean([c for name, c in COLOURS.items() if name in text] or [(1, 1, 1)], axis=0) for text in texts]
        return self._unit([np.concatenate([mean / 255, [0.01] * 3]) for mean in means])

    @staticmethod
    def _unit(rows: list[NDArray[np.floating]]) -> NDArray[np.float32]:
        array = np.stack(rows).astype(np.float32)
        return array / np.linalg.norm(array, axis=1, keepdims=True)


def paint(path: Path, colour: str, seed: int = 0) -> Path:
    """A noisy picture of one colour; ``seed`` makes it another picture."""
    noise = np.random.default_rng(seed).normal(0, 8, (30, 40, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def encoder() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two slides with three fields each, and one picture beside them."""
    folder = tmp_path / "pictures"
    for number, (name, colour) in enumerate(
        [
            ("s1/a", "red"),
            ("s1/b", "red"),
            ("s1/c", "blue"),
            ("s2/a", "red"),
            ("s2/b", "green"),
            ("s2/c", "blue"),
            ("x", "white"),
        ]
    ):
        paint(folder / f"{name}.png", colour, number)
    return folder
