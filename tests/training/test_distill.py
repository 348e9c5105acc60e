"""Distilling into a ViT: the loss falls, runs resume bit for bit, and the checkpoint is a plain CLIPVisionModel."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from assistant.model.towers import TimmTower, TimmTowerConfig
from training.data.records import DataError, Record
from training.distill import (
    DistillRecipe,
    Student,
    Views,
    cells_of_patches,
    draw,
    new_vit,
    teacher_features,
    train_distill,
    turned,
)
from training.run import read_recipe, run

RECIPE = DistillRecipe(
    size=64, patch_size=16, width=32, layers=2, heads=2, views=2, steps=24, batch_size=6, lr=3e-3, full_from=0.75,
    checkpoint_every=12, log_every=4, mixed_precision="no",
)  # fmt: skip


@pytest.fixture(scope="module")
def teacher() -> Any:
    torch.manual_seed(1)
    config = TimmTowerConfig(architecture="test_efficientnet", hidden_size=256, image_size=64, patch_size=32)
    return TimmTower(config).eval()


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    made = []
    for n in range(10):
        small = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((80, 80)).save(folder / f"{n}.png")
        made.append(Record("atlas", folder / f"{n}.png", "train", f"atlas:{n}", {"organ": "liver"}))
    return made


@pytest.fixture(scope="module")
def whole(teacher: Any, records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """One uninterrupted run: its folder and losses."""
    out = tmp_path_factory.mktemp("whole")
    return out, train_distill(RECIPE, teacher, records, out)


def test_the_loss_falls(whole: tuple[Path, list[float]]) -> None:
    out, losses = whole
    assert len(losses) == RECIPE.steps
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    assert len((out / "log.jsonl").read_text().splitlines()) == RECIPE.steps // RECIPE.log_every


def test_resume_is_bit_equal(
    teacher: Any, records: list[Record], whole: tuple[Path, list[float]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def cut(recipe: DistillRecipe, weights: torch.Tensor, step: int) -> Any:
        if step == 15:
            raise KeyboardInterrupt
        return draw(recipe, weights, step)

    with monkeypatch.context() as patch:
        patch.setattr("training.distill.draw", cut)
        with pytest.raises(KeyboardInterrupt):
            train_distill(RECIPE, teacher, records, tmp_path)
    again = train_distill(RECIPE, teacher, records, tmp_path, resume=True)
    assert again == whole[1][12:]  # from the last checkpoint on
    assert (tmp_path / "vit/model.safetensors").read_bytes() == (whole[0] / "vit/model.safetensors").read_bytes()


def test_the_checkpoint_is_a_plain_clip_tower(whole: tuple[Path, list[float]]) -> None:
    from safetensors.torch import load_file
    from transformers import AutoImageProcessor, CLIPVisionModel

    out = whole[0]
    vit: Any = CLIPVisionModel.from_pretrained(out / "vit").eval()
    assert vit.config.model_type == "clip_vision_model"
    student = Student(new_vit(RECIPE), 256).eval()
    state = torch.load(out / "checkpoint.pt", weights_only=True)["trainable"]
    student.load_state_dict(state, strict=False)
    heads = load_file(out / "heads.safetensors")
    pixels = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        pooled, cells = student(pixels)
        plain = vit(pixel_values=pixels, output_hidden_states=True)
    found = plain.pooler_output @ heads["pooled.weight"].T + heads["pooled.bias"]
    assert torch.allclose(found, pooled, atol=1e-5)
    read = plain.hidden_states[-2][:, 1:]  # what LLaVA reads of a CLIP tower
    assert torch.allclose(read @ heads["map.weight"].T + heads["map.bias"], cells, atol=1e-5)
    processor = AutoImageProcessor.from_pretrained(out / "vit", backend="pil")
    seen = processor(Image.new("RGB", (90, 50), (255, 0, 0)), return_tensors="pt")["pixel_values"]
    assert seen.shape == (1, 3, 64, 64)
    assert torch.allclose(seen[0, :, 5, 5], torch.tensor([1.0, -1.0, -1.0]), atol=1e-2)


def test_views_hold_what_the_teacher_says_of_the_same_pixels(teacher: Any, whole: tuple[Path, list[float]]) -> None:
    views = Views(next(whole[0].glob("views-*")))
    pixels, maps, pooled = views.batch([3, 7], [0, 1], [0, 0])
    wanted_maps, wanted_pooled = teacher_features(teacher, pixels)
    assert torch.allclose(maps * views.spread + views.shift, wanted_maps, atol=2e-2)
    assert torch.allclose(pooled * views.pooled_spread + views.pooled_shift, wanted_pooled, atol=2e-2)
    turned_pixels, turned_maps, same = views.batch([3, 7], [0, 1], [5, 2])
    assert torch.equal(same, pooled)
    assert torch.equal(turned_pixels[0], turned(pixels[0], 5))
    assert torch.equal(turned_maps[1].permute(2, 0, 1), turned(maps[1].permute(2, 0, 1), 2))


def test_the_cache_is_made_once(
    teacher: Any, records: list[Record], whole: tuple[Path, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import distill

    monkeypatch.setattr(distill, "load_square", lambda *_: pytest.fail("made again"))
    assert len(distill.build_views(teacher, records, RECIPE, whole[0])) == len(records)


def test_patches_find_their_cells() -> None:
    assert cells_of_patches(4, 2).tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]
    assert cells_of_patches(14, 7)[:15].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 0]


def test_patches_are_dropped_until_the_end_only() -> None:
    early, late = draw(RECIPE, torch.ones(10), 0), draw(RECIPE, torch.ones(10), 20)
    assert early[3] is not None
    assert early[3].shape == (6, 8)
    assert all(len(set(row)) == 8 for row in early[3].tolist())
    assert late[3] is None
    assert torch.equal(early[3], draw(RECIPE, torch.ones(10), 0)[3])  # type: ignore[arg-type]


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="patch_size 15"):
        dataclasses.replace(RECIPE, patch_size=15)
    with pytest.raises(DataError, match="keep_patches is 0"):
        dataclasses.replace(RECIPE, keep_patches=0.0)


def test_the_shipped_recipe_and_the_stage(tmp_path: Path) -> None:
    recipe = read_recipe(Path("training/recipes/vit-tower.yaml"), DistillRecipe)
    assert (recipe.width, recipe.size, recipe.patch_size) == (192, 224, 16)
    (tmp_path / "wrong.yaml").write_text("stage: distill\nwidht: 1\n")
    with pytest.raises(DataError, match="unknown key 'widht'"):
        run("distill", tmp_path / "wrong.yaml", tmp_path)
