"""Scores of predictions on a small made-up set: perfect, empty, failing predictors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from assistant.errors import BadInput
from eval import local


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("monuseg", "bccd_boxes", "luad_tissue_seg"):
        (tmp_path / name).mkdir()
        rows = []
        for number in range(3):
            Image.new("RGB", (30, 24), (number * 80, 9, 9)).save(tmp_path / name / f"{number}.png")
            ids = np.zeros((24, 30), dtype=np.uint16)
            ids[2:8, 2:8], ids[10:20, 12:22] = 1, 7
            Image.fromarray(ids).save(tmp_path / name / f"{number}-ids.png")
            Image.fromarray((ids > 0).astype(np.uint8)).save(tmp_path / name / f"{number}-mask.png")
            boxes = [{"label": "cell", "xyxy": [2, 2, 8, 8]}, {"label": "cell", "xyxy": [12, 10, 22, 20]}]
            rows.append({
                "image": f"{number}.png", "split": "val", "instances": f"{number}-ids.png",
                "mask": f"{number}-mask.png", "boxes": boxes, "label": "dark" if number == 0 else "red",
            })  # fmt: skip
        (tmp_path / name / "index.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path


def value(summary: pd.DataFrame, metric: str, condition: str = "image") -> float:
    return float(summary[(summary["metric"] == metric) & (summary["condition"] == condition)]["value"].iloc[0])


def truth(image: Image.Image) -> np.ndarray:
    ids = np.zeros((24, 30), dtype=int)
    ids[2:8, 2:8], ids[10:20, 12:22] = 4, 2
    return ids


def test_instances(data: Path) -> None:
    _, table = local.instances("monuseg", truth, data)
    assert [value(table, m) for m in ("Dice", "AJI", "PQ", "counting: mean absolute error")] == [1, 1, 1, 0]
    _, table = local.instances("monuseg", lambda image: truth(image) * (truth(image) == 2), data)
    assert value(table, "PQ") == pytest.approx(1 / 1.5)
    assert value(table, "counting: relative error") == 0.5


def test_a_failing_predictor_is_an_error_and_wrong(data: Path) -> None:
    def sometimes(image: Image.Image) -> np.ndarray:
        return truth(image) if image.getpixel((0, 0)) == (0, 9, 9) else np.zeros((2, 2))

    rows, table = local.instances("monuseg", sometimes, data)
    assert list(rows["status"]) == ["ok", "error", "error"]
    assert "the prediction is (2, 2), the image (24, 30)" in rows["error"].iloc[1]
    assert value(table, "Dice") == pytest.approx(1 / 3)
    assert set(table["errors"]) == {2}
    with pytest.raises(BadInput, match="unknown set of instances 'nuclei'; allowed: monuseg"):
        local.instances("nuclei", truth, data)


def test_pixel_classes(data: Path) -> None:
    _, table = local.classes("luad_tissue_seg", lambda image: (truth(image) > 0).astype(int), data)
    assert value(table, "mIoU") == 1


def test_detection(data: Path) -> None:
    def found(image: Image.Image) -> Sequence[tuple[str, Sequence[float], float]]:
        return [("cell", (2, 2, 8, 8), 0.9), ("cell", (0, 0, 3, 3), 0.3)]

    _, table = local.detection(found, data)
    assert value(table, "mAP@0.5") == pytest.approx(51 / 101)
    assert value(table, "counting: mean absolute error") == 1


def test_classification(data: Path) -> None:
    rows, table = local.classification("bccd_boxes", lambda image: ("red", 0.7), root=data)
    assert value(table, "accuracy") == pytest.approx(2 / 3)
    assert value(table, "balanced accuracy") == 0.5
    assert value(table, "accuracy", "majority") == pytest.approx(2 / 3)
    assert list(rows["confidence"]) == [0.7] * 3


def test_tool_choice() -> None:
    scores = local.tool_choice(["nuclei", "glands", None, None, "nuclei"], ["nuclei", "nuclei", None, "glands", None])
    assert scores == {"accuracy": 2 / 5, "selection": 1 / 3, "over_call": 0.5, "missed": 1 / 3}
    assert np.isnan(local.tool_choice([None], [None])["selection"])
