"""Captions, batches, losses and the training loop of the contrastive stage, on tiny towers."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from training.clip import train
from training.clip.losses import info_nce, siglip
from training.clip.models import Towers, build_towers
from training.clip.pairs import PairSampler, not_negative
from training.clip.train import ClipRecipe, backward, train_clip
from training.data.captions import draw_caption, plain_caption, read_pairs
from training.data.records import DataError, Record

RECIPE = ClipRecipe(
    size=32, steps=8, batch_size=8, chunk=8, lr=1e-2, head_lr=1e-2, warmup=0.1, stain=0.0, min_scale=0.9, hard=0.3,
    mixed_precision="no", checkpoint_every=4, log_every=4, seed=3,
)  # fmt: skip
COLOURS = {"colon": (200, 60, 60), "liver": (60, 60, 200), "spleen": (60, 200, 60), "skin": (200, 200, 60)}


def record(path: Path, organ: str, diagnosis: str, slide: str) -> Record:
    return Record("atlas", path, "train", f"atlas:{slide}", {"organ": organ, "diagnosis": diagnosis, "stain": "H&E"})


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """Four organs in four colours, two slides each, two fields a slide."""
    made = []
    generator = np.random.default_rng(0)
    for organ, colour in COLOURS.items():
        for slide in "ab":
            for number in range(2):
                path = tmp_path / f"{organ}{slide}{number}.png"
                pixels = generator.normal(colour, 15, (96, 96, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(path)
                made.append(record(path, organ, f"disease {slide} of {organ}", organ + slide))
    return made


class TinyTowers(Towers):
    """Mean colour → vector; words → vector: real gradients, a few hundred weights."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.eye = nn.Sequential(nn.Linear(3, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 16))
        self.words = nn.Embedding(257, 16)
        self.logit_scale = nn.Parameter(torch.tensor(2.6))
        self.logit_bias = nn.Parameter(torch.tensor(-5.0))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean(dim=(2, 3))

    def image(self, features: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.eye(features), dim=-1)

    def text(self, texts: Any) -> torch.Tensor:
        rows = [self.words(torch.tensor([sum(w.encode()) % 257 for w in t.split()])).mean(0) for t in texts]
        return F.normalize(torch.stack(rows), dim=-1)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.state_dict(), folder / "tiny.pt")

    def backbone_parameters(self) -> list[nn.Parameter]:
        return list(self.eye.parameters())


@pytest.fixture
def loaded(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    monkeypatch.setattr(train, "load_records", lambda *_: records)
    return records


def unit(rows: int, generator: torch.Generator) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 8, generator=generator), dim=-1)


@given(rows=st.integers(2, 9), seed=st.integers(0, 1000), scale=st.floats(1, 50))
@settings(deadline=None, max_examples=20)
def test_losses_equal_open_clip(rows: int, seed: int, scale: float) -> None:
    from open_clip.loss import ClipLoss, SigLipLoss

    generator = torch.Generator().manual_seed(seed)
    image, text = unit(rows, generator), unit(rows, generator)
    s, b = torch.tensor(scale), torch.tensor(-3.0)
    assert info_nce(image, text, s).item() == pytest.approx(ClipLoss()(image, text, s).item(), abs=1e-5)
    assert siglip(image, text, s, b).item() == pytest.approx(SigLipLoss()(image, text, s, b).item(), rel=1e-5)


def test_a_pair_that_is_no_negative_has_no_influence() -> None:
    generator = torch.Generator().manual_seed(1)
    image, text = unit(3, generator), unit(3, generator)
    ignore = torch.zeros(3, 3, dtype=torch.bool)
    ignore[0, 1] = ignore[1, 0] = True
    for loss in (lambda i, t: info_nce(i, t, torch.tensor(9.0), ignore),
                 lambda i, t: siglip(i, t, torch.tensor(9.0), torch.tensor(-1.0), ignore)):  # fmt: skip
        leaf = text.clone().requires_grad_()
        logits_only = torch.autograd.grad(loss(image, leaf), leaf)[0]
        changed = text.clone()
        # Text 1 moves along a direction that only image 0 can see.
        direction = image[0] - image[1:].T @ torch.linalg.pinv(image[1:].T) @ image[0]
        assert abs(float(logits_only[1] @ direction)) < 1e-5
        changed[1] += 0.1 * direction
        assert loss(image, changed).item() == pytest.approx(loss(image, text).item(), abs=1e-5)


