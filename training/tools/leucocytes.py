"""Type of a white cell: a logistic head on PathCLIP-small's features of the cell, research-only.

    OMP_NUM_THREADS=1 python -m training.tools.leucocytes [--out FILE]

The strength of the penalty is chosen by cross-validation on ``train``; ``val`` is only measured. Types with fewer than
ten cells in ``train`` (basophils) are left out. Prints the numbers that ``eval.blood`` repeats from the saved head.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant.model.cache import sha256
from assistant.tools.blood import LEUCOCYTES, cell_crop
from assistant.tools.features import PATHCLIP, pooled_features
from assistant.tools.heads import Head
from training.data.objects import load_regions
from training.data.records import DataError

LEAST = 10
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


def white_cells(split: str, root: Path | None = None) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Features [N, F] of the largest labelled cell of every field of ``wbc_seg``, and the labels [N]."""
    crops, labels = [], []
    for field in load_regions(split, root, ("wbc_seg",)):
        cells = [one for one in field.objects if "type" in one.attributes]
        if cells:
            cell = max(cells, key=lambda one: one.area)
            crops.append(cell_crop(field.image(), cell.box))
            labels.append(cell.attributes["type"])
    return pooled_features(crops), np.array(labels)


def fit(features: NDArray[np.float32], labels: NDArray[np.str_], seed: int = 0) -> tuple[Head, float]:
    """The head and its cross-validated balanced accuracy.

    Raises:
        DataError: Fewer than two types with at least ten cells.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    names, counts = np.unique(labels, return_counts=True)
    kept = np.isin(labels, names[counts >= LEAST])
    if len(names[counts >= LEAST]) < 2:
        raise DataError(f"{dict(zip(names.tolist(), counts.tolist(), strict=True))}: two types of {LEAST} are needed")
    search = GridSearchCV(
        LogisticRegression(class_weight="balanced", max_iter=500),
        {"C": PENALTIES},
        scoring="balanced_accuracy",
        cv=StratifiedKFold(5, shuffle=True, random_state=seed),
    )
    search.fit(features[kept], labels[kept])
    best = search.best_estimator_
    encoder = sha256(PATHCLIP / "model.safetensors")[:12]
    weight, bias = best.coef_.astype(np.float32), best.intercept_.astype(np.float32)
    return Head(tuple(map(str, best.classes_)), weight, bias, 0.0, encoder), float(search.best_score_)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=LEUCOCYTES)
    out = parser.parse_args().out
    head, score = fit(*white_cells("train"))
    head.save(out)
    print(f"{out.name}: {', '.join(head.classes)}; balanced accuracy {score:.3f} by cross-validation on train")


if __name__ == "__main__":
    main()
