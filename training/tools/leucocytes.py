"""Type of a white cell, and whether an image is the close-up of one: logistic heads on PathCLIP-small, research-only.

    OMP_NUM_THREADS=1 python -m training.tools.leucocytes [--out FOLDER]

The strength of the penalty is chosen by cross-validation on ``train``; ``val`` is only measured. Types with fewer than
ten cells in ``train`` (basophils) are left out. Prints the numbers that ``eval.blood`` repeats from the saved heads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant.model.cache import sha256
from assistant.regions.model import load_regions as load_network
from assistant.tools.blood import CLOSE_UP, LEUCOCYTES
from assistant.tools.features import PATHCLIP, pooled_features
from assistant.tools.heads import Head
from training.data.records import DataError
from training.data.white_cells import close_ups, white_cells
from training.tools.heads import head_of

LEAST = 10
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


def fit(features: NDArray[np.float32], labels: NDArray[np.str_], copies: int = 1, seed: int = 0) -> tuple[Head, float]:
    """The head and its cross-validated balanced accuracy.

    Args:
        copies: How often all images come one after another; those of one image are never in two parts.

    Raises:
        DataError: Fewer than two types with at least ten cells.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold

    names, counts = np.unique(labels, return_counts=True)
    kept = np.isin(labels, names[counts >= LEAST])
    if len(names[counts >= LEAST]) < 2:
        raise DataError(f"{dict(zip(names.tolist(), counts.tolist(), strict=True))}: two types of {LEAST} are needed")
    search = GridSearchCV(
        LogisticRegression(class_weight="balanced", max_iter=500),
        {"C": PENALTIES},
        scoring="balanced_accuracy",
        cv=StratifiedGroupKFold(5, shuffle=True, random_state=seed),
    )
    search.fit(features[kept], labels[kept], groups=np.tile(np.arange(len(labels) // copies), copies)[kept])
    encoder = sha256(PATHCLIP / "model.safetensors")[:12]
    return head_of(search.best_estimator_, encoder), float(search.best_score_)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=LEUCOCYTES.parent)
    out = parser.parse_args().out
    images, labels, _ = zip(*close_ups("train"), strict=True)
    cells = [white_cells("train", network=network) for network in (None, load_network())]
    features, types = (np.concatenate(parts) for parts in zip(*cells, strict=True))
    for name, found in (
        (LEUCOCYTES.name, fit(features, types, copies=2)),
        (CLOSE_UP.name, fit(pooled_features(images), np.array(labels))),
    ):
        head, score = found
        head.save(out / name)
        print(f"{name}: {', '.join(head.classes)}; balanced accuracy {score:.3f} by cross-validation on train")


if __name__ == "__main__":
    main()
