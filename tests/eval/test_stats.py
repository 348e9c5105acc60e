"""Intervals and calibration error against values worked out apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.stats import accuracy_at_coverage, calibration_error, cluster_interval, group_folds


def test_interval_brackets_the_mean() -> None:
    values = [1, 0, 1, 1, 0, 1, 1, 0]
    mean, low, high = cluster_interval(values, list("aabbccdd"))
    assert mean == pytest.approx(5 / 8)
    assert 0 <= low <= mean <= high <= 1


def test_clusters_widen_the_interval() -> None:
    values = [1] * 50 + [0] * 50
    _, low, high = cluster_interval(values, [str(i) for i in range(100)])
    _, wide_low, wide_high = cluster_interval(values, [str(i // 25) for i in range(100)])
    assert wide_high - wide_low > 2 * (high - low)


def test_one_group_has_no_width() -> None:
    assert cluster_interval([1, 0, 1], ["a"] * 3)[1:] == pytest.approx((2 / 3, 2 / 3))


def test_nothing_is_nan() -> None:
    assert np.isnan(cluster_interval([], [])[0])
    assert np.isnan(calibration_error([], []))


def test_calibration_error_by_hand() -> None:
    # Two bins: 0.95 twice, one right; 0.55 twice, both right.
    assert calibration_error([0.95, 0.95, 0.55, 0.55], [1, 0, 1, 1]) == pytest.approx(0.5 * 0.45 + 0.5 * 0.45)


@given(st.integers(1, 9))
def test_perfect_calibration_is_zero(tenths: int) -> None:
    p = tenths / 10
    hits = [1] * (tenths * 10) + [0] * (100 - tenths * 10)
    assert calibration_error([p] * 100, hits) == pytest.approx(0, abs=1e-9)


def test_selective_accuracy_takes_the_surest() -> None:
    assert accuracy_at_coverage([0.9, 0.2, 0.8, 0.1], [1, 0, 1, 0]) == 1.0
    assert accuracy_at_coverage([0.9, 0.2, 0.8, 0.1], [1, 0, 1, 0], 1.0) == 0.5


def test_folds_never_cut_a_group() -> None:
    groups = [f"g{i % 13}" for i in range(200)]
    folds = group_folds(groups)
    assert set(folds) == set(range(5))
    assert all(len({f for f, g in zip(folds, groups, strict=True) if g == name}) == 1 for name in set(groups))
