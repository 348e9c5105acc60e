"""Kills, full disks, two writers, damage, a server that goes away: nothing committed is lost, and one line says why."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from retrieval import faiss_index, faiss_store
from retrieval.errors import StoreBusy, StoreFailure
from retrieval.faiss_store import FaissStore
from retrieval.store import VectorStore, open_store
from tests.retrieval.conftest import IDENTITY, make_cases

Open = Callable[..., VectorStore]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def run_python(code: str, folder: Path, cases: int = 20000) -> subprocess.Popen[str]:
    setup = (
        "import sys; from retrieval.store import open_store; from tests.retrieval.conftest import IDENTITY, make_cases;"
        f"store = open_store('faiss:{folder}', IDENTITY, write=True); cases, vectors = make_cases({cases})\n"
    )
    return subprocess.Popen([sys.executable, "-c", setup + code], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def check_whole(store: VectorStore, expected: int) -> None:
    """Every case has the vector it came with."""
    cases, vectors = make_cases(expected)
    assert store.get([case.id for case in cases]) == cases
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(store.vectors([case.id for case in cases]), unit, atol=1e-6)
    assert store.search(vectors[expected - 1 : expected], 1)[0][0].case.id == f"c{expected - 1}"


@pytest.mark.slow
def test_kill_in_the_middle_of_a_build_loses_at_most_the_open_batch(folder: Path, opened: Open) -> None:
    code = """
for start in range(0, 20000, 50):
    store.upsert(cases[start:start + 50], vectors[start:start + 50])
    print(start + 50, flush=True)
"""
    with run_python(code, folder) as process:
        assert process.stdout is not None
        for _ in range(7):
            reported = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        reported = max([reported, *map(int, process.stdout.read().split())])
    store = opened(f"faiss:{folder}")
    kept = len(store)
    assert reported <= kept <= reported + 50
    assert kept % 50 == 0
    check_whole(store, kept)
    cases, vectors = make_cases(kept + 100)
    store.upsert(cases, vectors)  # the build, run again
    check_whole(store, kept + 100)


@pytest.mark.slow
def test_kill_while_the_index_is_written(folder: Path, opened: Open) -> None:
    code = """
import os, signal
from retrieval import faiss_index
store.upsert(cases, vectors)
def killed(path, *_):
    with open(path, "wb") as file:
        file.write(b"half an index")
    os.kill(os.getpid(), signal.SIGKILL)
faiss_index.faiss.write_index = lambda index, path: killed(path)
store.optimize("hnsw")
"""
    with run_python(code, folder, 2000) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert list(folder.glob("*.tmp"))
    reader = opened(f"faiss:{folder}", write=False)
    check_whole(reader, 2000)
    reader.close()
    store = opened(f"faiss:{folder}")
    assert not list(folder.glob("*.tmp"))
    assert store.info().index == "flat"


@pytest.mark.parametrize("step", ["_write_manifest", "_open"])
def test_a_kill_during_compaction(folder: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    cases, vectors = make_cases(40)
    store = opened(f"faiss:{folder}")
    store.upsert(cases, vectors)
    store.delete([case.id for case in cases[20:]])

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(store, step, killed)
        with pytest.raises(Killed):
            store.optimize()
    store.close()
    again = opened(f"faiss:{folder}")
    assert len(again) == 20
    check_whole(again, 20)
    again.optimize()
    check_whole(again, 20)
    assert len(list(folder.glob("cases-*.sqlite"))) == len(list(folder.glob("vectors-*.f32"))) == 1
    assert next(folder.glob("vectors-*.f32")).stat().st_size == vectors[:20].nbytes


def test_compaction_under_a_reader(folder: Path, opened: Open) -> None:
    cases, vectors = make_cases(40)
    store = opened(f"faiss:{folder}")
    store.upsert(cases, vectors)
    reader = opened(f"faiss:{folder}", write=False)
    assert len(reader) == 40
    store.delete([case.id for case in cases[20:]])
    store.optimize()
    assert len(reader) == 20
    check_whole(reader, 20)


@pytest.mark.parametrize("broken", ["_write_vectors", "insert"])
def test_full_disk(folder: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    cases, vectors = make_cases(40)
    store = opened(f"faiss:{folder}")
    store.upsert(cases[:20], vectors[:20])

    def full(*_: Any) -> None:
        if broken == "insert":
            raise sqlite3.OperationalError("database or disk is full")
        raise OSError(28, "No space left on device")

    owner = store if broken == "_write_vectors" else faiss_store.Catalog
    with monkeypatch.context() as patch:
        patch.setattr(owner, broken, full)
        with pytest.raises(
            StoreFailure, match=r"cannot write .*(No space left|disk is full).* are safe: free"
        ) as caught:
            store.upsert(cases[20:], vectors[20:])
    assert "\n" not in str(caught.value)
    check_whole(store, 20)
    store.upsert(cases[20:], vectors[20:])
    check_whole(store, 40)


@pytest.mark.slow
def test_a_real_limit_on_file_sizes(folder: Path, opened: Open) -> None:
    code = """
