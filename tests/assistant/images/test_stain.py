"""Stain normalisation moves H&E fields to their reference and leaves everything else as it was, saying why."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from assistant.errors import BadInput
from assistant.images import load_image
from assistant.images.stain import Method, StainNormaliser, separate_stains

METHODS = get_args(Method)
HAEMATOXYLIN, EOSIN, DAB = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)
PURPLE, PINK = (0.58, 0.74, 0.34), (0.16, 0.96, 0.23)


def stained(first: tuple[float, ...], second: tuple[float, ...], strength: float = 1.0, seed: int = 0) -> Image.Image:
    """A field of round nuclei of one stain on a textured ground of another, with a band of empty glass."""
    generator = np.random.default_rng(seed)
    mask = Image.new("L", (160, 120))
    draw = ImageDraw.Draw(mask)
    for x, y in generator.integers(0, 160, (40, 2)):
        draw.ellipse((x, y % 120, x + 12, y % 120 + 12), fill=255)
    nuclei = np.asarray(mask) / 255 * generator.uniform(0.9, 1.5, (120, 160))
    ground = generator.uniform(0.3, 1.2, (120, 160)) * (1 - 0.8 * nuclei.clip(0, 1))
    nuclei[:, 140:] = ground[:, 140:] = 0
    density = strength * (nuclei[..., None] * np.array(first) + ground[..., None] * np.array(second))
    return Image.fromarray((240 * np.exp(-density)).round().clip(0, 255).astype(np.uint8))


def tissue_lab(image: Image.Image) -> NDArray[np.float64]:
    """Mean CIELAB colour of what is not glass, [3]."""
    from skimage.color import rgb2lab

    pixels = np.asarray(image)
    mean: NDArray[np.float64] = rgb2lab(pixels)[pixels.min(axis=2) < 205].mean(axis=0)
    return mean


def distance(a: Image.Image, b: Image.Image) -> float:
    return float(np.linalg.norm(tissue_lab(a) - tissue_lab(b)))


@pytest.fixture(scope="module", params=METHODS)
def normaliser(request: pytest.FixtureRequest) -> StainNormaliser:
    return StainNormaliser(request.param).fit(stained(HAEMATOXYLIN, EOSIN))


def test_colours_move_to_the_reference(normaliser: StainNormaliser) -> None:
    reference = stained(HAEMATOXYLIN, EOSIN)
    pale = stained(PURPLE, PINK, strength=0.6, seed=1)
    result = normaliser.transform(pale)
    assert result.ok
    assert result.reason == ""
    assert result.image.mode == "RGB"
    assert result.image.size == pale.size
    assert distance(pale, reference) > 10
    assert distance(result.image, reference) < 0.4 * distance(pale, reference)


def test_structure_and_glass_stay(normaliser: StainNormaliser) -> None:
    pale = stained(PURPLE, PINK, strength=0.6, seed=1)
    before, after = np.asarray(pale).astype(float), np.asarray(normaliser.transform(pale).image).astype(float)
    assert after[:, 141:].min() > 225
    assert np.corrcoef(before[:, :140].mean(axis=2).ravel(), after[:, :140].mean(axis=2).ravel())[0, 1] > 0.9


def test_the_reference_itself_hardly_changes(normaliser: StainNormaliser) -> None:
    reference = stained(HAEMATOXYLIN, EOSIN)
    result = normaliser.transform(reference)
    assert result.ok
    assert np.abs(np.asarray(result.image).astype(int) - np.asarray(reference)).mean() < 4


def test_the_same_twice(normaliser: StainNormaliser) -> None:
    pale = stained(PURPLE, PINK, strength=0.6, seed=1)
    again = StainNormaliser(normaliser.method).fit(stained(HAEMATOXYLIN, EOSIN))
    assert np.array_equal(np.asarray(normaliser.transform(pale).image), np.asarray(again.transform(pale).image))


def marked_with_pen(colour: tuple[int, int, int]) -> Image.Image:
    field = stained(HAEMATOXYLIN, EOSIN)
    ImageDraw.Draw(field).rectangle((0, 0, 60, 40), fill=colour)
    return field


NOT_HE = {
    "white": (Image.new("RGB", (64, 64), "white"), "nearly blank"),
    "black": (Image.new("RGB", (64, 64)), "nearly blank"),
    "flat pink": (Image.new("RGB", (64, 64), "pink"), "nearly blank"),
    "tiny": (Image.new("RGB", (2, 2), (90, 20, 90)), "nearly blank"),
    "noise of empty glass": (
        Image.fromarray(np.random.default_rng(0).normal(238, 3, (64, 64, 3)).clip(0, 255).astype(np.uint8)),
        "nearly blank",
    ),
    "greyscale": (stained(HAEMATOXYLIN, EOSIN).convert("L").convert("RGB"), "greyscale"),
    "IHC": (stained(DAB, DAB), "not coloured like H&E"),
    "red pen": (marked_with_pen((200, 20, 30)), "pen ink"),
    "green pen": (marked_with_pen((20, 120, 50)), "not coloured like H&E"),
    "one stain": (stained(EOSIN, EOSIN), "one stain only"),
    "noise": (Image.fromarray(np.random.default_rng(0).integers(0, 200, (64, 64, 3), np.uint8)), "not coloured"),
}


@pytest.mark.parametrize("name", NOT_HE)
def test_other_fields_come_back_unchanged_with_the_reason(normaliser: StainNormaliser, name: str) -> None:
    field, reason = NOT_HE[name]
    result = normaliser.transform(field)
    if name == "one stain" and normaliser.method == "reinhard":
        assert result.ok  # statistics of colour need no second stain
        return
    assert not result.ok
    assert reason in result.reason
    assert np.array_equal(np.asarray(result.image), np.asarray(field))
    assert result.image is not field


@pytest.mark.parametrize("method", METHODS)
def test_a_reference_must_be_h_and_e(method: Method) -> None:
    with pytest.raises(BadInput, match="the stain reference is nearly blank; choose an H&E field"):
        StainNormaliser(method).fit(Image.new("RGB", (64, 64), "white"))
    with pytest.raises(BadInput, match="call fit"):
        StainNormaliser(method).transform(stained(HAEMATOXYLIN, EOSIN))


def test_unknown_method() -> None:
    with pytest.raises(BadInput, match="allowed: macenko, vahadane, reinhard"):
        StainNormaliser("magic")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "colour"), [("hematoxylin", HAEMATOXYLIN), ("eosin", EOSIN), ("dab", DAB)]
)  # fmt: skip
def test_separation_finds_each_stain(name: str, colour: tuple[float, ...]) -> None:
    density = 0.8  # base 10
    pixel = (255 * 10 ** (-density * np.array(colour))).round().astype(np.uint8)
    maps = separate_stains(Image.fromarray(np.broadcast_to(pixel, (6, 5, 3)).copy()))
    assert set(maps) == {"hematoxylin", "eosin", "dab"}
    for key, values in maps.items():
        assert values.shape == (6, 5)
        assert values.dtype == np.float32
        assert np.allclose(values, density if key == name else 0, atol=0.03)


def test_separation_of_glass_and_black_is_finite() -> None:
    for colour in ("white", "black"):
        for values in separate_stains(Image.new("RGB", (4, 4), colour)).values():
            assert np.isfinite(values).all()
    assert max(v.max() for v in separate_stains(Image.new("RGB", (4, 4), "white")).values()) < 0.01


@pytest.mark.data
@pytest.mark.parametrize("method", METHODS)
def test_real_fields(data_root: Path, method: Method) -> None:
    samples = data_root / "samples"
    target, source = (load_image(samples / f"torchstain_{name}.png") for name in ("target", "source"))
    normaliser = StainNormaliser(method).fit(target)
    result = normaliser.transform(source)
    assert result.ok
    assert distance(result.image, target) < 0.7 * distance(source, target)
    assert normaliser.transform(load_image(samples / "stardist_histo.jpg")).ok
    for name, reason in {
        "skimage_ihc_colon.png": "not coloured like H&E",
        "histolab_no-tissue-red-pen.png": "pen ink",
        "histolab_high-nuclei-score-red-pen-level1.png": "pen ink",
    }.items():
        refused = normaliser.transform(load_image(samples / name))
        assert not refused.ok
        assert reason in refused.reason


@pytest.mark.data
def test_ihc_separates_into_its_stains(data_root: Path) -> None:
    maps = separate_stains(load_image(data_root / "samples" / "skimage_ihc_colon.png"))
    assert maps["dab"].mean() > 2 * maps["eosin"].mean()
    assert maps["hematoxylin"].mean() > 2 * maps["eosin"].mean()
