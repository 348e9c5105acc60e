"""open_clip → CLIPVisionModel: equal outputs from every kind of source, and refusal of what has no counterpart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from assistant.errors import BadInput, NotAvailable
from assistant.model.convert import clip_vision_from_open_clip, load_open_clip_vision, read_state
from tests.checkpoints import tiny_vit, tiny_vit_config, write_open_clip


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def difference(open_clip_model: Any, converted: Any) -> float:
    """Largest difference over the pooled output and every hidden state, on random pixels."""
    visual = open_clip_model.visual
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours = converted(pixels, output_hidden_states=True)
        theirs = visual.forward_intermediates(pixels, output_fmt="NLC", output_extra_tokens=True)
        layers = [
            torch.cat(pair, 1)
            for pair in zip(theirs["image_intermediates_prefix"], theirs["image_intermediates"], strict=True)
        ]
        pairs = [(ours.pooler_output @ visual.proj, visual(pixels)), *zip(ours.hidden_states[1:], layers, strict=True)]
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("extra", [{}, {"norm_kwargs": {"eps": 1e-2}}], ids=["plain", "eps"])
def test_outputs_equal_those_of_open_clip(quick_gelu: bool, extra: dict[str, Any]) -> None:
    config = tiny_vit_config(quick_gelu=quick_gelu, **extra)
    model = tiny_vit(config)
    assert difference(model, clip_vision_from_open_clip(model, config)) < 1e-5
    assert difference(model, clip_vision_from_open_clip(model.visual.state_dict(), config)) < 1e-5


def test_the_other_activation_would_be_noticed() -> None:
    config = tiny_vit_config(quick_gelu=True)
    model = tiny_vit(config)
    assert difference(model, clip_vision_from_open_clip(model, {**config, "quick_gelu": False})) > 1e-4


def test_tanh_gelu_is_carried_over() -> None:
    config = tiny_vit_config(act_kwargs={"approximate": "tanh"})
    model = tiny_vit(config)
    assert difference(model, clip_vision_from_open_clip(model, config)) < 1e-5


@pytest.mark.parametrize("safetensors", [True, False])
def test_folder_in_the_hubs_layout(tmp_path: Path, safetensors: bool) -> None:
    config = tiny_vit_config(quick_gelu=True)
    model = tiny_vit(config)
    folder = write_open_clip(tmp_path / "hub", config, model, safetensors=safetensors)
    converted, preprocess = load_open_clip_vision(folder)
    assert difference(model, converted) < 1e-5
    assert (preprocess.image_size, preprocess.mean, preprocess.std) == (32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert preprocess.crop


@pytest.fixture
def tiny_architecture(tmp_path: Path) -> str:
    """An architecture registered with open_clip, since a bare checkpoint file does not say its own."""
    import json

    import open_clip

    (tmp_path / "tiny-test-vit.json").write_text(json.dumps(tiny_vit_config()))
    open_clip.add_model_config(tmp_path / "tiny-test-vit.json")
    return "tiny-test-vit"


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin", "epoch_3.pt"])
def test_single_checkpoint_file(tmp_path: Path, tiny_architecture: str, name: str) -> None:
    model = tiny_vit(tiny_vit_config(quick_gelu=True))
    if name.endswith(".safetensors"):
        save_file(model.state_dict(), tmp_path / name)
    elif name.endswith(".bin"):
        torch.save(model.state_dict(), tmp_path / name)
    else:  # as open_clip's own training writes it
        state = {f"module.{key}": value for key, value in model.state_dict().items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": state}, tmp_path / name)
    converted, _ = load_open_clip_vision(tmp_path / name, tiny_architecture, quick_gelu=True)
    assert difference(model, converted) < 1e-5


def test_folder_with_one_nameless_checkpoint(tmp_path: Path, tiny_architecture: str) -> None:
    model = tiny_vit(tiny_vit_config())
    folder = tmp_path / "pathclip"
    folder.mkdir()
    torch.save(model.state_dict(), folder / "pathclip-base.pt")
    converted, _ = load_open_clip_vision(folder, tiny_architecture)
    assert difference(model, converted) < 1e-5


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"no_ln_pre": True}, "no_ln_pre"),
        ({"attentional_pool": True, "attn_pooler_heads": 2}, "attentional pooling"),
        ({"ls_init_value": 1e-4}, "layer scale"),
        ({"pool_type": "avg"}, "pool_type"),
        ({"qk_norm": True}, "without a counterpart"),
        ({"layers": [1, 1, 1, 1]}, "ResNet"),
        ({"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"}, "TimmTower"),
    ],
)
def test_what_has_no_counterpart_is_refused(extra: dict[str, Any], reason: str) -> None:
    config = tiny_vit_config(**extra)
    if "timm_model_name" in extra:
        config["vision_cfg"]["image_size"] = 160
    with pytest.raises(BadInput, match=reason) as error:
        clip_vision_from_open_clip(tiny_vit(config), config)
    assert "\n" not in str(error.value)


def test_configuration_of_another_width_is_refused() -> None:
    config = tiny_vit_config()
    model = tiny_vit(config)
    with pytest.raises(BadInput, match="head_width 7"):
        clip_vision_from_open_clip(model, tiny_vit_config(head_width=7))
    state = model.state_dict()
    del state["visual.ln_post.bias"]
    with pytest.raises(BadInput, match=r"post_layernorm\.bias"):
        clip_vision_from_open_clip(state, config)


class Runs:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_pickled_code_never_runs(tmp_path: Path) -> None:
    torch.save({"state_dict": Runs(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(BadInput, match="pickles with code are refused"):
        read_state(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pt"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x00\x01broken")
    with pytest.raises(BadInput, match=name):
        read_state(tmp_path / name)


def test_missing_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="name the architecture"):
        load_open_clip_vision(tmp_path)
    with pytest.raises(NotAvailable, match=r"expected open_clip_model\.safetensors .* found none"):
        load_open_clip_vision(tmp_path, "ViT-B-16")
    with pytest.raises(NotAvailable, match="no checkpoint at"):
        load_open_clip_vision(tmp_path / "absent.pt", "ViT-B-16")
    with pytest.raises(BadInput, match="no architecture 'ViT-Z'"):
        load_open_clip_vision(tmp_path, "ViT-Z")
