"""Labelled objects with boxes from every set that has boxes or masks, as phrases are made of.

Large nuclei fields are cut into squares, so that a field holds tens of objects rather than hundreds. Licences: only
``bccd_boxes`` and ``dsb2018_stained`` are open; phrases on the others make research-only weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.records import DataError, data_root

SETS = ("bccd_boxes", "wbc_seg", "glas", "monuseg", "dsb2018_stained", "consep_patches", "luad_tissue_seg")
OPEN = ("bccd_boxes", "dsb2018_stained")
BLOOD = ("red blood cell", "white blood cell", "platelet")
KINDS = {1: "other nucleus", 2: "inflammatory nucleus", 3: "epithelial nucleus", 4: "spindle nucleus"}
TISSUES = {0: "tumour", 1: "stroma", 2: "normal"}
#: Labels that a set states for all objects of these classes it shows; of others it says nothing.
SAYS = {
    "bccd_boxes": BLOOD, "wbc_seg": ("white blood cell",), "glas": ("gland",), "monuseg": ("nucleus",),
    "dsb2018_stained": ("nucleus",), "consep_patches": tuple(KINDS.values()),
    "luad_tissue_seg": tuple(TISSUES.values()),
}  # fmt: skip
_CUT = 256
_LEAST = {"nucleus": 30, "gland": 300}
_VISIBLE = 8
_LEAST_TISSUE = 0.03


@dataclass(frozen=True)
class Object:
    """One labelled object.

    Attributes:
        label: A class of ``SAYS``.
        box: x0, y0, x1, y1 in pixels of the field.
        area: Pixels of its mask, or of the box where there is no mask.
        attributes: What labels state beside the class (``type`` of a white cell).
    """

    label: str
    box: tuple[float, float, float, float]
    area: float
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Field:
    """A field with its objects.

    Attributes:
        cut: The part x0, y0, x1, y1 of the image file that the field is, None for all.
        unsure: What can be seen too but is not labelled as an object: less than half of a nucleus, slivers.
    """

    dataset: str
    image_path: Path
    group: str
    objects: tuple[Object, ...]
    size: tuple[int, int]
    cut: tuple[int, int, int, int] | None = None
    unsure: tuple[Object, ...] = ()

    def image(self) -> Image.Image:
        """The pixels, RGB."""
        whole = _opened(self.image_path)
        return whole.crop(self.cut) if self.cut else whole


@lru_cache(maxsize=2)  # the cuts of one image come one after another
def _opened(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.convert("RGB")


def load_regions(split: str, root: Path | None = None, sets: tuple[str, ...] = SETS) -> list[Field]:
    """All fields of one split.

    Raises:
        DataError: A set is absent, or a box lies outside its image; file and line are named.
    """
    out: list[Field] = []
    for name in sets:
        folder = Path(root or data_root()) / name
        index = folder / "index.jsonl"
        if not index.is_file():
            raise DataError(f"no {name} in {folder.parent}; PATHASSIST_DATA names the folder with the datasets")
        for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), 1):
            row = json.loads(line)
            if row["split"] == split:
                out.extend(_fields(name, folder, row, f"{index.name} of {name}, line {number}"))
    return out


def _fields(name: str, folder: Path, row: dict[str, Any], where: str) -> Iterator[Field]:
    path = folder / row["image"]
    with Image.open(path) as opened:
        size = opened.size
    group = str(row.get("source_image") or row.get("group") or row["image"])
    if name == "bccd_boxes":
        yield Field(name, path, group, tuple(_boxes(row["boxes"], size, where)), size)
    elif name == "wbc_seg":
        mask = np.asarray(Image.open(folder / row["mask"])) > 0
        kind = {"type": str(row["label"])} if row.get("label") else {}
        yield Field(name, path, group, tuple(_components(mask, "white blood cell", kind, 200)), size)
    elif name == "luad_tissue_seg":
        tissue = np.asarray(Image.open(folder / row["mask"]))
        least = _LEAST_TISSUE * tissue.size
        found = [o for value, label in TISSUES.items() for o in _components(tissue == value, label, {}, least)]
        yield Field(name, path, group, tuple(found), size)
    elif name == "glas":
        mask = np.asarray(Image.open(folder / row["mask"])) > 0
        parts = list(_components(mask, "gland", {}, _VISIBLE))
        large = tuple(p for p in parts if p.area >= _LEAST["gland"])
        yield Field(name, path, group, large, size, unsure=tuple(p for p in parts if p.area < _LEAST["gland"]))
    else:
        ids = np.asarray(Image.open(folder / row["instances"])).astype(np.int32)
        types = np.asarray(Image.open(folder / row["types"])) if "types" in row else None
        for y in range(0, size[1], _CUT):
            for x in range(0, size[0], _CUT):
                cut = (x, y, min(x + _CUT, size[0]), min(y + _CUT, size[1]))
                if min(cut[2] - x, cut[3] - y) < _CUT // 4:
                    continue
                nuclei = list(_nuclei(ids, types, cut))
                objects, unsure = (tuple(o for o, counts in nuclei if counts is sure) for sure in (True, False))
                yield Field(name, path, group, objects, (cut[2] - x, cut[3] - y), cut, unsure)


def _boxes(boxes: list[dict[str, Any]], size: tuple[int, int], where: str) -> Iterator[Object]:
    for box in boxes:
        x0, y0, x1, y1 = (float(v) for v in box["xyxy"])
        if not (0 <= x0 <= x1 <= size[0] and 0 <= y0 <= y1 <= size[1]):
            raise DataError(f"{where}: the box {box['xyxy']} is not inside the image, {size[0]} x {size[1]} pixels")
        if x1 > x0 and y1 > y0:  # a few published boxes have no area
            yield Object(str(box["label"]), (x0, y0, x1, y1), (x1 - x0) * (y1 - y0))


def _components(mask: NDArray[np.bool_], label: str, attributes: dict[str, str], least: float) -> Iterator[Object]:
    from skimage.measure import label as partsof
    from skimage.measure import regionprops

    for part in regionprops(partsof(mask, connectivity=1)):
        if part.area >= least:
            y0, x0, y1, x1 = part.bbox
            yield Object(label, (float(x0), float(y0), float(x1), float(y1)), float(part.area), attributes)


def _nuclei(
    ids: NDArray[np.int32], types: NDArray[Any] | None, cut: tuple[int, int, int, int]
) -> Iterator[tuple[Object, bool]]:
    """What can be seen of nuclei in the cut, and whether that is at least half of one and no speck."""
    from skimage.measure import regionprops

    x0, y0, x1, y1 = cut
    part = ids[y0:y1, x0:x1]
    whole = np.bincount(ids.ravel())
    for one in regionprops(part):
        if one.area < _VISIBLE:
            continue
        top, left, bottom, right = one.bbox
        label = "nucleus"
        if types is not None:
            inside = types[y0:y1, x0:x1][part == one.label]
            label = KINDS.get(int(np.bincount(inside.ravel().astype(int), minlength=5)[1:].argmax()) + 1, "nucleus")
        found = Object(label, (float(left), float(top), float(right), float(bottom)), float(one.area))
        yield found, bool(one.area >= max(_LEAST["nucleus"], 0.5 * whole[one.label]))
