"""The region network: shapes of its maps, instances from made-up maps, tiles, and the shipped weights on fields."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from assistant.errors import NotAvailable
from assistant.regions.instances import Settings, cells, instances, kinds_of, resized, suppress
from assistant.regions.model import Regions, load_regions, read_regions
from assistant.regions.network import HEADS, KINDS, STRIDES, Trunk, start_encoder
from training.regions.data import inner_distance, offsets


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    torch.manual_seed(0)
    return Trunk().eval()


def discs(*places: tuple[int, int, int], side: int = 64) -> np.ndarray:
    """Instance ids of discs (row, column, radius); later ones are cut by earlier ones."""
    rows, columns = np.mgrid[:side, :side]
    out = np.zeros((side, side), np.int32)
    for number, (r, c, radius) in enumerate(places, 1):
        out[((rows - r) ** 2 + (columns - c) ** 2 <= radius**2) & (out == 0)] = number
    return out


def test_maps_have_the_stated_shapes(trunk: Trunk) -> None:
    with torch.no_grad():
        out = trunk(torch.zeros(1, 3, 64, 96))
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        h: (1, HEADS[h], 64 // STRIDES[h], 96 // STRIDES[h]) for h in HEADS
    }


def test_batch_norm_of_the_encoder_stays_as_it_is(trunk: Trunk) -> None:
    before = trunk.encoder.bn1.running_mean.clone()
    trunk.train()
    trunk(torch.randn(2, 3, 64, 64))
    trunk.eval()
    assert torch.equal(before, trunk.encoder.bn1.running_mean)


def test_the_encoder_starts_from_a_tower(trunk: Trunk) -> None:
    tower = {f"visual.backbone.{k}": v + 1 for k, v in trunk.encoder.state_dict().items()}
    other = Trunk(("tissue",))
    start_encoder(other, tower)
    assert torch.equal(other.encoder.bn1.weight, trunk.encoder.bn1.weight + 1)
    with pytest.raises(ValueError, match="lacks 1 tensors"):
        start_encoder(other, {k: v for k, v in tower.items() if k != "visual.backbone.bn1.weight"})


def test_touching_instances_come_apart() -> None:
    truth = discs((20, 20, 9), (20, 36, 9), (50, 50, 5))
    found = instances((truth > 0).astype(np.float32), inner_distance(truth), Settings())
    assert found.max() == 3
    for number in (1, 2, 3):
        mine = found[truth == number]
        best = np.bincount(mine).argmax()
        assert best > 0
        assert (mine == best).mean() > 0.85


def test_offsets_part_what_the_distance_does_not() -> None:
    truth = discs((20, 20, 9), (20, 37, 9))
    flat = (truth > 0).astype(np.float32)
    assert instances(flat, flat, Settings()).max() == 1
    found = instances(flat, flat, Settings(), offsets(truth))
    assert found.max() == 2
    assert all((found[truth == n] == np.bincount(found[truth == n]).argmax()).mean() > 0.85 for n in (1, 2))
    alone = discs((30, 30, 14))
    assert instances((alone > 0).astype(np.float32), inner_distance(alone), Settings(), offsets(alone)).max() == 1


def test_offsets_of_a_mirrored_view_point_the_right_way(trunk: Trunk, monkeypatch: pytest.MonkeyPatch) -> None:
    import assistant.regions.model as model

    network = Regions(trunk, research=True, version="test")
    pixels = np.random.default_rng(1).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    monkeypatch.setattr(model, "VIEWS", {"nuclei": ((1.0, False), (1.0, True))})
    found = network._chances("nuclei", pixels)
    mirrored = network._chances("nuclei", pixels[:, ::-1])[:, :, ::-1]
    assert np.allclose(found[:6], mirrored[:6], atol=1e-4)
    assert np.allclose(found[6], -mirrored[6], atol=1e-4)
    assert np.allclose(found[7], mirrored[7], atol=1e-4)


def test_a_piece_without_a_core_is_kept_and_a_speck_is_not() -> None:
    truth = discs((20, 20, 6), (50, 50, 1))
    found = instances((truth > 0).astype(np.float32), np.zeros((64, 64), np.float32), Settings(least=12))
    assert found.max() == 1
    assert found[20, 20] == 1


def test_kinds_are_means_over_instances() -> None:
    ids = np.array([[1, 1], [2, 0]], np.int32)
    chances = np.array([[[0.2, 0.4], [1.0, 9]], [[0.8, 0.6], [0.0, 9]]], np.float32)
    assert np.allclose(kinds_of(ids, chances), [[0.3, 0.7], [1.0, 0.0]])


def test_cells_are_decoded_and_suppressed() -> None:
    maps = np.full((7, 16, 16), -8.0, np.float32)
    maps[3:] = 0
    maps[1, 4, 6], maps[1, 4, 9], maps[2, 12, 3] = 3, 2, 1
    maps[3:5, 4, 6] = maps[3:5, 4, 9] = np.log(8)
    maps[5:7, 4, 6] = 0.5
    boxes, scores = cells(maps)
    assert scores.argmax(axis=1).tolist() == [1, 1, 2]
    assert np.allclose(boxes[0], [2.5, 0.5, 10.5, 8.5])
    assert suppress(boxes, scores, 0.3).tolist() == [0, 2]
    assert suppress(boxes[:0], scores[:0]).tolist() == []


def test_tiles_meet_without_gaps(trunk: Trunk) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (530, 700, 3), np.uint8)
    whole = Regions(trunk, research=True, version="x").maps(pixels, ("tissue", "nuclei"))
    assert whole["tissue"].shape == (4, 133, 175)
    assert whole["nuclei"].shape == (HEADS["nuclei"], 530, 700)
    assert (np.abs(whole["nuclei"]).sum(axis=0) > 0).all()


def test_nuclei_are_read_by_a_network_of_their_own(trunk: Trunk) -> None:
    torch.manual_seed(3)
    other, pixels = Trunk(("nuclei",)).eval(), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    both = Regions(trunk, research=True, version="x", own={"nuclei": other})
    apart = [Regions(one, research=True, version="x") for one in (trunk, other)]
    maps, features = both.look(pixels, ("nuclei", "tissue", "glands"))
    assert np.array_equal(maps["nuclei"], apart[1].look(pixels, ("nuclei",))[0]["nuclei"])
    assert not np.array_equal(maps["nuclei"], apart[0].look(pixels, ("nuclei",))[0]["nuclei"])
    assert np.array_equal(maps["glands"], apart[0].look(pixels, ("glands",))[0]["glands"])
    assert np.array_equal(features, apart[1].look(pixels, ("nuclei",))[1])
    # Heads at a quarter of the resolution do without the rest of the decoder.
    assert np.array_equal(maps["tissue"], both.look(pixels, ("tissue",))[0]["tissue"])
    with pytest.raises(NotAvailable, match="read none of: glands; they read nuclei"):
        apart[1].look(pixels, ("glands",))


@pytest.mark.parametrize("shape", [(64, 96), (61, 83), (40, 33)])
def test_views_are_averaged_in_place(trunk: Trunk, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Chances have the size of the field, and a mirrored field has the mirrored ones when every view has its mirror."""
    import assistant.regions.model as model

    network = Regions(trunk, research=True, version="test")
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    for head in ("nuclei", "glands"):
        found = network._chances(head, pixels)
        assert found.shape == (HEADS[head], *shape)
        assert found[:6].min() >= 0
        assert abs(found).max() <= 1
    assert np.allclose(network._chances("nuclei", pixels)[KINDS].sum(axis=0), 1, atol=1e-4)
    if shape[1] % 32 == 0:  # else padding is on one side
        monkeypatch.setattr(model, "VIEWS", model.VIEWS | {"glands": ((1.0, False), (1.0, True))})
        found = network._chances("glands", pixels)
        mirrored = network._chances("glands", pixels[:, ::-1])[:, :, ::-1]
        assert np.allclose(found, mirrored, atol=1e-4)


