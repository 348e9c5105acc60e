"""Slides become tiles with tissue, and one vector for the whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assistant.cases.ingest import build, identity_of
from assistant.cases.slides import Tiling, open_slide, overview, read_tile, tiles, tissue_mask
from assistant.cases.sources import read_source
from assistant.errors import BadInput, NotAvailable
from retrieval.store import VectorStore, open_store
from tests.assistant.cases.conftest import ColourEncoder

pytest.importorskip("openslide")


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiled pyramid of 1024 x 768 with two levels: glass, with red tissue left and blue tissue in the lower right."""
    tifffile = pytest.importorskip("tifffile")
    pixels = np.random.default_rng(0).integers(238, 246, (768, 1024, 1), dtype=np.uint8).repeat(3, axis=2)
    noise = np.random.default_rng(1).integers(0, 20, (768, 1024, 3), dtype=np.uint8)
    pixels[:512, :256] = (200, 60, 90) + noise[:512, :256]
    pixels[512:, 768:] = (80, 60, 190) + noise[512:, 768:]
    path = tmp_path_factory.mktemp("slides") / "Jane Doe.tif"
    with tifffile.TiffWriter(path) as file:
        options = {"tile": (128, 128), "photometric": "rgb", "compression": None}
        file.write(pixels, **options)
        file.write(pixels[::4, ::4], subfiletype=1, **options)
    return path


@pytest.fixture
def store(tmp_path: Path, encoder: ColourEncoder) -> Iterator[VectorStore]:
    store = open_store(f"faiss:{tmp_path / 'store'}", identity_of(encoder), write=True)
    yield store
    store.close()


def test_tiles_are_where_tissue_is(slide: Path) -> None:
    found = tiles(slide, Tiling(256))
    assert [case.region for case in found] == [(0, 0, 256, 256), (0, 256, 256, 256), (768, 512, 256, 256)]
    assert len({case.group for case in found}) == 1
    assert "Jane" not in f"{found[0].group} {found[0].title} {dict(found[0].facts)}"
    assert len(tiles(slide, Tiling(128))) == 12


def test_pixels_of_a_tile(slide: Path) -> None:
    tile = read_tile(slide, (768, 512, 256, 256), 256)
    assert (tile.mode, tile.size) == ("RGB", (256, 256))
    assert np.asarray(tile).mean(axis=(0, 1)) == pytest.approx([89.5, 69.5, 199.5], abs=1)
    assert read_tile(slide, (0, 0, 512, 256), 64).size == (64, 32)
    with pytest.raises(BadInput, match="reaches over the edge of the slide, 1024 x 768"):
        read_tile(slide, (900, 0, 256, 256), 256)
    assert overview(slide).size == (1024, 768)


def test_resolution_must_be_known(slide: Path) -> None:
    with pytest.raises(BadInput, match="does not say its µm per pixel; leave --mpp out"):
        tiles(slide, Tiling(256, 0.5))
    for wrong in ((8, None), (256, 0.0)):
        with pytest.raises(BadInput, match="allowed"):
            Tiling(*wrong)


def test_tissue_mask() -> None:
    assert not tissue_mask(Image.new("RGB", (50, 50), "#f4f4f4")).any()
    assert tissue_mask(Image.new("RGB", (50, 50), "#c86496")).all()


def test_slides_in_a_library(slide: Path, store: VectorStore, encoder: ColourEncoder) -> None:
    result = build(read_source(str(slide)), store, encoder)
    assert (result.added, result.failed, result.total) == (4, [], 4)
    whole = store.get(store.ids({"kind": "slide"}))[0]
    parts = store.ids({"kind": "tile"})
    mean = store.vectors(parts).mean(axis=0)
    assert np.allclose(store.vectors([whole.id])[0], mean / np.linalg.norm(mean), atol=1e-6)
    assert store.thumbnail(whole) is not None
    blue = store.search(encoder.embed_texts(["blue"]), 1)[0][0].case
    assert blue.region == (768, 512, 256, 256)
    encoder.embedded = 0
    again = build(read_source(str(slide)), store, encoder)
    assert (again.added, again.updated, again.unchanged, encoder.embedded) == (0, 0, 3, 0)


def test_labels_of_an_index_and_broken_slides(
    slide: Path, tmp_path: Path, store: VectorStore, encoder: ColourEncoder
) -> None:
    (tmp_path / "broken.svs").write_bytes(b"II*\0 nothing behind it")
    rows = [
        {"image": str(slide), "organ": "liver", "diagnosis": "steatosis", "patient": "p7", "id": "mine"},
        {"image": "broken.svs", "organ": "lung"},
    ]
    (tmp_path / "index.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = build(read_source(str(tmp_path / "index.jsonl")), store, encoder)
    assert (result.added, result.total) == (4, 4)
    assert len(result.failed) == 1
    assert "'broken.svs' cannot be read as a slide" in result.failed[0]
    cases = store.get(store.ids())
    assert {(c.organ, c.diagnosis, c.group, c.title) for c in cases} == {
        ("liver", "steatosis", "p7", "steatosis, liver")
    }
    assert {"mine/1", "mine/2", "mine/3"} < {c.id for c in cases}


def test_without_openslide(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openslide", None)
    with pytest.raises(NotAvailable, match=r"pip install 'pathassist\[wsi\]'"), open_slide(slide):
        pass


@pytest.mark.data
def test_an_aperio_slide(data_root: Path) -> None:
    path = data_root / "slides" / "cmu-1-small-region.svs"
    fine, coarse = tiles(path, Tiling(224, 0.499)), tiles(path, Tiling(224, 1.0))
    assert fine[0].region is not None
    assert coarse[0].region is not None
    assert (fine[0].region[2], coarse[0].region[2]) == (224, 449)
    assert len(fine) > 3 * len(coarse) > 0
    assert read_tile(path, coarse[0].region, 224).size == (224, 224)
    with pytest.raises(BadInput, match="finer than that"):
        tiles(path, Tiling(224, 0.1))
    with pytest.raises(BadInput, match="cannot be read as a slide"):
        tiles(data_root / "slides" / "broken-for-error-tests.svs", Tiling())
