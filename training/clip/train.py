"""Stage ``clip``: contrastive training, with a gradient cache so that the batch may be larger than memory allows.

In: labelled records of the open sets (captions are made from their facts). Out: a folder with the model, ``log.jsonl``,
``recipe.json`` and a checkpoint. Everything random is keyed by (seed, step), so a resumed run draws the same batches,
captions, crops and dropout masks, and ends with the same bits.

    pathassist train clip --recipe training/recipes/small-cpu.yaml [--resume]

Gradient cache (Gao et al. 2021): embed the batch in chunks without gradients, take the loss's gradient with respect to
the embeddings, then embed each chunk again and push its part of that gradient through the towers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from training.augment import augment
from training.clip.losses import info_nce, siglip
from training.clip.models import Anchor, Towers, build_towers
from training.clip.pairs import PairSampler, not_negative
from training.data.captions import Caption, read_pairs
from training.data.images import load_square
from training.data.records import OPEN_SETS, DataError, Record, load_records
from training.loop import cosine_schedule, finish, follow, load_checkpoint, log_step, save_checkpoint, write_recipe
from training.stages import precision

LOSSES = ("infonce", "siglip")
TEXT = ("frozen", "lora", "full")
_MAX_SCALE = math.log(100)
#: Extra sampling weight of a set: the atlas has most to learn from, blood and loose nuclei least.
FACTOR = {"atlas": 3.0, "bccd_boxes": 0.3, "dsb2018_stained": 0.2}


@dataclass(frozen=True)
class ClipRecipe:
    """Settings; files under ``training/recipes`` hold them.

    Attributes:
        image_tower: A packaged timm network (``tf_efficientnet_lite0``) or ``open_clip:NAME``.
        start: Weights of the timm network to begin with instead of ImageNet's.
        pretrained: open_clip's tag or file.
        centre: See ``assistant.model.encoders.pathclip.PathClipConfig``; so is ``taps``.
        data: Files of own pairs (:func:`training.data.captions.read_pairs`), joined to ``datasets``.
        chunk: Images that go through the towers at once; the gradient cache joins chunks to a batch.
        lr: Of pretrained weights; ``head_lr`` is for projections and scale.
        stain: Strength of the jitter in haematoxylin–eosin–DAB space; ``min_scale`` is the smallest crop.
        hard: Share of hard partners in a batch.
        synonyms: Share of terms replaced by a synonym.
        keep: Weight of the drift of the pooled features from those of the starting weights; 0 switches it off.
    """

    image_tower: str = "tf_efficientnet_lite0"
    start: str | None = None
    pretrained: str | None = None
    text: str = "frozen"
    lora_r: int = 8
    dimension: int = 384
    centre: bool = True
    taps: tuple[int, ...] = (3, 4)
    loss: str = "infonce"
    data: tuple[str, ...] = ()
    datasets: tuple[str, ...] = OPEN_SETS
    size: int = 224
    steps: int = 600
    batch_size: int = 64
    chunk: int = 64
    lr: float = 2e-4
    head_lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    stain: float = 0.3
    min_scale: float = 0.6
    hard: float = 0.4
    synonyms: float = 0.3
    keep: float = 0.0
    ema: float = 0.99
    seed: int = 0
    mixed_precision: str = "auto"
    checkpoint_every: int = 100
    log_every: int = 20

    def __post_init__(self) -> None:
        for name, allowed in (("loss", LOSSES), ("text", TEXT)):
            if getattr(self, name) not in allowed:
                raise DataError(f"{name}: {getattr(self, name)!r} in the recipe; allowed: {', '.join(allowed)}")
        if not 2 <= self.chunk <= self.batch_size:
            raise DataError(f"chunk: {self.chunk} in the recipe; allowed: 2…batch_size ({self.batch_size})")


class Images:
    """Decoded training images at ``size + 64`` pixels, uint8, in memory."""

    def __init__(self, records: Sequence[Record], size: int) -> None:
        self.size = size
        self.pixels = load_square([r.image for r in records], size + 64)
        self.centred = torch.tensor([r.centred for r in records])

    def unchanged(self, rows: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Pixels [B, 3, size, size] in 0…1 without augmentation."""
        full = self.pixels[torch.as_tensor(rows)].float() / 255
        return F.interpolate(full, (self.size, self.size), mode="bilinear", antialias=True)

    def plain(self, batch: int, at_most: int = 1024) -> Iterator[torch.Tensor]:
        """Batches of evenly spread images without augmentation, [B, 3, size, size] in 0…1."""
        index = torch.linspace(0, len(self.pixels) - 1, min(at_most, len(self.pixels))).long()
        yield from map(self.unchanged, index.split(batch))

    def views(self, rows: Sequence[int], recipe: ClipRecipe, step: int) -> torch.Tensor:
        """Augmented pixels [B, 3, size, size] in 0…1, fixed by seed and step."""
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        index = torch.tensor(rows)
        return augment(
            self.pixels[index].float() / 255, self.size, generator,
            stain=recipe.stain, min_scale=recipe.min_scale, centred=self.centred[index],
        )  # fmt: skip


