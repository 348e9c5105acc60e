"""Virtual immunostains: brown and blue where there was pink and purple, white where there was nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.color import hed2rgb, rgb2hed

from training.data.build import Builder, write_blanks
from training.data.records import Record
from training.data.virtual import MARKER, virtual_ihc, write_virtual


@pytest.fixture
def rgb() -> np.ndarray:
    """Eosin everywhere but in the left quarter, which is empty; nuclei as discs of haematoxylin."""
    y, x = np.mgrid[:96, :96]
    nuclei = ((y % 24 - 12) ** 2 + (x % 24 - 12) ** 2 < 30) & (x >= 24)
    hed = np.stack([0.2 * nuclei, 0.1 * (x >= 24), np.zeros_like(x, dtype=float)], -1)
    return (hed2rgb(hed) * 255).astype(np.uint8)


def records(folder: Path, rgb: np.ndarray, count: int = 6) -> list[Record]:
    made = []
    for i in range(count):
        Image.fromarray(rgb).save(path := folder / f"{i}.png")
        facts = {
            "organ": ("colon", "liver")[i % 2],
            "diagnosis": f"d{i}",
            "stain": "H&E",
            "stain_class": "H&E",
            "kind": "field",
        }
        made.append(Record("atlas", path, "train", f"atlas:{i}", facts))
    return made


def test_eosin_goes_and_brown_comes(rgb: np.ndarray) -> None:
    out = np.stack([virtual_ihc(rgb, np.random.default_rng(seed)) for seed in range(12)])
    before = rgb2hed(rgb)
    after = np.stack([rgb2hed(image) for image in out])
    tissue = np.s_[..., 24:, :]
    assert before[tissue][..., 1].mean() > 0.05
    assert after[..., 1][..., 24:].mean() < 0.01
    assert np.percentile(after[..., 2][..., 24:], 99) > 0.1
    assert (out[:, :, :20] > 235).all(), "what was empty stays white"


def test_facts_that_still_hold_are_kept_and_nothing_else(rgb: np.ndarray, tmp_path: Path) -> None:
    source = records(tmp_path, rgb)
    made = write_virtual(source, tmp_path / "v", 3, seed=1)
    assert len(made) == 3
    organs = {r.group: r.facts["organ"] for r in source}
    assert all(r.facts == {"organ": organs[r.group], "stain": MARKER, "stain_class": "IHC"} for r in made)
    assert {r.group for r in made} <= {r.group for r in source}
    before = {r.image: r.image.read_bytes() for r in made}
    assert {r.image: r.image.read_bytes() for r in write_virtual(source, tmp_path / "v", 3, seed=1)} == before


def test_questions_name_a_marker_and_never_the_word_virtual(rgb: np.ndarray, tmp_path: Path) -> None:
    source = records(tmp_path, rgb)
    made = write_virtual(source, tmp_path / "v", 4)
    builder = Builder(source + made, write_blanks(tmp_path / "b"), seed=0)
    asked = 0
    for index in range(300):
        for message in builder.draw(index).messages:
            text = message["content"][-1]["text"]
            assert "virtual" not in text.lower()
            asked += message["role"] == "assistant" and ("IHC" in text or "mmunohisto" in text)
    assert asked > 20
