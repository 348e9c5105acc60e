"""``postgresql://…``: a case library on a PostgreSQL server with the pgvector extension (0.8 or newer).

Three tables in the schema that the connection uses (``?options=-csearch_path%3Dlung`` keeps another library in the same
database): ``pathassist_cases``, ``pathassist_thumbnails`` and ``pathassist_notes``, which also holds the identity.
Transactions make every batch atomic, so several writers may work at once.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import numpy as np
import psycopg
from pgvector import Vector
from pgvector.psycopg import register_vector
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Jsonb

from retrieval import faiss_index
from retrieval.errors import BadRequest, StoreFailure
from retrieval.records import COLUMNS, FILTER_COLUMNS, Case, Hit, Where, explain_no_match, plain_where, unknown_key
from retrieval.store import Identity, Info, Vectors, check_upsert, unit

T = TypeVar("T")

_JSON = ("region", "facts")
_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)
_TABLES = """
CREATE TABLE pathassist_notes ("key" text PRIMARY KEY, "value" text NOT NULL);
CREATE TABLE pathassist_thumbnails ("hash" text PRIMARY KEY, "jpeg" bytea NOT NULL);
CREATE TABLE pathassist_cases ("row" bigint GENERATED ALWAYS AS IDENTITY, {columns},
    "embedding" vector({dimension}) NOT NULL, PRIMARY KEY ("id"));
