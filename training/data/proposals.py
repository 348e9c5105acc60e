"""Proposals of the detector for labelled fields, kept on disk: training and evaluation see every field once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant.files import whole
from assistant.grounding.detector import Detector, Proposals
from assistant.grounding.ground import propose
from assistant.regions.instances import GLANDS, NUCLEI
from training.data.objects import Field

KEPT = ("boxes", "scores", "features", "outlines", "context")


def keep_proposals(detector: Detector, fields: list[Field], cache: Path) -> list[Proposals]:
    """Proposals of every field, read from ``cache`` where this detector made them before."""
    settings = hashlib.sha256(repr((NUCLEI, GLANDS, "outlines")).encode()).hexdigest()[:8]
    path = cache / f"proposals-{detector.regions.version}-{settings}.npz"
    found: dict[str, NDArray[np.float32]] = dict(np.load(path)) if path.is_file() else {}
    out, new = [], 0
    for number, field in enumerate(fields):
        key = f"{field.dataset}/{field.image_path.name}/{field.cut}"
        if f"{key}|boxes" not in found:
            new += 1
            made = propose(detector, field.image())
            for name in KEPT:
                found[f"{key}|{name}"] = getattr(made, name)
            if new % 200 == 0:
                _write(path, found)
                print(f"proposals: {number + 1} of {len(fields)} fields", flush=True)
        arrays = {name: found[f"{key}|{name}"] for name in KEPT}
        out.append(Proposals(**arrays, size=field.size))
    if new:
        _write(path, found)
    return out


def _write(path: Path, arrays: dict[str, NDArray[np.float32]]) -> None:
    with whole(path) as partial:
        np.savez(partial, **arrays)


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """IoU of boxes [N, 4] and [M, 4] xyxy: [N, M]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inner = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(c[:, 2:] - c[:, :2]).prod(axis=1) for c in (a, b)]
    shares: NDArray[np.float64] = inner / np.maximum(areas[0][:, None] + areas[1][None] - inner, 1e-6)
    return shares
