"""White cells cut out of their fields, and close-ups of one beside what is none: for ``detect_blood_cells``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.regions.model import Regions
from assistant.tools.blood import CLOSE_UPS, cell_crop, white_cell
from assistant.tools.features import pooled_features
from training.data.objects import load_regions
from training.data.records import data_root, read_jsonl

#: Fields of these sets are no close-ups of a white cell; at most so many of each are used.
OTHERS = {
    "herlev_pap": 400, "pcam_1k": 200, "lc25000_lung": 200, "crc_polyp5": 200, "oral_oscc": 100, "consep_patches": 200,
    "dsb2018_stained": 66, "glas": 85, "atlas": 200,
}  # fmt: skip


def white_cells(
    split: str, root: Path | None = None, network: Regions | None = None
) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Features [N, F] of the largest labelled cell of every field of ``wbc_seg``, and the labels [N].

    Args:
        network: Cuts the cells out as the tool does, instead of their masks.
    """
    crops, labels = [], []
    for field in load_regions(split, root, ("wbc_seg",)):
        cells = [one for one in field.objects if "type" in one.attributes]
        if cells:
            cell, image = max(cells, key=lambda one: one.area), field.image()
            crops.append(cell_crop(image, white_cell(network, image) if network else cell.box))
            labels.append(cell.attributes["type"])
    return pooled_features(crops), np.array(labels)


def close_ups(split: str, root: Path | None = None, seed: int = 0) -> Iterator[tuple[Image.Image, str, str]]:
    """Images of one split, what each is (``CLOSE_UPS``), and its set: fields of ``wbc_seg``, white cells cut out of
    smears with what lies around; red cells and platelets cut out in the same way, and fields of other sets."""
    rng = np.random.default_rng(seed)
    for field in load_regions(split, root, ("wbc_seg",)):
        yield field.image(), CLOSE_UPS[0], "wbc_seg"
    for field in load_regions(split, root, ("bccd_boxes",)):
        image = field.image()
        for label in ("white blood cell", "red blood cell", "platelet"):
            cells = [one for one in field.objects if one.label == label]
            if cells:
                x0, y0, x1, y1 = cells[int(rng.integers(len(cells)))].box
                around = max(x1 - x0, y1 - y0) * rng.uniform(0.05, 0.5)
                box = tuple(round(v) for v in (x0 - around, y0 - around, x1 + around, y1 + around))
                inside = (max(0, box[0]), max(0, box[1]), min(image.width, box[2]), min(image.height, box[3]))
                yield image.crop(inside), CLOSE_UPS[label != "white blood cell"], f"bccd_boxes, {label}"
    for name, most in OTHERS.items():
        folder = (root or data_root()) / name
        rows = [r for r in read_jsonl(folder / "index.jsonl") if r["split"] == split]
        for at in rng.permutation(len(rows))[:most]:
            with Image.open(folder / str(rows[int(at)]["image"])) as opened:
                yield opened.convert("RGB"), CLOSE_UPS[1], name
