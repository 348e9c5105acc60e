"""Tiles, the scale-invariant connector and its tower: constant token count, exact masking, round trip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, CLIPVisionConfig

from assistant.model.connectors import (
    GRIDS,
    ScaleInvariantConnector,
    TiledImageProcessor,
    TiledTower,
    TiledTowerConfig,
    select_grid,
    tile_image,
)
from tests.checkpoints import realigned

TILE = 32
SIZES = [(40, 40), (31, 700), (900, 64), (150, 110), (1, 1)]


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def tower() -> TiledTower:
    torch.manual_seed(0)
    inner = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=TILE, patch_size=8
    )
    return TiledTower(TiledTowerConfig(inner_config=inner, num_layers=2, num_heads=4)).eval()


@pytest.fixture(scope="module")
def processor() -> TiledImageProcessor:
    return TiledImageProcessor(size={"height": TILE, "width": TILE})


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [(224, 224, (2, 2)), (2000, 500, (4, 1)), (500, 2000, (1, 4)), (1024, 768, (3, 2)), (1792, 224, (8, 1))],
)
def test_grid_follows_the_shape_of_the_image(width: int, height: int, grid: tuple[int, int]) -> None:
    assert select_grid(width, height, 224) == grid


def test_only_allowed_grids_are_chosen() -> None:
    assert select_grid(3000, 100, 224, [(2, 2), (1, 4)]) == (2, 2)


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_every_image_has_a_grid(width: int, height: int) -> None:
    assert select_grid(width, height, 224) in GRIDS


def test_tiles_put_together_are_the_image() -> None:
    image = noise(4 * TILE, 2 * TILE)
    views = tile_image(image, TILE)
    assert len(views) == 1 + 8
    assert {view.size for view in views} == {(TILE, TILE)}
    rows = [np.hstack([np.asarray(v) for v in views[1 + 4 * r : 5 + 4 * r]]) for r in range(2)]
    np.testing.assert_array_equal(np.vstack(rows), np.asarray(image))
    np.testing.assert_array_equal(
        np.asarray(views[0]), np.asarray(image.resize((TILE, TILE), Image.Resampling.BICUBIC))
    )


def test_number_of_tokens_does_not_depend_on_the_image(tower: TiledTower, processor: TiledImageProcessor) -> None:
    seen = set()
    for size in SIZES:
        pixels = processor(noise(*size), return_tensors="pt")["pixel_values"]
        seen.add(pixels.shape[1])
        with torch.no_grad():
            assert tower(pixels).last_hidden_state.shape == (1, 16, 32)
    assert len(seen) > 1, "all images got the same number of tiles, so nothing was shown"


def test_an_image_gives_the_same_tokens_alone_and_in_a_batch(tower: TiledTower, processor: TiledImageProcessor) -> None:
    images = [noise(*size) for size in SIZES]
    batch = processor(images, return_tensors="pt")["pixel_values"]
    assert batch.shape[:2] == (5, 9)
    with torch.no_grad():
        together = tower(batch).last_hidden_state
        for image, tokens in zip(images, together, strict=True):
            alone = tower(processor(image, return_tensors="pt")["pixel_values"]).last_hidden_state[0]
            torch.testing.assert_close(tokens, alone, atol=1e-5, rtol=1e-5)


def test_masked_tiles_have_no_influence_at_all() -> None:
    torch.manual_seed(0)
    connector = ScaleInvariantConnector(32, layers=2, heads=4).eval()
    overview, tiles = torch.randn(1, 4, 32), torch.randn(1, 12, 32)
    absent = torch.zeros(1, 12, dtype=torch.bool)
    absent[:, 8:] = True
    junk = tiles.clone()
    junk[:, 8:] = 1e3
    with torch.no_grad():
        expected = connector(overview, tiles[:, :8], absent[:, :8])
        torch.testing.assert_close(connector(overview, junk, absent), expected)
        assert not torch.allclose(connector(overview, junk, torch.zeros_like(absent)), expected)
        for token in range(8):  # and each present token does have some
            changed = tiles.clone()
            changed[:, token] += 1
            assert not torch.allclose(connector(overview, changed, absent), expected, atol=1e-6)


def test_black_tiles_count_as_present(tower: TiledTower, processor: TiledImageProcessor) -> None:
    pixels = processor(Image.new("RGB", (64, 64)), return_tensors="pt")["pixel_values"]
    assert pixels.ne(0).flatten(2).any(2).all()
    with torch.no_grad():
        assert torch.isfinite(tower(pixels).last_hidden_state).all()


def test_gradients_reach_connector_and_inner_tower(tower: TiledTower, processor: TiledImageProcessor) -> None:
    pixels = processor([noise(40, 40), noise(900, 64)], return_tensors="pt")["pixel_values"]
    tower.zero_grad()
    tower(pixels).last_hidden_state.pow(2).sum().backward()
    names = dict(tower.named_parameters())
    # the inner tower's last layer and final norm lie behind the second-last hidden state
    unused = ("inner.encoder.layers.2.", "inner.post_layernorm.")
    for name, parameter in names.items():
        if not name.startswith(unused):
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    assert names["connector.layers.0.cross_attention.in_proj_weight"].grad.abs().sum() > 0
    assert names["inner.embeddings.patch_embedding.weight"].grad.abs().sum() > 0
    tower.zero_grad()


def test_tower_and_processor_round_trip(tmp_path: Path, tower: TiledTower, processor: TiledImageProcessor) -> None:
    small = TiledImageProcessor(size={"height": TILE, "width": TILE}, grids=[[2, 2], [4, 1]])
    tower.save_pretrained(tmp_path)
    small.save_pretrained(tmp_path)
    loaded = realigned(AutoModel.from_pretrained(tmp_path).eval())
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, TiledTower)
    assert isinstance(again, TiledImageProcessor)
    assert again.grids == [[2, 2], [4, 1]]
    image = noise(900, 64)
    pixels = again(image, return_tensors="pt")["pixel_values"]
    assert pixels.shape[1] == 5
    assert torch.equal(pixels, small(image, return_tensors="pt")["pixel_values"])
    with torch.no_grad():
        assert torch.equal(loaded(pixels).last_hidden_state, tower(pixels).last_hidden_state)


def test_wrong_input_is_named(tower: TiledTower) -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 3, 32, 32\); expected"):
        tower(torch.randn(1, 3, 32, 32))
    empty = torch.zeros(1, 5, 3, TILE, TILE)
    empty[:, 0] = 1
    with pytest.raises(ValueError, match="no tiles"):
        tower(empty)
    with pytest.raises(StrictDataclassError, match="select_strategy"):
        TiledTowerConfig(select_strategy="cls")  # type: ignore[arg-type]
