"""Adapters for sub-models of others, run for real on tiny checkpoints written in the hub's own format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from assistant.cli import app
from assistant.errors import BadInput, NotAvailable
from assistant.tools import ToolState, find_tools, run_call
from assistant.tools.adapters import (
    FOLDERS,
    _loaded,
    detect_cytology,
    generate_cell_image,
    marked,
    missing,
    segment_prompted,
)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in FOLDERS.values():
        monkeypatch.delenv(variable, raising=False)
    find_tools.cache_clear()
    _loaded.cache_clear()
    yield
    find_tools.cache_clear()


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(90, 230, (96, 128, 3)).astype(np.uint8)
    pixels[20:50, 30:70] = (90, 40, 120)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    folder = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    size = {"image_size": 64, "patch_size": 16}
    vision = {
        **size, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "output_channels": 16,
        "global_attn_indexes": [1], "window_size": 2, "mlp_dim": 32, "num_pos_feats": 8,
    }  # fmt: skip
    prompt = {**size, "hidden_size": 16, "mask_input_channels": 4}
    decoder = {
        "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        "iou_head_depth": 2,
    }  # fmt: skip
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    SamModel(config).save_pretrained(folder)
    square = {"height": 64, "width": 64}
    processor = SamImageProcessor(
        size={"longest_edge": 64},
        pad_size=square,
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )
    SamProcessor(processor).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    folder = tmp_path_factory.mktemp("yolos")
    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[64, 64],
        patch_size=16, num_detection_tokens=6, id2label={0: "ASC-US", 1: "HSIL"}, label2id={"ASC-US": 0, "HSIL": 1},
    )  # fmt: skip
    YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_without_weights_they_are_listed_and_offered_to_nobody(picture: Image.Image) -> None:
    registry = find_tools()
    assert set(registry.waiting) == set(FOLDERS)
    assert not set(registry.tools) & set(FOLDERS)
    for name, variable in FOLDERS.items():
        assert f"export {variable}=FOLDER" in str(missing(name))
        with pytest.raises(NotAvailable, match="weights not included"):
            _ = registry[name]
    with ToolState([picture]) as state:
        call = run_call("segment_prompted", {"box": [1, 1, 9, 9]}, state)
    assert (call.status, "weights not included" in call.result.text) == ("refused", True)
    said = CliRunner().invoke(app, ["tools", "list", "--json"])
    assert "weights not included" in json.loads(said.stdout)["waiting"]["detect_cytology"]


def test_a_folder_that_is_none_or_holds_no_model(
    picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATHASSIST_SAM", str(tmp_path / "absent"))
    assert "which is no folder" in str(missing("segment_prompted"))
    monkeypatch.setenv("PATHASSIST_SAM", str(tmp_path))
    assert "segment_prompted" in find_tools().tools
    with pytest.raises(NotAvailable, match="cannot be loaded as SamModel"):
        segment_prompted(picture, [1, 1, 9, 9])
    (tmp_path / "config.json").write_text('{"model_type": "sam"}')
    with pytest.raises(NotAvailable, match="cannot be loaded as SamModel"):
        segment_prompted(picture, [1, 1, 9, 9])


def test_a_prompted_outline_is_the_model_s_own(
    sam: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATHASSIST_SAM", str(sam))
    result = segment_prompted(picture, [30, 20, 70, 50])
    model, processor = _loaded("sam", str(sam))
    inputs = processor(images=picture, input_boxes=[[[30, 20, 70, 50]]], return_tensors="pt")
    with torch.no_grad():
        said = model(**inputs)
    masks = processor.image_processor.post_process_masks(
        said.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )[0][0]
    best = int(said.iou_scores[0, 0].argmax())
    assert tuple(masks.shape[1:]) == (96, 128)
    assert result.numbers["area_px"] == int(masks[best].sum())
    if result.geojson is not None:
        ring = np.array(result.geojson["features"][0]["geometry"]["coordinates"][0])
        assert ring.min() >= -1
        assert (ring.max(axis=0) <= (129, 97)).all()
        assert result.overlays["outline"].size == picture.size
    for box in ([50, 20, 30, 50], [0, 0, 200, 50], [-1, 0, 5, 5]):
        with pytest.raises(BadInput, match="not inside the image"):
            segment_prompted(picture, box)


def test_cells_are_found_in_pixels_of_the_field_and_margins_are_counted_once(
    detector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATHASSIST_CYTOLOGY", str(detector))
    monkeypatch.setattr("assistant.tools.adapters._TILE", 64)
    monkeypatch.setattr("assistant.tools.adapters._MARGIN", 16)
    pixels = np.random.default_rng(1).integers(60, 230, (100, 150, 3)).astype(np.uint8)
    result = detect_cytology(Image.fromarray(pixels), threshold=0.05)
    count = result.numbers["count"]
    assert count > 0
    assert sum(result.numbers["counts"].values()) == count
    assert set(result.numbers["counts"]) <= {"ASC-US", "HSIL"}
    assert result.geojson is not None
    assert len(result.geojson["features"]) == count
    assert detect_cytology(Image.fromarray(pixels), threshold=0.99).numbers["count"] == 0
    with pytest.raises(BadInput, match="blank"):
        detect_cytology(Image.new("RGB", (80, 80), (245, 244, 246)))


def test_an_adapter_runs_as_a_tool_in_its_own_process(
    sam: Path, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATHASSIST_SAM", str(sam))
    with ToolState([picture]) as state:
        call = run_call("segment_prompted", {"box": [30, 20, 70, 50]}, state)
    assert call.status == "ok", call.result.text
    assert "not included" in call.result.warnings[0]


def test_generation_needs_diffusers_and_marks_what_it_draws(
    tmp_path: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotAvailable, match="weights not included"):
        generate_cell_image("a plasma cell")
    monkeypatch.setenv("PATHASSIST_CELLS", str(tmp_path))
    wanted = "cannot be loaded by diffusers" if find_spec("diffusers") else "pip install diffusers"
    with pytest.raises(NotAvailable, match=wanted):
        generate_cell_image("a plasma cell")
    drawn = marked(picture)
    assert drawn.size == (128, 112)
    band = np.asarray(drawn)[96:]
    assert (band > 200).all(axis=-1).any()
    assert (np.asarray(drawn)[:96] == np.asarray(picture)).all()


def test_a_tool_with_no_image_at_hand(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["tools", "run", "check_quality"])
    assert said.exit_code == 2
    assert "needs an image" in said.output
