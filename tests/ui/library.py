"""A small case library, built with an encoder that sees colours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from assistant.cases.ingest import build, identity_of
from assistant.cases.library import Library
from assistant.cases.sources import read_source
from retrieval.store import open_store
from tests.assistant.cases.conftest import COLOURS, ColourEncoder, paint

ORGANS = {"red": "liver", "green": "colon", "blue": "lung"}


def make_library(folder: Path, fields: int = 3) -> Library:
    """Red livers, green colons and blue lungs, each field of another patient."""
    encoder, rows = ColourEncoder(), []
    for number in range(fields):
        for place, (colour, organ) in enumerate(ORGANS.items()):
            name = f"{colour}-{number}.png"
            paint(folder / "images" / name, colour, 10 * number + place)
            rows.append(
                {
                    "image": f"images/{name}", "title": f"{colour.capitalize()} field {number + 1}", "organ": organ,
                    "stain": "H&E", "diagnosis": f"{organ} disease", "group": f"patient {number}-{place}",
                    "source": "archive", "licence": "CC0",
                }
            )  # fmt: skip
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    url = f"faiss:{folder / 'store'}"
    store = open_store(url, identity_of(encoder), write=True)
    build(read_source(str(folder)), store, encoder)
    store.close()
    return Library.open(url, lambda _: ColourEncoder())


#: Colour → corner of its square of 256 pixels on the slide.
PATCHES = {"red": (256, 256), "green": (1280, 256), "blue": (768, 768)}


def write_coloured_slide(path: Path) -> Path:
    """A tiled TIFF of 2,048 x 1,280 pixels with two levels: squares of three colours on glass."""
    import tifffile

    noise = np.random.default_rng(3)
    pixels = noise.integers(238, 246, (1280, 2048, 3), dtype=np.uint8)
    for colour, (x, y) in PATCHES.items():
        pixels[y : y + 256, x : x + 256] = np.add(COLOURS[colour], noise.integers(0, 12, (256, 256, 3)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as file:
        options: dict[str, Any] = {"tile": (128, 128), "photometric": "rgb", "compression": None}
        file.write(pixels, **options)
        file.write(np.ascontiguousarray(pixels[::4, ::4]), subfiletype=1, **options)
    return path


def make_slide_library(folder: Path) -> tuple[Library, Path]:
    """The tiles of one slide, the slide as a whole, and a white picture that is of no slide; with the slide's path."""
    encoder = ColourEncoder()
    slide = write_coloured_slide(folder / "archive" / "Jane Doe.tif")
    paint(folder / "archive" / "alone.png", "white", 1)
    url = f"faiss:{folder / 'store'}"
    store = open_store(url, identity_of(encoder), write=True)
    build(read_source(str(folder / "archive")), store, encoder, workers=0)
    store.close()
    return Library.open(url, lambda _: ColourEncoder()), slide
