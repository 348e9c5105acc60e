"""Parts put together: a hub preset needs a connector that somebody trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from assistant.errors import NotAvailable
from assistant.model.load import from_folder
from assistant.model.preset import Preset, Source
from assistant.model.vlm import hub_folder
from tests.assistant.model.test_build import tiny_preset, write_vision
from tests.checkpoints import write_qwen2


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preset:
    """Qwen with tiny parts that lie where the hub's would."""
    torch.manual_seed(0)
    preset = tiny_preset("qwen-7b")
    assert preset.vision is not None
    assert preset.language is not None
    places = {
        preset.vision.source: write_vision("qwen-7b", tmp_path / "v"),
        preset.language.source: write_qwen2(tmp_path / "l"),
    }
    monkeypatch.setattr(Source, "local", lambda self, **_: places[self])
    return replace(preset, name="tiny-qwen")


def test_a_hub_preset_without_a_trained_connector_is_refused(preset: Preset, tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match=r"tiny-qwen has no trained connector in .*weights.tiny-qwen.*embedded"):
        hub_folder(preset, source="wheels", cache=tmp_path / "cache")
    assert not (tmp_path / "cache" / "assembled").exists()


def test_a_trained_connector_is_used_and_a_new_one_replaces_it(preset: Preset, tmp_path: Path) -> None:
    weights = tmp_path / "cache" / "weights" / "tiny-qwen"
    weights.mkdir(parents=True)
    language, vision = 32, 32
    folders = []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        connector = {
            "linear_1.weight": torch.randn(language, vision, generator=generator),
            "linear_1.bias": torch.zeros(language),
            "linear_2.weight": torch.randn(language, language, generator=generator),
            "linear_2.bias": torch.zeros(language),
        }
        save_file({k: v.half() for k, v in connector.items()}, weights / "connector.safetensors")
        folder = hub_folder(preset, source="wheels", cache=tmp_path / "cache")
        model, _ = from_folder(folder)
        found = model.model.multi_modal_projector.state_dict()
        assert all(torch.allclose(found[k].float(), v, rtol=1e-2, atol=1e-3) for k, v in connector.items())  # bfloat16
        folders.append(folder)
    assert folders[0] != folders[1]


def test_a_connector_of_another_model_is_refused(preset: Preset, tmp_path: Path) -> None:
    weights = tmp_path / "cache" / "weights" / "tiny-qwen"
    weights.mkdir(parents=True)
    save_file({"linear_1.weight": torch.zeros(8, 8)}, weights / "connector.safetensors")
    with pytest.raises(NotAvailable, match=r"connector.safetensors does not fit tiny-qwen: .*linear_1.weight"):
        hub_folder(preset, source="wheels", cache=tmp_path / "cache")
