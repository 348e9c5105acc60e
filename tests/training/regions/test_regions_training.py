"""Crops and targets of the region stage, on painted fields, and that it learns and resumes to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from assistant.regions.network import Trunk
from training.data.records import DataError
from training.regions.data import (
    CROP,
    TOUCHING,
    Field,
    Sampler,
    _crop,
    centres,
    floating,
    inner_distance,
    load_fields,
    offsets,
    touching,
)
from training.regions.train import RegionsRecipe, run, start, train
from training.regions.train import offsets as offset_loss

RED, WHITE = (200, 30, 30), (240, 240, 240)


def field(dataset: str, seed: int = 0) -> Field:
    """White with dark red rectangles, labelled as the set's things."""
    rng = np.random.default_rng(seed)
    pixels = np.full((300, 320, 3), WHITE, np.uint8)
    ids = np.zeros((300, 320), np.int32)
    boxes = []
    for number in range(1, 9):
        x, y = int(rng.integers(0, 270)), int(rng.integers(0, 250))
        if ids[y : y + 40, x : x + 40].any():
            continue
        pixels[y : y + 30, x : x + 40], ids[y : y + 30, x : x + 40] = RED, number
        boxes.append((number % 3, x, y, x + 40, y + 30))
    made = Field(dataset, f"{dataset}{seed}", f"{dataset}{seed}", pixels)
    if dataset in ("monuseg", "consep_patches", "glas"):
        made.instances, made.distance, made.touching = ids, inner_distance(ids), touching(ids)
    if dataset == "consep_patches":
        made.kinds = np.where(ids > 0, ids % 4 + 1, 0).astype(np.uint8)
    if dataset == "luad_tissue_seg":
        made.tissue = (ids > 0).astype(np.uint8)
    if dataset == "bccd_boxes":
        made.boxes = np.array(boxes, np.float32)
    return made


@pytest.mark.parametrize("seed", range(8))
def test_targets_turn_with_the_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    crop = _crop(field("bccd_boxes", seed), rng)
    red = crop["pixels"][..., 1] < 120
    assert len(crop["boxes"])
    for _, x0, y0, x1, y1 in crop["boxes"]:
        inside = red[int(y0 + 3) : int(y1 - 3), int(x0 + 3) : int(x1 - 3)]
        assert inside.mean() > 0.95
    shapes = _crop(field("monuseg", seed), np.random.default_rng(seed))
    dark = shapes["pixels"][..., 1] < 120
    assert (dark == (shapes["fg"][0] > 0)).mean() > 0.97
    assert shapes["fg"].shape == (3, CROP, CROP)
    assert _crop(field("glas", seed), np.random.default_rng(seed))["glands"].shape == (3, CROP // 2, CROP // 2)


def test_places_where_instances_touch_count_more() -> None:
    ids = np.zeros((40, 40), np.int32)
    ids[5:30, 5:18], ids[5:30, 18:30] = 1, 2
    near = touching(ids)
    assert near[15, 16:20].all()
    assert not near[15, [6, 12, 25]].any()
    assert not near[:, 33:].any()
    made = field("monuseg")
    assert made.instances is not None
    made.instances[100:140, 100:140], made.instances[100:140, 140:180] = 90, 91
    made.distance, made.touching = inner_distance(made.instances), touching(made.instances)
    weights = {float(w) for seed in range(6) for w in np.unique(_crop(made, np.random.default_rng(seed))["fg"][2])}
    assert weights <= {0.0, 1.0, 1.0 + TOUCHING}
    assert 1.0 + TOUCHING in weights


def test_distance_is_one_in_the_middle_and_small_at_the_outline() -> None:
    ids = np.zeros((20, 20), np.int32)
    ids[5:14, 5:14], ids[5:14, 14:18] = 1, 2
    distance = inner_distance(ids)
    assert distance[9, 9] == 1
    assert distance[9, 13] < 0.3
    assert distance[9, 14] < 0.6
    assert (distance[ids == 0] == 0).all()


def test_offsets_point_away_from_the_centre() -> None:
    ids = np.zeros((20, 30), np.int32)
    ids[4:15, 3:14], ids[4:15, 14:25] = 1, 2
    across, down = offsets(ids)
    assert across[9, 3] == down[4, 8] == -1
    assert across[9, 13] == down[14, 8] == 1
    assert across[9, 14] == -1
    assert abs(across[9, 8]) < 1e-6
    assert not across[ids == 0].any()


def test_wrong_slopes_cost_more_than_a_shift() -> None:
    shape = torch.ones(1, 3, 24, 24)
    target = torch.linspace(-1, 1, 24).expand(1, 2, 24, 24)
    none = torch.zeros_like(target)
    assert float(offset_loss(target, target, shape)) == 0
    shifted, reversed_ = (float(offset_loss(m, target, shape)) for m in (target + 0.5, -target))
    assert 0 < shifted < float(offset_loss(none, target, shape)) < reversed_
    outside = shape * torch.tensor([0.0, 1, 1])[:, None, None]
    assert float(offset_loss(none, target, outside)) == 0


def test_later_channels_of_a_head_start_as_they_are() -> None:
    first, later = Trunk(("nuclei",)), Trunk(("nuclei",))
    state = {k: v[: 4 * 6] if k.startswith("heads.nuclei.1.") else v for k, v in first.state_dict().items()}
    own = later.heads["nuclei"][1].weight.detach().clone()  # type: ignore[index]
    start(later, state)
    weight = later.heads["nuclei"][1].weight  # type: ignore[index]
    assert torch.equal(weight[:24], first.heads["nuclei"][1].weight[:24])  # type: ignore[index]
    assert torch.equal(weight[24:], own[24:])


def test_bare_glass_leaves_the_glands() -> None:
    rng = np.random.default_rng(0)
    pixels = np.full((64, 64, 3), 90, np.uint8)
    inside = np.zeros((64, 64), bool)
    inside[20:40, 20:40] = True
    found = floating(pixels, inside, rng)
    assert (abs(found[22:38, 22:38].astype(int) - 90) <= 3).all()
    assert found[:8].min() > 200


def test_centres_mark_the_right_cell() -> None:
    heat, size, where = centres(np.array([[1, 40, 80, 80, 100]], np.float32), 64)
    assert heat[1, 22, 15] == 1
    assert heat[1].max() == 1
    assert heat[0].max() == 0
    assert where.sum() == 1
    assert torch.allclose(size[:, 22, 15], torch.tensor([np.log(10), np.log(5), 0.0, 0.5], dtype=torch.float32))


def test_boxes_outside_the_image_are_refused_with_the_line(tmp_path: Path) -> None:
    folder = tmp_path / "bccd_boxes"
    folder.mkdir()
    Image.new("RGB", (64, 48)).save(folder / "a.png")
    row = {"image": "a.png", "split": "train", "boxes": [{"label": "platelet", "xyxy": [1, 1, 5, 5]}]}
    bad = {**row, "boxes": [{"label": "platelet", "xyxy": [60, 1, 70, 5]}]}
    (folder / "index.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(bad))
    with pytest.raises(DataError, match=r"index.jsonl:2: the box \[60, 1, 70, 5\] is not inside the image, 64 x 48"):
        load_fields("bccd_boxes", "train", tmp_path)
    (folder / "index.jsonl").write_text(json.dumps(row))
    assert load_fields("bccd_boxes", "train", tmp_path)[0].boxes.tolist() == [[2, 0.5, 0.5, 2.5, 2.5]]


SHARES = {"monuseg": 1, "consep_patches": 1, "glas": 1, "luad_tissue_seg": 1, "bccd_boxes": 1}


def small() -> tuple[Trunk, Sampler]:
    torch.manual_seed(0)
    return Trunk(), Sampler([field(name) for name in SHARES], SHARES)


@pytest.mark.slow
def test_it_learns_and_resumes_to_the_bit(tmp_path: Path) -> None:
    recipe = RegionsRecipe(start="", steps=8, checkpoint_every=4, log_every=4, lr=3e-3)
    whole = train(*small(), recipe, tmp_path / "whole")
    assert np.mean(whole[-2:]) < np.mean(whole[:2])

    class Killed(Exception):
        pass

    trunk, sampler = small()
    draw = sampler.draw

    def dies(step: int):
        if step == 6:
            raise Killed
        return draw(step)

    sampler.draw = dies  # type: ignore[method-assign]
    with pytest.raises(Killed):
        train(trunk, sampler, recipe, tmp_path / "part")
    rest = train(*small(), recipe, tmp_path / "part", resume=True)
    assert rest == whole[4:]
    first, second = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "part"))
    assert first == second


