"""Naive baselines for the four-choice questions: the commonest label, and a linear probe on the ImageNet tower."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import torch
from numpy.typing import NDArray

from assistant.model.familiar import imagenet_tower
from training.data.images import load_square
from training.data.questions import ChoiceQuestion
from training.data.records import Record

#: Inverse regularisation of the logistic regression; of 0.001, 0.01, 0.1 and 1 the best for the probe on ``val``.
PROBE_C = 0.01


def majority_choices(items: list[ChoiceQuestion], train: list[Record]) -> list[int]:
    """For each item the option that is the commonest label of its kind in its set's training part."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for record in train:
        for kind, value in record.facts.items():
            counts[record.dataset, kind][value] += 1
    seen = [[counts[q.record.dataset, q.kind][option] for option in q.options] for q in items]
    return [numbers.index(max(numbers)) for numbers in seen]


@torch.no_grad()
def imagenet_features(records: list[Record], size: int = 224) -> NDArray[np.float32]:
    """Pooled features [N, 1280] of the untouched ImageNet EfficientNet-Lite0."""
    tower, out = imagenet_tower(), []
    for start in range(0, len(records), 64):
        pixels = load_square([r.image for r in records[start : start + 64]], size).float() / 255
        out.append(tower((pixels - 0.5) / 0.5))
    return np.asarray(torch.cat(out).numpy(), dtype=np.float32)


def probe_choices(items: list[ChoiceQuestion], train: list[Record]) -> list[int]:
    """For each item the option with the highest probability under a logistic regression for its set and kind.

    A label without training images has probability zero, so the probe cannot name what it never saw.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    groups = defaultdict(list)
    for index, q in enumerate(items):
        groups[q.record.dataset, q.kind].append(index)
    sets = {dataset for dataset, _ in groups}
    pool = {r.image: r for r in [*train, *(q.record for q in items)] if r.dataset in sets}
    features = dict(zip(pool, imagenet_features(list(pool.values())), strict=True))
    choices = [0] * len(items)
    for (dataset, kind), indices in groups.items():
        # Overviews alone are too few: their organ probe also learns from the atlas fields.
        sources = {dataset, "atlas"} if dataset == "atlas_overviews" else {dataset}
        known = [r for r in train if r.dataset in sources and kind in r.facts]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=PROBE_C, max_iter=2000))
        model.fit(np.stack([features[r.image] for r in known]), [r.facts[kind] for r in known])
        chances = model.predict_proba(np.stack([features[items[i].record.image] for i in indices]))
        for i, row in zip(indices, chances, strict=True):
            by_label = dict(zip(model.classes_, row, strict=True))
            offered = [by_label.get(option, 0.0) for option in items[i].options]
            choices[i] = offered.index(max(offered))
    return choices
