"""From boxes to outlines: for each box the instance of the region network that fits it best.

A nucleus, or in H&E a gland, can fit a box. Where nothing reaches an IoU of ``FIT`` with the box it stays a box, and
says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.answer import Box

if TYPE_CHECKING:
    from assistant.grounding.slides import SlideLike
    from assistant.regions.model import Regions

#: Smallest IoU of an instance's own box with the box it refines.
FIT = 0.5
#: Longest side of what the network looks at, as for finding the boxes.
MAX_SIDE = 1280
NO_FIT = "no outline fits this box, so it is kept as a box"
#: Room around a box in shares of its longer side, so that a thing is seen whole.
_ROOM = 0.5


@dataclass(frozen=True)
class Outline:
    """A box, and the ring of the instance that fits it.

    Attributes:
        ring: Closed, [[x, y], …] in pixels of the image; the box's own corners where nothing fits.
        kind: ``"nucleus"``, ``"gland"`` or ``"box"``.
        fit: IoU of the instance's box with the box, 0 where nothing fits.
        note: What to say about it, "" for an outline.
    """

    box: Box
    ring: list[list[float]]
    kind: str
    fit: float
    note: str = ""


def outlines(
    image: Image.Image, boxes: Sequence[Box], regions: Regions, corner: tuple[float, float] = (0.0, 0.0)
) -> list[Outline]:
    """An outline for every box, in their order.

    Args:
        image: What the boxes are on, RGB; the part around them is looked at, smaller where it is over 1280 pixels.
        corner: Pixels of the boxes' frame at the image's top left.
    """
    from assistant.tools.fields import guess_stain

    if not boxes:
        return []
    shift = np.array([*corner, *corner])
    table = np.array([box.xyxy for box in boxes], float) - shift
    area = _around(table, image.size)
    part = image.convert("RGB").crop(area)
    shrink = min(1.0, MAX_SIDE / max(part.size))
    if shrink < 1:
        part = part.resize((max(1, round(part.width * shrink)), max(1, round(part.height * shrink))))
    pixels = np.asarray(part)
    wanted = (table - np.array([area[0], area[1], area[0], area[1]])) * shrink
    kinds = {"nucleus": regions.nuclei(pixels).ids}
    if guess_stain(part)[0] == "H&E-like":  # elsewhere the gland head outlines cells
        kinds["gland"] = regions.glands(pixels).ids
    place = (area[0] + corner[0], area[1] + corner[1])
    return [_fitted(box, row, kinds, place, shrink) for box, row in zip(boxes, wanted, strict=True)]


def corners(box: Box) -> list[list[float]]:
    """The box itself as a closed ring."""
    x0, y0, x1, y1 = box.xyxy
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def _around(table: NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int, int, int]:
    room = _ROOM * float((table[:, 2:] - table[:, :2]).max()) + 64
    x0, y0 = (max(0, int(v - room)) for v in table[:, :2].min(axis=0))
    x1, y1 = (min(side, int(v + room) + 1) for v, side in zip(table[:, 2:].max(axis=0), size, strict=True))
    return min(x0, size[0] - 1), min(y0, size[1] - 1), max(x1, x0 + 1), max(y1, y0 + 1)


def _fitted(
    box: Box,
    wanted: NDArray[np.float64],
    kinds: dict[str, NDArray[np.int32]],
    place: tuple[float, float],
    shrink: float,
) -> Outline:
    from assistant.tools.fields import outline

    best: tuple[float, str, int] = (0.0, "", 0)
    for kind, ids in kinds.items():
        frames = _frames(ids)
        if len(frames):
            fits = _ious(frames, wanted)
            number = int(fits.argmax())
            best = max(best, (float(fits[number]), kind, number + 1))
    fit, kind, number = best
    if fit < FIT:
        return Outline(box, corners(box), "box", 0.0, NO_FIT)
    ids = kinds[kind]
    x0, y0, x1, y1 = (int(v) for v in _frames(ids)[number - 1])
    ring = outline(ids[y0:y1, x0:x1] == number, x0, y0)
    whole = [[round(x / shrink + place[0], 1), round(y / shrink + place[1], 1)] for x, y in ring]
    return Outline(box, whole, kind, round(fit, 3))


def _frames(ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """Boxes [N, 4] xyxy of the instances 1…N; one that is absent has no area."""
    from scipy.ndimage import find_objects

    rows = [(p[1].start, p[0].start, p[1].stop, p[0].stop) if p else (0, 0, 0, 0) for p in find_objects(ids)]
    return np.array(rows, float).reshape(-1, 4)


def _ious(frames: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.maximum(frames[:, :2], box[:2]), np.minimum(frames[:, 2:], box[2:])
    both = (high - low).clip(min=0).prod(axis=1)
    areas = (frames[:, 2:] - frames[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - both
    found: NDArray[np.float64] = both / np.maximum(areas, 1e-9)
    return found


def features(found: Sequence[Outline]) -> list[dict[str, Any]]:
    """GeoJSON features for QuPath: the phrase as the name, score, fit, and the note where one is kept as a box."""
    from assistant.tools.fields import feature

    out = []
    for one in found:
        measured = {"score": one.box.score} | ({"fit": one.fit} if one.fit else {})
        kind = None if one.kind == "box" else one.kind
        out.append(
            feature(
                one.ring, objectType="annotation", name=one.box.label, measurements=measured,
                outline=kind, note=one.note or None,
            )
        )  # fmt: skip
    return out


def on_slide(slide: SlideLike, boxes: Sequence[Box], regions: Regions) -> list[Outline]:
    """Outlines of boxes on a slide, each from a region read around it at the resolution of the search.

    Boxes and rings are pixels of the full resolution.
    """
    from assistant.grounding.slides import FIELD, side_of

    width, height = slide.size
    found = []
    for box in boxes:
        x0, y0, x1, y1 = _around(np.array([box.xyxy]), (width, height))
        scale = min(1.0, FIELD / side_of(slide), MAX_SIDE / max(x1 - x0, y1 - y0))
        out = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
        part = slide.read(x0, y0, x1 - x0, y1 - y0, out=out)
        factor = (x1 - x0) / out[0]
        a, b, c, d = box.xyxy
        inside = Box(box.label, ((a - x0) / factor, (b - y0) / factor, (c - x0) / factor, (d - y0) / factor), box.score)
        (one,) = outlines(part, [inside], regions)
        ring = [[round(x * factor + x0, 1), round(y * factor + y0, 1)] for x, y in one.ring]
        found.append(Outline(box, ring, one.kind, one.fit, one.note))
    return found
