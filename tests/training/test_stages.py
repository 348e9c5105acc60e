"""Training loop on a tiny real LLaVA: it learns, resumes to the same bits, and runs in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import make_tiny_llava
from training.data.conversation import Conversation
from training.data.records import DataError
from training.features import FeatureStore, build_features
from training.stages import Sample, StageRecipe, _turn_weights, tokenise, train_stage

RECIPE = StageRecipe(
    stage="instruct", steps=12, batch_size=4, connector_lr=3e-3, lora_lr=3e-3, lora_r=4, views=2, warmup=0.1,
    mixed_precision="no", checkpoint_every=6, log_every=4, seed=5,
)  # fmt: skip


def conversation(image: Path | None, question: str, answer: str) -> Conversation:
    parts = [{"type": "image"}] if image else []
    return Conversation(
        images=(image,) if image else (),
        messages=[
            {"role": "user", "content": [*parts, {"type": "text", "text": question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ],
        group="g",
    )


@pytest.fixture
def material(tmp_path: Path) -> tuple[Any, Any, list[Sample], FeatureStore]:
    """Two colours, two answers: learnable only by looking."""
    conversations = []
    generator = np.random.default_rng(0)
    for i in range(16):
        colour = ((200, 60, 60), (60, 60, 200))[i % 2]
        pixels = generator.normal(colour, 20, (64, 64, 3)).clip(0, 255).astype(np.uint8)
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(path)
        conversations.append(conversation(path, "Which?", ("red", "blue")[i % 2]))
    conversations.append(conversation(None, "Hello", "Hi"))
    model, processor = make_tiny_llava()
    store = build_features(
        model.model.vision_tower, [p for c in conversations for p in c.images], tmp_path, size=64, views=2,
        dtype=torch.float32,
    )  # fmt: skip
    samples = tokenise(processor, conversations, 4, 200)
    return model, processor, samples, store


def test_only_answer_tokens_count(material: tuple[Any, Any, list[Sample], FeatureStore]) -> None:
    _, processor, samples, _ = material
    sample = samples[0]
    target = [i for i, w in zip(sample.ids, sample.weights, strict=True) if w]
    assert processor.tokenizer.decode(target) == "red<|im_end|>"
    assert sum(sample.weights) == pytest.approx(1)
    image_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert sample.ids.count(image_id) == 4


def test_each_turn_weighs_the_same() -> None:
    assert _turn_weights([0, 1, 1, 0, 1, 0]) == [0, 0.5, 0.5, 0, 1, 0]
    assert _turn_weights([1, 1]) == [0.5, 0.5]


def test_features_are_cached_and_match_the_tower(
    material: tuple[Any, Any, list[Sample], FeatureStore], tmp_path: Path
) -> None:
    model, processor, samples, store = material
    with Image.open(samples[0].images[0]) as image:
        pixels = processor.image_processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        direct = model.model.vision_tower(pixels).last_hidden_state[0]
    assert torch.allclose(store.get(samples[0].images[0], 0), direct, atol=2e-2)
    folders = list(tmp_path.glob("features-*"))
    build_features(
        model.model.vision_tower, [p for s in samples for p in s.images], tmp_path, size=64, views=2,
        dtype=torch.float32,
    )  # fmt: skip
    assert list(tmp_path.glob("features-*")) == folders


def test_it_learns_to_look(material: tuple[Any, Any, list[Sample], FeatureStore], tmp_path: Path) -> None:
    model, processor, samples, store = material
    losses = train_stage(model, processor, samples, store, replace(RECIPE, steps=150), tmp_path / "run")
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    out = tmp_path / "run"
    assert (out / "connector.safetensors").is_file()
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    assert (out / "loss.png").stat().st_size > 1000
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 150


def test_connector_stage_leaves_the_language_model_alone(
    material: tuple[Any, Any, list[Sample], FeatureStore], tmp_path: Path
) -> None:
    model, processor, samples, store = material
    before = {n: p.clone() for n, p in model.named_parameters()}
    train_stage(model, processor, samples, store, replace(RECIPE, stage="connector", steps=3), tmp_path / "run")
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all("multi_modal_projector" in n for n in changed)


def test_resume_gives_the_same_losses_to_the_bit(
    material: tuple[Any, Any, list[Sample], FeatureStore], tmp_path: Path
) -> None:
    _, processor, samples, store = material
    whole = train_stage(make_tiny_llava()[0], processor, samples, store, RECIPE, tmp_path / "whole")
    # The checkpoint after step 6 of a run that is killed there: steps 7 and 8 are lost and must be run again.
    killed = replace(RECIPE, checkpoint_every=6)
    with pytest.raises(KeyboardInterrupt):
        train_stage(make_tiny_llava()[0], processor, samples, _Killed(store, 8 * 4), killed, tmp_path / "cut")
    rest = train_stage(make_tiny_llava()[0], processor, samples, store, RECIPE, tmp_path / "cut", resume=True)
    assert rest == whole[6:]


class _Killed:
    """A feature store that stops the run after some look-ups, as an operator would."""

    def __init__(self, inner: FeatureStore, limit: int) -> None:
        self.inner, self.left, self.views = inner, limit, inner.views

    def get(self, path: Path, view: int) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.inner.get(path, view)


def test_too_few_conversations_is_said(material: tuple[Any, Any, list[Sample], FeatureStore], tmp_path: Path) -> None:
    model, processor, samples, store = material
    with pytest.raises(DataError, match="3 usable conversations"):
        train_stage(model, processor, samples[:3], store, RECIPE, tmp_path / "run")


@pytest.mark.slow
def test_two_processes_share_a_batch(tmp_path: Path) -> None:
    """`accelerate launch --num_processes 2` on the CPU: both take part and end with the same weights.

    Accelerate starts several local processes only under ``--multi_gpu``; our ``Accelerator(cpu=True)`` then takes gloo.
    """
    script = Path(__file__).parent / "two_processes.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    environment["PYTHONFAULTHANDLER"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
         "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", str(script), str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[:4000]
    ranks = sorted(tmp_path.glob("rank*.json"))
    assert [p.name for p in ranks] == ["rank0.json", "rank1.json"]
    first, second = (json.loads(p.read_text()) for p in ranks)
    assert first["losses"] == second["losses"]
    assert first["digest"] == second["digest"]
    assert first["world"] == 2