CREATE INDEX ON pathassist_cases ("locator");
CREATE INDEX ON pathassist_cases ("hash");
CREATE INDEX ON pathassist_cases ("group");
CREATE INDEX ON pathassist_cases ("organ");
CREATE INDEX ON pathassist_cases ("diagnosis");
"""
_EFFORTS = (40, 100, 200, 400, 800)
_CREATE_LOCK = 0x70617468  # any number of our own, for pg_advisory_xact_lock


class PgStore:
    """``VectorStore`` in PostgreSQL. Threads may share one; a lost connection is made again at the next call."""

    def __init__(self, url: str, identity: Identity | None, *, write: bool) -> None:
        """See ``open_store``."""
        try:
            parts = conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise BadRequest("not a valid postgresql:// URL; expected postgresql://user@host/database") from error
        self.url = f"postgresql://{parts.get('user', '')}@{parts.get('host', '')}/{parts.get('dbname', '')}"
        self._conninfo = url
        self._write = write
        self._mutex = threading.RLock()
        self._connection: Any = None
        try:
            self.identity = self._identity(identity)
            if identity:
                self.identity.check(identity, self.url)
        except BaseException:
            self.close()
            raise

    # --- writing ---------------------------------------------------------------------------------------------------

    def upsert(self, cases: Sequence[Case], vectors: Vectors, thumbnails: Sequence[bytes | None] | None = None) -> None:
        if not cases:
            return
        array, thumbnails = check_upsert(cases, vectors, thumbnails, self.identity.dimension)
        pictures = [(c.hash, t) for c, t in zip(cases, thumbnails, strict=True) if t is not None]
        replaced = ", ".join(f'"{name}" = excluded."{name}"' for name in (*COLUMNS[1:], "embedding"))

        def work(db: Any) -> None:
            db.execute("DROP TABLE IF EXISTS pathassist_batch")
            db.execute(
                f"CREATE TEMP TABLE pathassist_batch ON COMMIT DROP AS"  # noqa: S608
                f" SELECT {_NAMES}, embedding FROM pathassist_cases LIMIT 0"
            )
            with db.cursor() as cursor:
                with cursor.copy(f"COPY pathassist_batch ({_NAMES}, embedding) FROM STDIN (FORMAT BINARY)") as copy:
                    copy.set_types(["jsonb" if name in _JSON else "text" for name in COLUMNS] + ["vector"])
                    for case, vector in zip(cases, array, strict=True):
                        copy.write_row((*_values(case), Vector(vector)))
                cursor.execute(
                    f"INSERT INTO pathassist_cases ({_NAMES}, embedding)"  # noqa: S608
                    f" SELECT {_NAMES}, embedding FROM pathassist_batch ON CONFLICT (id) DO UPDATE SET {replaced}"
                )
                cursor.executemany(
                    "INSERT INTO pathassist_thumbnails VALUES (%s, %s) ON CONFLICT (hash) DO NOTHING", pictures
                )

        self._change(work)

    def relabel(self, cases: Sequence[Case]) -> None:
        settings = ", ".join(f'"{name}" = %s' for name in COLUMNS)

        def work(db: Any) -> None:
            with db.cursor() as cursor:
                rows = [(*_values(case), case.id) for case in cases]
                cursor.executemany(f"UPDATE pathassist_cases SET {settings} WHERE id = %s", rows)  # noqa: S608

        self._change(work)

    def delete(self, ids: Collection[str]) -> int:
        def work(db: Any) -> int:
            gone = db.execute("DELETE FROM pathassist_cases WHERE id = ANY(%s) RETURNING hash", (list(ids),)).fetchall()
            db.execute(
                "DELETE FROM pathassist_thumbnails AS t WHERE t.hash = ANY(%s)"
                " AND NOT EXISTS (SELECT FROM pathassist_cases AS c WHERE c.hash = t.hash)",
                ([row[0] for row in gone],),
            )
            return len(gone)

        return self._change(work)

    def optimize(self, kind: str = "auto") -> None:
        if kind != "auto":
            faiss_index.check_kind(kind)
        if kind == "ivfpq":
            raise BadRequest("PostgreSQL stores have no ivfpq index; allowed: auto, flat, hnsw")
        wanted = kind if kind != "auto" else "hnsw" if len(self) > faiss_index.FLAT_MAX else "flat"

        def work(db: Any) -> None:
            if wanted == "flat":
                db.execute("DROP INDEX IF EXISTS pathassist_nearest")
                db.execute("DELETE FROM pathassist_notes WHERE key = 'index'")
                return
            db.execute(
                "CREATE INDEX IF NOT EXISTS pathassist_nearest ON pathassist_cases"
                " USING hnsw (embedding vector_ip_ops) WITH (m = 16, ef_construction = 100)"
            )
            db.execute("ANALYZE pathassist_cases")
            effort, recall = self._tune(db)
            self._set_note(db, "index", json.dumps({"effort": effort, "recall": round(recall, 4)}))

        self._change(work)

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
        conditions, parameters = _conditions(where)
        if groups := [group for group in exclude_groups if group]:
            conditions.append('"group" != ALL(%s)')
            parameters.append(groups)
        if exclude_ids:
            conditions.append("id != ALL(%s)")
            parameters.append(list(exclude_ids))

        def work(db: Any) -> list[list[Hit]]:
            index = self._index_note(db)
            _set_effort(db, max(index["effort"], min(2 * k, 1000)) if index else None)
            hits = [
                [Hit(Case.from_row(row[:-1]), float(row[-1])) for row in _nearest(db, q, k, conditions, parameters)]
                for q in queries
            ]
            if where and not any(hits):
                self._explain(db, where)
            return hits

        return self._run(work)

    def get(self, ids: Sequence[str]) -> list[Case]:
        found = {case.id: case for case in self._find("id", ids)}
        return [found[name] for name in ids if name in found]

    def vectors(self, ids: Sequence[str]) -> Vectors:
        query = "SELECT id, embedding FROM pathassist_cases WHERE id = ANY(%s)"
        found = dict(self._run(lambda db: db.execute(query, (list(ids),)).fetchall()))
        if missing := [name for name in ids if name not in found]:
            raise BadRequest(f"no case has the id {missing[0]!r} in {self.url}")
        rows = [_as_array(found[name]) for name in ids]
        return np.array(rows, dtype=np.float32).reshape(len(ids), self.identity.dimension)

    def ids(self, where: Where | None = None) -> list[str]:
        conditions, parameters = _conditions(where)
        query = f"SELECT id FROM pathassist_cases {_and(conditions)} ORDER BY row"  # noqa: S608

        def work(db: Any) -> list[str]:
            found = [row[0] for row in db.execute(query, parameters)]
            if where and not found:
                self._explain(db, where)
            return found

        return self._run(work)

    def by_locator(self, locators: Collection[str]) -> dict[str, Case]:
        return {case.locator: case for case in self._find("locator", locators)}

    def by_hash(self, hashes: Collection[str]) -> dict[str, Case]:
        return {case.hash: case for case in reversed(self._find("hash", hashes))}

    def labels(self) -> list[tuple[str, str, str]]:
        query = 'SELECT id, diagnosis, "group" FROM pathassist_cases ORDER BY row'
        found: list[tuple[str, str, str]] = self._run(lambda db: db.execute(query).fetchall())
        return found

    def values(self, key: str) -> dict[str, int]:
        return self._run(lambda db: self._values(db, key))

    def thumbnail(self, case: Case) -> bytes | None:
        query = "SELECT jpeg FROM pathassist_thumbnails WHERE hash = %s"
        row = self._run(lambda db: db.execute(query, (case.hash,)).fetchone())
        return None if row is None else bytes(row[0])

    def note(self, key: str, value: str | None = None) -> str | None:
        if value is not None:
            self._change(lambda db: self._set_note(db, key, value))
            return value
        return self._run(lambda db: self._get_note(db, key))

    def info(self) -> Info:
        def work(db: Any) -> Info:
            counts = """SELECT count(*), count(DISTINCT nullif("group", '')) FROM pathassist_cases"""
            cases, groups = db.execute(counts).fetchone()
            size = db.execute("SELECT pg_total_relation_size('pathassist_cases')").fetchone()[0]
            index = self._index_note(db)
            kind, recall = ("hnsw", index["recall"]) if index else ("flat", None)
            return Info(self.url, self.identity, cases, groups, kind, recall, cases if index else 0, size)

        return self._run(work)

    def close(self) -> None:
        with self._mutex:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def __len__(self) -> int:
        return int(self._run(lambda db: db.execute("SELECT count(*) FROM pathassist_cases").fetchone()[0]))

    # --- the server ------------------------------------------------------------------------------------------------

    def _run(self, work: Callable[[Any], T], *, vectors: bool = True) -> T:
        """``work`` in one transaction; once more on a new connection when the old one turns out to be dead.

        Everything passed in may run twice: reads, and writes that are idempotent.
        """
        with self._mutex:
            for attempt in (1, 2):
                try:
                    if self._connection is None:
                        self._connection = psycopg.connect(self._conninfo, autocommit=True, connect_timeout=10)
                        self._adapted = False
                    if vectors and not self._adapted:
                        register_vector(self._connection)
                        self._adapted = True
                    with self._connection.transaction():
                        return work(self._connection)
                except psycopg.Error as error:
                    dead = self._connection is None or self._connection.broken or self._connection.closed
                    if dead:
                        self.close()
                    if dead and attempt == 1:
                        continue
                    reason = str(error).strip().splitlines()[0]
                    what = "cannot be reached" if dead else "refused the request"
                    raise StoreFailure(
                        f"the case store {self.url} {what}: {reason};"
                        " what was committed is safe: check the server, then run the same command again"
                    ) from error
        raise AssertionError

    def _change(self, work: Callable[[Any], T]) -> T:
        if not self._write:
            raise BadRequest(f"the case store {self.url} was opened for reading only; open it with write=True")
        return self._run(work)

    def _identity(self, wanted: Identity | None) -> Identity:
        """The identity of the store, which is created for ``wanted`` where there is none yet."""
        found = self._run(self._read_identity, vectors=False)
        if found is None:
            if not (self._write and wanted):
                raise BadRequest(
                    f"there is no case store at {self.url}; make one with: pathassist index build SOURCE --store URL"
                )
            self._run(lambda db: self._create(db, wanted), vectors=False)
            found = self._run(self._read_identity, vectors=False) or wanted  # another process may have been faster
        return found

    def _create(self, db: Any, identity: Identity) -> None:
        db.execute("SELECT pg_advisory_xact_lock(%s)", (_CREATE_LOCK,))
        if self._read_identity(db) is not None:  # another process was faster
            return
        db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        columns = ", ".join(f'"{n}" jsonb' if n in _JSON else f"\"{n}\" text NOT NULL DEFAULT ''" for n in COLUMNS)
        db.execute(_TABLES.format(columns=columns, dimension=int(identity.dimension)))
        self._set_note(db, "identity", json.dumps(identity.to_dict()))

    def _read_identity(self, db: Any) -> Identity | None:
        if db.execute("SELECT to_regclass('pathassist_notes')").fetchone()[0] is None:
            return None
        return Identity.from_dict(json.loads(self._get_note(db, "identity") or "{}"))

    def _get_note(self, db: Any, key: str) -> str | None:
        row = db.execute("SELECT value FROM pathassist_notes WHERE key = %s", (key,)).fetchone()
        return None if row is None else str(row[0])

    def _set_note(self, db: Any, key: str, value: str) -> None:
        db.execute(
            "INSERT INTO pathassist_notes VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def _index_note(self, db: Any) -> dict[str, Any] | None:
        note = self._get_note(db, "index")
        return json.loads(note) if note else None

    def _find(self, column: str, values: Collection[str]) -> list[Case]:
        query = f'SELECT {_NAMES} FROM pathassist_cases WHERE "{column}" = ANY(%s) ORDER BY row'  # noqa: S608
        return [Case.from_row(row) for row in self._run(lambda db: db.execute(query, (list(values),)).fetchall())]

    def _values(self, db: Any, key: str) -> dict[str, int]:
        expression, parameters = _expression(key)
        counts = f"SELECT {expression} AS v, count(*) FROM pathassist_cases GROUP BY 1 ORDER BY 2 DESC, 1"  # noqa: S608
        found = {str(value): int(count) for value, count in db.execute(counts, parameters) if value}
        if not found and key not in FILTER_COLUMNS:
            names = db.execute("SELECT DISTINCT jsonb_object_keys(facts) FROM pathassist_cases ORDER BY 1")
            raise unknown_key(key, [row[0] for row in names])
        return found

    def _explain(self, db: Any, where: Where) -> None:
        """Raise where a filter alone lets nothing through; an exclusion may have taken the rest."""
        conditions, parameters = _conditions(where)
        query = f"SELECT EXISTS (SELECT FROM pathassist_cases {_and(conditions)})"  # noqa: S608
        if not db.execute(query, parameters).fetchone()[0]:
            for key, values in plain_where(where).items():
                explain_no_match(key, values, self._values(db, key))
            raise BadRequest("no case matches all filters together; leave one out")

    def _tune(self, db: Any) -> tuple[int, float]:
        """The smallest ``hnsw.ef_search`` with enough recall@10 over 50 stored vectors moved by 0.6; and the recall."""
        rows = db.execute("SELECT embedding FROM pathassist_cases ORDER BY md5(id) LIMIT 50").fetchall()
        generator = np.random.default_rng(0)
        queries = []
        for (embedding,) in rows:
            noise = generator.normal(size=self.identity.dimension)
            queries.append(unit((_as_array(embedding) + 0.6 * noise / np.linalg.norm(noise))[None], len(noise))[0])
        _set_effort(db, None)
        truth = [{row[0] for row in _nearest(db, query, 10, [], [])} for query in queries]
        for effort in _EFFORTS:
            _set_effort(db, effort)
            found = [{row[0] for row in _nearest(db, query, 10, [], [])} for query in queries]
            recall = float(np.mean([len(a & b) / max(1, len(b)) for a, b in zip(found, truth, strict=True)]))
            if recall >= faiss_index.RECALL_GOAL:
                break
        return effort, recall


def _values(case: Case) -> list[Any]:
    """The values of ``COLUMNS``, adapted."""
    row = dict(zip(COLUMNS, case.to_row(), strict=True))
    row_region = None if case.region is None else Jsonb(list(case.region))
    return [row_region if n == "region" else Jsonb(dict(case.facts)) if n == "facts" else row[n] for n in COLUMNS]


def _as_array(embedding: Any) -> Vectors:
    return np.asarray(embedding.to_numpy() if isinstance(embedding, Vector) else embedding, dtype=np.float32)


def _expression(key: str) -> tuple[str, list[Any]]:
    return (f'"{key}"', []) if key in FILTER_COLUMNS else ("facts ->> %s", [key])


def _conditions(where: Where | None) -> tuple[list[str], list[Any]]:
    """SQL conditions of a filter and their parameters."""
    conditions, parameters = [], []
    for key, values in plain_where(where).items():
        expression, first = _expression(key)
        conditions.append(f"{expression} = ANY(%s)")
        parameters += [*first, values]
    return conditions, parameters


def _and(conditions: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def _set_effort(db: Any, effort: int | None) -> None:
    """How hard the index is searched in this transaction; None compares all."""
    db.execute(f"SET LOCAL enable_indexscan = {'off' if effort is None else 'on'}")
    if effort is not None:
        db.execute(f"SET LOCAL hnsw.ef_search = {int(effort)}")
        # Goes on where a filter leaves fewer than asked for.
        db.execute("SET LOCAL hnsw.iterative_scan = strict_order")


def _nearest(db: Any, query: Vectors, k: int, conditions: Sequence[str], parameters: Sequence[Any]) -> list[Any]:
    """Rows of ``COLUMNS`` and the score, best first."""
    vector = Vector(query)
    return list(
        db.execute(
            f"SELECT {_NAMES}, -(embedding <#> %s) FROM pathassist_cases {_and(conditions)}"  # noqa: S608
            " ORDER BY embedding <#> %s LIMIT %s",
            (vector, *parameters, vector, k),
        )
    )
