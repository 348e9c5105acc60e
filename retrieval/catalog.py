"""Records of a ``faiss:DIR`` store in SQLite: the place that decides which vectors count.

A case is there when its row is committed here; ``row`` is the place of its vector in the file of vectors. Rows are
never used twice, so an index that still knows the vector of a deleted case cannot mistake it for another.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadRequest, StoreFailure
from retrieval.records import COLUMNS, FILTER_COLUMNS, Case, Where, explain_no_match, plain_where, unknown_key

Rows = NDArray[np.int64]

_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS cases ("row" INTEGER PRIMARY KEY, {_NAMES}, UNIQUE ("id"));
CREATE TABLE IF NOT EXISTS notes ("key" TEXT PRIMARY KEY, "value" TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_locator ON cases ("locator");
CREATE INDEX IF NOT EXISTS by_hash ON cases ("hash");
CREATE INDEX IF NOT EXISTS by_group ON cases ("group");
CREATE INDEX IF NOT EXISTS by_organ ON cases ("organ");
CREATE INDEX IF NOT EXISTS by_diagnosis ON cases ("diagnosis");
"""
_CHUNK = 500  # parameters in one statement; SQLite's oldest limit is 999


class Catalog:
    """One SQLite file in WAL mode: one writer, any number of readers at the same time."""

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open the file; a writer creates it.

        Raises:
            StoreFailure: Missing for a reader, or not a database.
        """
        # A reader needs to write SQLite's shared-memory file; where it may not, nobody else writes either.
        mode = "rwc" if write else "rw" if os.access(path.parent, os.W_OK) else "ro&immutable=1"
        self.path = path
        try:
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
            )
            try:
                if write:
                    self._db.execute("PRAGMA journal_mode = WAL")
                    self._db.execute("PRAGMA synchronous = FULL")
                    self._db.executescript(_SCHEMA)
                else:
                    self._db.execute("PRAGMA query_only = 1")
                self.next_row()
            except sqlite3.Error:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise StoreFailure(
                f"the records in {path} cannot be read: {error}; restore the folder or rebuild"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # a full disk makes SQLite roll back by itself
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def version(self) -> int:
        """A number that changes whenever another connection commits."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def next_row(self) -> int:
        """The row that the next new case gets; vectors before it have been written."""
        found = self.note("next_row")
        return int(found) if found else 0

    def insert(self, first_row: int, cases: Sequence[Case]) -> None:
        """Add new cases in consecutive rows; inside a transaction."""
        marks = ", ".join("?" * (len(COLUMNS) + 1))
        rows = [(first_row + number, *case.to_row()) for number, case in enumerate(cases)]
        self._db.executemany(f"INSERT INTO cases VALUES ({marks})", rows)  # noqa: S608
        self.set_note("next_row", str(first_row + len(cases)))

    def update(self, cases: Iterable[Case]) -> None:
        """New records for known ids; inside a transaction."""
        settings = ", ".join(f'"{name}" = ?' for name in COLUMNS)
        self._db.executemany(f'UPDATE cases SET {settings} WHERE "id" = ?', [(*c.to_row(), c.id) for c in cases])  # noqa: S608

    def remove(self, rows: Iterable[int]) -> None:
        """Forget cases; inside a transaction."""
        self._db.executemany('DELETE FROM cases WHERE "row" = ?', [(int(row),) for row in rows])

    def renumber(self, rows: Rows) -> None:
        """Give the cases in ``rows`` (ascending) the numbers 0, 1, …; inside a transaction."""
        moves = [(new, int(old)) for new, old in enumerate(rows) if new != old]
        self._db.executemany('UPDATE cases SET "row" = ? WHERE "row" = ?', moves)
        self.set_note("next_row", str(len(rows)))

    def copy_to(self, path: Path) -> None:
        """A copy of everything in a new file."""
        self._db.execute("VACUUM INTO ?", (str(path),))

    def all_rows(self) -> Rows:
        return self._rows('SELECT "row" FROM cases ORDER BY "row"')

    def rows(self, where: Where) -> Rows:
        """Rows that a filter allows, ascending.

        Raises:
            BadRequest: Unknown key, or nothing matches; with what there is.
        """
        parts, parameters = [], []
        wanted = plain_where(where)
        for key, values in wanted.items():
            expression, first = _expression(key)
            parts.append(f"{expression} IN ({', '.join('?' * len(values))})")
            parameters += [*first, *values]
        found = self._rows(f'SELECT "row" FROM cases WHERE {" AND ".join(parts)} ORDER BY "row"', parameters)  # noqa: S608
        if not len(found):
            for key, values in wanted.items():
                explain_no_match(key, values, self.values(key))
            raise BadRequest("no case matches all filters together; leave one out")
        return found

    def rows_in_groups(self, groups: Collection[str]) -> Rows:
        return self._rows_where("group", [group for group in groups if group])

    def rows_of_ids(self, ids: Collection[str]) -> Rows:
        return self._rows_where("id", ids)

    def cases(self, rows: Iterable[int]) -> dict[int, Case]:
        """Cases by row; a row that is gone is left out."""
        return {row[0]: Case.from_row(row[1:]) for row in self._select("row", [int(r) for r in rows])}

    def find(self, column: str, values: Collection[str]) -> list[tuple[int, Case]]:
        """(row, case) of all cases with one of ``values`` in ``column``, by row."""
        return sorted((row[0], Case.from_row(row[1:])) for row in self._select(column, values))

    def labels(self) -> list[tuple[str, str, str]]:
        return self._db.execute('SELECT "id", "diagnosis", "group" FROM cases ORDER BY "row"').fetchall()

    def ids(self, rows: Iterable[int] | None = None) -> list[str]:
        if rows is None:
            return [row[0] for row in self._db.execute('SELECT "id" FROM cases ORDER BY "row"')]
        found = self.cases(rows)
        return [found[row].id for row in rows if row in found]

    def groups(self) -> int:
        return int(self._db.execute("""SELECT count(DISTINCT "group") FROM cases WHERE "group" != ''""").fetchone()[0])

    def values(self, key: str) -> dict[str, int]:
        """Values of a filter key with counts, most frequent first.

        Raises:
            BadRequest: Unknown key.
        """
        expression, parameters = _expression(key)
        counts = f"SELECT {expression} AS v, count(*) FROM cases GROUP BY v ORDER BY 2 DESC, v"  # noqa: S608
        found = {str(value): int(count) for value, count in self._db.execute(counts, parameters) if value}
        if not found and key not in FILTER_COLUMNS:
            names = self._db.execute("SELECT DISTINCT f.key FROM cases, json_each(cases.facts) AS f ORDER BY f.key")
            raise unknown_key(key, [name for (name,) in names])
        return found

    def note(self, key: str) -> str | None:
        row = self._db.execute('SELECT "value" FROM notes WHERE "key" = ?', (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_note(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, value))

    def close(self) -> None:
        self._db.close()

    def _select(self, column: str, values: Collection[str] | Collection[int]) -> Iterator[tuple[int, ...]]:
        listed = list(values)
        for start in range(0, len(listed), _CHUNK):
            chunk = listed[start : start + _CHUNK]
            marks = ", ".join("?" * len(chunk))
            yield from self._db.execute(f'SELECT "row", {_NAMES} FROM cases WHERE "{column}" IN ({marks})', chunk)  # noqa: S608

    def _rows_where(self, column: str, values: Collection[str]) -> Rows:
        listed, parts = list(values), [np.empty(0, np.int64)]
        for start in range(0, len(listed), _CHUNK):
            chunk = listed[start : start + _CHUNK]
            marks = ", ".join("?" * len(chunk))
            parts.append(self._rows(f'SELECT "row" FROM cases WHERE "{column}" IN ({marks})', chunk))  # noqa: S608
        return np.sort(np.concatenate(parts))

    def _rows(self, query: str, parameters: Sequence[str] = ()) -> Rows:
        return np.fromiter((row[0] for row in self._db.execute(query, parameters)), dtype=np.int64)


def _expression(key: str) -> tuple[str, list[str]]:
    """SQL of a filter key and its parameters."""
    if key in FILTER_COLUMNS:
        return f'"{key}"', []
    if '"' in key:
        raise unknown_key(key, [])
    return "json_extract(facts, ?)", [f'$."{key}"']
