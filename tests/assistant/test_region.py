"""A region of an image as the prompt: what is shown and what is said of it."""

from __future__ import annotations

import pytest
from PIL import Image

from assistant.chat.region import check_region, parse_region, place, region_prompt
from assistant.errors import BadInput


@pytest.fixture
def halves() -> Image.Image:
    image = Image.new("RGB", (200, 100), (255, 0, 0))
    image.paste((0, 0, 255), (100, 0, 200, 100))
    return image


def test_the_crop_is_the_region_and_the_sentence_its_place(halves: Image.Image) -> None:
    crop, sentence = region_prompt(halves, (100, 0, 200, 100), context=0)
    assert crop.size == (100, 100)
    assert crop.getcolors() == [(10_000, (0, 0, 255))]
    assert "right part" in sentence
    assert "from (100, 0) to (200, 100)" in sentence


def test_context_is_half_on_either_side_and_ends_at_the_border(halves: Image.Image) -> None:
    assert region_prompt(halves, (90, 40, 110, 60), context=1)[0].size == (40, 40)
    assert region_prompt(halves, (0, 0, 20, 20), context=1)[0].size == (30, 30)


def test_corners_come_in_any_order_and_are_clipped() -> None:
    assert check_region((200, 100), (150.4, 90, -5, 10)) == (0, 10, 151, 90)


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "", "1,2,3,nan", "1,2,3,inf", "1,2,3,4,5"])
def test_what_is_no_region_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"four numbers; write x0,y0,x1,y1"):
        parse_region(text)


@pytest.mark.parametrize("box", [(300, 0, 400, 50), (10, 10, 12, 90), (-50, -50, -1, -1)])
def test_a_region_outside_or_too_small_is_refused(box: tuple[float, ...], halves: Image.Image) -> None:
    with pytest.raises(BadInput, match="covers less than 8 x 8 pixels of the image of 200 x 100"):
        region_prompt(halves, box)


def test_places() -> None:
    assert parse_region("1; 2 3,4.5") == (1, 2, 3, 4.5)
    assert place((90, 90), (0, 0, 20, 20)) == "upper left part"
    assert place((90, 90), (40, 40, 50, 50)) == "centre"
    assert place((90, 90), (40, 70, 50, 90)) == "lower part"
