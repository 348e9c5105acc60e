"""What ``publish`` ships: the tower as it is, connector and adapter as the mean of the last two stages."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.run import publish


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
