"""One protocol for all vector stores, and the URL that opens one.

``faiss:DIR`` is a folder on this machine (:mod:`retrieval.faiss_store`), ``postgresql://…`` a server with pgvector
(:mod:`retrieval.pg_store`). Both pass the same contract tests.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadRequest, StoreFailure, StoreMismatch
from retrieval.records import Case, Hit, Where

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Identity:
    """What must agree before vectors can be compared.

    Attributes:
        encoder: Id of the encoder, with a hash of its weights.
        encoder_name: Name by which the encoder can be loaded again.
        preprocessing: Hash of resize, crop and normalisation.
        dimension: Length of a vector.
        metric: Always ``"cosine"``: vectors are scaled to length 1 on the way in.
    """

    encoder: str
    encoder_name: str
    preprocessing: str
    dimension: int
    metric: str = "cosine"

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Identity:
        return cls(**{f.name: value[f.name] for f in fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def check(self, other: Identity, url: str) -> None:
        """Refuse ``other`` where it is not the identity of this store.

        Raises:
            StoreMismatch: With both sides, and what to do.
        """
        names = [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]
        if names:
            ours, theirs = (", ".join(f"{n} {getattr(side, n)}" for n in names) for side in (self, other))
            raise StoreMismatch(
                f"the store {url} was built with {ours}, not with {theirs}; use the encoder {self.encoder_name!r},"
                " or build another store with 'pathassist index build SOURCE --store URL'"
            )


@dataclass(frozen=True)
class Info:
    """What ``pathassist index info`` shows.

    Attributes:
        index: Kind of the index: ``flat``, ``hnsw`` or ``ivfpq``.
        recall: Share of the exact 10 nearest that the index finds, measured when it was built; None for exact search.
        indexed: Vectors in the index; the others are compared one by one.
        bytes: Size of vectors, index and records on disk.
    """

    url: str
    identity: Identity
    cases: int
    groups: int
    index: str
    recall: float | None
    indexed: int
    bytes: int


class VectorStore(Protocol):
    """Cases with one vector each.

    Every ``upsert`` is one transaction: after it returns, the cases survive a kill of the process; before, none of
    them is there. Any method may raise ``StoreFailure``.
    """

    url: str
    identity: Identity

    def upsert(self, cases: Sequence[Case], vectors: Vectors, thumbnails: Sequence[bytes | None] | None = None) -> None:
        """Add cases, or replace those with the same id.

        Args:
            vectors: [N, D], scaled to length 1 here.
            thumbnails: JPEG files, kept by the content hash of the case.

        Raises:
            BadRequest: Wrong shape, a vector that is zero or not finite, an id twice.
        """

    def relabel(self, cases: Sequence[Case]) -> None:
        """Replace the records of known ids and keep their vectors."""

    def delete(self, ids: Collection[str]) -> int:
        """Remove cases and the thumbnails no other case uses; returns how many there were."""

    def optimize(self, kind: str = "auto") -> None:
        """Bring the index up to date; ``kind`` is ``auto`` (by size), ``flat``, ``hnsw`` or ``ivfpq``."""

    def search(
        self,
        vectors: Vectors,
        k: int,
        where: Where | None = None,
        exclude_groups: Collection[str] = (),
        exclude_ids: Collection[str] = (),
    ) -> list[list[Hit]]:
        """The ``k`` most similar cases to each of ``vectors`` [Q, D], best first; fewer where there are fewer.

        Raises:
            BadRequest: Unknown filter key, a filter nothing matches, wrong dimension, ``k`` below 1.
        """

    def get(self, ids: Sequence[str]) -> list[Case]:
        """The known ones of ``ids``, in the order asked."""

    def vectors(self, ids: Sequence[str]) -> Vectors:
        """[N, D] of known ids.

        Raises:
            BadRequest: An id is not there.
        """

    def ids(self, where: Where | None = None) -> list[str]:
        """Ids that match, in the order in which they came in."""

    def by_locator(self, locators: Collection[str]) -> dict[str, Case]:
        """Cases that were read from these places."""

    def by_hash(self, hashes: Collection[str]) -> dict[str, Case]:
        """The first case of each content hash."""

    def labels(self) -> list[tuple[str, str, str]]:
        """(id, diagnosis, group) of all cases."""

    def values(self, key: str) -> dict[str, int]:
        """Values of a filter key with their counts, most frequent first.

        Raises:
            BadRequest: Unknown key.
        """

    def thumbnail(self, case: Case) -> bytes | None:
        """JPEG file of a case."""

    def note(self, key: str, value: str | None = None) -> str | None:
        """Keep a text beside the cases (``value``), or read it back."""

    def info(self) -> Info: ...

    def close(self) -> None: ...

    def __len__(self) -> int: ...


def open_store(url: str, identity: Identity | None = None, *, write: bool = False) -> VectorStore:
    """Open a store by its URL.

    Args:
        url: ``faiss:DIR`` or ``postgresql://user@host/database``.
        identity: Encoder of the caller; checked against the store's. A store that is opened for writing and does not
            exist yet is created for it.
        write: Cases will be added, changed or deleted.

    Raises:
        StoreMismatch: The store belongs to another encoder.
        BadRequest: Not a store URL, or no store there.
        StoreBusy: Another process is writing to the folder.
        StoreFailure: Damaged, or the server cannot be reached.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "faiss" and rest:
        from retrieval.faiss_store import FaissStore

        return FaissStore(url, identity, write=write)
    if scheme in {"postgresql", "postgres"} and rest.startswith("//"):
        try:
            from retrieval.pg_store import PgStore
        except ModuleNotFoundError as error:
            raise StoreFailure(
                f"the package {error.name!r} is not installed; install it with: pip install 'pathassist[postgres]'"
            ) from error
        return PgStore(url, identity, write=write)
    shown = repr(scheme + colon if colon else url[:60])
    raise BadRequest(f"not a store URL: {shown}; allowed: faiss:DIR or postgresql://user@host/database")


def unit(vectors: Vectors, dimension: int) -> Vectors:
    """Rows scaled to length 1, as a contiguous float32 array [N, D].

    Raises:
        BadRequest: Another shape, or a row that is zero or not finite.
    """
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != dimension:
        raise BadRequest(f"expected vectors [N, {dimension}], got shape {list(array.shape)}")
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        bad = int(np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))[0])
        raise BadRequest(f"vector {bad + 1} of {len(array)} is zero or not finite; embed that image again")
    return np.asarray(array / lengths, dtype=np.float32)


def check_upsert(
    cases: Sequence[Case], vectors: Vectors, thumbnails: Sequence[bytes | None] | None, dimension: int
) -> tuple[Vectors, Sequence[bytes | None]]:
    """The arguments of ``upsert`` as stores use them: unit vectors, and a thumbnail or None for each case.

    Raises:
        BadRequest: As ``VectorStore.upsert``.
    """
    array = unit(vectors, dimension)
    thumbnails = [None] * len(cases) if thumbnails is None else thumbnails
    if not len(cases) == len(array) == len(thumbnails):
        raise BadRequest(f"{len(cases)} cases, {len(array)} vectors and {len(thumbnails)} thumbnails do not match")
    if len({case.id for case in cases}) < len(cases):
        raise BadRequest("an id comes twice in one batch; ids must be unique")
    if any(not case.id or "\0" in case.locator + case.id for case in cases):
        raise BadRequest("an id is empty, or an id or path holds a zero byte")
    return array, thumbnails
