"""From query vectors to a short list of cases: composing, excluding, diversifying, and saying how alike is alike."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadRequest
from retrieval.records import Hit, Where
from retrieval.store import Vectors, VectorStore

_NOTE = "similarity"
_QUANTILES = 201
#: Fewer pairs than this say too little to calibrate with.
MIN_PAIRS = 100


def compose(images: Vectors | None, text: Vectors | None, weight: float = 0.5) -> Vectors:
    """One query vector [D] of length 1 from images and a text.

    Args:
        images: [N, D], averaged; None or empty for a query by text alone.
        text: [D], or None.
        weight: Share of the images, 0 to 1, where both are given.

    Raises:
        BadRequest: Neither given, a weight out of range, or vectors that cancel out.
    """
    if not 0 <= weight <= 1:
        raise BadRequest(f"the weight is {weight:g}; it must be between 0 (text only) and 1 (images only)")
    parts: list[tuple[float, NDArray[np.float64]]] = []
    if images is not None and len(images):
        parts.append((weight, _direction(np.asarray(images, np.float64).mean(axis=0))))
    if text is not None:
        parts.append((1 - weight, _direction(np.asarray(text, np.float64))))
    if not parts:
        raise BadRequest("there is nothing to search for; give an image, a text or both")
    if len(parts) == 1:
        return parts[0][1].astype(np.float32)
    return _direction(np.sum([share * vector for share, vector in parts], axis=0)).astype(np.float32)


def _direction(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length < 1e-9:
        raise BadRequest("the parts of the query cancel each other out; leave one out or change the weight")
    return vector / length


def nearest(
    store: VectorStore,
    vector: Vectors,
    k: int = 5,
    *,
    where: Where | None = None,
    exclude_groups: Collection[str] = (),
    exclude_ids: Collection[str] = (),
    mmr: float | None = None,
    calibrated: bool = False,
) -> list[Hit]:
    """The ``k`` cases to show for one query vector [D], best first.

    Args:
        exclude_groups: Slides or patients left out, usually the query's own.
        mmr: Diversity by maximal marginal relevance: 1 ranks by similarity alone, 0 by difference alone; None is 1.
        calibrated: Fill ``Hit.as_close``; for queries of images only, because texts are never as close as images.

    Raises:
        BadRequest: As ``VectorStore.search``, or ``mmr`` out of range.
    """
    if mmr is not None and not 0 <= mmr <= 1:
        raise BadRequest(f"the MMR weight is {mmr:g}; it must be between 0 (most varied) and 1 (most similar)")
    varied = mmr is not None and mmr < 1
    pool = max(4 * k, 40) if varied else k
    hits = store.search(vector[None], pool, where, exclude_groups, exclude_ids)[0]
    if varied and mmr is not None and hits:
        others = store.vectors([hit.case.id for hit in hits])
        hits = [hits[place] for place in diversify(np.array([hit.score for hit in hits]), others, k, mmr)]
    if calibrated and (similarity := Similarity.read(store)):
        hits = [replace(hit, as_close=similarity.as_close(hit.score)) for hit in hits]
    return hits


def diversify(scores: NDArray[np.floating], vectors: Vectors, k: int, weight: float) -> list[int]:
    """Places of ``k`` candidates, each the best of what is left by ``weight``·score − (1 − ``weight``)·nearest chosen.

    Maximal marginal relevance, Carbonell and Goldstein, SIGIR 1998.

    Args:
        scores: Similarity to the query, [N].
        vectors: Unit vectors of the candidates, [N, D].
    """
    chosen: list[int] = []
    closest = np.zeros(len(scores))
    left = np.ones(len(scores), bool)
    for _ in range(min(k, len(scores))):
        value = weight * scores - (1 - weight) * closest
        best = int(np.flatnonzero(left)[np.argmax(value[left])])
        chosen.append(best)
        left[best] = False
        likeness = vectors @ vectors[best]
        closest = likeness if len(chosen) == 1 else np.maximum(closest, likeness)
    return chosen


@dataclass(frozen=True)
class Similarity:
    """What a cosine means in one store: its rank among pairs of one diagnosis from different groups.

    Attributes:
        quantiles: Cosines of those pairs at equal steps from 0 to 100 %, ascending.
        pairs: How many pairs were drawn; ``diagnoses`` and ``groups``: of how many diagnoses and groups.
    """

    quantiles: list[float]
    pairs: int
    diagnoses: int
    groups: int

    def as_close(self, score: float) -> float:
        """Share of the pairs that are less alike than ``score``, 0 to 1; monotone."""
        steps = np.linspace(0, 1, len(self.quantiles))
        # Ties in the quantiles would make np.interp ambiguous: the highest share of equal cosines counts.
        values, last = np.unique(np.array(self.quantiles)[::-1], return_index=True)
        return float(np.interp(score, values, steps[::-1][last], left=0.0, right=1.0))

    @classmethod
    def fit(cls, store: VectorStore, pairs: int = 5000, seed: int = 0) -> Similarity | None:
        """Draw pairs from the store and keep the result in it; None where it has too few.

        Each pair: a diagnosis, two of its groups, one case of each, all with equal chance; so no large slide dominates.
        """
        cases: dict[str, dict[str, list[str]]] = {}
        for name, diagnosis, group in store.labels():
            if diagnosis and group:
                cases.setdefault(diagnosis, {}).setdefault(group, []).append(name)
        usable = [list(groups.values()) for _, groups in sorted(cases.items()) if len(groups) > 1]
        generator = np.random.default_rng(seed)
        drawn: set[tuple[str, str]] = set()
        for _ in range(pairs if usable else 0):
            groups = usable[generator.integers(len(usable))]
            a, b = generator.choice(len(groups), 2, replace=False)
            one, two = groups[a][generator.integers(len(groups[a]))], groups[b][generator.integers(len(groups[b]))]
            drawn.add((min(one, two), max(one, two)))
        if len(drawn) < MIN_PAIRS:
            store.note(_NOTE, "")
            return None
        ordered = sorted(drawn)
        left, right = (store.vectors([pair[side] for pair in ordered]) for side in (0, 1))
        quantiles = np.quantile((left * right).sum(axis=1), np.linspace(0, 1, _QUANTILES))
        fitted = cls(
            [round(float(value), 6) for value in quantiles], len(ordered), len(usable), sum(len(g) for g in usable)
        )
        store.note(_NOTE, json.dumps(asdict(fitted)))
        return fitted

    @classmethod
    def read(cls, store: VectorStore) -> Similarity | None:
        """What ``fit`` kept, if it could."""
        kept = store.note(_NOTE)
        return cls(**json.loads(kept)) if kept else None
