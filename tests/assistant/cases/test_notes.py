"""The user's own texts: added, replaced, found, deleted; by the command line too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner

from assistant import cli_notes
from assistant.cases import notes as module
from assistant.cases.notes import Notes
from assistant.cli_common import ErrorGroup
from assistant.errors import BadInput, NotAvailable

TOPICS = (("gland", "colon"), ("neuron", "brain"), ("alveoli", "lung"))


class TopicEncoder:
    """One number for each topic; words of one topic mean the same."""

    id = "topics"

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [[0.01 + sum(word in text.lower() for word in topic) for topic in TOPICS] for text in texts]
        array = np.array(rows, np.float32)
        return array / np.linalg.norm(array, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MiniLM", TopicEncoder)


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "Jane Doe"
    folder.mkdir()
    (folder / "Jane Doe 1961.md").write_text("# Glands\n\nA gland is crowded in adenoma.")
    (folder / "b.txt").write_text("Neurons\nA neuron has a soma.")
    return sorted(folder.iterdir())


@pytest.fixture
def notes(tmp_path: Path, texts: list[Path]) -> Notes:
    notes = Notes(tmp_path / "store", create=True)
    for text in texts:
        notes.add(text)
    return notes


def test_found_by_words_and_by_meaning(notes: Notes) -> None:
    assert notes.search("soma", 1)[0].title == "Neurons"
    best = notes.search("brain", 1)[0]  # no such word in any text
    assert (best.title, best.score) == ("Neurons", pytest.approx(1, abs=0.01))


def test_a_file_again_replaces_what_it_held(notes: Notes, texts: list[Path]) -> None:
    before = [d.id for d in notes.documents()]
    texts[0].write_text("Alveoli are thin.")
    notes.add(texts[0])
    assert [d.id for d in notes.documents()] == before
    assert "Glands" not in {d.title for d in notes.documents()}
    assert notes.search("gland adenoma", 5)[0].title != "Glands"


def test_no_file_names_are_kept(notes: Notes, tmp_path: Path) -> None:
    notes.close()
    assert not any(b"Jane" in file.read_bytes() for file in (tmp_path / "store").iterdir())


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.pdf", b"%PDF-1.7", "pdftotext"),
        ("a.docx", b"PK", r"\.txt, \.md"),
        ("a.txt", b"\xff\xfe\x00", "UTF-8"),
        ("a.txt", b" \n", "no text"),
        ("missing.txt", None, "No such file"),
    ],
)
def test_files_that_are_refused(notes: Notes, tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=says):
        notes.add(tmp_path / name)
    assert len(notes.documents()) == 2


def test_no_store_and_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="pathassist notes add"):
        Notes(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    (tmp_path / module.FILE_NAME).write_bytes(b"not a database, but long enough to be taken for one " * 30)
    with pytest.raises(NotAvailable, match="cannot be read"):
        Notes(tmp_path)


def test_the_commands(tmp_path: Path, texts: list[Path]) -> None:
    app = typer.Typer(cls=ErrorGroup)
    cli_notes.register(app)
    store = str(tmp_path / "store")

    def run(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["notes", *words, "--store", store])
        assert result.exit_code == code, result.output
        return result.output

    assert "no notes" in run("list", code=2)
    assert "2 texts added" in run("add", *map(str, texts))
    assert "1 unreadable" in run("add", str(texts[0]), str(tmp_path / "no.txt"), code=1)
    assert "Glands" in run("search", "colon", "-k", "1")
    (first, _) = json.loads(run("list", "--json"))["notes"]
    assert "no text has the id" in run("delete", "n-0", code=2)
    assert json.loads(run("delete", first["id"], "--json")) == {"deleted": 1, "left": 1}
    assert len(json.loads(run("search", "colon", "--json"))["passages"]) == 1
