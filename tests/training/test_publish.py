"""What is shipped by ``publish`` (the tower as it is, the rest as the mean of the last two stages) and by ``blend``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.data.records import DataError
from training.run import blend, publish


def test_the_last_two_stages_are_averaged(tmp_path: Path) -> None:
    runs, weights = tmp_path / "runs", tmp_path / "weights"
    for stage, value in (("tower", 9.0), ("instruct", 1.0), ("polish", 3.0)):
        (runs / stage / "adapter").mkdir(parents=True)
        tensors = {"a": torch.full((2, 3), value).half()}
        save_file(tensors, runs / stage / "model.safetensors")
        save_file(tensors, runs / stage / "connector.safetensors")
        save_file(tensors, runs / stage / "adapter" / "adapter_model.safetensors")
        (runs / stage / "adapter" / "adapter_config.json").write_text("{}")
    publish(runs, weights)
    for name, value in (
        ("tower.safetensors", 9.0), ("connector.safetensors", 2.0), ("adapter/adapter_model.safetensors", 2.0)
    ):  # fmt: skip
        found = load_file(weights / name)["a"]
        assert found.dtype == torch.float16
        assert (found == value).all()
    listed = (weights / "SHA256SUMS").read_text()
    assert all(n in listed for n in ("tower.safetensors", "connector.safetensors", "adapter/adapter_config.json"))
    assert not list(weights.rglob("*.tmp"))


def test_a_run_over_the_tower_of_an_encoder_is_blended_with_what_it_started_from(tmp_path: Path) -> None:
    run, weights = tmp_path / "run", tmp_path / "weights"
    for folder, value in ((run, 2.0), (weights, 1.0)):
        (folder / "adapter").mkdir(parents=True)
        for name in ("connector.safetensors", "adapter/adapter_model.safetensors"):
            save_file({"a": torch.full((2, 3), value).half()}, folder / name)
    encoder = tmp_path / "encoder.safetensors"
    save_file({"visual.backbone.b": torch.ones(2).half(), "logit_scale": torch.ones(1)}, encoder)
    with pytest.raises(DataError, match="no run that went on from"):
        blend(run, weights)
    recipe = {"tower": str(encoder), "connector": str(weights / "connector.safetensors")}
    (run / "recipe.json").write_text(json.dumps(recipe))
    blend(run, weights, share=0.75)
    assert set(load_file(weights / "tower.safetensors")) == {"b"}
    for name in ("connector.safetensors", "adapter/adapter_model.safetensors"):
        assert (load_file(weights / name)["a"] == 1.75).all()
        assert name in (weights / "SHA256SUMS").read_text()
