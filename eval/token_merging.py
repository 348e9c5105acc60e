"""What merging tokens saves and costs, inside a ViT and before the chat model's connector; see ``eval.vit_tower``."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from assistant.model.tome import (
    Assign,
    Reduce,
    assign,
    merge,
    merge_before_connector,
    merged_tower,
    positions,
    reduce_tokens,
    token_counts,
)
from eval.encoder import Bank, cached
from eval.encoder_metrics import TASKS, members
from eval.stats import cluster_interval
from eval.vit_probes import class_token, difference, gflops, guesses, scores, speeds, vectors_of
from training.data.records import Record

#: Share of the patch tokens that a layer keeps → the rules it is tried with.
KEEPS: dict[float, tuple[str, ...]] = {
    1.0: ("PiToMe",), 0.95: ("PiToMe",), 0.9: ("PiToMe", "ToMe", "random"), 0.85: ("PiToMe",),
    0.8: ("PiToMe", "ToMe", "random"),
}  # fmt: skip
COUNTS = (9, 4, 1)
QUESTIONS = 64


def assign_tome(keys: torch.Tensor, merges: int, margin: float) -> torch.Tensor:
    """ToMe (Bolya et al. 2023): every other token looks for its like among the rest; the most alike pairs merge."""
    unit = F.normalize(keys, dim=-1)
    best, index = (unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)).max(dim=-1)  # [B, N / 2]
    leaving = best.argsort(dim=-1, descending=True, stable=True)[:, :merges]
    return positions(2 * leaving, 2 * index.gather(1, leaving) + 1, keys.shape[1])


def assign_random(keys: torch.Tensor, merges: int, margin: float) -> torch.Tensor:
    """Pairs at random, the same in every run."""
    order = torch.rand(keys.shape[:2], generator=torch.Generator().manual_seed(keys.shape[1])).argsort(dim=1)
    return positions(order[:, :merges], order[:, merges : 2 * merges], keys.shape[1])


def reduce_random(tokens: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` groups of like size at random, the same in every run."""
    order = torch.rand(tokens.shape[:2], generator=torch.Generator().manual_seed(count)).argsort(dim=1)
    return merge(tokens, torch.ones(tokens.shape[:2]), order.argsort(dim=1) % count, count)


def reduce_grid(tokens: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Means over a coarser square grid (which overlap where the sides do not divide)."""
    side, fewer = math.isqrt(tokens.shape[1]), math.isqrt(count)
    laid = tokens.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(laid, fewer).flatten(2).transpose(1, 2), torch.ones(len(tokens), count)


RULES: dict[str, Assign] = {"PiToMe": assign, "ToMe": assign_tome, "random": assign_random}
REDUCTIONS: dict[str, Reduce] = {"PiToMe": reduce_tokens, "grid mean": reduce_grid, "random": reduce_random}


def measure_merging(vit: Any, probes: dict[str, Any], records: Sequence[Record], kept: Path) -> list[dict[str, Any]]:
    """The ViT's probes, fitted without merging, on merged ``val`` images; cost of each share and rule.

    ``kept`` is the beginning of the files that keep merged vectors.
    """
    wanted = sorted({i for task in TASKS for i in members(records, task, "val")})
    val = [records[i] for i in wanted]
    patches = (vit.config.image_size // vit.config.patch_size) ** 2
    rows: list[dict[str, Any]] = []
    base: dict[str, NDArray[Any]] = {}
    settings = [(keep, rule) for keep, rules in KEEPS.items() for rule in rules]
    calls = {f"{keep} {rule}": partial(_merged, vit, keep, rule) for keep, rule in settings}
    fast = speeds({name: call for name, call in calls.items() if "random" not in name})
    for keep, rule in settings:
        call = calls[f"{keep} {rule}"]
        bank = cached(Path(f"{kept}-{keep}-{rule}.npz"), lambda c=call: Bank(vectors_of(c, val)))
        said = guesses(probes, bank.pooled, val)
        base = base or said
        rows.append({
            "keep": keep, "rule": rule if keep < 1 else "none", "tokens": token_counts(
                patches, vit.config.num_hidden_layers, keep)[-1],
            "gflops": gflops(call, vit), "images_per_s": fast.get(f"{keep} {rule}"), "mean": scores(said, val)["mean"],
            "minus_unmerged": difference(said, base, val),
        })  # fmt: skip
    return rows


def _merged(vit: Any, keep: float, rule: str, pixels: torch.Tensor) -> torch.Tensor:
    with merged_tower(vit, keep, RULES[rule]):
        return class_token(vit, pixels)


def measure_chat(data: str | None, number: int = QUESTIONS) -> dict[str, Any]:
    """Four-choice questions answered by the embedded chat model's likelihoods at several token counts."""
    from assistant import Assistant
    from assistant.images.intake import load_image
    from assistant.model.load import load_assistant_parts
    from eval.vqa import questions

    items = questions(data, 0)
    items = [items[i] for i in np.random.default_rng(0).permutation(len(items))[:number]]
    parts = load_assistant_parts("embedded", progress=False)
    whole = int(parts["model"].config.image_seq_length)
    settings = [(whole, "none"), *((count, rule) for count in COUNTS for rule in REDUCTIONS)]
    settings = [s for s in settings if s[0] > 1 or s[1] == "PiToMe"]  # a single token is the mean, whatever the rule
    groups = [q.record.group for q in items]
    rows: list[dict[str, Any]] = []
    base: list[float] = []
    for count, rule in tqdm(settings, desc="chat model", unit="setting"):
        reduce = REDUCTIONS.get(rule, reduce_tokens)
        undo = merge_before_connector(parts["model"], parts["processor"], count, reduce)
        assistant = Assistant(**parts)
        began = time.process_time()
        hits = [float(_choice(assistant, q.stem, q.options, load_image(q.record.image)) == q.answer) for q in items]
        seconds = (time.process_time() - began) / len(items)
        undo()
        base = base or hits
        moved = cluster_interval(np.subtract(hits, base), groups)
        rows.append({
            "tokens": count, "rule": rule, "accuracy": [*cluster_interval(hits, groups)],
            "minus_unmerged": [*moved], "changed": int(np.sum(np.not_equal(hits, base))), "seconds": seconds,
        })  # fmt: skip
    return {"n": len(items), "revision": parts["revision"], "chance": 0.25, "rows": rows}


def _choice(assistant: Any, stem: str, options: tuple[str, ...], image: Any) -> int:
    from assistant.chat.prompt import Question, Turn

    prompt = assistant.prompt_ids([Turn("user", Question(stem, options).prompt(), (image,))])
    return int(np.argmax(assistant.option_scores(prompt, [image], options)))
