"""Stage ``tower``: fine-tune the ImageNet EfficientNet on histology with one linear head per kind of label.

In: labelled records of the open sets. Out: a folder with ``model.safetensors`` (fp16, timm key names, no classifier),
``metrics.json`` and ``log.jsonl``. Only the tower is kept; the heads exist to shape its features, and the loss of a
head counts only where its label exists. Batch-norm statistics stay those of ImageNet, since batches mix sets.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from assistant.files import whole
from training.augment import augment
from training.data.images import load_square
from training.data.records import OPEN_SETS, Record, balanced_weights, load_records


@dataclass(frozen=True)
class TowerRecipe:
    """Settings of the tower stage; ``heads`` pairs each kind of label with the weight of its loss."""

    architecture: str = "tf_efficientnet_lite0"
    datasets: tuple[str, ...] = OPEN_SETS
    size: int = 224
    epochs: int = 10
    batch_size: int = 32
    lr: float = 4e-4
    head_lr: float = 3e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    dropout: float = 0.3
    ema: float = 0.99
    stain: float = 0.3
    min_scale: float = 0.6
    seed: int = 0
    heads: tuple[tuple[str, float], ...] = (
        ("organ", 1.0), ("stain_class", 0.3), ("diagnosis", 0.5), ("category", 0.3), ("scale", 0.2),
        ("lung", 1.0), ("oral", 1.0), ("node", 1.0),
    )  # fmt: skip


def label_table(records: list[Record], heads: list[str]) -> dict[str, list[str]]:
    """Class names of every head, alphabetical, from the training records."""
    return {h: sorted({r.facts[h] for r in records if h in r.facts}) for h in heads}


def targets(records: list[Record], table: dict[str, list[str]]) -> dict[str, torch.Tensor]:
    """Class index per head and record; -100 where the record has no such label or an unseen one."""
    index = {h: {name: i for i, name in enumerate(names)} for h, names in table.items()}
    return {h: torch.tensor([index[h].get(r.facts.get(h, ""), -100) for r in records]) for h in table}


def sampling_weights(records: list[Record]) -> torch.Tensor:
    """How often each record is drawn, [N]: mostly the atlas, whose organs are the hardest to learn."""
    return torch.tensor(balanced_weights(records, {"atlas": 3.0, "bccd_boxes": 0.3, "dsb2018_stained": 0.2}))


class Tower(nn.Module):
    """A timm backbone with dropout and one linear head per label kind."""

    def __init__(self, backbone: nn.Module, width: int, table: dict[str, list[str]], dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({h: nn.Linear(width, len(names)) for h, names in table.items()})

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        pooled = self.dropout(self.backbone(pixels))  # [B, D]
        return {h: head(pooled) for h, head in self.heads.items()}

    def train(self, mode: bool = True) -> Tower:
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


@torch.no_grad()
def evaluate(
    model: Tower, images: torch.Tensor, records: list[Record], table: dict[str, list[str]], size: int
) -> dict[str, float]:
    """Balanced accuracy per head on whole images; organ on cases never trained on is listed apart."""
    model.eval()
    logits: dict[str, list[torch.Tensor]] = {h: [] for h in table}
    for start in range(0, len(images), 64):
        x = F.interpolate(images[start : start + 64].float() / 255, (size, size), mode="bilinear", antialias=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for h, value in model((x - 0.5) / 0.5).items():
                logits[h].append(value.float())
    wanted = targets(records, table)
    scores = {}

    def balanced(h: str, keep: torch.Tensor) -> float:
        guess = torch.cat(logits[h]).argmax(1)
        per_class = [(guess[keep & (wanted[h] == c)] == c).float().mean().item() for c in wanted[h][keep].unique()]
        return float(np.mean(per_class)) if per_class else float("nan")

    for h in table:
        scores[h] = balanced(h, wanted[h] >= 0)
    unseen = torch.tensor([r.unseen_case for r in records]) & (wanted["organ"] >= 0)
    scores["organ, unseen cases"] = balanced("organ", unseen)
    return scores


def train_tower(
    recipe: TowerRecipe, weights: dict[str, torch.Tensor], out: Path, resume: bool = False
) -> dict[str, Any]:
    """Run the stage and write ``out``. ``weights``: the ImageNet state dict with timm names.

    Returns the metrics that are also written to ``metrics.json``. A checkpoint is written each epoch;
    ``resume`` goes on from it.
    """
    import timm
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    heads = dict(recipe.heads)
    train = load_records(recipe.datasets, "train")
    val = load_records(recipe.datasets, "val")
    table = label_table(train, list(heads))
    backbone = timm.create_model(recipe.architecture, pretrained=False, num_classes=0)
    backbone.load_state_dict(weights, strict=True)
    model = Tower(backbone, int(backbone.num_features), table, recipe.dropout).to(memory_format=torch.channels_last)
    cached = recipe.size + 64
    train_images, val_images = (
        load_square([r.image for r in train], cached),
        load_square([r.image for r in val], cached),
    )
    wanted = targets(train, table)
    sampling = sampling_weights(train)
    centred = torch.tensor([r.centred for r in train])
    optimizer = torch.optim.AdamW(
        [
            {"params": model.backbone.parameters(), "lr": recipe.lr},
            {"params": model.heads.parameters(), "lr": recipe.head_lr},
        ],
        weight_decay=recipe.weight_decay,
    )
    per_epoch = len(train) // recipe.batch_size
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [recipe.lr, recipe.head_lr], total_steps=per_epoch * recipe.epochs, pct_start=0.15
    )
    ema = {k: v.detach().clone() for k, v in model.state_dict().items()}
    first, log = 0, out / "log.jsonl"
    checkpoint = out / "checkpoint.pt"
    if resume and checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        generator.set_state(state["generator"])
        ema, first = state["ema"], int(state["epoch"])
    scores: dict[str, float] = {}
    for epoch in range(first, recipe.epochs):
        model.train()
        began, total = time.time(), 0.0
        order = torch.multinomial(sampling, per_epoch * recipe.batch_size, replacement=True, generator=generator)
        for rows in order.view(per_epoch, recipe.batch_size):
            x = augment(
                train_images[rows].float() / 255,
                recipe.size,
                generator,
                stain=recipe.stain,
                min_scale=recipe.min_scale,
                centred=centred[rows],
            )
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(((x - 0.5) / 0.5).contiguous(memory_format=torch.channels_last))
            loss = torch.zeros(())
            for h, value in logits.items():
                y = wanted[h][rows]
                if (y >= 0).any():
                    part = F.cross_entropy(value.float(), y, ignore_index=-100, label_smoothing=recipe.label_smoothing)
                    loss = loss + heads[h] * part * (y >= 0).float().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            scheduler.step()
            total += loss.item()
            for k, v in model.state_dict().items():
                ema[k].lerp_(v, 1 - recipe.ema) if v.is_floating_point() else ema[k].copy_(v)
        live = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(ema)
        scores = evaluate(model, val_images, val, table, recipe.size)
        model.load_state_dict(live)
        row = {"epoch": epoch + 1, "loss": total / per_epoch, "seconds": time.time() - began, **scores}
        with log.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")
        print(json.dumps({k: round(v, 3) for k, v in row.items()}), flush=True)
        state = {
            "model": live, "ema": ema, "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
            "generator": generator.get_state(), "epoch": epoch + 1,
        }  # fmt: skip
        with whole(checkpoint) as partial:
            torch.save(state, partial)
    kept = {
        k.removeprefix("backbone."): v.half().contiguous() if v.is_floating_point() else v
        for k, v in ema.items()
        if k.startswith("backbone.")
    }
    with whole(out / "model.safetensors") as partial:
        save_file(kept, partial)
    metrics = {"val_balanced_accuracy": scores, "recipe": asdict(recipe), "train": len(train), "val": len(val)}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    return metrics