@pytest.mark.parametrize("seed", range(40))
def test_captions_state_only_what_is_true(records: list[Record], seed: int) -> None:
    for r in records:
        caption = draw_caption(r, random.Random(seed), synonym_share=0.0)
        assert caption is not None
        assert caption.facts
        assert caption.fits(r)
        for other in records:
            if r.facts["organ"] != other.facts["organ"] and "organ" in caption.facts:
                assert not caption.fits(other)
        named = [v for v in caption.facts.values() if v in caption.text]
        assert named == list(caption.facts.values())


def test_a_plain_caption_is_shared_by_slides_of_one_diagnosis(records: list[Record]) -> None:
    assert plain_caption(records[0]) == plain_caption(records[1])
    assert plain_caption(records[0]) != plain_caption(records[2])


def test_two_fields_of_a_slide_are_never_negatives(records: list[Record]) -> None:
    sampler = PairSampler(records, 16, seed=0, synonym_share=0.0)
    for step in range(20):
        rows, captions = sampler.draw(step)
        picked = [sampler.records[i] for i in rows]
        mask = not_negative(picked, captions)
        assert not mask.diagonal().any()
        for i, image in enumerate(picked):
            for j, text in enumerate(picked):
                if i != j and image.group == text.group:
                    assert mask[i, j]
                elif not captions[j].fits(image):
                    assert not mask[i, j]


def test_batches_depend_on_the_step_alone_and_hold_hard_partners(records: list[Record]) -> None:
    one, two = (PairSampler(records, 12, seed=5, hard=0.5) for _ in range(2))
    assert one.draw(7) == two.draw(7)
    assert one.draw(7) != one.draw(8)
    partners = total = 0
    for step in range(50):
        rows, _ = one.draw(step)
        for a, b in itertools.pairwise(rows):
            first, second = one.records[a], one.records[b]
            total += 1
            partners += first.facts["organ"] == second.facts["organ"] and first.group != second.group
    assert partners / total > 0.3  # by chance it would be 2/16


def test_records_without_facts_are_refused() -> None:
    with pytest.raises(DataError, match="at least 2"):
        PairSampler([Record("x", Path("a.png"), "train", "g", {})], 4, seed=0)


@pytest.mark.parametrize("loss", ["infonce", "siglip"])
@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_gradient_cache_gives_the_gradients_of_one_pass(records: list[Record], loss: str, keep: float) -> None:
    sampler = PairSampler(records, 8, seed=0)
    rows, captions = sampler.draw(0)
    ignore = not_negative([sampler.records[i] for i in rows], captions)
    pixels = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = []
    for chunk in (8, 3, 2):
        towers = TinyTowers(dropout=0.0)
        recipe = replace(RECIPE, chunk=chunk, loss=loss, keep=keep)
        anchor = train.Anchor(towers) if keep else None
        value = backward(towers, pixels, captions, ignore, recipe, anchor=anchor)
        found.append((value, {n: p.grad.clone() for n, p in towers.named_parameters() if p.grad is not None}))
    for value, gradients in found[1:]:
        assert value == pytest.approx(found[0][0], rel=1e-5)
        for name, expected in found[0][1].items():
            assert torch.allclose(gradients[name], expected, atol=1e-5), name


def test_loss_falls_on_64_pairs(loaded: list[Record], tmp_path: Path) -> None:
    losses = train_clip(replace(RECIPE, steps=150, batch_size=64, chunk=64), tmp_path / "run", towers=TinyTowers())
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])


