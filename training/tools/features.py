"""Pooled features of the labelled sets, cached so that heads are refitted in seconds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant.images.intake import load_image
from assistant.tools.features import PATHCLIP, pooled_features
from training.data.records import OPEN_SETS, RESTRICTED_SETS, Record, load_records

_CHUNK = 64


def labelled_features(cache: Path, folder: Path = PATHCLIP) -> tuple[list[Record], NDArray[np.float32]]:
    """All labelled records, ``train`` then ``val``, and their features [N, F].

    Args:
        cache: Folder with ``HASH.npz`` (array ``pooled``), HASH that of the encoder; ``python -m eval.encoder`` keeps
            the same records in the same order there. What is missing is computed, at about 25 images a second.
        folder: The encoder.
    """
    records = [r for split in ("train", "val") for r in load_records(OPEN_SETS + RESTRICTED_SETS, split)]
    key = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]
    for path in (cache / f"{key}.npz", cache / f"{key}-tools.npz"):
        if path.is_file():
            pooled: NDArray[np.float32] = np.load(path)["pooled"]
            if len(pooled) == len(records):
                return records, pooled
    chunks = (records[start : start + _CHUNK] for start in range(0, len(records), _CHUNK))
    pooled = np.concatenate([pooled_features([load_image(r.image) for r in chunk], folder) for chunk in chunks])
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f"{key}-tools.tmp.npz"
    np.savez(partial, pooled=pooled)
    partial.replace(cache / f"{key}-tools.npz")
    return records, pooled
