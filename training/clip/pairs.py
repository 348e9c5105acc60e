"""Which images meet in a batch, and which texts must not count as wrong for them.

Rules: two fields of one slide are never each other's negatives, nor is a text whose every stated fact holds for the
image. Half of a batch are hard partners: another slide of the same organ or set with another label.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import torch

from training.data.captions import Caption, draw_caption, subject_of
from training.data.records import DataError, Record, balanced_weights


class PairSampler:
    """Deterministic batches: batch number ``step`` depends on nothing but the records, the seed and ``step``.

    Args:
        records: Training records; those without any fact are left out (see ``records`` afterwards).
        hard: Share of a batch drawn as hard partners of the rest.
        synonym_share: See :func:`training.data.captions.draw_caption`.
        factor: Extra sampling weight of a set.
    """

    def __init__(
        self,
        records: Sequence[Record],
        batch_size: int,
        seed: int,
        *,
        hard: float = 0.5,
        synonym_share: float = 0.3,
        factor: dict[str, float] | None = None,
    ) -> None:
        self.records = [r for r in records if draw_caption(r, random.Random(0))]  # noqa: S311 - not secret
        if len(self.records) < 2:
            raise DataError(f"{len(self.records)} records with facts to caption; contrastive training needs at least 2")
        self.batch_size, self.seed, self.hard, self.synonym_share = batch_size, seed, hard, synonym_share
        self.weights = balanced_weights(self.records, factor or {})
        self._kin: dict[str, list[int]] = defaultdict(list)
        for i, record in enumerate(self.records):
            self._kin[self._family(record)].append(i)

    @staticmethod
    def _family(record: Record) -> str:
        return record.facts.get("organ") or record.dataset

    def _partner(self, index: int, rng: random.Random) -> int | None:
        """A record of the same family, another slide and another label; None when there is none."""
        own = self.records[index]
        kind = subject_of(own)
        for _ in range(8):
            other = rng.choice(self._kin[self._family(own)])
            candidate = self.records[other]
            if candidate.group != own.group and (kind is None or candidate.facts.get(kind) != own.facts.get(kind)):
                return other
        return None

    def draw(self, step: int) -> tuple[list[int], list[Caption]]:
        """Indices into ``records`` and one caption each, both of length ``batch_size``."""
        rng = random.Random(f"{self.seed}:{step}")  # noqa: S311 - reproducible, not secret
        rows: list[int] = []
        while len(rows) < self.batch_size:
            index = rng.choices(range(len(self.records)), self.weights)[0]
            rows.append(index)
            if len(rows) < self.batch_size and rng.random() < self.hard / (1 - self.hard + 1e-9):
                partner = self._partner(index, rng)
                rows += [] if partner is None else [partner]
        captions = [draw_caption(self.records[i], rng, self.synonym_share) for i in rows]
        return rows, [c for c in captions if c is not None]


def not_negative(records: Sequence[Record], captions: Sequence[Caption]) -> torch.Tensor:
    """Which image–text pairs must not count as negatives, bool [images, texts]; the diagonal is False."""
    mask = [
        [
            i != j and (records[i].group == records[j].group or caption.fits(records[i]))
            for j, caption in enumerate(captions)
        ]
        for i in range(len(records))
    ]
    return torch.tensor(mask)
