"""Everything in a field that a phrase may mean: boxes with class scores and what the network sees at each of them.

Passes of the region networks, enlarged for nuclei, at full size for tissue and at half for glands and blood cells, give
the boxes; the features are means of the decoders' maps over each box. This is done once per image, whatever is asked of
it then.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.regions.instances import (
    GLANDS,
    NUCLEI,
    Settings,
    cells,
    chances,
    kinds_of,
    outlined,
    resized,
    shares,
    suppress,
)
from assistant.regions.model import Regions, load_regions, rescaled
from assistant.regions.network import BLOOD_CELLS, FEATURES, NUCLEUS_KINDS, STRIDES, TISSUES

CLASSES: tuple[str, ...] = (
    *BLOOD_CELLS, "gland", *(f"{kind} nucleus" for kind in NUCLEUS_KINDS), *TISSUES[:3],
)  # fmt: skip
_BLOOD, _GLAND, _NUCLEI, _TISSUE = 0, 3, 4, 8
#: Longest side at which a field is looked at, so that the time has a cap.
MAX_SIDE = 1280
#: A field with fewer pixels is looked at enlarged up to that many, at most this much: touching nuclei come apart.
_PIXELS, _ENLARGED = 480_000, 1.5
_LEAST_TISSUE = 0.02
Boxes = NDArray[np.float32]
#: Boxes, scores and outlines as in :class:`Proposals`, areas in pixels.
Found = tuple[Boxes, NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Proposals:
    """What may be meant in one image.

    Attributes:
        boxes: [N, 4] xyxy in pixels of the image as given.
        scores: [N, K] for ``CLASSES``, 0…1; a box has scores in its own family of classes only.
        features: [N, D]: decoder features, then mean colour in the box and around it, all without units.
        outlines: [N, 4]: share of the image that the outline holds, of the box, of its convex hull (0…1; what merges
            two nuclei is not convex), and the largest distance to the outline that the network gave (0…1). A box
            without an outline is its own.
        context: [C] mean of the decoder's maps over the whole image.
        size: Width and height of the image as given.
    """

    boxes: Boxes
    scores: NDArray[np.float32]
    features: NDArray[np.float32]
    outlines: NDArray[np.float32]
    context: NDArray[np.float32]
    size: tuple[int, int]


class Detector:
    """Proposals from the region network.

    Attributes:
        feature_size: Length D of a box's features.
        context_size: Length of the context.
    """

    feature_size = 2 * FEATURES + 6
    context_size = 2 * FEATURES

    def __init__(self, regions: Regions) -> None:
        self.regions = regions

    def propose(self, image: Image.Image, limit: int = 128) -> Proposals:
        """At most ``limit`` boxes, the surest of every family first.

        Args:
            image: RGB; larger than 1280 pixels a side it is looked at smaller.
        """
        pixels = np.asarray(image.convert("RGB"))
        shrink = min(1.0, MAX_SIDE / max(image.size))
        full = rescaled(pixels, shrink)
        half = rescaled(full, 0.5)
        large = rescaled(full, min(_ENLARGED, max(1.0, (_PIXELS / (full.shape[0] * full.shape[1])) ** 0.5)))
        enlarged = large.shape[1] / full.shape[1]
        maps_full, features_full = self.regions.look(large, ("nuclei",))
        maps_half, features_half = self.regions.look(half, ("blood", "glands"))
        tissue, _ = self.regions.look(full, ("tissue",))
        found = [
            (self._blood(maps_half["blood"], 2.0), limit // 2),
            (self._shapes("glands", maps_half["glands"], half.shape[:2], 2.0, _GLAND, GLANDS, limit // 8), limit // 8),
            (self._shapes("nuclei", maps_full["nuclei"], full.shape[:2], 1.0, _NUCLEI, NUCLEI, limit), limit),
            (self._tissue(tissue["tissue"], 1.0), limit // 8),
        ]
        best = [[part[:most] for part in parts] for parts, most in found]
        boxes, scores, outlines = (np.concatenate(parts) for parts in zip(*best, strict=True))
        height, width = full.shape[:2]
        boxes = boxes.clip(0, [width, height, width, height]).astype(np.float32)
        wide = (boxes[:, 2] - boxes[:, 0] >= 2) & (boxes[:, 3] - boxes[:, 1] >= 2)
        order = np.argsort(-scores.max(axis=1, initial=0.0) * wide, kind="stable")[: min(limit, int(wide.sum()))]
        boxes, scores, outlines = boxes[order], scores[order], outlines[order]
        outlines[:, 0] /= height * width
        features = np.concatenate(
            [pooled(features_full, boxes, 4 / enlarged), pooled(features_half, boxes, 8), colours(full, boxes)], axis=1
        )
        context = np.concatenate([features_full.mean(axis=(1, 2)), features_half.mean(axis=(1, 2))])
        boxes = (boxes / shrink).astype(np.float32)
        return Proposals(boxes, scores, features.astype(np.float32), outlines, context.astype(np.float32), image.size)

    def _blood(self, maps: NDArray[np.float32], factor: float) -> Found:
        boxes, scores = cells(maps, least=0.1)
        kept = suppress(boxes, scores)
        boxes = boxes[kept] * STRIDES["blood"] * factor
        return boxes, spread(scores[kept], _BLOOD), boxed(boxes)

    def _shapes(
        self,
        head: str,
        maps: NDArray[np.float32],
        shape: tuple[int, int],
        factor: float,
        first: int,
        settings: Settings,
        limit: int,
    ) -> Found:
        """At most ``limit`` instances of a head, surest first; ``shape`` [H, W]: the size its settings hold at;
        ``factor``: of the field over it."""
        whole = chances(maps, STRIDES[head])
        seen = resized(whole, shape)
        ids, kinds = outlined(seen, settings)
        sure = kinds_of(ids, seen[:1])
        if kinds is not None:
            sure = sure * kinds
        order = np.argsort(-sure.sum(axis=1), kind="stable")[:limit]
        boxes = boxes_of(ids) * factor
        shaped = outlines_of(ids, seen[1], order + 1)
        shaped[:, 0] *= factor**2
        return boxes[order], spread(sure[order], first), shaped

    def _tissue(self, maps: NDArray[np.float32], factor: float) -> Found:
        """Connected regions of one tissue that hold at least a fiftieth of the field, largest first."""
        from skimage.measure import label, regionprops

        seen = shares(maps)
        kinds = seen.argmax(axis=0)
        rows = []
        for kind in range(3):
            parts = label(kinds == kind, connectivity=1)  # type: ignore[no-untyped-call]
            for part in regionprops(parts):  # type: ignore[no-untyped-call]
                if part.area >= _LEAST_TISSUE * kinds.size:
                    y0, x0, y1, x1 = part.bbox
                    chance = seen[:3, parts == part.label].mean(axis=1)
                    rows.append((part.area, (x0, y0, x1, y1), chance))
        rows.sort(key=lambda row: -row[0])
        boxes = np.array([r[1] for r in rows], np.float32).reshape(-1, 4) * (STRIDES["tissue"] * factor)
        shaped = boxed(boxes)
        shaped[:, 0] = np.array([r[0] for r in rows], np.float32) * (STRIDES["tissue"] * factor) ** 2
        shaped[:, 1] = shaped[:, 0] / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1)
        return boxes, spread(np.array([r[2] for r in rows], np.float32).reshape(-1, 3), _TISSUE), shaped


def spread(scores: NDArray[np.float32], first: int) -> NDArray[np.float32]:
    """Scores of one family [N, k] in their places among all classes [N, K]."""
    out = np.zeros((len(scores), len(CLASSES)), np.float32)
    out[:, first : first + scores.shape[1]] = scores
    return out


def outlines_of(ids: NDArray[np.int32], distance: NDArray[np.float32], numbers: NDArray[np.int64]) -> Boxes:
    """Area in pixels, share of the box and of the convex hull, largest distance of some instances, [len(numbers), 4].

    Args:
        ids, distance: [H, W] instances 1…N, and distance to the outline as the network gave it.
        numbers: Which instances.
    """
    from scipy.ndimage import find_objects
    from scipy.spatial import ConvexHull, QhullError

    places = find_objects(ids)
    out = np.zeros((len(numbers), 4), np.float32)
    for row, number in enumerate(numbers):
        place = places[number - 1]
        mask = ids[place] == number
        area = float(mask.sum())
        across = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
        steps = np.diff(across, axis=1)
        ends = np.concatenate([np.argwhere(steps > 0), np.argwhere(steps < 0)])  # left and right edge of every run
        corners = np.concatenate([ends, ends + np.array([1, 0])])
        try:
            hull = float(ConvexHull(corners).volume)
        except QhullError:
            hull = area
        out[row] = area, area / mask.size, area / max(hull, 1.0), distance[place][mask].max()
    return out


def boxed(boxes: Boxes) -> NDArray[np.float32]:
    """What :func:`outlines_of` would say of boxes [N, 4] that are their own outlines."""
    out = np.ones((len(boxes), 4), np.float32)
    out[:, 0] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return out


def boxes_of(ids: NDArray[np.int32]) -> Boxes:
    """Boxes [N, 4] xyxy of instances 1…N."""
    from scipy.ndimage import find_objects

    places = [p for p in find_objects(ids) if p is not None]
    rows = [(p[1].start, p[0].start, p[1].stop, p[0].stop) for p in places]
    return np.array(rows, np.float32).reshape(-1, 4)


def pooled(features: NDArray[np.float32], boxes: Boxes, stride: float = 1) -> NDArray[np.float32]:
    """Mean of a map [F, h, w], ``stride`` pixels a cell, over boxes [N, 4]: [N, F]; a box has at least one cell."""
    boxes = (boxes / stride).astype(np.float32)
    count, height, width = features.shape
    x0 = np.clip(np.floor(boxes[:, 0]).astype(int), 0, width - 1)
    y0 = np.clip(np.floor(boxes[:, 1]).astype(int), 0, height - 1)
    x1 = np.clip(np.ceil(boxes[:, 2]).astype(int), x0 + 1, width)
    y1 = np.clip(np.ceil(boxes[:, 3]).astype(int), y0 + 1, height)
    columns = _weights(x0, x1, width)
    rows = _weights(y0, y1, height)
    strips = (features.reshape(count * height, width) @ columns.T).reshape(count, height, len(boxes))
    means: NDArray[np.float32] = np.einsum("fhn,nh->nf", strips, rows)
    return means


def _weights(first: NDArray[np.int64], end: NDArray[np.int64], length: int) -> NDArray[np.float32]:
    """Rows [N, length] that are 1 / (end - first) from ``first`` up to ``end``, else 0."""
    at = np.arange(length)
    inside = ((at >= first[:, None]) & (at < end[:, None])).astype(np.float32)
    inside /= (end - first)[:, None]
    return inside


def colours(pixels: NDArray[np.uint8], boxes: Boxes) -> NDArray[np.float32]:
    """Mean RGB in each box and in the box twice as large around it, in -1…1: [N, 6]."""
    maps = pixels.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    size = boxes[:, 2:] - boxes[:, :2]
    wide = np.concatenate([boxes[:, :2] - size / 2, boxes[:, 2:] + size / 2], axis=1)
    means = pooled(maps, np.concatenate([boxes, wide]))
    return np.concatenate([means[: len(boxes)], means[len(boxes) :]], axis=1)


@lru_cache(maxsize=2)
def load_detector(*, research: bool = True) -> Detector:
    """The shipped detector.

    Raises:
        NotAvailable: Its weights are missing.
    """
    return Detector(load_regions(research=research))
