"""Stage ``projections``: what brings both towers of a trained PathCLIP into one space, learned anew on frozen towers.

    pathassist train projections --recipe training/recipes/pathclip-projections.yaml

Immunostains made from H&E fields (:mod:`training.data.virtual`), captioned by every marker there is a name for, join
the pairs of the stage ``clip``: one immunostained slide does not teach that all such names mean brown on blue. The
image tower looks once at every image as it is and at each of its augmented copies; training is minutes then, and
everything fitted to the tower's features stays valid. Out: ``model/``, ``recipe.json``, ``log.jsonl``;
``features.pt`` keeps what the tower saw (``--resume`` uses it).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from assistant.files import whole
from assistant.model.encoders.pathclip import MAX_TOKENS, WEIGHTS, PathClipModel, minilm_tokenizer
from training.clip.losses import info_nce
from training.clip.pairs import PairSampler, not_negative
from training.clip.train import FACTOR, ClipRecipe, Images
from training.data.records import OPEN_SETS, DataError, Record, load_records
from training.data.virtual import write_virtual
from training.loop import cosine_schedule, log_step, write_recipe


@dataclass(frozen=True)
class ProjectionsRecipe:
    """Settings.

    Attributes:
        encoder: Folder of the PathCLIP to go on from.
        virtual: How many immunostains are made.
        copies: Augmented views of every image beside the image itself, with ``stain`` and ``min_scale`` as in
            :class:`ClipRecipe`; so are ``hard`` and ``synonyms``.
        drop: Share of the tower's features that are left out of a step.
    """

    encoder: str = "assistant/weights/pathclip-small"
    datasets: tuple[str, ...] = OPEN_SETS
    virtual: int = 900
    copies: int = 1
    stain: float = 0.15
    min_scale: float = 0.5
    steps: int = 300
    batch_size: int = 192
    lr: float = 3e-4
    weight_decay: float = 0.05
    warmup: float = 0.1
    drop: float = 0.3
    hard: float = 0.4
    synonyms: float = 0.3
    ema: float = 0.99
    seed: int = 0


def run(recipe: ProjectionsRecipe, out: Path, *, resume: bool = False) -> list[float]:
    """The stage; returns the loss of every step.

    Raises:
        DataError: ``encoder`` is no folder of a PathCLIP.
    """
    if not (Path(recipe.encoder) / WEIGHTS).is_file():
        raise DataError(f"encoder: no {WEIGHTS} in {recipe.encoder}; allowed: the folder of a trained PathCLIP")
    out.mkdir(parents=True, exist_ok=True)
    model = PathClipModel.load(Path(recipe.encoder)).eval().requires_grad_(False)
    records = load_records(recipe.datasets, "train")
    if recipe.virtual:
        records = records + write_virtual(records, out.parent / "data" / "virtual", recipe.virtual, recipe.seed)
    sampler = PairSampler(
        records, recipe.batch_size, recipe.seed, hard=recipe.hard, synonym_share=recipe.synonyms, factor=dict(FACTOR)
    )
    seen = _seen(model, sampler.records, recipe, out / "features.pt", resume)
    losses = learn(model, sampler, seen, recipe, out)
    model.save(out / "model")
    write_recipe(out, recipe)
    return losses


def _seen(
    model: PathClipModel, records: list[Record], recipe: ProjectionsRecipe, kept: Path, resume: bool
) -> torch.Tensor:
    """Features [copies + 1, N, F] in fp16."""
    if resume and kept.is_file():
        found: torch.Tensor = torch.load(kept, weights_only=True)
        return found
    size = model.config.image_size
    images, batch = Images(records, size), 64
    settings = ClipRecipe(stain=recipe.stain, min_scale=recipe.min_scale, seed=recipe.seed)
    rows = [list(range(s, min(s + batch, len(records)))) for s in range(0, len(records), batch)]
    out = []
    with torch.inference_mode():
        for number in tqdm(range((recipe.copies + 1) * len(rows)), desc="image tower", unit="batch"):
            copy, part = divmod(number, len(rows))
            index = rows[part]
            if copy:
                pixels = images.views(index, settings, number)
            else:
                plain = images.pixels[index].float() / 255
                pixels = F.interpolate(plain, (size, size), mode="bilinear", antialias=True)
            scaled = ((pixels - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
            out.append(model.visual.features(scaled).half())
    features = torch.cat(out).view(recipe.copies + 1, len(records), -1)
    with whole(kept) as partial:
        torch.save(features, partial)
    return features


def learn(
    model: PathClipModel, sampler: PairSampler, seen: torch.Tensor, recipe: ProjectionsRecipe, out: Path
) -> list[float]:
    """Change both projections and the scale of ``model`` to the average over steps; returns the losses."""
    trained = [model.visual.proj.weight, model.text.proj.weight, model.logit_scale]
    average = [p.detach().clone() for p in trained]
    optimizer = torch.optim.AdamW([p.requires_grad_() for p in trained], recipe.lr, weight_decay=recipe.weight_decay)
    scheduler = cosine_schedule(optimizer, recipe.steps, recipe.warmup)
    tokenizer, known = minilm_tokenizer(), dict[str, torch.Tensor]()

    def encoded(texts: list[str]) -> torch.Tensor:
        if new := sorted(set(texts) - known.keys()):
            found = tokenizer(new, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            with torch.no_grad():
                known.update(zip(new, model.text.pooled(found["input_ids"], found["attention_mask"]), strict=True))
        return F.normalize(model.text.proj(torch.stack([known[t] for t in texts])), dim=-1)

    generator = torch.Generator().manual_seed(recipe.seed)
    losses: list[float] = []
    began = time.time()
    for step in range(recipe.steps):
        rows, captions = sampler.draw(step)
        ignore = not_negative([sampler.records[i] for i in rows], captions)
        drawn = torch.randint(len(seen), (len(rows),), generator=generator)
        features = seen[drawn, rows].float()
        kept = torch.rand(features.shape, generator=generator) >= recipe.drop
        image = F.normalize(model.visual.proj(features * kept / (1 - recipe.drop)), dim=-1)
        scale = model.logit_scale.clamp(max=math.log(100)).exp()
        loss = info_nce(image, encoded([c.text for c in captions]), scale, ignore)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            for mean, parameter in zip(average, trained, strict=True):
                mean.lerp_(parameter, 1 - min(recipe.ema, (step + 1) / (step + 10)))
        losses.append(float(loss.detach()))
        if (step + 1) % 25 == 0 or step + 1 == recipe.steps:
            log_step(out, step + 1, losses[-25:], began)
    with torch.no_grad():
        for mean, parameter in zip(average, trained, strict=True):
            parameter.copy_(mean)
    return losses
