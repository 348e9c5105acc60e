"""Planted fields: where they are, when they count as found, and a whole small slide against its random control."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assistant.answer import Box
from assistant.slides import open_slide
from eval import grounding_slides as module
from eval.grounding_slides import Planted, found, inside, markdown, one_slide, plant, summary, write_pyramid
from training.data.objects import Field, Object

pytest.importorskip("tifffile")
pytest.importorskip("openslide")


def a_field(tmp_path: Path, number: int) -> Field:
    path = tmp_path / f"{number}.png"
    Image.new("RGB", (200, 150), (number, 0, 255)).save(path)
    objects = (Object("gland", (10, 20, 60, 80), 1.0), Object("other", (0, 0, 5, 5), 1.0))
    return Field("glas", path, str(number), objects, (200, 150))


def test_fields_are_planted_apart_and_their_boxes_go_with_them(tmp_path: Path) -> None:
    canvas = np.full((2048, 2048, 3), 200, np.uint8)
    fields = [a_field(tmp_path, n) for n in range(8)]
    placed = plant(canvas, fields, "gland", 6, random.Random(0))
    assert len(placed) == 6
    for number, one in enumerate(placed):
        x, y, w, h = one.window
        assert (canvas[y : y + h, x : x + w] == (number, 0, 255)).all()
        assert one.boxes == ((x + 10, y + 20, x + 60, y + 80),)
        assert 512 <= x <= 2048 - 512 - w
    assert len({p.window for p in placed}) == 6


def test_found_and_inside() -> None:
    one = Planted((100, 100, 50, 50), ((110, 110, 130, 130),))
    right, wrong = Box("g", (110, 110, 130, 129), 0.5), Box("g", (100, 100, 150, 150), 0.5)
    assert found([wrong, right], one)
    assert not found([wrong], one)
    assert not found([], one)
    assert inside([right, Box("g", (0, 0, 90, 90), 0.5)], [one]) == [True, False]


class Grounder:
    """Points at the blue it sees."""

    def ground(self, image: Image.Image, phrase: str, *, threshold: float | None = None) -> list[Box]:
        pixels = np.asarray(image.convert("RGB")).astype(int)
        rows, columns = np.nonzero((pixels[..., 2] > 240) & (pixels[..., 0] < 40))
        if len(rows) < 100:
            return []
        box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
        return [Box(phrase, box, 0.9)]


class Encoder:
    """Likes blue."""

    def embed_images(self, images: list[Image.Image]) -> np.ndarray:
        return np.array([[(np.asarray(i)[..., 0] < 60).mean()] for i in images])

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 1))


def test_a_made_slide_is_searched_and_the_control_is_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_grounder", Grounder)
    monkeypatch.setattr(module, "load_encoder", lambda name: Encoder())
    canvas = np.random.default_rng(0).integers(150, 200, (4096, 4096, 3)).astype(np.uint8)
    boxes = [(300, 300), (2500, 3400)]
    for x, y in boxes:
        canvas[y : y + 300, x : x + 300] = (10, 10, 255)
    placed = [Planted((x, y, 300, 300), ((x, y, x + 300, y + 300),)) for x, y in boxes]
    with open_slide(write_pyramid(canvas, tmp_path / "s.tif")) as slide:
        assert len(slide.levels) == 4
        assert slide.mpp == pytest.approx(0.5)
        result = one_slide(slide, "gland", placed, 2, 0)
    assert (result["fields"], result["looked"], result["ours"], result["everywhere"]) == (16, 2, [True] * 2, [True] * 2)
    assert (result["boxes"], result["inside"]) == (2, 2)
    assert all(0.02 < share < 0.3 for share in result["random"])  # one in eight
    rows = summary([result, result])
    assert rows["n"] == 4
    assert rows["ours"][0] == 1
    assert rows["difference"][0] == pytest.approx(1 - rows["random"][0])
    page = markdown({
        "side": 4096, "budget": 2, "per_phrase": 1, "planted": 2, "seed": 0, "draws": 200, "slides": 2, "all": rows,
        "phrases": {"gland": rows},
    })  # fmt: skip
    assert "| gland | 4 | 1.000 [1.00, 1.00]" in page
    assert "--slides 1 --planted 2 --budget 2 --seed 0" in page
