"""Bad input for every measuring tool: blank, tiny, wrong stain, huge; and what the measures do on drawn fields."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from assistant.errors import BadInput
from assistant.tools import fields
from assistant.tools.glands import segment_glands
from assistant.tools.ihc import her2, score_ihc
from assistant.tools.normalise import normalise_stain
from assistant.tools.nuclei import segment_nuclei
from assistant.tools.quality import check_quality
from assistant.tools.tissue import segment_tissue

PINK, PURPLE, BLUE, BROWN = (235, 170, 205), (110, 60, 150), (90, 110, 170), (120, 75, 40)
PALE = (225, 228, 238)


def drawn(ground: tuple[int, int, int], dots: list[tuple[int, int, int]], side: int = 400) -> Image.Image:
    """Round nuclei of 24 px on a grid of 50 px, colours in turn, with a little noise."""
    image = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(image)
    spots = [(x, y) for y in range(25, side, 50) for x in range(25, side, 50)]
    for number, (x, y) in enumerate(spots):
        pen.ellipse((x - 12, y - 12, x + 12, y + 12), fill=dots[number % len(dots)])
    noise = np.random.default_rng(0).normal(0, 3, (side, side, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def test_nuclei_are_counted_and_outlined() -> None:
    result = segment_nuclei(drawn(PINK, [PURPLE]), mpp=0.25, method="classical")
    assert result.numbers["count"] == 64
    assert result.numbers["area_median_um2"] == pytest.approx(np.pi * 12.5**2 / 16, rel=0.15)
    assert result.geojson is not None
    assert len(result.geojson["features"]) == 64
    ring = result.geojson["features"][0]["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    json.dumps(result.to_json())


def test_nuclei_on_tile_borders_are_counted_once() -> None:
    image = drawn(PINK, [PURPLE], side=1200)
    assert segment_nuclei(image, method="classical").numbers["count"] == 24 * 24


def test_ihc_counts_brown_and_blue_nuclei() -> None:
    result = score_ihc(drawn(PALE, [BLUE, BROWN, BLUE, BLUE]), mpp=0.25)
    assert result.numbers["cells"] == 64
    assert result.numbers["positive_percent"] == 25.0
    assert 25 <= result.numbers["h_score"] <= 75


def test_ihc_scoring_refuses_other_stains_in_one_line() -> None:
    with pytest.raises(BadInput, match="looks like H&E") as caught:
        score_ihc(drawn(PINK, [PURPLE]))
    assert "\n" not in str(caught.value)


def test_he_tools_refuse_immunostains() -> None:
    for tool in (segment_nuclei, segment_glands, segment_tissue):
        with pytest.raises(BadInput, match="DAB"):
            tool(drawn(PALE, [BLUE, BROWN]))


@pytest.mark.parametrize("tool", [segment_nuclei, segment_glands, segment_tissue, score_ihc])
@pytest.mark.parametrize(
    ("image", "words"), [(Image.new("RGB", (8, 8), PINK), "8 x 8"), (Image.new("RGB", (300, 300), "white"), "blank")]
)
def test_tiny_and_blank_fields_are_refused(tool: fields.Any, image: Image.Image, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        tool(image)


def test_quality_answers_on_anything() -> None:
    assert check_quality(Image.new("RGB", (8, 8), PINK)).numbers["usable"] is False
    assert check_quality(Image.new("RGB", (300, 300), "white")).numbers["blank"] is True
    field = drawn(PINK, [PURPLE])
    good = check_quality(field)
    assert (good.numbers["stain"], good.numbers["pen"]) == ("H&E-like", False)
    ImageDraw.Draw(field).rectangle((0, 0, 399, 60), fill=(20, 150, 60))
    inked = check_quality(field)
    assert (inked.numbers["pen"], inked.numbers["usable"]) == (True, False)


def test_large_fields_are_sampled() -> None:
    large = Image.new("RGB", (5200, 5200), "white")
    tile = drawn(PINK, [PURPLE])
    for x, y in ((x, y) for y in range(0, 2400, 400) for x in range(0, 5200, 400)):
        large.paste(tile, (x, y))
    corners, total = fields.tiles(large)
    assert len(corners) == fields.MAX_TILES < total
    assert all(y < 2600 for _, y in corners)


def test_normalising_says_why_not() -> None:
    with pytest.raises(BadInput):
        normalise_stain(drawn(PALE, [BLUE, BROWN]), drawn(PINK, [PURPLE]))


@pytest.mark.parametrize(
    ("strength", "complete", "score"),
    [([3] * 2 + [0] * 8, [1] * 2 + [0] * 8, "3+"), ([2] * 2 + [0] * 8, [1] * 2 + [0] * 8, "2+"),
     ([1] * 2 + [0] * 8, [0] * 10, "1+"), ([0] * 10, [0] * 10, "0")],
)  # fmt: skip
def test_her2_follows_its_criteria(strength: list[int], complete: list[int], score: str) -> None:
    assert her2(np.array(strength), np.array(complete, dtype=bool)) == score
