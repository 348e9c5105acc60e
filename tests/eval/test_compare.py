"""Tests of two runs against values worked out apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sp

from eval.metrics.ranking import balanced_accuracy
from eval.stats import cluster_interval, cluster_statistic, compare, mcnemar, permutation_test

BITS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(BITS)
def test_mcnemar_is_the_binomial_over_discordant_pairs(pairs: list[tuple[bool, bool]]) -> None:
    first, second = zip(*pairs, strict=True)
    wins, losses = sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs)
    tail = min(1.0, 2 * sp.binom.cdf(min(wins, losses), wins + losses, 0.5)) if wins + losses else 1.0
    assert mcnemar(first, second) == pytest.approx(tail)
    assert mcnemar(first, second) == pytest.approx(mcnemar(second, first))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_small_permutation_test_is_exact(deltas: list[int]) -> None:
    reached = [abs(sum(s * d for s, d in zip(signs, deltas, strict=True))) >= abs(sum(deltas))
               for signs in itertools.product((1, -1), repeat=len(deltas))]  # fmt: skip
    assert permutation_test([0] * len(deltas), deltas) == pytest.approx(np.mean(reached))


def test_large_permutation_test_is_scipys() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.random((2, 80))
    b += 0.08
    found = sp.permutation_test(
        (a, b), lambda x, y: np.mean(y - x), permutation_type="samples", n_resamples=9999, rng=2
    )
    assert permutation_test(a, b) == pytest.approx(found.pvalue, abs=0.02)


def test_whole_groups_are_swapped() -> None:
    second = [1.0] * 40
    assert permutation_test([0.0] * 40, second, ["a"] * 20 + ["b"] * 20) == 0.5
    assert permutation_test([0.0] * 40, second) < 0.001


def test_comparison() -> None:
    found = compare([1, 0, 0, 0, 1, 0], [1, 1, 1, 1, 1, 0], list("abcdef"))
    assert (found.n, found.difference) == (6, 0.5)
    assert found.mcnemar == pytest.approx(0.25)
    assert 0 <= found.low <= 0.5 <= found.high
    assert np.isnan(compare([0.2, 0.4], [0.3, 0.9], ["a", "b"]).mcnemar)


def test_statistic_of_a_mean_is_the_interval_of_the_mean() -> None:
    generator = np.random.default_rng(0)
    values, groups = generator.random(60), [f"g{i % 12}" for i in range(60)]
    mean, low, high = cluster_statistic(lambda i: float(values[i].mean()), groups, draws=2000)
    assert (mean, low, high) == pytest.approx(cluster_interval(values, groups), abs=0.02)


def test_statistic_that_is_no_mean() -> None:
    truth, said = np.array(list("aaaabbc")), np.array(list("aaabbbb"))
    value, low, high = cluster_statistic(lambda i: balanced_accuracy(truth[i], said[i]), list("1234567"), draws=50)
    assert value == pytest.approx(np.mean([3 / 4, 1, 0]))
    assert low <= value <= high
