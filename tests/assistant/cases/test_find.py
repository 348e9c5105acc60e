"""Searching with images, words and both; the query's own slide stays out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from assistant.cases.find import find_cases
from assistant.cases.ingest import build, identity_of
from assistant.cases.sources import read_source
from assistant.errors import BadInput
from retrieval.store import VectorStore, open_store
from tests.assistant.cases.conftest import ColourEncoder, paint


@pytest.fixture
def store(tmp_path: Path, pictures: Path, encoder: ColourEncoder) -> Iterator[VectorStore]:
    """Slide s1: red, red, blue. Slide s2: red, green, blue. x: white."""
    store = open_store(f"faiss:{tmp_path / 'store'}", identity_of(encoder), write=True)
    build(read_source(str(pictures)), store, encoder)
    yield store
    store.close()


def names(store: VectorStore, hits: list[object]) -> list[str]:
    return [str(Path(hit.case.image).relative_to(Path(hit.case.image).parents[1]))[:-4] for hit in hits]  # type: ignore[attr-defined]


def test_own_slide_is_left_out(store: VectorStore, encoder: ColourEncoder, pictures: Path) -> None:
    hits = find_cases(store, encoder, [pictures / "s1" / "a.png"], k=7)
    assert names(store, hits)[0] == "s2/a"
    assert not any(name.startswith("s1/") for name in names(store, hits))
    same = find_cases(store, encoder, [pictures / "s1" / "a.png"], k=7, same_group=True)
    assert {"s1/b", "s1/c"} < set(names(store, same))
    assert "s1/a" not in names(store, same)  # nobody asks for the picture they have


def test_a_copy_in_another_format_is_known_too(
    store: VectorStore, encoder: ColourEncoder, pictures: Path, tmp_path: Path
) -> None:
    Image.open(pictures / "s1" / "a.png").save(tmp_path / "copy.tiff")
    assert names(store, find_cases(store, encoder, [tmp_path / "copy.tiff"], k=1)) == ["s2/a"]


def test_strange_pictures_and_known_groups(store: VectorStore, encoder: ColourEncoder, tmp_path: Path) -> None:
    stranger = paint(tmp_path / "new.png", "red", 123)
    assert names(store, find_cases(store, encoder, [stranger], k=3, same_group=True))[0][-2:] in {"/a", "/b"}
    group = store.get([find_cases(store, encoder, [stranger], k=1)[0].case.id])[0].group
    assert all(hit.case.group != group for hit in find_cases(store, encoder, [stranger], k=7, groups=[group]))


def test_words_and_both(store: VectorStore, encoder: ColourEncoder, pictures: Path, tmp_path: Path) -> None:
    assert names(store, find_cases(store, encoder, text="green tissue", k=1)) == ["s2/b"]
    stranger = paint(tmp_path / "new.png", "red", 123)
    by_weight = [
        names(store, find_cases(store, encoder, [stranger], "green", k=1, weight=weight))[0] for weight in (0.0, 1.0)
    ]
    assert by_weight[0] == "s2/b"
    assert by_weight[1] in {"s1/a", "s1/b", "s2/a"}
    two = [paint(tmp_path / f"{c}.png", c, 300) for c in ("red", "green")]
    assert len(find_cases(store, encoder, two, k=4)) == 4


def test_refusals(store: VectorStore, encoder: ColourEncoder, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing to search for"):
        find_cases(store, encoder, text="  ")
    with pytest.raises(BadInput, match=r"'gone\.png' does not exist|gone\.png' does not exist"):
        find_cases(store, encoder, [tmp_path / "gone.png"])
    with pytest.raises(BadInput, match="encoder colours-1, not with encoder colours-2"):
        find_cases(store, ColourEncoder(weights="2"), text="red")
    other = ColourEncoder()
    other.info = dataclasses.replace(other.info, preprocessing="resize 9")
    with pytest.raises(BadInput, match="preprocessing"):
        find_cases(store, other, text="red")
    with pytest.raises(BadInput, match="known values"):
        find_cases(store, encoder, text="red", where={"organ": "liver"})
