"""Statistics shared by all benchmarks: clustered bootstrap, tests of two runs, calibration, selective accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same items.

    Attributes:
        n: Items both answered.
        difference: Mean of the second run less that of the first.
        low, high: 95 % interval of the difference, resampling whole groups.
        mcnemar: Two-sided exact McNemar p-value; NaN where values are not all 0 or 1.
        permutation: Two-sided p-value of the sign-flip test over groups.
    """

    n: int
    difference: float
    low: float
    high: float
    mcnemar: float
    permutation: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """Two-sided exact McNemar test: does one of two runs win more of the items that only one of them gets right?

    Args:
        first: Hits of one run, 0 or 1, [N].
        second: Hits of the other on the same items.

    Returns:
        p-value of the binomial test over discordant pairs; 1 when there are none.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    wins, losses = int((b & ~a).sum()), int((a & ~b).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def permutation_test(
    first: ArrayLike, second: ArrayLike, groups: Sequence[str] | None = None, *, draws: int = 10_000, seed: int = 0
) -> float:
    """Two-sided paired permutation test of the mean difference; the runs are swapped for whole groups at a time.

    Exact when there are at most 12 groups, else ``draws`` random swaps (the observed one counts too, so p > 0).
    """
    delta = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    if delta.size == 0:
        return float("nan")
    names = np.arange(delta.size) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    sums = np.bincount(names, weights=delta)
    observed = abs(sums.sum()) - 1e-12
    if len(sums) <= 12:
        signs = 1 - 2 * ((np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1)
        return float((np.abs(signs @ sums) >= observed).mean())
    generator = np.random.default_rng(seed)
    reached = 1
    for _ in range(0, draws, 1000):
        signs = generator.choice((-1.0, 1.0), size=(min(1000, draws), len(sums)))
        reached += int((np.abs(signs @ sums) >= observed).sum())
    return reached / (draws + 1)


def compare(first: ArrayLike, second: ArrayLike, groups: Sequence[str]) -> Comparison:
    """Difference of two runs on the same items, with its interval and both tests."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    mean, low, high = cluster_interval(b - a, groups)
    binary = bool(a.size) and set(np.unique(np.concatenate([a, b]))) <= {0.0, 1.0}
    p = mcnemar(a, b) if binary else float("nan")
    return Comparison(len(a), mean, low, high, p, permutation_test(a, b, groups))


def cluster_statistic(
    statistic: Callable[[NDArray[np.int64]], float],
    groups: Sequence[str],
    *,
    draws: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Any statistic of a set of items with a percentile bootstrap interval that resamples whole groups.

    Args:
        statistic: Takes indices of items (with repeats) and returns a number; NaN draws are left out.
        groups: Group of each item, length N.

    Returns:
        (value over all items, lower, upper); NaN for no items.
    """
    if not len(groups):
        return float("nan"), float("nan"), float("nan")
    inverse = np.unique(np.asarray(groups), return_inverse=True)[1]
    members = [np.flatnonzero(inverse == g) for g in range(inverse.max() + 1)]
    generator = np.random.default_rng(seed)
    drawn = [
        statistic(np.concatenate([members[g] for g in generator.integers(0, len(members), len(members))]))
        for _ in range(draws)
    ]
    tail = (1 - level) / 2 * 100
    lower, upper = np.nanpercentile(drawn, [tail, 100 - tail])
    return float(statistic(np.arange(len(groups)))), float(lower), float(upper)
