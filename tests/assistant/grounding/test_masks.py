"""Boxes become the outlines that fit them; what fits nothing stays a box and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from assistant.answer import Box
from assistant.grounding.masks import NO_FIT, Outline, features, on_slide, outlines
from assistant.regions.model import Instances

# Ellipses on a field of 600 x 400: centre, half axes.
SHAPES = {"nucleus": [(100, 100, 10, 14), (300, 200, 12, 12)], "gland": [(300, 200, 90, 70)]}


def ids(shape: tuple[int, int], kind: str, x: int, y: int, factor: float) -> np.ndarray:
    out = np.zeros(shape, np.int32)
    down, across = np.mgrid[0 : shape[0], 0 : shape[1]]
    for number, (cx, cy, rx, ry) in enumerate(SHAPES[kind], 1):
        across_, down_ = across * factor + x - cx, down * factor + y - cy
        out[(across_ / rx) ** 2 + (down_ / ry) ** 2 <= 1] = number
    return out


class FakeRegions:
    """Knows where it is by the first pixel of what it is shown: red is x, green is y, both by four."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor, self.asked = factor, list[str]()

    def _found(self, pixels: np.ndarray, kind: str) -> Instances:
        self.asked.append(kind)
        x, y = (int(v) * 4 for v in pixels[0, 0, :2])
        return Instances(ids(pixels.shape[:2], kind, x, y, self.factor))

    def nuclei(self, pixels: np.ndarray) -> Instances:
        return self._found(pixels, "nucleus")

    def glands(self, pixels: np.ndarray) -> Instances:
        return self._found(pixels, "gland")


@pytest.fixture(autouse=True)
def stain(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said = ["H&E-like"]
    monkeypatch.setattr("assistant.tools.fields.guess_stain", lambda image: (said[0], {}))
    return said


def field(width: int = 600, height: int = 400) -> Image.Image:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width)[None] // 4, np.arange(height)[:, None] // 4
    return Image.fromarray(pixels)


def box(x: float, y: float, rx: float, ry: float, score: float = 0.5) -> Box:
    return Box("it", (x - rx, y - ry, x + rx, y + ry), score)


def test_each_box_gets_what_fits_it_best() -> None:
    boxes = [box(300, 200, 91, 71), box(300, 200, 12, 13), box(100, 100, 10, 14), box(500, 300, 30, 30)]
    found = outlines(field(), boxes, FakeRegions())  # type: ignore[arg-type]
    assert [one.kind for one in found] == ["gland", "nucleus", "nucleus", "box"]
    assert [one.box for one in found] == boxes
    assert all(one.fit > 0.85 for one in found[:3])
    for one, (cx, cy, rx, ry) in zip(found, [SHAPES["gland"][0], SHAPES["nucleus"][1]], strict=False):
        ring = np.array(one.ring)
        assert np.allclose([ring[:, 0].min(), ring[:, 1].max()], [cx - rx, cy + ry], atol=2.5)
        assert np.allclose(((ring - (cx, cy)) / (rx, ry)) ** 2 @ [1, 1], 1, atol=0.35)
        assert one.ring[0] == one.ring[-1]
    assert (found[3].note, found[3].fit) == (NO_FIT, 0.0)
    assert found[3].ring == [[470, 270], [530, 270], [530, 330], [470, 330], [470, 270]]
    assert outlines(field(), [], FakeRegions()) == []  # type: ignore[arg-type]


def test_a_box_that_fits_badly_stays_a_box() -> None:
    (one,) = outlines(field(), [box(100, 100, 30, 30)], FakeRegions())  # type: ignore[arg-type]
    assert one.kind == "box"


def test_glands_are_for_hematoxylin_and_eosin(stain: list[str]) -> None:
    stain[0] = "other or uncertain"
    regions = FakeRegions()
    (one,) = outlines(field(), [box(300, 200, 90, 70)], regions)  # type: ignore[arg-type]
    assert one.kind == "box"
    assert regions.asked == ["nucleus"]


def test_geojson_says_what_is_an_outline() -> None:
    rows = features([
        Outline(box(1, 1, 1, 1, 0.7), [[0, 0], [2, 0], [1, 2], [0, 0]], "gland", 0.8),
        Outline(box(5, 5, 1, 1), [[4, 4], [6, 4], [6, 6], [4, 6], [4, 4]], "box", 0.0, NO_FIT),
    ])  # fmt: skip
    first, second = (row["properties"] for row in rows)
    assert (first["outline"], first["name"], first["measurements"]) == ("gland", "it", {"score": 0.7, "fit": 0.8})
    assert "note" not in first
    assert (second["note"], second["measurements"]) == (NO_FIT, {"score": 0.5})
    assert "outline" not in second


class FakeSlide:
    size, mpp = (600, 400), 0.25  # twice the resolution that the search works at

    def read(self, x: int, y: int, w: int, h: int, out: tuple[int, int] | None = None) -> Image.Image:
        return field().crop((x, y, x + w, y + h)).resize(out or (w, h), Image.Resampling.NEAREST)

    def thumbnail(self, max_side: int) -> Image.Image:
        return field()


def test_outlines_on_a_slide_are_pixels_of_its_full_resolution() -> None:
    boxes = [box(300, 200, 91, 71), box(500, 300, 30, 30)]
    found = on_slide(FakeSlide(), boxes, FakeRegions(factor=2.0))  # type: ignore[arg-type]
    assert [one.kind for one in found] == ["gland", "box"]
    assert [one.box for one in found] == boxes
    ring = np.array(found[0].ring)
    assert np.allclose([*ring.min(axis=0), *ring.max(axis=0)], [210, 130, 390, 270], atol=6)
    assert found[1].ring[0] == [470, 270]


@pytest.mark.data
def test_glands_of_a_real_field_are_outlined(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool with ``masks``: the outlines lie on the labelled glands, better than their boxes do."""
    monkeypatch.undo()
    from assistant.tools.ground import ground_phrase

    rows: list[dict[str, Any]] = [json.loads(r) for r in (data_root / "glas/index.jsonl").read_text().splitlines()]
    row = [r for r in rows if r["split"] == "val"][1]
    with Image.open(data_root / "glas" / row["image"]) as opened, Image.open(data_root / "glas" / row["mask"]) as m:
        image, truth = opened.convert("RGB"), np.asarray(m) > 0
    shares = {}
    for masks in (False, True):
        result = ground_phrase(image, "all glands", masks=masks)
        assert result.geojson is not None
        from PIL import ImageDraw

        canvas = Image.new("L", image.size)
        for one in result.geojson["features"]:
            ImageDraw.Draw(canvas).polygon([tuple(p) for p in one["geometry"]["coordinates"][0]], fill=1)
        covered = np.asarray(canvas) > 0
        shares[masks] = (covered & truth).sum() / (covered | truth).sum()
    assert [one["kind"] for one in result.numbers["outlines"]].count("gland") >= 3
    assert shares[True] > max(0.7, shares[False] + 0.05)
