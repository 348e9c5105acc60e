"""Boxes: IoU, accuracy at an IoU, average precision of detections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Xyxy = Sequence[float]


@dataclass(frozen=True)
class Detection:
    """One box found in one image."""

    image: str
    label: str
    xyxy: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Truth:
    """One true box."""

    image: str
    label: str
    xyxy: tuple[float, float, float, float]


def xywh_to_xyxy(box: Xyxy) -> tuple[float, float, float, float]:
    """Corner and size to two corners."""
    x, y, width, height = (float(v) for v in box)
    return x, y, x + width, y + height


def box_iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """IoU of every pair of xyxy boxes, [N, M]; continuous coordinates (no +1). A box without area has IoU 0."""
    p = np.asarray(a, dtype=np.float64).reshape(-1, 4)
    q = np.asarray(b, dtype=np.float64).reshape(-1, 4)
    low = np.maximum(p[:, None, :2], q[None, :, :2])
    high = np.minimum(p[:, None, 2:], q[None, :, 2:])
    inner = np.clip(high - low, 0, None).prod(axis=2)
    area_p = np.clip(p[:, 2:] - p[:, :2], 0, None).prod(axis=1)
    area_q = np.clip(q[:, 2:] - q[:, :2], 0, None).prod(axis=1)
    union = area_p[:, None] + area_q[None, :] - inner
    return np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)


def accuracy_at_iou(ious: ArrayLike, threshold: float) -> float:
    """Share of items whose IoU is strictly greater than ``threshold`` (PathVG's ``engine.py``); NaN for none."""
    values = np.asarray(ious, dtype=np.float64)
    return float((values > threshold).mean()) if values.size else float("nan")


def detection_ap(truth: Sequence[Truth], found: Sequence[Detection], iou: float = 0.5) -> dict[str, float]:
    """Average precision of each label as COCO computes it (101 recall points), over all images.

    Detections are taken in order of score; each takes the free true box of its image with the highest IoU, when that
    is at least ``iou``. Labels without a true box are left out. No limit on the number of detections.
    """
    result: dict[str, float] = {}
    for label in sorted({t.label for t in truth}):
        boxes: dict[str, list[Xyxy]] = defaultdict(list)
        for t in truth:
            if t.label == label:
                boxes[t.image].append(t.xyxy)
        ours = sorted((d for d in found if d.label == label), key=lambda d: -d.score)
        free = {image: np.ones(len(rows), dtype=bool) for image, rows in boxes.items()}
        right = np.zeros(len(ours))
        for i, d in enumerate(ours):
            if d.image not in boxes:
                continue
            overlap = np.where(free[d.image], box_iou([d.xyxy], boxes[d.image])[0], -1.0)
            # On equal overlap the later box wins, as in pycocotools.
            best = len(overlap) - 1 - int(overlap[::-1].argmax())
            if overlap[best] >= min(iou, 1 - 1e-10):
                right[i], free[d.image][best] = 1, False
        result[label] = _interpolated(right, sum(map(len, boxes.values())))
    return result


def mean_ap(truth: Sequence[Truth], found: Sequence[Detection], iou: float = 0.5) -> float:
    """Mean of :func:`detection_ap` over the labels; NaN without true boxes."""
    values = list(detection_ap(truth, found, iou).values())
    return float(np.mean(values)) if values else float("nan")


def _interpolated(right: NDArray[np.float64], total: int) -> float:
    """Mean of the best precision at recall ≥ 0, 0.01, … 1."""
    if not len(right):
        return 0.0
    hits = right.cumsum()
    recall = hits / total
    precision = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.where(at < len(right), envelope[np.minimum(at, len(right) - 1)], 0.0).mean())
