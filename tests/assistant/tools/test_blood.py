"""``detect_blood_cells``: what it refuses, what its numbers and shapes say, and cells of a real smear."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from assistant.errors import BadInput, NotAvailable
from assistant.regions.model import WEIGHTS
from assistant.regions.network import BLOOD_CELLS
from assistant.tools import blood
from assistant.tools.base import Context
from training.data.records import data_root, read_jsonl

shipped = pytest.mark.skipif(not (WEIGHTS / "regions.safetensors").is_file(), reason="the network is not here")


def test_a_crop_has_a_margin_and_stays_inside() -> None:
    image = Image.new("RGB", (100, 80))
    assert blood.cell_crop(image, (20, 20, 40, 60)).size == (26, 52)
    assert blood.cell_crop(image, (80, 60, 100, 80)).size == (23, 23)


def test_what_is_blank_or_tiny_is_refused() -> None:
    with pytest.raises(BadInput, match="pixels"):
        blood.detect_blood_cells(Image.new("RGB", (20, 20)))
    with pytest.raises(BadInput, match="blank"):
        blood.detect_blood_cells(Image.new("RGB", (200, 200), "white"))


def test_a_missing_head_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(blood, "LEUCOCYTES", tmp_path / "none.safetensors")
    blood.leucocyte_head.cache_clear()
    with pytest.raises(NotAvailable, match="leucocytes"):
        blood.leucocyte_head()


def rows(name: str) -> list[dict[str, object]]:
    return [r for r in read_jsonl(data_root() / name / "index.jsonl") if r["split"] == "val"]


def opened(name: str, row: dict[str, object]) -> Image.Image:
    return Image.open(data_root() / name / str(row["image"])).convert("RGB")


@shipped
@pytest.mark.data
def test_cells_of_real_smears_lie_on_the_labelled_ones() -> None:
    held: list[bool] = []
    for row in rows("bccd_boxes")[:20]:
        image = opened("bccd_boxes", row)
        result = blood.detect_blood_cells(image)
        counts, shapes = result.numbers["counts"], result.geojson["features"]  # type: ignore[index]
        assert sum(counts.values()) == result.numbers["count"] == len(shapes)
        assert set(counts) == set(BLOOD_CELLS)
        assert result.overlays["blood cells"].size == image.size
        json.dumps(result.to_json(), allow_nan=False)
        centres = [
            (one["properties"]["class"], *np.mean(one["geometry"]["coordinates"][0][:4], axis=0)) for one in shapes
        ]
        for box in row["boxes"]:  # type: ignore[attr-defined]
            x0, y0, x1, y1 = box["xyxy"]
            held.append(any(name == box["label"] and x0 <= x <= x1 and y0 <= y <= y1 for name, x, y in centres))
    assert np.mean(held) >= 0.7


@shipped
@pytest.mark.data
def test_tissue_is_refused() -> None:
    with pytest.raises(BadInput, match="smear"):
        blood.detect_blood_cells(opened("glas", rows("glas")[0]))


def test_research_parts_can_be_switched_off() -> None:
    noise = np.random.default_rng(0).integers(60, 200, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(NotAvailable, match="research"):
        blood.detect_blood_cells(Image.fromarray(noise), context=Context(research=False))


@shipped
@pytest.mark.data
def test_the_close_up_of_a_white_cell_is_typed() -> None:
    right = []
    for row in rows("wbc_seg")[:20]:
        result = blood.detect_blood_cells(opened("wbc_seg", row))
        assert result.numbers["counts"]["white blood cell"] >= 1  # type: ignore[index]
        assert any("close-up" in warning for warning in result.warnings)
        right.append(str(row["label"]) in result.numbers["white_cell_types"])  # type: ignore[operator]
    assert np.mean(right) >= 0.75


@shipped
@pytest.mark.data
@pytest.mark.parametrize("name", ["herlev_pap", "pcam_1k", "crc_polyp5", "consep_patches"])
def test_what_is_no_white_cell_is_no_close_up(name: str) -> None:
    assert sum(blood.close_up(opened(name, row)) for row in rows(name)[:12]) == 0


def test_a_large_field_is_no_close_up() -> None:
    assert not blood.close_up(Image.new("RGB", (640, 480), "pink"))


def test_a_close_up_without_a_box_is_its_own() -> None:
    class Nothing:
        def blood(self, pixels: object, scale: float) -> tuple[object, object]:
            return np.zeros((0, 4), np.float32), np.zeros((0, 3), np.float32)

    boxes, scores = blood.near_cells(Nothing(), Image.new("RGB", (120, 100)))  # type: ignore[arg-type]
    assert boxes.tolist() == [[0, 0, 120, 100]]
    assert scores.tolist() == [[0, blood.THRESHOLD, 0]]
    assert blood.white_cell(Nothing(), Image.new("RGB", (120, 100))).tolist() == [0, 0, 120, 100]  # type: ignore[arg-type]
