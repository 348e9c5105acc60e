"""Stage ``distill``: a vision transformer in CLIP's layout learns what the trained EfficientNet tower sees.

In: images of the open sets and the teacher tower. Out: a folder with ``vit/`` (a Hugging Face ``CLIPVisionModel`` with
its image processor, which loads elsewhere unchanged), ``heads.safetensors`` (linear maps to the teacher's features),
``log.jsonl``, ``metrics.json`` and ``checkpoint.pt``.

Teacher and student see the same crops ("a good teacher is patient and consistent", Beyer et al. 2022). Some augmented
views of each image are made once and kept with the teacher's features; a batch turns and mirrors them at random, and
the teacher's map with them. The class token learns the pooled vector. The patch tokens of the second-last layer, which
is what LLaVA reads, learn the map. For most of the steps the student sees a random part of its patches only (Liu et al.
2022, PatchDropout), which is faster.

    python -m training.run distill --recipe training/recipes/vit-tower.yaml --out runs/vit
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from assistant.files import whole, write_text
from training.augment import augment
from training.data.images import load_square
from training.data.records import OPEN_SETS, DataError, Record, load_records
from training.features import key_of
from training.loop import cosine_schedule, load_checkpoint, log_step, save_checkpoint
from training.stages import precision
from training.tower import sampling_weights

_CHUNK = 32  # images that the teacher sees at once
_MARGIN = 64  # pixels that stored images are larger than crops


@dataclass(frozen=True)
class DistillRecipe:
    """Settings of the stage.

    ``tower`` names the teacher's weights (EfficientNet-Lite0, timm's names; the shipped tower by default). ``views``
    augmented views of each image are kept. Until the share ``full_from`` of the steps, only the share
    ``keep_patches`` of the patches is seen.
    """

    tower: str | None = None
    datasets: tuple[str, ...] = OPEN_SETS
    size: int = 224
    patch_size: int = 16
    width: int = 192
    layers: int = 12
    heads: int = 3
    views: int = 6
    stain: float = 0.25
    min_scale: float = 0.5
    keep_patches: float = 0.5
    full_from: float = 0.8
    map_weight: float = 1.0
    steps: int = 3_000
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    seed: int = 0
    mixed_precision: str = "auto"
    checkpoint_every: int = 200
    log_every: int = 20

    def __post_init__(self) -> None:
        if self.size % self.patch_size or self.width % self.heads or self.width % 4:
            raise DataError(
                f"size {self.size}, patch_size {self.patch_size}, width {self.width}, heads {self.heads}: patches must "
                "tile the image, and width must be a multiple of 4 and of heads"
            )
        if not 0 < self.keep_patches <= 1:
            raise DataError(f"keep_patches is {self.keep_patches}; allowed: above 0, at most 1")


class Views:
    """Cached views.

    Attributes:
        pixels: uint8 [N, V, 3, S, S]. maps: The teacher's map, float16 [N, V, G, G, C]. pooled: Its pooled vector,
            float16 [N, V, C]. shift, spread: Mean and deviation of each channel over all cells, [C], and over pooled
            vectors, ``pooled_shift`` and ``pooled_spread``.
    """

    def __init__(self, folder: Path) -> None:
        self.pixels, self.maps, self.pooled = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("pixels", "maps", "pooled")
        )
        with np.load(folder / "moments.npz") as kept:
            self.shift, self.spread = (torch.from_numpy(kept[k]) for k in ("shift", "spread"))
            self.pooled_shift, self.pooled_spread = (
                torch.from_numpy(kept[k]) for k in ("pooled_shift", "pooled_spread")
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, rows: Sequence[int], views: Sequence[int], turns: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Pixels in −1…1 [B, 3, S, S], maps [B, G, G, C] and pooled vectors [B, C], both standardised."""
        picked = list(zip(rows, views, turns, strict=True))
        pixels = torch.stack([turned(torch.from_numpy(np.array(self.pixels[r, v])), t) for r, v, t in picked])
        maps = torch.stack(
            [turned(torch.from_numpy(np.array(self.maps[r, v])).permute(2, 0, 1), t).permute(1, 2, 0)
             for r, v, t in picked]
        ).float()  # fmt: skip
        pooled = torch.from_numpy(np.stack([self.pooled[r, v] for r, v, _ in picked])).float()
        return (
            (pixels.float() / 255 - 0.5) / 0.5,
            (maps - self.shift) / self.spread,
            (pooled - self.pooled_shift) / self.pooled_spread,
        )