def batch_loss(
    towers: Towers, image: torch.Tensor, text: torch.Tensor, ignore: torch.Tensor, recipe: ClipRecipe
) -> torch.Tensor:
    """The contrastive loss of a whole batch of unit vectors [B, D]."""
    scale = towers.logit_scale.clamp(max=_MAX_SCALE).exp()
    if recipe.loss == "siglip":
        if towers.logit_bias is None:
            raise DataError("the sigmoid loss needs a bias; build the towers with a recipe of loss: siglip")
        return siglip(image, text, scale, towers.logit_bias, ignore)
    return info_nce(image, text, scale, ignore)


def backward(
    towers: Towers, pixels: torch.Tensor, captions: Sequence[Caption], ignore: torch.Tensor, recipe: ClipRecipe,
    autocast: Any = nullcontext, anchor: Anchor | None = None, seed: int = 0, shares: Shares | None = None,
) -> float:  # fmt: skip
    """Gradients of one batch, in chunks where ``chunk`` is below the batch size. Returns the contrastive loss.

    Args:
        pixels: [B, 3, S, S] in 0…1. captions: B of them. ignore: Bool [B, B] over the whole batch of all processes.
        anchor: Adds ``recipe.keep`` times the drift of the features.
        shares: How a batch is spread over processes; None for one process.
    """
    texts = [c.text for c in captions]
    chunks = [slice(s, min(s + recipe.chunk, len(texts))) for s in range(0, len(texts), recipe.chunk)]

    def embed(number: int, drifting: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        torch.manual_seed(seed + number)  # dropout draws the same mask both times
        part = chunks[number]
        with autocast():
            features = towers.features(pixels[part])
            drift = anchor(features, pixels[part]) if anchor is not None and drifting else torch.zeros(())
            return towers.image(features), towers.text(texts[part]), drift

    single = len(chunks) == 1 and shares is None
    with nullcontext() if single else torch.no_grad():
        parts = [embed(n, drifting=single) for n in range(len(chunks))]
    image, text = (torch.cat([p[k] for p in parts]) for k in (0, 1))
    if single:
        loss = batch_loss(towers, image, text, ignore, recipe)
        (loss + recipe.keep * parts[0][2]).backward()
        return float(loss.detach())
    image, text = image.detach().requires_grad_(), text.detach().requires_grad_()
    everyone = (image, text) if shares is None else (shares.gather(image), shares.gather(text))
    loss = batch_loss(towers, *everyone, ignore, recipe)
    loss.backward()
    for number, part in enumerate(chunks):
        again = embed(number, drifting=True)
        surrogate = (again[0] * image.grad[part]).sum() + (again[1] * text.grad[part]).sum()
        share = (part.stop - part.start) / len(ignore)
        (surrogate + recipe.keep * share * again[2]).backward()
    return float(loss.detach())


class Shares:
    """A batch spread over processes: each embeds its rows, all see all vectors, gradients are summed."""

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.rank, self.world = accelerator.process_index, accelerator.num_processes

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """All processes' rows in order; only our own carry gradients."""
        rows = list(self.accelerator.gather(own.detach()).split(len(own)))
        rows[self.rank] = own
        return torch.cat(rows)

    def sum_gradients(self, towers: Towers) -> None:
        """Sum over processes what each computed for its rows; the scale's gradient is the same everywhere already."""
        same = {id(p) for p in (towers.logit_scale, towers.logit_bias)}
        for parameter in towers.parameters():
            if parameter.grad is not None and id(parameter) not in same:
                parameter.grad = self.accelerator.reduce(parameter.grad, "sum")


def train_clip(recipe: ClipRecipe, out: Path, *, towers: Towers | None = None, resume: bool = False) -> list[float]:
    """Run the stage and write ``out`` (``model/`` holds the trained weights).

    Args:
        towers: Built by the caller; by default as the recipe says.

    Returns:
        The loss of every step run in this call.
    """
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    accelerator = Accelerator(mixed_precision=precision(recipe.mixed_precision), cpu=not torch.cuda.is_available())
    set_seed(recipe.seed)
    records = load_records(recipe.datasets, "train") + [r for name in recipe.data for r in read_pairs(Path(name))]
    sampler = PairSampler(
        records, recipe.batch_size, recipe.seed,
        hard=recipe.hard, synonym_share=recipe.synonyms, factor=dict(FACTOR),
    )  # fmt: skip
    images = Images(sampler.records, recipe.size)
    towers = (towers or build_towers(recipe)).to(accelerator.device)
    if not (resume and (out / "checkpoint.pt").is_file()):
        towers.eval()
        towers.standardise(images.plain(recipe.batch_size))
    anchor = Anchor(towers) if recipe.keep else None
    shares = Shares(accelerator) if accelerator.num_processes > 1 else None
    towers.train()
    trained = {n: p for n, p in towers.named_parameters() if p.requires_grad}
    slow = {id(p) for p in towers.backbone_parameters()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained.values() if id(p) in slow], "lr": recipe.lr},
            {"params": [p for p in trained.values() if id(p) not in slow], "lr": recipe.head_lr},
        ],
        weight_decay=recipe.weight_decay,
    )
    scheduler = cosine_schedule(optimizer, recipe.steps, recipe.warmup)
    average = {n: p.detach().clone() for n, p in trained.items()}
    kept = trained | dict(towers.named_buffers()) | {f"average {n}": t for n, t in average.items()}
    out.mkdir(parents=True, exist_ok=True)
    first = load_checkpoint(out / "checkpoint.pt", kept, optimizer, scheduler) if resume else 0
    losses: list[float] = []
    began = time.time()
    for step in range(first, recipe.steps):
        rows, captions = sampler.draw(step)
        ignore = not_negative([sampler.records[i] for i in rows], captions).to(accelerator.device)
        mine = slice(0, None)
        if shares is not None:
            each = len(rows) // shares.world
            mine = slice(shares.rank * each, (shares.rank + 1) * each)
        pixels = images.views(rows, recipe, step)[mine].to(accelerator.device)
        optimizer.zero_grad(set_to_none=True)
        seed = (recipe.seed * 1_000_003 + step) * 1009 + accelerator.process_index * 101
        loss = backward(towers, pixels, captions[mine], ignore, recipe, accelerator.autocast, anchor, seed, shares)
        if shares is not None:
            shares.sum_gradients(towers)
        nn.utils.clip_grad_norm_(list(trained.values()), 5.0)
        optimizer.step()
        scheduler.step()
        follow(average, trained, recipe.ema, step)
        losses.append(loss)
        done = step + 1
        if accelerator.is_main_process and (done % recipe.log_every == 0 or done == recipe.steps):
            log_step(out, done, losses[-recipe.log_every :], began)
        if accelerator.is_main_process and (done % recipe.checkpoint_every == 0 or done == recipe.steps):
            save_checkpoint(out / "checkpoint.pt", kept, optimizer, scheduler, done)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(average[name])
        towers.save(out / "model")
        write_recipe(out, recipe)
    finish(accelerator)
    return losses
