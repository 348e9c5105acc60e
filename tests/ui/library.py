"""A small case library, built with an encoder that sees colours."""

from __future__ import annotations

import json
from pathlib import Path

from assistant.cases.ingest import build, identity_of
from assistant.cases.library import Library
from assistant.cases.sources import read_source
from retrieval.store import open_store
from tests.assistant.cases.conftest import ColourEncoder, paint

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