import resource
from retrieval.errors import StoreFailure
store.upsert(cases[:100], vectors[:100])
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
try:
    for start in range(100, 20000, 100):
        store.upsert(cases[start:start + 100], vectors[start:start + 100])
        print(start + 100)
except StoreFailure as error:
    print(error)
"""
    with run_python(code, folder) as process:
        lines = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 0
    assert lines[-1].startswith("cannot write to faiss:")
    done = int(lines[-2]) if len(lines) > 1 else 100
    store = opened(f"faiss:{folder}")
    assert len(store) == done
    check_whole(store, done)


def test_index_that_cannot_be_written(folder: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    cases, vectors = make_cases(200)
    store = opened(f"faiss:{folder}")
    store.upsert(cases, vectors)

    def full(*_: Any) -> None:
        raise RuntimeError("Error in write: No space left on device")

    monkeypatch.setattr(faiss_index.faiss, "write_index", full)
    with pytest.raises(StoreFailure, match="No space left on device"):
        store.optimize("hnsw")
    check_whole(store, 200)


def test_two_writers(folder: Path, opened: Open) -> None:
    store = opened(f"faiss:{folder}")
    with pytest.raises(StoreBusy, match=r"another process is writing to faiss:.*; wait until it is done"):
        open_store(f"faiss:{folder}", IDENTITY, write=True)
    store.upsert(*make_cases(3))
    store.close()
    assert len(opened(f"faiss:{folder}")) == 3


@pytest.mark.slow
def test_a_writer_in_another_process_is_noticed(folder: Path) -> None:
    with run_python("print('open', flush=True); __import__('time').sleep(60)", folder, 1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            with pytest.raises(StoreBusy):
                open_store(f"faiss:{folder}", IDENTITY, write=True)
        finally:
            process.kill()


@pytest.mark.slow
def test_two_writers_on_a_server_both_succeed(postgres_url: str, opened: Open) -> None:
    cases, vectors = make_cases(200)
    stores = [opened(postgres_url), opened(postgres_url)]
    threads = [
        threading.Thread(
            target=lambda s=store: [s.upsert(cases[i : i + 20], vectors[i : i + 20]) for i in range(0, 200, 20)]
        )
        for store in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_whole(stores[0], 200)
    assert len(stores[1]) == 200


@pytest.mark.slow
def test_a_server_that_goes_away_and_comes_back(postgres: Any, postgres_url: str, opened: Open) -> None:
    store = opened(postgres_url)
    cases, vectors = make_cases(40)
    store.upsert(cases[:20], vectors[:20])
    postgres.stop()
    for call in (lambda: store.search(vectors[:1], 3), lambda: store.upsert(cases[20:], vectors[20:])):
        with pytest.raises(StoreFailure, match=r"cannot be reached: .*; what was committed is safe") as caught:
            call()
        assert "\n" not in str(caught.value)
    postgres.start()
    time.sleep(0.2)
    check_whole(store, 20)
    store.upsert(cases[20:], vectors[20:])
    check_whole(store, 40)


@pytest.mark.slow
def test_a_restart_between_two_calls_is_not_noticed(postgres: Any, postgres_url: str, opened: Open) -> None:
    store = opened(postgres_url)
    store.upsert(*make_cases(20))
    postgres.stop()
    postgres.start()
    check_whole(store, 20)


def test_no_server() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreFailure, match=r"postgresql://me@127.0.0.1/db cannot be reached") as caught:
        open_store("postgresql://me:secret@127.0.0.1:1/db")
    assert "secret" not in str(caught.value)


def test_without_the_packages_for_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "retrieval.pg_store", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreFailure, match=r"'psycopg' is not installed; .*pathassist\[postgres\]"):
        open_store("postgresql://me@127.0.0.1/db")


@pytest.mark.parametrize("damage", ["manifest", "short", "records", "index"])
def test_damage_is_one_line(folder: Path, opened: Open, damage: str) -> None:
    store = opened(f"faiss:{folder}")
    store.upsert(*make_cases(200))
    store.optimize("hnsw")
    store.close()
    if damage == "manifest":
        (folder / "manifest.json").write_text("{")
    elif damage == "short":
        with (folder / "vectors-1.f32").open("r+b") as file:
            file.truncate(100)
    elif damage == "records":
        (folder / "cases-1.sqlite").write_bytes(b"not a database" * 500)
    else:
        next(folder.glob("index-*.faiss")).write_bytes(b"nothing")
    with pytest.raises(StoreFailure, match=r"damaged|cannot be read") as caught:
        open_store(f"faiss:{folder}")
    assert "\n" not in str(caught.value)


def test_deleted_vectors_are_overwritten(folder: Path, opened: Open) -> None:
    store = opened(f"faiss:{folder}")
    store.upsert(*make_cases(4))
    store.delete(["c2"])
    raw = np.fromfile(folder / "vectors-1.f32", np.float32).reshape(4, -1)
    assert [bool(row.any()) for row in raw] == [True, True, False, True]


def test_rows_of_an_index_are_never_used_twice(folder: Path, opened: Open) -> None:
    """An index that still has the vector of a deleted last row must not lend it to the next case."""
    cases, vectors = make_cases(300)
    store = opened(f"faiss:{folder}")
    store.upsert(cases[:200], vectors[:200])
    store.optimize("hnsw")
    store.delete(["c199"])
    store.upsert(cases[200:201], vectors[200:201])
    assert store.search(vectors[199:200], 1)[0][0].case.id != "c199"
    hit = store.search(vectors[200:201], 1)[0][0]
    assert (hit.case.id, hit.score) == ("c200", pytest.approx(1, abs=1e-5))


@pytest.mark.slow
def test_index_grows_and_is_chosen_by_size(folder: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_index, "FLAT_MAX", 300)
    monkeypatch.setattr(faiss_index, "HNSW_MAX", 900)
    monkeypatch.setattr(faiss_store, "TAIL_MAX", 50)
    cases, vectors = make_cases(2000)
    store = opened(f"faiss:{folder}")
    kinds = []
    for start, stop in ((0, 300), (300, 500), (500, 540), (540, 800), (800, 2000)):
        store.upsert(cases[start:stop], vectors[start:stop])
        store.optimize()
        kinds.append((store.info().index, store.info().indexed))
        check_whole(store, stop)
    assert kinds == [("flat", 0), ("hnsw", 500), ("hnsw", 500), ("hnsw", 800), ("ivfpq", 2000)]
    assert len(list(folder.glob("index-*"))) == 1
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["index"]["recall"] >= 0.9
    assert isinstance(store, FaissStore)
    index = faiss.read_index(str(next(folder.glob("index-*"))))
    assert index.code_size + 8 <= 64
