"""The scale benchmark on a few hundred vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eval.retrieval_scale import build, draw, markdown, search
from retrieval import faiss_index


def test_drawn_vectors() -> None:
    stored, queries = draw(300, 32, None, seed=2), draw(300, 32, None, seed=3)
    assert stored.shape == (300, 32)
    assert np.allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-5)
    assert np.array_equal(stored, draw(300, 32, None, seed=2))
    assert not np.allclose(stored, queries)
    near = draw(200, 32, stored[:5], seed=4) @ stored[:5].T
    assert (near.max(axis=1) > 0.9).all()


@pytest.fixture
def measured(tmp_path: Path) -> dict[str, object]:
    stored, queries = draw(600, 32, None, seed=2), draw(20, 32, None, seed=3)
    truth = faiss_index.exact(queries, stored, np.arange(600), 10)[1]
    for name, array in (("stored", stored), ("queries", queries), ("truth", truth)):
        np.save(tmp_path / f"{name}.npy", array)
    rows = []
    for kind in ("flat", "hnsw", "ivfpq"):
        url = f"faiss:{tmp_path / kind}"
        built = build(kind, url, tmp_path / "stored.npy")
        rows.append(
            {"kind": kind, "size": 600, **built, **search(url, tmp_path / "queries.npy", tmp_path / "truth.npy")}
        )
    settings = {"sizes": [600], "dimension": 32, "vectors": "synthetic", "queries": 20, "threads": 1, "faiss": "1"}
    return {"settings": settings, "machine": {"processor": "one", "logical_cores": 2}, "rows": rows}


def test_measured(measured: dict[str, object]) -> None:
    rows = {row["kind"]: row for row in measured["rows"]}  # type: ignore[attr-defined]
    assert rows["flat"]["recall"] == (1.0, 1.0, 1.0)
    assert rows["flat"]["index_bytes"] == 0
    assert rows["hnsw"]["recall"][0] > 0.95
    assert rows["ivfpq"]["index_bytes"] < rows["hnsw"]["index_bytes"]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in rows.values())
    text = markdown(measured, "the command")
    assert "| 600 | flat |" in text
    assert "1.0000 [1.0000, 1.0000]" in text
    assert "- HNSW p50 ≤ 5 ms" in text


def test_a_missed_goal_is_said(measured: dict[str, object]) -> None:
    for row in measured["rows"]:  # type: ignore[attr-defined]
        row.update(recall=(0.5, 0.4, 0.6), p50_ms=9.0)
    text = markdown(measured, "the command")
    assert "HNSW recall@10 ≥ 0.99: 0.5000, missed (600 vectors)" in text
    assert "9.00 ms, missed" in text
