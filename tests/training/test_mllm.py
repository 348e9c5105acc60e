"""The chat model as an encoder, on the tiny LLaVA: prompts, batching, learning, resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from assistant.assistant import Assistant
from assistant.errors import BadInput
from assistant.model.engine import make_engine
from assistant.model.mllm import Composed, MllmEncoder
from tests.conftest import make_tiny_llava
from tests.training.clip.test_clip import COLOURS, record
from training import mllm
from training.data.records import Record
from training.features import FeatureStore, build_features
from training.mllm import MllmRecipe, train_mllm

RECIPE = MllmRecipe(
    steps=6, batch_size=8, lr=1e-2, lora_r=4, views=2, hard=0.3, mixed_precision="no", checkpoint_every=3, log_every=3
)


@pytest.fixture
def tiny() -> Assistant:
    model, processor = make_tiny_llava()
    return Assistant(model, processor, make_engine(model), name="tiny", revision="embedded-abc")


@pytest.fixture
def material(tiny: Assistant, tmp_path: Path) -> tuple[list[Record], FeatureStore]:
    records = []
    generator = np.random.default_rng(0)
    for organ, colour in COLOURS.items():
        for slide in "ab":
            pixels = generator.normal(colour, 20, (64, 64, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path := tmp_path / f"{organ}{slide}.png")
            records.append(record(path, organ, f"disease of {organ}", organ + slide))
    vision = tiny.model.model.vision_tower
    store = build_features(vision, [r.image for r in records], tmp_path, size=64, views=2, dtype=torch.float32)
    return records, store


def test_vectors_do_not_depend_on_the_batch(tiny: Assistant, field: Image.Image) -> None:
    encoder = MllmEncoder(tiny, None)
    inputs = [
        Composed((field,)),
        Composed(text="a gland"),
        Composed((field, field.rotate(90)), "like this, in the liver"),
    ]
    together, alone = encoder.embed(inputs), encoder.embed(inputs, batch_size=1)
    assert together.shape == (3, encoder.info.dimension)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(together, alone, atol=1e-4)
    assert not np.allclose(together[0], together[2], atol=1e-2)
    assert np.allclose(encoder.embed_texts(["a gland"]), together[1:2], atol=1e-4)


def test_nothing_to_embed_is_refused(tiny: Assistant) -> None:
    with pytest.raises(BadInput, match="nothing to embed"):
        MllmEncoder(tiny, None).embed([Composed(text="  ")])


def test_a_long_text_is_cut(tiny: Assistant) -> None:
    vector = MllmEncoder(tiny, None).embed_texts(["word " * 10_000])
    assert np.isfinite(vector).all()


def train(tiny: Assistant, material: Any, out: Path, recipe: MllmRecipe, *, resume: bool = False) -> list[float]:
    records, store = material
    return train_mllm(tiny.model, tiny.prompt_ids, 2, store, records, recipe, out, resume=resume)


def test_it_learns_and_the_adapter_changes_the_vectors(
    tiny: Assistant, material: Any, tmp_path: Path, field: Image.Image
) -> None:
    losses = train(tiny, material, tmp_path / "run", replace(RECIPE, steps=40))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    bare = Assistant(*(parts := make_tiny_llava()), make_engine(parts[0]), name="tiny", revision="embedded-abc")
    before = MllmEncoder(bare, None)
    plain = before.embed_images([field])
    after = MllmEncoder(bare, tmp_path / "run" / "adapter")
    assert before.id != after.id
    assert not np.allclose(after.embed_images([field]), plain, atol=1e-3)


def test_resume_is_bit_equal(material: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fresh() -> Assistant:
        model, processor = make_tiny_llava()
        return Assistant(model, processor, make_engine(model), name="tiny")

    whole = train(fresh(), material, tmp_path / "whole", RECIPE)
    real, calls = mllm.not_negative, []

    def interrupted(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(mllm, "not_negative", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), material, tmp_path / "parts", RECIPE)
    monkeypatch.setattr(mllm, "not_negative", real)
    assert train(fresh(), material, tmp_path / "parts", RECIPE, resume=True) == whole[3:]