def test_a_decoder_of_its_own_shares_the_encoder(trunk: Trunk, tmp_path: Path) -> None:
    torch.manual_seed(1)
    mine = Trunk(("glands",))
    mine.encoder.load_state_dict(trunk.encoder.state_dict())
    for name, one in (("all", trunk), ("glands", mine)):
        state = {k: v.half().contiguous() for k, v in one.state_dict().items() if "num_batches" not in k}
        kept = {k: v for k, v in state.items() if name == "all" or not k.startswith("encoder.")}
        save_file(kept, tmp_path / f"{name}.safetensors")
    network = read_regions(tmp_path / "all.safetensors", own={"glands": tmp_path / "glands.safetensors"})
    assert network.trunks["glands"].encoder is network.trunks["blood"].encoder
    assert network.trunks["glands"] is not network.trunks["blood"]
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    calls: list[int] = []
    network.trunks["blood"].encoder.register_forward_hook(lambda *_: calls.append(1))
    both, _ = network.look(pixels, ("blood", "glands"))
    assert len(calls) == 1
    assert np.array_equal(both["glands"], network.look(pixels, ("glands",))[0]["glands"])
    assert np.array_equal(both["blood"], network.look(pixels, ("blood",))[0]["blood"])
    with pytest.raises(NotAvailable, match="not this network"):
        read_regions(tmp_path / "glands.safetensors")


