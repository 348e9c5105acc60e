"""Stage ``regions``: the network of ``assistant/regions/network.py`` on every source that has masks or boxes.

    pathassist train regions --recipe training/recipes/regions.yaml

Out: ``model.safetensors`` (fp16, averaged weights), ``recipe.json``, ``log.jsonl``, ``checkpoint.pt``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from assistant.files import whole
from assistant.regions.network import HEADS, KINDS, OFFSETS, Trunk, start_encoder
from training.loop import cosine_schedule, follow, load_checkpoint, log_step, save_checkpoint, write_recipe
from training.regions.data import NONE, OPEN, SOURCES, Batch, Sampler, load_fields
from training.stages import precision


@dataclass(frozen=True)
class RegionsRecipe:
    """Settings of the stage.

    Attributes:
        shares: Crops of each source in a batch, as (source, count).
        start: A tower for the encoder, a whole network to go on from, several files of which a later one counts where
            it has the same tensor, or "" for a random start (tests).
        encoder_lr: 0 leaves the encoder as it is.
        floating: Share of the gland crops on bare glass.
        open_only: Leave out the sources without an open licence.
    """

    shares: tuple[tuple[str, int], ...] = (
        ("monuseg", 3), ("consep_patches", 3), ("dsb2018_stained", 1), ("glas", 2), ("luad_tissue_seg", 1),
        ("bccd_boxes", 2),
    )  # fmt: skip
    start: str | tuple[str, ...] = "assistant/weights/pathclip-small/model.safetensors"
    steps: int = 1500
    lr: float = 2e-3
    encoder_lr: float = 4e-4
    weight_decay: float = 0.01
    warmup: float = 0.05
    ema: float = 0.995
    seed: int = 0
    log_every: int = 25
    checkpoint_every: int = 100
    floating: float = 0.0
    open_only: bool = False
    mixed_precision: str = "auto"


def run(recipe: RegionsRecipe, out: Path, *, resume: bool = False) -> list[float]:
    """Train on the train split; returns the loss of every step."""
    torch.manual_seed(recipe.seed)
    shares = {name: count for name, count in recipe.shares if not (recipe.open_only and name not in OPEN)}
    fields = [f for name in shares for f in load_fields(name, "train")]
    heads = [h for h in HEADS if any(h in SOURCES[name] for name in shares)]
    trunk = Trunk(tuple(heads))
    if recipe.start:
        from safetensors.torch import load_file

        for path in (recipe.start,) if isinstance(recipe.start, str) else recipe.start:
            start(trunk, load_file(path))
    return train(trunk, Sampler(fields, shares, recipe.seed, recipe.floating), recipe, out, resume=resume)


def start(trunk: Trunk, state: dict[str, torch.Tensor]) -> None:
    """Weights of a tower into the encoder, or those of a whole network, as far as it has the same heads."""
    if any(k.startswith("heads.") for k in state):
        mine = trunk.state_dict()
        for name, values in state.items():
            if not name.startswith("heads.") or name not in mine or len(mine[name]) == len(values):
                continue
            if len(mine[name]) == 4 * len(values):  # half the resolution starts the whole: 4 pixels alike
                state = state | {name: values.repeat_interleave(4, dim=0)}
            elif len(mine[name]) > len(values):  # channels that came later start as they are
                state = state | {name: torch.cat([values.float(), mine[name][len(values) :]])}
        trunk.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    else:
        start_encoder(trunk, state)


def train(trunk: Trunk, sampler: Sampler, recipe: RegionsRecipe, out: Path, *, resume: bool = False) -> list[float]:
    """The loop."""
    out.mkdir(parents=True, exist_ok=True)
    trunk.train().to(memory_format=torch.channels_last)
    trunk.encoder.requires_grad_(recipe.encoder_lr > 0)
    encoder = {id(p) for p in trunk.encoder.parameters()}
    trained = {n: p for n, p in trunk.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for p in trained.values() if id(p) in encoder], "lr": recipe.encoder_lr},
        {"params": [p for p in trained.values() if id(p) not in encoder], "lr": recipe.lr},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    scheduler = cosine_schedule(optimizer, recipe.steps, recipe.warmup)
    average = {n: p.detach().clone() for n, p in trained.items()}
    kept = trained | {f"average {n}": t for n, t in average.items()}
    first = load_checkpoint(out / "checkpoint.pt", kept, optimizer, scheduler) if resume else 0
    bf16 = precision(recipe.mixed_precision) == "bf16"
    losses: list[float] = []
    parts: list[dict[str, float]] = []
    began = time.time()
    for step in range(first, recipe.steps):
        batch = sampler.draw(step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            found = loss_parts(trunk, batch)
        loss = torch.stack(list(found.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(trained.values()), 5.0)
        optimizer.step()
        scheduler.step()
        follow(average, trained, recipe.ema, step)
        losses.append(float(loss.detach()))
        parts.append({k: float(v.detach()) for k, v in found.items()})
        done = step + 1
        if done % recipe.log_every == 0 or done == recipe.steps:
            log_step(out, done, losses[-recipe.log_every :], began)
            recent = parts[-recipe.log_every :]
            print({k: round(sum(p[k] for p in recent) / len(recent), 3) for k in recent[0]}, flush=True)
        if done % recipe.checkpoint_every == 0 or done == recipe.steps:
            save_checkpoint(out / "checkpoint.pt", kept, optimizer, scheduler, done)
            save(trunk, average, recipe, out)
    return losses


def save(trunk: Trunk, average: dict[str, torch.Tensor], recipe: RegionsRecipe, out: Path) -> None:
    """The averaged weights in fp16, whole or not at all, and the recipe; without an encoder that was left as it is."""
    from safetensors.torch import save_file

    kept = {k: v for k, v in trunk.state_dict().items() if "num_batches" not in k}
    if not recipe.encoder_lr:
        kept = {k: v for k, v in kept.items() if not k.startswith("encoder.")}
    state = {k: average.get(k, v).detach() for k, v in kept.items()}
    tensors = {k: v.half().contiguous() for k, v in state.items()}
    with whole(out / "model.safetensors") as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
    write_recipe(out, recipe)


def loss_parts(trunk: Trunk, batch: Batch) -> dict[str, torch.Tensor]:
    """Weighted loss of every head that the batch has labels for."""
    pixels = batch.pixels.to(memory_format=torch.channels_last)
    half, quarter = trunk.features(pixels)
    rows, targets = batch.rows, batch.targets
    out: dict[str, torch.Tensor] = {}
    for key, head in (("fg", "nuclei"), ("glands", "glands")):
        if key not in rows:
            continue
        maps = trunk.head(head, pixels[rows[key]], half[rows[key]], quarter).float()
        out[head] = shapes(maps, targets[key])
        if head == "nuclei":
            out["offsets"] = offsets(maps[:, OFFSETS], targets["offsets"], targets[key])
        if head == "nuclei" and "kinds" in rows:
            place = {int(r): i for i, r in enumerate(rows[key])}
            chosen = torch.tensor([place[int(r)] for r in rows["kinds"]])
            out["kinds"] = 0.5 * F.cross_entropy(maps[chosen, KINDS], targets["kinds"], ignore_index=NONE)
    if "tissue" in rows:
        maps = trunk.head("tissue", pixels, half, quarter[rows["tissue"]]).float()
        out["tissue"] = F.cross_entropy(maps, targets["tissue"], ignore_index=NONE)
    if "boxes" in rows:
        maps = trunk.head("blood", pixels, half, quarter[rows["boxes"]]).float()
        out["blood"] = cells(maps, targets["heat"], targets["size"], targets["where"])
    return out


def shapes(maps: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Foreground (cross-entropy, Dice) and distance (smooth L1); ``target`` [B, 3, h, w] ends with weights.

    A weight is 0 outside of the field and larger where instances touch.
    """
    fg, distance, weight = target[:, 0], target[:, 1], target[:, 2]
    inside = (weight > 0).float()
    count = weight.sum().clamp(min=1)
    crossed = (F.binary_cross_entropy_with_logits(maps[:, 0], fg, reduction="none") * weight).sum() / count
    chance = torch.sigmoid(maps[:, 0]) * inside
    dice = 1 - (2 * (chance * fg).sum((1, 2)) + 50) / (chance.sum((1, 2)) + (fg * inside).sum((1, 2)) + 50)
    off = F.smooth_l1_loss(torch.sigmoid(maps[:, 1]), distance, reduction="none", beta=0.1)
    return crossed + dice.mean() + 4 * (off * weight * (0.3 + fg)).sum() / count


