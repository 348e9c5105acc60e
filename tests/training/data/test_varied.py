"""Turned and recoloured fields: boxes stay on what they were drawn around."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.objects import Field, Object, _turned, varied

BOX = (10.0, 20.0, 30.0, 26.0)


@pytest.fixture
def field(tmp_path: Path) -> Field:
    pixels = np.full((60, 80, 3), 230, np.uint8)
    pixels[20:26, 10:30] = (120, 40, 140)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return Field("monuseg", tmp_path / "a.png", "g", (Object("nucleus", BOX, 120.0),), (80, 60))


@pytest.mark.parametrize("turn", range(8))
def test_a_box_stays_on_its_object(field: Field, turn: int) -> None:
    made = _turned(field, turn, 3)
    image = made.image()
    assert image.size == made.size == ((60, 80) if turn & 4 else (80, 60))
    dark = np.argwhere(np.asarray(image.convert("L")) < 160)
    (y0, x0), (y1, x1) = dark.min(axis=0), dark.max(axis=0) + 1
    assert made.objects[0].box == (x0, y0, x1, y1)
    assert made.objects[0].area == 120


def test_copies_differ_in_place_and_colour_and_come_again(field: Field) -> None:
    (one,), (same,) = varied([field], 5), varied([field], 5)
    assert one == same
    assert one.key != field.key
    assert np.array_equal(np.asarray(one.image()), np.asarray(same.image()))
    plain = np.asarray(field.image()).reshape(-1, 3)
    assert {tuple(p) for p in np.asarray(one.image()).reshape(-1, 3)} != {tuple(p) for p in plain}
    assert field.key == "monuseg/a.png/None"
