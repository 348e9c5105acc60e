"""Overlap of masks and of labelled instances: Dice, IoU of classes, aggregated Jaccard index, panoptic quality.

The definitions of AJI and PQ are those of HoVer-Net (Graham et al. 2019; ``metrics/stats_utils.py`` of
``vqdang/hover_net``), without the 1e-6 it adds to denominators, and defined where it divides by zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Panoptic:
    """Detection quality (F1 at IoU > 0.5), segmentation quality (mean IoU of the pairs), their product, and counts."""

    dq: float
    sq: float
    pq: float
    tp: int
    fp: int
    fn: int


def dice(truth: ArrayLike, found: ArrayLike) -> float:
    """Dice of two masks (non-zero is inside); 1 when both are empty."""
    a, b = np.asarray(truth) != 0, np.asarray(found) != 0
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2 * int((a & b).sum()) / total


def mean_class_iou(truth: ArrayLike, found: ArrayLike, classes: int, ignore: int | None = None) -> float:
    """Mean IoU over the classes that occur in either label image; pixels whose truth is ``ignore`` do not count."""
    a, b = np.asarray(truth).ravel(), np.asarray(found).ravel()
    if ignore is not None:
        a, b = a[a != ignore], b[a != ignore]
    values = []
    for label in range(classes):
        union = int(((a == label) | (b == label)).sum())
        if union:
            values.append(int(((a == label) & (b == label)).sum()) / union)
    return float(np.mean(values)) if values else float("nan")


def overlaps(truth: ArrayLike, found: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pixels shared by every pair of instances, and the areas of both sides.

    Args:
        truth: Instance ids [H, W], 0 is background; ids need not run without gaps.
        found: The same for what was found.

    Returns:
        (shared [T, F], areas of true instances [T], areas of found instances [F]).
    """
    true_ids, a = np.unique(np.asarray(truth), return_inverse=True)
    found_ids, b = np.unique(np.asarray(found), return_inverse=True)
    table = np.bincount(a.ravel() * len(found_ids) + b.ravel(), minlength=len(true_ids) * len(found_ids))
    table = table.reshape(len(true_ids), len(found_ids)).astype(np.int64)
    rows, columns = true_ids != 0, found_ids != 0
    return table[rows][:, columns], table.sum(axis=1)[rows], table.sum(axis=0)[columns]


def aggregated_jaccard(truth: ArrayLike, found: ArrayLike) -> float:
    """Aggregated Jaccard index: each true instance takes the found one of highest IoU, the rest count as union.

    As distributed with MoNuSeg and by HoVer-Net, a found instance may be taken more than once. 1 when both are empty.
    """
    shared, true_area, found_area = overlaps(truth, found)
    if not len(true_area) or not len(found_area):
        return 1.0 if len(true_area) == len(found_area) else 0.0
    union = true_area[:, None] + found_area[None, :] - shared
    best = (shared / union).argmax(axis=1)
    rows = np.flatnonzero(shared.max(axis=1) > 0)
    inter = int(shared[rows, best[rows]].sum())
    outer = int(union[rows, best[rows]].sum())
    outer += int(np.delete(true_area, rows).sum())
    outer += int(np.delete(found_area, np.unique(best[rows])).sum())
    return inter / outer


def panoptic_quality(truth: ArrayLike, found: ArrayLike) -> Panoptic:
    """Panoptic quality with pairs of IoU > 0.5 (then pairs are unique); 1 when both are empty."""
    shared, true_area, found_area = overlaps(truth, found)
    union = true_area[:, None] + found_area[None, :] - shared
    iou = shared / union if shared.size else np.zeros(shared.shape)
    paired = iou > 0.5
    tp = int(paired.sum())
    fp, fn = len(found_area) - tp, len(true_area) - tp
    if tp + fp + fn == 0:
        return Panoptic(1.0, 1.0, 1.0, 0, 0, 0)
    dq = tp / (tp + 0.5 * fp + 0.5 * fn)
    sq = float(iou[paired].mean()) if tp else 0.0
    return Panoptic(dq, sq, dq * sq, tp, fp, fn)
