"""Fields with masks or boxes, in memory, and batches of crops with the targets of the heads.

Each source trains some heads: MoNuSeg and DSB nuclei, CoNSeP nuclei and their kinds, GlaS glands, LUAD tissue, BCCD
blood cells. ``SCALES`` brings every source near the resolution its heads work at.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from training.augment import stain_jitter
from training.data.records import DataError, data_root

CROP = 256
NONE = -100
#: How much more a pixel counts where instances touch.
TOUCHING = 3
#: Heads that a source has labels for.
SOURCES = {
    "monuseg": ("nuclei",), "consep_patches": ("nuclei", "kinds"), "dsb2018_stained": ("nuclei",),
    "glas": ("glands",), "luad_tissue_seg": ("tissue",), "bccd_boxes": ("blood",),
}  # fmt: skip
#: Size at which a field is used over its size on disk.
SCALES = {"glas": 0.5, "bccd_boxes": 0.5}
#: Least and largest enlargement of a crop; nuclei are looked at enlarged too, since those that touch are small.
ZOOMS = {"monuseg": (0.9, 1.9), "consep_patches": (0.9, 1.9), "dsb2018_stained": (0.9, 1.9)}
_ZOOM = (0.75, 1.33)
OPEN = ("dsb2018_stained", "bccd_boxes")


@dataclass
class Field:
    """One labelled field.

    Attributes:
        pixels: [H, W, 3] uint8, scaled.
        instances: [H, W] int32 ids of nuclei or glands, 0 for none.
        kinds: [H, W] uint8, 1…4 on nuclei of known kind, else 0.
        distance: [H, W] float32, 0…1: distance to the outline over the largest of its instance.
        touching: [H, W] uint8, 1 within two pixels of where two instances touch.
        tissue: [H, W] uint8 of ``TISSUES``.
        boxes: [N, 5] class, x0, y0, x1, y1 in pixels as scaled.
    """

    dataset: str
    name: str
    group: str
    pixels: NDArray[np.uint8]
    instances: NDArray[np.int32] | None = None
    kinds: NDArray[np.uint8] | None = None
    distance: NDArray[np.float32] | None = None
    touching: NDArray[np.uint8] | None = None
    tissue: NDArray[np.uint8] | None = None
    boxes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 5), np.float32))


def load_fields(dataset: str, split: str, root: Path | None = None) -> list[Field]:
    """All fields of one split of one source.

    Raises:
        DataError: The set is absent, or a box lies outside its image; the line is named.
    """
    folder = Path(root or data_root()) / dataset
    index = folder / "index.jsonl"
    if not index.is_file():
        raise DataError(f"no {dataset} in {folder.parent}; PATHASSIST_DATA names the folder with the datasets")
    out = []
    for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        if row["split"] == split:
            out.append(_field(dataset, folder, row, f"{index}:{number}"))
    return out


def _field(dataset: str, folder: Path, row: dict[str, Any], where: str) -> Field:
    scale = SCALES.get(dataset, 1.0)
    with Image.open(folder / row["image"]) as opened:
        image = opened.convert("RGB")
    full = image.size
    if scale != 1:
        image = image.resize((round(full[0] * scale), round(full[1] * scale)), Image.Resampling.BOX)
    made = Field(dataset, row["image"], str(row.get("source_image") or row["image"]), np.asarray(image))
    if "instances" in row:
        made.instances = _read(folder / row["instances"], image.size).astype(np.int32)
    elif dataset == "glas":
        from skimage.measure import label

        mask = _read(folder / row["mask"], image.size) > 0
        made.instances = label(mask, connectivity=1).astype(np.int32)  # type: ignore[no-untyped-call]
    elif dataset == "luad_tissue_seg":
        made.tissue = _read(folder / row["mask"], image.size).astype(np.uint8)
    if "types" in row:
        made.kinds = _read(folder / row["types"], image.size).astype(np.uint8)
    if made.instances is not None:
        made.distance = inner_distance(made.instances)
        made.touching = touching(made.instances)
    if "boxes" in row:
        read = [_box(box, full, scale, where) for box in row["boxes"]]
        # A few published boxes have no area.
        made.boxes = np.array([b for b in read if b[3] > b[1] and b[4] > b[2]], np.float32).reshape(-1, 5)
    return made


def _read(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    with Image.open(path) as opened:
        found = opened if opened.size == size else opened.resize(size, Image.Resampling.NEAREST)
        return np.asarray(found)


def _box(box: dict[str, Any], size: tuple[int, int], scale: float, where: str) -> list[float]:
    from assistant.regions.network import BLOOD_CELLS

    x0, y0, x1, y1 = (float(v) for v in box["xyxy"])
    if not (0 <= x0 <= x1 <= size[0] and 0 <= y0 <= y1 <= size[1]):
        raise DataError(f"{where}: the box {box['xyxy']} is not inside the image, {size[0]} x {size[1]} pixels")
    if box["label"] not in BLOOD_CELLS:
        raise DataError(f"{where}: the box is labelled {box['label']!r}; allowed: {', '.join(BLOOD_CELLS)}")
    return [BLOOD_CELLS.index(box["label"]), x0 * scale, y0 * scale, x1 * scale, y1 * scale]


def inner_distance(instances: NDArray[np.int32]) -> NDArray[np.float32]:
    """Distance of each pixel to the outline of its instance over the largest one in it, 0 outside."""
    from scipy.ndimage import distance_transform_edt, find_objects

    out = np.zeros(instances.shape, np.float32)
    for number, place in enumerate(find_objects(instances), 1):
        if place is None:
            continue
        mask = np.pad(instances[place] == number, 1)
        distance = distance_transform_edt(mask)[1:-1, 1:-1]
        out[place] = np.maximum(out[place], distance / max(1e-6, float(distance.max())))
    return out


def offsets(instances: NDArray[np.int32]) -> NDArray[np.float32]:
    """How far right of and below its instance's centre of mass a pixel lies, over the farthest on that side (-1…1), 0
    outside: [2, H, W]."""
    from scipy.ndimage import find_objects

    out = np.zeros((2, *instances.shape), np.float32)
    for number, place in enumerate(find_objects(instances), 1):
        if place is None:
            continue
        mask = instances[place] == number
        for axis, at in enumerate(np.nonzero(mask)[::-1]):
            away = at - at.mean()
            low, high = max(1e-6, float(-away.min())), max(1e-6, float(away.max()))
            out[axis][place][mask] = np.where(away < 0, away / low, away / high)
    return out


def touching(instances: NDArray[np.int32]) -> NDArray[np.uint8]:
    """1 where two instances lie within two pixels of a place, 0 elsewhere, [H, W]."""
    from scipy.ndimage import maximum_filter, minimum_filter

    above = maximum_filter(instances, 5)
    below = minimum_filter(np.where(instances > 0, instances, np.iinfo(np.int32).max), 5)
    found: NDArray[np.uint8] = ((above > 0) & (below < above)).astype(np.uint8)
    return found


@dataclass
class Batch:
    """Crops and their targets; every target has the batch of its own samples, named by ``rows``."""

    pixels: torch.Tensor
    rows: dict[str, torch.Tensor]
    targets: dict[str, torch.Tensor]


class Sampler:
    """Draws batches keyed by (seed, step), so that a run that goes on sees what it would have seen.

    Args:
        shares: Crops of each source in a batch.
        floating: Share of the gland crops whose stroma becomes bare glass: tufts in a lumen are rare in GlaS.
    """

    def __init__(self, fields: list[Field], shares: dict[str, int], seed: int = 0, floating: float = 0.0) -> None:
        self.by_set = {name: [f for f in fields if f.dataset == name] for name in shares}
        empty = [name for name, found in self.by_set.items() if not found]
        if empty:
            raise DataError(f"no field of {empty[0]} to train on")
        self.shares, self.seed, self.floating = shares, seed, floating

    def draw(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        crops = [
            _crop(self.by_set[name][rng.integers(len(self.by_set[name]))], rng, self.floating)
            for name, count in self.shares.items()
            for _ in range(count)
        ]
        pixels = torch.stack([torch.from_numpy(c["pixels"]) for c in crops]).permute(0, 3, 1, 2).float() / 255
        pixels = _colours(pixels, rng)
        rows: dict[str, torch.Tensor] = {}
        targets: dict[str, torch.Tensor] = {}
        for key in ("fg", "offsets", "glands", "kinds", "tissue", "boxes"):
            have = [i for i, c in enumerate(crops) if key in c]
            if not have:
                continue
            rows[key] = torch.tensor(have)
            if key == "boxes":
                heat, size, where = zip(*(centres(crops[i][key], CROP // 4) for i in have), strict=True)
                targets |= {"heat": torch.stack(heat), "size": torch.stack(size), "where": torch.stack(where)}
                continue
            targets[key] = torch.stack([torch.from_numpy(crops[i][key]) for i in have])
        return Batch(pixels * 2 - 1, rows, targets)


def _colours(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    pixels = stain_jitter(pixels, 0.3, generator)
    contrast = 1 + (torch.rand(len(pixels), 1, 1, 1, generator=generator) * 2 - 1) * 0.25
    brightness = (torch.rand(len(pixels), 1, 1, 1, generator=generator) * 2 - 1) * 0.12
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = ((pixels - mean) * contrast + mean + brightness).clamp(0, 1)
    blurred = torch.rand(len(pixels), generator=generator) < 0.2
    if blurred.any():
        pixels[blurred] = F.avg_pool2d(F.pad(pixels[blurred], (1, 1, 1, 1), mode="reflect"), 3, 1)
    return pixels


def _crop(one: Field, rng: np.random.Generator, bare: float = 0.0) -> dict[str, Any]:
    """A square of a field at a random scale and in one of eight orientations, as [CROP, CROP] arrays."""
    height, width = one.pixels.shape[:2]
    side = round(CROP / rng.uniform(*ZOOMS.get(one.dataset, _ZOOM)))
    x = int(rng.integers(min(0, width - side), max(0, width - side) + 1))
    y = int(rng.integers(min(0, height - side), max(0, height - side) + 1))
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))

    def take(array: NDArray[Any], fill: float, smooth: bool) -> NDArray[Any]:
        part = array[max(0, y) : y + side, max(0, x) : x + side]
        before = (max(0, -y), max(0, -x))
        room = [(before[0], side - part.shape[0] - before[0]), (before[1], side - part.shape[1] - before[1])]
        if any(a or b for a, b in room):
            more = [(0, 0)] * (array.ndim - 2)
            part = np.pad(part, [*room, *more], constant_values=fill)
        at = ((np.arange(CROP) + 0.5) * side / CROP).astype(int)
        if smooth:
            part = np.asarray(Image.fromarray(part).resize((CROP, CROP), Image.Resampling.BILINEAR))
        else:
            part = part[at][:, at]
        part = np.rot90(part, turns)
        return np.array(part[:, ::-1] if mirror else part)

    out: dict[str, Any] = {"pixels": take(one.pixels, 255, True)}
    if one.instances is not None and one.distance is not None and one.touching is not None:
        key, every = ("glands", slice(1, None, 2)) if one.dataset == "glas" else ("fg", slice(None))
        weight = take(np.ones((height, width), np.uint8), 0, False) * (1 + TOUCHING * take(one.touching, 0, False))
        stack = [take(one.instances, 0, False) > 0, take(one.distance, 0, True), weight]
        out[key] = np.stack([s[every, every].astype(np.float32) for s in stack])
        if key == "fg":
            out["offsets"] = offsets(take(one.instances, 0, False))
        if key == "glands" and rng.random() < bare:
            out["pixels"] = floating(out["pixels"], stack[0], rng)
    if one.kinds is not None:
        kinds = take(one.kinds, 0, False).astype(np.int64) - 1
        out["kinds"] = np.where(kinds < 0, NONE, kinds)
    if one.tissue is not None:
        out["tissue"] = take(one.tissue, 255, False)[2::4, 2::4].astype(np.int64)
        out["tissue"][out["tissue"] > 3] = NONE
    if one.dataset == "bccd_boxes":
        out["boxes"] = _turn_boxes(one.boxes, x, y, CROP / side, turns, mirror)
    return out


def floating(pixels: NDArray[np.uint8], inside: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The crop [S, S, 3] with bare glass instead of what lies outside of glands [S, S] and their rim."""
    from scipy.ndimage import binary_dilation, gaussian_filter

    rim = binary_dilation(inside, iterations=int(rng.integers(1, 5)))
    tissue = gaussian_filter(rim.astype(np.float32), 0.8)[..., None]
    glass = rng.uniform(222, 250) + rng.normal(0, 2, pixels.shape)
    found: NDArray[np.uint8] = (tissue * pixels + (1 - tissue) * glass).clip(0, 255).astype(np.uint8)
    return found


