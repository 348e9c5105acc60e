"""Classification, retrieval and counting against scikit-learn."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from eval.metrics.ranking import average_precision, balanced_accuracy, confusion, counting_scores, recall_at

LABELS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.data(), LABELS)
def test_balanced_accuracy_and_confusion(data: Any, truth: list[str]) -> None:
    said = data.draw(st.lists(st.sampled_from("abcd"), min_size=len(truth), max_size=len(truth)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels that are only predicted
        assert balanced_accuracy(truth, said) == pytest.approx(sk.balanced_accuracy_score(truth, said))
        labels, counts = confusion(truth, said)
        assert np.array_equal(counts, sk.confusion_matrix(truth, said, labels=labels))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 12))
def test_average_precision(seed: int, queries: int, items: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.permuted(np.tile(np.arange(items), (queries, 1)), axis=1) / items  # no ties: their order is ours
    relevant = generator.random((queries, items)) < 0.4
    relevant[:, 0] = True
    expected = [sk.average_precision_score(r, s) for r, s in zip(relevant, scores, strict=True)]
    assert average_precision(scores, relevant) == pytest.approx(expected)
    for k in (1, 3):
        top = [r[np.argsort(-s)[:k]].any() for r, s in zip(relevant, scores, strict=True)]
        assert np.array_equal(recall_at(scores, relevant, k), np.array(top, dtype=float))


def test_recall_is_top_k_accuracy_with_one_right_item() -> None:
    generator = np.random.default_rng(3)
    scores, right = generator.random((50, 9)), generator.integers(0, 9, 50)
    relevant = np.arange(9)[None, :] == right[:, None]
    assert recall_at(scores, relevant, 3).mean() == pytest.approx(
        sk.top_k_accuracy_score(right, scores, k=3, labels=range(9))
    )


def test_a_query_without_a_relevant_item_counts_nowhere() -> None:
    assert np.isnan(recall_at([[1.0, 2.0]], [[False, False]], 1)[0])
    assert np.isnan(average_precision([[1.0, 2.0]], [[False, False]])[0])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=2, max_size=20))
def test_counting(pairs: list[tuple[int, int]]) -> None:
    truth, said = zip(*pairs, strict=True)
    scores = counting_scores(truth, said)
    assert scores["mae"] == pytest.approx(sk.mean_absolute_error(truth, said))
    if len(set(truth)) > 1:
        assert scores["r2"] == pytest.approx(sk.r2_score(truth, said))
    else:
        assert np.isnan(scores["r2"])
