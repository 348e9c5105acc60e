"""Corruptions get worse with strength, keep the size, and repeat."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from assistant.errors import BadInput
from eval.corruptions import CORRUPTIONS, STRENGTHS, corrupt


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean())


@pytest.fixture
def tissue() -> Image.Image:
    generator = np.random.default_rng(0)
    coarse = generator.normal((200, 140, 190), (25, 40, 20), (12, 16, 3)).clip(30, 245).astype(np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_strength_orders_the_damage(tissue: Image.Image, kind: str) -> None:
    copies = [corrupt(tissue, kind, strength, seed=3) for strength in STRENGTHS]
    damage = [difference(tissue, copy) for copy in copies]
    assert damage == sorted(damage)
    assert 0 < damage[0] < damage[-1]
    assert all((copy.size, copy.mode) == (tissue.size, "RGB") for copy in copies)
    assert difference(corrupt(tissue, kind, 3, seed=3), copies[2]) == 0


@pytest.mark.parametrize("kind", ["noise", "stain"])
def test_seeds_differ(tissue: Image.Image, kind: str) -> None:
    assert len({corrupt(tissue, kind, 4, seed=seed).tobytes() for seed in range(6)}) > 1


def test_unknown_kind_and_strength(tissue: Image.Image) -> None:
    with pytest.raises(BadInput, match="unknown corruption 'fog'; allowed: jpeg"):
        corrupt(tissue, "fog", 1)
    with pytest.raises(BadInput, match="unknown strength '6'"):
        corrupt(tissue, "blur", 6)