def _turn_boxes(
    boxes: NDArray[np.float32], x: int, y: int, scale: float, turns: int, mirror: bool
) -> NDArray[np.float32]:
    """Boxes in the crop; those of which less than half is left are dropped."""
    out = boxes.copy()
    out[:, 1:] = (boxes[:, 1:] - np.array([x, y, x, y])) * scale
    area = (out[:, 3] - out[:, 1]) * (out[:, 4] - out[:, 2])
    out[:, 1:] = out[:, 1:].clip(0, CROP)
    left = (out[:, 3] - out[:, 1]) * (out[:, 4] - out[:, 2])
    out = out[left >= 0.5 * area]
    for _ in range(turns):  # np.rot90 turns counter-clockwise: (x, y) → (y, CROP - x)
        out = np.stack([out[:, 0], out[:, 2], CROP - out[:, 3], out[:, 4], CROP - out[:, 1]], axis=1)
    if mirror:
        out = np.stack([out[:, 0], CROP - out[:, 3], out[:, 2], CROP - out[:, 1], out[:, 4]], axis=1)
    return out


def centres(boxes: NDArray[np.float32], cells: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """CenterNet targets on a map of ``cells`` × ``cells``: heat [3, S, S], (log w, log h, dx, dy) [4, S, S], mask."""
    heat = np.zeros((3, cells, cells), np.float32)
    size = np.zeros((4, cells, cells), np.float32)
    where = np.zeros((cells, cells), np.float32)
    grid = np.arange(cells)
    for kind, x0, y0, x1, y1 in boxes / np.array([1, 4, 4, 4, 4]):
        w, h, cx, cy = x1 - x0, y1 - y0, (x0 + x1) / 2, (y0 + y1) / 2
        column, row = min(cells - 1, int(cx)), min(cells - 1, int(cy))
        sx, sy = max(0.8, w * 0.12), max(0.8, h * 0.12)
        bump = np.exp(-((grid - column) ** 2) / (2 * sx**2))[None] * np.exp(-((grid - row) ** 2) / (2 * sy**2))[:, None]
        heat[int(kind)] = np.maximum(heat[int(kind)], bump)
        size[:, row, column] = (np.log(max(w, 0.5)), np.log(max(h, 0.5)), cx - column, cy - row)
        where[row, column] = 1
    return torch.from_numpy(heat), torch.from_numpy(size), torch.from_numpy(where)
