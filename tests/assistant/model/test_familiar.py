"""Microscope fields told from other pictures: the score, what the assistant and the grounder make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from assistant.assistant import NOT_ENOUGH
from assistant.errors import NotAvailable
from assistant.model import familiar
from assistant.model.familiar import THRESHOLD, Familiar, load_familiar, unfit


def by_colour() -> Familiar:
    """Knows red pictures: features are the mean colour."""
    return Familiar(lambda pixels: pixels.mean(dim=(2, 3)) + 1, np.array([[1.0, 0.0, 0.0]], np.float32))


def coloured(red: int, blue: int, size: tuple[int, int]) -> Image.Image:
    """Stripes, since a plain colour counts as blank."""
    pixels = np.full((size[1], size[0], 3), (red, 10, blue), np.uint8)
    pixels[::2] //= 2
    return Image.fromarray(pixels)


RED, BLUE = coloured(230, 10, (90, 60)), coloured(10, 230, (60, 90))
GLASS = Image.new("RGB", (50, 50), (245, 244, 246))


def test_the_score_is_a_cosine_and_does_not_depend_on_the_size() -> None:
    known = by_colour()
    assert known.score(RED) > 0.99 > THRESHOLD > known.score(BLUE)
    assert known.score(RED.resize((900, 33))) == pytest.approx(known.score(RED), abs=0.01)
    assert known.features([RED, BLUE]).shape == (2, 3)
    assert torch.linalg.norm(torch.from_numpy(known.features([BLUE]))) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("images", "warned", "nothing"),
    [((RED,), 0, False), ((BLUE,), 1, True), ((RED, BLUE), 1, False), ((GLASS, BLUE), 1, True), ((GLASS,), 0, True),
     ((), 0, False)],
)  # fmt: skip
def test_unfit_images(images: tuple[Image.Image, ...], warned: int, nothing: bool) -> None:
    warnings, empty = unfit(images, by_colour())
    assert (len(warnings), empty) == (warned, nothing)
    assert all("likeness 0." in w and f"{THRESHOLD:.2f} is wanted" in w for w in warnings)
    assert unfit(images, None) == ([], bool(images) and all(i is GLASS for i in images))


def test_the_assistant_declines_a_stranger(tiny_assistant: Any, field: Image.Image, monkeypatch: Any) -> None:
    asked = "Which organ?\nA) liver\nB) lung"
    known = Familiar(lambda pixels: torch.ones(len(pixels), 2), np.array([[1.0, 1.0]], np.float32) / np.sqrt(2))
    monkeypatch.setattr(tiny_assistant, "familiar", known)
    assert not any("unlike" in w for w in tiny_assistant.ask(field, asked, threshold=0.0).warnings)
    monkeypatch.setattr(tiny_assistant, "familiar", Familiar(known.tower, -known.centres))
    answer = tiny_assistant.ask(field, asked, threshold=0.0)
    assert answer.abstained
    assert answer.text.startswith(NOT_ENOUGH)
    assert answer.confidence == 0
    assert any("unlike every microscope field" in w for w in answer.warnings)


def test_missing_and_damaged_centres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_familiar.cache_clear()
    monkeypatch.setattr(familiar, "FILE", tmp_path / "centres.safetensors")
    with pytest.raises(NotAvailable, match="restore it: git checkout"):
        load_familiar()
    (tmp_path / "centres.safetensors").write_bytes(b"junk")
    with pytest.raises(NotAvailable, match="damaged"):
        load_familiar()
    load_familiar.cache_clear()


def test_shipped_centres_know_tissue_and_no_cat(data_root: Path) -> None:
    import skimage.data

    known = load_familiar()
    cat, colon = (Image.fromarray(getattr(skimage.data, name)()) for name in ("chelsea", "immunohistochemistry"))
    assert known.score(cat) < THRESHOLD - 0.05
    assert known.score(colon) > THRESHOLD + 0.03
    for path in sorted((data_root / "lc25000_lung" / "images").iterdir())[:5]:
        with Image.open(path) as opened:
            assert known.score(opened) > THRESHOLD
