"""Building a case library: incremental, resumable, and the same result however often it is run.

A file whose size and time are as they were is not read again; a picture that is already there under another name is a
duplicate; a batch is committed whole or not at all, so a build that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from assistant.cases import our_errors
from assistant.cases.decode import Decoded, decode_all, default_workers, thumbnail
from assistant.cases.slides import overview
from assistant.cases.sources import Item
from assistant.model.encoders.base import Encoder
from retrieval.records import Case, Region
from retrieval.search import Similarity
from retrieval.store import Identity, VectorStore

T = TypeVar("T")
Work = Iterable[tuple["_Pending", Path | bytes, Region | None, int]]
Engine = Callable[[Work], Iterator[tuple["_Pending", Decoded]]]

#: Images embedded and committed together.
BATCH = 64
#: Fewer images than this are read in this process: others take a second to start.
_FEW = 32


@dataclass
class BuildResult:
    """What a build did.

    Attributes:
        added: New cases.
        updated: Cases whose pixels or labels changed.
        unchanged: Cases that were there already.
        duplicates: Images left out because a case with the same pixels is there.
        failed: One line for each image that could not be read.
        total: Cases in the store afterwards.
        seconds: Wall-clock time of the whole build.
        encoder_seconds: Part of it inside the encoder.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicates: int = 0
    failed: list[str] = field(default_factory=list)
    total: int = 0
    seconds: float = 0.0
    encoder_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "failed": len(self.failed), "errors": self.failed[:100]}


def identity_of(encoder: Encoder) -> Identity:
    """What a store remembers of its encoder."""
    preprocessing = hashlib.sha256(encoder.info.preprocessing.encode()).hexdigest()[:16]
    return Identity(encoder.id, encoder.info.name, preprocessing, encoder.info.dimension)


def build(
    items: Iterable[Item],
    store: VectorStore,
    encoder: Encoder,
    *,
    workers: int | None = None,
    engine: Engine | None = None,
    on_progress: Callable[[BuildResult], None] = lambda _: None,
) -> BuildResult:
    """Bring a store up to date with a source.

    Args:
        store: Open for writing, with the identity of ``encoder``.
        workers: Processes that read images; default one fewer than there are cores.
        engine: Reads and embeds in its own way, for example ``ray_engine.embed_all``; default processes of this
            machine (``decode_all``).
        on_progress: Called after every commit.

    Raises:
        BadInput, NotAvailable: The source or the store failed; what was committed stays.
    """
    started = time.monotonic()
    result = BuildResult()
    builder = _Builder(store, encoder, result)
    with our_errors():
        pending = builder.pending(items)
        first = list(islice(pending, _FEW))
        many = len(first) == _FEW
        count = (default_workers() if workers is None else workers) if many else 0
        work = ((p, p.item.image, p.item.case.region, p.item.tile_pixels) for p in _chain(first, pending))
        read = engine(work) if engine is not None and first else decode_all(work, count)
        for batch in _batches(read, BATCH):
            builder.commit(batch)
            on_progress(result)
        builder.commit_slides()
        if result.added or result.updated or Similarity.read(store) is None:
            store.optimize()
            Similarity.fit(store)
        result.total = len(store)
    result.seconds = time.monotonic() - started
    return result


@dataclass(frozen=True)
class _Pending:
    """An image to read: its item, the stamp of its file, and the case that was read from the same place before."""

    item: Item
    stamp: str
    old: Case | None


