"""Scores of classification, retrieval and counting from labels and similarity matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def balanced_accuracy(truth: Sequence[str], chosen: Sequence[str]) -> float:
    """Mean of the recalls of the labels that occur in ``truth``; NaN for no items."""
    right = np.asarray(truth, dtype=object)
    said = np.asarray(chosen, dtype=object)
    if right.size == 0:
        return float("nan")
    return float(np.mean([(said[right == label] == label).mean() for label in sorted(set(truth))]))


def confusion(truth: Sequence[str], chosen: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Labels (sorted) and counts [L, L]: rows are the truth, columns what was chosen."""
    labels = sorted(set(truth) | set(chosen))
    place = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for right, said in zip(truth, chosen, strict=True):
        counts[place[right], place[said]] += 1
    return labels, counts


def recall_at(scores: ArrayLike, relevant: ArrayLike, k: int) -> NDArray[np.float64]:
    """For each query 1 if any relevant item is among its ``k`` highest scores, else 0.

    This is the recall of image–text retrieval with one right answer; with several it is the hit rate.

    Args:
        scores: Similarities [Q, N]. Equal scores rank by position.
        relevant: Booleans [Q, N]; a query without a relevant item scores NaN.
    """
    top = np.argsort(-np.asarray(scores, dtype=np.float64), axis=1, kind="stable")[:, :k]
    wanted = np.asarray(relevant, dtype=bool)
    hit = np.take_along_axis(wanted, top, axis=1).any(axis=1).astype(np.float64)
    hit[~wanted.any(axis=1)] = np.nan
    return hit


def average_precision(scores: ArrayLike, relevant: ArrayLike) -> NDArray[np.float64]:
    """Average precision of each query [Q]: the mean of the precisions at the rank of every relevant item.

    Args:
        scores: Similarities [Q, N]. Equal scores rank by position.
        relevant: Booleans [Q, N]; a query without a relevant item scores NaN.
    """
    order = np.argsort(-np.asarray(scores, dtype=np.float64), axis=1, kind="stable")
    ranked = np.take_along_axis(np.asarray(relevant, dtype=bool), order, axis=1).astype(np.float64)
    precision = ranked.cumsum(axis=1) / np.arange(1, ranked.shape[1] + 1)
    count = ranked.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray((precision * ranked).sum(axis=1) / np.where(count, count, np.nan))


def counting_scores(truth: ArrayLike, counted: ArrayLike) -> dict[str, float]:
    """Mean absolute error, mean absolute error relative to the truth (at least 1), and R²; NaN for no items."""
    right = np.asarray(truth, dtype=np.float64)
    said = np.asarray(counted, dtype=np.float64)
    if right.size == 0:
        return dict.fromkeys(("mae", "relative", "r2"), float("nan"))
    error = np.abs(said - right)
    spread = float(((right - right.mean()) ** 2).sum())
    return {
        "mae": float(error.mean()),
        "relative": float((error / np.maximum(right, 1)).mean()),
        "r2": float(1 - (error**2).sum() / spread) if spread else float("nan"),
    }
