"""Frozen tower features, computed once for several augmented views of each image and kept on disk.

Training the connector and the adapter never changes the tower, so its forward pass need not be repeated: view 0 is the
plain image as the processor would see it, views 1… are augmented. The cache key covers tower weights, images, views and
seed; a changed tower gives a new folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from assistant.files import write_text
from training.augment import augment
from training.data.images import load_square

BATCH = 64


class FeatureStore:
    """Read access to cached tokens.

    Attributes:
        views: Number of views an image.
        tokens: Memory-mapped float16 array [N, V, T, D].
    """

    def __init__(self, folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.views: int = meta["views"]
        self.rows: dict[str, int] = {path: i for i, path in enumerate(meta["paths"])}
        self.tokens: NDArray[np.float16] = np.load(folder / "tokens.npy", mmap_mode="r")

    def get(self, path: Path, view: int) -> torch.Tensor:
        """Tokens [T, D] float32 of one image in one view (modulo the number of views)."""
        return torch.from_numpy(np.array(self.tokens[self.rows[str(path)], view % self.views])).float()


class Stores:
    """Several caches of one tower as one."""

    def __init__(self, parts: Sequence[FeatureStore]) -> None:
        self.parts = parts
        self.views = min(part.views for part in parts)

    def get(self, path: Path, view: int) -> torch.Tensor:
        """As :meth:`FeatureStore.get`."""
        part = next(p for p in self.parts if str(path) in p.rows)
        return part.get(path, view)


Features = FeatureStore | Stores


@torch.no_grad()
def build_features(
    tower: nn.Module,
    paths: Sequence[Path],
    out: Path,
    *,
    size: int,
    views: int,
    dtype: torch.dtype,
    seed: int = 0,
    centred: frozenset[Path] = frozenset(),
) -> FeatureStore:
    """Compute or reuse the cache below ``out``.

    Args:
        tower: Module that maps pixels [B, 3, size, size], normalised to mean 0.5 and standard deviation 0.5, to an
            output with ``last_hidden_state`` [B, T, D].
        dtype: Autocast type; ``torch.float32`` switches autocast off.
        centred: Images whose label is about their centre.
    """
    unique = sorted({str(p) for p in paths})
    folder = out / f"features-{key_of(tower, [unique, size, views, seed])}"
    if (folder / "meta.json").is_file():
        return FeatureStore(folder)
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tower.eval()
    array = None
    for start in tqdm(range(0, len(unique), BATCH), desc="tower features", unit="batch"):
        batch = [Path(p) for p in unique[start : start + BATCH]]
        plain = load_square(batch, size).float() / 255
        roomy = load_square(batch, size + 64).float() / 255 if views > 1 else plain
        fixed = torch.tensor([p in centred for p in batch])
        for view in range(views):
            pixels = plain if view == 0 else augment(roomy, size, generator, min_scale=0.7, centred=fixed)
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                tokens = tower((pixels - 0.5) / 0.5).last_hidden_state
            if array is None:
                shape = (len(unique), views, *tokens.shape[1:])
                array = np.lib.format.open_memmap(folder / "tokens.npy", "w+", np.float16, shape)
            array[start : start + len(batch), view] = tokens.float().numpy().astype(np.float16)
    if array is not None:
        array.flush()
    write_text(folder / "meta.json", json.dumps({"views": views, "paths": unique}))
    return FeatureStore(folder)


def key_of(tower: nn.Module, seen: list[Any]) -> str:
    """Names what a network makes of what it saw: hexadecimal, from its weights and all that decides about pixels."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    digest.update(json.dumps(seen).encode())
    return digest.hexdigest()[:16]