def offsets(maps: torch.Tensor, target: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    """Squared error of the offsets [B, 2, h, w] and twice that of their slopes, inside of nuclei, as in HoVer-Net."""
    weight = (shape[:, :1] * shape[:, 2:]).expand_as(maps)
    count = weight.sum().clamp(min=1)
    at = torch.arange(-2.0, 3.0)
    kernel = at / (at[:, None] ** 2 + at**2 + (at[:, None] == 0) * (at == 0))
    slopes = torch.stack([kernel, kernel.T])[:, None]
    error = maps - target
    steep = F.conv2d(error, slopes, padding=2, groups=2)
    return ((error**2 + 2 * steep**2 / kernel.abs().sum()) * weight).sum() / count


def cells(maps: torch.Tensor, heat: torch.Tensor, size: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Focal loss on centres (CornerNet's form), L1 on sizes and offsets, and 1 - GIoU of the boxes they give."""
    chance = torch.sigmoid(maps[:, :3]).clamp(1e-4, 1 - 1e-4)
    right = heat.eq(1).float()
    near = torch.where(right > 0, (1 - chance) ** 2 * chance.log(), (1 - heat) ** 4 * chance**2 * (1 - chance).log())
    weight = torch.ones(1, 3, 1, 1)
    weight[0, 0] = 0.5  # some red cells have no box: what looks like one is punished less
    focal = -(near * torch.where(right > 0, torch.ones(()), weight)).sum() / right.sum().clamp(min=1)
    at = where > 0
    if not at.any():
        return focal
    predicted, wanted = maps[:, 3:].permute(0, 2, 3, 1)[at], size.permute(0, 2, 3, 1)[at]
    l1 = F.smooth_l1_loss(predicted, wanted, beta=0.1)
    from torchvision.ops import generalized_box_iou_loss

    giou = generalized_box_iou_loss(_corners(predicted), _corners(wanted), reduction="mean")
    return focal + 2 * l1 + giou


def _corners(rows: torch.Tensor) -> torch.Tensor:
    """(log w, log h, dx, dy) → xyxy relative to the cell."""
    half = rows[:, :2].clamp(max=5).exp() / 2
    return torch.cat([rows[:, 2:] - half, rows[:, 2:] + half], dim=1)
