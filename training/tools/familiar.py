"""Centres of the training fields, by which an image is told to be a microscope field.

    python -m training.tools.familiar --out assistant/weights/familiar

All sets, those of unclear licence too, so the file is for research only; about two minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from assistant.files import whole
from assistant.images.intake import load_image
from assistant.model.familiar import FILE, Familiar, imagenet_tower
from training.data.records import OPEN_SETS, RESTRICTED_SETS, load_records

CENTRES, SEED = 256, 0


def features(split: str, tower: Familiar) -> tuple[NDArray[np.float32], list[str], list[str]]:
    """Unit features [N, F] of every record of a split, their sets and their groups (slides, patients)."""
    records = load_records(OPEN_SETS + RESTRICTED_SETS, split)
    rows = [
        tower.features([load_image(r.image) for r in records[start : start + 32]])
        for start in tqdm(range(0, len(records), 32), desc=f"features of {split}", unit="batch")
    ]
    return np.concatenate(rows), [r.dataset for r in records], [r.group for r in records]


def fit(vectors: NDArray[np.float32], count: int = CENTRES, seed: int = SEED) -> NDArray[np.float32]:
    """Centres [K, F] of length 1 by k-means on unit vectors."""
    from sklearn.cluster import KMeans

    found = KMeans(count, n_init=1, random_state=seed).fit(vectors).cluster_centers_
    unit: NDArray[np.float32] = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
    return unit


def main() -> None:
    """Command line of the module."""
    from safetensors.numpy import save_file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FILE.parent)
    options = parser.parse_args()
    empty = Familiar(imagenet_tower(), np.zeros((1, 1280), np.float32))
    centres = fit(features("train", empty)[0])
    with whole(options.out / FILE.name) as partial:
        save_file({"centres": centres.astype(np.float16)}, partial)


if __name__ == "__main__":
    main()
