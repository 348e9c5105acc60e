"""The tools on the region network: what they make of its maps, and on real fields what they find."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from assistant.errors import NotAvailable
from assistant.regions.model import WEIGHTS
from assistant.regions.network import NUCLEUS_KINDS, TISSUES
from assistant.tools import fields, trunk
from assistant.tools.base import Context
from assistant.tools.glands import glands_of, segment_glands
from assistant.tools.glands import statistics as gland_statistics
from assistant.tools.nuclei import finder, nuclei_of, segment_nuclei
from assistant.tools.tissue import classes_of, outlines, segment_tissue
from assistant.tools.tissue import statistics as tissue_statistics
from training.data.records import data_root, read_jsonl

shipped = pytest.mark.skipif(not (WEIGHTS / "regions.safetensors").is_file(), reason="the network is not here")


def discs(side: int, centres: list[tuple[int, int]], radius: int) -> np.ndarray:
    """Instance ids of discs, numbered in order."""
    y, x = np.mgrid[:side, :side]
    ids = np.zeros((side, side), np.int32)
    for number, (cx, cy) in enumerate(centres, 1):
        ids[(x - cx) ** 2 + (y - cy) ** 2 <= radius**2] = number
    return ids


def whole(pixels: np.ndarray) -> fields.Tile:
    height, width = pixels.shape[:2]
    return fields.Tile(pixels, 0, 0, (0, 0, width, height))


def test_every_nucleus_keeps_the_kind_of_its_instance() -> None:
    ids = discs(120, [(20, 20), (60, 60), (100, 100)], 10)
    chances = np.eye(4, dtype=np.float32)[[2, 0, 3]]
    found = nuclei_of(ids, whole(np.zeros((120, 120, 3), np.uint8)), 0.25, kinds=chances)
    assert [(round(n.x), n.kind) for n in found] == [(20, "epithelial"), (60, "other"), (100, "spindle")]


def test_a_lumen_is_the_pale_inside_of_its_gland() -> None:
    ids = discs(300, [(150, 150)], 100)
    pixels = np.full((300, 300, 3), (200, 110, 170), np.uint8)
    pixels[discs(300, [(150, 150)], 40) > 0] = 245
    pixels[:30] = 245  # pale too, but outside
    (gland,) = glands_of(ids, whole(pixels), 100)
    assert gland.area == pytest.approx(np.pi * 100**2, rel=0.02)
    assert gland.lumen == pytest.approx(np.pi * 40**2, rel=0.1)
    assert gland.roundness > 0.85
    numbers = gland_statistics([gland], 300 * 300, 0.5)
    assert numbers["area_median_um2"] == pytest.approx(np.pi * 100**2 / 4, rel=0.02)
    assert numbers["gland_percent"] == pytest.approx(34.9, abs=0.5)
    assert numbers["glands_with_lumen"] == 1


def test_a_gland_belongs_to_the_tile_with_its_centre() -> None:
    ids = discs(300, [(100, 150)], 40)
    pixels = np.full((300, 300, 3), 120, np.uint8)
    assert len(glands_of(ids, fields.Tile(pixels, 0, 0, (0, 0, 150, 300)), 1)) == 1
    assert glands_of(ids, fields.Tile(pixels, 0, 0, (150, 0, 300, 300)), 1) == []


def test_shares_of_tissue_leave_out_empty_glass() -> None:
    chances = np.zeros((4, 40, 40), np.float32)
    chances[0, :, :10], chances[1, :, 10:] = 1, 1
    pixels = np.full((160, 160, 3), (200, 110, 170), np.uint8)
    pixels[:, 80:] = 245
    kinds = classes_of(chances, Image.fromarray(pixels))
    numbers = tissue_statistics(kinds, 160 * 160, 1.0)
    assert (numbers["tumour_percent"], numbers["stroma_percent"], numbers["tissue_percent"]) == (50.0, 50.0, 50.0)
    assert numbers["tumour_mm2"] == pytest.approx(160 * 40 / 1e6, abs=1e-4)
    found = outlines(kinds, (4.0, 4.0))
    assert [one["properties"]["class"] for one in found] == ["tumour", "stroma"]
    across = [x for x, _ in found[1]["geometry"]["coordinates"][0]]
    assert (min(across), max(across)) == pytest.approx((40, 80), abs=2.1)


def test_research_parts_can_be_switched_off() -> None:
    assert finder("auto", 0.25, Context(research=False))[1] == "classical"
    with pytest.raises(NotAvailable, match="research"):
        finder("network", 0.25, Context(research=False))
    with pytest.raises(NotAvailable, match="research"):
        trunk.network(Context(research=False))


def first(name: str) -> Image.Image:
    row = next(r for r in read_jsonl(data_root() / name / "index.jsonl") if r["split"] == "val")
    return Image.open(data_root() / name / str(row["image"])).convert("RGB")


@shipped
@pytest.mark.data
def test_nuclei_of_a_real_field_have_kinds_and_outlines() -> None:
    field = first("monuseg").crop((0, 0, 400, 400))
    result = segment_nuclei(field, mpp=0.25)
    numbers = result.numbers
    assert numbers["method"] == "network"
    assert sum(numbers["kinds"].values()) == numbers["count"] == len(result.geojson["features"])  # type: ignore[index]
    assert set(numbers["kinds"]) == set(NUCLEUS_KINDS)
    assert 20 < numbers["count"] < 400
    json.dumps(result.to_json(), allow_nan=False)


@shipped
@pytest.mark.data
def test_glands_and_tissue_of_real_fields() -> None:
    glands = segment_glands(first("glas"), mpp=0.62)
    assert 1 <= glands.numbers["count"] <= 40
    assert glands.numbers["gland_percent"] > 5
    tissue = segment_tissue(first("luad_tissue_seg"), mpp=1.0)
    assert sum(tissue.numbers[f"{name}_percent"] for name in TISSUES[:3]) == pytest.approx(100, abs=0.2)
    for result in (glands, tissue):
        json.dumps(result.to_json(), allow_nan=False)
        assert result.overlays


@shipped
def test_tissue_of_a_large_field_has_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistant.tools.tissue._MAX_PIXELS", 200_000)
    noise = np.random.default_rng(0).integers(0, 40, (250, 250, 3))
    part = Image.fromarray((noise + np.array([190, 110, 165])).astype(np.uint8))
    result = segment_tissue(part.resize((900, 600)))
    assert any("too small" in one for one in result.warnings)
