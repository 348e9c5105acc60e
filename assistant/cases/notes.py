"""The user's own texts (guidelines, papers, notes) as a store that answers with passages.

Texts are embedded by MiniLM alone, which was trained to compare texts with texts; the text tower of an image encoder
was trained to compare them with images. Passages come in the order of words and meaning fused, see ``retrieval.notes``.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from assistant.cases import our_errors
from assistant.errors import BadInput, TooLarge
from retrieval.notes import Document, NoteStore, Passage, split_text

FILE_NAME = "notes.sqlite"
SUFFIXES = (".txt", ".md")
MAX_BYTES = 20 * 2**20
_TITLE_CHARS = 90
_BATCH = 16


class TextEncoder(Protocol):
    """Texts to vectors.

    Attributes:
        id: Name and hash of the weights.
    """

    id: str

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [N, D] of length 1."""


class MiniLM:
    """all-MiniLM-L6-v2 as it was trained for sentences: mean over the tokens, [N, 384]. Loaded at first use."""

    id = "minilm"

    def __init__(self) -> None:
        self._parts: tuple[Any, Any] | None = None
        self._lock = threading.Lock()

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [N, 384] of length 1; words beyond 256 tokens are not read.

        Raises:
            NotAvailable: The weights are not here.
        """
        import torch

        from assistant.model.encoders.pathclip import MAX_TOKENS

        with self._lock:
            model, tokenizer = self._loaded()
            rows = []
            for start in range(0, len(texts), _BATCH):
                batch = list(texts[start : start + _BATCH])
                tokens = tokenizer(batch, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt").to(
                    next(model.parameters()).device
                )
                with torch.inference_mode():
                    hidden = model(**tokens).last_hidden_state  # [B, T, 384]
                    weights = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
                    mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
                    rows.append(torch.nn.functional.normalize(mean, dim=-1).cpu().numpy())
        return np.concatenate(rows).astype(np.float32)

    def _loaded(self) -> tuple[Any, Any]:
        if self._parts is None:
            from assistant.model.encoders.pathclip import minilm, minilm_tokenizer

            self._parts = minilm().eval(), minilm_tokenizer()
        return self._parts


@dataclass(frozen=True)
class Added:
    """What became of one file.

    Attributes:
        id: Made of where the file is: the same file again replaces what it held before.
        title: Its first line; the name of the file is not kept, since it may name a patient.
        passages: Pieces it was cut into.
    """

    id: str
    title: str
    passages: int


class Notes:
    """A folder with notes. Threads may share one."""

    def __init__(self, folder: Path | str, encoder: TextEncoder | None = None, *, create: bool = False) -> None:
        """Open.

        Args:
            encoder: Default MiniLM.
            create: Make the store where there is none yet.

        Raises:
            BadInput: No notes there, or notes that were embedded with another encoder.
            NotAvailable: The store is damaged.
        """
        path = Path(folder).expanduser() / FILE_NAME
        if not create and not path.is_file():
            raise BadInput(
                f"there are no notes in {str(folder)!r}; add some: pathassist notes add FILE --store {folder}"
            )
        self.encoder: TextEncoder = encoder or MiniLM()
        with our_errors():
            try:
                self._store = NoteStore(path, self.encoder.id)
            except OSError as error:
                raise BadInput(f"cannot make a folder at {str(folder)!r}: {error.strerror}; choose another") from None

    def add(self, file: Path) -> Added:
        """Add a text file, or replace what it held when it was added before.

        Raises:
            BadInput: Not there, another kind of file, not UTF-8, or empty. TooLarge: over 20 MB.
        """
        text = _read(file)
        name = f"n-{hashlib.sha256(str(file.expanduser().resolve()).encode()).hexdigest()[:12]}"
        title = _title(text)
        chunks = split_text(text)
        with our_errors():
            self._store.add(Document(name, text, title), chunks, self.encoder.embed_texts(chunks))
        return Added(name, title, len(chunks))

    def delete(self, document: str) -> bool:
        """Remove a document; False where there was none."""
        with our_errors():
            return self._store.delete(document)

    def documents(self) -> list[Document]:
        """All documents, without their text."""
        return self._store.documents()

    def search(self, text: str, k: int = 5) -> list[Passage]:
        """The ``k`` passages that fit best, by words and meaning together.

        Returns:
            In the order of the fused ranks; ``score`` is the cosine of passage and question, −1 to 1.

        Raises:
            BadInput: An empty text.
        """
        if not text.strip():
            raise BadInput("there is nothing to search for; give a question or keywords")
        with our_errors():
            query = self.encoder.embed_texts([text])[0]
            found = self._store.search(text, query, k)
            if not found:
                return []
            scores = self.encoder.embed_texts([passage.text for passage in found]) @ query
        return [replace(passage, score=float(score)) for passage, score in zip(found, scores, strict=True)]

    def close(self) -> None:
        self._store.close()

    def __len__(self) -> int:
        return len(self._store)


def _read(file: Path) -> str:
    """The text of a file of ours to read."""
    path = file.expanduser()
    if path.suffix.lower() == ".pdf":
        raise BadInput(
            f"{file.name!r} is a PDF, which is not read here; make a text of it: pdftotext FILE.pdf FILE.txt"
        )
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"{file.name!r} is not a text; allowed: files ending in {', '.join(SUFFIXES)}")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise TooLarge(
                f"{file.name!r} has {size / 2**20:.0f} MB; at most {MAX_BYTES // 2**20} are read, so split it"
            )
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(f"{str(file)!r} cannot be read: {error.strerror}; give a .txt or .md file") from None
    except UnicodeDecodeError:
        raise BadInput(f"{file.name!r} is not UTF-8 text; save it as UTF-8") from None
    if not text.strip():
        raise BadInput(f"{file.name!r} holds no text; there is nothing to add")
    return text


def _title(text: str) -> str:
    """The first line that says something, without Markdown's signs."""
    first = next(line for line in text.splitlines() if line.strip())
    plain = " ".join(first.strip().lstrip("#").split()) or "untitled"
    return plain if len(plain) <= _TITLE_CHARS else plain[: _TITLE_CHARS - 1].rstrip() + "…"
