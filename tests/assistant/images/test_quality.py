"""Warnings before answering: given for what is wrong, and seldom for real fields."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from assistant.images import blankness, image_warnings, load_image


@pytest.fixture(scope="module")
def colon() -> Image.Image:
    """A real field, DAB on haematoxylin, that comes with scikit-image."""
    from skimage.data import immunohistochemistry

    return Image.fromarray(immunohistochemistry())


def test_a_real_field_has_no_warnings(colon: Image.Image) -> None:
    assert image_warnings(colon) == ()
    assert blankness(colon) < 0.3


@pytest.mark.parametrize("colour", ["white", "black", "pink", (128, 128, 128)])
def test_flat_images_are_blank(colour: str | tuple[int, int, int]) -> None:
    image = Image.new("RGB", (300, 200), colour)
    assert blankness(image) == 1.0
    (warning,) = image_warnings(image)
    assert "nearly blank (100 %" in warning.replace("100%", "100 %")


def test_noisy_empty_glass_is_blank(colon: Image.Image) -> None:
    noise = np.random.default_rng(0).normal(240, 5, (400, 400, 3)).clip(0, 255).astype(np.uint8)
    glass = Image.fromarray(noise)
    assert blankness(glass) > 0.95
    assert "nearly blank" in image_warnings(glass)[0]
    glass.paste(colon.resize((200, 200)), (0, 0))
    assert 0.7 < blankness(glass) < 0.85
    assert not any("blank" in warning for warning in image_warnings(glass))


def test_low_resolution(colon: Image.Image) -> None:
    (warning,) = image_warnings(colon.resize((63, 80)))
    assert "only 63 x 80 pixels" in warning
    assert image_warnings(colon.resize((64, 80))) == ()


def test_blur(colon: Image.Image) -> None:
    assert image_warnings(colon.filter(ImageFilter.GaussianBlur(12))) == ("the image looks blurred",)
    assert image_warnings(colon.filter(ImageFilter.GaussianBlur(1))) == ()


def test_greyscale(colon: Image.Image) -> None:
    (warning,) = image_warnings(load_image(colon.convert("L")))
    assert "greyscale" in warning


@pytest.mark.parametrize("name", ["astronaut", "coffee", "rocket", "chelsea"])
def test_photographs(name: str) -> None:
    import skimage.data

    photograph = Image.fromarray(getattr(skimage.data, name)())
    assert image_warnings(photograph) == ("the colours do not look like stained tissue",)


def test_colours_of_one_brightness_are_no_error() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::2] = (200, 40, 103)
    pixels[:, 1::2] = (100, 90, 104)
    image_warnings(Image.fromarray(pixels))


@pytest.mark.data
@pytest.mark.slow
def test_real_fields_are_seldom_warned_about(data_root: Path, subtests: pytest.Subtests) -> None:
    for index in sorted(data_root.glob("*/index.jsonl")):
        records = [json.loads(line) for line in index.read_text().splitlines()]
        fields = random.Random(0).sample(records, min(20, len(records)))
        with subtests.test(index.parent.name):
            warned = [r["image"] for r in fields if image_warnings(load_image(index.parent / r["image"]))]
            assert len(warned) <= 0.1 * len(fields), warned


@pytest.mark.data
def test_samples(data_root: Path) -> None:
    samples = data_root / "samples"
    for name in ("torchstain_source.png", "torchstain_target.png", "skimage_ihc_colon.png", "stardist_histo.jpg"):
        assert image_warnings(load_image(samples / name)) == ()
    assert image_warnings(load_image(samples / "histolab_no-tissue-red-pen.png"))
