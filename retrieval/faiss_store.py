"""``faiss:DIR``: a case library in a folder, without a server.

```
manifest.json        identity, generation, index; replaced by rename
cases-G.sqlite       records; a case counts once it is committed here
vectors-G.f32        unit vectors [rows, D], appended and flushed before the commit; memory-mapped for reading
index-G-R.faiss      index over the first R rows (above 20,000 cases); rows after it are compared one by one
thumbnails/ab/….jpg  by content hash
writer.lock          held by the one process that writes
```
A kill at any moment loses at most the batch being written: vectors without a committed record are overwritten by the
next batch, and files that no manifest names are removed by the next writer.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from retrieval import faiss_index
from retrieval.catalog import Catalog, Rows
from retrieval.errors import BadRequest, RetrievalError, StoreBusy, StoreFailure
from retrieval.faiss_index import IndexState
from retrieval.records import Case, Hit, Where
from retrieval.store import Identity, Info, Vectors, check_upsert, unit

MANIFEST = "manifest.json"
#: So many vectors after the index are compared one by one before it is extended.
TAIL_MAX = 5_000
#: Share of deleted rows above which the files are written anew.
DEAD_MAX = 0.2
#: A filter that leaves no more cases than this is searched exactly.
EXACT_MAX = 50_000


class FaissStore:
    """``VectorStore`` in a folder. Threads may share one; processes open their own."""

    def __init__(self, url: str, identity: Identity | None, *, write: bool) -> None:
        """See ``open_store``."""
        self.url = url
        self.folder = Path(url.removeprefix("faiss:")).expanduser()
        self._write = write
        self._mutex = threading.RLock()
        self._lock = FileLock(self.folder / "writer.lock", timeout=0, thread_local=False)
        self._catalog: Catalog | None = None
        self._index: Any = None
        self._vectors: Vectors = np.empty((0, 1), np.float32)
        if not (self.folder / MANIFEST).is_file() and not (write and identity):
            raise BadRequest(
                f"there is no case store at {url}; make one with: pathassist index build SOURCE --store {url}"
            )
        try:
            if write:
                self._acquire()
            if not (self.folder / MANIFEST).is_file() and identity:
                self._create(identity)
            self._open()
            if identity:
                self.identity.check(identity, url)
            if write:
                self._tidy()
        except BaseException:
            self.close()
            raise

    # --- writing ---------------------------------------------------------------------------------------------------

    def upsert(self, cases: Sequence[Case], vectors: Vectors, thumbnails: Sequence[bytes | None] | None = None) -> None:
        if not cases:
            return
        array, thumbnails = check_upsert(cases, vectors, thumbnails, self.identity.dimension)
        with self._writing() as catalog:
            known = {case.id: row for row, case in catalog.find("id", [case.id for case in cases])}
            # The same vector again needs no new row, so building twice does not grow the files.
            same = [
                c.id in known and np.array_equal(self._vectors[known[c.id]], v)
                for c, v in zip(cases, array, strict=True)
            ]
            new = [number for number, kept in enumerate(same) if not kept]
            dead = [known[cases[number].id] for number in new if cases[number].id in known]
            for case, thumbnail in zip(cases, thumbnails, strict=True):
                if thumbnail is not None:
                    _write_whole(self._thumbnail_path(case), thumbnail)
            first = catalog.next_row()
            self._write_vectors(first, array[new])
            with catalog.transaction():
                catalog.remove(dead)
                catalog.update(case for case, kept in zip(cases, same, strict=True) if kept)
                catalog.insert(first, [cases[number] for number in new])
            self._blank(dead)

    def relabel(self, cases: Sequence[Case]) -> None:
        with self._writing() as catalog, catalog.transaction():
            catalog.update(cases)

    def delete(self, ids: Collection[str]) -> int:
        with self._writing() as catalog:
            found = catalog.find("id", ids)
            with catalog.transaction():
                catalog.remove(row for row, _ in found)
            self._blank([row for row, _ in found])
            used = self.by_hash({case.hash for _, case in found})
            for _, case in found:
                if case.hash not in used:
                    self._thumbnail_path(case).unlink(missing_ok=True)
            return len(found)

    def optimize(self, kind: str = "auto") -> None:
        if kind != "auto":
            faiss_index.check_kind(kind)
        with self._writing() as catalog:
            self._refresh()
            if len(self._alive) < (1 - DEAD_MAX) * catalog.next_row():
                self._compact(catalog)
                catalog = self._refresh()
            wanted = faiss_index.choose_kind(len(self._alive)) if kind == "auto" else kind
            rows = catalog.next_row()
            if wanted == "flat" or not len(self._alive):
                if self._state:
                    self._commit_index(None)
                return
            tail = rows - (self._state.rows if self._state else 0)
            if self._state and self._state.kind == wanted and tail <= TAIL_MAX:
                return
            if self._state and self._state.kind == wanted and tail < self._state.rows:
                index = faiss_index.load(self.folder / self._state.file, mapped=False)
                faiss_index.extend(index, self._vectors)
            else:
                index = faiss_index.build(self._vectors, self._alive, wanted)
            effort, recall = faiss_index.tune(index, wanted, self._vectors, self._alive)
            state = IndexState(wanted, f"index-{self._generation}-{rows}-{wanted}.faiss", rows, effort, recall)
            faiss_index.save(index, self.folder / state.file)
            self._commit_index(state)

    # --- reading ---------------------------------------------------------------------------------------------------

    def search(
        self,
        vectors: Vectors,
        k: int,
        where: Where | None = None,
        exclude_groups: Collection[str] = (),
        exclude_ids: Collection[str] = (),
    ) -> list[list[Hit]]:
        if k < 1:
            raise BadRequest(f"k is {k}; ask for at least 1 case")
        queries = unit(vectors, self.identity.dimension)
        with self._reading() as catalog:
            allowed = catalog.rows(where) if where else self._alive
            barred = np.union1d(catalog.rows_in_groups(exclude_groups), catalog.rows_of_ids(exclude_ids))
            state = self._state
            if state is None or (where and len(allowed) <= EXACT_MAX):
                rows = np.setdiff1d(allowed, barred, assume_unique=True) if len(barred) else allowed
                scores, found = faiss_index.exact(queries, self._vectors, rows, k)
            else:
                mask: NDArray[np.bool_] | None = None
                if where or len(barred) or len(self._alive) < len(self._vectors):
                    mask = np.zeros(len(self._vectors), bool)
                    mask[allowed] = True
                    mask[barred] = False
                near = faiss_index.approximate(self._index, state.kind, state.effort, queries, self._vectors, k, mask)
                tail = (
                    np.arange(state.rows, len(self._vectors))
                    if mask is None
                    else np.flatnonzero(mask[state.rows :]) + state.rows
                )
                scores, found = faiss_index.merge(near, faiss_index.exact(queries, self._vectors, tail, k), k)
            cases = catalog.cases({int(row) for row in found.ravel() if row >= 0})
            return [
                [Hit(cases[r], float(s)) for r, s in zip(row.tolist(), score.tolist(), strict=True) if r in cases]
                for row, score in zip(found, scores, strict=True)
            ]

    def get(self, ids: Sequence[str]) -> list[Case]:
        with self._reading() as catalog:
            found = {case.id: case for _, case in catalog.find("id", ids)}
            return [found[name] for name in ids if name in found]

    def vectors(self, ids: Sequence[str]) -> Vectors:
        with self._reading() as catalog:
            rows = {case.id: row for row, case in catalog.find("id", set(ids))}
            if missing := [name for name in ids if name not in rows]:
                raise BadRequest(f"no case has the id {missing[0]!r} in {self.url}")
            return np.array(self._vectors[[rows[name] for name in ids]], dtype=np.float32).reshape(len(ids), -1)

    def ids(self, where: Where | None = None) -> list[str]:
        with self._reading() as catalog:
            return catalog.ids(catalog.rows(where) if where else None)

    def by_locator(self, locators: Collection[str]) -> dict[str, Case]:
        with self._reading() as catalog:
            return {case.locator: case for _, case in catalog.find("locator", locators)}

    def by_hash(self, hashes: Collection[str]) -> dict[str, Case]:
        with self._reading() as catalog:
            return {case.hash: case for _, case in reversed(catalog.find("hash", hashes))}

    def labels(self) -> list[tuple[str, str, str]]:
        with self._reading() as catalog:
            return catalog.labels()

    def values(self, key: str) -> dict[str, int]:
        with self._reading() as catalog:
            return catalog.values(key)

    def thumbnail(self, case: Case) -> bytes | None:
        path = self._thumbnail_path(case)
        return path.read_bytes() if case.hash and path.is_file() else None

    def note(self, key: str, value: str | None = None) -> str | None:
        if value is None:
            with self._reading() as catalog:
                return catalog.note(key)
        with self._writing() as catalog:
            catalog.set_note(key, value)
            return value

    def info(self) -> Info:
        with self._reading() as catalog:
            names = ["cases-*.sqlite*", "vectors-*.f32", "index-*.faiss"]
            size = sum(path.stat().st_size for name in names for path in self.folder.glob(name))
            state = self._state or IndexState("flat", "", 0, 0, float("nan"))
            recall = self._state.recall if self._state else None
            return Info(
                self.url, self.identity, len(self._alive), catalog.groups(), state.kind, recall, state.rows, size
            )

    def close(self) -> None:
        with self._mutex:
            if self._catalog:
                self._catalog.close()
            self._catalog = self._index = None
            self._vectors = np.empty((0, 1), np.float32)
            self._lock.release()

    def __len__(self) -> int:
        with self._reading():
            return len(self._alive)

    # --- files -----------------------------------------------------------------------------------------------------

    def _acquire(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise StoreBusy(
                f"another process is writing to {self.url}; wait until it is done, then try again"
            ) from None
        except OSError as error:
            raise StoreFailure(f"cannot write to {self.url}: {error.strerror}; choose another folder") from error

    def _create(self, identity: Identity) -> None:
        with self._failing():
            for leftover in [*self.folder.glob("cases-*.sqlite*"), *self.folder.glob("vectors-*.f32")]:
                leftover.unlink()  # of a creation that was cut short: no manifest names them
            Catalog(self._catalog_path(1), write=True).close()
            self._vectors_path(1).touch()
            self._write_manifest(identity, 1, None)

    def _open(self) -> None:
        """Read the manifest and open what it names."""
        path = self.folder / MANIFEST
        for attempt in range(3):  # a writer may replace the files between our reading of one and opening of the next
            try:
                self._manifest_stamp = _stamp(path)
                manifest = json.loads(path.read_bytes())
                self.identity = Identity.from_dict(manifest["identity"])
                self._generation = int(manifest["generation"])
                self._state = IndexState(**manifest["index"]) if manifest["index"] else None
                catalog = Catalog(self._catalog_path(self._generation), write=self._write)
                if self._catalog:
                    self._catalog.close()
                self._catalog = catalog
                self._index = faiss_index.load(self.folder / self._state.file) if self._state else None
                self._version: int | None = None
                self._refresh()
                return
            except (OSError, ValueError, KeyError, TypeError, RuntimeError, StoreFailure) as error:
                if attempt == 2 or _stamp(path) == self._manifest_stamp:
                    reason = str(error).splitlines()[0]
                    raise StoreFailure(
                        f"the case store {self.url} is damaged: {reason};"
                        " restore the folder, or delete it and build again"
                    ) from error

    def _refresh(self) -> Catalog:
        """See what other processes, or this one, have committed."""
        if self._catalog is None:
            raise BadRequest(f"the case store {self.url} is closed; open it again")
        if _stamp(self.folder / MANIFEST) != self._manifest_stamp:
            self._open()
        version = self._catalog.version()
        if version != self._version:
            rows, size = self._catalog.next_row(), self._vectors_path(self._generation).stat().st_size
            if size < rows * self.identity.dimension * 4:
                raise StoreFailure(
                    f"the case store {self.url} is damaged: its vectors end at {size} bytes of"
                    f" {rows * self.identity.dimension * 4}; restore the folder, or delete it and build again"
                )
            shape = (rows, self.identity.dimension)
            # An empty file cannot be mapped.
            self._vectors = (
                np.memmap(self._vectors_path(self._generation), np.float32, "r", shape=shape)
                if rows
                else np.empty(shape, np.float32)
            )
            self._rows: Rows | None = None
            self._version = version
        return self._catalog

    @property
    def _alive(self) -> Rows:
        """Rows of the cases that are there, ascending."""
        if self._rows is None:
            self._rows = self._refresh().all_rows()
        return self._rows

    def _write_vectors(self, first: int, array: Vectors) -> None:
        """Put vectors into rows from ``first`` on and wait until they are on the disk."""
        if len(array):
            with self._vectors_path(self._generation).open("r+b") as file:
                file.seek(first * self.identity.dimension * 4)
                file.write(np.ascontiguousarray(array).data)
                file.flush()
                os.fsync(file.fileno())

    def _blank(self, rows: Sequence[int]) -> None:
        """Overwrite the vectors of deleted cases."""
        if rows:
            width = self.identity.dimension * 4
            with self._vectors_path(self._generation).open("r+b") as file:
                for row in rows:
                    file.seek(row * width)
                    file.write(bytes(width))
                file.flush()
                os.fsync(file.fileno())

    def _commit_index(self, state: IndexState | None) -> None:
        self._write_manifest(self.identity, self._generation, state)
        self._open()
        self._tidy()

    def _compact(self, catalog: Catalog) -> None:
        """Write records and vectors anew without the deleted rows; the manifest then switches to them."""
        generation = self._generation + 1
        with self._vectors_path(generation).open("wb") as file:
            for start in range(0, len(self._alive), 65_536):
                file.write(np.ascontiguousarray(self._vectors[self._alive[start : start + 65_536]]).data)
            file.flush()
            os.fsync(file.fileno())
        self._catalog_path(generation).unlink(missing_ok=True)
        catalog.copy_to(self._catalog_path(generation))
        copy = Catalog(self._catalog_path(generation), write=True)
        try:
            with copy.transaction():
                copy.renumber(self._alive)
        finally:
            copy.close()
        self._write_manifest(self.identity, generation, None)
        self._open()
        self._tidy()

    def _tidy(self) -> None:
        """Remove what the manifest does not name: leftovers of a kill, and former generations."""
        keep = {self._catalog_path(self._generation).name, self._vectors_path(self._generation).name}
        keep |= {self._state.file} if self._state else set()
        for pattern in ("cases-*.sqlite*", "vectors-*.f32", "index-*.faiss*", "*.tmp"):
            for path in self.folder.glob(pattern):
                if path.name.removesuffix("-wal").removesuffix("-shm") not in keep:
                    path.unlink(missing_ok=True)

    def _write_manifest(self, identity: Identity, generation: int, state: IndexState | None) -> None:
        value = {
            "format": 1,
            "identity": identity.to_dict(),
            "generation": generation,
            "index": asdict(replace(state, recall=round(state.recall, 4))) if state else None,
        }
        _write_whole(self.folder / MANIFEST, json.dumps(value, indent=1).encode(), flush=True)

    @contextmanager
    def _reading(self) -> Iterator[Catalog]:
        with self._mutex:
            try:
                yield self._refresh()
            except (OSError, sqlite3.Error) as error:
                raise StoreFailure(f"the case store {self.url} cannot be read: {error}; check the disk") from error

    @contextmanager
    def _writing(self) -> Iterator[Catalog]:
        if not self._write:
            raise BadRequest(f"the case store {self.url} was opened for reading only; open it with write=True")
        with self._mutex, self._failing():
            try:
                yield self._refresh()
            finally:
                self._version = None  # our own commits do not change SQLite's number

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except RetrievalError:
            raise
        except (OSError, sqlite3.Error, RuntimeError) as error:  # RuntimeError: faiss could not write
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise StoreFailure(
                f"cannot write to {self.url}: {reason}; all cases committed before are safe:"
                " free some space, then run the same command again"
            ) from error

    def _catalog_path(self, generation: int) -> Path:
        return self.folder / f"cases-{generation}.sqlite"

    def _vectors_path(self, generation: int) -> Path:
        return self.folder / f"vectors-{generation}.f32"

    def _thumbnail_path(self, case: Case) -> Path:
        return self.folder / "thumbnails" / case.hash[:2] / f"{case.hash}.jpg"


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _write_whole(path: Path, data: bytes, *, flush: bool = False) -> None:
    """Write a file under another name and rename it, so that nobody sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
