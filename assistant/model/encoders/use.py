"""Many files or texts to vectors: decoding runs ahead of the encoder in threads; a bad file does not stop the rest.

Pillow lets other threads run while it decodes and resizes, so threads keep the encoder fed without copies between
processes. Results do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant.errors import BadInput, NotAvailable, PathAssistError
from assistant.files import whole
from assistant.images.intake import ImageSource, load_image
from assistant.model.encoders.base import Encoder
from assistant.model.encoders.views import merged, views

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
#: Most lines of a text file, and bytes of it: more belongs into several files.
MAX_TEXTS, MAX_TEXT_BYTES = 1_000_000, 256 * 2**20
_BATCH = 64


@dataclass
class Embedded:
    """What came of a list of inputs.

    Attributes:
        ids: Of the inputs that were embedded, in the order given.
        vectors: [N, D] float32, of length 1, a row an id.
        failed: Id and reason of the others.
        warnings: What was embedded differently than given.
    """

    ids: list[str]
    vectors: NDArray[np.float32]
    failed: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __add__(self, other: Embedded) -> Embedded:
        vectors = np.concatenate([self.vectors, other.vectors])
        return Embedded(self.ids + other.ids, vectors, self.failed + other.failed, self.warnings + other.warnings)


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Files as given; of a folder all images below it, sorted.

    Raises:
        BadInput: A folder without images.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)  # whether it can be read is found out by the one door for images
            continue
        below = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        if not below:
            raise BadInput(f"the folder {str(path)!r} holds no image; wanted are {', '.join(IMAGE_SUFFIXES)}")
        found += below
    return found


def embed_files(
    encoder: Encoder,
    paths: Sequence[Path],
    *,
    in_views: bool = False,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Embedded:
    """Vectors of image files.

    Args:
        encoder: Any encoder.
        paths: Files; ids are their paths as given.
        in_views: Each vector is the mean over several views of its image (``assistant.model.encoders.views``).
        workers: Threads that decode; default one a core.
        progress: Called with the number of files done since the last call.
    """
    items = [(str(path), path) for path in paths]
    return embed_sources(encoder, items, in_views=in_views, workers=workers, progress=progress)


def embed_sources(
    encoder: Encoder,
    items: Sequence[tuple[str, ImageSource]],
    *,
    in_views: bool = False,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Embedded:
    """As :func:`embed_files`, for pairs of an id and an image in any accepted form."""
    ids: list[str] = []
    failed: list[tuple[str, str]] = []
    parts: list[NDArray[np.float32]] = []
    ready: list[Any] = []

    def flush() -> None:
        if ready:
            vectors = encoder.embed_prepared(ready)
            parts.append(merged(vectors) if in_views else vectors)
            ready.clear()

    def prepare(source: ImageSource) -> list[Any]:
        image = load_image(source)
        return [encoder.prepare(view) for view in (views(image) if in_views else [image])]

    for name, outcome in _ahead(prepare, items, workers):
        if isinstance(outcome, PathAssistError):
            failed.append((name, str(outcome)))
        else:
            ids.append(name)
            ready.extend(outcome)
            if len(ready) >= _BATCH:
                flush()
        if progress:
            progress(1)
    flush()
    return Embedded(ids, _stack(parts, encoder), failed)


def embed_texts(encoder: Encoder, items: Sequence[tuple[str, str]]) -> Embedded:
    """Vectors of pairs of an id and a text; empty texts fail, too long ones are cut with a warning.

    Raises:
        BadInput: An encoder without a text tower.
    """
    if not encoder.info.has_text:
        raise BadInput(f"the encoder {encoder.info.name} embeds images only; for texts use --encoder pathclip-small")
    good = [(name, text) for name, text in items if text.strip()]
    failed = [(name, f"{name} is an empty text; give a word or a sentence") for name, text in items if not text.strip()]
    texts = [text for _, text in good]
    warnings = [
        f"{good[i][0]} has {len(texts[i].split()):,} words, more than {encoder.info.name} reads; the rest is cut off"
        for i in encoder.too_long(texts)
    ]
    return Embedded([name for name, _ in good], encoder.embed_texts(texts), failed, warnings)


def read_texts(path: Path) -> list[tuple[str, str]]:
    """One text a line of a UTF-8 file; ids are ``name:line``, counted from 1.

    Raises:
        BadInput: No such file, not UTF-8, too large or empty.
    """
    try:
        size = path.stat().st_size
        if size > MAX_TEXT_BYTES:
            raise BadInput(f"{str(path)!r} has {size:,} bytes; at most {MAX_TEXT_BYTES:,} are read: split it")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise BadInput(f"cannot read the texts of {str(path)!r}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{str(path)!r} is not UTF-8 (byte {error.start}); save it as UTF-8, one text a line") from error
    if not lines:
        raise BadInput(f"{str(path)!r} holds no text; write one text a line")
    if len(lines) > MAX_TEXTS:
        raise BadInput(f"{str(path)!r} has {len(lines):,} lines; at most {MAX_TEXTS:,} are read: split it")
    return [(f"{path.name}:{number}", line) for number, line in enumerate(lines, 1)]


def write_vectors(path: Path, result: Embedded) -> None:
    """Write ``ids`` and ``vectors`` as ``.npz``, whole or not at all.

    Raises:
        BadInput: The name does not end in ``.npz``.
        NotAvailable: The folder cannot be written.
    """
    if path.suffix != ".npz":
        raise BadInput(f"--out is {path.name!r}; its name must end in .npz, for example vectors.npz")
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, ids=np.array(result.ids, dtype=np.str_), vectors=result.vectors)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write to that becomes ``path`` once it is complete; its folder is made.

    Raises:
        NotAvailable: The folder cannot be written.
    """
    try:
        with whole(path) as partial:
            yield partial
    except OSError as error:
        raise NotAvailable(f"cannot write {str(path)!r}: {error.strerror}; choose another --out") from error


def _ahead(
    work: Callable[[ImageSource], Any], items: Sequence[tuple[str, ImageSource]], workers: int | None
) -> Iterator[tuple[str, Any]]:
    """Each item's name and ``work``'s result or our error, in order; a bounded number of items is worked on ahead."""
    threads = workers or os.cpu_count() or 1
    waiting: deque[tuple[str, Future[Any]]] = deque()
    rest = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            while True:
                while len(waiting) < 2 * _BATCH and (item := next(rest, None)) is not None:
                    waiting.append((item[0], pool.submit(work, item[1])))
                if not waiting:
                    return
                name, future = waiting.popleft()
                error = future.exception()
                if error is not None and not isinstance(error, PathAssistError):
                    raise error
                yield name, future.result() if error is None else error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _stack(parts: list[NDArray[np.float32]], encoder: Encoder) -> NDArray[np.float32]:
    return np.concatenate(parts) if parts else np.empty((0, encoder.info.dimension), np.float32)
