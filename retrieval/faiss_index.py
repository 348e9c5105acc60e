"""Indexes over a file of unit vectors: which kind for which size, how hard to search, and the recall that gives.

An index only proposes candidates; their order and scores come from the vectors themselves, so quantised indexes lose
candidates, never precision of the scores.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadRequest

faiss: Any = typed_faiss  # its stubs lack much of what Python can call

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]

KINDS = ("flat", "hnsw", "ivfpq")
#: Up to so many vectors each is compared: a millisecond or two.
FLAT_MAX = 20_000
#: Beyond so many vectors the graph of HNSW is too much for the memory of a usual machine.
HNSW_MAX = 2_000_000
#: Aimed at when the effort is chosen: a little over the 0.99 that queries should get, for some are harder.
RECALL_GOAL = 0.995
_BLOCK = 65_536
_EFFORTS = {"hnsw": (64, 128, 256, 512, 1024, 2048), "ivfpq": (8, 16, 32, 64, 128, 256)}
_PQ_BYTES = 48  # with the 8-byte row number 56 bytes a vector


@dataclass(frozen=True)
class IndexState:
    """What the manifest says of an index file.

    Attributes:
        rows: Rows below this are in the index.
        effort: ``efSearch`` of HNSW, ``nprobe`` of IVF: the smallest that reached ``RECALL_GOAL``, else the largest.
        recall: Share of the exact 10 nearest found with it.
    """

    kind: str
    file: str
    rows: int
    effort: int
    recall: float


def choose_kind(count: int) -> str:
    """Kind of index for so many vectors."""
    return "flat" if count <= FLAT_MAX else "hnsw" if count <= HNSW_MAX else "ivfpq"


def check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise BadRequest(f"no index is called {kind!r}; allowed: auto, {', '.join(KINDS)}")


def build(vectors: Vectors, rows: Rows, kind: str) -> Any:
    """A new index over ``vectors`` [N, D], trained on some of ``rows``; row numbers are its ids."""
    count, dimension = len(rows), vectors.shape[1]
    index: Any
    generator = np.random.default_rng(0)
    if kind == "hnsw":
        # 8 bits a number: a quarter of the memory, and the scores are computed from the vectors anyway.
        index = faiss.IndexHNSWSQ(dimension, faiss.ScalarQuantizer.QT_8bit, 32)
        # More candidates than a slide usually has tiles: else the links of a tight cluster never leave it, and whole
        # clusters cannot be reached (recall@10 at a million vectors: 0.977 with 100).
        index.hnsw.efConstruction = 240
        training = 50_000
    else:
        cells = max(1, min(int(2 * count**0.5), count // 39))
        pieces = next(m for m in range(min(_PQ_BYTES, dimension), 0, -1) if dimension % m == 0)
        bits = max(1, min(8, int(np.log2(max(2, count // 39)))))  # k-means wants 39 points for each centre
        index = faiss.IndexIVFPQ(faiss.IndexFlatL2(dimension), dimension, cells, pieces, bits)
        training = max(40 * cells, 40 * 256)
    chosen = rows if count <= training else np.sort(generator.choice(rows, training, replace=False))
    index.train(np.ascontiguousarray(vectors[chosen]))
    extend(index, vectors)
    return index


def extend(index: Any, vectors: Vectors) -> None:
    """Add the rows of ``vectors`` that the index does not have yet."""
    for start in range(index.ntotal, len(vectors), _BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + _BLOCK]))


def save(index: Any, path: Path) -> None:
    """Write an index so that it is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        faiss.write_index(index, str(temporary))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, *, mapped: bool = True) -> Any:
    """Read an index; ``mapped`` leaves it on disk, shared between processes, for searching only."""
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)


def exact(queries: Vectors, vectors: Vectors, rows: Rows, k: int) -> tuple[Vectors, Rows]:
    """The ``k`` best of ``rows`` (ascending) for each query by comparing all: scores and rows [Q, k], −1 for none."""
    best = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(rows), _BLOCK):
        chunk = rows[start : start + _BLOCK]
        whole = chunk[-1] - chunk[0] + 1 == len(chunk)  # then no copy is needed
        block = vectors[chunk[0] : chunk[-1] + 1] if whole else vectors[chunk]
        scores, places = faiss.knn(queries, np.ascontiguousarray(block), min(k, len(chunk)), faiss.METRIC_INNER_PRODUCT)
        best = merge(best, (scores, chunk[places]), k)
    return best


def approximate(
    index: Any, kind: str, effort: int, queries: Vectors, vectors: Vectors, k: int, mask: NDArray[np.bool_] | None
) -> tuple[Vectors, Rows]:
    """As ``exact`` through an index; ``mask`` [rows] says which rows are allowed."""
    selector, share = None, 1.0
    if mask is not None:
        allowed = mask[: index.ntotal]
        share = max(float(allowed.mean()), 1e-3)
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
    # The fewer are allowed, the more must be looked at to meet as many of them.
    if kind == "hnsw":
        fetch = max(4 * k, 40)
        parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=int(min(max(effort, fetch) / share, 4096)))
    else:
        fetch = max(10 * k, 500)
        parameters = faiss.SearchParametersIVF(sel=selector, nprobe=int(min(effort / share, index.nlist)))
    _, rows = index.search(queries, min(fetch, index.ntotal), params=parameters)
    scores = np.full(rows.shape, -np.inf, np.float32)
    for query, found, score in zip(queries, rows, scores, strict=True):
        real = found >= 0
        score[real] = vectors[found[real]] @ query
    return merge((scores, rows), (scores[:, :0], rows[:, :0]), k)


def merge(a: tuple[Vectors, Rows], b: tuple[Vectors, Rows], k: int) -> tuple[Vectors, Rows]:
    """The ``k`` best of two lists of candidates [Q, …]; ties in the order of rows."""
    scores, rows = np.concatenate([a[0], b[0]], axis=1), np.concatenate([a[1], b[1]], axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def tune(index: Any, kind: str, vectors: Vectors, rows: Rows, queries: int = 200) -> tuple[int, float]:
    """The smallest effort with enough recall@10, and that recall.

    Queries are stored vectors moved by a random step of length 0.6 (cosine about 0.86): a picture that is already
    there would be found too easily.
    """
    generator = np.random.default_rng(0)
    chosen = np.sort(generator.choice(rows, min(queries, len(rows)), replace=False))
    noise = generator.normal(size=(len(chosen), vectors.shape[1]))
    moved = vectors[chosen] + 0.6 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    moved = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    k = min(10, len(rows))
    mask = None
    if len(rows) < index.ntotal:
        mask = np.zeros(len(vectors), bool)
        mask[rows] = True
    _, truth = exact(moved, vectors, rows, k)
    for effort in _EFFORTS[kind]:
        _, found = approximate(index, kind, effort, moved, vectors, k, mask)
        recall = float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found, truth, strict=True)]))
        if recall >= RECALL_GOAL:
            break
    return effort, recall
