"""A store of texts (literature, guidelines, own notes): words by BM25 and meaning by vectors, fused by rank.

One SQLite file: FTS5 ranks by BM25, vectors (optional) are compared exactly, and reciprocal rank fusion (Cormack,
Clarke and Büttcher, SIGIR 2009) joins the two lists without having to compare their scores.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.errors import BadRequest, StoreFailure, StoreMismatch
from retrieval.store import Vectors, unit

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, source TEXT NOT NULL, licence TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS chunks (
    number INTEGER PRIMARY KEY, document TEXT NOT NULL REFERENCES documents (id), place INTEGER NOT NULL,
    text TEXT NOT NULL, vector BLOB);
CREATE INDEX IF NOT EXISTS by_document ON chunks (document);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (title, text, tokenize = 'porter unicode61');
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_RANK_CONSTANT = 60  # of the paper
_POOL = 100


@dataclass(frozen=True)
class Document:
    """A text with its origin."""

    id: str
    text: str
    title: str = ""
    source: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Passage:
    """A chunk found.

    Attributes:
        place: Which chunk of its document, from 0.
        score: Sum of 1 / (60 + rank) over the lists it is in; only the order means something.
    """

    document: str
    place: int
    title: str
    text: str
    source: str
    licence: str
    score: float


def split_text(text: str, words: int = 160, overlap: int = 30) -> list[str]:
    """Chunks of at most ``words`` words, each sharing ``overlap`` words with the one before."""
    if not 0 <= overlap < words:
        raise BadRequest(f"the overlap is {overlap} words of {words}; it must be smaller")
    found = text.split()
    starts = range(0, max(1, len(found) - overlap), words - overlap)
    return [" ".join(found[start : start + words]) for start in starts if found]


class NoteStore:
    """Documents in one file. Threads may share one."""

    def __init__(self, path: Path, encoder: str = "") -> None:
        """Open or create.

        Args:
            encoder: Id of the text encoder; "" for words alone.

        Raises:
            StoreMismatch: The vectors in the file come from another encoder.
            StoreFailure: Not a database.
        """
        self.path = path
        self._mutex = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript(_SCHEMA)
            known = self._setting("encoder")
        except sqlite3.Error as error:
            self._db.close()
            raise StoreFailure(f"the notes in {path} cannot be read: {error}; restore or delete the file") from error
        if encoder and known and known != encoder:
            self.close()
            raise StoreMismatch(
                f"the notes in {path} were embedded with {known}, not {encoder}; use that or a new file"
            )
        self.encoder = encoder or known or ""

    def add(self, document: Document, chunks: Sequence[str], vectors: Vectors | None = None) -> None:
        """Add a document, or replace the one with its id, in one transaction.

        Args:
            chunks: Its text in pieces, from ``split_text``.
            vectors: [N, D], one each.

        Raises:
            BadRequest: Nothing to add, or vectors that do not match.
        """
        if not document.id or not chunks:
            raise BadRequest(f"the document {document.id!r} has no id or no text; give both")
        blobs: list[bytes | None] = [None] * len(chunks)
        if vectors is not None:
            if not self.encoder or len(vectors) != len(chunks):
                raise BadRequest(
                    f"{len(vectors)} vectors for {len(chunks)} chunks, encoder {self.encoder or 'not named'!r}"
                )
            blobs = [row.tobytes() for row in unit(vectors, vectors.shape[1])]
        with self._writing():
            if vectors is not None:
                self._db.execute("INSERT OR IGNORE INTO settings VALUES ('encoder', ?)", (self.encoder,))
                self._db.execute("INSERT OR IGNORE INTO settings VALUES ('dimension', ?)", (str(vectors.shape[1]),))
                if self._setting("dimension") != str(vectors.shape[1]):
                    raise StoreMismatch(
                        f"the notes in {self.path} have vectors of {self._setting('dimension')} numbers, not"
                        f" {vectors.shape[1]}; use the encoder {self.encoder!r}"
                    )
            self._remove(document.id)
            row = (document.id, document.title, document.source, document.licence)
            self._db.execute("INSERT INTO documents VALUES (?, ?, ?, ?)", row)
            for place, (text, blob) in enumerate(zip(chunks, blobs, strict=True)):
                number = self._db.execute(
                    "INSERT INTO chunks (document, place, text, vector) VALUES (?, ?, ?, ?)",
                    (document.id, place, text, blob),
                ).lastrowid
                self._db.execute(
                    "INSERT INTO words (rowid, title, text) VALUES (?, ?, ?)", (number, document.title, text)
                )

    def delete(self, document: str) -> bool:
        """Remove a document; False where there was none."""
        with self._writing():
            return self._remove(document)

    def search(self, text: str, vector: Vectors | None = None, k: int = 5) -> list[Passage]:
        """The ``k`` passages that fit best.

        Args:
            text: Question or keywords; any of its words may match.
            vector: Embedding [D] of the question, to find other wordings too.
        """
        with self._mutex:
            lists = [self._by_words(text)]
            if vector is not None:
                lists.append(self._by_vector(vector))
            scores: dict[int, float] = {}
            for ranking in lists:
                for rank, number in enumerate(ranking, 1):
                    scores[number] = scores.get(number, 0.0) + 1 / (_RANK_CONSTANT + rank)
            best = sorted(scores, key=lambda number: (-scores[number], number))[:k]
            return [self._passage(number, scores[number]) for number in best]

    def documents(self) -> list[Document]:
        """All documents, without their text."""
        with self._mutex:
            rows = self._db.execute("SELECT id, title, source, licence FROM documents ORDER BY id").fetchall()
        return [Document(row[0], "", *row[1:]) for row in rows]

    def close(self) -> None:
        self._db.close()

    def __len__(self) -> int:
        with self._mutex:
            return int(self._db.execute("SELECT count(*) FROM chunks").fetchone()[0])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self._mutex, self._db:  # sqlite3 commits, or rolls back after an error
                yield
        except sqlite3.Error as error:
            raise StoreFailure(f"cannot write the notes in {self.path}: {error}; what was there is safe") from error

    def _remove(self, document: str) -> bool:
        numbers = self._db.execute("SELECT number FROM chunks WHERE document = ?", (document,)).fetchall()
        self._db.executemany("DELETE FROM words WHERE rowid = ?", numbers)
        self._db.execute("DELETE FROM chunks WHERE document = ?", (document,))
        return self._db.execute("DELETE FROM documents WHERE id = ?", (document,)).rowcount > 0

    def _by_words(self, text: str) -> list[int]:
        words = re.findall(r"\w+", text.lower())
        if not words:
            return []
        # Quoted, a word is a word: nothing a user types is taken for FTS5 syntax.
        query = " OR ".join(f'"{word}"' for word in dict.fromkeys(words))
        found = self._db.execute(
            "SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words, 2.0, 1.0), rowid LIMIT ?", (query, _POOL)
        )
        return [row[0] for row in found]

    def _by_vector(self, vector: Vectors) -> list[int]:
        dimension = self._setting("dimension")
        if dimension is None:
            return []
        query = unit(vector[None], int(dimension))[0]
        rows = self._db.execute("SELECT number, vector FROM chunks WHERE vector IS NOT NULL ORDER BY number").fetchall()
        if not rows:
            return []
        scores = np.frombuffer(b"".join(row[1] for row in rows), np.float32).reshape(len(rows), -1) @ query
        return [rows[place][0] for place in np.argsort(-scores, kind="stable")[:_POOL]]

    def _passage(self, number: int, score: float) -> Passage:
        document, place, title, text, source, licence = self._db.execute(
            "SELECT c.document, c.place, d.title, c.text, d.source, d.licence FROM chunks AS c"
            " JOIN documents AS d ON d.id = c.document WHERE c.number = ?",
            (number,),
        ).fetchone()
        return Passage(document, place, title, text, source, licence, score)

    def _setting(self, key: str) -> str | None:
        row = self._db.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])
