"""Fit the logistic heads of ``classify_tissue`` and ``classify_cervical_cell``.

    python -m training.tools.heads --recipe training/tools/recipes/heads.yaml --out assistant/weights/tools

Strength of regularisation by cross-validation over groups of ``train``; the threshold of "other" on ``val``. One head
tells sites apart ("other" is one of them), one more for each site tells its classes apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant.tools.features import PATHCLIP
from assistant.tools.heads import Head
from training.data.head_labels import OTHER, head_labels, labelled_features
from training.run import read_recipe


@dataclass(frozen=True)
class HeadsRecipe:
    """Settings.

    Attributes:
        strengths: Inverse strengths of L2 regularisation to choose from.
        folds: Of the cross-validation.
        keep: Share of known fields of ``val`` that may be called "other" at the chosen threshold.
        seed: Of the folds.
    """

    strengths: tuple[float, ...] = (3e-4, 3e-3, 3e-2)
    folds: int = 3
    keep: float = 0.05
    seed: int = 0


def fit_head(
    features: NDArray[np.float32], labels: Sequence[str], groups: Sequence[str], recipe: HeadsRecipe, encoder: str
) -> tuple[Head, float]:
    """A head and the strength chosen for it, by balanced accuracy over folds that cut no group."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold

    y = np.asarray(labels)

    def model(strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, class_weight="balanced", max_iter=200, tol=1e-3)

    folds = StratifiedGroupKFold(recipe.folds, shuffle=True, random_state=recipe.seed)
    scores = {}
    for strength in recipe.strengths:
        guess = np.empty_like(y)
        for train, held in folds.split(features, y, groups):
            guess[held] = model(strength).fit(features[train], y[train]).predict(features[held])
        scores[strength] = balanced_accuracy_score(y, guess)
    best = max(scores, key=lambda strength: scores[strength])
    fitted = model(best).fit(features, y)
    return head_of(fitted, encoder), best


def head_of(fitted: Any, encoder: str) -> Head:
    """A fitted ``LogisticRegression`` as a head without a threshold."""
    weight, bias = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # scikit-learn keeps one row for two classes
        weight, bias = np.stack([-weight[0], weight[0]]) / 2, np.array([-bias[0], bias[0]]) / 2
    classes = tuple(str(name) for name in fitted.classes_)
    return Head(classes, weight.astype(np.float32), bias.astype(np.float32), 0.0, encoder)


def other_threshold(head: Head, features: NDArray[np.float32], labels: Sequence[str], keep: float) -> float:
    """Probability of the best class under which at most ``keep`` of known fields fall."""
    known = np.array([label != OTHER for label in labels])
    return float(np.quantile(head.probabilities(features[known]).max(axis=1), keep))


def fit_all(recipe: HeadsRecipe, out: Path, cache: Path = Path("runs/encoder"), folder: Path = PATHCLIP) -> list[str]:
    """Fit and write every head; returns one line a head."""
    from dataclasses import replace

    from assistant.model.cache import sha256

    records, features = labelled_features(cache, folder)
    encoder = sha256(folder / "model.safetensors")[:12]
    lines = []
    for name, labels in head_labels(records).items():
        rows = {s: [i for i, r in enumerate(records) if r.split == s and labels[i]] for s in ("train", "val")}
        train, val = rows["train"], rows["val"]
        head, strength = fit_head(
            features[train], [str(labels[i]) for i in train], [records[i].group for i in train], recipe, encoder
        )
        if name.startswith("site"):
            threshold = other_threshold(head, features[val], [str(labels[i]) for i in val], recipe.keep)
            head = replace(head, threshold=threshold)
        head.save(out / f"{name}.safetensors")
        lines.append(f"{name}: {len(head.classes)} classes, {len(train)} train images, C {strength:g}")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Command line, see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("training/tools/recipes/heads.yaml"))
    parser.add_argument("--out", type=Path, default=Path("assistant/weights/tools"))
    parser.add_argument("--cache", type=Path, default=Path("runs/encoder"))
    args = parser.parse_args()
    fit_all(read_recipe(args.recipe, HeadsRecipe), args.out, args.cache)


if __name__ == "__main__":
    main()
