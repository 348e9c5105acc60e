"""A region painted with a brush: how it is written, what it covers, and the box that the model is shown."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.chat.region import MAX_POINTS, Stroke, is_brush, painted, parse_brush, read_region
from assistant.errors import BadInput

SIZE = (200, 100)


def test_strokes_are_read_as_written() -> None:
    assert parse_brush(" brush 12: 40,60 120,80.5; 8: 190,20 ") == (
        Stroke(12, ((40, 60), (120, 80.5))),
        Stroke(8, ((190, 20),)),
    )
    assert is_brush("Brush 1: 2,3")
    assert not is_brush("1,2,30,40")


def test_a_dot_covers_its_disc_and_the_box_is_around_it() -> None:
    region = read_region(SIZE, "brush 10: 50,50")
    assert region.box == (40, 40, 61, 61)
    assert region.mask is not None
    assert region.mask.getpixel((50, 50)) == 255
    assert region.mask.getpixel((41, 41)) == 0
    assert 0.74 < region.covered < 0.8  # a disc in its square: π/4 = 0.785, on whole pixels


def test_a_stroke_covers_the_way_between_its_points() -> None:
    mask = painted(SIZE, parse_brush("brush 5: 20,50 180,50"))
    assert mask.getpixel((100, 50)) == mask.getpixel((16, 50)) == 255
    assert mask.getpixel((100, 60)) == 0


def test_what_lies_outside_is_cut_off() -> None:
    assert read_region(SIZE, "brush 20: 0,0 250,0").box == (0, 0, 200, 21)


def test_a_box_is_a_region_without_a_mask() -> None:
    region = read_region(SIZE, "10,20,60,80")
    assert (region.box, region.mask, region.covered) == ((10, 20, 60, 80), None, 1.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("brush", "cannot be read"),
        ("brush 5", "cannot be read"),
        ("brush 0: 10,10", "cannot be read"),
        ("brush -5: 10,10", "cannot be read"),
        ("brush 5: 10,10 20", "cannot be read"),
        ("brush 5: 10,101,10", "cannot be read"),
        ("brush 51: 10,10", "at most 50, a quarter"),
        ("brush 5: 1e9,10", "cannot be read"),
        ("brush 5: nan,10", "cannot be read"),
        ("brush 5: 10,10; ; 5: 2,2", "cannot be read"),
        ("brush 5: 500,500", "nothing is painted inside the image of 200 x 100"),
        ("brush 2: 10,10", "less than 8 x 8"),
        ("brush 5:" + " 1,1" * (MAX_POINTS + 1), "at most 4,000"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as error:
        read_region(SIZE, text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


def test_a_large_image_is_painted_in_its_own_pixels_and_in_time() -> None:
    text = "brush 1000:" + " 3000,2000 3010,2010" * (MAX_POINTS // 2)
    began = time.monotonic()
    region = read_region((6000, 4000), text)
    assert time.monotonic() - began < 20
    assert region.mask is not None
    assert region.mask.size == (6000, 4000)
    assert all(abs(a - b) <= 4 for a, b in zip(region.box, (2000, 1000, 4011, 3011), strict=True))


@given(st.text(alphabet="brush 0123456789.,:;-e", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        region = read_region(SIZE, text)
    except BadInput:
        return
    left, top, right, bottom = region.box
    assert 0 <= left < right <= SIZE[0]
    assert 0 <= top < bottom <= SIZE[1]