def turned(image: torch.Tensor, turn: int) -> torch.Tensor:
    """One of the eight symmetries, 0 … 7, of [C, H, H]; 0 changes nothing."""
    image = torch.rot90(image, turn % 4, dims=(-2, -1))
    return image.flip(-1) if turn >= 4 else image


@torch.no_grad()
def teacher_features(teacher: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The map [B, G, G, C] and the pooled vector [B, C] of a ``TimmTower`` for normalised pixels."""
    features = teacher.backbone.forward_features(pixels.contiguous(memory_format=torch.channels_last))
    return teacher.feature_map(features).permute(0, 2, 3, 1).float(), teacher.backbone.forward_head(features).float()


def build_views(teacher: Any, records: Sequence[Record], recipe: DistillRecipe, out: Path) -> Views:
    """Make or reuse the cache below ``out``; its name covers teacher, images and all that decides about crops."""
    paths = [str(r.image) for r in records]
    said = [paths, recipe.size, recipe.views, recipe.stain, recipe.min_scale, recipe.seed]
    folder = out / f"views-{key_of(teacher, said)}"
    if (folder / "moments.npz").is_file():
        return Views(folder)
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(recipe.seed)
    teacher.eval().to(memory_format=torch.channels_last)
    count, views, size = len(records), recipe.views, recipe.size
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, (count, views, 3, size, size))
    maps = pooled = None
    sums = torch.zeros(4, teacher.config.hidden_size, dtype=torch.float64)  # cells, squares, pooled, squares
    for start in tqdm(range(0, count, _CHUNK), desc="views of the teacher", unit="batch"):
        part = records[start : start + _CHUNK]
        rows = slice(start, start + len(part))
        roomy = load_square([r.image for r in part], size + _MARGIN).float() / 255
        centred = torch.tensor([r.centred for r in part])
        for view in range(views):
            x = augment(roomy, size, generator, stain=recipe.stain, min_scale=recipe.min_scale, centred=centred)
            x = (x * 255).round()
            pixels[rows, view] = x.byte().numpy()
            with _autocast(recipe):
                cells, vector = teacher_features(teacher, (x / 255 - 0.5) / 0.5)
            if maps is None or pooled is None:
                shape = (count, views, *cells.shape[1:])
                maps = np.lib.format.open_memmap(folder / "maps.npy", "w+", np.float16, shape)
                pooled = np.lib.format.open_memmap(folder / "pooled.npy", "w+", np.float16, (*shape[:2], shape[-1]))
            maps[rows, view], pooled[rows, view] = cells.half().numpy(), vector.half().numpy()
            flat = cells.flatten(0, 2).double()
            sums += torch.stack([flat.mean(0), (flat**2).mean(0), vector.mean(0), (vector**2).mean(0)]) * len(part)
    if maps is None or pooled is None:
        raise DataError("no images to learn from; check datasets in the recipe")
    for array in (pixels, maps, pooled):
        array.flush()
    mean = sums / (count * views)
    spread, pooled_spread = ((mean[i + 1] - mean[i] ** 2).clamp(min=1e-4).sqrt() for i in (0, 2))
    moments = {"shift": mean[0], "spread": spread, "pooled_shift": mean[2], "pooled_spread": pooled_spread}
    with whole(folder / "moments.npz") as partial:
        np.savez(partial, **{k: v.float().numpy() for k, v in moments.items()})
    return Views(folder)


def new_vit(recipe: DistillRecipe) -> Any:
    """A fresh ``CLIPVisionModel``, drawn from torch's global generator.

    Positions start as sines, and attention as in trained networks (Trockman & Kolter 2023, "Mimetic initialization"):
    queries and keys prefer the token itself, values and projection together take it off. Small sets need such a start.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=recipe.width, intermediate_size=4 * recipe.width, num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads, image_size=recipe.size, patch_size=recipe.patch_size, hidden_act="gelu",
        projection_dim=recipe.width,
    )  # fmt: skip
    model: Any = CLIPVisionModel(config)
    with torch.no_grad():
        weight = model.embeddings.patch_embedding.weight
        nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        grid = recipe.size // recipe.patch_size
        model.embeddings.position_embedding.weight[1:] = 0.3 * _sines(grid, recipe.width)
        for layer in model.encoder.layers:
            _mimetic(layer.self_attn, recipe.width, recipe.heads)
    return model


