"""Statistics shared by all benchmarks: clustered bootstrap, calibration error, selective accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def cluster_interval(
    values: ArrayLike, groups: Sequence[str], *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean with a percentile bootstrap interval that resamples whole groups (slides, patients).

    Args:
        values: One number an item, [N]; for accuracy 0 or 1.
        groups: Group of each item, length N.

    Returns:
        (mean, lower, upper); NaN for no items.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size == 0:
        return float("nan"), float("nan"), float("nan")
    _, inverse = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(inverse, weights=numbers)
    counts = np.bincount(inverse).astype(np.float64)
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, len(sums), (draws, len(sums)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    tail = (1 - level) / 2 * 100
    lower, upper = np.percentile(means, [tail, 100 - tail])
    return float(numbers.mean()), float(lower), float(upper)


def calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error over equal-width bins (Naeini et al. 2015): Σ |accuracy − confidence| · share."""
    p = np.asarray(confidence, dtype=np.float64)
    hit = np.asarray(correct, dtype=np.float64)
    if p.size == 0:
        return float("nan")
    index = np.minimum((p * bins).astype(int), bins - 1)
    error = 0.0
    for b in range(bins):
        inside = index == b
        if inside.any():
            error += abs(hit[inside].mean() - p[inside].mean()) * inside.mean()
    return float(error)


def accuracy_at_coverage(confidence: ArrayLike, correct: ArrayLike, coverage: float = 0.5) -> float:
    """Accuracy over the most confident share ``coverage`` of the items (at least one)."""
    p = np.asarray(confidence, dtype=np.float64)
    hit = np.asarray(correct, dtype=np.float64)
    keep = max(1, int(len(p) * coverage))
    return float(hit[np.argsort(-p, kind="stable")[:keep]].mean())


def group_folds(groups: Sequence[str], folds: int = 5, seed: int = 0) -> NDArray[np.int64]:
    """Fold number of each item so that no group is cut, [N]."""
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    fold = {name: int(order[i] % folds) for i, name in enumerate(names)}
    return np.array([fold[g] for g in groups])
