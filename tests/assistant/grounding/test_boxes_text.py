"""Boxes as text: both ways, in pieces of any length, and every kind of nonsense refused in one line."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.errors import BadInput
from assistant.grounding.boxes_text import (
    MOST,
    NOTHING,
    BoxReader,
    NotBoxes,
    box_text,
    parse_boxes,
    to_pixels,
    to_thousandths,
    write_boxes,
)


def test_written_as_documented() -> None:
    assert write_boxes([(100, 50, 200, 100)], (1000, 500)) == "<box>(100,100),(200,200)</box>"
    two = write_boxes([(500, 400, 900, 450), (0, 0, 10, 10)], (1000, 500))
    assert two == "<box>(0,0),(10,20)</box> <box>(500,800),(900,900)</box>"
    assert write_boxes([], (10, 10)) == NOTHING
    assert write_boxes([(0, 0, 5, 5), (0, 0, 5.0001, 5)], (10, 10)).count("<box>") == 1


SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, st.data())
def test_there_and_back_is_within_a_thousandth(width: int, height: int, data: st.DataObject) -> None:
    x0 = data.draw(st.floats(0, width - 0.01))
    y0 = data.draw(st.floats(0, height - 0.01))
    x1 = data.draw(st.floats(x0, width).filter(lambda v: v > x0))
    y1 = data.draw(st.floats(y0, height).filter(lambda v: v > y0))
    (row,) = parse_boxes(write_boxes([(x0, y0, x1, y1)], (width, height)))
    back = to_pixels(row, (width, height))
    for value, true, side in zip(back, (x0, y0, x1, y1), (width, height) * 2, strict=True):
        assert abs(value - true) <= side / 1000 * 1.001 + 0.06
    assert 0 <= back[0] < back[2] + 0.06
    assert back[2] <= width
    assert back[3] <= height


def test_what_reaches_over_the_edge_is_cut() -> None:
    assert to_thousandths((-30, -1, 2000, 5), (100, 10)) == (0, 0, 1000, 500)
    assert to_thousandths((99.99, 9.999, 100, 10), (100, 10)) == (999, 999, 1000, 1000)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((1, 2, 3), "four finite numbers"),
        ((1, 2, math.nan, 4), "four finite numbers"),
        ((1, 2, math.inf, 4), "four finite numbers"),
        ((5, 2, 3, 4), "x0 < x1"),
        ((1, 2, 1, 4), "no area"),
        ((100, 2, 130, 4), "outside the image, 100 x 50"),
        ((1, -9, 3, -4), "outside the image"),
    ],
)
def test_pixels_that_are_no_box(box: tuple[float, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        write_boxes([box], (100, 50))


def test_thousands_of_boxes_are_refused_both_ways() -> None:
    with pytest.raises(BadInput, match="5,000 boxes are too many"):
        write_boxes([(0, 0, 5, 5)] * 5000, (10, 10))
    text = " ".join(box_text((i % 900, 0, i % 900 + 9, 9)) for i in range(5000))
    with pytest.raises(NotBoxes, match=f"more than {MOST} boxes"):
        parse_boxes(text)


ONE = [(105, 220, 431, 640)]


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("The gland: <box>(105,220),(431,640)</box>.", ONE),
        ("<box> (105, 220), (431, 640) </box><box>(105,220),(431,640)</box>", ONE),
        ("<|object_ref_start|>gland<|object_ref_end|><|box_start|>(105,220),(431,640)<|box_end|>", ONE),
        ("gland<box>[[105,220,431,640],[0,0,9,9]]</box>", [*ONE, (0, 0, 9, 9)]),
        ('```json\n[{"bbox_2d": [105, 220, 431, 640], "label": "gland"}]\n```', ONE),
        ('{"bbox_2d": [105, 220, 431, 640]}', ONE),
        ("[]", []),
        (NOTHING, []),
        ("There is no gland in this image.", []),
        ("None", []),
    ],
)
def test_forms_that_are_read(text: str, boxes: list[tuple[int, ...]]) -> None:
    assert parse_boxes(text) == boxes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<box>(1,2),(3)</box>", "box of 3 numbers"),
        ("<box></box>", "box of 0 numbers"),
        ("<box>(1,2),(3,4),(5,6)</box>", "box of 6 numbers"),
        ("<box>(9,2),(3,4)</box>", "wrong way round"),
        ("<box>(1,2),(3,1001)</box>", "0 to 1000: it may write pixels"),
        ("<box>(-1,2),(3,9)</box>", "0 to 1000"),
        ("<box>(nan,2),(3,4)</box>", "'nan' in a box"),
        ("<box>(0.1,0.2),(0.3,0.4)</box>", r"'0\.1' in a box"),
        ("<box>(1,2),(3," + "9" * 400 + ")</box>", "in a box"),
        ("<box>(1,2),(3,4)", "ends inside a box"),
        ("<box>" + "(" * 5000, "did not close it"),
        ("I cannot help with that.", "without a box"),
        ("", "without a box"),
        ('[{"bbox_2d": [1, 2, NaN, 4]}]', "broken JSON"),
        ('[{"bbox_2d": [1, 2, 3', "broken JSON"),
        ('[{"bbox_2d": [0.1, 0.2, 0.3, 0.4]}]', "four whole numbers"),
        ('[{"label": "gland"}]', "four whole numbers"),
        ("[" * 100_000, "broken JSON"),
        (str([[0, 0, 1, 1]] * 5000), "5,000 boxes"),
    ],
)
def test_nonsense_of_a_model_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(NotBoxes, match=message) as caught:
        parse_boxes(text)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


TEXT = "a < b: <box>(1,2),(3,4)</box> <bo <|box_start|>(5,6),(7,8)<|box_end|> and <box"


@given(st.lists(st.integers(0, len(TEXT)), max_size=30))
def test_pieces_of_any_length_say_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(TEXT)]
    reader = BoxReader()
    seen: list[object] = []
    for start, end in itertools.pairwise(edges):
        seen += reader.feed(TEXT[start:end])
    seen += reader.close()
    assert [s for s in seen if not isinstance(s, str)] == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert "".join(s for s in seen if isinstance(s, str)) == "a < b:  <bo  and <box"


def test_text_is_not_held_back_longer_than_needed() -> None:
    reader = BoxReader()
    assert reader.feed("Here") == ["Here"]
    assert reader.feed(" <b") == [" "]
    assert reader.feed("old>") == ["<bold>"]
    assert reader.feed("<box>(1,2),(3,4)</bo") == []
    assert reader.feed("x>!") == [(1, 2, 3, 4), "!"]