def test_a_field_that_was_enlarged_is_not_enlarged_further(trunk: Trunk, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Regions(trunk, research=True, version="test")
    seen: list[tuple[int, int]] = []
    maps = network.maps
    monkeypatch.setattr(network, "maps", lambda pixels, heads: (seen.append(pixels.shape[:2]), maps(pixels, heads))[1])
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    network.nuclei(pixels, mpp=0.25)
    assert seen == [(96, 144)]
    seen.clear()
    assert network.nuclei(pixels, mpp=0.5).ids.shape == (64, 96)
    assert seen == [(128, 192)]


def test_maps_are_resized() -> None:
    maps = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    assert resized(maps, (2, 2)) is maps
    assert resized(maps, (6, 4)).shape == (2, 6, 4)


def test_missing_and_wrong_weights(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match=r"no weights none\.safetensors .* train them"):
        read_regions(tmp_path / "none.safetensors")
    from safetensors.torch import save_file

    save_file({"heads.tissue.1.bias": torch.zeros(4)}, tmp_path / "part.safetensors")
    with pytest.raises(NotAvailable, match=r"part.safetensors is not this network's"):
        read_regions(tmp_path / "part.safetensors")


@pytest.mark.data
def test_shipped_weights_find_the_white_cell(data_root: Path) -> None:
    rows = [json.loads(x) for x in (data_root / "bccd_boxes" / "index.jsonl").read_text().splitlines()]
    row = next(
        r for r in rows if r["split"] == "val" and sum(b["label"] == "white blood cell" for b in r["boxes"]) == 1
    )
    true = next(b["xyxy"] for b in row["boxes"] if b["label"] == "white blood cell")
    with Image.open(data_root / "bccd_boxes" / row["image"]) as opened:
        boxes, scores = load_regions().blood(np.asarray(opened.convert("RGB")))
    best = boxes[int(scores[:, 1].argmax())]
    from eval.metrics.boxes import box_iou

    assert box_iou([best], [true])[0, 0] > 0.5


@pytest.mark.data
def test_shipped_weights_outline_nuclei(data_root: Path) -> None:
    from eval.metrics.segmentation import dice

    row = next(
        r for x in (data_root / "dsb2018_stained" / "index.jsonl").read_text().splitlines()
        if (r := json.loads(x))["split"] == "val"
    )  # fmt: skip
    with Image.open(data_root / "dsb2018_stained" / row["image"]) as opened:
        found = load_regions().nuclei(np.asarray(opened.convert("RGB")))
    with Image.open(data_root / "dsb2018_stained" / row["instances"]) as truth:
        assert dice(np.asarray(truth), found.ids) > 0.6
    assert found.kinds is not None
    assert found.kinds.shape == (found.ids.max(), 4)


def test_a_decoder_of_outlines_starts_as_nothing_and_sees_the_pixels(trunk: Trunk) -> None:
    torch.manual_seed(2)
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    plain = Trunk(outlined=()).eval()
    plain.load_state_dict({k: v for k, v in trunk.state_dict().items() if not k.startswith("outlines.")})
    with torch.no_grad():
        wanted, found = plain(pixels), trunk(pixels)
        assert all(torch.allclose(wanted[h], found[h], atol=1e-5) for h in HEADS)
        last = trunk.outlines["nuclei"].body[-1]  # type: ignore[index]
        last.weight.normal_(std=0.1)
        half, quarter = trunk.features(pixels)
        dark = trunk.head("nuclei", pixels - 0.5, half, quarter)
        assert not torch.allclose(trunk.head("nuclei", pixels, half, quarter), dark, atol=1e-3)
        last.weight.zero_()


def test_what_is_hardly_foreground_is_no_instance() -> None:
    truth = discs((20, 20, 9), (45, 45, 9))
    foreground = np.where(truth == 1, 0.95, np.where(truth == 2, 0.6, 0.0)).astype(np.float32)
    assert instances(foreground, inner_distance(truth), Settings(sure=0.5)).max() == 2
    sure = instances(foreground, inner_distance(truth), Settings(sure=0.7))
    assert sure.max() == 1
    assert sure[20, 20] == 1
