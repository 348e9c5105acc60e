"""A library with its encoder: opening, going on from a case, adding one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from assistant.cases.ingest import build, identity_of
from assistant.cases.library import Library
from assistant.cases.sources import read_source
from assistant.errors import BadInput, NotAvailable
from retrieval.store import open_store
from tests.assistant.cases.conftest import ColourEncoder, paint


@pytest.fixture
def library(tmp_path: Path, pictures: Path, encoder: ColourEncoder) -> Iterator[Library]:
    url = f"faiss:{tmp_path / 'store'}"
    store = open_store(url, identity_of(encoder), write=True)
    build(read_source(str(pictures)), store, encoder)
    store.close()
    library = Library.open(url, lambda name: ColourEncoder(name))
    yield library
    library.close()


def test_like_a_case_leaves_its_slide_out(library: Library, pictures: Path) -> None:
    first = library.search([pictures / "s1" / "a.png"], k=1)[0].case  # a red of slide 2
    hits = library.like(first.id, k=7)
    assert first.id not in {hit.case.id for hit in hits}
    assert first.group not in {hit.case.group for hit in hits}
    assert hits[0].score > hits[-1].score
    assert library.like(first.id, "white", k=1, weight=0.0)[0].score > 0.99
    with pytest.raises(BadInput, match="no longer"):
        library.like("gone")


def test_an_added_image_is_found_and_is_not_there_twice(library: Library, tmp_path: Path) -> None:
    green = paint(tmp_path / "Jane Doe.png", "green", 77)
    count = len(library)
    assert library.add(green, title="new one", organ="liver")
    assert len(library) == count + 1
    near = paint(tmp_path / "near.png", "green", 78)
    found = [hit.case for hit in library.search([near], k=3)]
    case = next(case for case in found if case.title == "new one")
    assert "Jane" not in str(case)
    assert (library.thumbnail_uri(case) or "").startswith("data:image/jpeg;base64,")
    assert not library.add(green, title="renamed", organ="liver")
    assert library.store.get([case.id])[0].title == "renamed"
    assert len(library) == count + 1


def test_an_image_that_came_from_a_file_keeps_its_labels(library: Library, pictures: Path) -> None:
    with pytest.raises(BadInput, match="already"):
        library.add(pictures / "s1" / "a.png", title="mine")


def test_added_cases_survive_a_build(library: Library, pictures: Path, tmp_path: Path, encoder: ColourEncoder) -> None:
    library.add(Image.new("RGB", (20, 20), "#102030"), title="new one")
    store = open_store(library.url, identity_of(encoder), write=True)
    assert build(read_source(str(pictures)), store, encoder).total == 8
    store.close()


def test_another_writer_and_another_encoder(library: Library, encoder: ColourEncoder) -> None:
    writer = open_store(library.url, identity_of(encoder), write=True)
    with pytest.raises(NotAvailable, match="writ"):
        library.add(Image.new("RGB", (20, 20), "#102030"), title="x")
    writer.close()
    with pytest.raises(BadInput, match="built with"):
        Library.open(library.url, lambda name: ColourEncoder(name, weights="2"))
    with pytest.raises(BadInput, match="no case store"):
        Library.open("faiss:/nowhere/at/all")
