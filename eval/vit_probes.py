"""Vectors of a tower, linear probes on them compared in pairs, and what a tower costs; see ``eval.vit_tower``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from assistant.model.engine import fast_bfloat16
from eval.encoder_metrics import TASKS, Vectors, _fit, members
from eval.metrics.ranking import balanced_accuracy
from eval.stats import cluster_statistic
from training.data.images import load_square
from training.data.records import Record

DRAWS = 1000
_BATCH = 32
Features = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def vectors_of(features: Features, records: Sequence[Record], size: int = 224) -> Vectors:
    """``features`` of each record's image, [N, F]; in bfloat16 where the processor is made for it."""
    found = []
    for start in tqdm(range(0, len(records), _BATCH), desc="features", unit="batch", leave=False):
        pixels = load_square([r.image for r in records[start : start + _BATCH]], size).float() / 255
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
            found.append(features((pixels - 0.5) / 0.5).float())
    return np.asarray(torch.cat(found).numpy(), dtype=np.float32)


def class_token(vit: Any, pixels: torch.Tensor) -> torch.Tensor:
    """``pooler_output`` of a ``CLIPVisionModel``, [B, W]."""
    found: torch.Tensor = vit(pixel_values=pixels).pooler_output
    return found


def class_and_patches(vit: Any, pixels: torch.Tensor) -> torch.Tensor:
    """``pooler_output`` and the mean of the patch tokens, [B, 2 W]."""
    out = vit(pixel_values=pixels)
    return torch.cat([out.pooler_output, out.last_hidden_state[:, 1:].mean(1)], dim=-1)


def fit_probes(vectors: Vectors, records: Sequence[Record]) -> dict[str, Any]:
    """One probe a task, fitted on ``train`` as ``eval.encoder`` does."""
    probes = {}
    for task in TASKS:
        train = members(records, task, "train")
        probes[task] = _fit(vectors[train], [records[i].facts[task] for i in train])
    return probes


def guesses(probes: dict[str, Any], vectors: Vectors, records: Sequence[Record]) -> dict[str, NDArray[Any]]:
    """What each probe says about the ``val`` records of its task."""
    return {task: probe.predict(vectors[members(records, task, "val")]) for task, probe in probes.items()}


def scores(said: dict[str, NDArray[Any]], records: Sequence[Record]) -> dict[str, Any]:
    """Balanced accuracy with its interval per task, and the mean over tasks under ``"mean"``."""
    out: dict[str, Any] = {}
    for task, guess in said.items():
        val = members(records, task, "val")
        truth = np.array([records[i].facts[task] for i in val])
        found = cluster_statistic(
            lambda k, t=truth, g=guess: balanced_accuracy(t[k], g[k]), [records[i].group for i in val]
        )
        out[task] = {"n": len(val), "balanced_accuracy": [*found]}
    drawn = _means(said, records)
    out["mean"] = [_mean(said, records), *np.percentile(drawn, [2.5, 97.5])]
    return out


def difference(ours: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]], records: Sequence[Record]) -> list[float]:
    """Mean balanced accuracy of ``ours`` less that of ``other``, paired, with its interval."""
    drawn = _means(ours, records) - _means(other, records)
    return [_mean(ours, records) - _mean(other, records), *np.percentile(drawn, [2.5, 97.5])]


def _mean(said: dict[str, NDArray[Any]], records: Sequence[Record]) -> float:
    found = []
    for task, guess in said.items():
        truth = [records[i].facts[task] for i in members(records, task, "val")]
        found.append(balanced_accuracy(truth, guess))
    return float(np.mean(found))


def _means(said: dict[str, NDArray[Any]], records: Sequence[Record], draws: int = DRAWS) -> NDArray[np.float64]:
    """Mean over tasks in each bootstrap draw of whole groups; the same draws whoever answers, [draws]."""
    total = np.zeros(draws)
    for task, guess in said.items():
        val = members(records, task, "val")
        truth = np.array([records[i].facts[task] for i in val])
        inverse = np.unique([records[i].group for i in val], return_inverse=True)[1]
        counts = np.random.default_rng(0).multinomial(
            inverse.max() + 1, np.full(inverse.max() + 1, 1 / (inverse.max() + 1)), size=draws
        )[:, inverse]  # how often each item is drawn, [draws, N]
        recalls = []
        for label in np.unique(truth):
            own = truth == label
            weight = counts[:, own].sum(1)
            with np.errstate(invalid="ignore"):
                recalls.append((counts[:, own] * (guess[own] == label)).sum(1) / weight)
        total += np.nanmean(recalls, axis=0)
    return total / len(said)


def gflops(call: Features, network: Any, size: int = 224) -> float:
    """10⁹ floating-point operations (two a multiply-add) of one image: products and convolutions, as torch counts."""
    config, was = network.config, network.config._attn_implementation
    config._attn_implementation = "eager"  # torch does not count fused attention on a processor
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call(torch.zeros(1, 3, size, size))
    finally:
        config._attn_implementation = was
    return float(counter.get_total_flops()) / 1e9


def speeds(calls: dict[str, Features], size: int = 224, batch: int = 16, rounds: int = 3) -> dict[str, float]:
    """Images a second of processor time on one core, the best of alternating rounds; float32, pixels prepared."""
    pixels = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = dict.fromkeys(calls, math.inf)
    try:
        with torch.no_grad():
            for _ in range(rounds + 1):  # the first warms
                for name, call in calls.items():
                    began = time.process_time()
                    call(pixels)
                    best[name] = min(best[name], time.process_time() - began)
    finally:
        torch.set_num_threads(threads)
    return {name: batch / seconds for name, seconds in best.items()}
