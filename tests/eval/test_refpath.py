"""RefPath: both file formats, hand-worked boxes, what must not be loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from assistant.errors import NotAvailable
from eval.models import written_box
from eval.refpath import RefPath, read_annotations
from eval.runner import run_task
from eval.task import Response
from tests.eval.fake_models import FakeModel
from training.data.records import DataError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(3):
        Image.new("RGB", (100, 100), (number, 0, 0)).save(folder / "images" / f"{number}.png")
        box = [10, 10, 30, 50]
        lines.append({"image": f"refpath/{number}.png", "bbox": box, "expression": [f"[cell {number}]"], "bbox_id": 1})
    (folder / "testA.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (folder / "testB.jsonl").write_text(json.dumps(lines[0]))
    return folder


def boxes(image: Image.Image | None, phrase: str) -> Response:
    """IoU 1, 0.5 exactly, and no box, by the red value of the image."""
    assert image is not None
    found = {0: (10, 10, 30, 50), 1: (10, 10, 30, 30), 2: None}[image.getpixel((0, 0))[0]]  # type: ignore[index]
    return Response("a box" if found else "none", box=found)


def test_scores_are_strict_and_box_weighted(data: Path, tmp_path: Path) -> None:
    run = run_task(RefPath(), FakeModel(boxes), root=data, split="test", out=tmp_path / "o", shown=("image",))
    value = run.summary.set_index(["part", "metric"])["value"]
    assert value["40x", "Acc@0.50"] == pytest.approx(1 / 3)  # IoU of exactly 0.5 is not right
    assert value["20x", "Acc@0.50"] == 1
    assert value["all", "Acc@0.50"] == pytest.approx(2 / 4)  # boxes, not magnifications, count alike
    assert value["40x", "mIoU"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert value["all", "Acc@0.90"] == pytest.approx(2 / 4)
    assert value["40x", "a box was given"] == pytest.approx(2 / 3)


def test_jsonl_is_xyxy_and_pth_is_xywh(data: Path) -> None:
    torch = pytest.importorskip("torch")
    rows = [(f"{i}.png", "UNKNOWN.pth", [10, 10, 20, 40], f"cell {i}", [], ["", "", ""]) for i in range(3)]
    torch.save(rows, data / "refpath_testA.pth")
    names = [Path(image).name for image, _, _ in read_annotations(data / "testA.jsonl")]
    pth = read_annotations(data / "refpath_testA.pth")
    assert pth == [(n, b, e) for n, (_, b, e) in zip(names, read_annotations(data / "testA.jsonl"), strict=True)]
    assert pth[0] == ("0.png", [10, 10, 30, 50], "cell 0")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


def test_a_pth_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    torch.save([Evil()], tmp_path / "refpath_testA.pth")
    with pytest.raises(DataError, match="not opened"):
        read_annotations(tmp_path / "refpath_testA.pth")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"image": "a.png", "bbox": [1, 2, 3], "expression": ["x"]}, "line 1: needs image"),
        ({"image": "a.png", "expression": ["x"]}, "line 1: needs image"),
        ({"image": "a.png", "bbox": [30, 10, 10, 50], "expression": ["x"]}, "entry 1: the box .* has no area"),
        ({"image": "a.png", "bbox": [1, 2, 3, 4], "expression": []}, "line 1: needs image"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: dict[str, object], message: str) -> None:
    (tmp_path / "testA.jsonl").write_text(json.dumps(line))
    with pytest.raises(DataError, match=message):
        RefPath().load(tmp_path, "testA")


def test_without_images_it_says_so(data: Path, tmp_path: Path) -> None:
    for path in (data / "images").iterdir():
        path.unlink()
    with pytest.raises(NotAvailable, match="boxes need images"):
        run_task(RefPath(), FakeModel(boxes), root=data, split="testA", out=tmp_path / "o")


@pytest.mark.data
def test_the_published_annotations_are_xywh(data_root: Path) -> None:
    items = RefPath().load(data_root, "testA")
    assert len(items) == 400
    assert items[0].answer == [201, 0, 383, 307]
    assert items[0].part == "40x"


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[1, 2, 30, 40]", (1, 2, 30, 40)),
        ("It is at [1.5,2,30,40].", (1.5, 2, 30, 40)),
        ("first [0, 0, 1, 1], better [5, 6, 7, 8]", (5, 6, 7, 8)),
        ("[1, 2, 3]", None),
        ("[30, 2, 3, 40]", None),
        ("no box", None),
        ("x 1 2 3 4", None),
    ],
)
def test_written_boxes(text: str, box: tuple[float, ...] | None) -> None:
    assert written_box(text) == box


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([60, 60, 130, 90], r"entry 2: the box .* is not inside 1\.png, 100 x 100 pixels"),
        ([-5, 0, 20, 20], "entry 2: the box .* is not inside any image"),
        ([float("nan"), 0, 20, 20], "entry 2: the box .* has no area"),
        ([0, 0, float("inf"), 20], "entry 2: the box .* is not inside any image"),
    ],
)
def test_a_box_outside_its_image_is_refused_with_its_line(data: Path, box: list[float], message: str) -> None:
    rows = [json.loads(line) for line in (data / "testA.jsonl").read_text().splitlines()]
    rows[1]["bbox"] = box
    (data / "testA.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(DataError, match=message):
        RefPath().load(data, "testA")
