"""Projections learned anew over frozen towers, and captions that name immunostains by any marker."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from assistant.model.encoders.pathclip import PathClipConfig, PathClipModel
from tests.training.clip.test_clip import COLOURS, record
from training.clip import projections
from training.clip.projections import ProjectionsRecipe
from training.data.captions import draw_caption, plain_caption
from training.data.immunostains import MARKERS
from training.data.records import DataError, Record
from training.data.virtual import MARKER

RECIPE = ProjectionsRecipe(virtual=0, copies=1, steps=30, batch_size=8, lr=3e-3, drop=0.0, stain=0.0, min_scale=0.9)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    PathClipModel(PathClipConfig(image_size=32, dimension=16)).save(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    made = []
    for organ, colour in COLOURS.items():
        for slide in "ab":
            Image.fromarray(np.full((64, 64, 3), colour, np.uint8)).save(path := tmp_path / f"{organ}{slide}.png")
            made.append(record(path, organ, f"disease {slide} of {organ}", organ + slide))
    monkeypatch.setattr(projections, "load_records", lambda *_: made)
    return made


@pytest.mark.usefixtures("records")
def test_only_the_projections_learn(encoder: Path, tmp_path: Path) -> None:
    losses = projections.run(replace(RECIPE, encoder=str(encoder)), tmp_path / "out")
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    before, after = (PathClipModel.load(f).state_dict() for f in (encoder, tmp_path / "out" / "model"))
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"visual.proj.weight", "text.proj.weight", "logit_scale"}


@pytest.mark.usefixtures("records")
def test_a_run_that_goes_on_does_not_look_again(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, encoder=str(encoder), steps=3)
    first = projections.run(recipe, tmp_path / "out")
    monkeypatch.setattr(projections, "Images", lambda *_: pytest.fail("looked again"))
    assert projections.run(recipe, tmp_path / "out", resume=True) == first


def test_an_encoder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no model\.safetensors in .*nowhere"):
        projections.run(replace(RECIPE, encoder=str(tmp_path / "nowhere")), tmp_path / "out")


def test_a_made_immunostain_is_called_by_many_markers() -> None:
    facts = {"organ": "liver", "stain": MARKER, "stain_class": "IHC"}
    made = Record("atlas", Path("x.png"), "train", "atlas:x", facts)
    rng = random.Random(0)
    captions = [c for _ in range(300) if (c := draw_caption(made, rng))]
    named = [c for c in captions if "stain" in c.facts]
    assert 0.7 < len(named) / len(captions) < 0.9
    assert len({m for c in named for m in MARKERS if m in c.text}) > 40
    assert not any("virtual" in c.text for c in captions)
    assert all(c.fits(made) for c in captions)


def test_markers_of_val_are_never_named(tmp_path: Path) -> None:
    held = ("chromogranin", "synaptophysin")
    assert not [m for m in MARKERS for h in held if h in m.lower()]
    facts = {"organ": "duodenum", "diagnosis": "neuroendocrine tumour", "stain": "chromogranin IHC"}
    caption = plain_caption(Record("atlas", tmp_path / "x.png", "val", "atlas:x", facts))
    assert caption is not None
    assert "chromogranin IHC" in caption.text
