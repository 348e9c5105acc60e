"""DICOM and NDPI as scanners write them: the scan comes out right, the patient, the label and the macro image never."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from assistant.cli import app
from assistant.errors import BadInput
from assistant.slides import open_slide
from assistant.slides.store import SlideStore, read_tile, top_level
from tests.slide_formats import PATIENT, write_dicom, write_ndpi

pytest.importorskip("openslide")


def field() -> Image.Image:
    """1200 × 900 pixels, pink with darker patches; blue is only in the label and the macro image."""
    rng = np.random.default_rng(0)
    low = np.stack(
        [rng.integers(140, 250, (45, 60)), rng.integers(60, 160, (45, 60)), rng.integers(90, 200, (45, 60))], 2
    )
    return Image.fromarray(low.astype(np.uint8)).resize((1200, 900), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module", params=["dicom", "ndpi"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    if request.param == "dicom":
        return write_dicom(folder / "series", field())
    return write_ndpi(folder / "a.ndpi", field())


def test_the_scan_comes_out_right(written: Path) -> None:
    original = np.asarray(field()).astype(int)
    with open_slide(written) as slide:
        assert slide.kind in ("openslide: dicom", "openslide: hamamatsu")
        assert slide.size == (1200, 900)
        assert slide.mpp == pytest.approx(0.5)
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        found = np.asarray(slide.read(250, 130, 400, 300)).astype(int)
        assert abs(found - original[130:430, 250:650]).mean() < 2
        small = np.asarray(slide.read(0, 0, 1200, 900, out=(300, 225))).astype(int)
        wanted = np.asarray(field().resize((300, 225), Image.Resampling.BOX)).astype(int)
        assert abs(small - wanted).mean() < 3
        tile = np.asarray(read_tile(slide, top_level(slide.size), 1, 1)).astype(int)
        assert abs(tile[1:255, 1:255] - original[254:508, 254:508]).mean() < 2


def test_patient_label_and_macro_stay_in_the_file(written: Path) -> None:
    assert PATIENT.encode() in written.read_bytes()
    store = SlideStore()
    try:
        identifier = store.add(written)
        told = json.dumps(store.info(identifier))
        with open_slide(written) as slide:
            told += json.dumps(slide.info())
            told += CliRunner().invoke(app, ["slide", "info", str(written)]).output
            seen = np.asarray(slide.thumbnail(300)).astype(int)
        assert not any(word in told for word in (PATIENT, "DOE", "4711", "label", "macro", str(written.parent)))
        assert (seen[..., 2] - seen[..., 0]).max() < 100  # nothing of the blue pictures
    finally:
        store.close()


def test_one_file_of_a_series_alone_and_a_torn_one(written: Path, tmp_path: Path) -> None:
    alone = shutil.copy(written, tmp_path / f"alone{written.suffix}")
    with open_slide(alone) as slide:
        assert slide.size == (1200, 900)
    torn = tmp_path / "torn" / f"torn{written.suffix}"
    torn.parent.mkdir()
    torn.write_bytes(written.read_bytes()[: written.stat().st_size // 20])
    with (
        pytest.raises(BadInput, match=r"'torn\.\w+' (?:cannot be read as a slide|is damaged)") as caught,
        open_slide(torn) as slide,
    ):
        slide.read(0, 0, 1200, 900)
    assert "\n" not in str(caught.value)
