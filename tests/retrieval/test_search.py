"""Composing queries, diversity, and what a similarity means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import BadRequest
from retrieval.records import Case
from retrieval.search import Similarity, compose, diversify, nearest
from retrieval.store import VectorStore
from tests.retrieval.conftest import DIMENSION, make_cases


@pytest.fixture
def store(tmp_path: Path, opened: Callable[..., VectorStore]) -> VectorStore:
    store = opened(f"faiss:{tmp_path}")
    store.upsert(*make_cases(120))
    return store


def test_compose() -> None:
    x, y = np.eye(2, dtype=np.float32)
    assert np.allclose(compose(np.stack([x, x]), None), x)
    assert np.allclose(compose(None, 3 * y), y)
    assert np.allclose(compose(np.stack([x, y]), None), [0.5**0.5, 0.5**0.5])
    assert np.allclose(compose(x[None], y, 1.0), x)
    assert np.allclose(compose(x[None], y, 0.0), y)
    shares = [float(compose(x[None], y, weight) @ x) for weight in (0.1, 0.3, 0.5, 0.9)]
    assert shares == sorted(shares)
    assert np.linalg.norm(compose(5 * x[None], y, 0.3)) == pytest.approx(1)
    assert np.allclose(compose(5 * x[None], y, 0.5), compose(x[None], y, 0.5))  # a longer vector has no more say


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None), "nothing to search for"),
        ((np.ones((1, 2)), None, 1.5), r"the weight is 1\.5"),
        ((np.array([[1.0, 0], [-1, 0]]), None), "cancel each other out"),
    ],
)
def test_compose_refuses(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        compose(*arguments)  # type: ignore[arg-type]


def test_diversify() -> None:
    vectors = np.array([[1, 0, 0], [1, 0.01, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    scores = np.array([0.9, 0.89, 0.5, 0.4])
    assert diversify(scores, vectors, 3, 1.0) == [0, 1, 2]
    assert diversify(scores, vectors, 3, 0.5) == [0, 2, 3]
    assert diversify(scores, vectors, 9, 0.5) == [0, 2, 3, 1]


def test_mmr_spreads_over_diagnoses(store: VectorStore) -> None:
    query = make_cases(120)[1][0]
    plain = nearest(store, query, 10)
    varied = nearest(store, query, 10, mmr=0.2)
    assert [hit.case.id for hit in nearest(store, query, 10, mmr=1.0)] == [hit.case.id for hit in plain]
    assert plain[0] == varied[0]
    assert len({hit.case.diagnosis for hit in plain}) == 1
    assert len({hit.case.diagnosis for hit in varied}) > 1
    with pytest.raises(BadRequest, match="the MMR weight is 2"):
        nearest(store, query, 10, mmr=2)


def test_similarity_is_the_share_of_pairs_less_alike(store: VectorStore) -> None:
    fitted = Similarity.fit(store)
    assert fitted is not None
    assert (fitted.diagnoses, fitted.pairs > 1000) == (3, True)
    cases, vectors = make_cases(120)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = np.array(
        [unit[a] @ unit[b] for a in range(120) for b in range(a) if a % 3 == b % 3 and cases[a].group != cases[b].group]
    )
    for score in (0.3, 0.6, 0.8, 0.9):
        assert fitted.as_close(score) == pytest.approx((alike < score).mean(), abs=0.03)
    assert (fitted.as_close(-1), fitted.as_close(1)) == (0, 1)
    assert Similarity.read(store) == fitted
    hits = nearest(store, vectors[0], 5, calibrated=True)
    shares = [hit.as_close for hit in hits]
    assert shares == sorted(shares, reverse=True)
    assert nearest(store, vectors[0], 5)[0].as_close is None


def test_similarity_is_monotone_with_ties() -> None:
    fitted = Similarity([0.2, 0.5, 0.5, 0.5, 0.9], 500, 2, 9)
    values = [fitted.as_close(score) for score in np.linspace(-1, 1, 101)]
    assert values == sorted(values)
    assert fitted.as_close(0.5) == 0.75


def test_too_few_pairs_are_not_calibrated(tmp_path: Path, opened: Callable[..., VectorStore]) -> None:
    store = opened(f"faiss:{tmp_path}")
    store.upsert(*make_cases(6))
    assert Similarity.fit(store) is None
    assert Similarity.read(store) is None
    assert nearest(store, make_cases(1)[1][0], 2, calibrated=True)[0].as_close is None
    same_slide = [Case(f"s{i}", diagnosis="d", group="one slide") for i in range(300)]
    store.upsert(same_slide, np.random.default_rng(0).normal(size=(300, DIMENSION)))
    assert Similarity.fit(store) is None