def test_resume_is_bit_equal(loaded: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_clip(RECIPE, tmp_path / "whole", towers=TinyTowers())
    real, calls = train.not_negative, []

    def interrupted(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(train, "not_negative", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_clip(RECIPE, tmp_path / "parts", towers=TinyTowers())
    monkeypatch.setattr(train, "not_negative", real)
    rest = train_clip(RECIPE, tmp_path / "parts", towers=TinyTowers(), resume=True)
    assert rest == whole[4:]
    one, two = (torch.load(tmp_path / n / "model" / "tiny.pt", weights_only=True) for n in ("whole", "parts"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert json.loads((tmp_path / "whole" / "recipe.json").read_text())["batch_size"] == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "triplet"}, "infonce, siglip"),
        ({"text": "half"}, "frozen, lora, full"),
        ({"chunk": 99}, "2…batch_size"),
    ],
)
def test_a_wrong_recipe_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(RECIPE, **change)


def test_unknown_open_clip_model_is_refused() -> None:
    with pytest.raises(DataError, match="no model of open_clip"):
        build_towers(replace(RECIPE, image_tower="open_clip:ViT-XXL-1"))


def test_missing_start_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train tower"):
        build_towers(replace(RECIPE, start=str(tmp_path / "none.safetensors")))


def test_own_pairs_are_read_and_bad_lines_named(tmp_path: Path, records: list[Record]) -> None:
    image = records[0].image.name
    file = tmp_path / "pairs.jsonl"
    rows = [{"image": image, "caption": "A gland.", "group": "p1"}, {"image": image, "caption": "A gland."}]
    file.write_text("\n".join(json.dumps(r) for r in rows))
    found = read_pairs(file)
    assert [r.group for r in found] == ["pairs:p1", f"pairs:{image}"]
    caption = draw_caption(found[0], random.Random(0))
    assert caption is not None
    assert caption.text == "A gland."
    assert caption.fits(found[1])  # the same text is never its own negative
    for bad, message in (({"image": image}, "line 3"), ({"image": "none.png", "caption": "x"}, "no image at")):
        file.write_text("\n".join(json.dumps(r) for r in [*rows, bad]))
        with pytest.raises(DataError, match=message):
            read_pairs(file)


@pytest.fixture
def small_open_clip(tmp_path: Path) -> str:
    """A ViT of two layers among open_clip's models, in the layout of its own configurations."""
    import open_clip

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }
    (tmp_path / "tiny-vit.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-vit.json")
    return "open_clip:tiny-vit"


def test_open_clip_towers_agree_with_open_clip(small_open_clip: str, tmp_path: Path) -> None:
    import open_clip

    towers = build_towers(replace(RECIPE, image_tower=small_open_clip)).eval()
    raw = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    with torch.no_grad():
        image = towers.model.encode_image((raw - mean) / std, normalize=True)
        text = towers.model.encode_text(open_clip.get_tokenizer("ViT-B-32")(["a gland"]), normalize=True)
        assert torch.allclose(towers.image(towers.features(raw)), image, atol=1e-5)
        assert torch.allclose(towers.text(["a gland"]), text, atol=1e-5)
    towers.save(tmp_path / "saved")
    again = open_clip.create_model("tiny-vit", pretrained=str(tmp_path / "saved" / "open_clip_model.safetensors"))
    with torch.no_grad():
        assert torch.allclose(again.eval().encode_image((raw - mean) / std, normalize=True), image, atol=1e-2)  # fp16


@pytest.mark.parametrize("loss", ["infonce", "siglip"])
def test_open_clip_towers_learn(loaded: list[Record], small_open_clip: str, tmp_path: Path, loss: str) -> None:
    recipe = replace(RECIPE, image_tower=small_open_clip, loss=loss, steps=30, lr=3e-3, head_lr=3e-3, chunk=4)
    losses = train_clip(recipe, tmp_path / "run")
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_processes.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    environment["PYTHONFAULTHANDLER"] = "1"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run([*command, script, tmp_path], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[:4000]
    subprocess.run([sys.executable, script, tmp_path], env=environment, check=True, timeout=300, capture_output=True)
    two, one = (json.loads((tmp_path / f"world{w}.json").read_text()) for w in (2, 1))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert np.allclose(two["weights"], one["weights"], atol=1e-4)
