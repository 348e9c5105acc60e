"""Dice, AJI and PQ against brute force from the definitions, and against torchmetrics where it is installed."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from eval.metrics.segmentation import aggregated_jaccard, dice, mean_class_iou, panoptic_quality

SEEDS = st.integers(0, 100_000)


def labelled(seed: int, shape: tuple[int, int] = (12, 14)) -> np.ndarray:
    """A few rectangles with ids that have gaps; later ones cover earlier ones."""
    generator = np.random.default_rng(seed)
    out = np.zeros(shape, dtype=np.uint16)
    for number in range(generator.integers(0, 6)):
        y, x = generator.integers(0, shape[0] - 3), generator.integers(0, shape[1] - 3)
        h, w = generator.integers(1, 6, 2)
        out[y : y + h, x : x + w] = number * 3 + 2
    return out


def moved(truth: np.ndarray, seed: int) -> np.ndarray:
    """Nearly the truth: shifted by a pixel, some instances lost."""
    generator = np.random.default_rng(seed)
    found = np.roll(truth, tuple(generator.integers(-1, 2, 2)), axis=(0, 1))
    for number in np.unique(found)[1:]:
        if generator.random() < 0.2:
            found[found == number] = 0
    return found


def sets(ids: np.ndarray) -> list[set[tuple[int, int]]]:
    """Each instance as the set of its pixels."""
    return [set(zip(*(a.tolist() for a in np.nonzero(ids == i)), strict=True)) for i in np.unique(ids) if i]


def brute_pq(truth: np.ndarray, found: np.ndarray) -> tuple[float, float, float]:
    """Kirillov et al. 2019 over every possible pair."""
    t, f = sets(truth), sets(found)
    pairs = [len(a & b) / len(a | b) for a, b in itertools.product(t, f) if len(a & b) / len(a | b) > 0.5]
    if not t and not f:
        return 1.0, 1.0, 1.0
    dq = len(pairs) / (len(pairs) + 0.5 * (len(t) - len(pairs)) + 0.5 * (len(f) - len(pairs)))
    sq = sum(pairs) / len(pairs) if pairs else 0.0
    return dq, sq, sum(pairs) / (len(pairs) + 0.5 * (len(t) + len(f) - 2 * len(pairs)))


def brute_aji(truth: np.ndarray, found: np.ndarray) -> float:
    """Kumar et al. 2017, algorithm 1."""
    t, f = sets(truth), sets(found)
    if not t and not f:
        return 1.0
    inter, union, used = 0, 0, set()
    for a in t:
        ious = [len(a & b) / len(a | b) for b in f]
        if ious and max(ious) > 0:
            best = ious.index(max(ious))
            inter, union = inter + len(a & f[best]), union + len(a | f[best])
            used.add(best)
        else:
            union += len(a)
    union += sum(len(b) for i, b in enumerate(f) if i not in used)
    return inter / union


@settings(max_examples=150, deadline=None)
@given(SEEDS, SEEDS, st.booleans())
def test_against_brute_force(a: int, b: int, near: bool) -> None:
    truth = labelled(a)
    found = moved(truth, b) if near else labelled(b)
    quality = panoptic_quality(truth, found)
    assert (quality.dq, quality.sq, quality.pq) == pytest.approx(brute_pq(truth, found))
    assert aggregated_jaccard(truth, found) == pytest.approx(brute_aji(truth, found))
    if (truth > 0).any() or (found > 0).any():
        expected = sk.f1_score((truth > 0).ravel(), (found > 0).ravel(), zero_division=0)
        assert dice(truth, found) == pytest.approx(expected)


def test_perfect_and_empty() -> None:
    truth, empty = labelled(5), np.zeros((4, 4), dtype=int)
    assert panoptic_quality(truth, truth).pq == aggregated_jaccard(truth, truth) == dice(truth, truth) == 1
    assert panoptic_quality(empty, empty).pq == aggregated_jaccard(empty, empty) == dice(empty, empty) == 1
    assert panoptic_quality(truth, truth * 0).pq == aggregated_jaccard(truth, truth * 0) == 0
    assert aggregated_jaccard(truth * 0, truth) == 0


def test_exactly_half_overlap_is_no_pair() -> None:
    truth, found = np.zeros((1, 4), dtype=int), np.zeros((1, 4), dtype=int)
    truth[0, :4], found[0, :2] = 1, 1
    assert panoptic_quality(truth, found).tp == 0


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_class_iou(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth, found = generator.integers(0, 4, (2, 30))
    present = sorted(set(truth) | set(found))
    expected = sk.jaccard_score(truth, found, labels=present, average="macro", zero_division=0)
    assert mean_class_iou(truth, found, 4) == pytest.approx(expected)


@pytest.mark.slow
def test_pq_is_torchmetrics() -> None:
    detection: Any = pytest.importorskip("torchmetrics.detection")
    import torch

    truth = np.zeros((24, 30), dtype=np.uint16)
    truth[1:9, 1:9], truth[12:20, 4:14], truth[3:9, 20:28] = 2, 5, 9
    found = np.roll(truth, 1, axis=0)
    found[found == 9] = 0
    found[15:22, 20:28] = 4

    def coded(ids: np.ndarray) -> Any:  # (category, instance): background is "stuff" 0
        return torch.from_numpy(np.stack([(ids > 0).astype(np.int64), ids.astype(np.int64)], axis=-1))[None]

    metric = detection.PanopticQuality(things={1}, stuffs={0}, return_per_class=True)
    value = metric(coded(found), coded(truth))[0]
    assert 0 < panoptic_quality(truth, found).pq == pytest.approx(float(value[0]), abs=1e-6)