def test_a_source_without_fields_is_named() -> None:
    with pytest.raises(DataError, match="no field of glas"):
        Sampler([field("monuseg")], {"monuseg": 1, "glas": 1})


def test_a_stage_goes_on_from_a_tower_or_a_whole_network() -> None:
    torch.manual_seed(1)
    whole, made = Trunk(("nuclei", "blood")), Trunk(("nuclei", "glands"))
    glands = made.heads["glands"][1].weight.detach().clone()  # type: ignore[index]
    start(made, {k: v.half() for k, v in whole.state_dict().items()})
    assert torch.allclose(made.lateral[0].weight, whole.lateral[0].weight, atol=1e-2)
    assert torch.allclose(made.heads["nuclei"][1].weight, whole.heads["nuclei"][1].weight, atol=1e-2)  # type: ignore[index]
    assert torch.equal(made.heads["glands"][1].weight, glands)  # type: ignore[index]
    tower = {f"visual.backbone.{k}": v for k, v in whole.encoder.state_dict().items()}
    start(made := Trunk(("glands",)), tower)
    assert all(torch.equal(v, made.encoder.state_dict()[k]) for k, v in whole.encoder.state_dict().items())


def test_of_several_files_to_start_from_a_later_one_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "whole.safetensors", tmp_path / "decoder.safetensors"]
    torch.manual_seed(2)
    whole, decoder = Trunk(("glands",)).state_dict(), Trunk(("glands",)).state_dict()
    decoder = {k: v for k, v in decoder.items() if not k.startswith("encoder.")}
    for file, state in zip(files, (whole, decoder), strict=True):
        save_file({k: v.contiguous() for k, v in state.items()}, file)
    monkeypatch.setattr("training.regions.train.load_fields", lambda name, _: [field(name)])
    recipe = RegionsRecipe(
        shares=(("glas", 1),), start=tuple(str(f) for f in files), steps=1, lr=0.0, encoder_lr=0.0, weight_decay=0.0
    )
    run(recipe, tmp_path / "run")
    found = load_file(tmp_path / "run" / "model.safetensors")
    assert not any(k.startswith("encoder.") for k in found)
    assert all(torch.equal(v, decoder[k].half()) for k, v in found.items())
