"""Stage ``projections``: what brings both towers of a trained PathCLIP into one space, learned anew on frozen towers.

    pathassist train projections --recipe training/recipes/pathclip-projections.yaml

Immunostains made from H&E fields (:mod:`training.data.virtual`), captioned by every marker there is a name for, join
the pairs of the stage ``clip``: one immunostained slide does not teach that all such names mean brown on blue. The
image tower looks once at every image as it is and at each of its augmented copies; training is minutes then, and
everything fitted to the tower's features stays valid. Out: ``model/``, ``recipe.json``, ``log.jsonl``;
``features-….pt`` keeps what the tower saw (``--resume`` uses it if tower, images and settings are the same).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from assistant.files import whole
from assistant.model.encoders.pathclip import WEIGHTS, PathClipModel
from training.clip.models import PathClipTowers
from training.clip.pairs import PairSampler, not_negative
from training.clip.train import FACTOR, ClipRecipe, Images, batch_loss
from training.data.records import OPEN_SETS, DataError, Record, load_records
from training.data.virtual import write_virtual
from training.features import key_of
from training.loop import cosine_schedule, follow, log_step, write_recipe

#: Parameters that learn.
TRAINED = ("visual.proj.weight", "text.proj.weight", "logit_scale")
_BATCH = 64


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
    settings = ClipRecipe(
        size=model.config.image_size, stain=recipe.stain, min_scale=recipe.min_scale, seed=recipe.seed
    )
    towers = PathClipTowers(settings, None, trained=model)
    records = load_records(recipe.datasets, "train")
    if recipe.virtual:
        records = records + write_virtual(records, out.parent / "data" / "virtual", recipe.virtual, recipe.seed)
    sampler = PairSampler(
        records, recipe.batch_size, recipe.seed, hard=recipe.hard, synonym_share=recipe.synonyms, factor=dict(FACTOR)
    )
    seen = _seen(towers, sampler.records, settings, recipe.copies, out, resume)
    losses = learn(towers, sampler, seen, recipe, settings, out)
    towers.save(out / "model")
    write_recipe(out, recipe)
    return losses


def _seen(
    towers: PathClipTowers, records: list[Record], settings: ClipRecipe, copies: int, out: Path, resume: bool
) -> torch.Tensor:
    """Features [copies + 1, N, F] in fp16."""
    decided = [[str(r.image) for r in records], copies, settings.stain, settings.min_scale, settings.seed]
    kept = out / f"features-{key_of(towers.model.visual, decided)}.pt"
    if resume and kept.is_file():
        found: torch.Tensor = torch.load(kept, weights_only=True)
        return found
    images = Images(records, settings.size)
    rows = [list(range(s, min(s + _BATCH, len(records)))) for s in range(0, len(records), _BATCH)]
    made = []
    with torch.inference_mode():
        for number in tqdm(range((copies + 1) * len(rows)), desc="image tower", unit="batch"):
            copy, part = divmod(number, len(rows))
            pixels = images.views(rows[part], settings, number) if copy else images.unchanged(rows[part])
            made.append(towers.features(pixels).half())
    features = torch.cat(made).view(copies + 1, len(records), -1)
    with whole(kept) as partial:
        torch.save(features, partial)
    return features


def learn(
    towers: PathClipTowers,
    sampler: PairSampler,
    seen: torch.Tensor,
    recipe: ProjectionsRecipe,
    settings: ClipRecipe,
    out: Path,
) -> list[float]:
    """Change both projections and the scale to their average over steps; returns the losses."""
    named = dict(towers.model.named_parameters())
    trained = {name: named[name].requires_grad_() for name in TRAINED}
    average = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.AdamW(list(trained.values()), recipe.lr, weight_decay=recipe.weight_decay)
    scheduler = cosine_schedule(optimizer, recipe.steps, recipe.warmup)
    generator = torch.Generator().manual_seed(recipe.seed)
    losses: list[float] = []
    began = time.time()
    for step in range(recipe.steps):
        rows, captions = sampler.draw(step)
        ignore = not_negative([sampler.records[i] for i in rows], captions)
        drawn = torch.randint(len(seen), (len(rows),), generator=generator)
        features = seen[drawn, rows].float()
        kept = torch.rand(features.shape, generator=generator) >= recipe.drop
        image = towers.image(features * kept / (1 - recipe.drop))
        loss = batch_loss(towers, image, towers.text([c.text for c in captions]), ignore, settings)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        follow(average, trained, recipe.ema, step)
        losses.append(float(loss.detach()))
        if (step + 1) % 25 == 0 or step + 1 == recipe.steps:
            log_step(out, step + 1, losses[-25:], began)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(average[name])
    return losses
