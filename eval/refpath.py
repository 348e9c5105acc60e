"""RefPath (PathVG, Zhong et al. 2025): boxes for phrases about pathology images.

Files: ``testA.jsonl`` (40×) and ``testB.jsonl`` (20×) with ``image, bbox [x_min, y_min, x_max, y_max], expression`` as
on the hub; ``refpath_testA.pth`` as in the repository, whose boxes are **x, y, width, height** (``json2pt.py`` of
ssecv/PathVG); or the local annotation file with ``bbox_xywh``. A box is right when its IoU is strictly greater than the
threshold (``engine.py``); the strict score counts items without a box as wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from eval.metrics.boxes import box_iou, xywh_to_xyxy
from eval.task import Item, Response, Root, measures, one_of
from training.data.records import DataError, data_root, read_jsonl

SPLITS = {"testA": ("testA",), "testB": ("testB",), "test": ("testA", "testB")}
MAGNIFICATION = {"testA": "40x", "testB": "20x"}
THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(9))
LOCAL = "benchmarks/refpath_testA_annotations.jsonl"


class RefPath:
    """The benchmark; ``all`` is box-weighted (every box counts alike), as in PKNet's table."""

    name = "refpath"
    kind = "ground"
    version = "1"
    max_new_tokens = 64

    def load(self, root: Root, split: str) -> list[Item]:
        """Items of ``testA`` (40×), ``testB`` (20×) or ``test`` (both).

        Raises:
            DataError: No file for the split, or a malformed line. BadInput: Unknown split.
        """
        base = data_root(root)
        out = []
        for name in SPLITS[one_of(split, list(SPLITS), "split")]:
            path = _find(base, name)
            out += [_item(path, name, number, *entry) for number, entry in enumerate(read_annotations(path))]
        return out

    def prompt(self, item: Item) -> str:
        return str(item.fields["expression"])

    def score(self, item: Item, response: Response) -> dict[str, Any]:
        found = response.box is not None
        iou = float(box_iou([response.box], [item.answer])[0, 0]) if response.box is not None else 0.0
        scores = {f"acc{t:.2f}": float(iou > t) for t in THRESHOLDS}
        box = list(response.box) if response.box is not None else None
        return {"iou": iou, "found": float(found), "box": box, "answer": list(item.answer)} | scores

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        columns = {f"acc{t:.2f}": f"Acc@{t:.2f}" for t in THRESHOLDS} | {"iou": "mIoU", "found": "a box was given"}
        return measures(rows, columns, errors_wrong=tuple(columns))


def _find(base: Path, name: str) -> Path:
    for folder in (base, base / "refpath", base / "RefPath"):
        for path in (folder / f"{name}.jsonl", folder / f"refpath_{name}.jsonl", folder / f"refpath_{name}.pth"):
            if path.is_file():
                return path
    if (base / LOCAL).is_file() and name == "testA":
        return base / LOCAL
    raise DataError(f"no RefPath {name} in {base}; put {name}.jsonl or refpath_{name}.pth and its images there")


def read_annotations(path: Path) -> list[tuple[str, list[float], str]]:
    """(image, xyxy, expression) of every annotation in a JSONL or ``.pth`` file.

    Raises:
        DataError: A line is malformed, a box has no area, or a ``.pth`` holds more than plain values.
    """
    rows = _read_pth(path) if path.suffix == ".pth" else _read_lines(path)
    out = []
    for number, (image, box, expression) in enumerate(rows, 1):
        if not (box[0] < box[2] and box[1] < box[3]):
            raise DataError(f"{path}, entry {number}: the box {list(box)} has no area; expected x0 < x1 and y0 < y1")
        if min(box[:2]) < 0 or max(box) == math.inf:
            raise DataError(f"{path}, entry {number}: the box {list(box)} is not inside any image; numbers are pixels")
        out.append((image, list(box), expression))
    return out


def _read_lines(path: Path) -> Iterator[tuple[str, tuple[float, float, float, float], str]]:
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            expression: Any = row["expression"]
            text = str(expression[0] if isinstance(expression, list) else expression)
            if "bbox_xywh" in row:
                box = xywh_to_xyxy(row["bbox_xywh"])  # type: ignore[arg-type]
            else:
                x0, y0, x1, y1 = (float(v) for v in row["bbox"])  # type: ignore[attr-defined]
                box = (x0, y0, x1, y1)
            yield str(row["image"]), box, _unbracketed(text)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"{path}, line {number}: needs image, expression and bbox [x0, y0, x1, y1] ({error!r})"
            ) from error


def _read_pth(path: Path) -> Iterator[tuple[str, tuple[float, float, float, float], str]]:
    """The repository's tuples, read without running what a pickle may hold."""
    import pickle

    import torch

    try:
        rows = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise DataError(
            f"{path} holds more than lists, numbers and texts ({str(error).splitlines()[0][:80]}); it is not opened,"
            " since such a file can run code: make the .pth from the JSONL again"
        ) from error
    for number, row in enumerate(rows, 1):
        try:
            image, _, box, expression = row[:4]
            yield str(image), xywh_to_xyxy(box), _unbracketed(str(expression))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}, entry {number}: expected (image, file, [x, y, w, h], expression, …), saw {str(row)[:80]}"
            ) from error


def _unbracketed(text: str) -> str:
    return text[1:-1].strip() if text.startswith("[") and text.endswith("]") else text


def _check_inside(place: Path, box: list[float], where: str) -> None:
    """A box may end a pixel beyond its image, as rounding does; beyond that it is not of this image."""
    try:
        with Image.open(place) as opened:
            width, height = opened.size
    except OSError:
        return  # what is wrong with the image is said where it is read
    if box[2] > width + 1 or box[3] > height + 1:
        raise DataError(f"{where}: the box {box} is not inside {place.name}, {width} x {height} pixels")


def _item(path: Path, split: str, number: int, image: str, box: list[float], expression: str) -> Item:
    places = [path.parent / image, path.parent / "images" / Path(image).name]
    place = next((p for p in places if p.is_file()), places[-1])
    if place.is_file():
        _check_inside(place, box, f"{path}, entry {number + 1}")
    fields = {"expression": expression}
    return Item(f"{split}/{number}", f"{split}/{image}", MAGNIFICATION[split], place, box, fields)
