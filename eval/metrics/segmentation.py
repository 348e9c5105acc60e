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


def object_dice(truth: ArrayLike, found: ArrayLike) -> float:
    """Object-level Dice of the GlaS challenge (Sirinukunwattana et al. 2017), 1 when both are empty.

    Every object of either side is paired with the one of the other side it overlaps most; an object without overlap
    scores 0. Both directions are weighted by area and averaged.
    """
    shared, true_area, found_area = overlaps(truth, found)
    if not len(true_area) or not len(found_area):
        return 1.0 if len(true_area) == len(found_area) else 0.0
    pair = 2 * shared / (true_area[:, None] + found_area[None, :])
    rows, columns = np.arange(len(true_area)), np.arange(len(found_area))
    by_truth = (pair[rows, shared.argmax(axis=1)] * true_area).sum() / true_area.sum()
    by_found = (pair[shared.argmax(axis=0), columns] * found_area).sum() / found_area.sum()
    return float((by_truth + by_found) / 2)


def object_f1(truth: ArrayLike, found: ArrayLike) -> float:
    """F1 of objects as the GlaS challenge counts them: a found one is right if it covers half of a true object."""
    shared, true_area, found_area = overlaps(truth, found)
    if not len(true_area) or not len(found_area):
        return 1.0 if len(true_area) == len(found_area) else 0.0
    best = shared.argmax(axis=0)
    right = shared[best, np.arange(len(found_area))] >= 0.5 * true_area[best]
    tp = len(np.unique(best[right]))
    return 2 * tp / (len(true_area) + len(found_area))


def typed_f1(
    truth: ArrayLike, true_kinds: ArrayLike, found: ArrayLike, found_kinds: ArrayLike, radius: float = 12
) -> dict[int, tuple[int, int, int, int, int, int]]:
    """Counts behind HoVer-Net's F1 of each kind (Graham et al. 2019), for one image: add over images, then `f1_of`.

    Centres nearer than ``radius`` pixels are paired, closest assignment over all.

    Args:
        truth, found: Instance ids [H, W] running 1…N without gaps.
        true_kinds, found_kinds: Kind of each instance, in the order of ids.

    Returns:
        kind → (pairs of that kind on both sides, pairs on neither, wrongly so called, missed, unpaired found,
        unpaired true).
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    a, b = _centres(truth), _centres(found)
    kinds_a, kinds_b = np.asarray(true_kinds), np.asarray(found_kinds)
    pairs: list[tuple[int, int]] = []
    if len(a) and len(b):
        distance = cdist(a, b)
        rows, columns = linear_sum_assignment(np.where(distance <= radius, distance, 1e6))
        pairs = [(r, c) for r, c in zip(rows, columns, strict=True) if distance[r, c] <= radius]
    free_a = np.setdiff1d(np.arange(len(a)), [r for r, _ in pairs])
    free_b = np.setdiff1d(np.arange(len(b)), [c for _, c in pairs])
    out = {}
    for kind in np.union1d(kinds_a, kinds_b):
        said = [(kinds_a[r] == kind, kinds_b[c] == kind) for r, c in pairs]
        out[int(kind)] = (
            sum(t and f for t, f in said),
            sum(not t and not f for t, f in said),
            sum(f and not t for t, f in said),
            sum(t and not f for t, f in said),
            int((kinds_b[free_b] == kind).sum()),
            int((kinds_a[free_a] == kind).sum()),
        )
    return out


def f1_of(counts: tuple[int, ...]) -> float:
    """HoVer-Net's F1 of one kind from the counts of :func:`typed_f1`; NaN without any."""
    tp, tn, fp, fn, fp_d, fn_d = counts
    total = 2 * (tp + tn) + 2 * fp + 2 * fn + fp_d + fn_d
    return 2 * (tp + tn) / total if total else float("nan")


def _centres(ids: ArrayLike) -> NDArray[np.float64]:
    from scipy.ndimage import center_of_mass

    array = np.asarray(ids)
    count = int(array.max(initial=0))
    return np.array(center_of_mass(array > 0, array, range(1, count + 1))).reshape(-1, 2) if count else np.zeros((0, 2))
