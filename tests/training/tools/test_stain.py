"""The head that tells stains apart: what it reads, and that fitting folds the standardisation in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from assistant.tools.colour import STAINS, colour_features, stain_chances, stained_density
from training.run import read_recipe
from training.tools.stain import StainRecipe, fit

TINTS = {STAINS[0]: (150, 105, 60), STAINS[1]: (220, 130, 190), STAINS[2]: (120, 200, 190)}


def tinted(tint: tuple[int, int, int], seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0, 12, (64, 64, 3))
    return Image.fromarray((np.array(tint) + noise).clip(0, 255).astype(np.uint8))


def test_a_fitted_head_tells_tints_apart() -> None:
    kinds = [kind for kind in STAINS for _ in range(12)]
    images = [tinted(TINTS[kind], number) for number, kind in enumerate(kinds)]
    features = np.stack([colour_features(stained_density(image)) for image in images])
    head = fit(features, kinds, 1.0)
    fresh = [colour_features(stained_density(tinted(TINTS[kind], 99)))[None] for kind in STAINS]
    assert [head.classes[int(head.probabilities(one).argmax())] for one in fresh] == list(STAINS)


def test_nothing_is_said_about_glass() -> None:
    assert stain_chances(stained_density(Image.new("RGB", (300, 300), "white"))) is None


def test_the_shipped_head_knows_its_classes() -> None:
    chances = stain_chances(stained_density(tinted(TINTS[STAINS[1]], 1)))
    assert chances is not None
    assert set(chances) == set(STAINS)
    assert sum(chances.values()) > 0.999


def test_the_shipped_recipe_reads() -> None:
    assert read_recipe(Path("training/tools/recipes/stain.yaml"), StainRecipe) == StainRecipe()