def _sines(grid: int, width: int) -> torch.Tensor:
    """Sine and cosine positions [grid², width], half of the channels for rows and half for columns."""
    rates = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(grid)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], dim=-1)  # [grid, width / 2]
    rows, columns = line[:, None].expand(-1, grid, -1), line[None].expand(grid, -1, -1)
    return torch.cat([rows, columns], dim=-1).reshape(grid * grid, width)


def _mimetic(attention: Any, width: int, heads: int) -> None:
    size = width // heads
    for h in range(heads):
        u, s, v = torch.linalg.svd(0.7 * torch.randn(width, width) / width**0.5 + 0.7 * torch.eye(width))
        root, rows = s[:size].sqrt(), slice(h * size, (h + 1) * size)
        attention.q_proj.weight[rows] = (u[:, :size] * root).T
        attention.k_proj.weight[rows] = root[:, None] * v[:size]
    u, s, v = torch.linalg.svd(0.4 * torch.randn(width, width) / width**0.5 - 0.4 * torch.eye(width))
    attention.v_proj.weight.copy_(s.sqrt()[:, None] * v)
    attention.out_proj.weight.copy_(u * s.sqrt())


class Student(nn.Module):
    """The transformer with one linear head for the pooled vector and one for the map."""

    def __init__(self, vit: Any, channels: int) -> None:
        super().__init__()
        self.vit = vit
        self.pooled = nn.Linear(vit.config.hidden_size, channels)
        self.map = nn.Linear(vit.config.hidden_size, channels)

    def forward(self, pixels: torch.Tensor, kept: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted pooled vectors [B, C] and cells [B, K, C].

        Args:
            pixels: [B, 3, S, S].
            kept: Patches to look at, [B, K]; None for all.
        """
        hidden = self.vit.embeddings(pixels)  # [B, 1 + N, W]
        if kept is not None:
            index = (kept + 1)[..., None].expand(-1, -1, hidden.shape[-1])
            hidden = torch.cat([hidden[:, :1], hidden.gather(1, index)], dim=1)
        hidden = self.vit.pre_layrnorm(hidden)
        before = hidden
        for layer in self.vit.encoder.layers:
            before, hidden = hidden, layer(hidden, None)
        pooled = self.pooled(self.vit.post_layernorm(hidden[:, 0]))
        return pooled, self.map(before[:, 1:])


def cells_of_patches(patches: int, cells: int) -> torch.Tensor:
    """For each patch of a ``patches``² grid the cell of a ``cells``² grid that its centre lies in, [patches²]."""
    line = ((torch.arange(patches) + 0.5) * cells / patches).long()
    return (line[:, None] * cells + line).flatten()


def distill_loss(
    student: Student, pixels: torch.Tensor, maps: torch.Tensor, pooled: torch.Tensor, kept: torch.Tensor | None,
    map_weight: float,
) -> torch.Tensor:  # fmt: skip
    """Mean squared error of the pooled vector plus ``map_weight`` times the smooth L1 error of the cells.

    Cells have rare values 30 deviations from the mean, which squares would let rule.
    """
    guess, cells = student(pixels, kept)
    grid = student.vit.config.image_size // student.vit.config.patch_size
    place = cells_of_patches(grid, maps.shape[1])
    wanted = maps.flatten(1, 2)  # [B, G², C]
    if kept is None:
        wanted = wanted[:, place]
    else:
        wanted = wanted.gather(1, place[kept][..., None].expand(-1, -1, wanted.shape[-1]))
    return F.mse_loss(guess.float(), pooled) + map_weight * F.smooth_l1_loss(cells.float(), wanted)


def draw(
    recipe: DistillRecipe, weights: torch.Tensor, step: int
) -> tuple[list[int], list[int], list[int], torch.Tensor | None]:
    """Rows, views, turns and kept patches [B, K] of one step; a function of seed and step, so that runs resume."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    size = recipe.batch_size
    rows = torch.multinomial(weights, size, replacement=len(weights) < size, generator=generator)
    views = torch.randint(recipe.views, (size,), generator=generator)
    turns = torch.randint(8, (size,), generator=generator)
    kept = None
    if recipe.keep_patches < 1 and step < recipe.full_from * recipe.steps:
        patches = (recipe.size // recipe.patch_size) ** 2
        order = torch.rand(size, patches, generator=generator).argsort(dim=1)
        kept = order[:, : max(1, round(patches * recipe.keep_patches))]
    return rows.tolist(), views.tolist(), turns.tolist(), kept


def train_distill(
    recipe: DistillRecipe, teacher: Any, records: Sequence[Record], out: Path, *, resume: bool = False
) -> list[float]:
    """Run the stage and write ``out``; ``resume`` goes on from the last checkpoint, bit for bit.

    Args:
        recipe: Settings.
        teacher: A :class:`~assistant.model.towers.TimmTower` on pixels of mean and deviation 0.5.
        records: Training images.
        out: Results; the cached views lie in it too and may be deleted afterwards.

    Returns:
        The loss of every step run in this call.
    """
    out.mkdir(parents=True, exist_ok=True)
    views = build_views(teacher, records, recipe, out)
    weights = sampling_weights(list(records))
    torch.manual_seed(recipe.seed)
    student = Student(new_vit(recipe), teacher.config.hidden_size).train()
    student.vit.config._attn_implementation = "eager"  # the fastest in bf16 on processors; same results
    matrices = [p for p in student.parameters() if p.ndim > 1]
    vectors = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
    scheduler = cosine_schedule(optimizer, recipe.steps, recipe.warmup)
    trained = dict(student.named_parameters())
    first = load_checkpoint(out / "checkpoint.pt", trained, optimizer, scheduler) if resume else 0
    losses: list[float] = []
    began = time.time()
    for step in range(first, recipe.steps):
        rows, numbers, turns, kept = draw(recipe, weights, step)
        pixels, maps, pooled = views.batch(rows, numbers, turns)
        with _autocast(recipe):
            loss = distill_loss(student, pixels, maps, pooled, kept, recipe.map_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        done = step + 1
        if done % recipe.log_every == 0 or done == recipe.steps:
            log_step(out, done, losses[-recipe.log_every :], began)
        if done % recipe.checkpoint_every == 0 or done == recipe.steps:
            save_checkpoint(out / "checkpoint.pt", trained, optimizer, scheduler, done)
            save_student(student, recipe, out)
    return losses


def save_student(student: Student, recipe: DistillRecipe, out: Path) -> None:
    """Write ``vit/``, ``heads.safetensors`` and ``metrics.json``, each whole or not at all."""
    from safetensors.torch import save_file

    from assistant.model.build import image_processor
    from assistant.model.cache import atomic_folder
    from assistant.model.convert import Preprocess

    half = (0.5, 0.5, 0.5)
    with atomic_folder(out / "vit") as partial:
        student.vit.save_pretrained(partial)
        image_processor(Preprocess(recipe.size, half, half, crop=False)).save_pretrained(partial)
    heads = {k: v.detach().contiguous() for k, v in student.state_dict().items() if not k.startswith("vit.")}
    with whole(out / "heads.safetensors") as partial:
        save_file(heads, partial)
    metrics = {"recipe": asdict(recipe), "parameters": sum(p.numel() for p in student.vit.parameters())}
    write_text(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")


@contextmanager
def _autocast(recipe: DistillRecipe) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=precision(recipe.mixed_precision) == "bf16"):
        yield


def run(recipe: DistillRecipe, out: Path, resume: bool = False) -> list[float]:
    """The stage from its recipe: the teacher's weights and the training images are found, then trained on."""
    from assistant.model.convert import read_state
    from assistant.model.towers import TimmTower, TimmTowerConfig
    from assistant.model.vlm import WEIGHTS

    path = Path(recipe.tower) if recipe.tower else WEIGHTS / "embedded" / "tower.safetensors"
    teacher = TimmTower(TimmTowerConfig(image_size=recipe.size)).eval()
    teacher.backbone.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in read_state(path).items()}
    )
    return train_distill(recipe, teacher, load_records(recipe.datasets, "train"), out, resume=resume)
