"""Stage ``mllm``: the chat model learns to embed images, texts and both together (InfoNCE on its own LoRA).

In: the shipped chat model and captions made from the records' facts (``training.clip``). A batch holds images, images
with part of their caption, and nothing else as queries; their full captions are what they must find. Tower features are
frozen and cached, as for the chat stages. Out: a PEFT adapter; the chat model's own weights are not touched.

    pathassist train mllm --recipe training/recipes/mllm.yaml
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from assistant.model.mllm import last_states, one_word
from training.clip.losses import info_nce
from training.clip.pairs import PairSampler, not_negative
from training.clip.train import FACTOR
from training.data.captions import Caption, draw_caption
from training.data.records import OPEN_SETS, Record, load_records
from training.features import FeatureStore
from training.loop import cosine_schedule, load_checkpoint, log_step, save_adapter, save_checkpoint, write_recipe
from training.stages import LORA_TARGETS, precision


@dataclass(frozen=True)
class MllmRecipe:
    """Settings; ``composed`` is the share of queries that carry a part of their text beside the image."""

    preset: str = "embedded"
    datasets: tuple[str, ...] = OPEN_SETS
    steps: int = 150
    batch_size: int = 32
    lr: float = 3e-4
    lora_r: int = 8
    temperature: float = 0.05
    composed: float = 0.25
    hard: float = 0.4
    synonyms: float = 0.3
    warmup: float = 0.1
    views: int = 6
    seed: int = 0
    mixed_precision: str = "auto"
    checkpoint_every: int = 50
    log_every: int = 10


def queries(records: list[Record], captions: list[Caption], rng: random.Random, composed: float) -> list[str]:
    """The text that goes with each image: empty, or another true caption of it."""
    said = []
    for record, target in zip(records, captions, strict=True):
        hint = draw_caption(record, rng) if rng.random() < composed else None
        said.append(hint.text if hint and hint.text != target.text else "")
    return said


def train_mllm(
    model: Any, prompt_ids: Any, pad: int, store: FeatureStore, records: list[Record], recipe: MllmRecipe, out: Path,
    *, resume: bool = False,
) -> list[float]:  # fmt: skip
    """Run the stage and write ``out/adapter``.

    Args:
        model: A LLaVA; it gets an adapter of its own.
        prompt_ids: Turns → token ids with ``<image>`` expanded (``Assistant.prompt_ids``).
        pad: Padding token.
        store: Tower features of every record's image.

    Returns:
        The loss of every step run in this call.
    """
    from accelerate.utils import set_seed
    from peft import LoraConfig, get_peft_model

    set_seed(recipe.seed)
    model.requires_grad_(False)
    lora = LoraConfig(
        r=recipe.lora_r, lora_alpha=2 * recipe.lora_r, lora_dropout=0.05, target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    wrapped = get_peft_model(model, lora).train()
    trained = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    sampler = PairSampler(
        records, recipe.batch_size, recipe.seed, hard=recipe.hard, synonym_share=recipe.synonyms, factor=dict(FACTOR)
    )
    optimizer = torch.optim.AdamW(trained.values(), lr=recipe.lr, weight_decay=0.0)
    scheduler = cosine_schedule(optimizer, recipe.steps, recipe.warmup)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    first = load_checkpoint(checkpoint, trained, optimizer, scheduler) if resume else 0
    scale = torch.tensor(1 / recipe.temperature)
    bf16 = precision(recipe.mixed_precision) == "bf16"

    def embed(turns: list[list[int]], features: torch.Tensor) -> torch.Tensor:
        length = max(map(len, turns))
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in turns])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in turns])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            return last_states(wrapped, ids, mask, features)

    losses: list[float] = []
    began = time.time()
    for step in range(first, recipe.steps):
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        rng = random.Random(f"{recipe.seed}:mllm:{step}")  # noqa: S311 - reproducible, not secret
        rows, captions = sampler.draw(step)
        picked = [sampler.records[i] for i in rows]
        hints = queries(picked, captions, rng, recipe.composed)
        asked = [prompt_ids([_with_image(hint)]) for hint in hints]
        told = [prompt_ids([one_word(0, c.text)]) for c in captions]
        features = torch.stack([store.get(r.image, rng.randrange(store.views)) for r in picked])
        image, text = embed(asked, features), embed(told, torch.zeros(0, 1, 1))
        loss = info_nce(image, text, scale, not_negative(picked, captions))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(float(loss.detach()))
        done = step + 1
        if done % recipe.log_every == 0 or done == recipe.steps:
            log_step(out, done, losses[-recipe.log_every :], began)
        if done % recipe.checkpoint_every == 0 or done == recipe.steps:
            save_checkpoint(checkpoint, trained, optimizer, scheduler, done)
    save_adapter(wrapped, out / "adapter")
    write_recipe(out, recipe)
    return losses


def _with_image(hint: str) -> Any:
    """A turn with room for one image; only its place is needed, the features come from the store."""
    turn = one_word(1, hint)
    return type(turn)(turn.role, turn.text, (None,))  # type: ignore[arg-type]


def run(recipe: MllmRecipe, out: Path, *, resume: bool = False) -> list[float]:
    """The stage on the shipped chat model and the open sets."""
    from assistant import Assistant
    from training.data.build import write_blanks
    from training.features import build_features

    assistant = Assistant.load(recipe.preset, progress=False)
    records = load_records(recipe.datasets, "train")
    # The empty fields are not used; with them the cache of the chat stages fits.
    images = [r.image for r in records] + write_blanks(out.parent / "data" / "blanks")
    vision = assistant.model.model.vision_tower
    bf16 = precision(recipe.mixed_precision) == "bf16"
    store = build_features(
        vision, images, out.parent, size=vision.config.image_size, views=recipe.views,
        dtype=torch.bfloat16 if bf16 else torch.float32, centred=frozenset(r.image for r in records if r.centred),
    )  # fmt: skip
    pad = assistant.processor.tokenizer.pad_token_id
    return train_mllm(assistant.model, assistant.prompt_ids, pad, store, records, recipe, out, resume=resume)
