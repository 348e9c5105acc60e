"""Texts found by words and by meaning."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import BadRequest, StoreFailure, StoreMismatch
from retrieval.notes import Document, NoteStore, split_text

TEXTS = {
    "gist": "Gastrointestinal stromal tumours show spindle cells and express CD117.",
    "melanoma": "Melanoma cells are positive for S100 and HMB45.",
    "lymphoma": "Diffuse large B cell lymphoma expresses CD20.",
}


@pytest.fixture
def notes(tmp_path: Path) -> NoteStore:
    store = NoteStore(tmp_path / "notes.sqlite", "text-1")
    for place, (name, text) in enumerate(TEXTS.items()):
        store.add(
            Document(name, text, title=name, source="textbook", licence="CC0"), [text], np.eye(3)[place : place + 1]
        )
    return store


def test_words(notes: NoteStore) -> None:
    found = notes.search("which tumour expresses cd117?")
    assert found[0].document == "gist"
    assert (found[0].text, found[0].source, found[0].licence) == (TEXTS["gist"], "textbook", "CC0")
    assert notes.search("xylophone") == []
    assert notes.search("?!") == []


def test_meaning_and_fusion(notes: NoteStore) -> None:
    vector = np.array([0.1, 1, 0.2], np.float32)
    assert [p.document for p in notes.search("xylophone", vector)] == ["melanoma", "lymphoma", "gist"]
    both = notes.search("CD20", vector)
    assert both[0].document == "lymphoma"  # first by words and second by meaning
    assert both[0].score == pytest.approx(1 / 61 + 1 / 62)
    assert len(notes.search("cells", vector, k=2)) == 2


@pytest.mark.parametrize("text", ['"', "a OR", "NEAR(", "title:x*", "'; DROP TABLE chunks; --", "-cell", "^"])
def test_no_syntax_in_queries(notes: NoteStore, text: str) -> None:
    notes.search(text)
    assert len(notes) == 3


def test_replace_and_delete(notes: NoteStore) -> None:
    notes.add(Document("gist", "new"), ["new words", "more words"], np.eye(3)[:2])
    assert len(notes) == 4
    assert notes.search("CD117") == []
    assert {p.place for p in notes.search("words")} == {0, 1}
    assert notes.delete("gist")
    assert not notes.delete("gist")
    assert notes.search("words") == []
    assert [d.id for d in notes.documents()] == ["lymphoma", "melanoma"]


def test_kept_and_checked(notes: NoteStore, tmp_path: Path) -> None:
    notes.close()
    with pytest.raises(StoreMismatch, match="embedded with text-1, not text-2"):
        NoteStore(tmp_path / "notes.sqlite", "text-2")
    again = NoteStore(tmp_path / "notes.sqlite")
    assert again.search("CD20")[0].document == "lymphoma"
    with pytest.raises(StoreMismatch, match="vectors of 3 numbers, not 4"):
        again.add(Document("x", "y"), ["y"], np.eye(4)[:1])
    for chunks, vectors in ((["a"], np.eye(3)), ([], None)):
        with pytest.raises(BadRequest):
            again.add(Document("x", "y"), chunks, vectors)
    assert len(again) == 3
    again.close()


def test_a_failed_write_changes_nothing(notes: NoteStore) -> None:
    notes._db.execute(
        "CREATE TRIGGER full BEFORE INSERT ON chunks WHEN NEW.place = 1 BEGIN SELECT raise(FAIL, 'full'); END"
    )
    with pytest.raises(StoreFailure, match=r"cannot write the notes .*full; what was there is safe"):
        notes.add(Document("gist", "new"), ["a", "b"])
    assert notes.search("CD117")[0].text == TEXTS["gist"]


def test_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(StoreFailure, match="cannot be read"):
        NoteStore(path)


def test_split() -> None:
    words = [f"w{i}" for i in range(250)]
    chunks = split_text(" ".join(words), 100, 20)
    assert [len(chunk.split()) for chunk in chunks] == [100, 100, 90]
    assert chunks[1].split()[:20] == chunks[0].split()[-20:]
    assert split_text(" ".join(words[:100]), 100, 20) == [" ".join(words[:100])]
    assert split_text("  ") == []
    with pytest.raises(BadRequest):
        split_text("a", 5, 5)


def test_sqlite_has_fts5() -> None:
    with sqlite3.connect(":memory:") as db:
        db.execute("CREATE VIRTUAL TABLE t USING fts5 (x)")
    db.close()