class _Builder:
    def __init__(self, store: VectorStore, encoder: Encoder, result: BuildResult) -> None:
        self.store, self.encoder, self.result = store, encoder, result
        self.explicit_ids: set[str] = set()
        self.slides: dict[str, Case] = {}  # path of a slide → one of its tiles

    def pending(self, items: Iterable[Item]) -> Iterator[_Pending]:
        """Items that must be read; labels of the others are brought up to date."""
        for chunk in _batches(items, BATCH):
            known = self.store.by_locator({item.case.locator for item in chunk})
            changed = []
            for item in chunk:
                if item.error:
                    self.result.failed.append(item.error)
                    continue
                if item.tile_pixels:
                    self.slides[item.case.image] = item.case
                if item.case.id:
                    if item.case.id in self.explicit_ids:
                        self.result.failed.append(f"the id {item.case.id!r} comes twice; ids must be unique")
                        continue
                    self.explicit_ids.add(item.case.id)
                old, stamp = known.get(item.case.locator), item.stamp or _stamp(item.image)
                if old is None or not stamp or old.stamp != stamp or item.case.id not in ("", old.id):
                    yield _Pending(item, stamp, old)
                    continue
                case = replace(item.case, id=old.id, hash=old.hash, stamp=stamp)
                if case == old:
                    self.result.unchanged += 1
                else:
                    changed.append(case)
                    self.result.updated += 1
            if changed:
                self.store.relabel(changed)

    def commit(self, batch: list[tuple[_Pending, Decoded]]) -> None:
        """Embed what is new in a batch and commit it."""
        same = self.store.by_hash({decoded.hash for _, decoded in batch if decoded.hash})
        taken = {case.id: case for case in self.store.get(list({_id(p, d) for p, d in batch if not d.error}))}
        new: list[tuple[Case, Decoded]] = []
        relabelled: list[Case] = []
        replaced: set[str] = set()
        for pending, decoded in batch:
            if decoded.error:
                self.result.failed.append(decoded.error)
                continue
            case = replace(pending.item.case, id=_id(pending, decoded), hash=decoded.hash, stamp=pending.stamp)
            twin, old = same.get(case.hash), pending.old
            if twin and twin.id == case.id and (twin.locator == case.locator or not _is_there(twin)):
                if replace(case, stamp=twin.stamp, image=twin.image) == twin:
                    self.result.unchanged += 1  # the file was only touched or moved
                else:
                    self.result.updated += 1
                relabelled.append(case)
                continue
            if twin and not (old and twin.id == old.id):
                self.result.duplicates += 1
                if old:  # what this file showed before is gone
                    replaced.add(old.id)
                continue
            if old and old.id != case.id:
                replaced.add(old.id)
            if old or case.id in taken:
                self.result.updated += 1
            else:
                self.result.added += 1
            new.append((case, decoded))
            same[case.hash] = case
        if new:
            started = time.monotonic()
            done = [d.vector for _, d in new if d.vector is not None]
            images = [d.image for _, d in new if d.image is not None]
            vectors = np.stack(done) if len(done) == len(new) else self.encoder.embed_images(images)
            self.result.encoder_seconds += time.monotonic() - started
            self.store.upsert([case for case, _ in new], vectors, [decoded.thumbnail for _, decoded in new])
        if relabelled:
            self.store.relabel(relabelled)
        if replaced:
            self.store.delete(replaced)

    def commit_slides(self) -> None:
        """One case for every slide of this build: the mean of the vectors of its tiles."""
        for path, tile in self.slides.items():
            found = self.store.get(self.store.ids({"group": tile.group, "kind": "tile"}))
            tiles = [case for case in found if case.image == path]
            digest = hashlib.sha256(" ".join(sorted(case.hash for case in tiles)).encode()).hexdigest()
            facts = {key: value for key, value in tile.facts.items() if key != "tile_pixels"} | {"kind": "slide"}
            name = f"slide-{hashlib.sha256(path.encode()).hexdigest()[:16]}"
            title = "slide" if tile.title == "field of a slide" else tile.title
            case = replace(tile, id=name, region=None, title=title, hash=digest, facts=facts)
            old = self.store.get([name])
            if not tiles or old == [case]:
                continue
            vectors = self.store.vectors([case.id for case in tiles])
            picture = thumbnail(overview(Path(path)))
            self.store.upsert([case], vectors.mean(axis=0, keepdims=True), [picture])
            self.result.updated += bool(old)
            self.result.added += not old


def _id(pending: _Pending, decoded: Decoded) -> str:
    """The id of the index, else one made of the pixels: a file that is renamed stays the same case."""
    return pending.item.case.id or f"c-{decoded.hash[:16]}"


def _stamp(image: Path | bytes) -> str:
    """Size and time of a file, "" where it is not there."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    try:
        status = image.stat()
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _is_there(case: Case) -> bool:
    return Path(case.image.partition("#")[0]).exists()


def _chain(first: list[T], rest: Iterator[T]) -> Iterator[T]:
    yield from first
    yield from rest


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
